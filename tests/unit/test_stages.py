"""A reasoner that thinks over several turns: the questions are forced, belong to their step, and close the thinking."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from safethink import defenses
from safethink.config import AlwaysConfig, GuardRefuseConfig, NoneConfig, SafeThinkConfig, ThoughtConfig
from safethink.defenses.effects import Defense, Effect, Extend, Extension, StopReason, Task, Until, Verdict
from safethink.engines.stopping import Stopper
from safethink.stages import in_turns
from safethink.thought import Thought
from safethink.tokens import Tokens
from tests.unit.published_families import PUBLISHED

END = 9
TURNS = (END, 70, 71), (END, 80, 81), (END, 90, 91)
"""What follows the turns; each begins with the end of the reasoner's own."""
Said = Sequence[tuple[tuple[int, ...], StopReason]]


def drive(defense: Defense, said: Said, scores: Sequence[float] = ()) -> tuple[Verdict, list[Effect]]:
    """Answer what a defense asks for with what is said, in order; all scores but the first few are 1."""
    effects: list[Effect] = []
    speech, values = iter(said), iter(scores)
    try:
        effect = next(defense)
        while True:
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
    verdict, effects = drive(in_turns(defenses.start(SafeThinkConfig(), Task()), TURNS), TURN_BY_TURN)
    assert verdict.closed
    assert verdict.trace.ids == WHOLE
    assert forced(verdict.trace) == (70, 71, 80, 81, 90, 91)
    assert verdict.answer == Tokens.sampled((5, END))
    assert len(verdict.step_scores) == 4
    assert [effect.until for effect in effects if isinstance(effect, Extend)][-1] is Until.ANSWER


@pytest.mark.parametrize("config", [NoneConfig(), AlwaysConfig()])
def test_a_defense_that_asks_for_the_whole_thinking_gets_all_turns(config: NoneConfig | AlwaysConfig) -> None:
    said = [turn for turn in TURN_BY_TURN if turn[1] != "step"]
    verdict, _ = drive(in_turns(defenses.start(config, Task(prefixes=((40,),))), TURNS), said)
    assert verdict.closed
    assert tuple(token for token in verdict.trace.ids if token != 40) == tuple(token for token in WHOLE if token != 2)


def test_a_turn_that_violates_is_dropped_with_its_question_and_said_again() -> None:
    task = Task(prefixes=((40,),), separator=(41,))
    said = [TURN_BY_TURN[0], ((6, END), "end"), *TURN_BY_TURN[2:]]
    defense = in_turns(defenses.start(SafeThinkConfig(keep_prefix=True), task), TURNS)
    verdict, effects = drive(defense, said, scores=(1.0, -1.0))
    assert verdict.trace.ids == (1, END, 70, 71, 40, 41, 3, END, 80, 81, 4, END, 90, 91)
    retried = [effect.trace for effect in effects if isinstance(effect, Extend)][2]
    assert retried.ids == (1, END, 70, 71, 40, 41), "inside the open turn"


def test_a_turn_that_ends_otherwise_is_ended_as_the_template_ends_it() -> None:
    verdict, _ = drive(in_turns(defenses.start(NoneConfig(), Task()), TURNS), [((1, 8), "end"), ((2,), "length")])
    assert verdict.trace.ids == (1, 8, END, 70, 71, 2)
    assert not verdict.closed


def test_a_refusal_ends_it() -> None:
    defense = in_turns(defenses.start(GuardRefuseConfig(), Task(close=TURNS[-1], refusal=(50, END))), TURNS)
    verdict, _ = drive(defense, TURN_BY_TURN, scores=(1.0, -1.0))
    assert verdict.refused
    assert verdict.answer.ids == (50, END)


def test_a_branch_from_the_middle_knows_which_turn_it_is_in() -> None:
    start = Tokens.sampled((1, END)) + Tokens.injected((70, 71, 40))
    verdict, _ = drive(in_turns(defenses.start(NoneConfig(), Task(start=start)), TURNS), TURN_BY_TURN[2:])
    assert verdict.trace.ids == (1, END, 70, 71, 40, 3, END, 80, 81, 4, END, 90, 91)


def test_a_question_that_the_model_asks_itself_is_none() -> None:
    said = [((70, 71, END), "end"), *TURN_BY_TURN[2:]]
    verdict, _ = drive(in_turns(defenses.start(NoneConfig(), Task()), TURNS), said)
    assert verdict.trace.ids == (70, 71, END, 70, 71, 3, END, 80, 81, 4, END, 90, 91)


def test_a_reasoner_of_one_turn_runs_as_it_is() -> None:
    defense = defenses.start(NoneConfig(), Task())
    assert in_turns(defense, ()) is defense


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
