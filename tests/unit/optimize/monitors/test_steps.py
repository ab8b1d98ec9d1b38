"""Partial traces out of watched rollouts: those of a reasoner that thinks everywhere, in places, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimize.monitors import rollouts
from optimize.monitors.config import TrainMonitorConfig
from optimize.monitors.steps import LabelledSplit, SplitName
from safethink.benchmarks import Benchmark
from safethink.config import NoneConfig, ReasonerConfig, RunConfig
from safethink.errors import SearchError
from safethink.evaluation.jobs import WATCH
from safethink.evaluation.monitored_rollouts import Watch
from safethink.evaluation.records import Record
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from tests.support import chat_reasoner

PROMPTS = tuple(Prompt.from_text(f"about {name}", id=name).replace(kind="jailbreak") for name in ("mix", "sum", "none"))
CONFIG = TrainMonitorConfig(run=RunConfig(reasoner=ReasonerConfig(path="testbed")))


def rollout(prompt: str, trace: str, *scores: float) -> Record:
    ids = tuple(chat_reasoner.encode(trace))
    return Record(
        phase="watch",
        row=WATCH,
        benchmark="mine",
        prompt=prompt,
        sample=0,
        outcome="helpful",
        trace_ids=ids,
        step_scores=scores,
    )


def collected(monkeypatch: pytest.MonkeyPatch, *records: Record) -> dict[SplitName, LabelledSplit]:
    reasoner = SafeThink(chat_reasoner.model(), chat_reasoner.tokenizer(), prefix=None, defense=NoneConfig())
    seen = Watch(reasoner, (Benchmark("mine", PROMPTS),), {record.key: record for record in records})
    monkeypatch.setattr(rollouts, "watch", lambda *_, **__: seen)
    return rollouts.collect(CONFIG, rollouts.watching(CONFIG), Path("out"), reasoner)


def test_a_thought_that_closes_at_once_has_no_steps_and_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found = collected(
        monkeypatch,
        rollout("mix", "First mix the two parts.", -1.0),
        rollout("sum", "Add 3 and 4 to get 7.", 1.0),
        rollout("none", "</think>"),
    )
    assert [[step.prompt.id for step in trace] for trace in found["test"].traces] == [["mix"], ["sum"]]


def test_a_reasoner_that_does_not_think_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [rollout(prompt.id, "") for prompt in PROMPTS]
    with pytest.raises(SearchError, match=r"reasoner 'testbed' thinks about no prompt of search"):
        collected(monkeypatch, *silent)
