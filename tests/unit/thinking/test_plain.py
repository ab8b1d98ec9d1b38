"""A model that does not reason: no thinking, and its answer is watched step by step."""

from __future__ import annotations

import pytest

from safethink import defenses
from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    GuardRefuseConfig,
    LimitsConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
    SamplingConfig,
    ThoughtConfig,
)
from safethink.defenses.effects import Extend, Score, Task, Until
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.refusals import REFUSAL
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import monitored_text
from safethink.thinking.turns import over_turns
from safethink.tokens import Tokens
from tests.support.published_families import PUBLISHED, byte_level, steer
from tests.unit.thinking.test_turns import drive

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = (("<|im_start|>", True), ("<|im_end|>", True))
PLAIN = ThoughtConfig(family="plain")
THOUGHT = Thought(PLAIN, byte_level(CHATML, CONTROL, "<|im_end|>"))
PROMPT = Prompt.from_text("Add 3 and 4.", id="p")
WATCHING = [SafeThinkConfig(), ResampleOnlyConfig(), GuardRefuseConfig()]


def start(config: DefenseConfig, task: Task = Task(prefixes=((50, 51),), refusal=(60,))):  # noqa: B008 (it is frozen)
    return over_turns(defenses.build(config)(task), THOUGHT)


@pytest.mark.parametrize("config", WATCHING, ids=lambda config: config.kind)
def test_a_defense_that_watches_watches_the_answer_from_its_first_step(config: DefenseConfig) -> None:
    verdict, effects = drive(start(config), [((1,), "step"), ((2,), "end")])
    asked = [effect for effect in effects if isinstance(effect, Extend)]
    assert [effect.until for effect in asked] == [Until.ANSWER_STEP, Until.ANSWER_STEP]
    assert [effect.answer.ids for effect in effects if isinstance(effect, Score)] == [(1,), (1, 2)]
    assert (verdict.trace.ids, verdict.answer.ids, verdict.closed) == ((), (1, 2), True)
    assert (verdict.step_scores, verdict.answer_scores) == ((), (1.0, 1.0))


def test_a_violating_step_of_the_answer_is_resampled_behind_the_prefix_which_does_not_stay() -> None:
    said = [((1,), "step"), ((2,), "step"), ((3,), "step"), ((4,), "end")]
    verdict, effects = drive(start(SafeThinkConfig()), said, scores=[1.0, -1.0])
    tried = [effect.answer.ids for effect in effects if isinstance(effect, Extend)]
    assert tried == [(), (1,), (1, 50, 51), (1, 3)]
    assert verdict.answer.ids == (1, 3, 4)
    (note,) = verdict.interventions
    assert (note.step, note.where, note.outcome) == (1, "answer", "recovered")


def test_a_defense_that_refuses_writes_no_closing_tag() -> None:
    verdict, _ = drive(start(GuardRefuseConfig()), [((1,), "step")], scores=[-1.0])
    assert (verdict.trace.ids, verdict.answer.ids[-1:], verdict.refused) == ((), (60,), True)
    assert THOUGHT.close_ids == ()


def test_a_defense_that_does_not_watch_lets_it_answer() -> None:
    verdict, effects = drive(start(NoneConfig()), [((1, 2), "end")])
    assert [effect.until for effect in effects if isinstance(effect, Extend)] == [Until.ANSWER]
    assert (verdict.trace.ids, verdict.answer.ids, verdict.closed) == ((), (1, 2), True)


def test_what_is_always_injected_stands_before_the_answer() -> None:
    verdict, effects = drive(start(AlwaysConfig()), [((1,), "end")])
    (asked,) = [effect for effect in effects if isinstance(effect, Extend)]
    assert asked.tokens.ids == (50, 51)
    assert verdict.trace == Tokens.injected((50, 51))


def test_a_prefill_is_read_with_the_first_step_of_the_answer() -> None:
    task = Task(start=Tokens.sampled((7, 8)), prefixes=((50,),))
    _, effects = drive(start(SafeThinkConfig(), task), [((1,), "end")])
    assert [effect.tokens.ids for effect in effects if isinstance(effect, Score)] == [(7, 8, 1)]


def test_a_prefill_is_the_beginning_of_the_answer_that_is_read() -> None:
    prefill, answer = (Tokens.sampled(THOUGHT.encoder.text(text)) for text in ("Sure, here", " it is."))
    assert monitored_text(THOUGHT, prefill, answer) == "Sure, here it is."


def test_plain_has_no_tags() -> None:
    with pytest.raises(ConfigError, match="family is plain, which has no tags: leave open_tag and close_tag out"):
        _ = Thought(ThoughtConfig(family="plain", open_tag="<think>"), THOUGHT.tokenizer).family


@pytest.mark.parametrize("bad", [False, True])
def test_a_chat_model_answers_under_guard(bad: bool) -> None:
    model, tokenizer = PUBLISHED["qwq"].model(), PUBLISHED["qwq"].tokenizer()
    tokenizer.chat_template, kept = CHATML, tokenizer.chat_template
    read: list[str] = []

    def monitor(_prompt: Prompt, trace: str) -> float:
        read.append(trace)
        return -1.0 if "Heat" in trace else 1.0

    try:
        guarded = SafeThink(
            model,
            tokenizer,
            monitor=monitor,
            defense=GuardRefuseConfig(),
            thought=PLAIN,
            sampling=SamplingConfig(temperature=0),
            limits=LimitsConfig(max_step_tokens=200),
        )
        said = guarded.thought.encoder.template(f"Mix them.\n\n{'Heat' if bad else 'Stir'} it.\n\nIt is 7.<|im_end|>")
        steer(model, dict(enumerate(said, len(open_prompt(guarded.thought, PROMPT)))))
        result = guarded(PROMPT)
    finally:
        tokenizer.chat_template = kept
    assert read[0] == "Mix them.\n\n"
    assert (result.trace, result.closed) == ("", True)
    assert not result.verdict.step_scores
    if bad:
        assert result.answer.endswith(REFUSAL)
        assert result.verdict.refused
    else:
        assert result.answer == "Mix them.\n\nStir it.\n\nIt is 7."
        assert len(result.verdict.answer_scores) == 3


def test_a_model_that_does_not_reason_is_refused_before_it_runs_unless_it_is_named_plain() -> None:
    with pytest.raises(ConfigError, match=r"thought\.family: plain"):
        SafeThink(
            PUBLISHED["qwq"].model(), byte_level(CHATML, CONTROL, "<|im_end|>"), prefix=None, defense=NoneConfig()
        )
