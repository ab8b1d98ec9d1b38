"""JSON files that carry a hash of themselves: written whole, and refused when somebody edited them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from safethink.errors import ArtifactError
from safethink.fingerprints import json_hash

Sealed = TypeVar("Sealed", bound=BaseModel)

HASH = "content_sha256"
"""The field that holds the hash of all others."""


def seal(model: Sealed) -> Sealed:
    """The same model with its hash in `content_sha256`."""
    return model.model_copy(update={HASH: json_hash(model.model_dump(mode="json", exclude={HASH}))})


def read(schema: type[Sealed], path: Path) -> Sealed:
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
