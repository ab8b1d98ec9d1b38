"""Our defenses keep what the suite asks of every defense, and each check finds the fault it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from safethink.config import (
    AlwaysConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.defenses import Begin, DefenseLike, Needs
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Accept, Defense, Extend, Intervention, Task, Until
from safethink.defenses.moves import answer, look, next_step, score, score_draft, unwatched, weigh
from safethink.defenses.none import undefended
from safethink.defenses.safethink import safethink
from safethink.testing import defenses
from safethink.testing.check import Check
from safethink.tokens import Tokens


@Needs(token_level=True)
def follows(task: Task) -> Defense:
    """The best-scored of the three likeliest tokens, one after the other; token-level."""
    trace = task.start
    while True:
        view = yield from look(trace, top_k=3)
        if not view.room:
            return (yield from answer(Draft(trace, stop="length")))
        yield from weigh(trace, (90,))
        scores: list[float] = []
        for token_id in view.token_ids:
            scores.append((yield from score(trace + Tokens.sampled((token_id,)))))
        trace += Tokens.sampled((view.token_ids[scores.index(max(scores))],))
        if trace.ids[-1:] == task.close:
            return (yield from answer(Draft(trace, stop="thought")))


OURS: dict[str, DefenseLike] = {
    "none": NoneConfig(),
    "always": AlwaysConfig(),
    "guard_refuse": GuardRefuseConfig(),
    "guard_refuse watching": GuardRefuseConfig(monitor_answer=True),
    "resample_only": ResampleOnlyConfig(),
    "safethink": SafeThinkConfig(),
    "safethink strict": SafeThinkConfig(threshold=0.75, monitor_answer=True, fallback="refuse", max_steered_steps=9),
    "safethink rollback": SafeThinkConfig(fallback="rollback", rollback_steps=2, max_resamples=2, keep_prefix=True),
    "safethink best": SafeThinkConfig(fallback="best", monitor_sees_prefix=True),
    "follows": follows,
}
NAMED = [(f"{name}: {check}", check) for name, defense in OURS.items() for check in defenses.checks(defense)]


@pytest.mark.slow
@pytest.mark.parametrize("check", [check for _, check in NAMED], ids=[name for name, _ in NAMED])
def test_ours_keeps(check: Check) -> None:
    check()


# Broken ones


def endless(task: Task) -> Defense:
    while True:
        yield Extend(task.start, Until.STEP)


def answers_unclosed(task: Task) -> Defense:
    verdict = yield from undefended(task)
    return replace(verdict, closed=False)


@Needs(scores=False)
def asks_for_scores(task: Task) -> Defense:
    return safethink(task, SafeThinkConfig())


def drops_the_start(task: Task) -> Defense:
    return undefended(replace(task, start=Tokens()))


def invents(task: Task) -> Defense:
    return undefended(replace(task, start=task.start + Tokens.sampled((5,))))


def skips(task: Task) -> Defense:
    """Leaves a token out of the middle."""
    draft = yield from unwatched(Draft.of(task), Until.THOUGHT, task.streamed)
    gap = len(task.start) + 1
    return replace(draft, trace=draft.trace[:gap] + draft.trace[gap + 1 :]).verdict()


def hides(task: Task) -> Defense:
    """Marks what was sampled as its own."""
    verdict = yield from undefended(task)
    num_start = len(task.start)
    hidden = Tokens.injected(verdict.trace.ids[num_start:])
    return replace(verdict, trace=task.start + hidden)


def answers_too_soon(task: Task) -> Defense:
    return (yield from unwatched(replace(Draft.of(task), answer=Tokens()), Until.ANSWER, task.streamed)).verdict()


def thinks_on(task: Task) -> Defense:
    draft = yield from unwatched(Draft.of(task), Until.THOUGHT, task.streamed)
    yield Extend(draft.trace, Until.STEP)
    return (yield from answer(draft, task.streamed))


def takes_back(task: Task) -> Defense:
    """Accepts a step and rolls it back."""
    draft = Draft.of(task)
    draft = draft.accepted((yield from next_step(draft)))
    yield draft.standing()
    return (yield from undefended(task))


def makes_up_scores(task: Task) -> Defense:
    verdict = yield from undefended(task)
    return replace(verdict, step_scores=(0.123,))


def makes_up_prefixes(task: Task) -> Defense:
    verdict = yield from undefended(task)
    return replace(verdict, interventions=(_noted(prefix=7),))


def misplaces(task: Task) -> Defense:
    verdict = yield from undefended(task)
    return replace(verdict, interventions=(_noted(position=10_000),))


def claims_a_refusal(task: Task) -> Defense:
    verdict = yield from undefended(task)
    return replace(verdict, refused=True)


def _noted(prefix: int | None = None, position: int = 0) -> Intervention:
    # A score that the monitor gives in no scene would be a fault of its own; these notes are never reached by one.
    return Intervention(0, 0.0, None, resamples=0, prefix=prefix, outcome="recovered", position=position, scores=())


def counting() -> Begin:
    """Injects at every second row it sees."""
    rows = count()

    def counts(task: Task) -> Defense:
        return undefended(replace(task, start=task.start + Tokens.injected((90,) * (next(rows) % 2))))

    return counts


class Shared:
    """Keeps the row's scores where the next row finds them; each row alone begins anew."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def __call__(self, task: Task) -> Defense:
        self.scores.clear()
        draft = Draft.of(task)
        while draft.is_open:
            step = yield from next_step(draft)
            self.scores.append((yield from score_draft(draft.plus(step.tokens))))
            draft = draft.accepted(step, task.injection((90,)) if len(self.scores) > 3 else Tokens())
        return (yield from answer(draft, task.streamed))


def clings(task: Task) -> Defense:
    """Will not be closed."""
    try:
        return (yield from undefended(task))
    except GeneratorExit:
        yield Accept(task.start)
        raise


def shows_off(task: Task) -> Defense:
    """Says more to who reads along."""
    start = task.start + (Tokens.injected((90,)) if task.streamed else Tokens())
    return undefended(replace(task, start=start))


def mute(task: Task):
    yield Extend(task.start, Until.THOUGHT)


BROKEN: list[tuple[Callable[[], Any], Callable[..., None]]] = [
    (lambda: endless, defenses.comes_to_an_end_and_returns_a_verdict),
    (lambda: answers_unclosed, defenses.comes_to_an_end_and_returns_a_verdict),
    (lambda: asks_for_scores, defenses.asks_only_for_what_it_declares),
    (lambda: mute, defenses.asks_only_for_what_it_declares),
    (lambda: drops_the_start, defenses.begins_with_what_stands_in_the_trace),
    (lambda: invents, defenses.passes_on_only_what_was_sampled),
    (lambda: skips, defenses.passes_on_only_what_was_sampled),
    (lambda: hides, defenses.marks_only_what_it_injects_as_forced),
    (lambda: answers_too_soon, defenses.answers_only_closed_thinking),
    (lambda: thinks_on, defenses.answers_only_closed_thinking),
    (lambda: takes_back, defenses.takes_nothing_back_that_it_accepted),
    (lambda: makes_up_scores, defenses.reports_only_what_happened),
    (lambda: makes_up_prefixes, defenses.reports_only_what_happened),
    (lambda: misplaces, defenses.reports_only_what_happened),
    (lambda: claims_a_refusal, defenses.reports_only_what_happened),
    (counting, defenses.is_deterministic),
    (Shared, defenses.keeps_nothing_from_row_to_row),
    (lambda: clings, defenses.may_be_closed_at_any_moment),
    (lambda: shows_off, defenses.gives_the_same_output_when_somebody_reads_along),
]


@pytest.mark.parametrize(
    ("make", "broken"), BROKEN, ids=[f"{broken.__name__}-{index}" for index, (_, broken) in enumerate(BROKEN)]
)
def test_a_check_finds_its_fault(make: Callable[[], Begin], broken: Callable[..., None]) -> None:
    check = next(each for each in defenses.checks(make()) if each.name == broken.__name__)
    with pytest.raises(AssertionError, match=r": |goes on"):
        check()


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {broken.__name__ for _, broken in BROKEN} == {check.name for check in defenses.checks(NoneConfig())}
