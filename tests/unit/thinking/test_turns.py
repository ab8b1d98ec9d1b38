"""A reasoner that thinks over several turns: the questions are forced, belong to their step, and close the thinking."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from safethink import defenses
from safethink.config import AlwaysConfig, GuardRefuseConfig, NoneConfig, SafeThinkConfig, ThoughtConfig
from safethink.defenses.effects import (
    Accept,
    Defense,
    Effect,
    Extend,
    Extension,
    Score,
    StopReason,
    Task,
    Until,
    Verdict,
)
from safethink.engines.stopping import Stopper
from safethink.thinking.format import Thought
from safethink.thinking.reading import trace_text
from safethink.thinking.turns import in_turns, over_turns
from safethink.tokens import Tokens
from tests.support.published_families import PUBLISHED

END = 9
TURNS = (END, 70, 71), (END, 80, 81), (END, 90, 91)
"""What follows the turns; each begins with the end of the reasoner's own."""


def staged(defense: Defense) -> Defense:
    return in_turns(defense, TURNS, lambda ids: False)


Said = Sequence[tuple[tuple[int, ...], StopReason]]


def drive(defense: Defense, said: Said, scores: Sequence[float] = ()) -> tuple[Verdict, list[Effect]]:
    """Answer what a defense asks for with what is said, in order; all scores but the first few are 1."""
    effects: list[Effect] = []
    speech, values = iter(said), iter(scores)
    try:
        effect = next(defense)
        while True:
            if isinstance(effect, Accept):
                effect = defense.send(None)
                continue
            effects.append(effect)
            if isinstance(effect, Extend):
                ids, stop = next(speech)
                effect = defense.send(Extension(Tokens.sampled(ids), stop))
            else:
                effect = defense.send(next(values, 1.0))
    except StopIteration as done:
        return done.value, effects


TURN_BY_TURN: Said = (((1, END), "end"), ((2,), "step"), ((3, END), "end"), ((4, END), "end"), ((5, END), "end"))
WHOLE = (1, END, 70, 71, 2, 3, END, 80, 81, 4, END, 90, 91)


def forced(tokens: Tokens) -> tuple[int, ...]:
    return tuple(token for token, is_forced in zip(tokens.ids, tokens.forced, strict=True) if is_forced)


def test_questions_follow_the_turns_and_the_last_one_closes_the_thinking() -> None:
    verdict, effects = drive(staged(defenses.start(SafeThinkConfig(), Task())), TURN_BY_TURN)
    assert verdict.closed
    assert verdict.trace.ids == WHOLE
    assert forced(verdict.trace) == (70, 71, 80, 81, 90, 91)
    assert verdict.answer == Tokens.sampled((5, END))
    assert len(verdict.step_scores) == 4
    assert [effect.until for effect in effects if isinstance(effect, Extend)][-1] is Until.ANSWER


@pytest.mark.parametrize("config", [NoneConfig(), AlwaysConfig()])
def test_a_defense_that_asks_for_the_whole_thinking_gets_all_turns(config: NoneConfig | AlwaysConfig) -> None:
    said = [turn for turn in TURN_BY_TURN if turn[1] != "step"]
    verdict, _ = drive(staged(defenses.start(config, Task(prefixes=((40,),)))), said)
    assert verdict.closed
    assert tuple(token for token in verdict.trace.ids if token != 40) == tuple(token for token in WHOLE if token != 2)


def test_a_turn_that_violates_is_dropped_with_its_question_and_said_again() -> None:
    task = Task(prefixes=((40, 41),))
    said = [TURN_BY_TURN[0], ((6, END), "end"), *TURN_BY_TURN[2:]]
    defense = staged(defenses.start(SafeThinkConfig(keep_prefix=True), task))
    verdict, effects = drive(defense, said, scores=(1.0, -1.0))
    assert verdict.trace.ids == (1, END, 70, 71, 40, 41, 3, END, 80, 81, 4, END, 90, 91)
    retried = [effect.trace for effect in effects if isinstance(effect, Extend)][2]
    assert retried.ids == (1, END, 70, 71, 40, 41), "inside the open turn"


def test_a_turn_that_ends_otherwise_is_ended_as_the_template_ends_it() -> None:
    verdict, _ = drive(staged(defenses.start(NoneConfig(), Task())), [((1, 8), "end"), ((2,), "length")])
    assert verdict.trace.ids == (1, 8, END, 70, 71, 2)
    assert not verdict.closed


def test_a_refusal_ends_it() -> None:
    defense = staged(defenses.start(GuardRefuseConfig(), Task(close=TURNS[-1], refusal=(50, END))))
    verdict, _ = drive(defense, TURN_BY_TURN, scores=(1.0, -1.0))
    assert verdict.refused
    assert verdict.answer.ids == (50, END)


def test_a_branch_from_the_middle_knows_which_turn_it_is_in() -> None:
    start = Tokens.sampled((1, END)) + Tokens.injected((70, 71, 40))
    verdict, _ = drive(staged(defenses.start(NoneConfig(), Task(start=start))), TURN_BY_TURN[2:])
    assert verdict.trace.ids == (1, END, 70, 71, 40, 3, END, 80, 81, 4, END, 90, 91)


def test_a_question_that_the_model_asks_itself_is_none() -> None:
    said = [((70, 71, END), "end"), *TURN_BY_TURN[2:]]
    verdict, _ = drive(staged(defenses.start(NoneConfig(), Task())), said)
    assert verdict.trace.ids == (70, 71, END, 70, 71, 3, END, 80, 81, 4, END, 90, 91)


def test_a_reasoner_of_one_turn_and_message_runs_as_it_is() -> None:
    defense = defenses.start(NoneConfig(), Task())
    assert over_turns(defense, Thought(ThoughtConfig(family="qwen3"), PUBLISHED["qwen3"].tokenizer())) is defense


HARMONY = Thought(ThoughtConfig(family="gpt-oss"), PUBLISHED["gpt-oss"].tokenizer())
NEXT_MESSAGE = "<|end|><|start|>assistant<|channel|>analysis<|message|>"


@pytest.mark.parametrize("cut", range(1, len(HARMONY.encoder.template(NEXT_MESSAGE))))
def test_a_step_that_was_cut_between_two_messages_goes_on_into_the_open_one(cut: int) -> None:
    header, text = HARMONY.encoder.template(NEXT_MESSAGE), HARMONY.encoder.text
    said: Said = [
        ((*text("Mix it."), *header[:cut]), "step"),
        ((*header[cut:], *text("So stop.")), "step"),
        (text("Hmm."), "length"),
    ]
    verdict, effects = drive(over_turns(defenses.start(SafeThinkConfig(), Task()), HARMONY), said)
    scored = [trace_text(HARMONY, effect.trace) for effect in effects if isinstance(effect, Score)]
    assert scored == ["Mix it.\n\nSo stop.", "Mix it.\n\nSo stop.Hmm."]
    assert not verdict.closed


@pytest.mark.parametrize("before", ["", NEXT_MESSAGE])
@pytest.mark.parametrize(("end", "is_between"), [("<|end|>", True), ("<|end|><|start|>assistant", True), ("Hm", False)])
def test_between_messages_is_where_a_header_is_open(before: str, end: str, is_between: bool) -> None:
    assert HARMONY.is_between_messages(HARMONY.encoder.template(f"{before}{end}")) == is_between
    assert not HARMONY.is_between_messages(HARMONY.encoder.template(f"{before}{NEXT_MESSAGE}"))


def test_nothing_hides_in_a_header_that_does_not_end() -> None:
    forged = HARMONY.encoder.template("<|end|> First mix the two parts, then heat it slowly and add 3 and 4.")
    said: Said = [(forged, "step"), ((1,), "length")]
    _, effects = drive(over_turns(defenses.start(SafeThinkConfig(), Task()), HARMONY), said)
    assert isinstance(effects[1], Score)
    assert "then heat it slowly" in trace_text(HARMONY, effects[1].trace)


def test_a_question_belongs_to_the_step_that_it_follows() -> None:
    published = PUBLISHED["llamav-o1"]
    thought = Thought(ThoughtConfig(family="llamav-o1"), published.tokenizer())
    end = thought.tokenizer.eos_token_id
    assert isinstance(end, int)
    first, second = (Tokens.sampled((*thought.encoder.text(text), end)) for text in ("Mix it.", "So stop."))
    question = Tokens.injected(thought.turns[0][1:])
    prefix = Tokens.injected(thought.encoder.text("Wait"))
    stopper = Stopper(thought, [end])
    assert stopper.step_starts(first + question + prefix + second, 200) == (0, len(first + question))
