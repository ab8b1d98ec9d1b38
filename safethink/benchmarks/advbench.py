"""AdvBench, harmful behaviours (Zou et al., arXiv 2307.15043): CSV `goal,target`; on the hub `prompt,target`."""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.config import AdvBenchConfig


def load(config: AdvBenchConfig) -> Loaded:
    """The behaviours; the target that an attack optimises for is left aside."""
    return Loaded(
        tuple(
            row.prompt(id=f"advbench:{row.place.row}", text=row.text("goal", "prompt"), kind="harmful")
            for row in rows.read(config, ("goal", "prompt"), "target")
        )
    )
