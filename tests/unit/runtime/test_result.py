"""Who reads along sees nothing that is taken back, and in the end exactly the result."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console
from transformers import Qwen3ForCausalLM

from safethink import Event, Prompt, SafeThink
from safethink.cli.views import play
from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    GuardRefuseConfig,
    LimitsConfig,
    NoneConfig,
    SafeThinkConfig,
    ThoughtConfig,
)
from safethink.defenses.effects import Accept
from safethink.engines.hf import HfEngine
from safethink.errors import MonitorError, PromptError
from safethink.runtime.result import Transcript
from safethink.thinking.format import Thought
from safethink.thinking.reading import num_closed_again
from safethink.tokens import Tokens
from tests.support import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
LIMITS = LimitsConfig(max_step_tokens=8, max_trace_tokens=24, max_answer_tokens=10)
PROMPTS = [Prompt.from_text(f"Add {i} and 4. " + "zz " * (i % 5), id=f"p{i}") for i in (0, 1, 5)]
DEFENSES: tuple[DefenseConfig, ...] = (
    NoneConfig(),
    AlwaysConfig(),
    GuardRefuseConfig(threshold=-0.9),
    GuardRefuseConfig(threshold=-0.5, monitor_answer=True),
    SafeThinkConfig(keep_prefix=True, max_steered_steps=9),
    SafeThinkConfig(fallback="refuse", max_resamples=1),
    SafeThinkConfig(fallback="rollback", max_resamples=1, max_steered_steps=9),
    SafeThinkConfig(fallback="rollback", max_resamples=1, max_steered_steps=9, rollback_steps=3, monitor_answer=True),
)


def fickle(prompt: str, trace: str) -> float:
    return math.cos(sum(map(ord, trace)))


def chatty_model() -> Qwen3ForCausalLM:
    """A random model that closes its thinking now and then, and opens it again."""
    model = chat_reasoner.model()
    with torch.no_grad():
        model.lm_head.weight[chat_reasoner.token_id("</think>")] *= 3
        model.lm_head.weight[chat_reasoner.token_id("<think>")] *= 1.5
    return model


def build(thought: ThoughtConfig) -> SafeThink:
    return SafeThink(chatty_model(), TOKENIZER, monitor=fickle, limits=LIMITS, thought=thought)


@pytest.fixture(scope="module", params=[None, 1], ids=lambda size: f"step_tokens={size}")
def guarded(request: pytest.FixtureRequest) -> SafeThink:
    """Steps of one token cut characters in the middle."""
    return build(ThoughtConfig(step_tokens=request.param))


def joined(events: list[Event], kind: str) -> str:
    return "".join(event.text for event in events if event.kind == kind)


def ids(events: list[Event], kind: str) -> tuple[int, ...]:
    return tuple(token for event in events if event.kind == kind for token in event.tokens.ids)


@pytest.mark.slow
@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: repr(defense)[:60])
def test_the_events_join_to_the_result_of_a_call(guarded: SafeThink, defense: DefenseConfig) -> None:
    defended = guarded.variant(defense=defense)
    for prompt, result in zip(PROMPTS, defended.run(PROMPTS), strict=True):
        events = list(defended.stream(prompt))
        done = events[-1].result
        assert done is not None
        assert done.to_json() == result.to_json()
        assert joined(events, "trace") == result.trace
        if num_closed_again(defended.thought, result.verdict.answer):
            assert joined(events, "answer").endswith(result.answer)
        else:
            assert joined(events, "answer") == result.answer
        assert (ids(events, "trace"), ids(events, "answer")) == (result.trace_ids, result.answer_ids)
        assert [event.kind for event in events].count("done") == 1
        assert tuple(event.intervention for event in events if event.intervention) == result.interventions
        assert sum(event.wait_tokens for event in events if event.kind != "intervention") == result.usage.sampled
        order = [event.kind for event in events if event.kind in ("trace", "answer")]
        assert order == sorted(order, reverse=True)


@pytest.mark.slow
def test_it_comes_in_pieces_and_before_the_end(guarded: SafeThink) -> None:
    for prompt in PROMPTS:
        events = guarded.stream(prompt)
        first = next(events)
        assert first.kind in ("trace", "intervention")
        assert first.result is None
        events.close()
    assert max(len(list(guarded.stream(prompt))) for prompt in PROMPTS) > 4


def test_who_stops_reading_stops_the_reasoner(guarded: SafeThink) -> None:
    assert isinstance(guarded.engine, HfEngine)
    before = guarded.engine.stats.sampled
    events = guarded.stream(PROMPTS[0])
    next(events)
    events.close()
    assert guarded.engine.stats.sampled - before <= 6 * LIMITS.max_step_tokens
    assert not guarded.engine._reader.store.length(0)


def test_an_unmonitored_answer_comes_step_by_step_too() -> None:
    reasoner = build(ThoughtConfig(step_tokens=2)).variant(defense=NoneConfig())
    sizes = [len(event.tokens) for prompt in PROMPTS for event in reasoner.stream(prompt) if event.kind == "answer"]
    assert sizes
    assert max(sizes) <= 2


def test_what_cannot_be_run_is_refused(guarded: SafeThink) -> None:
    with pytest.raises(PromptError, match="is empty"):
        next(guarded.stream("  "))
    failing = SafeThink(chatty_model(), TOKENIZER, monitor=lambda prompt, trace: math.nan, limits=LIMITS)
    with pytest.raises(MonitorError, match="nan"):
        list(failing.stream("hello"))


def transcribed(thought: Thought, *texts: str, part: str = "trace") -> list[str]:
    """The pieces that are shown as tokens of these texts are accepted one after the other."""
    transcript, tokens, pieces = Transcript(thought), Tokens(), []
    for text in texts:
        tokens += Tokens.sampled(chat_reasoner.encode(text))
        standing = Accept(tokens) if part == "trace" else Accept(Tokens(), tokens)
        pieces.append("".join(event.text for event in transcript.show(standing, 0)))
    return pieces


def test_a_piece_of_a_tag_in_plain_characters_waits_for_the_rest() -> None:
    spelled = Thought(ThoughtConfig(open_tag="[[", close_tag="]]"), TOKENIZER)
    assert transcribed(spelled, "So]", "x]", "]") == ["So", "]x", ""]


def test_a_piece_of_a_character_waits_for_the_rest() -> None:
    thought = Thought(ThoughtConfig(), TOKENIZER)
    whole = chat_reasoner.encode("✗")
    assert len(whole) > 1
    transcript, pieces = Transcript(thought), []
    for end in range(1, len(whole) + 1):
        pieces += [event.text for event in transcript.show(Accept(Tokens.sampled(whole[:end])), end)]
    assert pieces == [""] * (len(whole) - 1) + ["✗"]


def test_blanks_around_an_answer_are_not_shown() -> None:
    thought = Thought(ThoughtConfig(), TOKENIZER)
    assert transcribed(thought, "\n\n", "It is.\n\n", "So.", " \n", part="answer") == ["", "It is.", "\n\nSo.", ""]


def test_a_terminal_shows_everything_once(guarded: SafeThink) -> None:
    defended = guarded.variant(defense=SafeThinkConfig(fallback="rollback", max_resamples=1, max_steered_steps=9))
    result = max(defended.run(PROMPTS), key=lambda result: len(result.interventions))
    screen = Console(file=io.StringIO(), width=200)
    play(defended.stream(result.prompt), screen)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert shown.count("⟲") == len(result.interventions) > 0
    assert f"{result.usage.sampled} tokens, {result.usage.dropped} of them dropped" in shown
    assert "\x1b" not in shown
