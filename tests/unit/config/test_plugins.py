"""Plug-ins of other packages, found through real entry points on the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimize.config import EntryPointMethodConfig, EntryPointTermConfig, ObjectiveConfig
from optimize.contexts import ContextSet
from optimize.objectives import Objective
from optimize.objectives import build as build_objective
from optimize.search import methods
from optimize.search.method import Archive
from safethink import defenses
from safethink.config import (
    EntryPointDefenseConfig,
    EntryPointJudgeConfig,
    EntryPointMonitorConfig,
    EvalConfig,
    RowConfig,
    RunConfig,
    yaml_config,
)
from safethink.defenses import Needs
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.judges.build import build as build_judge
from safethink.monitors import ScoreRequest
from safethink.monitors.build import build
from safethink.prompts import Prompt
from tests.support import plugins, tiny_reasoner
from tests.support.source import ROOT
from tests.support.toy_search import Letters, Toy

MODULE = """
from dataclasses import dataclass

from safethink.defenses import Needs
from safethink.defenses.none import undefended
from safethink.judges.refusal import RefusalJudge as Refusals

class Lengths:
    def __init__(self, limit=10):
        self.limit = limit
    def score(self, requests):
        return [1.0 if len(request.trace) < self.limit else -1.0 for request in requests]
    def release(self, row):
        pass

def broken(*given):
    raise RuntimeError("no licence")

number = int

@dataclass(frozen=True)
class Careful:
    threshold: float = 0.0

    @property
    def needs(self):
        return Needs(threshold=self.threshold)

    def __call__(self, task):
        return undefended(task)

@Needs(scores=False, prefix=False)
def patient(task, steps=1):
    return undefended(task)

class Walk:
    def __init__(self, given, stride=1):
        self.given, self.stride = given, stride
    def propose(self, generator):
        return [self.given.vocabulary.allowed[: self.stride]]
    def observe(self, scored): ...
    def state_dict(self): return {}
    def load_state_dict(self, state): ...

class Larger:
    name, meters = "larger", ()
    def __init__(self, given, than=100):
        self.given, self.than = given, than
    def costs(self, candidates):
        return (candidates > self.than).double().sum(1)
    def gradient(self, prefix):
        return None
    def soft_cost(self, rows):
        return rows.new_zeros(())

def none(given):
    return given.seed
"""
ENTRY_POINTS = """
[safethink.monitors]
lengths = third_party:Lengths
broken = third_party:broken
gone = third_party:Gone
number = third_party:number
[safethink.defenses]
careful = third_party:Careful
patient = third_party:patient
gone = third_party:Gone
number = third_party:number
text = third_party:__doc__
[safethink.judges]
refusals = third_party:Refusals
number = third_party:number
[safethink.search_methods]
walk = third_party:Walk
number = third_party:number
broken = third_party:broken
[safethink.objective_terms]
larger = third_party:Larger
number = third_party:none
broken = third_party:broken
gone = third_party:Gone
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with plug-ins, as an installer would leave it."""
    plugins.install(tmp_path, monkeypatch, MODULE, ENTRY_POINTS)


def evaluation(**changes: object) -> EvalConfig:
    shipped = yaml_config.load(EvalConfig, ROOT / "configs/eval/testbed.yaml")
    return EvalConfig.model_validate(shipped.model_dump() | changes)


def search_method(config: EntryPointMethodConfig) -> Any:
    return methods.build(config, Toy(), Letters(), (), Archive())


def objective(config: EntryPointTermConfig) -> Objective:
    """An objective of that term alone."""
    guarded = SafeThink(tiny_reasoner.model(layers=1), tiny_reasoner.tokenizer(), monitor=lambda *texts: 1.0)
    none = {"continuation_weight": 0, "benign_weight": 0, "nll_weight": 0}
    contexts = ContextSet(unsafe=(), harmless=(), num_watched=0, num_fired=0)
    return build_objective(guarded, contexts, ObjectiveConfig.model_validate(none | {"terms": [config]}))


def judge(config: EntryPointJudgeConfig) -> Any:
    return build_judge(evaluation(judge=config.model_dump()).judge).judge


def test_a_monitor_is_built_with_its_options() -> None:
    requests = [ScoreRequest(0, Prompt.from_text("x"), trace) for trace in ("short", "rather longer")]
    assert build(EntryPointMonitorConfig(name="lengths")).score(requests) == [1.0, -1.0]
    assert build(EntryPointMonitorConfig(name="lengths", options={"limit": 3})).score(requests) == [-1.0, -1.0]


def test_a_defense_is_a_class_made_with_options_or_a_function_that_is_given_them() -> None:
    careful = defenses.build(EntryPointDefenseConfig(name="careful", options={"threshold": 0.25}))
    patient = defenses.build(EntryPointDefenseConfig(name="patient", options={"steps": 3}))
    assert (careful.name, careful.needs) == ("careful", Needs(threshold=0.25))
    assert (patient.name, patient.needs) == ("patient", Needs(scores=False, prefix=False))


def test_a_judge_and_a_search_method_are_built_with_their_options() -> None:
    verdict = judge(EntryPointJudgeConfig(name="refusals")).judge(Prompt.from_text("x"), "", "I cannot help.", True)
    assert verdict.outcome == "refusal"
    walk = search_method(EntryPointMethodConfig(name="walk", options={"stride": 2}))
    assert walk.propose(None) == [Letters().allowed[:2]]


def test_a_term_of_an_objective_is_built_with_its_options_and_counts_by_its_weight() -> None:
    assert objective(EntryPointTermConfig(name="larger", weight=0.5)).cost([(99, 101), (101, 102)]).total.tolist() == [
        0.5,
        1.0,
    ]
    config = EntryPointTermConfig(name="larger", options={"than": 101})
    assert objective(config).cost([(99, 101), (101, 102)]).terms["larger"].tolist() == [0.0, 1.0]


def test_a_term_without_weight_is_not_even_loaded() -> None:
    with pytest.raises(ConfigError, match="every weight is 0"):
        objective(EntryPointTermConfig(name="broken", weight=0))


def test_a_section_of_terms_is_read_beside_those_of_before() -> None:
    read = ObjectiveConfig.model_validate(
        {"nll_weight": 0.1, "terms": [{"kind": "entry_point", "name": "larger", "weight": 2, "options": {"than": 3}}]}
    )
    assert read.terms == (EntryPointTermConfig(name="larger", weight=2, options={"than": 3}),)
    assert ObjectiveConfig.model_validate(read.model_dump(mode="json")) == read
    assert ObjectiveConfig.model_validate({"nll_weight": 0.1}).terms == ()


def test_every_section_is_written_down_and_read_again() -> None:
    rows = [RowConfig(name="mine", defense=EntryPointDefenseConfig(name="careful", options={"threshold": 0.25}))]
    config = evaluation(rows=[row.model_dump() for row in rows], judge={"kind": "entry_point", "name": "refusals"})
    assert config.rows == tuple(rows)
    assert config.judge_name == "refusals"
    assert EvalConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_run_says_that_a_defense_is_not_there_before_it_loads_anything() -> None:
    run = RunConfig.model_validate(
        {"reasoner": {"path": "nowhere"}, "defense": {"kind": "entry_point", "name": "carefull"}}
    )
    with pytest.raises(ConfigError, match="did you mean 'careful'"):
        SafeThink.from_config(run)


@pytest.mark.parametrize(
    ("make", "section", "options", "said"),
    [
        (build, EntryPointMonitorConfig, {}, "broken: .*failed to load: RuntimeError: no licence"),
        (build, EntryPointMonitorConfig, {}, "gone: .*third_party:Gone.* failed to load: AttributeError"),
        (build, EntryPointMonitorConfig, {"limt": 3}, "lengths: .* failed to load: TypeError.*limt"),
        (build, EntryPointMonitorConfig, {}, "number: monitor 'number' .* made a int, which has no `score`"),
        (build, EntryPointMonitorConfig, {}, "lenghts: .*broken, gone, lengths, number, did you mean 'lengths'"),
        (defenses.build, EntryPointDefenseConfig, {}, "gone: defense 'gone' .* failed to load: AttributeError"),
        (defenses.build, EntryPointDefenseConfig, {}, "number: defense 'number' .* made a int, which has no `__call"),
        (defenses.build, EntryPointDefenseConfig, {}, "text: defense 'text' .* made a NoneType"),
        (defenses.build, EntryPointDefenseConfig, {"threshold": 7.0}, "careful: .*threshold is a score in"),
        (defenses.build, EntryPointDefenseConfig, {"stepz": 7}, "patient: .*unexpected keyword argument 'stepz'"),
        (defenses.build, EntryPointDefenseConfig, {}, "pateint: no defense 'pateint'.*did you mean 'patient'"),
        (judge, EntryPointJudgeConfig, {}, "number: judge 'number' .* which has no `judge` and `drifted`"),
        (judge, EntryPointJudgeConfig, {}, "refusal: no judge 'refusal' .*did you mean 'refusals'"),
        (search_method, EntryPointMethodConfig, {}, "number: search method 'number' .* failed to load: TypeError"),
        (search_method, EntryPointMethodConfig, {}, "broken: .*RuntimeError: no licence"),
        (search_method, EntryPointMethodConfig, {}, "wlak: no search method 'wlak' .*did you mean 'walk'"),
        (
            objective,
            EntryPointTermConfig,
            {},
            "number: objective term 'number' .* made a int, which has no `name`",
        ),
        (objective, EntryPointTermConfig, {}, "broken: .*RuntimeError: no licence"),
        (objective, EntryPointTermConfig, {}, "gone: .*third_party:Gone.* failed to load: AttributeError"),
        (objective, EntryPointTermConfig, {"then": 3}, "larger: .*failed to load: TypeError.*then"),
        (objective, EntryPointTermConfig, {}, "lager: no objective term 'lager' .*did you mean 'larger'"),
    ],
)
def test_one_that_does_not_load_is_named_on_one_line(
    make: Callable[[Any], object], section: Any, options: dict[str, object], said: str
) -> None:
    name, expected = said.split(": ", 1)
    with pytest.raises(ConfigError, match=expected) as caught:
        make(section(name=name, options=options))
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    plugins.install(other, monkeypatch, "", "[safethink.monitors]\nlengths = other:Lengths\n", name="other")
    with pytest.raises(ConfigError, match="'lengths' is announced by several packages"):
        build(EntryPointMonitorConfig(name="lengths"))
