# pyright: standard
"""Hidden states of the reasoner, as they pass from engines to monitors."""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

HiddenState: TypeAlias = Float[Tensor, " hidden"]
"""The hidden state of one token."""
HiddenStates: TypeAlias = Float[Tensor, "rows hidden"]
"""The hidden state of one token of each of several rows."""
