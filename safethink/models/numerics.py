# pyright: standard
"""Numerical settings of a loaded model, as they turned out: precision, attention implementation, device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from safethink.frozen import Frozen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

HALF: Final = frozenset({"bfloat16", "float16"})
"""Precisions in which the size of a batch changes greedy text.

Kernels add up in another order for another size, and a difference in the last of eight or eleven bits is often enough
for a near-tie to fall the other way. In float32 it is the last of 24 bits, and was never seen to (unsloth #9708).
"""


class Numerics(Frozen):
    """Numerical settings of one model, resolved: what its logits depend on besides weights and ids."""

    dtype: str
    """Precision of the weights, such as `float32`; what `auto` became."""
    attention: str | None = None
    """Implementation of attention, such as `sdpa`; None where the class knows no choice."""
    quantization: str | None = None
    """Method by which the weights are rounded; None for none."""
    device: str
    """Type of the device, and its name where it is a GPU."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> Numerics:
        """The settings that a model was loaded with."""
        method = getattr(model, "quantization_method", None)
        return cls(
            dtype=str(model.dtype).removeprefix("torch."),
            attention=getattr(model.config.get_text_config(), "_attn_implementation", None),
            quantization=None if method is None else str(getattr(method, "value", method)),
            device=_named(model.device),
        )

    @property
    def is_half(self) -> bool:
        """Whether it computes in a half precision."""
        return self.dtype in HALF


def _named(device: torch.device) -> str:
    from torch import cuda

    return f"cuda ({cuda.get_device_name(device)})" if device.type == "cuda" else device.type
