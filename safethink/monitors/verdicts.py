# pyright: standard
"""What a guard's verdicts say together: P(safe), from the log-probabilities of all of them in full."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from safethink.errors import ConfigError
from safethink.monitors.presets import Preset
from safethink.monitors.questions import Asker
from safethink.monitors.reader import Lanes


@dataclass(frozen=True)
class Verdicts:
    """A guard's verdicts as its token ids.

    Attributes:
        ids: one sequence per verdict.
        safety: the share of each that counts as safe, in [0, 1].
    """

    ids: tuple[tuple[int, ...], ...]
    safety: tuple[float, ...]

    @classmethod
    def of(cls, preset: Preset, asker: Asker) -> Verdicts:
        """The verdicts of `preset`, which must all have a share.

        Raises:
            ConfigError: one verdict begins with another, so that the longer one's probability is part of the other's.
        """
        ids = tuple(asker.answer(verdict.text) for verdict in preset.verdicts)
        for one, first in zip(ids, preset.verdicts, strict=True):
            for other, second in zip(ids, preset.verdicts, strict=True):
                if first is not second and one == other[: len(one)]:
                    raise ConfigError(f"guard verdicts {first.text!r} and {second.text!r}: one begins with the other")
        return cls(ids, tuple(0.0 if verdict.safety is None else verdict.safety for verdict in preset.verdicts))

    @property
    def num_tokens(self) -> int:
        """Length of the longest."""
        return max(map(len, self.ids))

    def weigh(self, lanes: Lanes) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """P(safe) among the verdicts, and the probability that any of them is given, for each lane.

        P(safe) = sum_v safety(v) P(v) / sum_v P(v), in double precision and without underflow.
        """
        log_p = self._log_probabilities(lanes)
        safety = torch.tensor(self.safety, dtype=log_p.dtype, device=log_p.device)
        return (log_p.softmax(-1) * safety).sum(-1), log_p.exp().sum(-1)

    @cached_property
    def along(self) -> tuple[int, ...]:
        """What is read behind a question together with it: the longest verdict but for its last token."""
        return max(self.ids, key=len)[:-1]

    def _log_probabilities(self, lanes: Lanes) -> Float[Tensor, "batch verdicts"]:
        """The log-probability of each verdict, where `along` was read behind each lane."""
        read = {self.along: lanes.logits[:, -len(self.along) - 1 :].double().log_softmax(-1)}
        columns: list[Tensor] = []
        for verdict in self.ids:
            body = verdict[:-1]
            known = next((scores for ids, scores in read.items() if ids[: len(body)] == body), None)
            if known is None:
                first = read[self.along][:, :1]
                known = read[body] = torch.cat([first, lanes.ahead(body).double().log_softmax(-1)], dim=1)
            columns.append(known[:, torch.arange(len(verdict)), list(verdict)].sum(-1))
        return torch.stack(columns, dim=-1)
