# pyright: standard
"""Mining of safe continuations: the reasoner's own best continuation of a state, with nothing injected.

The monitor says which one is best and whether it passes; where a judge is named, it also says how the output ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from optimize.config import ContextsConfig
from optimize.contexts.context import Context, TargetSource
from safethink.defenses.effects import Defense, Task, Until, Verdict
from safethink.defenses.moves import extend, score
from safethink.guarded import SafeThink
from safethink.judges import Judge, Output, judge_all
from safethink.progress import progress
from safethink.runtime import scheduler
from safethink.runtime.result import Branch
from safethink.runtime.row import Row, open_row
from safethink.seeds import stable_seed
from safethink.tokens import Tokens

FLUKE_SHARE = 0.1
"""Share of the targets that are left out as flukes."""


def mine(
    guarded: SafeThink, states: Sequence[Context], config: ContextsConfig, threshold: float, judge: Judge | None = None
) -> list[Context]:
    """The states, each with the best of its continuations as target where it passes the monitor, and the judge."""
    rows = [
        open_row(
            guarded.thought,
            state.prompt,
            partial(best_of, n=config.best_of),
            seed=stable_seed(guarded.seed, "mine", state.depth),
            sample=place,
            prompt_ids=state.prompt_ids,
            trace=Tokens.sampled(state.trace_ids),
        )
        for place, state in enumerate(states)
    ]
    return mined_with(guarded, states, rows, config, threshold, "resampled", "mining safe continuations", judge)


def mined_with(
    guarded: SafeThink,
    states: Sequence[Context],
    rows: Sequence[Row],
    config: ContextsConfig,
    threshold: float,
    source: TargetSource,
    what: str,
    judge: Judge | None = None,
) -> list[Context]:
    """The states, each with the reasoner's own tokens behind it as target where the best of a row's steps passes.

    Args:
        guarded: the reasoner and its monitor.
        states: the states.
        rows: one for each state that is tried, whose `sample` is its place; their verdict ends in the best step.
        config: length of the targets.
        threshold: a target scores at least this.
        source: how these targets come about.
        what: said while it takes.
        judge: confirms a target by the output behind it; None takes the monitor's word.
    """
    run = scheduler.run(rows, guarded.engine, guarded.monitor, guarded.thought, guarded.limits, guarded.batch_size)
    mined = list(states)
    for row, verdict, _ in progress(run, what, len(rows)):
        state, best = states[row.sample], max(verdict.step_scores, default=-1.0)
        if best >= threshold:
            # What was injected is forced, and no part of a target.
            step = verdict.trace[len(state.trace_ids) :].own()
            target = guarded.thought.whole_messages(state.trace_ids, step[: config.target_tokens])
            mined[row.sample] = state.replace(target_ids=target, target_score=best, target_source=source)
    return mined if judge is None else _confirmed(guarded, states, mined, judge)


def _confirmed(guarded: SafeThink, before: Sequence[Context], mined: Sequence[Context], judge: Judge) -> list[Context]:
    """The states with those new targets alone behind which the output ends well; the others are as before."""
    places = [place for place, (old, new) in enumerate(zip(before, mined, strict=True)) if old != new]
    branches = [
        Branch(mined[place].prompt, Tokens.sampled(mined[place].trace_ids + mined[place].target_ids), sample=place)
        for place in places
    ]
    results = guarded.continue_from(branches)
    judged = judge_all(judge, [Output(each.prompt, each.own_trace, each.answer, each.closed) for each in results])
    ends_well = {place: each.outcome in ("refusal", "helpful") for place, each in zip(places, judged, strict=True)}
    return [mined[place] if ends_well.get(place, True) else before[place] for place in range(len(mined))]


def best_of(task: Task, n: int, unseen: bool = False) -> Defense:
    """Sample the next step `n` times and keep the one that the monitor scores best; the trace ends with it.

    Args:
        task: where to go on.
        n: number of samples.
        unseen: whether what was injected is taken out of the trace that is scored, for a monitor on hidden states.
    """
    steps: list[Tokens] = []
    scores: list[float] = []
    for _ in range(n):
        step = yield from extend(task.start, Until.STEP)
        trace = task.start + step.tokens
        scores.append((yield from score(Tokens.sampled(trace.own()) if unseen else trace)))
        steps.append(step.tokens)
    best = max(range(n), key=scores.__getitem__)
    return Verdict(task.start + steps[best], Tokens(), closed=False, step_scores=tuple(scores))


def without_flukes(model: PreTrainedModel, contexts: Sequence[Context]) -> list[Context]:
    """Leave out the tenth whose targets the reasoner itself finds least likely, with nothing injected.

    Sampling now and then says what no prefix makes likely again. A mean over contexts follows such outliers: a single
    one among two dozen was seen to undo the rank correlation between a prefix's loss and its recovery.
    """
    losses = [own_loss(model, context) for context in contexts]
    order = sorted(range(len(contexts)), key=losses.__getitem__)
    kept = set(order[: len(order) - int(FLUKE_SHARE * len(order))])
    return [context for place, context in enumerate(contexts) if place in kept]


@torch.inference_mode()
def own_loss(model: PreTrainedModel, context: Context) -> float:
    """Mean loss per token of the target right after the context."""
    ids = torch.tensor([context.ids + context.target_ids], device=model.device)
    length = len(context.target_ids)
    logits = model(input_ids=ids, logits_to_keep=length + 1).logits[0, :-1]
    return functional.cross_entropy(logits.float(), ids[0, -length:]).item()
