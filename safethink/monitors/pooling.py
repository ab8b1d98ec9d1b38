"""Pooling of a probe's margins over the tokens of a trace, and the running statistic that a trace has as it grows.

The unit is the token: each token of the trace, injected ones included, has a margin, the logit w h + b of its hidden
state h being safe. Maximum, mean and last token compared: arXiv 2605.18549; the moving average: arXiv 2601.11516.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field, model_validator

from safethink.config.monitors import PoolingKind
from safethink.frozen import Frozen
from safethink.kv_cache import common_length


class Pooling(Frozen):
    """Rule by which the margins m_1, ..., m_n of a trace's tokens become one, p_n."""

    kind: PoolingKind = "last"
    """`last`: m_n. `mean`: their mean. `max`: the margin of the most unsafe token, which is their minimum. `ema`: their
    exponential moving average, p_1 = m_1 and p_n = d p_(n-1) + (1 - d) m_n."""
    decay: float | None = Field(default=None, gt=0, lt=1)
    """d of `ema`; the weight of a token halves every ln 2 / -ln d tokens."""

    @model_validator(mode="after")
    def _complete(self) -> Pooling:
        if (self.decay is None) == (self.kind == "ema"):
            raise ValueError(f"pooling {self.kind!r} with decay {self.decay}: `ema` needs one, and no other has any")
        return self

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.kind if self.decay is None else f"{self.kind} {self.decay:g}"

    def after(self, pooled: Sequence[float], margin: float) -> float:
        """p_n of p_1, ..., p_(n-1) and m_n."""
        if not pooled:
            return margin
        match self.kind:
            case "last":
                return margin
            case "mean":
                return pooled[-1] + (margin - pooled[-1]) / (len(pooled) + 1)
            case "max":
                return min(pooled[-1], margin)
            case "ema":
                assert self.decay is not None, "checked when it was made"
                return self.decay * pooled[-1] + (1 - self.decay) * margin


@dataclass(slots=True)
class RunningPool:
    """The pooled margin of a trace at each of its tokens, as it grows, is rolled back, and grows elsewhere.

    Kept token by token, as keys and values are, so that a rollback only shortens it.

    Attributes:
        ids: the tokens that were pooled.
        pooled: p_n at each of them.
    """

    ids: tuple[int, ...] = ()
    pooled: list[float] = field(default_factory=lambda: [])

    def num_unread(self, ids: tuple[int, ...]) -> int:
        """Number of last tokens of `ids` that were not pooled yet."""
        return len(ids) - common_length(self.ids, ids)

    def read(self, ids: tuple[int, ...], margins: Sequence[float], pooling: Pooling) -> float:
        """Pool a trace.

        Args:
            ids: its tokens, at least one.
            margins: of the last tokens, all that are unread.
            pooling: how.

        Returns:
            The margin of the whole trace.
        """
        num_unread = self.num_unread(ids)
        if num_unread > len(margins):
            raise ValueError(f"{num_unread} tokens were not pooled yet, and there are {len(margins)} margins")
        del self.pooled[len(ids) - num_unread :]
        for margin in margins[len(margins) - num_unread :]:
            self.pooled.append(pooling.after(self.pooled, margin))
        self.ids = ids
        return self.pooled[-1]
