"""Traces that are scored after the fact: text without what was injected, states too, unless they are read in place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import optimize
from optimize import objectives
from optimize.config import ObjectiveConfig
from optimize.contexts import ContextSet
from optimize.contexts.watching import Watched, scores
from safethink.config import LimitsConfig, RefusalJudgeConfig
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.monitors import ScoreRequest
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens
from tests.support import tiny_reasoner
from tests.unit.optimize.pipeline.test_learn import ATTACKS, SECTIONS, TASKS, small_model

LIMITS = LimitsConfig(max_step_tokens=6, max_trace_tokens=24, max_answer_tokens=6)
OWN, INJECTED = (70, 71, 72), (90, 91)


class StateReader:
    """Scores the mean of the state of the last token, squeezed into [-1, 1]."""

    layer = -1

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        states = [request.state for request in requests]
        assert all(state is not None for state in states)
        return [float(state.mean().tanh()) for state in states if state is not None]

    def release(self, row: int) -> None:
        """Nothing is kept."""


def guarded(monitor: object) -> SafeThink:
    return SafeThink(tiny_reasoner.model(), tiny_reasoner.tokenizer(), monitor=monitor, limits=LIMITS)


def watched(safethink: SafeThink, *traces: Tokens) -> list[Watched]:
    prompts = [Prompt.from_text(f"mix the parts {number}", id=f"p{number}") for number in range(len(traces))]
    ids = [open_prompt(safethink.thought, prompt) for prompt in prompts]
    return [Watched(*each) for each in zip(prompts, ids, traces, strict=True)]


WITH_INJECTION = Tokens.sampled(OWN[:2]) + Tokens.injected(INJECTED) + Tokens.sampled(OWN[2:])


@pytest.mark.parametrize("in_place", [True, False])
def test_a_monitor_of_text_never_reads_what_was_injected(in_place: bool) -> None:
    read: list[str] = []

    def monitor(prompt: Prompt, trace: str) -> float:
        read.append(trace)
        return 0.5

    safethink = guarded(monitor)
    assert scores(safethink, watched(safethink, WITH_INJECTION), in_place) == [0.5]
    assert read == [safethink.tokenizer.decode(list(OWN))]


def test_states_are_those_of_the_trace_without_what_was_injected() -> None:
    safethink = guarded(StateReader())
    injected, plain, other = watched(safethink, WITH_INJECTION, Tokens.sampled(OWN), Tokens.sampled((80, 81)))
    same = Watched(plain.prompt, plain.prompt_ids, WITH_INJECTION)
    found = scores(safethink, [injected, same, plain, other])
    assert found[1] == pytest.approx(found[2], abs=1e-6)
    assert len({round(score, 4) for score in found}) == 3


def test_a_defense_has_the_states_read_where_the_prefix_stands() -> None:
    safethink = guarded(StateReader())
    (trace,) = watched(safethink, WITH_INJECTION)
    (without,), (with_prefix,) = scores(safethink, [trace]), scores(safethink, [trace], in_place=True)
    assert with_prefix != pytest.approx(without, abs=1e-4)


def test_no_traces_have_no_scores() -> None:
    assert scores(guarded(StateReader()), []) == []


def test_a_probe_may_watch_a_search_where_somebody_else_chooses() -> None:
    settings = {"model": small_model(), "tokenizer": tiny_reasoner.tokenizer(), "monitor": StateReader()}
    prompts = [*ATTACKS, *TASKS]
    with pytest.raises(ConfigError, match=r"the monitor itself would choose, and StateReader .*outcome_judge choose"):
        optimize.learn(**settings, prompts=prompts, **SECTIONS)
    by_judge = SECTIONS | {"selection": SECTIONS["selection"].replace(outcome_judge=RefusalJudgeConfig())}
    artifact = optimize.learn(**settings, prompts=prompts, **by_judge)
    assert artifact.selected_by == "a judge: refusal"
    assert {"recovery_rate", "recovery_rate_by_monitor", "recovery_guarded"} <= artifact.metrics.keys()


def test_a_reward_by_hidden_states_is_refused() -> None:
    contexts = ContextSet(unsafe=(), harmless=(), num_watched=0, num_fired=0)
    with pytest.raises(ConfigError, match="reward_weight: StateReader reads the reasoner's hidden states"):
        objectives.build(
            guarded(StateReader()),
            contexts,
            ObjectiveConfig(reward_weight=1.0, continuation_weight=0.0, nll_weight=0.0),
        )
