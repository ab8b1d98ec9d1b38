"""The grid of an ablation: every cell once, warm starts in order, mistakes named; and how seeds are put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.ablation.config import AblationConfig, MeasureConfig
from optimize.ablation.grid import Cell, expand
from optimize.ablation.measure import ON_TRIAL, Seen, pool, reference, trial
from optimize.ablation.plan import plan
from safethink.config import ResampleOnlyConfig, yaml_config
from safethink.errors import ConfigError
from safethink.evaluation.jobs import fires_below
from safethink.evaluation.statistics import Observations

BASE = {"run": {"reasoner": {"path": "testbed"}}, "search": {"kind": "gcg", "top_k": 9, "init": None}}
METHODS = {"gcg": {"warm_start": True}, "random": {"set": {"search.kind": "random"}}, "written": {"phrases": ["Stop"]}}


def ablation(**changes: object) -> AblationConfig:
    values = {"base": BASE, "axes": {"search.length": [4, 1, 2]}, "methods": METHODS, "seeds": [0, 5]} | changes
    return yaml_config.validate(AblationConfig, values, "x.yaml")


def by_name(config: AblationConfig) -> dict[str, Cell]:
    return {cell.name: cell for cell in expand(config)}


@pytest.mark.slow
@given(
    lengths=st.sets(st.integers(1, 40), min_size=1, max_size=4),
    thresholds=st.sets(st.floats(-1, 1), min_size=1, max_size=3),
    seeds=st.sets(st.integers(0, 99), min_size=1, max_size=3),
)
def test_every_combination_is_one_cell_behind_the_one_it_starts_from(
    lengths: set[int], thresholds: set[float], seeds: set[int]
) -> None:
    axes = {"run.defense.threshold": list(thresholds), "search.length": list(lengths)}
    cells = expand(ablation(axes=axes, seeds=list(seeds)))
    assert (
        len({cell.name for cell in cells}) == len(cells) == len(METHODS) * len(lengths) * len(thresholds) * len(seeds)
    )
    assert len({cell.fingerprint for cell in cells}) == len(cells)
    seen: set[str] = set()
    for cell in cells:
        defense = cell.config.run.defense
        assert (cell.config.search.length, cell.config.seed) == (cell.place["search.length"], cell.seed)
        assert defense.model_dump()["threshold"] == cell.place["run.defense.threshold"]
        shorter = [length for length in lengths if length < cell.config.search.length]
        assert (cell.shorter is not None) == (cell.method == "gcg" and bool(shorter))
        if cell.shorter is not None:
            assert cell.shorter.name in seen
            assert cell.shorter.config.search.length == max(shorter)
            assert (cell.shorter.seed, cell.shorter.config.run.defense) == (cell.seed, defense)
        seen.add(cell.name)


def test_a_method_keeps_of_the_base_what_its_kind_has() -> None:
    cells = by_name(ablation())
    assert cells["gcg-length=2-seed=0"].config.search.model_dump()["top_k"] == 9
    assert cells["random-length=2-seed=0"].config.search.kind == "random"
    assert cells["random-length=2-seed=0"].searches
    assert not cells["written-length=2-seed=0"].searches


def test_a_fingerprint_follows_what_decides_the_result_and_nothing_else() -> None:
    before = by_name(ablation())
    name = "gcg-length=4-seed=0"
    assert (
        by_name(ablation(workers=7, axes={"search.length": [1, 2, 4, 8]}))[name].fingerprint == before[name].fingerprint
    )
    elsewhere = BASE | {"contexts": {"path": "somewhere"}}
    assert by_name(ablation(base=elsewhere))[name].fingerprint == before[name].fingerprint
    for change in (
        {"base": BASE | {"name": "other"}},
        {"validation": {"jailbreak": 7}},
        {"axes": {"search.length": [1, 3, 4]}},  # It starts from another cell.
    ):
        assert by_name(ablation(**change))[name].fingerprint != before[name].fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axes": {"search.lenght": [1]}, "methods": {"m": {}}}, "search.lenght: unknown key, did you mean 'length'?"),
        ({"axes": {"run.defence.threshold": [0.0]}, "methods": {"m": {}}}, "run.defence: .* did you mean 'defense'?"),
        ({"axes": {"search.length": [1, 0]}}, "search.length: input should be greater than or equal to 1, not 0"),
        ({"axes": {"search.length": [1, "long"]}}, "search.length: input should be a valid integer"),
        ({"axes": {"search.length": []}}, "axes.search.length: no values"),
        ({"axes": {"search.length": [1, 1]}}, "axes.search.length: 1 stands twice"),
        ({"axes": {"seed": [1]}}, "axes.seed: seeds stand in `seeds`"),
        ({"axes": {}}, "x.yaml: axes"),
        ({"axes": {"search.init": ["a b", "a/b"]}, "methods": {"m": {}}}, "two cells would be called"),
        ({"methods": {"m": {"set": {"search.length": 3}}}}, "methods.m.set: search.length is an axis"),
        ({"methods": {"m": {"set": {"search.kind": "gcgg"}}}}, "methods.m.set: search.kind: .* did you mean 'gcg'?"),
        ({"methods": {"m": {"phrase": ["x"]}}}, "methods.m.phrase: unknown key, did you mean 'phrases'?"),
        ({"methods": {"m": {"phrases": ["x"], "learn": False}}}, "methods.m: either `phrases`"),
        ({"axes": {"search.steps": [1]}}, "methods.gcg.warm_start: there is no axis search.length"),
        ({"controls": ["randm"]}, "controls: no method 'randm', did you mean 'random'?"),
        ({"validation": {"jailbrake": 3}}, "validation.jailbrake: unknown key, did you mean 'jailbreak'?"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as complaint:
        expand(ablation(**changes))
    assert "\n" not in str(complaint.value)


def test_cells_share_a_reference_unless_the_monitor_fires_elsewhere() -> None:
    sizes = MeasureConfig()
    axes = {"run.defense.max_resamples": [1, 2], "run.defense.threshold": [0.0, 0.5]}
    cells = expand(ablation(axes=axes, methods={"gcg": {}}, seeds=[0]))
    shared = {reference(cell.config, sizes, "validation").model_dump_json() for cell in cells}
    assert len(shared) == 2
    whole = trial(cells[0].config, sizes, "validation", "text:Stop")
    assert whole.rows[-1].name == ON_TRIAL
    assert whole.rows[-1].defense == cells[0].config.run.defense
    assert set(reference(cells[0].config, sizes, "validation").rows) < set(whole.rows)


def test_where_nothing_is_injected_the_monitor_still_fires_at_the_threshold() -> None:
    axes = {"run.defense.threshold": [0.5]}
    bare = {"bare": {"learn": False, "set": {"run.defense.kind": "resample_only"}}}
    (cell,) = expand(ablation(axes=axes, methods=bare, seeds=[0]))
    assert cell.config.run.defense == ResampleOnlyConfig(threshold=0.5)
    assert fires_below(trial(cell.config, MeasureConfig(), "validation", "wait-think-safely")) == 0.5


def observations(rng: np.random.Generator, rate: float, clusters: bool) -> Observations:
    units = [f"p{index}" for index in range(40)]
    groups = [{"wrapper": f"w{index % 8}"} if clusters else {} for index in range(40)]
    return Observations.of(rng.binomial(1, rate, 40).astype(float).tolist(), units, groups)


@pytest.mark.parametrize("clusters", [False, True])
def test_seeds_are_pooled_with_an_interval_that_covers_them(clusters: bool) -> None:
    rng = np.random.default_rng(0)
    seen = {seed: Seen(observations(rng, rate, clusters)) for seed, rate in enumerate((0.2, 0.5, 0.8))}
    alone = [each.estimate(0) for each in seen.values()]
    pooled = pool(seen).estimate(0)
    assert pooled is not None
    assert pooled.n == 120
    assert pooled.value == pytest.approx(sum(each.value for each in alone if each) / 3)
    # Prompts alone would make it narrower: the seeds differ.
    assert pooled.high - pooled.low > max(each.high - each.low for each in alone if each)
    assert pool({7: seen[0]}) == seen[0]


def test_pooled_differences_stay_paired() -> None:
    rng = np.random.default_rng(1)
    own = {seed: observations(rng, 0.5, clusters=True) for seed in range(3)}
    difference = pool({seed: Seen(each, each) for seed, each in own.items()}).estimate(0)
    assert difference is not None
    assert difference.value == 0
    assert difference.high < 0.15


@pytest.mark.slow
def test_a_plan_grows_with_the_grid() -> None:
    small, large = plan(ablation()), plan(ablation(seeds=[0, 1, 2, 3]))
    assert small.cells == 18
    assert small.cells_by_method == {"gcg": 6, "random": 6, "written": 6}
    assert large.scored_tokens == 2 * small.scored_tokens
    assert small.decoded_tokens < large.decoded_tokens < 2 * small.decoded_tokens
    assert small.seconds is not None
    assert plan(ablation(test={"jailbreak": 4})).tests == 9
    elsewhere = BASE | {"run": {"reasoner": {"path": "some/model"}}}
    assert plan(ablation(base=elsewhere)).seconds is None
    collected = BASE | {"contexts": BASE.get("contexts", {}) | {"path": "shared"}}
    assert plan(ablation(base=collected)).decoded_tokens < small.decoded_tokens
