"""Counter of evaluations on `test`: every look is counted, because each is a chance to tune."""

from __future__ import annotations

import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

from safethink.config import EvalConfig
from safethink.errors import RecordError
from safethink.files import write_text
from safethink.prefix import JSON_FILE, PrefixArtifact, list_built_in

LOG: Final = "evaluations.jsonl"
"""Beside `prefix.json`: one line per evaluation on `test`."""


def count_evaluation(config: EvalConfig, artifact: PrefixArtifact) -> int:
    """Note this evaluation in the artifact's folder and count all there have been.

    A resumed or repeated run of the same configuration counts once. A place that cannot be written, such as the hub or
    a built-in prefix, keeps no log; then what the artifact says and this run are counted.

    Args:
        config: the evaluation.
        artifact: the prefix on trial.

    Returns:
        Evaluations of its lineage on `test`, this one included where it is one.
    """
    log = Path(config.prefix) / LOG
    keeps_log = os.path.isfile(log.parent / JSON_FILE) and config.prefix not in list_built_in()
    seen = _read(log) if keeps_log else set[str]()
    identity = blake2b(config.model_dump_json().encode(), digest_size=8).hexdigest()
    if any(benchmark.is_test for benchmark in config.benchmarks) and identity not in seen:
        seen.add(identity)
        if keeps_log:
            _note(log, seen)
    if not keeps_log:
        return artifact.test_evaluations + len(seen)
    return max(artifact.test_evaluations, len(seen))


def _read(log: Path) -> set[str]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return {json.loads(line)["evaluation"] for line in lines}


def _note(log: Path, identities: set[str]) -> None:
    lines = (json.dumps({"evaluation": identity}) + "\n" for identity in sorted(identities))
    try:
        write_text(log, "".join(lines))
    except RecordError:
        return
