"""SafeThink (arXiv 2602.11096): watch the trace; where it turns unsafe, drop the step, inject the prefix, resample.

In the paper's symbols, for a query x, a reasoner π, a safety reward R, a threshold τ, a prefix s, at most m steered
steps and B resamples:

    z = []
    for t = 1, 2, ...:
        y ~ π(. | x, z)
        if R(x, z + y) < τ and t <= m:
            for b = 1 ... B:
                y ~ π(. | x, z, s)
                if R(x, z + y) >= τ: break
        z += y
    return π(. | x, z)

It is a satisficing rule: the first resample that is good enough is taken, not the best of many.

Three things go beyond the paper. A resample that says nothing, such as one that closes the thinking at once, leaves the
monitor nothing to object to: it is no recovery, and by `retry_empty` one of the tries that failed. With the fallback
`rollback`, where all B resamples fail, the last `rollback_steps` accepted steps are dropped too, and there are at most
B tries at that deeper point (rollback depth does more than retries: CARE, arXiv 2509.06982). And the answer is watched
as the trace is, by `monitor_answer` or where the reasoner thinks outside its tags: the same tries with the same
prefixes, of which none stays in the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from safethink.config import SafeThinkConfig
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Accept, Defense, Extension, Intervention, InterventionOutcome, Task
from safethink.defenses.moves import Move, accept, next_step, open_answer, score_draft
from safethink.tokens import Tokens


def safethink(task: Task, config: SafeThinkConfig) -> Defense:
    """Run the paper's loop.

    Every step is scored, also where steering is over, so that records show when a trace drifted.
    """
    draft = Draft.of(task)
    while draft.is_open:
        step = yield from next_step(draft)
        if step.unthought:
            # A thought without words has no step to be scored; the answer behind it is watched.
            draft = draft.accepted(step)
        else:
            draft = yield from watch(task, config, draft, step)
        yield from accept(standing(config, draft))
        if draft.stop == "thought":
            draft = yield from open_answer(draft, config.monitor_answer, task.streamed)
    return draft.verdict()


def watch(task: Task, config: SafeThinkConfig, draft: Draft, step: Extension) -> Move[Draft]:
    """Score a step, and accept it or put another in its place."""
    value = yield from score_draft(draft.plus(step.tokens), config.monitor_sees_prefix)
    draft = draft.scored(value)
    if value < config.threshold and steers(config, draft):
        return (yield from intervene(task, config, draft, value))
    return draft.accepted(step)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One resample of a violating step.

    Attributes:
        prefix: index of the injected prefix; None where nothing was injected.
        prefix_tokens: the injected tokens.
        step: what the reasoner produced after them.
        score: the monitor's score of it.
    """

    prefix: int | None
    prefix_tokens: Tokens
    step: Extension
    score: float


def intervene(task: Task, config: SafeThinkConfig, draft: Draft, score_before: float) -> Move[Draft]:
    """Put another step in the place of the one after `draft`, or in the place of steps before it, or refuse."""
    kept, num_dropped = draft, 0
    attempts = yield from resample(task, config, draft)
    if not passes(attempts[-1], config):
        num_dropped = rollback_depth(config, draft)
    if num_dropped:
        kept = draft.without_last(num_dropped)
        attempts += yield from resample(task, config, kept)
    chosen, outcome = settle(attempts, config)
    noted = kept.noted(
        Intervention(
            step=draft.index,
            score_before=score_before,
            score_after=chosen.score if chosen else None,
            resamples=len(attempts),
            prefix=chosen.prefix if chosen else None,
            outcome="rolled_back" if num_dropped and outcome == "recovered" else outcome,
            position=len(kept.growing),
            scores=tuple(attempt.score for attempt in attempts),
            where=draft.where,
            dropped_steps=num_dropped,
            empty_resamples=sum(attempt.step.empty for attempt in attempts),
        )
    )
    if chosen is None:
        return noted.refusing(task)
    keeps = config.keep_prefix and draft.where == "trace"
    return noted.accepted(chosen.step, chosen.prefix_tokens if keeps else Tokens())


def resample(task: Task, config: SafeThinkConfig, draft: Draft) -> Move[tuple[Attempt, ...]]:
    """Resample the step after `draft` until one passes or the tries are used up.

    Try b injects prefix b of the portfolio, and the last one again when it runs out.
    """
    portfolio = task.prefixes or ((),)
    attempts: tuple[Attempt, ...] = ()
    for try_index in range(config.max_resamples):
        prefix = min(try_index, len(portfolio) - 1)
        injected = task.injection(portfolio[prefix])
        step = yield from next_step(draft.plus(injected))
        value = yield from score_draft(draft.plus(injected + step.tokens), config.monitor_sees_prefix)
        attempts = (*attempts, Attempt(prefix if injected else None, injected, step, value))
        if passes(attempts[-1], config):
            break
    return attempts


def passes(attempt: Attempt, config: SafeThinkConfig) -> bool:
    """Whether a resample is good enough to be taken."""
    return attempt.score >= config.threshold and not (attempt.step.empty and config.retry_empty)


def settle(attempts: tuple[Attempt, ...], config: SafeThinkConfig) -> tuple[Attempt | None, InterventionOutcome]:
    """Choose among the resamples: the one that passed, else what the fallback says; None means refuse."""
    chosen, outcome = attempts[-1], "recovered"
    if not passes(chosen, config):
        match config.fallback:
            case "keep_last" | "rollback":
                outcome = "kept_last"
            case "best":
                chosen, outcome = max(attempts, key=lambda attempt: attempt.score), "kept_best"
            case "refuse":
                return None, "refused"
    is_empty = chosen.step.empty and chosen.score >= config.threshold
    return chosen, "empty" if is_empty else outcome


def steers(config: SafeThinkConfig, draft: Draft) -> bool:
    """Whether a violation at the draft's next step is steered.

    `max_steered_steps` counts steps of the trace. No step of the answer is too late, for nothing comes after it that
    could put it right; but where no step of the trace is steered, none of the answer is.
    """
    limit = config.max_interventions
    exhausted = limit is not None and len(draft.interventions_here) >= limit
    early = draft.index < config.max_steered_steps or (draft.where == "answer" and config.max_steered_steps > 0)
    return early and not exhausted


def rollback_depth(config: SafeThinkConfig, draft: Draft) -> int:
    """Number of accepted steps a rollback from the draft's next step drops; 0 where there is none.

    It never drops more than the defense has accepted of that part. Each rollback starts at a later step than the one
    before it, so that a trace cannot go round in circles.
    """
    if config.fallback != "rollback" or draft.index < _first_rollback(draft):
        return 0
    return min(config.rollback_steps, len(draft.starts))


def standing(config: SafeThinkConfig, draft: Draft) -> Accept:
    """The part that no rollback can take back any more."""
    if config.fallback != "rollback" or not draft.is_open:
        return draft.standing()
    later = max(draft.index, _first_rollback(draft))
    if not steers(config, draft) or (draft.where == "trace" and later >= config.max_steered_steps):
        return draft.standing()
    num_loose = max(0, draft.index - (later - config.rollback_steps))
    return draft.without_last(min(num_loose, len(draft.starts))).standing()


def _first_rollback(draft: Draft) -> int:
    """Index of the first step that may be rolled back from."""
    return max((each.step + 1 for each in draft.interventions_here if each.dropped_steps), default=0)
