"""A guarded run in front of a server that is not ours: `transformers serve` with the testbed's reasoner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from safethink import benchmarks
from safethink.config import (
    GuardMonitorConfig,
    GuardServerConfig,
    LimitsConfig,
    ReasonerConfig,
    RunConfig,
    SamplingConfig,
    ServerConfig,
    TestbedBenchmarkConfig,
    WorldConfig,
)
from safethink.defenses.effects import Intervention
from safethink.engines.http import HttpEngine
from safethink.guarded import SafeThink
from safethink.models import loading
from safethink.models.checkpoint import Checkpoint
from safethink.monitors import ScoreRequest
from safethink.monitors.build import build
from safethink.monitors.guards.served import CompletionsGuard
from safethink.prompts import Prompt
from safethink.runtime.result import Result
from safethink.servers import canary
from safethink.servers.completions import Completions, Form
from safethink.testbed import folders
from tests.support.transformers_serve import serving
from tests.support.vllm_double import VllmDouble

pytestmark = [pytest.mark.slow, pytest.mark.server]

LIMITS = LimitsConfig(max_step_tokens=48, max_trace_tokens=160, max_answer_tokens=32)

GUARD = GuardMonitorConfig()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(folders().reasoner, tmp_path_factory.mktemp("log")) as url:
        yield url


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    world = WorldConfig()
    chosen = [
        TestbedBenchmarkConfig(prompts="jailbreak", split="validation", n=20),
        TestbedBenchmarkConfig(prompts="harmless", split="validation", n=4),
    ]
    return [prompt for each in chosen for prompt in benchmarks.load(each, world).prompts]


def run(
    prompts: list[Prompt], server: ServerConfig | None, monitor: GuardMonitorConfig = GUARD
) -> tuple[SafeThink, list[Result]]:
    config = RunConfig(
        reasoner=ReasonerConfig(path="testbed", server=server),
        monitor=monitor,
        sampling=SamplingConfig(temperature=0.0),
        limits=LIMITS,
    )
    guarded = SafeThink.from_config(config)
    return guarded, guarded.run(prompts)


def about(note: Intervention) -> Intervention:
    """An intervention with scores as exact as float32 is in batches of any size."""
    rounded = tuple(round(score, 5) for score in note.scores)
    after = None if note.score_after is None else round(note.score_after, 5)
    return replace(note, score_before=round(note.score_before, 5), score_after=after, scores=rounded)


def test_a_guarded_run_is_the_same_in_front_of_a_server(url: str, prompts: list[Prompt]) -> None:
    guarded, served = run(prompts, ServerConfig(urls=(url,), model=str(folders().reasoner)))
    assert isinstance(guarded.engine, HttpEngine)
    assert guarded.engine._completions.form == Form("text", False)
    _, local = run(prompts, None)
    assert sum(bool(result.interventions) for result in local) >= 5, "nothing to compare"
    for ours, theirs in zip(local, served, strict=True):
        assert theirs.verdict.trace == ours.verdict.trace
        assert list(map(about, theirs.interventions)) == list(map(about, ours.interventions))
        assert theirs.answer == ours.answer


def test_reasoner_and_guard_may_both_stand_behind_servers_that_take_ids(prompts: list[Prompt]) -> None:
    reasoner = loading.load(ReasonerConfig(path="testbed"))
    guard = loading.load_causal_lm(folders().guard)
    _, local = run(prompts[::2], None)
    with (
        VllmDouble(reasoner.model, reasoner.tokenizer) as thinks,
        VllmDouble(guard.model, guard.tokenizer) as watches,
    ):
        monitor = GuardMonitorConfig(server=GuardServerConfig(urls=(watches.url,)))
        guarded, served = run(prompts[::2], ServerConfig(urls=(thinks.url,)), monitor)
    assert isinstance(guarded.engine, HttpEngine)
    assert guarded.engine._completions.form == Form("ids", True)
    assert isinstance(guarded.monitor, CompletionsGuard)
    assert any(result.interventions for result in local)
    for ours, theirs in zip(local, served, strict=True):
        assert theirs.verdict.trace == ours.verdict.trace
        assert theirs.verdict.answer == ours.verdict.answer
        assert theirs.verdict.step_scores == pytest.approx(ours.verdict.step_scores, abs=1e-5)


def test_a_cached_beginning_changes_nothing_at_a_server_that_takes_text_alone(url: str) -> None:
    completions = Completions(
        ServerConfig(urls=(url,), model=str(folders().reasoner)), Checkpoint("testbed").tokenizer()
    )
    assert completions.form.prompts == "text"
    canary.check(completions, 512)


def test_the_guard_says_in_words_behind_a_server_what_it_thinks_here(prompts: list[Prompt], tmp_path: Path) -> None:
    _, results = run(prompts[::3], None)
    steps = [(result.prompt, result.own_trace) for result in results]
    requests = [ScoreRequest(row, prompt, trace) for row, (prompt, trace) in enumerate(steps)]
    here = build(GuardMonitorConfig()).score(requests)
    with serving(folders().guard, tmp_path) as url:
        server = GuardServerConfig(urls=(url,), model=str(folders().guard), api="chat")
        there = build(GuardMonitorConfig(server=server)).score(requests)
    clear = [index for index, score in enumerate(here) if abs(score) > 0.2]
    assert len(clear) >= 5
    assert [there[index] for index in clear] == [1.0 if here[index] > 0 else -1.0 for index in clear]
