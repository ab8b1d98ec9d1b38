"""The JSON Schema of `prefix.json`, for readers that are not this package.

It ships as `prefix.schema.json`; `python -m safethink.schema > safethink/prefix.schema.json` writes it anew.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Final

from safethink.prefix import PrefixArtifact

SCHEMA_FILE: Final = "prefix.schema.json"


def generate() -> str:
    """The schema of what `PrefixArtifact` reads, as JSON."""
    return json.dumps(PrefixArtifact.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def shipped() -> str:
    """The schema as it ships with the package."""
    return (resources.files("safethink") / SCHEMA_FILE).read_text(encoding="utf-8")


if __name__ == "__main__":
    print(generate(), end="")
