# pyright: standard
"""Models that compute in float64 throughout, also where their classes turn to float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class InDouble(TorchFunctionMode):
    """Context in which nothing is computed in float32: norms, softmax and recurrent states are not, either.

    What is left of a difference between two ways to compute the same is an error then, and no rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` with float64 wherever it says float32."""
        if func is torch.Tensor.float:
            return args[0].double()
        wider = {name: _wider(value) for name, value in (kwargs or {}).items()}
        return func(*(_wider(value) for value in args), **wider)


def _wider(value: object) -> object:
    return torch.float64 if value is torch.float32 else value
