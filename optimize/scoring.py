"""The loss of many candidate prefixes over many contexts: as exact as a plain forward, and much faster.

Four levers make it fast. The KV cache of a context is computed once and kept at batch 1, because the prefix changes and
the context does not. Only prefix and target positions reach the output head. The gradient is taken with respect to the
prefix's embeddings, averaged over contexts, so that a search needs one product with the embedding matrix. Contexts of
differing lengths share a batch: padded on the left, masked, with their own position ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from safethink.errors import SafeThinkError

_EXACT_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Example:
    """A prefix is worth what it does to `target` when it stands between `context` and `target`.

    Attributes:
        context: prompt and trace, as token ids.
        target: the continuation to be made likely, as token ids.
        separator: what is injected right behind the prefix, as token ids; it is read, but costs nothing.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    separator: tuple[int, ...] = ()


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
class Gradient:
    """What a small change of one prefix does to its loss, averaged over contexts, in float32.

    Attributes:
        embeddings: the gradient of `continuation + nll_weight * nll` with respect to the prefix's embeddings.
        token_nll: what each token of the vocabulary would cost at each place, given the prefix before it. The prefix
            is both input and label of its own NLL; the gradient covers the input, this covers the label, exactly.
    """

    embeddings: Float[Tensor, "length hidden"]
    token_nll: Float[Tensor, "length vocab"]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some contexts, padded to one length, with their KV cache.

    Attributes:
        order: where these contexts stand among all of the scorer's.
        keys_values: per layer, keys and values of shape (contexts, heads, positions, head_dim).
        mask: which positions are real; padding is on the left.
        first_nll: what each token of the vocabulary costs right after the context.
        target: what follows the prefix: separator and target, padded on the right.
        target_mask: which positions of it count: those of the target.
    """

    order: list[int]
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    mask: Bool[Tensor, "contexts positions"]
    first_nll: Float[Tensor, "contexts vocab"]
    target: Int[Tensor, "contexts target"]
    target_mask: Bool[Tensor, "contexts target"]

    def cache(self, copies: int) -> DynamicCache:
        """A cache of `copies` rows per context, of its own: a forward writes into the cache it is given."""
        pairs = self.keys_values
        return DynamicCache([(k.repeat_interleave(copies, 0), v.repeat_interleave(copies, 0)) for k, v in pairs])

    def frame(self, copies: int, tokens: int) -> dict[str, Tensor]:
        """Attention mask and position ids of `tokens` new tokens in `copies` rows per context."""
        ones = self.mask.new_ones(len(self.mask), tokens)
        positions = self.mask.sum(1, keepdim=True) + torch.arange(tokens, device=self.mask.device)
        return {
            "attention_mask": torch.cat([self.mask, ones], dim=1).long().repeat_interleave(copies, dim=0),
            "position_ids": positions.repeat_interleave(copies, dim=0),
        }


class Scorer:
    """Scores candidate prefixes of one reasoner over a fixed set of examples.

    Args:
        model: the reasoner; left untouched.
        examples: contexts and targets; targets must not be empty.
        rows_per_forward: the most (candidate, context) pairs in one forward; bounds the memory.
        contexts_per_batch: how many contexts are padded to one length.

    Raises:
        SafeThinkError: a layer of the reasoner keeps no keys and values (linear attention), or its attention depends on
            where padding ends (chunked attention).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[Example],
        rows_per_forward: int = 256,
        contexts_per_batch: int = 16,
    ) -> None:
        assert examples, "a scorer needs examples"
        assert all(example.target for example in examples), "a target is empty"
        unknown = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _EXACT_LAYERS
        if unknown:
            raise SafeThinkError(f"a prefix cannot be searched on layers of type {', '.join(sorted(unknown))}")
        self.model = model
        self.num_contexts = len(examples)
        self._num_followed = sum(len(example.separator) + len(example.target) for example in examples)
        self.rows_per_forward = rows_per_forward
        order = sorted(range(len(examples)), key=lambda index: len(examples[index].context))
        spans = [order[start : start + contexts_per_batch] for start in range(0, len(order), contexts_per_batch)]
        with _inference(model):
            self._batches = [self._prefill([examples[index] for index in span], span) for span in spans]

    def num_tokens(self, length: int) -> int:
        """Tokens forwarded to score one prefix of `length` tokens: its own and those behind it, in every context."""
        return self.num_contexts * length + self._num_followed

    def losses(self, candidates: Int[Tensor, "candidates length"]) -> Losses:
        """Loss of every candidate in every context.

        Args:
            candidates: token ids, one prefix per row.
        """
        candidates = candidates.to(self.model.device)
        shape = len(candidates), self.num_contexts
        continuation, nll = torch.empty(shape), torch.empty(shape)
        with _inference(self.model):
            for batch in self._batches:
                num_candidates = max(1, self.rows_per_forward // len(batch.order))
                rows = torch.arange(len(candidates)).split(num_candidates)
                for some, chunk in zip(rows, candidates.split(num_candidates), strict=True):
                    part = self._losses(batch, chunk)
                    continuation[some[:, None], batch.order] = part.continuation.cpu()
                    nll[some[:, None], batch.order] = part.nll.cpu()
        return Losses(continuation, nll)

    def gradient(self, prefix: Int[Tensor, "length"], nll_weight: float) -> Gradient:
        """Gradient of the mean over contexts of `continuation + nll_weight * nll`.

        Args:
            prefix: token ids of one prefix.
            nll_weight: weight of the prefix's own NLL.
        """
        prefix = prefix.to(self.model.device)
        parts = [self._gradient(batch, prefix, nll_weight) for batch in self._batches]
        return Gradient(
            torch.stack([part.embeddings for part in parts]).sum(0) / self.num_contexts,
            torch.stack([part.token_nll for part in parts]).sum(0) / self.num_contexts,
        )

    def _prefill(self, examples: Sequence[Example], order: list[int]) -> _Batch:
        contexts, mask = _pad([example.context for example in examples], left=True, device=self.model.device)
        followed = [example.separator + example.target for example in examples]
        target, target_mask = _pad(followed, left=False, device=self.model.device)
        for row, example in enumerate(examples):
            target_mask[row, : len(example.separator)] = False
        # Without the config every layer keeps all positions, sliding windows too: the mask does the windowing.
        cache = DynamicCache()
        output = self.model(
            input_ids=contexts,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        pairs = ((keys, values) for keys, values, *_ in cache)
        keys_values = tuple((keys, values) for keys, values in pairs if keys is not None and values is not None)
        first_nll = -output.logits[:, -1].float().log_softmax(-1)
        return _Batch(order, keys_values, mask, first_nll, target, target_mask)

    def _losses(self, batch: _Batch, candidates: Int[Tensor, "candidates length"]) -> Losses:
        num_contexts, num_candidates = len(batch.order), len(candidates)
        prefixes = candidates.repeat(num_contexts, 1)
        targets = batch.target.repeat_interleave(num_candidates, dim=0)
        inputs = torch.cat([prefixes, targets[:, :-1]], dim=1)
        logits = self.model(
            input_ids=inputs,
            past_key_values=batch.cache(num_candidates),
            use_cache=True,
            **batch.frame(num_candidates, inputs.shape[1]),
        ).logits
        nll = _token_nll(logits, torch.cat([prefixes[:, 1:], targets], dim=1))
        nll = nll.unflatten(0, (num_contexts, num_candidates)).transpose(0, 1)
        first = batch.first_nll[:, candidates[:, 0]].T
        return Losses(*_means(first, nll, batch.target_mask, candidates.shape[1]))

    def _gradient(self, batch: _Batch, prefix: Int[Tensor, "length"], nll_weight: float) -> Gradient:
        """Sums over the batch's contexts."""
        num_contexts, length = len(batch.order), len(prefix)
        embed = self.model.get_input_embeddings()
        with frozen(self.model):
            leaf = embed(prefix.expand(num_contexts, -1)).detach().requires_grad_()
            embeds = torch.cat([leaf, embed(batch.target[:, :-1])], dim=1)
            logits = self.model(
                inputs_embeds=embeds,
                past_key_values=batch.cache(1),
                use_cache=True,
                **batch.frame(1, embeds.shape[1]),
            ).logits
            labels = torch.cat([prefix[1:].expand(num_contexts, -1), batch.target], dim=1)
            first = batch.first_nll[:, prefix[0]]
            continuation, nll = _means(first, _token_nll(logits, labels), batch.target_mask, length)
            (gradient,) = torch.autograd.grad((continuation + nll_weight * nll).sum(), leaf)
        later_nll = -logits[:, : length - 1].detach().float().log_softmax(-1)
        token_nll = torch.cat([batch.first_nll[:, None], later_nll], dim=1)
        return Gradient(gradient.float().sum(0), token_nll.sum(0))


def _pad(
    rows: Sequence[tuple[int, ...]], left: bool, device: torch.device
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(len(row))
        ids[index, span] = torch.tensor(row)
        mask[index, span] = True
    return ids.to(device), mask.to(device)


def _token_nll(
    logits: Float[Tensor, "rows tokens vocab"], labels: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def _means(
    first: Float[Tensor, "*rows contexts"],
    nll: Float[Tensor, "*rows contexts tokens"],
    target_mask: Bool[Tensor, "contexts target"],
    length: int,
) -> tuple[Float[Tensor, "*rows contexts"], Float[Tensor, "*rows contexts"]]:
    """Mean loss per target token and per prefix token, from the losses of the tokens after the first."""
    target_nll = nll[..., length - 1 :].masked_fill(~target_mask, 0.0)
    continuation = target_nll.sum(-1) / target_mask.sum(-1)
    return continuation, (first + nll[..., : length - 1].sum(-1)) / length


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no gradients for weights; both as before afterwards."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _inference(model: PreTrainedModel) -> Iterator[None]:
    # no_grad, not inference_mode: the context cache made here takes part in the gradient later.
    with frozen(model), torch.no_grad():
        yield
