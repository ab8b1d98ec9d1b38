"""Responses that people labelled, read in the layouts in which their authors publish them, or in one's own.

A file is told by its columns: JailbreakBench's judge comparison, XSTest's completions, PyRIT's scorer evaluations,
HarmBench's results, and one's own CSV or JSONL with `prompt`, `response` and `label`. A row without a label is left out
and counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

from safethink.benchmarks.rows import FileFormat, local_rows
from safethink.benchmarks.text_files import Place, Placed, read_bytes
from safethink.errors import ConfigError
from safethink.prompts import PromptKind

Question: TypeAlias = Literal["harmful", "refusal"]
"""Question that the labels answer: whether the response does harm, or whether it refuses."""
Row: TypeAlias = Mapping[str, str]

MAJORITY: Final = "majority"
"""Name of the label that most annotators gave."""
HARMFUL_FROM: Final = 0.5
"""Grade of harm in [0, 1] from which a response counts as harmful, where annotators grade."""


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """A response and what people said of it.

    Attributes:
        id: file and row.
        prompt: what was asked.
        response: the response.
        labels: answer to the file's question, by annotator; with several, `MAJORITY` too where most agree.
        judges: the same by published judges.
        kind: kind of the prompt, where the file tells; None for an attack like the others.
        groups: what the row may be told apart by, such as its model.
    """

    id: str
    prompt: str
    response: str
    labels: Mapping[str, bool]
    judges: Mapping[str, bool] = field(default_factory=dict[str, bool])
    kind: PromptKind | None = None
    groups: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> bool | None:
        """The majority's label, or the only annotator's; None for a tie."""
        return self.labels.get(MAJORITY) if len(self.labels) > 1 else next(iter(self.labels.values()), None)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """Labelled responses of one file.

    Attributes:
        path: the file.
        layout: name of its layout.
        question: the question that its labels answer.
        rows: the labelled responses.
        oddities: what was read in another way than it stands there, or left out, in words.
    """

    path: Path
    layout: str
    question: Question
    rows: tuple[LabelledResponse, ...]
    oddities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Layout:
    """A published layout.

    Attributes:
        name: what it is called in messages.
        columns: columns by which it is told.
        question: the question that its labels answer, from its rows.
        read: a row as a labelled response, from its id, its columns and the file's name; None for one without a label.
    """

    name: str
    columns: frozenset[str]
    question: Callable[[Sequence[Row]], Question]
    read: Callable[[str, Row, str], LabelledResponse | None]


def load(path: Path) -> LabelledFile:
    """Read a file of labelled responses.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: it has another layout (its columns are named, and those of the layouts that are known), a row that
            does not fit (it is named), labels of harm and of refusals, or no labelled row.
    """
    encoding = _encoding(path)
    oddities = [] if encoding == "utf-8" else [f"read as {encoding}, in which it is published"]
    found = _by_behavior(list(local_rows(path, encoding, FileFormat(comment="#"))))
    rows = [(place, {key: _word(value) for key, value in row.items()}) for place, row in found]
    layout = _layout_of(path, list(rows[0][1]) if rows else [])
    read: list[LabelledResponse] = []
    for place, row in rows:
        try:
            response = layout.read(f"{path.name}:{place.row}", row, path.stem)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{place}: {_said(error)}") from error
        if response is not None:
            read.append(response)
    if not read:
        raise ConfigError(f"{path}: no labelled row, read as {layout.name}")
    if len(read) < len(rows):
        oddities.append(f"{len(rows) - len(read)} rows without a label or a response left out")
    try:
        question = layout.question([row for _, row in rows])
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return LabelledFile(path, layout.name, question, tuple(read), tuple(oddities))


def _said(error: Exception) -> str:
    return f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _encoding(path: Path) -> str:
    """Encoding of a file: JailbreakBench publishes its judge comparison in Mac Roman, and says nothing of it."""
    data = read_bytes(path)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "mac_roman" if b"human_majority" in data.partition(b"\n")[0] else "utf-8"
    return "utf-8"


def _by_behavior(rows: list[Placed]) -> list[Placed]:
    """The rows of HarmBench's results, which are one object of lists by behavior; any others as they are."""
    if len(rows) != 1 or not all(isinstance(value, list) for value in rows[0][1].values()):
        return rows
    place, whole = rows[0]
    members = [
        (behavior, row)
        for behavior, under in cast("Mapping[str, list[Mapping[str, object]]]", whole).items()
        for row in under
    ]
    return [
        (Place(place.source, number), {"BehaviorID": behavior, **row})
        for number, (behavior, row) in enumerate(members, start=1)
    ]


def _word(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _layout_of(path: Path, columns: Sequence[str]) -> _Layout:
    found = next((layout for layout in LAYOUTS if layout.columns <= set(columns)), None)
    if found is None:
        known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.columns))}" for layout in LAYOUTS)
        has = ", ".join(columns) or "no columns"
        raise ConfigError(f"{path}: labelled responses in a layout that is not known, with {has}; known are {known}")
    return found


def _labelled(labels: Mapping[str, bool | None]) -> dict[str, bool]:
    """The labels that were given, and of several the majority's."""
    given = {name: label for name, label in labels.items() if label is not None}
    votes = Counter(given.values())
    majority = {} if len(given) < 2 or votes[True] == votes[False] else {MAJORITY: votes[True] > votes[False]}
    return given | majority


_YES: Final = frozenset({"1", "true", "yes", "harmful", "unsafe", "refusal", "refused", "2_full_refusal"})
_NO: Final = frozenset(
    {"0", "false", "no", "harmless", "unharmful", "safe", "compliance", "complied", "helpful", "1_full_compliance"}
)


def _flag(said: str) -> bool | None:
    """A label as yes or no; None for an empty one, and for the -1 of a judge that gave no verdict.

    Raises:
        ValueError: it is neither.
    """
    word = said.strip().casefold()
    if word in ("", "-1", "nan", "null", "none"):
        return None
    if word in _YES or word in _NO:
        return word in _YES
    try:
        grade = float(word)
    except ValueError:
        raise ValueError(f"the label {said!r} is neither yes nor no") from None
    if not 0 <= grade <= 1:
        raise ValueError(f"the grade {said!r} is outside 0 to 1")
    return grade >= HARMFUL_FROM


def _jailbreakbench(place: str, row: Row, stem: str) -> LabelledResponse:
    people = {name: _flag(said) for name, said in row.items() if re.fullmatch(r"human\d+", name)}
    majority = _flag(row["human_majority"])
    judges = {name.removesuffix("_cf"): _flag(said) for name, said in row.items() if name.endswith("_cf")}
    # Its harmless rows are XSTest's safe prompts as they stand; every attack wraps its goal in something.
    is_attack = row["goal"].strip() != row["prompt"].strip()
    return LabelledResponse(
        place,
        row["prompt"],
        row["target_response"],
        _labelled(people) | ({} if majority is None else {MAJORITY: majority}),
        {name: said for name, said in judges.items() if said is not None},
        kind="jailbreak" if is_attack else "harmless",
        groups={"source": "attacks" if is_attack else "XSTest-safe"},
    )


def _xstest(place: str, row: Row, stem: str) -> LabelledResponse:
    # A partial refusal opens as a refusal and holds some help; it counts as one, as in the authors' own rates.
    def refused(said: str) -> bool | None:
        return True if said.strip() == "3_partial_refusal" else _flag(said)

    people = {name: refused(said) for name, said in row.items() if name.startswith("annotation_")}
    final = refused(row["final_label"])
    is_unsafe = row["type"].startswith("contrast_")
    return LabelledResponse(
        place,
        row["prompt"],
        row["completion"],
        _labelled(people) | ({} if final is None else {MAJORITY: final}),
        kind="harmful" if is_unsafe else "borderline",
        groups={
            "model": stem.rpartition("completions_")[2],
            "prompts": "unsafe" if is_unsafe else "safe",
            "label": row["final_label"],
        },
    )


def _pyrit(place: str, row: Row, stem: str) -> LabelledResponse | None:
    people = {name: _flag(said) for name, said in row.items() if re.fullmatch(r"human_score(_\d+)?", name)}
    labels = _labelled(people)
    if not labels or not row["assistant_response"].strip():
        return None
    category = row.get("harm_category", "").casefold()
    groups = {"category": category} if category else {}
    return LabelledResponse(place, row["objective"], row["assistant_response"], labels, groups=groups)


def _harmbench(place: str, row: Row, stem: str) -> LabelledResponse | None:
    people = {name: _flag(said) for name, said in row.items() if re.fullmatch(r"human_\d+", name)}
    labels = _labelled(people or {"label": _flag(row["label"])})
    if not labels:
        return None
    groups = {"model": row["model"]} if "model" in row else {}
    return LabelledResponse(place, row["test_case"], row["generation"], labels, groups=groups)


_OWN_GROUPS: Final = ("model", "source", "category")
_KINDS: Final = ("jailbreak", "harmful", "harmless", "borderline")


def _own(place: str, row: Row, stem: str) -> LabelledResponse | None:
    people = {
        name.removeprefix("label_") or name: _flag(said)
        for name, said in row.items()
        if name == "label" or name.startswith("label_")
    }
    if not people:
        raise KeyError("label")
    labels = _labelled(people)
    if not labels:
        return None
    kind = row.get("kind") or None
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"the kind {kind!r} is not one of {', '.join(_KINDS)}")
    groups = {name: row[name] for name in _OWN_GROUPS if row.get(name)}
    return LabelledResponse(row.get("id") or place, row["prompt"], row["response"], labels, kind=kind, groups=groups)


def _harm(rows: Sequence[Row]) -> Question:
    return "harmful"


def _refusals(rows: Sequence[Row]) -> Question:
    return "refusal"


def _graded(rows: Sequence[Row]) -> Question:
    return "harmful" if "harm_category" in rows[0] else "refusal"


_OF_HARM: Final = frozenset({"harmful", "unsafe", "harmless", "unharmful", "safe"})
_OF_REFUSALS: Final = frozenset({"refusal", "refused", "2_full_refusal", "compliance", "complied", "1_full_compliance"})


def _worded(rows: Sequence[Row]) -> Question:
    """The question that the words of the labels answer; harm, where they are bare yes and no.

    Raises:
        ValueError: some are of harm and some of refusals, so that yes would mean the one here and the other there.
    """
    labels = (value for row in rows for name, value in row.items() if name == "label" or name.startswith("label_"))
    said = {value.strip().casefold() for value in labels}
    harm, refusals = sorted(said & _OF_HARM), sorted(said & _OF_REFUSALS)
    if harm and refusals:
        raise ValueError(
            f"labels of harm ({', '.join(harm)}) and of refusals ({', '.join(refusals)}) in one file answer two "
            "questions: give each a file of its own"
        )
    return "refusal" if refusals else "harmful"


LAYOUTS: Final = (
    _Layout(
        "JailbreakBench's judge comparison",
        frozenset({"goal", "prompt", "target_response", "human_majority"}),
        _harm,
        _jailbreakbench,
    ),
    _Layout("XSTest's completions", frozenset({"prompt", "completion", "type", "final_label"}), _refusals, _xstest),
    _Layout("PyRIT's scorer evaluation", frozenset({"objective", "assistant_response"}), _graded, _pyrit),
    _Layout("HarmBench's results", frozenset({"test_case", "generation", "label"}), _harm, _harmbench),
    _Layout("one's own", frozenset({"prompt", "response"}), _worded, _own),
)
"""Layouts that are known, the most particular first."""
