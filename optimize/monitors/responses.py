"""Labelled responses as partial traces: what people said of a response is the label of each of its steps."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optimize.contexts.prompt_sets import prompts_of
from optimize.monitors.config import LabelledFileConfig, TrainMonitorConfig
from optimize.monitors.steps import SPLITS, LabelledSplit, SplitName, Step, cut, steps_of
from safethink.benchmarks import labelled
from safethink.benchmarks.labelled import LabelledResponse, Question
from safethink.config import LimitsConfig
from safethink.errors import PromptError
from safethink.prompts import Prompt, PromptKind, normalised, words_hash
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens

logger = logging.getLogger(__name__)

LOTS: Final[Mapping[SplitName, range]] = {"search": range(4), "validation": range(4, 6), "test": range(6, 9)}
"""Ninths of the prompts that go to each split, as many as of `prompt_sets.either`."""


@dataclass(frozen=True, slots=True)
class Response:
    """A labelled response.

    Attributes:
        prompt: what was asked; equal prompts have equal ids.
        text: the response.
        unsafe: its label.
    """

    prompt: Prompt
    text: str
    unsafe: bool


def load(config: TrainMonitorConfig, asked: Mapping[SplitName, Sequence[Prompt]]) -> dict[SplitName, list[Response]]:
    """Read the labelled files and share their responses out to the splits.

    A response whose prompt asks what a prompt of a split asks, or wraps it, belongs to that split, and one to what is
    held out is left out; any other goes where the hash of its words says.

    Args:
        config: names the files, and what is held out.
        asked: prompts of each split.

    Raises:
        MissingFileError: a file is not there.
        ConfigError: a file that holds no labelled responses, as `benchmarks.labelled.load` says of it.
    """
    found: dict[SplitName, list[Response]] = {name: [] for name in SPLITS}
    if not config.labelled:
        return found
    held_out = prompts_of(config.prompt_sets.held_out) if config.prompt_sets is not None else []
    known = {name: _padded(prompt.text for prompt in asked[name]) for name in SPLITS}
    forbidden = _padded(prompt.text for prompt in held_out)
    for section in config.labelled:
        for response in _of_file(section, forbidden):
            words = _padded([response.prompt.text])[0]
            inside: list[SplitName] = [name for name in reversed(SPLITS) if any(each in words for each in known[name])]
            lot = stable_seed("labelled", response.prompt.words_hash) % 9
            drawn: list[SplitName] = [name for name in SPLITS if lot in LOTS[name]]
            found[(inside or drawn)[0]].append(response)
    return found


def added(split: LabelledSplit, found: Sequence[Response], thought: Thought, limits: LimitsConfig) -> LabelledSplit:
    """A split with the partial traces of responses, cut into steps as the reasoner's own traces are.

    What is longer than a trace may be is cut there; a prompt that does not fit into the context window is left out.
    """
    traces = [_steps(each, thought, limits) for each in found]
    fitting = tuple(trace for trace in traces if trace)
    return replace(split, traces=split.traces + fitting, left_out=split.left_out + len(traces) - len(fitting))


def _of_file(section: LabelledFileConfig, forbidden: Sequence[str]) -> list[Response]:
    file = labelled.load(Path(section.path).expanduser())
    for oddity in file.oddities:
        logger.warning("%s: %s", section.path, oddity)
    rows = sorted(file.rows, key=lambda row: stable_seed("labelled", row.id))
    fresh = [row for row in rows if not any(each in _padded([row.prompt])[0] for each in forbidden)]
    if len(fresh) < len(rows):
        logger.warning("%s: %d responses left out, held out elsewhere", section.path, len(rows) - len(fresh))
    agreed = [row for row in fresh if row.label is not None and row.prompt.strip() and row.response.strip()]
    if len(agreed) < len(fresh):
        count = len(fresh) - len(agreed)
        logger.warning("%s: %d responses left out, empty or with as many labels for as against", section.path, count)
    return [_response(row, file.question) for row in agreed[: section.sample]]


def _response(row: LabelledResponse, question: Question) -> Response:
    kind: PromptKind = row.kind or "jailbreak"
    unsafe = row.label is True if question == "harmful" else row.label is False and kind in ("jailbreak", "harmful")
    prompt = Prompt.from_text(row.prompt, id=f"labelled {words_hash(row.prompt)}").replace(kind=kind)
    return Response(prompt, row.response, unsafe)


def _padded(texts: Iterable[str]) -> list[str]:
    """The words of each text between blanks, so that one holds another only in whole words."""
    return [f" {normalised(text)} " for text in texts]


def _steps(response: Response, thought: Thought, limits: LimitsConfig) -> tuple[Step, ...]:
    """The partial traces of a response; none where its prompt does not fit."""
    try:
        prompt_ids = open_prompt(thought, response.prompt)
    except PromptError:
        return ()
    room = limits.max_trace_tokens
    if thought.context_tokens is not None:
        room = min(room, thought.context_tokens - len(prompt_ids))
    trace = Tokens.sampled(thought.encoder.begun(response.text))[:room]
    partial = cut(thought, trace, limits.max_step_tokens)
    scores = [-1.0 if response.unsafe else 1.0] * len(partial)
    return tuple(steps_of(response.prompt, partial, scores, thought, "labelled"))
