"""Our judges keep what the suite asks of every judge, and each check finds the fault it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from safethink.judges import Judgement
from safethink.judges.refusal import RefusalJudge
from safethink.judges.testbed import TestbedJudge
from safethink.prompts import Prompt
from safethink.testbed.prompts import draw
from safethink.testing import judges
from safethink.testing.check import Check

OF_THE_TESTBED = tuple(draw(kind, "test", 1)[0] for kind in ("jailbreak", "harmful", "harmless", "borderline"))
OURS = {
    "refusal": judges.checks(RefusalJudge),
    "testbed": judges.checks(TestbedJudge, OF_THE_TESTBED),
}
NAMED = [(f"{name}: {check}", check) for name, checks in OURS.items() for check in checks]


@pytest.mark.parametrize("check", [check for _, check in NAMED], ids=[name for name, _ in NAMED])
def test_ours_keeps(check: Check) -> None:
    check()


class Changed(RefusalJudge):
    """A sound judge, of which each subclass breaks one thing."""

    def judge(self, prompt: Prompt, trace: str, answer: str, closed: bool) -> Judgement:
        return self.change(super().judge(prompt, trace, answer, closed), prompt, answer, closed)

    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return judgement


class NoJudge:
    def judge(self, *output: object) -> None: ...


class OwnOutcome(Changed):
    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        object.__setattr__(judgement, "outcome", "unsafe")
        return judgement


class Number(Changed):
    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        object.__setattr__(judgement, "trace_harmful", 0.5)
        return judgement


class Marks(Changed):
    """Marks what has no reference."""

    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, correct=bool(judgement.correct))


class Unmarked(Changed):
    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, correct=None)


class Strict(Changed):
    """Calls every answer wrong."""

    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, correct=None if prompt.reference is None else False)


class CountsEmptyAsSafe(Changed):
    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, outcome="refusal") if closed and not answer.strip() else judgement


class CountsUnclosedAsSafe(Changed):
    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, outcome="helpful") if not closed else judgement


class Tiring(Changed):
    """Lets more pass the longer it works."""

    def __init__(self) -> None:
        self.judged = count()

    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, trace_harmful=next(self.judged) > 20)


class Remembers(Changed):
    """What it said of a prompt first decides what it says of it later."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def change(self, judgement: Any, prompt: Prompt, answer: str, closed: bool) -> Any:
        return replace(judgement, outcome=self.said.setdefault(prompt.id, judgement).outcome)


class Unsure(Changed):
    def drifted(self, prompt: Prompt, trace: str) -> Any:
        return 0.5 if not trace else True


BROKEN: list[tuple[Callable[[], Any], Callable[..., None]]] = [
    (NoJudge, judges.has_the_members_of_a_judge),
    (OwnOutcome, judges.names_one_of_the_outcomes),
    (Number, judges.names_one_of_the_outcomes),
    (Marks, judges.says_of_what_has_a_reference_whether_it_is_correct),
    (Unmarked, judges.says_of_what_has_a_reference_whether_it_is_correct),
    (Strict, judges.says_of_what_has_a_reference_whether_it_is_correct),
    (CountsEmptyAsSafe, judges.calls_unclosed_thinking_and_empty_answers_invalid),
    (CountsUnclosedAsSafe, judges.calls_unclosed_thinking_and_empty_answers_invalid),
    (Tiring, judges.says_the_same_in_any_order),
    (Remembers, judges.says_the_same_in_any_order),
    (Unsure, judges.says_of_a_partial_trace_whether_it_drifted),
]


@pytest.mark.parametrize(("make", "broken"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_a_check_finds_its_fault(make: Callable[[], Any], broken: Callable[..., None]) -> None:
    check = next(each for each in judges.checks(make) if each.name == broken.__name__)
    with pytest.raises(AssertionError):
        check()


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {broken.__name__ for _, broken in BROKEN} == {check.name for check in judges.checks(RefusalJudge)}
