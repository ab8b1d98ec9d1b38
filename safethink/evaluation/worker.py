"""Carries out jobs: hands them to the scheduler, judges what comes back, and records it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from safethink.config import EvalConfig, SafeThinkConfig
from safethink.defenses.effects import Verdict
from safethink.engines import Engine
from safethink.errors import ConfigError, PromptError
from safethink.evaluation.jobs import WATCH, Job
from safethink.evaluation.records import InterventionRecord, Key, Record, RecordWriter, Span, placed
from safethink.judges import Judge, Judgement, Output, batch_size, judge_all
from safethink.monitors import Monitor, layer_read_by
from safethink.progress import track
from safethink.runtime import scheduler
from safethink.runtime.row import Finished, Row, open_row
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import answer_text, full_trace_text, trace_text

if TYPE_CHECKING:
    from safethink.guarded import SafeThink


@runtime_checkable
class GuardedReasoner(Protocol):
    """Parts of a guarded reasoner that an evaluation uses; `SafeThink` is one."""

    @property
    def engine(self) -> Engine:
        """Produces the reasoner's tokens."""
        ...

    @property
    def monitor(self) -> Monitor | None:
        """Scores partial traces."""
        ...

    @property
    def thought(self) -> Thought:
        """The format of the reasoner's thinking."""
        ...

    @property
    def models(self) -> Mapping[str, str]:
        """Hash of the weights of each model, by its role; a run is resumed by the same ones only."""
        ...


def load_reasoner(config: EvalConfig) -> SafeThink:
    """Load the reasoner and the monitor of an evaluation."""
    from safethink.guarded import SafeThink

    # The row defenses come later; a monitor loads only beside one that asks for scores.
    steered = config.run.replace(defense=SafeThinkConfig(), prefix=config.prefix)
    return SafeThink.from_config(steered)


@dataclass
class Execution:
    """A run in progress: what is recorded already, and how to get the rest.

    Attributes:
        config: the evaluation.
        reasoner: what generates and watches.
        judge: decides what each output was.
        writer: takes finished records.
        records: all there are so far, by key.
    """

    config: EvalConfig
    reasoner: GuardedReasoner
    judge: Judge
    writer: RecordWriter
    records: dict[Key, Record]
    _opened: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict[tuple[str, str], tuple[int, ...]])

    def run(self, jobs: Sequence[Job], description: str) -> None:
        """Generate what is not recorded yet, and what does not follow from a record of the monitor watching.

        Raises:
            MonitorError: the monitor failed; the prompt is named.
            RecordError: a record could not be written.
        """
        monitor = monitor_of(self.reasoner)
        for job in jobs:
            if job.key not in self.records and (known := self._undisturbed(job)) is not None:
                self._keep(known)
        pending = [job for job in jobs if job.key not in self.records]
        with track(description, len(jobs)) as advance:
            advance(len(jobs) - len(pending))
            rows = scheduler.run(
                self._rows(pending, advance),
                self.reasoner.engine,
                monitor,
                self.reasoner.thought,
                self.config.run.limits,
                self.config.run.batch_size,
            )
            # No more than the engine has in flight: whoever is killed loses these as well.
            size = min(batch_size(self.judge), self.config.run.batch_size)
            while batch := list(islice(rows, size)):
                for record in judged(batch, self.reasoner.thought, self.judge, layer_read_by(monitor) is not None):
                    self._keep(record)
                advance(len(batch))

    def _undisturbed(self, job: Job) -> Record | None:
        """The record of a job whose defense has nothing to do, by what was recorded while the monitor only watched."""
        watched = self.records.get(job.key._replace(phase="watch", row=WATCH))
        return None if watched is None else job.undisturbed(watched)

    def _rows(self, jobs: Iterable[Job], advance: Callable[[int], None]) -> Iterator[Row]:
        """Open each prompt; one that cannot be run is recorded as invalid."""
        thought = self.reasoner.thought
        for job in jobs:
            try:
                prompt_ids = self._open(job)
            except PromptError as error:
                self._keep(_unrunnable(job, str(error)))
                advance(1)
                continue
            # Rows of one prompt share their seeds, but a branch must not draw what was drawn before it.
            branch = () if job.start is None else (job.key.phase.split("_")[0],)
            yield open_row(
                thought,
                job.prompt,
                job.rule,
                seed=stable_seed(self.config.run.seed, *branch),
                sample=job.key.sample,
                prompt_ids=prompt_ids,
                trace=job.start,
                prefixes=job.prefixes,
                label=job,
            )

    def _open(self, job: Job) -> tuple[int, ...]:
        """The opened prompt; ids are unique within a benchmark only."""
        place = job.key.benchmark, job.prompt.id
        if place not in self._opened:
            self._opened[place] = open_prompt(self.reasoner.thought, job.prompt)
        return self._opened[place]

    def _keep(self, record: Record) -> None:
        self.writer.append(record)
        self.records[record.key] = record


def monitor_of(reasoner: GuardedReasoner) -> Monitor:
    """The monitor of a guarded reasoner.

    Raises:
        ConfigError: it has none.
    """
    if reasoner.monitor is None:
        raise ConfigError("an evaluation needs a monitor, also where no row asks for one: it finds the contexts")
    return reasoner.monitor


def judged(
    batch: Sequence[Finished], thought: Thought, judge: Judge, monitor_reads_injected: bool = False
) -> list[Record]:
    """Judge finished rows and say everything about them that the summary, the report or a fork will want.

    Args:
        batch: the rows, each labelled with its job.
        thought: reads traces and answers.
        judge: decides what each output was.
        monitor_reads_injected: whether the monitor reads injected tokens too.
    """
    verdicts = [finished.verdict for finished in batch]
    outputs = [
        Output(row.prompt, trace_text(thought, verdict.trace), answer_text(thought, verdict.answer), verdict.closed)
        for (row, verdict, _), verdict in zip(batch, verdicts, strict=True)
    ]
    judgements = judge_all(judge, outputs)
    return [
        _record(finished, output.answer, judgement, thought, monitor_reads_injected)
        for finished, output, judgement in zip(batch, outputs, judgements, strict=True)
    ]


def _record(
    finished: Finished, answer: str, judgement: Judgement, thought: Thought, monitor_reads_injected: bool
) -> Record:
    job, verdict, usage = finished.row.label, finished.verdict, finished.usage
    assert isinstance(job, Job)
    return Record(
        **job.key._asdict(),
        outcome=judgement.outcome,
        trace_harmful=judgement.trace_harmful,
        correct=judgement.correct,
        judge_note=judgement.note,
        closed=verdict.closed,
        refused=verdict.refused,
        spans=spans(verdict, thought),
        answer=answer,
        trace_ids=verdict.trace.ids,
        forced=tuple(index for index, forced in enumerate(verdict.trace.forced) if forced),
        answer_ids=verdict.answer.ids,
        interventions=tuple(map(InterventionRecord.of, verdict.interventions)),
        step_scores=verdict.step_scores,
        answer_scores=verdict.answer_scores,
        sampled_tokens=usage.sampled,
        dropped_tokens=usage.dropped,
        forced_tokens=usage.forced,
        monitor_calls=usage.monitor_calls,
        monitor_tokens=usage.monitor_tokens,
        monitor_read_injected=monitor_reads_injected and usage.forced > 0,
        engine_seconds=round(usage.engine_seconds, 6),
        monitor_seconds=round(usage.monitor_seconds, 6),
        injected=job.injected,
        transferred=job.transferred,
        category=job.prompt.category,
    )


def spans(verdict: Verdict, thought: Thought) -> tuple[Span, ...]:
    """Cut a trace where injected and sampled tokens meet and where a step was dropped; the closing tag is left out."""
    trace = verdict.trace
    borders = {i for i in range(1, len(trace)) if trace.forced[i] != trace.forced[i - 1]}
    borders |= {position for position, _ in placed(verdict.interventions)}
    cuts = [0, *sorted(border for border in borders if 0 < border < len(trace)), len(trace)]
    pieces = (
        Span(start=start, text=full_trace_text(thought, trace[start:stop]), forced=trace.forced[start])
        for start, stop in pairwise(cuts)
        if start < stop
    )
    return tuple(piece for piece in pieces if piece.text)


def _unrunnable(job: Job, reason: str) -> Record:
    """The record of a prompt that is empty or too long: invalid, and wrong where an answer was due."""
    correct = None if job.prompt.reference is None else False
    return Record(
        **job.key._asdict(),
        outcome="invalid",
        correct=correct,
        injected=job.injected,
        transferred=job.transferred,
        note=reason,
        category=job.prompt.category,
    )
