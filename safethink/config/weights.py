"""Where a model is, and how its weights are loaded."""

from __future__ import annotations

from typing import Literal

from safethink.config.section import Section


class WeightsSection(Section):
    """A model of transformers: the reasoner, or what a monitor asks."""

    path: str
    """Folder or hub id; names of shipped models, such as `testbed`, are paths too."""
    revision: str | None = None
    """Commit of the hub repository."""
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    """Precision of the weights; `auto` keeps the checkpoint's own (float32 on a CPU)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."""
    device_map: str | None = None
    """`auto`, `balanced` or `sequential` spread the layers over all devices, in place of `device`; None for one device.
    Needs the extra `quantized`."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Weights rounded by bitsandbytes while they are loaded; needs the extra `quantized`."""
