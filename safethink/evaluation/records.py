"""records.jsonl: one line per prompt, sample and row. The truth of a run, from which everything else is computed.

Lines are appended as rows finish and handed to the operating system at once, so killing a run loses at most the rows in
flight. A last line that was cut short is dropped on the next start; a damaged line anywhere else is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import ValidationError

from safethink.defenses.effects import Intervention, InterventionOutcome, Part
from safethink.errors import RecordError
from safethink.files import writing
from safethink.frozen import Frozen
from safethink.judges import Outcome

Phase: TypeAlias = Literal[
    "guarded", "watch", "recovery", "recovery_dropped", "recovery_guarded", "forced", "forced_dropped", "depth"
]
"""Purpose of a generation: the defense as configured; the monitor only watching; one injection at a drifted step, where
the prefix stays in the trace, or is dropped once the step behind it is taken; the defense itself from that step on; one
injection at a random step of a harmless trace, the same two ways; the defense at another `max_steered_steps`."""


class Key(NamedTuple):
    """Identity of a record across reruns."""

    phase: Phase
    row: str
    benchmark: str
    prompt: str
    sample: int


class Span(Frozen):
    """A piece of a trace.

    A trace is cut where injected and sampled tokens meet, and where a step was dropped and tried again.
    """

    start: int
    """Index of its first token in the trace."""
    text: str
    forced: bool = False
    """Whether a defense put it there."""


class InterventionRecord(Frozen):
    """One violation and what was done about it; the fields are those of `Intervention`."""

    step: int
    position: int
    score_before: float
    score_after: float | None
    resamples: int
    prefix: int | None
    outcome: InterventionOutcome
    scores: tuple[float, ...] = ()
    where: Part = "trace"
    dropped_steps: int = 0
    empty_resamples: int = 0

    @classmethod
    def of(cls, intervention: Intervention) -> InterventionRecord:
        """The record of an intervention."""
        return cls(**asdict(intervention))


Noted = TypeVar("Noted", Intervention, InterventionRecord)
Line = TypeVar("Line", bound=Frozen)


def placed(interventions: Sequence[Noted]) -> list[tuple[int, Noted]]:
    """The interventions in a trace, each with the number of tokens before the place where it shows in the finished one.

    That is where it went on, or where a later rollback did that dropped this place.
    """
    inside = [each for each in interventions if each.where == "trace"]
    return [(min(later.position for later in inside[index:]), each) for index, each in enumerate(inside)]


class Record(Frozen):
    """One finished generation, judged."""

    phase: Phase
    row: str
    """Name of the row in the table."""
    benchmark: str
    """Name of the benchmark."""
    prompt: str
    """The prompt's id."""
    sample: int
    """Index of the prompt's seed."""
    outcome: Outcome
    trace_harmful: bool | None = False
    """Whether the trace gives the harm away by itself; None where the judge's verdict on it could not be read."""
    correct: bool | None = None
    closed: bool = False
    """Whether the thinking closed."""
    refused: bool = False
    """Whether the defense refused by itself, rather than the reasoner."""
    spans: tuple[Span, ...] = ()
    """The accepted trace as text."""
    answer: str = ""
    trace_ids: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    """Indices into `trace_ids` that a defense put there."""
    answer_ids: tuple[int, ...] = ()
    interventions: tuple[InterventionRecord, ...] = ()
    step_scores: tuple[float, ...] = ()
    """The monitor's first score of each step."""
    answer_scores: tuple[float, ...] = ()
    """The same of the answer's steps, where it was monitored."""
    sampled_tokens: int = 0
    """Tokens decoded, dropped ones included."""
    dropped_tokens: int = 0
    """Tokens decoded and then dropped."""
    forced_tokens: int = 0
    """Tokens injected, dropped ones included."""
    monitor_calls: int | None = None
    """Number of monitor calls; None in records of before it was counted."""
    monitor_tokens: int | None = None
    """Tokens that the monitor had to read; None where it does not say."""
    engine_seconds: float | None = None
    """The row's equal part of the time of each engine batch that it was in; None in records of before it was taken."""
    monitor_seconds: float | None = None
    """The same of the monitor's batches."""
    monitor_read_injected: bool = False
    """Whether the monitor read injected tokens too, as one on the reasoner's own hidden states cannot but do."""
    injected: str = ""
    """Fingerprint of the prefixes that the row injects; a rerun refuses records made with others."""
    transferred: bool = False
    """Whether the row's prefix was learned on another reasoner, tokenizer or chat template."""
    judge_note: str = ""
    """The judge's reason for an outcome that needs one, such as a tie or a reply without a verdict."""
    note: str = ""
    """Reason that a prompt was not run: empty, or longer than the context window."""
    category: str | None = None
    """The prompt's category, where its benchmark has one."""

    @property
    def key(self) -> Key:
        """Identity of this record across reruns."""
        return Key(self.phase, self.row, self.benchmark, self.prompt, self.sample)

    @property
    def trace(self) -> str:
        """The reasoner's own words, injected ones left out."""
        return "".join(span.text for span in self.spans if not span.forced)


class RecordWriter:
    """Appends records to a file, one line each.

    Opening an existing file cuts off a last line that a killed run left unfinished.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)
            if path.is_file():
                self._file.truncate(_end_of_last_line(path))

    def append(self, record: Frozen) -> None:
        """Write one line.

        Raises:
            RecordError: the line could not be written, for instance because the disk is full. What was written before
                stays readable.
        """
        line = memoryview(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            advice = "the records before stay, the same command resumes"
            raise RecordError(f"{self._path}: {error.strerror}; {advice}") from error

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Record]:
    """Read the records of a run, in the order in which they finished; as `read_lines`."""
    return read_lines(path, Record)


def read_lines(path: Path, schema: type[Line]) -> Iterator[Line]:
    """Read a file that a `RecordWriter` wrote, line by line; nothing where there is no file yet.

    A last line without its line break is skipped: its row was in flight when the run was killed.

    Raises:
        RecordError: another line is damaged; it is named.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield schema.model_validate_json(line)
            except ValidationError as error:
                reason = error.errors(include_url=False)[0]["msg"]
                raise RecordError(f"{path}:{number}: not a record ({reason})") from error


def _end_of_last_line(path: Path) -> int:
    with path.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))
