"""A judge measured against people, on responses that they labelled, and the correction that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import Field, ValidationError

from safethink import files
from safethink.benchmarks import labelled
from safethink.benchmarks.labelled import MAJORITY, LabelledFile, LabelledResponse, Question
from safethink.config import JudgeCheckConfig, yaml_config
from safethink.config.mismatch import refuse_other
from safethink.errors import ConfigError, MissingFileError
from safethink.evaluation.agreement import Agreement, agreement
from safethink.evaluation.correction import ErrorRates
from safethink.evaluation.records import RecordWriter, read_lines
from safethink.files import json_hash
from safethink.frozen import Frozen
from safethink.judges import Output, batch_size, judge_all
from safethink.judges.build import BuiltJudge, build
from safethink.progress import track
from safethink.prompts import Message, Prompt

RESULT, CONFIG, VERDICTS, REPLIES = "judge_check.json", "config.yaml", "verdicts.jsonl", "replies.jsonl"

Said: TypeAlias = bool | None
"""A judge's answer to the question of the labels; None where it gave no verdict."""
Rows: TypeAlias = Sequence[LabelledResponse]

ATTACKS: Final = ("jailbreak", "harmful")


class JudgeCheck(Frozen):
    """Contents of judge_check.json."""

    judge: str
    """Name of the judge."""
    fingerprint: str
    """Hash of all that its verdicts depend on; a correction holds for this judge alone."""
    question: Question
    """Question that the labels answer."""
    files: dict[str, str]
    """Layout of each file, by its name."""
    n: int
    """Number of labelled responses."""
    unjudged: int
    """Those on which the judge gave no verdict; they stand in no number."""
    notes: dict[str, int] = Field(default_factory=dict)
    """Reasons for that, and how often each was given."""
    oddities: tuple[str, ...] = ()
    """Rows left out, and encodings, in words."""
    annotators: dict[str, Agreement]
    """The judge against each annotator, and against the majority of several."""
    published: dict[str, Agreement] = Field(default_factory=dict)
    """Published judges against the majority, on the same responses."""
    groups: dict[str, dict[str, Agreement]] = Field(default_factory=dict)
    """The judge against the majority, by what the files tell responses apart by, such as their model."""
    error_rates: ErrorRates | None = None
    """Counts by which `evaluate` corrects an ASR; None where the labels are of refusals."""


class CheckPlan(Frozen):
    """Work of a judge-check, before anything is loaded."""

    question: Question
    responses: int
    """Number of labelled responses; a large model is asked once about each."""
    files: dict[str, int]
    """The same by file."""


class _Verdict(Frozen):
    """One line of verdicts.jsonl."""

    response: str
    """Hash of prompt, response, question and judge: a verdict answers for nothing else."""
    said: bool | None
    note: str = ""


def plan(paths: Sequence[Path]) -> CheckPlan:
    """Count what there is to judge; loads no model.

    Raises:
        MissingFileError: a file is not there.
        ConfigError: a file cannot be read, or the files answer different questions.
    """
    read = load(paths)
    return CheckPlan(
        question=read[0].question,
        responses=sum(len(each.rows) for each in read),
        files={each.path.name: len(each.rows) for each in read},
    )


def load(paths: Sequence[Path]) -> list[LabelledFile]:
    """Read files of labelled responses that answer the same question; raises what `plan` does."""
    if not paths:
        raise ConfigError("judge-check needs a file of labelled responses: --labels FILE")
    read = [labelled.load(path) for path in paths]
    other = next((each for each in read if each.question != read[0].question), None)
    if other is not None:
        first = read[0]
        raise ConfigError(
            f"{first.path} labels whether responses are {first.question}, {other.path} whether they are "
            f"{other.question}: check them one by one"
        )
    return read


def check(config: JudgeCheckConfig, paths: Sequence[Path], out: Path) -> JudgeCheck:
    """Judge labelled responses and compare, or take up a check where it was interrupted.

    Writes `config.yaml`, `verdicts.jsonl`, `judge_check.json`, and `replies.jsonl` where a large model judges.

    Args:
        config: the judge.
        paths: files of labelled responses.
        out: folder of the run.

    Raises:
        MissingFileError: a file or a model is not there.
        ConfigError: a file cannot be read, the judge cannot be built, or `out` belongs to another judge.
        MonitorError: a guard failed; the row is named.
        ServerError: an endpoint cannot be reached; what was answered is kept.
        RecordError: a file cannot be written.
    """
    read = load(paths)
    with files.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    judge = build(config.judge, out / REPLIES)
    _claim(out, config, judge)
    rows = [row for each in read for row in each.rows]
    result = compare(judge, read, _judged(judge, rows, read[0].question, out / VERDICTS))
    files.write_text(out / RESULT, result.model_dump_json(indent=2) + "\n")
    return result


def read(folder: Path) -> JudgeCheck:
    """The result of a check.

    Raises:
        MissingFileError: the folder holds none.
        ConfigError: it is damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        raise MissingFileError(f"{folder} is no finished judge-check: it has no {RESULT}")
    try:
        return JudgeCheck.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError(f"{path}: no result of a judge-check: {error.errors(include_url=False)[0]['msg']}") from error


def compare(judge: BuiltJudge, read: Sequence[LabelledFile], verdicts: Sequence[_Verdict]) -> JudgeCheck:
    """Compare verdicts with labels.

    Args:
        judge: the judge.
        read: the files.
        verdicts: one per labelled response, in order.
    """
    rows = [row for each in read for row in each.rows]
    said = [verdict.said for verdict in verdicts]
    question = read[0].question
    majority = [row.label for row in rows]
    return JudgeCheck(
        judge=judge.name,
        fingerprint=judge.fingerprint,
        question=question,
        files={each.path.name: each.layout for each in read},
        n=len(rows),
        unjudged=sum(each is None for each in said),
        notes=_counted(verdict.note for verdict in verdicts if verdict.said is None),
        oddities=tuple(f"{each.path.name}: {oddity}" for each in read for oddity in each.oddities),
        annotators={name: _agreement(rows, said, [row.labels.get(name) for row in rows]) for name in _annotators(rows)},
        published=_published(rows),
        groups=_by_group(rows, said),
        error_rates=_error_rates(rows, said, majority) if question == "harmful" else None,
    )


def _claim(out: Path, config: JudgeCheckConfig, judge: BuiltJudge) -> None:
    path = out / CONFIG
    if path.is_file() and (out / VERDICTS).is_file():
        refuse_other(path, yaml_config.load(JudgeCheckConfig, path), config, "a check of another judge")
        if (out / RESULT).is_file() and read(out).fingerprint != judge.fingerprint:
            raise ConfigError(f"{out} was judged by other weights, phrases or words of the judge; use another --out")
    files.write_text(path, yaml_config.dump(config))


def _judged(judge: BuiltJudge, rows: Rows, question: Question, path: Path) -> list[_Verdict]:
    """A verdict on every response, in order; those on file are not asked for again."""
    known = {verdict.response: verdict for verdict in read_lines(path, _Verdict)}
    keys = [_hash(row, question, judge) for row in rows]
    pending = [*{key: row for key, row in zip(keys, rows, strict=True) if key not in known}.items()]
    size = max(batch_size(judge.judge), 64)
    with track("judging", len(rows)) as advance, RecordWriter(path) as writer:
        advance(len(rows) - len(pending))
        for start in range(0, len(pending), size):
            batch = pending[start : start + size]
            judgements = judge_all(judge.judge, [_output(row) for _, row in batch])
            for (key, _), judgement in zip(batch, judgements, strict=True):
                said = None if judgement.outcome == "unjudged" else judgement.outcome == question
                known[key] = _Verdict(response=key, said=said, note=judgement.note)
                writer.append(known[key])
            advance(len(batch))
    return [known[key] for key in keys]


def _output(row: LabelledResponse) -> Output:
    """The response as an output; a prompt of no known kind is taken for a harmful one, as every row of an attack is."""
    prompt = Prompt(id=row.id, messages=(Message(role="user", content=row.prompt),), kind=row.kind or "harmful")
    return Output(prompt, trace="", answer=row.response)


def _hash(row: LabelledResponse, question: Question, judge: BuiltJudge) -> str:
    return json_hash([row.prompt, row.response, row.kind, question, judge.fingerprint])


def _annotators(rows: Rows) -> list[str]:
    """Names of those who labelled, the majority first."""
    names = dict.fromkeys(name for row in rows for name in row.labels)
    return sorted(names, key=lambda name: name != MAJORITY)


def _agreement(rows: Rows, said: Sequence[Said], labels: Sequence[Said]) -> Agreement:
    """Agreement where there are both a verdict and a label."""
    both = [
        (verdict, label, row.prompt)
        for row, verdict, label in zip(rows, said, labels, strict=True)
        if verdict is not None and label is not None
    ]
    return agreement([verdict for verdict, _, _ in both], [label for _, label, _ in both], [unit for *_, unit in both])


def _published(rows: Rows) -> dict[str, Agreement]:
    """Published judges against the majority: on all responses, and on those to attacks where there are others."""
    attacks = [row for row in rows if is_attack(row)]
    parts = {"": rows} if len(attacks) in (0, len(rows)) else {"": rows, ", attacks": attacks}
    return {
        f"{name}{part}": _agreement(own, [row.judges.get(name) for row in own], [row.label for row in own])
        for part, own in parts.items()
        for name in dict.fromkeys(name for row in own for name in row.judges)
    }


def _by_group(rows: Rows, said: Sequence[Said]) -> dict[str, dict[str, Agreement]]:
    out: dict[str, dict[str, Agreement]] = {}
    for what in dict.fromkeys(what for row in rows for what in row.groups):
        for value in dict.fromkeys(row.groups[what] for row in rows if what in row.groups):
            own = [(row, verdict) for row, verdict in zip(rows, said, strict=True) if row.groups.get(what) == value]
            members = [row for row, _ in own]
            labels = [row.label for row in members]
            out.setdefault(what, {})[value] = _agreement(members, [verdict for _, verdict in own], labels)
    return out


def is_attack(row: LabelledResponse) -> bool:
    """Whether a response answers an attack; one to a prompt of no known kind does."""
    return row.kind is None or row.kind in ATTACKS


def _error_rates(rows: Rows, said: Sequence[Said], labels: Sequence[bool | None]) -> ErrorRates:
    """Counts on attacks alone, for those are what an ASR is over."""
    seen = [
        (verdict, label)
        for row, verdict, label in zip(rows, said, labels, strict=True)
        if verdict is not None and label is not None and is_attack(row)
    ]
    return ErrorRates(
        harmful=sum(label for _, label in seen),
        found=sum(verdict and label for verdict, label in seen),
        harmless=sum(not label for _, label in seen),
        cleared=sum(not verdict and not label for verdict, label in seen),
    )


def _counted(notes: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for note in notes:
        counts[note] = counts.get(note, 0) + 1
    return counts
