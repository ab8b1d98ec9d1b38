"""The speed that dry runs estimate times by: known, tried, or said to be unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import ReasonerConfig, RunConfig
from safethink.evaluation import speed as module
from safethink.evaluation.speed import TESTBED, Speed, speed
from tests.support import chat_reasoner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reasoner")
    chat_reasoner.model().save_pretrained(path)
    chat_reasoner.tokenizer().save_pretrained(path)
    return path


def a_run(path: object, batch_size: int = 3) -> RunConfig:
    return RunConfig(reasoner=ReasonerConfig(path=str(path)), batch_size=batch_size)


def test_the_testbed_is_known_and_never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "SafeThink")
    assert speed(a_run("testbed"), probe=True) == TESTBED


@pytest.mark.parametrize(("batch_size", "rows"), [(1, "1 row"), (3, "3 rows")])
def test_any_other_reasoner_is_tried_on_a_few_tokens(folder: Path, batch_size: int, rows: str) -> None:
    tried = speed(a_run(folder, batch_size), probe=True)
    assert tried.source == f"20 tokens of {rows} tried on this machine; a monitor's time comes on top"
    assert tried.decoded_per_s is not None
    assert tried.read_per_s is not None
    assert tried.decoded_per_s > 0 < tried.read_per_s


def test_a_slow_reasoner_is_not_tried_in_a_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE_S", 0.0)
    assert speed(a_run(folder, 4), probe=True).source.startswith("20 tokens of 1 row tried")


def test_nothing_is_loaded_unasked_or_from_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "SafeThink")
    assert speed(a_run(folder), probe=False).decoded_per_s is None
    away = speed(a_run("somebody/reasoner"), probe=True)
    assert away.seconds(1) is None
    assert away.source == "not known: the weights of somebody/reasoner are not on this machine"


def test_a_reasoner_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    assert speed(a_run(tmp_path), probe=True).source.startswith(f"not known: no model in the folder '{tmp_path}'")


def test_a_path_that_is_no_folder_and_no_repository_is_named() -> None:
    tried = speed(a_run("/no/such/reasoner"), probe=True)
    assert tried.decoded_per_s is None
    assert tried.source.startswith("not known: no model at '/no/such/reasoner'")


def test_an_adapter_is_here_only_where_its_base_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(module, "_tried", lambda run_json: Speed(1.0, 1.0, "tried"))
    named = speed(a_run("smollm2-reasoner"), probe=True)
    assert named.source == "not known: the weights of HuggingFaceTB/SmolLM2-135M-Instruct are not on this machine"
    with_base = RunConfig(reasoner=ReasonerConfig(path="smollm2-reasoner", base=str(folder)))
    assert speed(with_base, probe=True).source == "tried"


def test_a_time_is_known_only_where_what_it_takes_is() -> None:
    assert Speed(10.0, None, "a guess").seconds(100) == 10
    assert Speed(10.0, None, "a guess").seconds(100, read=5) is None
    assert Speed(10.0, 5.0, "a guess").seconds(100, read=5) == 11
