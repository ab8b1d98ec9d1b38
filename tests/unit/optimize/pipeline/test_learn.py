"""The whole road from prompts to an artifact, on a random model: resumable, verifiable, honest about what it lacks."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from tokenizers import normalizers

import optimize
from optimize.ablation.outcome import spent_tokens
from optimize.config import ContextsConfig, GcgConfig, PhrasesConfig, SearchConfig, SelectionConfig
from optimize.contexts import folder
from optimize.pipeline import learning, rounds, searches, setup
from optimize.pipeline.dry_run import plan
from optimize.pipeline.setup import portable
from optimize.search.journal import untimed
from optimize.selection.trials import Arena
from safethink import prefix as prefixes
from safethink.config import LimitsConfig, NoneConfig, ReasonerConfig, RunConfig, ThoughtConfig, families, yaml_config
from safethink.errors import ArtifactError, ConfigError, PromptError, SafeThinkError
from safethink.guarded import SafeThink
from safethink.models.numerics import Numerics
from safethink.prefix import Metric, PrefixArtifact
from safethink.prompts import Prompt
from tests.support import tiny_reasoner
from tests.support.toy_search import Killed

ATTACKS = [Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(18)]
TASKS = [Prompt.from_text(f"add 3 and {n}", id=f"sum-{n}").replace(kind="harmless", reference="7") for n in range(6)]
LIMITS = LimitsConfig(max_step_tokens=4, max_trace_tokens=12, max_answer_tokens=4)
SECTIONS = {
    "contexts": ContextsConfig(max_contexts=4, best_of=3, target_tokens=4),
    "search": GcgConfig(length=3, steps=5, candidates=12, top_k=8, init="wait, think"),
    "selection": SelectionConfig(finalists=3, spread=1, contexts=4, samples=1, forced_prompts=2),
    "limits": LIMITS,
}


def by_length(prompt: str, trace: str) -> float:
    """Fires on every other length of a trace."""
    return 1.0 - 2.0 * (len(trace) % 2)


def small_model():
    return tiny_reasoner.model(hidden_size=16, layers=1)


def learn(out: Path | None = None, monitor=by_length, prompts=None, **changes) -> PrefixArtifact:
    prompts = [*ATTACKS, *TASKS] if prompts is None else prompts
    settings = SECTIONS | {"out": out} | changes
    return optimize.learn(small_model(), tiny_reasoner.tokenizer(), monitor, prompts, **settings)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    learn(folder)
    return folder


def contents(folder: Path) -> dict[str, object]:
    """Every file but the search's own state, whose bytes hold no promise; logs without the time of their steps."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return {
        str(path.relative_to(folder)): untimed(path) if path.name == "search.jsonl" else path.read_bytes()
        for path in files
    }


def test_the_artifact_loads_verifies_and_guards(run_folder):
    artifact = prefixes.load(run_folder / "artifact", tiny_reasoner.tokenizer())
    assert len(artifact.token_ids[0]) == 3
    assert artifact.selected_by == "the monitor itself"
    assert artifact.monitor is not None
    assert artifact.monitor.name == "by_length"
    assert artifact.threshold == 0.0
    assert artifact.data_fingerprint is not None
    assert SearchConfig.model_validate(artifact.config).search.length == 3
    expected = {"recovery_rate", "lift", "monitor_judge_gap", "accuracy_forced", "target_found", "survival"}
    assert expected <= set(artifact.metrics)
    guarded = SafeThink(small_model(), tiny_reasoner.tokenizer(), monitor=by_length, prefix=artifact, limits=LIMITS)
    results = guarded.run(ATTACKS[:6])
    assert any(result.interventions for result in results)


def test_an_init_or_a_phrase_that_cannot_be_tried_is_named_with_its_reason(tmp_path, caplog):
    words = "wait, think safely about this request."
    search = GcgConfig(length=len(tiny_reasoner.tokenizer().encode(words)), steps=1, candidates=4, init=words)
    learn(tmp_path / "gcg", search=search, thought=ThoughtConfig(prefix_separator="\n\n"))
    assert f"search.init: {words!r} is lost, and the search begins elsewhere: behind" in caplog.text
    caplog.clear()
    pool = (words, "wait", "be careful and kind. " * 9)
    learn(tmp_path / "phrases", search=PhrasesConfig(length=8, pool=pool, steps=2))
    (line,) = [line for line in caplog.messages if line.startswith("search.pool")]
    assert line.startswith(f"search.pool: {pool[2]!r} is passed over: it has ")


def test_the_log_has_every_step_and_no_prompt_trace_or_continuation(run_folder):
    log = run_folder / "artifact" / "search.jsonl"
    assert log.read_bytes() == (run_folder / "search.jsonl").read_bytes()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(5))
    known = {"restart", "step", "looked_at", "dropped", "scored", "hits", "best_ids", "best_cost", "prefix_ids", "text"}
    assert all(set(line) <= known | {"cost", "tokens", "fingerprint", "seconds", "cpu_seconds"} for line in lines)
    assert len({line["fingerprint"] for line in lines}) == 1
    assert all(line["seconds"] >= 0 and line["cpu_seconds"] >= 0 for line in lines)


def test_the_card_says_who_chose_and_what_was_measured(run_folder):
    card = (run_folder / "artifact" / "README.md").read_text()
    assert "The monitor chose it" in card
    assert "`recovery_rate`" in card
    assert r"with '\n' behind it" in card
    assert str(run_folder) not in card


@pytest.mark.slow
@pytest.mark.parametrize("folder_name", ["run_folder", "rounds_folder"])
def test_a_search_takes_no_more_tokens_than_planned(request, folder_name):
    folder = request.getfixturevalue(folder_name)
    planned = plan(yaml_config.load(SearchConfig, folder / "config.yaml"))
    rounds = sorted(folder.glob("rounds/*/search.jsonl")) or [folder / "search.jsonl"]
    spent = sum(spent_tokens(log) for log in rounds)
    assert planned.scored_tokens / 20 < spent <= planned.scored_tokens


def test_an_artifact_knows_no_path_of_this_machine(run_folder, tmp_path):
    shared, begun = tmp_path / "shared", tmp_path / "begun"
    shutil.copytree(run_folder / "contexts", shared)
    shutil.copytree(run_folder / "artifact", begun)
    contexts = SECTIONS["contexts"].replace(path=str(shared))
    search = SECTIONS["search"].replace(init=str(begun), steps=1)
    artifact = learn(tmp_path / "run", contexts=contexts, search=search)
    assert artifact.config["contexts"]["path"] == "shared"
    assert artifact.config["search"]["init"] == "begun"
    for path in (tmp_path / "run" / "artifact").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_an_artifact_says_in_full_how_its_reasoner_writes_its_thinking_down(run_folder):
    said = prefixes.load(str(run_folder / "artifact")).config["run"]["thought"]
    assert ThoughtConfig.model_validate(said) == ThoughtConfig.complete(families.named("qwen3-thinking-2507"))


def test_models_and_files_are_named_without_the_way_to_them(tmp_path):
    (tmp_path / "reasoner").mkdir()
    (tmp_path / "guard").mkdir()
    (tmp_path / "card.json").write_text('{"world_seed": 3, "world_kind": "costly", "models": {"reasoner": {}}}')
    given = {
        "a": [str(tmp_path / "guard"), "some/model", "testbed", "and/or", ".", 3, None],
        "b": f"{tmp_path}/reasoner",
    }
    assert portable(given) == {"a": ["guard", "some/model", "testbed", "and/or", ".", 3, None], "b": "testbed-costly"}


def test_the_same_command_again_changes_nothing(run_folder):
    before = contents(run_folder)
    learn(run_folder)
    assert contents(run_folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "method", "calls"),
    [
        (folder, "collect_validation", 0),
        (searches, "search", 0),
        (rounds, "_measure", 0),
        (Arena, "try_out", 0),
        (Arena, "try_out", 3),
        (prefixes, "save", 0),
    ],
)
def test_a_run_killed_anywhere_continues_to_the_same_result(run_folder, tmp_path, monkeypatch, owner, method, calls):
    original, left = getattr(owner, method), calls

    def mortal(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, mortal)
        with pytest.raises(Killed):
            learn(tmp_path)
    learn(tmp_path)
    assert contents(tmp_path) == contents(run_folder)


def test_a_folder_begun_with_other_settings_prompts_or_weights_is_refused(run_folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"config.yaml belongs to another run: .* there and .* here"):
        learn(run_folder, seed=1)
    with pytest.raises(ConfigError, match=r"search\.json belongs to .*: prompts is '\w+' there and '\w+' here"):
        learn(run_folder, prompts=[*ATTACKS[1:], *TASKS])
    with monkeypatch.context() as patch:
        patch.setattr(Numerics, "of", lambda model: Numerics(dtype="bfloat16", attention="sdpa", device="cpu"))
        with pytest.raises(
            ConfigError, match=r"numerics\.json .* reasoner\.dtype is 'float\d+' there and 'bfloat16' here"
        ):
            learn(run_folder)
    monkeypatch.setattr(setup, "model_hash", lambda model, rounded: "retrained")
    with pytest.raises(ConfigError, match=r"sha256 is .* there and 'retrained' here; give a fresh --out"):
        learn(run_folder)


ON_POLICY = ContextsConfig(max_contexts=4, best_of=3, target_tokens=4, refresh_every_steps=2)


@pytest.fixture(scope="module")
def rounds_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    learn(folder, contexts=ON_POLICY)
    return folder


def test_contexts_on_policy_change_with_every_round(rounds_folder):
    measured = [json.loads((rounds_folder / "rounds" / str(n) / "measured.json").read_text()) for n in range(3)]
    assert [each["round"] for each in measured] == [0, 1, 2]
    assert len({each["contexts"] for each in measured}) == 3
    shares = [one[by] for each in measured for one in each["candidates"] for by in ("recovered", "solved_by_monitor")]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    lines = [json.loads(line) for line in (rounds_folder / "artifact" / "search.jsonl").read_text().splitlines()]
    assert [(line["round"], line["step"]) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize(("low", "warns"), [(0.1, True), (-0.1, False)])
def test_a_loss_that_ranks_recovery_the_wrong_way_is_told(tmp_path, monkeypatch, caplog, low, warns):
    metric = Metric(value=0.4, low=low, high=0.7, n=8)
    monkeypatch.setattr(rounds, "rank_correlation", lambda *_: {"loss_recovery_rank_correlation": metric})
    learn(tmp_path, search=GcgConfig(length=2, steps=1, candidates=8, top_k=8))
    told = "round 0: the loss is no guide to recovery here: their rank correlation over 8 candidates is +0.40"
    assert any(message.startswith(told) for message in caplog.messages) is warns
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["loss_recovery_rank_correlation"]["low"] == low
    assert measured["judged_by"] == "the monitor itself"


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1])
def test_a_run_killed_between_rounds_continues_to_the_same_result(rounds_folder, tmp_path, monkeypatch, calls):
    original, left = rounds.refresh, calls

    def mortal(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "refresh", mortal)
        with pytest.raises(Killed):
            learn(tmp_path, contexts=ON_POLICY)
    learn(tmp_path, contexts=ON_POLICY)
    assert contents(tmp_path) == contents(rounds_folder)


@pytest.mark.slow
def test_a_portfolio_has_a_prefix_for_every_try(tmp_path):
    selection = SECTIONS["selection"].replace(portfolio=2, samples=2)
    artifact = learn(tmp_path, selection=selection)
    assert len(artifact.prefixes) == 2
    assert {"portfolio_recovery", "portfolio_gain"} <= set(artifact.metrics)


@pytest.mark.slow
def test_without_a_folder_the_artifact_is_returned_all_the_same(run_folder):
    loaded = prefixes.load(run_folder / "artifact")
    assert learn().model_dump(exclude={"content_sha256"}) == loaded.model_dump(exclude={"content_sha256"})


@pytest.mark.slow
def test_another_seed_searches_elsewhere(tmp_path, run_folder):
    learn(tmp_path, seed=1)
    assert untimed(tmp_path / "search.jsonl") != untimed(run_folder / "search.jsonl")


@pytest.mark.slow
def test_a_second_guard_chooses_where_there_is_one():
    assert learn(judge=lambda prompt, trace: -0.5).selected_by == "a second guard: <lambda>"


def test_an_init_text_longer_than_the_prefix_is_refused():
    with pytest.raises(ConfigError, match=r"search.init: 'wait, think' has \d tokens, search.length is 1; give"):
        learn(length=1)


@pytest.mark.slow
def test_a_search_may_start_from_random_tokens():
    artifact = learn(length=1, search=SECTIONS["search"].replace(init=None))
    assert len(artifact.token_ids[0]) == 1
    assert "lift" in artifact.metrics
    assert "recovery_gain_over_init" not in artifact.metrics


@pytest.mark.slow
def test_prompts_without_harmless_ones_leave_the_cost_unknown(tmp_path):
    learn(tmp_path, prompts=[f"mix the parts {n}" for n in range(18)])
    assert "what it costs them is unknown" in (tmp_path / "artifact" / "README.md").read_text()


def test_a_monitor_that_never_fires_leaves_nothing_to_learn():
    with pytest.raises(SafeThinkError, match="never fired"):
        learn(monitor=lambda prompt, trace: 1.0)


def test_two_prompts_with_one_id_are_refused():
    with pytest.raises(PromptError, match="the prompt id 'attack-0' stands twice: 'mix the parts 0'"):
        learn(prompts=[*ATTACKS, ATTACKS[0]])


def test_a_defense_without_a_threshold_is_refused():
    config = RunConfig(reasoner=ReasonerConfig(path="testbed"), defense=NoneConfig())
    with pytest.raises(ConfigError, match="has no threshold"):
        setup.threshold_of(config)


@pytest.mark.slow
def test_the_callers_model_is_left_as_it_was():
    model = small_model().train()
    optimize.learn(model, tiny_reasoner.tokenizer(), by_length, [*ATTACKS, *TASKS], **SECTIONS)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_the_default_init_is_left_out_where_it_is_longer_than_the_prefix():
    search = GcgConfig(steps=2, candidates=6, top_k=8)
    artifact = learn(length=2, search=search)
    assert len(artifact.token_ids[0]) == 2
    assert artifact.config["search"]["init"] is None


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"batch_siz": 2}, "learn: batch_siz: unknown setting, did you mean 'batch_size'"),
        ({"defense": None}, "learn: defense: unknown setting"),
        ({"batch_size": 0}, "learn: batch_size: input should be greater than or equal to 1, not 0"),
        ({"seed": "one"}, "learn: seed: input should be a valid integer"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        learn(**settings)


def test_a_length_that_is_none_is_one_line():
    with pytest.raises(ConfigError, match=r"^GcgConfig: length: .* greater than or equal to 1, not 0$"):
        learn(length=0)
    with pytest.raises(ConfigError, match=r"^GcgConfig: length: .* integer.*, not 'four'$"):
        SECTIONS["search"].replace(length="four")


@pytest.mark.slow
def test_a_random_start_asks_nothing_of_the_built_in_prefix():
    tokenizer = copy.deepcopy(tiny_reasoner.tokenizer())
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Lowercase()
    with pytest.raises(ArtifactError, match="does not round-trip"):
        prefixes.load("wait-think-safely", tokenizer)
    search = GcgConfig(length=2, steps=2, candidates=6, top_k=8, init=None)
    settings = SECTIONS | {"search": search}
    artifact = optimize.learn(small_model(), tokenizer, by_length, [*ATTACKS, *TASKS], **settings)
    assert len(artifact.token_ids[0]) == 2


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("wait-think-safly", "did you mean 'wait-think-safely'"),
        ("runs/nowhere/artifact", "'runs/nowhere/artifact' is no built-in prefix"),
        ("someone/prefix", "no OWNER/NAME@COMMIT on the hub"),
        ("prefix.json", "if it is words, write 'text:prefix.json'"),
    ],
)
def test_an_init_that_looks_like_a_name_and_is_none_is_refused_by_it(init, said):
    with pytest.raises(ConfigError, match=said):
        learn(search=SECTIONS["search"].replace(init=init))


def test_an_init_may_say_that_it_is_words():
    assert learning._prefix_of("text:wait, think") == learning._prefix_of("wait, think") == "text:wait, think"
    assert learning._prefix_of("Wait, think safely") == "text:Wait, think safely"
