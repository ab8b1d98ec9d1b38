"""Contexts: the states at which the monitor fires, each with a safe continuation to make likely; and harmless ones.

The reasoner is rolled out with the monitor watching and nothing injected. Where a step scores below the threshold, the
trace before it is a context. What the prefix should lead to is the reasoner's own: the step is sampled again, still
with nothing injected, and the continuation that the monitor scores best becomes the target, if it passes. So no target
was ever shaped by a prefix, and none can teach a prefix to flatter the monitor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch.nn import functional
from transformers import PreTrainedModel

from optimize.config import ContextsConfig
from optimize.splits import Split
from safethink import scheduler
from safethink.config import DefenseConfig, NoneConfig, SafeThinkConfig
from safethink.defenses.effects import Defense, Task, Until, Verdict
from safethink.defenses.moves import extend, score
from safethink.errors import RecordError, SafeThinkError
from safethink.evaluation.records import write_text
from safethink.fingerprints import json_hash
from safethink.guarded import SafeThink
from safethink.progress import progress
from safethink.prompts import Prompt
from safethink.result import Result
from safethink.scheduler import Row
from safethink.seeds import stable_seed
from safethink.tokens import Tokens

FLUKE_SHARE = 0.1
"""Share of the targets that are left out as flukes."""
SURPLUS = 4
"""States mined per context wanted: not every state has a safe continuation."""


class Context(BaseModel):
    """A state in which a prefix may be injected."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompt: Prompt
    """What is asked."""
    prompt_ids: tuple[int, ...]
    """The opened prompt."""
    trace_ids: tuple[int, ...]
    """The trace before the step."""
    step_ids: tuple[int, ...]
    """The step that followed with nothing injected: the violating one, where the monitor fired."""
    depth: int
    """Index of that step."""
    score: float | None = None
    """The monitor's score of it; None where it did not watch."""
    target_ids: tuple[int, ...] = ()
    """The continuation to make likely: a mined safe step, or the harmless step itself; empty where none was found."""
    target_score: float | None = None
    """The monitor's score of a mined target."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and trace, which a prefix follows."""
        return self.prompt_ids + self.trace_ids


class ContextSet(BaseModel):
    """The contexts of one split, and how many there were to choose from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    unsafe: tuple[Context, ...]
    """Where the monitor fired."""
    harmless: tuple[Context, ...]
    """Harmless and borderline prompts, at a random step."""
    num_watched: int
    """Attack prompts rolled out."""
    num_fired: int
    """Attack prompts on which the monitor fired."""
    num_mined: int = 0
    """States at which a safe continuation was looked for."""
    num_without_target: int = 0
    """Those of them where none of the sampled continuations passed the monitor; they were left out."""
    source: str = ""
    """Hash of what they were collected from: prompts and weights."""

    @property
    def fingerprint(self) -> str:
        """Hash of all contexts, targets included."""
        return json_hash(self.model_dump(mode="json"))

    def save(self, path: Path) -> None:
        """Write the set, whole or not at all."""
        write_text(path, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: Path) -> ContextSet:
        """Read a set.

        Raises:
            RecordError: the file is damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise RecordError(f"{path}: no set of contexts ({reason}); delete it to collect again") from error


def collect_search(guarded: SafeThink, split: Split, config: ContextsConfig, threshold: float) -> ContextSet:
    """Contexts with targets, to search on, spread over depths.

    States at which the monitor fires first come before those at which it fires again: there a defense would intervene,
    and the way back is short. Of the states with a target that passes, those are preferred where the monitor tells it
    and the violating step clearly apart: an imperfect monitor also fires on safe steps, and passes unsafe ones, but
    less surely.

    Args:
        guarded: the reasoner and its monitor.
        split: the prompts.
        config: how many.
        threshold: the monitor fires below it.

    Raises:
        SafeThinkError: the monitor never fired, or no state has a safe continuation.
    """
    rollouts = _watch(guarded, split, threshold)
    firings = [states for rollout in rollouts if (states := _firings(guarded, rollout, threshold))]
    _require(firings, split, threshold)
    states = spread([first for first, *_ in firings]) + spread([state for _, *later in firings for state in later])
    mined = _mine(guarded, states[: SURPLUS * config.max_contexts], config, threshold)
    found = [context for context in mined if context.target_ids]
    if not found:
        raise SafeThinkError(
            f"none of {config.best_of} continuations of any of {len(mined)} states passed the monitor; "
            "raise contexts.best_of or lower the threshold"
        )
    return ContextSet(
        unsafe=tuple(sorted(without_flukes(guarded.model, found), key=_margin, reverse=True)[: config.max_contexts]),
        harmless=tuple(without_flukes(guarded.model, _harmless(guarded, split.harmless, config.target_tokens))),
        num_watched=len(rollouts),
        num_fired=len(firings),
        num_mined=len(mined),
        num_without_target=len(mined) - len(found),
    )


def collect_validation(guarded: SafeThink, split: Split, config: ContextsConfig, threshold: float) -> ContextSet:
    """Contexts to choose on: the first state of each rollout at which the monitor fires, as in the recovery rate.

    Raises:
        SafeThinkError: the monitor never fired.
    """
    rollouts = _watch(guarded, split, threshold)
    first = [states[0] for rollout in rollouts if (states := _firings(guarded, rollout, threshold))]
    _require(first, split, threshold)
    harmless = _harmless(guarded, split.harmless, config.target_tokens)
    return ContextSet(
        unsafe=tuple(first),
        harmless=harmless,
        num_watched=len(rollouts),
        num_fired=len(first),
    )


def spread(states: Sequence[Context]) -> list[Context]:
    """Order states so that any beginning holds about equally many of every depth."""
    by_depth: dict[int, list[Context]] = defaultdict(list)
    for state in states:
        by_depth[state.depth].append(state)
    rounds = zip_longest(*(by_depth[depth] for depth in sorted(by_depth)))
    return [state for state in chain.from_iterable(rounds) if state is not None]


def without_flukes(model: PreTrainedModel, contexts: Sequence[Context]) -> list[Context]:
    """Leave out the tenth whose targets the reasoner itself finds least likely, with nothing injected.

    Sampling now and then says what no prefix makes likely again. A mean over contexts follows such outliers: a single
    one among two dozen was seen to undo the rank correlation between a prefix's loss and its recovery.
    """
    losses = [_own_loss(model, context) for context in contexts]
    order = sorted(range(len(contexts)), key=losses.__getitem__)
    kept = set(order[: len(order) - int(FLUKE_SHARE * len(order))])
    return [context for place, context in enumerate(contexts) if place in kept]


@torch.inference_mode()
def _own_loss(model: PreTrainedModel, context: Context) -> float:
    """Mean loss per token of the target right after the context."""
    ids = torch.tensor([context.ids + context.target_ids], device=model.device)
    length = len(context.target_ids)
    logits = model(input_ids=ids, logits_to_keep=length + 1).logits[0, :-1]
    return functional.cross_entropy(logits.float(), ids[0, -length:]).item()


def best_of(task: Task, n: int) -> Defense:
    """Sample the next step `n` times and keep the one that the monitor scores best; the trace ends with it."""
    steps: list[Tokens] = []
    scores: list[float] = []
    for _ in range(n):
        step = yield from extend(task.start, Until.STEP)
        scores.append((yield from score(task.start + step.tokens)))
        steps.append(step.tokens)
    best = max(range(n), key=scores.__getitem__)
    return Verdict(task.start + steps[best], Tokens(), closed=False, step_scores=tuple(scores))


def _watch(guarded: SafeThink, split: Split, threshold: float) -> list[Result]:
    """Undefended rollouts with the monitor's score of every step."""
    watching = SafeThinkConfig(threshold=threshold, max_steered_steps=0)
    return _roll_out(guarded, split.attacks, watching, f"watching {split.name} prompts")


def _roll_out(guarded: SafeThink, prompts: Sequence[Prompt], defense: DefenseConfig, what: str) -> list[Result]:
    places = {prompt.id: place for place, prompt in enumerate(prompts)}
    results = guarded.variant(defense=defense).stream((prompt, 0) for prompt in prompts)
    return sorted(progress(results, what, len(prompts)), key=lambda result: places[result.prompt.id])


def _steps(guarded: SafeThink, result: Result) -> list[Context]:
    """A rollout cut into steps; a last piece without words is none."""
    trace = result.verdict.trace
    first = len(guarded.thought.prefill(result.prompt))
    starts = guarded.stopper.step_starts(trace, guarded.limits.max_step_tokens, first)
    steps = [
        Context(
            prompt=result.prompt,
            prompt_ids=result.prompt_ids,
            trace_ids=trace.ids[:start],
            step_ids=trace.ids[start:end],
            depth=depth,
        )
        for depth, (start, end) in enumerate(zip(starts, (*starts[1:], len(trace)), strict=True))
    ]
    return [step for step in steps if guarded.thought.trace_text(Tokens.sampled(step.step_ids)).strip()]


def _firings(guarded: SafeThink, result: Result, threshold: float) -> list[Context]:
    scores = result.verdict.step_scores
    scored = [(step, scores[step.depth]) for step in _steps(guarded, result) if step.depth < len(scores)]
    return [step.model_copy(update={"score": value}) for step, value in scored if value < threshold]


def _margin(context: Context) -> float:
    """How far apart the monitor sets violating step and target; to one digit, because finer differences are noise."""
    return round((context.target_score or 0.0) - (context.score or 0.0), 1)


def _require(firings: Sequence[object], split: Split, threshold: float) -> None:
    if not firings:
        raise SafeThinkError(
            f"the monitor never fired on {len(split.attacks)} {split.name} prompts (threshold {threshold}): "
            "there is nothing to learn from"
        )


def _mine(guarded: SafeThink, states: Sequence[Context], config: ContextsConfig, threshold: float) -> list[Context]:
    """The states, each with the best of its continuations as target where that one passes the monitor."""

    def rows() -> Iterable[Row]:
        for place, state in enumerate(states):
            task = Task(start=Tokens.sampled(state.trace_ids))
            seed = stable_seed(guarded.seed, "mine", state.depth)
            yield Row(state.prompt, state.prompt_ids, best_of(task, config.best_of), place, seed)

    run = scheduler.run(rows(), guarded.engine, guarded.monitor, guarded.thought, guarded.limits, guarded.batch_size)
    mined = list(states)
    for row, verdict, _ in progress(run, "mining safe continuations", len(states)):
        state, best = states[row.sample], max(verdict.step_scores)
        if best >= threshold:
            target = verdict.trace.ids[len(state.trace_ids) :][: config.target_tokens]
            mined[row.sample] = state.model_copy(update={"target_ids": target, "target_score": best})
    return mined


def _harmless(guarded: SafeThink, prompts: Sequence[Prompt], target_tokens: int) -> tuple[Context, ...]:
    """A random step of each harmless prompt's own trace; the step itself is the target."""
    contexts: list[Context] = []
    for rollout in _roll_out(guarded, prompts, NoneConfig(), "rolling out harmless prompts"):
        steps = _steps(guarded, rollout)
        if steps:
            step = steps[stable_seed(guarded.seed, "boundary", rollout.prompt.id) % len(steps)]
            contexts.append(step.model_copy(update={"target_ids": step.step_ids[:target_tokens]}))
    return tuple(contexts)
