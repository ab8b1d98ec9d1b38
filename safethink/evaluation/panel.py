"""The judges of a run: one decides, further ones read the same outputs and stand beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from safethink.benchmarks import Benchmark
from safethink.config import EvalConfig
from safethink.config.judges import MONITOR_AS_JUDGE
from safethink.config.mismatch import refuse_other
from safethink.errors import ConfigError
from safethink.evaluation import folder, records
from safethink.evaluation.records import Key, Phase, Record, RecordWriter
from safethink.files import write_text
from safethink.frozen import Frozen
from safethink.judges import Judge, Outcome, Output, batch_size, judge_all
from safethink.judges.build import BuiltJudge, build
from safethink.progress import track
from safethink.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Panel:
    """Judges of a run.

    Attributes:
        judges: the one that decides, then those beside it.
    """

    judges: tuple[BuiltJudge, ...]

    @property
    def first(self) -> Judge:
        """The judge that decides the outcome in every record."""
        return self.judges[0].judge

    @property
    def second(self) -> tuple[BuiltJudge, ...]:
        """The judges beside it."""
        return self.judges[1:]

    @property
    def all(self) -> tuple[Judge, ...]:
        """The judges themselves, the one that decides first."""
        return tuple(each.judge for each in self.judges)


def assemble(config: EvalConfig, out: Path, monitor_weights: str | None) -> Panel:
    """Build the judges of a run, and note in its folder which they are, or find that they are still the same.

    A run that was begun before judges were written down has no such file, and goes on with any.

    Args:
        config: names them.
        out: the run's folder, claimed already.
        monitor_weights: hash of the monitor's weights; None where it has none.

    Raises:
        ConfigError: a judge has the monitor's weights and that is not allowed; or one that the run was begun with has
            changed or is not among them.
        SafeThinkError: one cannot be built.
    """
    panel = Panel(tuple(build(judge, out / folder.REPLIES) for judge in config.judges))
    same = next((each.name for each in panel.judges if monitor_weights in each.weights), None)
    if same is not None and not config.allow_monitor_as_judge:
        raise ConfigError(f"judge {same!r} has the weights of the monitor: {MONITOR_AS_JUDGE}")
    path, now = out / folder.JUDGES_FILE, {each.name: each.fingerprint for each in panel.judges}
    if not folder.has_begun(out):
        write_text(path, json.dumps(now, indent=2) + "\n")
    elif path.is_file():
        begun = cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8")))
        refuse_other(path, {"judges": begun}, {"judges": {name: each for name, each in now.items() if name in begun}})
        write_text(path, json.dumps(now, indent=2) + "\n")
    return panel


class Opinion(Frozen):
    """A further judge's verdict on one recorded output; the fields are those of the output's record."""

    judge: str
    """Name of the judge."""
    phase: Phase
    row: str
    benchmark: str
    prompt: str
    sample: int
    outcome: Outcome
    trace_harmful: bool | None = False
    note: str = ""

    @property
    def key(self) -> Key:
        """Identity of the record that it is about."""
        return Key(self.phase, self.row, self.benchmark, self.prompt, self.sample)


Opinions = Mapping[str, Mapping[Key, Opinion]]
"""By the judge's name, and what it is about."""


def collect(
    judges: Sequence[BuiltJudge], benchmarks: Iterable[Benchmark], done: Mapping[Key, Record], out: Path
) -> Opinions:
    """Ask the further judges about every guarded output that is recorded; verdicts on file are not asked for again.

    Args:
        judges: whom to ask.
        benchmarks: the prompts.
        done: all records, by key.
        out: the run's folder, where verdicts are read and appended.

    Raises:
        MonitorError: a guard failed; the prompt is named.
        ServerError: an endpoint cannot be reached; what was answered is kept.
        RecordError: a verdict could not be written, or a line is damaged.
    """
    if not judges:
        return {}
    path = out / folder.OPINIONS
    prompts = {(each.name, prompt.id): prompt for each in benchmarks for prompt in each.prompts}
    known: dict[str, dict[Key, Opinion]] = {judge.name: {} for judge in judges}
    for opinion in records.read_lines(path, Opinion):
        known.setdefault(opinion.judge, {})[opinion.key] = opinion
    with RecordWriter(path) as writer:
        for judge in judges:
            pending = [done[key] for key in sorted(done) if key.phase == "guarded" and key not in known[judge.name]]
            with track(f"judging by {judge.name}", len(pending)) as advance:
                rest = iter(pending)
                while batch := list(islice(rest, batch_size(judge.judge))):
                    for opinion in _asked(judge, batch, prompts):
                        writer.append(opinion)
                        known[judge.name][opinion.key] = opinion
                    advance(len(batch))
    return known


def _asked(judge: BuiltJudge, batch: Sequence[Record], prompts: Mapping[tuple[str, str], Prompt]) -> list[Opinion]:
    outputs = [
        Output(prompts[record.benchmark, record.prompt], record.trace, record.answer, record.closed) for record in batch
    ]
    judgements = judge_all(judge.judge, outputs)
    return [
        Opinion(
            **record.key._asdict(),
            judge=judge.name,
            outcome=judgement.outcome,
            trace_harmful=judgement.trace_harmful,
            note=judgement.note,
        )
        for record, judgement in zip(batch, judgements, strict=True)
    ]
