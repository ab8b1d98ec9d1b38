"""Cells that are reported by the choice of their prefix, and ablations on published benchmarks."""

from __future__ import annotations

import pytest

from optimize.ablation.config import AblationConfig, MeasureConfig
from optimize.ablation.grid import expand
from optimize.ablation.measure import observe_choice, reference
from optimize.ablation.outcome import Choice, Observed
from optimize.ablation.run import cell_tasks
from safethink.config import AdvBenchConfig, StrongRejectConfig, yaml_config
from safethink.config.yaml_config import shipped_config, shipped_names
from safethink.errors import ConfigError
from safethink.evaluation.statistics import Observations

SETS = {
    "either": [{"kind": "advbench", "path": "a.csv"}],
    "held_out": [{"kind": "strongreject", "path": "s.csv"}],
}
BASE = {"run": {"reasoner": {"path": "some/reasoner"}}, "prompt_sets": SETS, "search": {"kind": "random", "init": None}}


def ablation(**changes: object) -> AblationConfig:
    values = {"base": BASE, "axes": {"search.length": [1, 2]}, "validation": None} | changes
    return yaml_config.validate(AblationConfig, values, "x.yaml")


def seen(values: list[int]) -> Observed:
    return Observed.of(Observations.of([*map(float, values)], [f"p{place}" for place in range(len(values))]))


def test_observations_come_back_from_json() -> None:
    own = Observations.of([1.0, 0.0, 1.0], ["a", "a", "b"], [{"group": "g"}, {"group": "g"}, {}], [1.0, 1.0, 0.0])
    back = Observed.model_validate_json(Observed.of(own).model_dump_json()).observations
    assert back.numerators.tolist() == own.numerators.tolist()
    assert back.denominators.tolist() == own.denominators.tolist()
    assert (back.units, back.clusters) == (own.units, own.clusters)


def test_a_choice_gives_rates_and_their_paired_changes() -> None:
    empty = Observed.of(Observations.of([0.0], ["p"], None, [0.0]))
    choice = Choice(
        own={"recovery_rate": seen([1, 1, 0]), "over_refusal_forced": seen([0, 1]), "accuracy_forced": empty},
        nothing={"recovery_rate": seen([0, 1, 0]), "over_refusal_forced": seen([0, 0]), "accuracy_forced": empty},
    )
    values = {name: each.estimate(0) for name, each in observe_choice(choice).items()}
    assert {name: round(each.value, 3) for name, each in values.items() if each} == {
        "recovery_rate": 0.667,
        "lift": 0.333,
        "over_refusal_forced": 0.5,
        "over_refusal_forced_change": 0.5,
    }


def test_a_cell_without_a_measurement_waits_for_its_contexts_alone(tmp_path) -> None:
    tasks = cell_tasks(expand(ablation()), tmp_path)
    assert [task.name.split()[0] for task in tasks] == ["contexts", "search-length=1-seed=0", "search-length=2-seed=0"]


def test_what_is_held_out_is_tested_on_and_what_is_chosen_on_is_no_benchmark() -> None:
    config = expand(ablation())[0].config
    assert reference(config, MeasureConfig(), "test").benchmarks == (StrongRejectConfig(path="s.csv"),)
    with pytest.raises(ConfigError, match="give `validation: null`"):
        reference(config, MeasureConfig(), "validation")
    sets = config.prompt_sets
    assert sets is not None
    assert sets.either == (AdvBenchConfig(path="a.csv"),)
    with pytest.raises(ConfigError, match="held_out: nothing is held out to test on"):
        reference(config.replace(prompt_sets=sets.replace(held_out=())), MeasureConfig(), "test")


def test_where_nothing_is_chosen_something_must_be_measured() -> None:
    with pytest.raises(ConfigError, match="nothing is learned, so nothing is chosen; give `validation`"):
        ablation(methods={"bare": {"learn": False}})


@pytest.mark.parametrize("name", ["smollm2-methods", "smollm2-length"])
def test_cells_of_a_shipped_ablation_have_equal_budgets_contexts_and_choice(name: str) -> None:
    assert f"ablate/{name}" in shipped_names()
    config = yaml_config.load(AblationConfig, shipped_config(name, "ablate"))
    cells = expand(config)
    assert len({cell.config.search.budget_tokens for cell in cells}) == 1
    assert cells[0].config.search.budget_tokens
    assert all(cell.config.selection == cells[0].config.selection for cell in cells)
    assert all(cell.config.contexts == cells[0].config.contexts for cell in cells)
