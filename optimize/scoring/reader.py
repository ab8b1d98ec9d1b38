# pyright: standard
"""Losses, KL divergences and gradients of prefixes over one batch of contexts, in one forward.

With y_1..y_T the target of context c behind prefix s, and q the reasoner with nothing injected:

    loss(s, c) = -1/T sum_t log p(y_t | c, s, y_<t)                                   nats per target token
    kl(s, c)   =  1/T sum_t sum_v q(v | c, y_<t) (log q(v | c, y_<t) - log p(v | c, s, y_<t))
    nll(s, c)  = -1/L sum_i log p(s_i | c, s_<i)                                      nats per prefix token

Axes: see `optimize.scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from optimize.scoring.batches import Batch, pad
from optimize.scoring.modes import at_least_float32, frozen
from optimize.scoring.strategies import Strategy
from safethink.models.input_rows import RowLayout

LogProbs = Float[Tensor, "_ vocab"]


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean nats per token, of every candidate in every context.

    Attributes:
        continuation: of the target, given context and prefix.
        nll: of the prefix itself, given the context.
    """

    continuation: Float[Tensor, "candidates contexts"]
    nll: Float[Tensor, "candidates contexts"]


@dataclass(frozen=True, slots=True)
class NllGradient:
    """Gradient of a prefix's own NLL, averaged over contexts, in float32 at least.

    A prefix is both input and label of its NLL.

    Attributes:
        embeddings: as input: the gradient with respect to the prefix's input rows.
        token_nll: as label, exactly: what each token of the vocabulary would cost at each place, given the prefix
            before it.
    """

    embeddings: Float[Tensor, "length hidden"]
    token_nll: Float[Tensor, "length vocab"]


class BatchScorer:
    """Scores prefixes over one batch of contexts.

    Args:
        model: the reasoner.
        strategy: how it reads.
    """

    def __init__(self, model: PreTrainedModel, strategy: Strategy) -> None:
        self._model, self._strategy = model, strategy

    def losses(self, batch: Batch, candidates: Int[Tensor, "candidates length"]) -> Losses:
        """Losses of targets and of the prefixes themselves."""
        rows, labels = _rows(batch, candidates)
        logits = self._strategy.follow(self._model, batch, rows, rows.shape[1])
        nll = _token_nll(logits, torch.cat([rows[:, 1 : candidates.shape[1]], labels], dim=1))
        nll = nll.unflatten(0, (len(batch), -1)).transpose(0, 1)
        first = batch.first_nll[:, candidates[:, 0]].T
        return Losses(*_means(first, nll, batch.target_mask, candidates.shape[1]))

    def continuations(
        self, batch: Batch, candidates: Int[Tensor, "candidates length"]
    ) -> Float[Tensor, "candidates contexts"]:
        """Losses of targets: the prefix's own positions never reach the output head."""
        rows, labels = _rows(batch, candidates)
        logits = self._strategy.follow(self._model, batch, rows, labels.shape[1])
        nll = _token_nll(logits, labels).unflatten(0, (len(batch), -1)).transpose(0, 1)
        return _target_means(nll, batch.target_mask)

    def divergences(
        self, batch: Batch, candidates: Int[Tensor, "candidates length"], unprefixed: Sequence[LogProbs]
    ) -> Float[Tensor, "candidates contexts"]:
        """KL(nothing injected || prefix injected), averaged over target tokens.

        Args:
            batch: contexts with targets.
            candidates: token ids, one prefix per row.
            unprefixed: what `unprefixed` said of the same contexts.
        """
        rows, labels = _rows(batch, candidates)
        logits = self._strategy.follow(self._model, batch, rows, labels.shape[1])
        return _divergences(unprefixed, logits.unflatten(0, (len(batch), -1)), batch.target_mask).T

    def unprefixed(self, batch: Batch) -> list[LogProbs]:
        """Log-probabilities at every target token with nothing injected, context by context."""
        targets = [example.target for example in batch.examples]
        rows, real = pad(targets, left=False, device=self._model.device)
        log_probs = -batch.first_nll[:, None]
        if rows.shape[1] > 1:
            logits = self._strategy.follow(self._model, batch, rows[:, :-1], rows.shape[1] - 1)
            log_probs = torch.cat([log_probs, at_least_float32(logits).log_softmax(-1)], dim=1)
        return [some[places] for some, places in zip(log_probs, real, strict=True)]

    def next_tokens(
        self, batch: Batch, prefixes: Int[Tensor, "prefixes length"], keep: int
    ) -> Float[Tensor, "contexts prefixes keep vocab"]:
        """Log-probabilities of what may come before each of the last tokens of a prefix and behind it, in that order.

        Args:
            batch: contexts.
            prefixes: token ids; they may have no tokens.
            keep: at how many of these places; at most one more than a prefix has tokens.
        """
        length = prefixes.shape[1]
        found = [-batch.first_nll[:, None, None].expand(-1, len(prefixes), -1, -1)] if keep > length else []
        if length:
            logits = self._strategy.follow(self._model, batch, prefixes.repeat(len(batch), 1), min(keep, length))
            found.append(at_least_float32(logits).log_softmax(-1).unflatten(0, (len(batch), -1)))
        return torch.cat(found, dim=2) if len(found) > 1 else found[0]

    def gradient(self, batch: Batch, prefix: Int[Tensor, "length"]) -> Float[Tensor, "length hidden"]:
        """Gradient of the losses of targets by the prefix's input rows, summed over the batch's contexts."""
        with frozen(self._model):
            leaf = self._look_up(prefix.expand(len(batch), -1)).detach().requires_grad_()
            rows = torch.cat([leaf, self._look_up(batch.target[:, :-1])], dim=1)
            logits = self._strategy.follow(self._model, batch, rows, batch.target.shape[1])
            losses = _target_means(_token_nll(logits, batch.target), batch.target_mask)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        # A leaf per context, so that the sum over them is not one in half precision.
        return at_least_float32(gradient).sum(0)

    def nll_gradient(self, batch: Batch, prefix: Int[Tensor, "length"]) -> NllGradient:
        """Gradients of the prefix's own NLL, summed over the batch's contexts; nothing behind the prefix is read."""
        first = batch.first_nll[:, None]
        with frozen(self._model):
            leaf = self._look_up(prefix.expand(len(batch), -1)).detach().requires_grad_()
            if len(prefix) == 1:
                return NllGradient(at_least_float32(torch.zeros_like(leaf)).sum(0), first.sum(0))
            logits = self._strategy.follow(self._model, batch, leaf[:, :-1], len(prefix) - 1)
            nll = _token_nll(logits, prefix[1:].expand(len(batch), -1)).sum() / len(prefix)
            (gradient,) = torch.autograd.grad(nll, leaf)
        token_nll = torch.cat([first, -at_least_float32(logits.detach()).log_softmax(-1)], dim=1)
        return NllGradient(at_least_float32(gradient).sum(0), token_nll.sum(0))

    def soft_losses(self, batch: Batch, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, "contexts"]:
        """Losses of targets behind input rows, to which gradients flow."""
        return _target_means(_token_nll(self._soft_logits(batch, rows), batch.target), batch.target_mask)

    def soft_divergences(
        self, batch: Batch, rows: Float[Tensor, "length hidden"], unprefixed: Sequence[LogProbs]
    ) -> Float[Tensor, "contexts"]:
        """`divergences` of input rows, to which gradients flow."""
        return _divergences(unprefixed, self._soft_logits(batch, rows)[:, None], batch.target_mask)[:, 0]

    def _soft_logits(
        self, batch: Batch, rows: Float[Tensor, "length hidden"]
    ) -> Float[Tensor, "contexts target vocab"]:
        with frozen(self._model):
            behind = self._look_up(batch.target[:, :-1])
            whole = torch.cat([rows.to(behind.dtype).expand(len(batch), -1, -1), behind], dim=1)
            return self._strategy.follow(self._model, batch, whole, batch.target.shape[1])

    def _look_up(self, ids: Int[Tensor, "contexts tokens"]) -> Float[Tensor, "contexts tokens hidden"]:
        """Input rows of token ids."""
        return RowLayout.of(self._model).look_up(self._model, ids)


def _rows(
    batch: Batch, candidates: Int[Tensor, "candidates length"]
) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows target"]]:
    """Inputs and labels, context by context: prefix and all of the target but its last token; and the target."""
    target = batch.target.repeat_interleave(len(candidates), dim=0)
    return torch.cat([candidates.repeat(len(batch), 1), target[:, :-1]], dim=1), target


def _token_nll(
    logits: Float[Tensor, "rows tokens vocab"], labels: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    """Cross-entropy of each label, in nats."""
    flat = at_least_float32(logits).flatten(0, 1)
    return functional.cross_entropy(flat, labels.flatten(), reduction="none").view(labels.shape)


def _target_means(
    nll: Float[Tensor, "*rows contexts target"], mask: Bool[Tensor, "contexts target"]
) -> Float[Tensor, "*rows contexts"]:
    """Mean over each context's target tokens."""
    return nll.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)


def _means(
    first: Float[Tensor, "*rows contexts"],
    nll: Float[Tensor, "*rows contexts tokens"],
    mask: Bool[Tensor, "contexts target"],
    length: int,
) -> tuple[Float[Tensor, "*rows contexts"], Float[Tensor, "*rows contexts"]]:
    """Mean loss per target token and per prefix token, from the losses of the tokens after the first."""
    return _target_means(nll[..., length - 1 :], mask), (first + nll[..., : length - 1].sum(-1)) / length


def _divergences(
    base: Sequence[LogProbs],
    logits: Float[Tensor, "contexts copies target vocab"],
    mask: Bool[Tensor, "contexts target"],
) -> Float[Tensor, "contexts copies"]:
    """KL(base || logits) in nats, averaged over each context's target tokens."""
    found: list[Tensor] = []
    for expected, seen, real in zip(base, logits, mask, strict=True):
        log_probs = at_least_float32(seen[:, real]).log_softmax(-1)
        found.append((expected.exp() * (expected - log_probs)).sum(-1).mean(-1))
    return torch.stack(found)
