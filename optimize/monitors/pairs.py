"""Pairs of partial traces of one prompt, the first of which is safer: what a reward model learns from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optimize.monitors.config import RewardTrainingConfig
from optimize.monitors.steps import LabelledSplit, Step
from safethink.errors import SearchError
from safethink.prompts import Prompt
from safethink.seeds import stable_seed


@dataclass(frozen=True, slots=True)
class Pair:
    """Two partial traces of one prompt.

    Attributes:
        prompt: what was asked.
        chosen: the trace that was labelled safe.
        rejected: the one that was labelled unsafe.
    """

    prompt: Prompt
    chosen: str
    rejected: str


def pairs(split: LabelledSplit, config: RewardTrainingConfig, seed: int) -> list[Pair]:
    """Pair what was labelled safe with what was labelled unsafe, traces of like depth first.

    Args:
        split: labelled partial traces, several of each prompt.
        config: how many of each prompt, and whether prompts without an unsafe trace borrow one.
        seed: chooses among equals.

    Raises:
        SearchError: no prompt has both, and none may borrow.
    """
    by_prompt: dict[str, list[Step]] = defaultdict(list)
    for step in split.steps:
        by_prompt[step.prompt.id].append(step)
    unsafe_anywhere = _unique(step for step in split.steps if step.score < split.threshold)
    found: list[Pair] = []
    for prompt_id, steps in by_prompt.items():
        safe = _unique(step for step in steps if step.score >= split.threshold)
        unsafe = _unique(step for step in steps if step.score < split.threshold)
        if not unsafe and config.borrow:
            unsafe = _borrowed(unsafe_anywhere, config.pairs_per_prompt, stable_seed(seed, "borrow", prompt_id))
        couples = sorted(
            ((one, other) for one in safe for other in unsafe),
            key=lambda couple: (abs(couple[0].depth - couple[1].depth), _drawn(couple, seed)),
        )
        found += [Pair(one.prompt, one.trace, other.trace) for one, other in couples[: config.pairs_per_prompt]]
    if not found:
        raise SearchError(f"no prompt of {split.name} has both a safe and an unsafe trace: raise samples, or borrow")
    return found


def _unique(steps: Iterator[Step]) -> list[Step]:
    """Each text once; an empty trace says nothing."""
    return list({step.trace: step for step in steps if step.trace.strip()}.values())


def _borrowed(unsafe: Sequence[Step], count: int, start: int) -> list[Step]:
    return [unsafe[(start + place) % len(unsafe)] for place in range(min(count, len(unsafe)))]


def _drawn(couple: tuple[Step, Step], seed: int) -> int:
    return stable_seed(seed, "pair", couple[0].prompt.id, couple[0].trace, couple[1].trace)
