"""Which world a reasoner was trained on, and that a run must ask for that one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safethink.config import (
    EvalConfig,
    NoneConfig,
    ReasonerConfig,
    RowConfig,
    RunConfig,
    TestbedBenchmarkConfig,
    WorldConfig,
)
from safethink.errors import ConfigError
from safethink.evaluation.exact_asr import make_world
from safethink.testbed import folders
from safethink.testbed.origin import Origin, is_testbed, origin, require_world
from safethink.testbed.world import World


@pytest.fixture
def hackable(tmp_path: Path) -> str:
    """A folder as the training leaves it."""
    (tmp_path / "reasoner").mkdir()
    card = {"world_seed": 3, "world_kind": "hackable", "models": {"reasoner": {}}, "rows": []}
    (tmp_path / "card.json").write_text(json.dumps(card))
    return str(tmp_path / "reasoner")


def test_shipped_reasoners_and_trained_folders_know_their_world(hackable: str) -> None:
    assert origin("testbed") == origin(str(folders().reasoner)) == Origin(0, "planted")
    assert origin("testbed:null") == Origin(0, "null")
    assert origin(hackable) == origin(hackable + "/") == Origin(3, "hackable")
    assert not is_testbed("some/model")


@pytest.mark.parametrize("card", ['{"world_seed": 0}', "no json", '{"world_seed": 0, "models": {"other": {}}}'])
def test_another_card_beside_a_model_says_nothing(tmp_path: Path, card: str) -> None:
    (tmp_path / "reasoner").mkdir()
    (tmp_path / "card.json").write_text(card)
    assert origin(str(tmp_path / "reasoner")) is None


def test_a_run_must_ask_for_the_world_of_its_reasoner(hackable: str) -> None:
    require_world(hackable, WorldConfig(kind="hackable", seed=3))
    require_world("testbed:null", WorldConfig())
    require_world("some/model", WorldConfig(seed=9))
    with pytest.raises(ConfigError, match=r"world\.kind is 'planted', but .* was trained on 'hackable'"):
        require_world(hackable, WorldConfig(seed=3))
    with pytest.raises(ConfigError, match=r"world\.seed is 0, but .* was trained on 3"):
        require_world(hackable, WorldConfig(kind="hackable"))
    with pytest.raises(ConfigError, match=r"world\.kind is 'costly', but 'testbed' was trained on 'planted'"):
        require_world("testbed", WorldConfig(kind="costly"))


def test_predictions_come_from_the_world_of_the_reasoner(hackable: str) -> None:
    config = EvalConfig(
        run=RunConfig(reasoner=ReasonerConfig(path=hackable)),
        benchmarks=(TestbedBenchmarkConfig(prompts="jailbreak", n=1),),
        rows=(RowConfig(name="undefended", defense=NoneConfig()),),
        world=WorldConfig(kind="hackable", seed=3),
    )
    assert make_world(config) == World.make(3, "hackable")
    with pytest.raises(ConfigError, match=r"world\.kind"):
        make_world(config.replace(world=WorldConfig(seed=3)))
