# pyright: standard
"""Whole traces token by token, and what a pooling makes of each of their partial traces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safethink.monitors.pooling import Pooling


@dataclass(frozen=True, slots=True)
class TokenTraces:
    """The hidden states of all tokens of some traces.

    Attributes:
        hidden: the tokens of one trace after those of another.
        ends: of each trace the numbers of tokens of its partial traces, the last of which is all of it.
    """

    hidden: Float[Tensor, "tokens hidden"]
    ends: tuple[tuple[int, ...], ...]

    @property
    def each(self) -> tuple[Float[Tensor, "tokens hidden"], ...]:
        """The traces one by one."""
        return self.hidden.split([ends[-1] for ends in self.ends])

    def pooled(self, pooling: Pooling) -> Float[Tensor, "steps hidden"]:
        """The pooled state of every partial trace, trace after trace.

        A head is linear, so for all but `max` its margin there is the pooled margin of the tokens.
        """
        return torch.cat([_pooled(states.float(), ends, pooling) for states, ends in self._pairs()])

    def lowest(self, weight: Float[Tensor, " hidden"], bias: Float[Tensor, ""]) -> Float[Tensor, " steps"]:
        """The lowest margin of every partial trace, as `max` pools them, trace after trace."""
        margins = (states.double() @ weight + bias for states in self.each)
        pairs = zip(margins, self.ends, strict=True)
        return torch.cat([each.cummin(0).values[torch.tensor(ends) - 1] for each, ends in pairs])

    def _pairs(self) -> Iterator[tuple[Float[Tensor, "tokens hidden"], tuple[int, ...]]]:
        return zip(self.each, self.ends, strict=True)


def _pooled(
    states: Float[Tensor, "tokens hidden"], ends: tuple[int, ...], pooling: Pooling
) -> Float[Tensor, "steps hidden"]:
    match pooling.kind:
        case "last":
            return states[torch.tensor(ends) - 1]
        case "mean":
            sums = states.double().cumsum(0)[torch.tensor(ends) - 1]
            return (sums / torch.tensor(ends)[:, None]).float()
        case "ema":
            assert pooling.decay is not None, "checked when it was made"
            return torch.stack(list(_averages(states, ends, pooling.decay)))
        case "max":
            raise ValueError("a maximum over tokens depends on the head: it has no pooled state")


def _averages(
    states: Float[Tensor, "tokens hidden"], ends: tuple[int, ...], decay: float
) -> Iterator[Float[Tensor, " hidden"]]:
    """The moving average at each end: v_n = d^k v_(n-k) + (1 - d) sum_j d^(n-j) h_j over the k tokens of a step."""
    average, start = states[0], 0
    for end in ends:
        weights = decay ** torch.arange(end - start - 1, -1, -1, dtype=torch.float32)
        average = decay ** (end - start) * average + (1 - decay) * weights @ states[start:end]
        start = end
        yield average
