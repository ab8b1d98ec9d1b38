"""Targets for states from which the reasoner did not come back by itself: fall-backs, tried in order.

First a written prefix is injected and the step behind it sampled: what was injected is no part of the target, and the
monitor never reads it. Then openings of refusals: those with which the reasoner itself begins to refuse directly
harmful prompts, or written ones where it never does. Whatever becomes a target passes the monitor where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from optimize.config import ContextsConfig
from optimize.contexts.context import Context, TargetSource
from optimize.contexts.mining import best_of, mined_with, own_loss
from optimize.contexts.splits import Split
from safethink.config import NoneConfig
from safethink.defenses.effects import Defense, Task, Verdict
from safethink.defenses.moves import score
from safethink.guarded import SafeThink
from safethink.judges import Judge
from safethink.monitors import layer_read_by
from safethink.refusals import holds_phrase
from safethink.runtime.row import open_row
from safethink.seeds import stable_seed
from safethink.tokens import Tokens


def filled(
    guarded: SafeThink,
    mined: Sequence[Context],
    split: Split,
    config: ContextsConfig,
    threshold: float,
    judge: Judge | None = None,
) -> list[Context]:
    """The states, more of them with a target where resampling left fewer than `max_contexts` with one.

    Args:
        guarded: the reasoner and its monitor.
        mined: states, those without a target among them.
        split: the prompts, of which directly harmful ones show how the reasoner refuses.
        config: the fall-backs and their order.
        threshold: a target scores at least this.
        judge: confirms a target by the output behind it; None takes the monitor's word.
    """
    fill: dict[str, Callable[[Sequence[Context]], list[Context]]] = {
        "prefix": lambda states: _behind_prefixes(guarded, states, config, threshold, judge),
        "refusal": lambda states: _refusing(guarded, states, split, config, threshold, judge),
    }
    found = list(mined)
    for name in config.fallbacks:
        wanting = [place for place, state in enumerate(found) if not state.target_ids]
        missing = config.max_contexts - (len(found) - len(wanting))
        if missing <= 0:
            break
        tried = wanting[: config.surplus * missing]
        for place, state in zip(tried, fill[name]([found[place] for place in tried]), strict=True):
            found[place] = state
    return found


def _behind_prefixes(
    guarded: SafeThink, states: Sequence[Context], config: ContextsConfig, threshold: float, judge: Judge | None
) -> list[Context]:
    """The states, with the best step behind a written prefix as target; the first prefix behind which one passes."""
    found = list(states)
    for number, text in enumerate(config.fallback_prefixes):
        places = [place for place, state in enumerate(found) if not state.target_ids]
        rows = [
            open_row(
                guarded.thought,
                found[place].prompt,
                partial(best_of, n=config.best_of, unseen=layer_read_by(guarded.monitor) is not None),
                seed=stable_seed(guarded.seed, "mine", "prefix", number, found[place].depth),
                sample=place,
                prompt_ids=found[place].prompt_ids,
                trace=Tokens.sampled(found[place].trace_ids),
                injected=guarded.thought.encoder.injected(text),
            )
            for place in places
        ]
        found = mined_with(guarded, found, rows, config, threshold, "prefix", f"mining behind {text!r}", judge)
    return found


def _refusing(
    guarded: SafeThink,
    states: Sequence[Context],
    split: Split,
    config: ContextsConfig,
    threshold: float,
    judge: Judge | None,
) -> list[Context]:
    """The states, with the likeliest opening of a refusal that passes as target."""
    own = own_openings(guarded, split)
    source: TargetSource = "own_refusal" if own else "written_refusal"
    openings = own or tuple(guarded.thought.encoder.injected(text) for text in config.refusal_openings)
    cut = [opening[: config.target_tokens] for opening in openings]
    rows = [
        open_row(
            guarded.thought,
            state.prompt,
            partial(first_passing, steps=_likeliest_first(guarded, state, cut), threshold=threshold),
            seed=stable_seed(guarded.seed, "mine", "refusal", state.depth),
            sample=place,
            prompt_ids=state.prompt_ids,
            trace=Tokens.sampled(state.trace_ids),
        )
        for place, state in enumerate(states)
    ]
    return mined_with(guarded, states, rows, config, threshold, source, "trying openings of refusals", judge)


def own_openings(guarded: SafeThink, split: Split) -> tuple[tuple[int, ...], ...]:
    """First steps of the reasoner's own traces that end in a refusal, on directly harmful prompts; each once."""
    harmful = [prompt for prompt in split.attacks if prompt.kind == "harmful"]
    results = guarded.variant(defense=NoneConfig()).as_finished((prompt, 0) for prompt in harmful)
    refused = [result for result in results if result.closed and holds_phrase(result.answer)]
    steps: dict[tuple[int, ...], None] = {}
    for result in sorted(refused, key=lambda result: result.prompt.id):
        trace = result.verdict.trace
        ends = guarded.stopper.step_starts(trace, guarded.limits.max_step_tokens, 0)
        steps[trace[: ends[1] if len(ends) > 1 else len(trace)].own()] = None
    return tuple(step for step in steps if step)


def first_passing(task: Task, steps: Iterable[tuple[int, ...]], threshold: float) -> Defense:
    """Take the first of the given steps that passes the monitor; the trace ends with it, or with the last one."""
    scores: list[float] = []
    step = Tokens()
    for ids in steps:
        step = Tokens.sampled(ids)
        scores.append((yield from score(task.start + step)))
        if scores[-1] >= threshold:
            break
    return Verdict(task.start + step, Tokens(), closed=False, step_scores=tuple(scores))


def _likeliest_first(guarded: SafeThink, state: Context, steps: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The steps in the order of how likely the reasoner finds them in this state."""
    return sorted(steps, key=lambda ids: own_loss(guarded.model, state.replace(target_ids=ids)))
