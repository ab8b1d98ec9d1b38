"""MM-SafetyBench (Liu et al., arXiv 2311.17600), its questions without pictures.

A folder with one JSON file per scenario, such as `01-Illegal_Activitiy.json`: objects by their ids, with `Question`,
`Changed Question` and others. On the hub `id,question`, a subset per scenario.
"""

from __future__ import annotations

from pathlib import Path

from safethink.benchmarks import Loaded, rows
from safethink.config import MmSafetyBenchConfig
from safethink.config.published import stem
from safethink.errors import ConfigError
from safethink.prompts import Prompt


def load(config: MmSafetyBenchConfig) -> Loaded:
    """The questions, by scenario.

    Raises:
        ConfigError: a folder without JSON files.
    """
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        return Loaded(_scenario(config))
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigError(f"{folder}: no JSON files; give the folder `processed_questions`")
    return Loaded(tuple(prompt for file in files for prompt in _scenario(config.replace(path=str(file)))))


def _scenario(config: MmSafetyBenchConfig) -> tuple[Prompt, ...]:
    scenario = config.subset or stem(config.path).lstrip("0123456789-")
    return tuple(
        row.prompt(
            id=f"mm_safetybench:{scenario}:{row.text('id')}",
            text=row.text(config.column, "question"),
            kind="harmful",
            category=scenario,
        )
        for row in rows.read(config, (config.column, "question"), "id")
    )
