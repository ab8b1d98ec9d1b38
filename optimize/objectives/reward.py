# pyright: standard
"""The share of continuations that the monitor does not pass, by REINFORCE with a leave-one-out baseline (RLOO).

The monitor is a black box: text in, score out. What the reasoner says behind the prefix is sampled, the monitor says
what of it passes, and the prefix should make that likelier and the rest less likely. SafeThink is satisficing, so what
counts of a continuation is whether it passes, and not by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.config import RewardConfig
from optimize.contexts import Context
from optimize.objectives.cached_scorer import CachedScorer
from optimize.objectives.protocols import Ids, TermGradient, embeddings_of, through_rows
from optimize.objectives.sampler import Draw, Sampler

MakeScorer: TypeAlias = Callable[[Sequence[Context], Sequence[Ids]], CachedScorer]
"""Builds the scorer of contexts and what follows there; `CachedScorer.of` without its first and last argument."""


@dataclass(frozen=True, slots=True)
class SampledContext:
    """Continuations sampled in one context, with their rewards.

    Attributes:
        context: where.
        continuations: token ids; empty ones where there was no room left.
        rewards: what each is worth.
    """

    context: Context
    continuations: tuple[Ids, ...]
    rewards: tuple[float, ...]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    r"""Advantage of each sample: its reward less the mean reward of the others (arXiv 2402.14740, section 3.2).

    The baseline of a sample does not depend on it, so that with samples of the policy

        -1/n \sum_i A_i \nabla log p(y_i)

    is an unbiased estimate of the gradient of minus the expected reward. Where all rewards are equal, all advantages
    are 0.

    Args:
        rewards: of at least two samples.
    """
    n, total = len(rewards), sum(rewards)
    assert n > 1, "a single sample has no baseline"
    return [reward - (total - reward) / (n - 1) for reward in rewards]


class Surrogate:
    """-1/n sum_i A_i log p(y_i | context, prefix), context by context, as a function of the prefix.

    A continuation is one action, so its log-probability is that of all its tokens.

    Args:
        sampled: continuations and rewards, context by context.
        read: builds the scorer of them.
    """

    def __init__(self, sampled: Sequence[SampledContext], read: MakeScorer) -> None:
        self.num_contexts = len(sampled)
        weighed = [
            (place, some.context, ids, advantage * len(ids) / len(some.rewards))
            for place, some in enumerate(sampled)
            for ids, advantage in zip(some.continuations, leave_one_out(some.rewards), strict=True)
            # What has no advantage says nothing, and what has no tokens is certain.
            if advantage and ids
        ]
        self._owners = [place for place, *_ in weighed]
        self._factors = torch.zeros(len(weighed), len(sampled), dtype=torch.float64)
        for row, (place, *_, factor) in enumerate(weighed):
            self._factors[row, place] = factor
        self._cached = (
            read([context for _, context, *_ in weighed], [ids for _, _, ids, _ in weighed]) if weighed else None
        )

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        return self._cached.tokens if self._cached else 0

    def of(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Values at all candidates, in some of the contexts."""
        rows = [row for row, owner in enumerate(self._owners) if owner in contexts]
        if self._cached is None or not rows:
            return torch.zeros(len(candidates), len(contexts))
        losses = self._cached.scorer.continuations(candidates, rows)
        return losses @ self._factors.to(losses)[rows][:, list(contexts)]

    def of_rows(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, "contexts"]:
        """Values at a soft prefix, in all contexts; gradients flow to its rows."""
        if self._cached is None:
            return 0.0 * rows.sum() + rows.new_zeros(self.num_contexts)
        losses = self._cached.scorer.soft_losses(rows)
        return losses @ self._factors.to(losses)


ROUNDING = 1e-4
"""Tolerance of a share beyond 0 and 1: where all or nothing passes, rounding must not cut the gradient off."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The last draws, and the prefix that they were made behind.

    Attributes:
        at: ids of the prefix; empty before anything is drawn.
        num_rounds: how often was drawn so far; seeds the next time, so that no prefix is fitted to some random numbers.
        fresh: per context, what was sampled and, last, the greedy continuation.
        elites: per context, the best continuation so far.
        level: per context, what the surrogate lacks to be the share that does not pass at this prefix.
    """

    at: Ids
    num_rounds: int
    fresh: list[list[Draw]]
    elites: list[Draw]
    level: list[float]


class ExpectedReward:
    """1 - P(score >= threshold) of the step behind the prefix, by RLOO over continuations drawn on policy.

    At the incumbent s, in every context (arXiv 2502.17254, section 4, with the baseline of arXiv 2402.14740):

        y_1 .. y_k ~ p(. | context, s)       what the reasoner says now
        y_{k+1}, y_{k+2}                     the greedy continuation; the best one seen so far (the elite)
        r_i = 1[score(y_i) >= threshold]     the reward
        A_i = r_i - mean of the other r_j    the advantage

    Another prefix s' is estimated to cost, averaged over contexts,

        1 - mean(r_1 .. r_k) - 1/n sum_i A_i (log p(y_i | context, s') - log p(y_i | context, s)),

    kept between 0 and 1 in every context. At s' = s this is the measured share of what does not pass, and it falls
    where RLOO says. The greedy continuation is what the policy is about to become. The elite keeps a context in which
    everything fails from saying nothing; it begins as the mined safe continuation.

    Args:
        sampler: draws continuations and has them scored.
        read: reads them.
        contexts: where the monitor fired, with safe continuations.
        threshold: a continuation passes from it on.
        config: how many are drawn, and how often.
    """

    name = "reward"

    def __init__(
        self,
        sampler: Sampler,
        read: MakeScorer,
        contexts: Sequence[Context],
        threshold: float,
        config: RewardConfig,
    ) -> None:
        self.num_contexts, self.meters = len(contexts), (self,)
        self._sampler, self._read, self._contexts = sampler, read, contexts
        self._threshold, self._config = threshold, config
        self._drawn = _Drawn((), 0, [], [_mined(context, threshold) for context in contexts], [])
        self._surrogate: Surrogate | None = None
        self._steps_since = self._tokens_before = 0

    @property
    def tokens(self) -> int:
        """Tokens decoded and forwarded so far, gradients counted twice."""
        return self._tokens_before + (self._surrogate.tokens if self._surrogate else 0)

    def move_to(self, prefix: Ids | Float[Tensor, "length hidden"]) -> None:
        """Draw anew where the incumbent changed, or `refresh_every_steps` steps after the last time.

        The rows of a soft prefix change with every step; there the steps alone count.
        """
        moved = not isinstance(prefix, Tensor) and prefix != self._drawn.at
        if self._surrogate is None or moved or self._steps_since >= self._config.refresh_every_steps:
            self._draw(prefix)
        self._steps_since += 1

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of candidates in some of the contexts."""
        falls = self._heard(tuple(candidates[0].tolist())).of(candidates, contexts)
        return _share(falls + falls.new_tensor(self._drawn.level)[list(contexts)])

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        """RLOO's: advantages reach the prefix through the likelihood of what was drawn."""
        return through_rows(self._sampler.model, prefix, self.soft_cost)

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Averaged over contexts."""
        falls = self._heard(rows.detach()).of_rows(rows)
        return _share(falls + falls.new_tensor(self._drawn.level)).mean()

    def state_dict(self) -> dict[str, Any]:
        """The last draws, and where they were made."""
        return {"drawn": asdict(self._drawn), "steps_since": self._steps_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was drawn before."""
        drawn = state["drawn"]
        self._drawn = _Drawn(
            at=tuple(drawn["at"]),
            num_rounds=drawn["num_rounds"],
            fresh=[[_draw_of(draw) for draw in some] for some in drawn["fresh"]],
            elites=[_draw_of(draw) for draw in drawn["elites"]],
            level=drawn["level"],
        )
        self._surrogate = self._surrogate_of(self._drawn.fresh, self._drawn.elites) if self._drawn.at else None
        self._steps_since = state["steps_since"]

    def _draw(self, prefix: Ids | Float[Tensor, "length hidden"]) -> None:
        """Hear what the reasoner says behind a prefix."""
        at = self._sampler.add_rows(prefix) if isinstance(prefix, Tensor) else prefix
        fresh = self._sampler.draw(self._contexts, at, self._config.samples, self._drawn.num_rounds)
        elites = [max(elite, *some, key=_score) for elite, some in zip(self._drawn.elites, fresh, strict=True)]
        self._tokens_before = self.tokens + sum(len(at) + len(draw.ids) for some in fresh for draw in some)
        self._surrogate, self._steps_since = self._surrogate_of(fresh, elites), 0
        rows = prefix if isinstance(prefix, Tensor) else embeddings_of(self._sampler.model, torch.tensor(prefix))
        with torch.no_grad():
            here = self._surrogate.of_rows(rows).tolist()
        # Neither the greedy continuation nor the elite is a sample of the policy.
        missed = [1.0 - mean(self._rewards(some[: self._config.samples])) for some in fresh]
        level = [share - value for share, value in zip(missed, here, strict=True)]
        self._drawn = _Drawn(at, self._drawn.num_rounds + 1, fresh, elites, level)

    def _surrogate_of(self, fresh: Sequence[Sequence[Draw]], elites: Sequence[Draw]) -> Surrogate:
        pooled = [
            some if elite.ids in {draw.ids for draw in some} else [*some, elite]
            for some, elite in zip(fresh, elites, strict=True)
        ]
        sampled = [
            SampledContext(context, tuple(draw.ids for draw in some), self._rewards(some))
            for context, some in zip(self._contexts, pooled, strict=True)
        ]
        return Surrogate(sampled, self._read)

    def _rewards(self, draws: Sequence[Draw]) -> tuple[float, ...]:
        return tuple(float(draw.score >= self._threshold) for draw in draws)

    def _heard(self, prefix: Ids | Float[Tensor, "length hidden"]) -> Surrogate:
        """Surrogate of the last draws; without an incumbent yet, the first prefix asked about is taken for it."""
        if self._surrogate is None:
            self._draw(prefix)
        assert self._surrogate is not None, "just drawn"
        return self._surrogate


def _share(estimate: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """An estimate as what it is of; far from the incumbent a straight line leaves it, and says nothing there."""
    return estimate.clamp(-ROUNDING, 1.0 + ROUNDING)


def _mined(context: Context, threshold: float) -> Draw:
    """The safe continuation that was found with nothing injected; it passed."""
    return Draw(context.target_ids, threshold if context.target_score is None else context.target_score)


def _score(draw: Draw) -> float:
    return draw.score


def _draw_of(value: dict[str, Any]) -> Draw:
    return Draw(tuple(value["ids"]), value["score"])
