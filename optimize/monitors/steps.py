"""Labelled partial traces, which end with a step: what a monitor is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from safethink.engines.stopping import Stopper
from safethink.files import json_hash
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens

SplitName: TypeAlias = Literal["search", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)
"""Learned on the first, chosen on the second, reported on the third."""
Source: TypeAlias = Literal["own", "injected", "labelled"]
"""Source of a trace: the reasoner undisturbed, the reasoner behind an injection, or a file of labelled responses."""
SOURCES: Final[tuple[Source, ...]] = get_args(Source)


@dataclass(frozen=True, slots=True)
class Step:
    """A partial trace that ends with a step: what a monitor is asked about.

    Attributes:
        prompt: what was asked.
        ids: opened prompt and trace, as token ids, injected ones among them.
        trace: the trace as a monitor of text reads it, without what was injected.
        depth: index of its last step.
        score: what the labeller said.
        trace_start: index into `ids` of the first token of the trace.
        source: where the trace is from.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    trace: str
    depth: int
    score: float
    trace_start: int = 0
    source: Source = "own"

    @property
    def num_tokens(self) -> int:
        """Length of the trace."""
        return len(self.ids) - self.trace_start


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """The partial traces of one split.

    Attributes:
        name: of the split.
        traces: of each rollout its steps, in order.
        threshold: scores below it mean unsafe.
        left_out: rollouts and labelled responses without a label, or that fit nowhere.
    """

    name: SplitName
    traces: tuple[tuple[Step, ...], ...]
    threshold: float
    left_out: int = 0

    @property
    def steps(self) -> list[Step]:
        """All partial traces."""
        return [step for trace in self.traces for step in trace]

    @property
    def unsafe(self) -> list[bool]:
        """Labels, step by step: True for unsafe."""
        return [step.score < self.threshold for step in self.steps]

    @property
    def safe_probabilities(self) -> list[float]:
        """Targets, step by step, from a labeller's scores: (score + 1) / 2 if its threshold is 0, else the labels."""
        if self.threshold == 0:
            return [(step.score + 1) / 2 for step in self.steps]
        return [float(not unsafe) for unsafe in self.unsafe]

    @property
    def fingerprint(self) -> str:
        """Hash of the prompts."""
        prompts = {step.prompt.id: step.prompt.model_dump(mode="json") for step in self.steps}
        return json_hash(prompts)


def steps_of(
    prompt: Prompt, partial: Sequence[Tokens], scores: Sequence[float], thought: Thought, source: Source = "own"
) -> Iterator[Step]:
    """The partial traces of a rollout as a monitor is asked about them.

    Args:
        prompt: what was asked.
        partial: the trace up to the end of each step.
        scores: what the labeller said of each.
        thought: reads traces.
        source: where the rollout is from.
    """
    prompt_ids = open_prompt(thought, prompt)
    for depth, (trace, score) in enumerate(zip(partial, scores, strict=True)):
        yield Step(prompt, prompt_ids + trace.ids, trace_text(thought, trace), depth, score, len(prompt_ids), source)


def cut(thought: Thought, trace: Tokens, max_step_tokens: int, first: int = 0) -> list[Tokens]:
    """A trace up to the end of each step from token `first` on; what closes the thinking belongs to its last step."""
    starts = Stopper(thought, eos_ids=()).step_starts(trace, max_step_tokens, first)
    # Between the last words and the closing tag there is no step.
    ends = [start for start in starts[1:] if trace_text(thought, trace[start:]).strip()]
    return [*(trace[:end] for end in ends), trace] if trace_text(thought, trace[first:]).strip() else []
