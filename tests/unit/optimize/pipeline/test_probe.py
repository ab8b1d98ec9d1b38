"""Two steps of a search tried on its reasoner: for every method, in contexts at hand or made up, without a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from optimize.config import (
    BeamConfig,
    ContextsConfig,
    EvolutionConfig,
    GcgConfig,
    MethodConfig,
    PhrasesConfig,
    RandomConfig,
    RelaxedConfig,
    SearchConfig,
    SelectionConfig,
    SoftConfig,
    UnigramConfig,
)
from optimize.config.budget import TimeBudget, TokenBudget
from optimize.contexts import folder
from optimize.contexts.splits import of_prompts
from optimize.pipeline import api
from optimize.pipeline import setup as setups
from optimize.pipeline.budget import resolve, rounded
from optimize.pipeline.dry_run import plan
from optimize.pipeline.learning import CONFIG
from optimize.pipeline.probe import SearchPace, Trial, made_up, probe, try_loaded, try_search
from optimize.pipeline.setup import Setup
from optimize.selection.judges import MonitorJudge
from safethink.config import LimitsConfig, ReasonerConfig, RunConfig, SafeThinkConfig, yaml_config
from safethink.errors import ConfigError
from safethink.evaluation.speed import TESTBED, Speed
from safethink.monitors.build import as_monitor
from safethink.prompts import Prompt
from tests.support import tiny_reasoner

ATTACKS = [Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(18)]
TASKS = [Prompt.from_text(f"add 3 and {n}", id=f"sum-{n}").replace(kind="harmless", reference="7") for n in range(6)]
PACE = SearchPace("contexts", first_s=2.0, first_tokens=100, step_s=4.0, step_tokens=1000)
TRIED = Trial(Speed(10.0, 20.0, "a trial"), PACE)


def by_length(prompt: str, trace: str) -> float:
    """Fires on every other length of a trace."""
    return 1.0 - 2.0 * (len(trace) % 2)


def configured(search: MethodConfig | None = None) -> SearchConfig:
    return SearchConfig(
        run=RunConfig(
            reasoner=ReasonerConfig(path="tiny"),
            defense=SafeThinkConfig(threshold=0.0),
            limits=LimitsConfig(max_step_tokens=4, max_trace_tokens=12, max_answer_tokens=4),
        ),
        contexts=ContextsConfig(prompts=10, harmless_prompts=3, max_contexts=4, best_of=3, target_tokens=4),
        search=search or GcgConfig(length=3, steps=5, candidates=12, top_k=8, init="wait, think"),
        selection=SelectionConfig(finalists=2, spread=0, contexts=4, samples=1, forced_prompts=2),
    )


def loaded(config: SearchConfig) -> Setup:
    model, tokenizer = tiny_reasoner.model(hidden_size=16, layers=1), tiny_reasoner.tokenizer()
    monitor = as_monitor(by_length)
    guarded = setups.guard(model, tokenizer, monitor, config.run)
    search, validation = of_prompts([*ATTACKS, *TASKS])
    data = search.first(10, config.contexts.harmless_prompts), validation.first(10, 2)
    source = setups.source_of(config.run, guarded, setups.identity(by_length))
    return Setup(guarded, data, MonitorJudge(monitor, 0.0, "the monitor itself"), source)


METHODS: tuple[MethodConfig, ...] = (
    GcgConfig(length=3, candidates=12, top_k=8, init=None),
    EvolutionConfig(length=3, candidates=12, top_k=8, population=4, init=None),
    BeamConfig(length=4, candidates=12, init=None),
    RelaxedConfig(length=3, init=None),
    RandomConfig(length=3, candidates=12),
    UnigramConfig(length=3, candidates=12),
    SoftConfig(length=3, init=None),
)


@pytest.mark.parametrize("search", METHODS, ids=lambda search: search.kind)
def test_every_method_that_scores_is_timed_by_its_second_step(search: MethodConfig) -> None:
    # Neither the budget nor the steps, be they ever so few, end a probe.
    config = configured(search.replace(steps=1, budget_tokens=1, stop_after_steps=1))
    pace = probe(loaded(config), config)
    assert pace.step_tokens > 0
    assert min(pace.first_s, pace.step_s, pace.tokens_per_s) > 0
    assert "random tokens" in pace.source


def test_steps_forward_as_many_tokens_as_those_of_a_search(tmp_path: Path) -> None:
    config, setup = configured(), loaded(configured())
    manifest = folder.collect(tmp_path, setup.guarded, setup.data, config.contexts, setup.source)
    config = config.replace(contexts=config.contexts.replace(path=str(tmp_path)))
    one, other = probe(setup, config), probe(setup, config)
    assert one.contexts == f"the contexts of {tmp_path}"
    assert (one.first_tokens, one.step_tokens) == (other.first_tokens, other.step_tokens)
    assert manifest.search_sha256


def test_contexts_that_are_made_up_are_as_many_and_as_long_as_planned() -> None:
    config, setup = configured(), loaded(configured())
    contexts = made_up(setup.guarded, setup.data[0], config)
    assert (len(contexts.unsafe), len(contexts.harmless)) == (4, 3)
    assert {len(each.trace_ids) for each in contexts.unsafe} == {12}
    assert {len(each.target_ids) for each in contexts.unsafe + contexts.harmless} == {4}
    assert setup.guarded.thought.decode(contexts.unsafe[0].trace_ids).endswith("\n\n")
    assert contexts == made_up(setup.guarded, setup.data[0], config)


def test_another_reasoners_contexts_are_refused(tmp_path: Path) -> None:
    config, setup = configured(), loaded(configured())
    contexts = made_up(setup.guarded, setup.data[0], config)
    alien = contexts.unsafe[0].replace(trace_ids=(10**6,))
    contexts.replace(unsafe=(alien,)).save(tmp_path / folder.SEARCH)
    (tmp_path / folder.MANIFEST).write_text("{}")
    with pytest.raises(ConfigError, match="collected from another reasoner"):
        probe(setup, config.replace(contexts=config.contexts.replace(path=str(tmp_path))))


def test_phrases_are_not_tried() -> None:
    config = configured(PhrasesConfig(pool=("wait",)))
    trial = try_loaded(loaded(config), config)
    assert trial.pace is None
    assert trial.source.endswith("phrases are decoded, so no step of theirs is tried")
    assert (trial.decoding.decoded_per_s or 0) > 0


def test_a_reasoner_that_is_not_here_is_not_tried() -> None:
    config = configured()
    trial = try_search(config.replace(run=config.run.replace(reasoner=ReasonerConfig(path="somebody/reasoner"))))
    assert trial.pace is None
    assert "somebody/reasoner is not on this machine" in trial.source


def test_time_is_extrapolated_to_steps_or_tokens() -> None:
    search = GcgConfig(steps=10)
    assert PACE.steps(search) == 10
    assert PACE.steps(search.replace(budget_tokens=3000)) == 4  # 100, 1100, 2100, 3100: the last one may go beyond.
    assert PACE.steps(search.replace(budget_tokens=50)) == 1
    assert PACE.steps(search.replace(budget_tokens=10**9)) == 10
    assert PACE.seconds(10) == 2 + 9 * 4
    assert PACE.seconds(10, rounds=2) == 2 * 2 + 8 * 4
    assert PACE.seconds(1, rounds=2) == 2


def test_a_plan_tells_the_time_of_the_search_beside_that_of_decoding() -> None:
    config = configured(GcgConfig(steps=10))
    planned = plan(config, trial=TRIED)
    assert planned.search is not None
    assert (planned.search.steps, planned.search.seconds) == (10, 38)
    assert (planned.search.seconds_per_step, planned.search.tokens_per_step) == (4.0, 1000)
    assert planned.search.tokens_per_second == 250.0
    assert planned.seconds == round(planned.decoded_tokens / 10) + 38
    assert planned.timed_by == TRIED.source
    unknown = plan(config, trial=replace(TRIED, decoding=Speed(None, None, "not known")))
    assert unknown.seconds is None
    assert unknown.search == planned.search


def test_samples_of_the_objective_are_timed_as_a_part_of_the_step() -> None:
    config = configured(GcgConfig(steps=10))
    sampling = config.replace(objective=config.objective.replace(reward_weight=1.0))
    assert plan(sampling, trial=TRIED).seconds == plan(config, trial=TRIED).seconds
    assert plan(sampling).decoded_tokens > plan(config).decoded_tokens


def test_a_hardening_takes_as_many_steps_again() -> None:
    soft, hard = (plan(configured(SoftConfig(steps=10, harden=each)), trial=TRIED).search for each in (False, True))
    assert soft is not None
    assert hard is not None
    assert hard.seconds == soft.seconds + 60  # Three passes a step for two.


def never() -> Trial:
    raise AssertionError("nothing is to be tried")


def test_a_time_becomes_the_tokens_that_it_pays_for(tmp_path: Path) -> None:
    search = GcgConfig(steps=10_000)
    budgeted = resolve(configured(search), tmp_path, TimeBudget(1200), lambda: TRIED)
    assert budgeted.config.search == search.replace(budget_tokens=300_000)
    assert budgeted.told == (
        "20 min are about 300,000 forwarded tokens at 250 tokens a second on this machine, for the search alone: "
        "collecting contexts and the final choice come on top"
    )
    short = resolve(configured(GcgConfig(steps=10)), tmp_path, TimeBudget(1200), lambda: TRIED)
    assert short.told.endswith("; search.steps = 10 ends it sooner, after about 38 s")
    assert short.config.search.steps == 10


def test_tokens_are_taken_as_written_and_no_budget_changes_nothing(tmp_path: Path) -> None:
    config = configured()
    assert resolve(config, tmp_path, None, never).config == config
    counted = resolve(config, tmp_path, TokenBudget(5000), never)
    assert (counted.config.search.budget_tokens, counted.told) == (5000, "")


def test_without_a_probe_a_time_goes_by_what_is_known_of_the_reasoner(tmp_path: Path) -> None:
    table = Trial(TESTBED, None)
    scored = resolve(configured(), tmp_path, TimeBudget(10), lambda: table)
    assert scored.config.search.budget_tokens == 400_000
    assert TESTBED.source in scored.told
    phrases = resolve(configured(PhrasesConfig(pool=("wait",))), tmp_path, TimeBudget(10), lambda: table)
    assert phrases.config.search.budget_tokens == 40_000
    with pytest.raises(ConfigError, match=r"--budget 10s: the search's speed is not known.*\(not tried\)"):
        resolve(configured(), tmp_path, TimeBudget(10), lambda: Trial(Speed(None, None, "not tried"), None))


@pytest.mark.parametrize(("value", "told"), [(0.2, 1), (258.4, 258), (309_600.0, 310_000), (1234.0, 1230)])
def test_numbers_are_stored_as_they_are_told(value: float, told: int) -> None:
    assert rounded(value) == told


def contents(out: Path) -> dict[str, bytes]:
    """What a run has written, but for the state and the clocks of its search."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "search.jsonl")
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.suffix != ".safetensors"}


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """`safethink-optimize search` on the tiny reasoner."""
    monkeypatch.setattr(setups, "load", loaded)
    return api.shared_search_command


@pytest.mark.parametrize("method", [GcgConfig(length=3, candidates=12, init=None), SoftConfig(length=3, init=None)])
def test_a_time_is_stored_as_tokens_and_resumed_by_them(
    method: MethodConfig, search: Callable[..., object], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = configured(method.replace(steps=4)), tmp_path / "run"
    search(config, out, TimeBudget(5))
    assert "5 s are about" in capsys.readouterr().err
    tokens = yaml_config.load(SearchConfig, out / CONFIG).search.budget_tokens
    assert tokens is not None
    before = contents(out)
    # The same as if the number had been written: what was tried left nothing behind, in the folder or in the models.
    search(config, tmp_path / "plain", TokenBudget(tokens))
    assert contents(tmp_path / "plain") == before
    monkeypatch.setattr(api, "try_loaded", never)
    search(config, out, TimeBudget(5))
    assert f"was begun with {tokens:,} forwarded tokens, which stay" in capsys.readouterr().err
    assert contents(out) == before


def test_a_folder_begun_without_a_budget_takes_no_time(search: Callable[..., object], tmp_path: Path) -> None:
    config = configured(RandomConfig(length=3, steps=1, candidates=4))
    search(config, tmp_path)
    with pytest.raises(ConfigError, match="was begun without a budget; use another --out"):
        search(config, tmp_path, TimeBudget(5))
