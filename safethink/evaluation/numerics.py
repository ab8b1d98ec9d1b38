"""numerics.json: the numerical settings that a run is made with, so that nothing is paired over unlike ones.

The configuration says what was asked for; `auto` and None become one thing on one machine and another on the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from pydantic import ValidationError

from safethink.config.mismatch import refuse_other
from safethink.config.yaml_config import explain
from safethink.errors import RecordError
from safethink.files import write_text
from safethink.frozen import Frozen
from safethink.models.numerics import Numerics

NUMERICS: Final = "numerics.json"


@runtime_checkable
class NumericReasoner(Protocol):
    """A guarded reasoner that says with which numerical settings its models were loaded."""

    @property
    def numerics(self) -> Mapping[str, Numerics]:
        """Settings of each model that is loaded here, by its role; those behind a server are not known."""
        ...


class RunNumerics(Frozen):
    """Numerical settings of a run."""

    models: dict[str, Numerics]
    """Of each model that is loaded here, by its role."""
    batch_size: int
    """The most rows decoded at once."""
    torch: str
    """Version of the library."""
    transformers: str
    """Likewise."""

    @classmethod
    def of(cls, reasoner: object, batch_size: int) -> RunNumerics | None:
        """The settings of `reasoner`; None where it does not tell."""
        if not isinstance(reasoner, NumericReasoner):
            return None
        models = dict(reasoner.numerics)
        return cls(models=models, batch_size=batch_size, torch=version("torch"), transformers=version("transformers"))

    @property
    def decisive(self) -> dict[str, object]:
        """Settings that must be alike where runs are paired, by dotted key.

        The size of a batch decides in a half precision alone, see `HALF`. The device and the versions of libraries are
        written down and not compared: a run may move.
        """
        found: dict[str, object] = {}
        for role, each in self.models.items():
            values = {"dtype": each.dtype, "attention": each.attention, "quantization": each.quantization}
            found |= {f"{role}.{key}": value for key, value in values.items()}
        if any(each.is_half for each in self.models.values()):
            found["batch_size"] = self.batch_size
        return found


def claim(folder: Path, now: RunNumerics | None, has_begun: bool) -> RunNumerics | None:
    """Note with which settings a run is made, or find that they are still the same.

    Args:
        folder: of the run, claimed already.
        now: the settings; None where they are not known.
        has_begun: whether anything was made in it before.

    Returns:
        What is written there. None where the run was begun before settings were written down; it goes on with any.

    Raises:
        ConfigError: it was begun with others; the first that differs is named, and both values.
        RecordError: the file cannot be written, or is damaged.
    """
    if has_begun:
        begun = read(folder)
        _refuse_unlike(folder / NUMERICS, begun, now, "use another --out")
        return begun
    if now is not None:
        write_text(folder / NUMERICS, now.model_dump_json(indent=2) + "\n")
    return now


def read(folder: Path) -> RunNumerics | None:
    """The settings of a run; None where they were not written down.

    Raises:
        RecordError: the file is damaged.
    """
    path = folder / NUMERICS
    if not path.is_file():
        return None
    try:
        return RunNumerics.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecordError(f"{path}: {explain(RunNumerics, error)}") from error


def refuse_unlike(one: Path, other: Path) -> None:
    """Check that the records of two runs may be paired; what was not written down is no difference.

    Raises:
        ConfigError: they were made with other settings; the first that differs is named, and both values.
        RecordError: a file is damaged.
    """
    _refuse_unlike(one / NUMERICS, read(one), read(other), f"records of {other} cannot be paired with it")


def _refuse_unlike(path: Path, begun: RunNumerics | None, now: RunNumerics | None, remedy: str) -> None:
    if begun is None or now is None:
        return
    there, here = begun.decisive, now.decisive
    # What one of them does not tell is no difference: a model behind a server, and the size of a batch where no model
    # that is loaded here is in a half precision.
    shared = there.keys() & here.keys()
    known = ({key: value for key, value in each.items() if key in shared} for each in (there, here))
    refuse_other(path, *known, owner="a run of other numerics", remedy=remedy)
