"""Files written whole or not at all, and JSON that carries a hash of itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from safethink.errors import ArtifactError, RecordError
from safethink.frozen import Frozen

Sealed = TypeVar("Sealed", bound=Frozen)

HASH = "content_sha256"
"""The field that holds the hash of all others."""


def reason(error: OSError) -> str:
    """Reason that a file could not be written, in words that say what is in the way."""
    return "a file, where a folder is to be" if isinstance(error, FileExistsError) else str(error.strerror)


@contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Name the file when the disk is full or refuses for another reason.

    Raises:
        RecordError: the file could not be written.
    """
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path}: {reason(error)}") from error


@contextmanager
def atomic_write(path: Path) -> Generator[Path, None, None]:
    """Write a file or a folder beside `path`, then put it in its place; after an error the old one is as it was.

    A folder cannot be replaced in one go. So the old one is renamed aside first, and back if that fails.

    Yields:
        Where to write.

    Raises:
        RecordError: it could not be written.
    """
    partial, aside = path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.old")
    _remove(partial)
    try:
        with writing(path):
            yield partial
            if path.is_dir():
                _remove(aside)
                os.replace(path, aside)
            os.replace(partial, path)
    except BaseException:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        _remove(partial)
        raise
    _remove(aside)


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or leave the old one as it was; raises what `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or leave the old one as it was.

    Raises:
        RecordError: the file could not be written.
    """
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def json_hash(value: object) -> str:
    """SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def seal(model: Sealed) -> Sealed:
    """The same model with its hash in `content_sha256`."""
    return model.replace(**{HASH: json_hash(model.model_dump(mode="json", exclude={HASH}))})


def read_sealed(schema: type[Sealed], path: Path) -> Sealed:
    """Read a file that was sealed.

    Raises:
        ArtifactError: it does not fit `schema`, or its content is not what its hash was made of.
    """
    written = path.read_bytes()
    try:
        model = schema.model_validate_json(written)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise ArtifactError(f"{path}: {where}: {first['msg']}") from error
    # Of what the file holds, so that a field added later leaves older artifacts whole.
    held = {key: value for key, value in json.loads(written).items() if key != HASH}
    if getattr(model, HASH) != json_hash(held):
        raise ArtifactError(f"{path} was edited: its content does not match {HASH}")
    return model


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
