"""States in which a prefix may be injected, and sets of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias

from pydantic import Field, ValidationError

from safethink.errors import RecordError
from safethink.files import json_hash, write_text
from safethink.frozen import Growing
from safethink.prompts import Prompt

TargetSource: TypeAlias = Literal["resampled", "prefix", "own_refusal", "written_refusal"]
"""Origin of a target: sampled with nothing injected; sampled behind a written prefix that is no part of it; the
reasoner's own opening of a refusal; a written opening."""


TOLD: Final[Mapping[TargetSource, str]] = {
    "resampled": "sampled with nothing injected",
    "prefix": "sampled behind a written prefix",
    "own_refusal": "openings of the reasoner's own refusals",
    "written_refusal": "written openings of refusals",
}
"""Origins in words."""
SHOWN: Final = 5
"""Dropped states that are named on one line; the file has all names."""


class Context(Growing):
    """A state in which a prefix may be injected."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"target_source"})

    prompt: Prompt
    """The prompt that opens the trace."""
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
    target_source: TargetSource = "resampled"
    """Origin of a mined target."""

    @property
    def name(self) -> str:
        """Prompt and step, for a reader."""
        return f"{self.prompt.id} at step {self.depth + 1}"

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and trace, which a prefix follows."""
        return self.prompt_ids + self.trace_ids


class ContextSet(Growing):
    """The contexts of one split, and how many there were to choose from."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"num_targets", "dropped"})

    unsafe: tuple[Context, ...]
    """Contexts at which the monitor fired."""
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
    num_targets: dict[TargetSource, int] = Field(default_factory=dict[TargetSource, int])
    """States with a target by its origin, where fall-backs were needed; else all were resampled."""
    dropped: tuple[str, ...] = ()
    """Names of the states for which no fall-back found a target either, prompt and step; they were left out."""
    source: str = ""
    """Hash of what they were collected from: prompts and weights."""

    @property
    def fingerprint(self) -> str:
        """Hash of all contexts, targets included."""
        return json_hash(self.model_dump(mode="json"))

    def told(self) -> str:
        """The counts in one line."""
        with_target = f", {self.num_mined - self.num_without_target} of {self.num_mined} with a safe continuation"
        return (
            f"the monitor fired on {self.num_fired} of {self.num_watched} attack prompts"
            f"{with_target if self.num_mined else ''}; {len(self.unsafe)} contexts, {len(self.harmless)} harmless ones"
            f"{self._told_of_fallbacks()}"
        )

    def _told_of_fallbacks(self) -> str:
        """The origins of the targets, and what was dropped; empty where resampling was enough."""
        if not self.num_targets:
            return ""
        targets = ", ".join(f"{count} {TOLD[source]}" for source, count in self.num_targets.items())
        names = ", ".join(self.dropped[:SHOWN]) + (", ..." if len(self.dropped) > SHOWN else "")
        return f"; targets: {targets}" + (f"; dropped {len(self.dropped)} states: {names}" if self.dropped else "")

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


def counted(contexts: Sequence[Context]) -> dict[TargetSource, int]:
    """Number of targets by origin; nothing where all were sampled with nothing injected."""
    counts = Counter(context.target_source for context in contexts if context.target_ids)
    return {} if set(counts) <= {"resampled"} else {source: counts[source] for source in TOLD if source in counts}


def spread(states: Sequence[Context]) -> list[Context]:
    """Order states so that any beginning holds about equally many of every depth."""
    by_depth: dict[int, list[Context]] = defaultdict(list)
    for state in states:
        by_depth[state.depth].append(state)
    rounds = zip_longest(*(by_depth[depth] for depth in sorted(by_depth)))
    return [state for state in chain.from_iterable(rounds) if state is not None]
