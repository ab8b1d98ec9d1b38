"""Contract tests for defenses, against a scripted engine and monitor, with no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from safethink import defenses
from safethink.defenses import DefenseLike, Rule
from safethink.defenses.effects import Accept, Effect, Extend, Intervention, Look, Score, Until, Weigh
from safethink.defenses.rule import refuse_undeclared
from safethink.errors import DefenseError
from safethink.testing.check import Check, checks_of, ensure
from safethink.testing.script import CLOSE, Play, Script, interleaved, play, scenes
from safethink.tokens import Tokens, num_shared


def checks(defense: DefenseLike) -> tuple[Check, ...]:
    """The suite for a defense: a generator function `(task) -> Defense`, or a section of the configuration.

    Raises:
        ConfigError: it is no defense.
    """
    return checks_of(
        defenses.build(defense),
        comes_to_an_end_and_returns_a_verdict,
        asks_only_for_what_it_declares,
        begins_with_what_stands_in_the_trace,
        passes_on_only_what_was_sampled,
        marks_only_what_it_injects_as_forced,
        answers_only_closed_thinking,
        takes_nothing_back_that_it_accepted,
        reports_only_what_happened,
        is_deterministic,
        keeps_nothing_from_row_to_row,
        may_be_closed_at_any_moment,
        gives_the_same_output_when_somebody_reads_along,
    )


def comes_to_an_end_and_returns_a_verdict(rule: Rule) -> None:
    """It ends in every scene, with a verdict, and asks for nothing afterwards."""
    for scene in scenes(rule):
        verdict = play(rule, scene).verdict
        ensure(verdict.closed or not verdict.answer.ids, f"{scene.name}: thinking that is not closed has an answer")


def asks_only_for_what_it_declares(rule: Rule) -> None:
    """Its effects are those that `Needs` says; looks and scores that it is without would fail a run in its middle."""
    for scene in scenes(rule):
        for effect in play(rule, scene).effects:
            try:
                refuse_undeclared(rule.name, rule.needs, effect)
            except DefenseError as error:
                raise AssertionError(f"{scene.name}: {error}") from error


def begins_with_what_stands_in_the_trace(rule: Rule) -> None:
    """`Task.start` stays in front of the trace, marks and all."""
    for scene in scenes(rule):
        start = scene.task.start
        for tokens in _shown(play(rule, scene)):
            ensure(tokens[: len(start)] == start, f"{scene.name}: {tokens} does not begin with {start}")


def passes_on_only_what_was_sampled(rule: Rule) -> None:
    """All it accepts or builds on as the reasoner's own was sampled there: behind the same own tokens, gapless."""
    for scene in scenes(rule):
        played = play(rule, scene)
        for tokens in _shown(played):
            own = tokens.own()
            place = len(scene.task.start.own())
            while place < len(own):
                length = _sampled_from(played.script, own, place)
                ensure(
                    length > 0, f"{scene.name}: {own[place]} was not sampled behind {own[:place]}, yet is not forced"
                )
                place += length


def marks_only_what_it_injects_as_forced(rule: Rule) -> None:
    """No sampled token is marked as forced: monitors and judges would not read it."""
    for scene in scenes(rule):
        played = play(rule, scene)
        for tokens in _shown(played):
            forced = {token for token, mark in zip(tokens.ids, tokens.forced, strict=True) if mark}
            hidden = forced & played.script.sampled
            ensure(not hidden, f"{scene.name}: sampled tokens {sorted(hidden)} are marked as forced")


def answers_only_closed_thinking(rule: Rule) -> None:
    """It asks for an answer behind closed thinking, for thinking where there is no answer, and says which it was."""
    for scene in scenes(rule):
        played = play(rule, scene)
        for effect in played.effects:
            if not isinstance(effect, Extend):
                continue
            answering = effect.until in (Until.ANSWER, Until.ANSWER_STEP)
            closed = effect.trace.ids[-1:] == (CLOSE,)
            ensure(closed or not answering, f"{scene.name}: it asks for an answer behind open thinking")
            ensure(answering or not effect.answer.ids, f"{scene.name}: it asks for thinking behind an answer")
            ensure(answering or not closed, f"{scene.name}: it asks for thinking behind closed thinking")
        verdict = played.verdict
        closed = verdict.trace.ids[-1:] == (CLOSE,)
        ensure(verdict.closed == closed, f"{scene.name}: closed is {verdict.closed}, of a trace {verdict.trace}")


def takes_nothing_back_that_it_accepted(rule: Rule) -> None:
    """Each `Accept` begins with the one before it, and the verdict with the last."""
    for scene in scenes(rule):
        for streamed in (False, True):
            played = play(rule, replace(scene, task=replace(scene.task, streamed=streamed)))
            verdict = played.verdict
            accepted = [each for each in played.effects if isinstance(each, Accept)]
            standing = [*accepted, Accept(verdict.trace, verdict.answer, verdict.interventions)]
            for before, after in pairwise(standing):
                ensure(_grows(before, after), f"{scene.name}: {before} was accepted, and then {after}")


def reports_only_what_happened(rule: Rule) -> None:
    """Scores are those that the monitor gave, prefixes those of the portfolio, positions inside the output."""
    for scene in scenes(rule):
        played = play(rule, scene)
        verdict, given = played.verdict, set(played.script.scores)
        noted = [score for each in verdict.interventions for score in _scores_of(each)]
        for score in (*verdict.step_scores, *verdict.answer_scores, *noted):
            ensure(score in given, f"{scene.name}: the monitor never gave {score}")
        for each in verdict.interventions:
            prefixes = (None, *range(len(scene.task.prefixes)))
            ensure(each.prefix in prefixes, f"{scene.name}: prefix {each.prefix} is none of the portfolio's")
            part = verdict.trace if each.where == "trace" else verdict.answer
            ensure(
                0 <= each.position <= len(part), f"{scene.name}: position {each.position} is not in the {each.where}"
            )
        own_refusal = verdict.refused and not any(verdict.answer.forced)
        ensure(not own_refusal, f"{scene.name}: it refused, yet nothing in the answer is forced")


def is_deterministic(rule: Rule) -> None:
    """The same row comes out the same."""
    for scene in scenes(rule):
        ensure(_same(play(rule, scene), play(rule, scene)), f"{scene.name}: the second time it did something else")


def keeps_nothing_from_row_to_row(rule: Rule) -> None:
    """Rows that run side by side do not know of each other, whatever order they come in."""
    every = scenes(rule)
    alone = [play(rule, scene) for scene in every]
    for together in (every, every[::-1]):
        beside = {done.script.scene.name: done for done in interleaved(rule, together)}
        for each in alone:
            name = each.script.scene.name
            ensure(_same(each, beside[name]), f"{name}: beside other rows it did something else")


def may_be_closed_at_any_moment(rule: Rule) -> None:
    """A reader may leave: a defense that is closed asks for nothing more, raises nothing, and leaves nothing behind."""
    for scene in scenes(rule):
        whole = play(rule, scene)
        for num_effects in range(len(whole.effects)):
            defense, script = rule(scene.task), Script(scene)
            effect = next(defense)
            for _ in range(num_effects):
                effect = defense.send(script.answer(effect))
            try:
                defense.close()
            except Exception as error:
                raise AssertionError(f"{scene.name}: closed at effect {num_effects}, it raised {error!r}") from error
        ensure(_same(whole, play(rule, scene)), f"{scene.name}: behind rows that were closed it did something else")


def gives_the_same_output_when_somebody_reads_along(rule: Rule) -> None:
    """`Task.streamed` decides what is shown when, not what is said."""
    for scene in scenes(rule):
        silent = play(rule, scene).verdict
        streamed = play(rule, replace(scene, task=replace(scene.task, streamed=True))).verdict
        same = (silent.trace, silent.answer, silent.closed) == (streamed.trace, streamed.answer, streamed.closed)
        ensure(same, f"{scene.name}: {silent} unless it is streamed, and then {streamed}")


def _shown(played: Play) -> Iterator[Tokens]:
    """All sequences that the defense builds on, accepts or returns."""
    for effect in played.effects:
        yield _tokens_of(effect)
    yield played.verdict.trace + played.verdict.answer


def _tokens_of(effect: Effect) -> Tokens:
    match effect:
        case Extend() | Score():
            return effect.tokens
        case Accept():
            return effect.trace + effect.answer
        case Look() | Weigh():
            return effect.trace


def _sampled_from(script: Script, own: Sequence[int], place: int) -> int:
    """Number of tokens from `place` on that were sampled behind those before it; a step may be cut."""
    candidates = script.continuations.get(tuple(own[:place]), [])
    return max((num_shared(ids, own[place:]) for ids in candidates), default=0)


def _grows(before: Accept, after: Accept) -> bool:
    kept = after.trace[: len(before.trace)] == before.trace and after.answer[: len(before.answer)] == before.answer
    settled = not before.answer.ids or before.trace == after.trace
    return kept and settled and after.interventions[: len(before.interventions)] == before.interventions


def _scores_of(intervention: Intervention) -> list[float]:
    after = intervention.score_after
    return [intervention.score_before, *intervention.scores, *([] if after is None else [after])]


def _same(first: Play, second: Play) -> bool:
    return (first.effects, first.verdict) == (second.effects, second.verdict)
