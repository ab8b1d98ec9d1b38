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
"""

from __future__ import annotations

from dataclasses import dataclass

from safethink.config import SafeThinkConfig
from safethink.defenses.effects import Defense, Extension, Intervention, InterventionOutcome, Task, Until
from safethink.defenses.moves import Move, answer, extend, refuse, score
from safethink.tokens import Tokens


def safethink(task: Task, config: SafeThinkConfig) -> Defense:
    """Run the paper's loop.

    Every step is scored, also where steering is over, so that records show when a trace drifted.
    """
    trace, interventions, scores = task.start, (), ()
    index = task.first_step
    while True:
        step = yield from extend(trace, Until.STEP)
        value = yield from score(trace + step.tokens)
        scores = (*scores, value)
        exhausted = config.max_interventions is not None and len(interventions) >= config.max_interventions
        if value < config.threshold and index < config.max_steered_steps and not exhausted:
            attempts = yield from resample(task, config, trace)
            chosen, outcome = settle(attempts, config)
            interventions = (*interventions, _note(index, value, attempts, chosen, outcome, len(trace)))
            if chosen is None:
                return refuse(task, trace, interventions, scores)
            step = chosen.step
            trace += chosen.prefix_tokens if config.keep_prefix else Tokens()
        trace += step.tokens
        if step.ends_thought:
            return (yield from answer(trace, step.stop, interventions, scores))
        index += 1


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


def resample(task: Task, config: SafeThinkConfig, trace: Tokens) -> Move[tuple[Attempt, ...]]:
    """Resample the step after `trace` until one passes or the tries are used up.

    Try b injects prefix b of the portfolio, and the last one again when it runs out.
    """
    portfolio = task.prefixes or ((),)
    attempts: tuple[Attempt, ...] = ()
    for try_index in range(config.max_resamples):
        prefix = min(try_index, len(portfolio) - 1)
        injected = task.injection(portfolio[prefix])
        step = yield from extend(trace + injected, Until.STEP)
        value = yield from score(trace + injected + step.tokens)
        attempts = (*attempts, Attempt(prefix if injected else None, injected, step, value))
        if value >= config.threshold:
            break
    return attempts


def settle(attempts: tuple[Attempt, ...], config: SafeThinkConfig) -> tuple[Attempt | None, InterventionOutcome]:
    """Choose among the resamples: the one that passed, else what the fallback says; None means refuse."""
    last = attempts[-1]
    if last.score >= config.threshold:
        return last, "recovered"
    match config.fallback:
        case "keep_last":
            return last, "kept_last"
        case "best":
            return max(attempts, key=lambda attempt: attempt.score), "kept_best"
        case "refuse":
            return None, "refused"


def _note(
    index: int,
    score_before: float,
    attempts: tuple[Attempt, ...],
    chosen: Attempt | None,
    outcome: InterventionOutcome,
    position: int,
) -> Intervention:
    return Intervention(
        step=index,
        score_before=score_before,
        score_after=chosen.score if chosen else None,
        resamples=len(attempts),
        prefix=chosen.prefix if chosen else None,
        outcome=outcome,
        position=position,
        scores=tuple(attempt.score for attempt in attempts),
    )
