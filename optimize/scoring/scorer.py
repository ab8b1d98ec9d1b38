# pyright: standard
"""Losses of many candidate prefixes over many contexts, in one process or in several (SPMD, see `serve`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.parallel.cluster import Called, Cluster, FlowsBack, Lockstep, Made
from optimize.scoring.batches import Batch, Example, Measure, MicroBatcher, lay_out
from optimize.scoring.modes import inference
from optimize.scoring.reader import BatchScorer, LogProbs, Losses, NllGradient
from optimize.scoring.strategies import StrategyName, pick_strategy
from safethink.errors import ConfigError
from safethink.models.input_rows import RowLayout

Values = Float[Tensor, "kinds candidates contexts"]
SoftMeasure = Callable[[Batch, Float[Tensor, "length hidden"]], Float[Tensor, "contexts"]]


class Scorer:
    """Scores candidate prefixes of one reasoner over a fixed set of examples.

    Args:
        model: the reasoner; left untouched.
        examples: contexts and targets; neither may be empty.
        rows_per_forward: the most (candidate, context) pairs in one forward; bounds the memory.
        contexts_per_batch: the most contexts that are padded to one length.
        attention: how a context is read for many candidates; `auto` takes the fastest strategy that passes a self-test.
        cluster: processes that share the contexts, of which this is the main one.

    Attributes:
        num_contexts: how many examples there are.
        attention: the strategy that is used.
        tokens: tokens forwarded so far, by all processes together: reading the contexts once, gradients twice, since
            weights are frozen and a backward pass costs about as much as a forward pass.

    Raises:
        ConfigError: the strategy asked for does not suit the reasoner.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[Example],
        rows_per_forward: int = 256,
        contexts_per_batch: int = 16,
        attention: StrategyName = "auto",
        cluster: Cluster | None = None,
    ) -> None:
        assert examples, "a scorer needs examples"
        assert all(example.context and example.target for example in examples), "a context or a target is empty"
        self.model, self.num_contexts = model, len(examples)
        self._micro_batches = MicroBatcher(rows_per_forward)
        if cluster is None or cluster.size > len(examples):
            cluster = Cluster.local()
        self._lockstep = Lockstep(self, (tuple(examples), rows_per_forward, contexts_per_batch, attention), cluster)
        # Bit for bit the same in one process and in two is promised in float64 alone.
        layout = lay_out(examples, contexts_per_batch, cluster.size, pairs=model.dtype is torch.float64)
        self._num_batches, self._own = len(layout), cluster.share(len(layout))
        with inference(model):
            strategy = pick_strategy(model, examples, attention)
            self._batches = [strategy.read(model, layout[index], examples) for index in self._own]
        self.attention = strategy.name
        self._in_batch = BatchScorer(model, strategy)
        self._dtype = torch.promote_types(model.dtype, torch.float32)
        self._unprefixed: dict[int, LogProbs] | None = None
        self._reread_tokens = [strategy.rereads * len(example.context) for example in examples]
        self._bare_tokens = sum(self._reread_tokens) + sum(len(example.target) for example in examples)
        followed = [len(example.separator) + len(example.target) for example in examples]
        self._fixed_tokens = [sum(both) for both in zip(self._reread_tokens, followed, strict=True)]
        self.tokens = sum(len(example.context) for example in examples)

    @property
    def rows_per_forward(self) -> int:
        """The most rows of one forward; halved where the memory did not suffice."""
        return self._micro_batches.rows_per_forward

    def num_tokens(self, length: int, contexts: Sequence[int] | None = None) -> int:
        """Tokens forwarded to score one prefix of `length` tokens: its own and those behind it, in every context."""
        some = range(self.num_contexts) if contexts is None else contexts
        return sum(length + self._fixed_tokens[index] for index in some)

    def losses(self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int] | None = None) -> Losses:
        """Loss of every candidate in every context.

        Args:
            candidates: token ids, one prefix per row.
            contexts: indices of the contexts to score in, which the columns follow; None for all.
        """
        self._lockstep.call("losses", candidates, contexts)

        def measure(batch: Batch, some: Int[Tensor, "candidates length"]) -> Values:
            losses = self._in_batch.losses(batch, some)
            return torch.stack([losses.continuation, losses.nll])

        return Losses(*self._measured(candidates, contexts, measure, kinds=2))

    def continuations(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int] | None = None
    ) -> Float[Tensor, "candidates contexts"]:
        """The losses of the targets alone, which is faster: the prefix's own positions never reach the output head.

        Args:
            candidates: token ids, one prefix per row.
            contexts: as in `losses`.
        """
        self._lockstep.call("continuations", candidates, contexts)

        def measure(batch: Batch, some: Int[Tensor, "candidates length"]) -> Values:
            return self._in_batch.continuations(batch, some)[None]

        return self._measured(candidates, contexts, measure)[0]

    def divergence(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int] | None = None
    ) -> Float[Tensor, "candidates contexts"]:
        """KL(nothing injected || prefix injected) in nats, averaged over target tokens.

        Args:
            candidates: token ids, one prefix per row.
            contexts: as in `losses`.
        """
        self._lockstep.call("divergence", candidates, contexts)
        unprefixed = self._read_unprefixed()

        def measure(batch: Batch, some: Int[Tensor, "candidates length"]) -> Values:
            return self._in_batch.divergences(batch, some, [unprefixed[index] for index in batch.order])[None]

        return self._measured(candidates, contexts, measure)[0]

    def next_tokens(
        self, prefixes: Int[Tensor, "prefixes length"], allowed: Int[Tensor, "allowed"], keep: int
    ) -> Float[Tensor, "prefixes keep allowed"]:
        """Log-probabilities of some tokens before each of the last ones of a prefix and behind it, averaged.

        Args:
            prefixes: token ids, one prefix per row; they may have no tokens.
            allowed: the tokens.
            keep: at how many of these places; 1 for behind the prefix alone.
        """
        self._lockstep.call("next_tokens", prefixes, allowed, keep)
        length = prefixes.shape[1]
        self.tokens += len(prefixes) * (self.num_contexts * length + sum(self._reread_tokens)) if length else 0
        prefixes, allowed = prefixes.to(self.model.device), allowed.to(self.model.device)
        shape = len(prefixes), keep, len(allowed)

        def measure(batch: Batch, some: Int[Tensor, "some length"]) -> Float[Tensor, "some keep allowed"]:
            return self._in_batch.next_tokens(batch, some, keep).sum(0)[..., allowed]

        sums: list[Float[Tensor, "prefixes keep allowed"]] = []
        with inference(self.model):
            for batch in self._batches:
                total = prefixes.new_zeros(shape, dtype=self._dtype)
                for _, chosen, part in self._micro_batches.run(batch, prefixes, measure):
                    total[chosen] += part
                sums.append(total)
        return self._mean(sums).cpu()

    def gradient(self, prefix: Int[Tensor, "length"]) -> Float[Tensor, "length hidden"]:
        """Gradient of the mean loss of the targets over contexts, with respect to the prefix's input rows.

        That of `soft_losses`, batch by batch, which bounds the memory.

        Args:
            prefix: token ids of one prefix.

        Raises:
            ConfigError: the reasoner takes no embedding rows.
        """
        self._check_rows_are_read()
        self._lockstep.call("gradient", prefix)
        self.tokens += 2 * self.num_tokens(len(prefix))
        prefix = prefix.to(self.model.device)
        return self._mean([self._in_batch.gradient(batch, prefix) for batch in self._batches])

    def nll_gradient(self, prefix: Int[Tensor, "length"]) -> NllGradient:
        """Gradient of the prefix's own NLL, averaged over contexts.

        Args:
            prefix: token ids of one prefix.

        Raises:
            ConfigError: the reasoner takes no embedding rows.
        """
        self._check_rows_are_read()
        self._lockstep.call("nll_gradient", prefix)
        if len(prefix) > 1:
            self.tokens += 2 * (self.num_contexts * (len(prefix) - 1) + sum(self._reread_tokens))
        prefix = prefix.to(self.model.device)
        parts = [self._in_batch.nll_gradient(batch, prefix) for batch in self._batches]
        embeddings = self._mean([part.embeddings for part in parts])
        return NllGradient(embeddings, self._mean([part.token_nll for part in parts]))

    def soft_losses(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, "contexts"]:
        """Mean target loss of every context, with embedding rows in place of the prefix; gradients flow to the rows.

        Args:
            rows: one per place, as `RowLayout` lays them out, in the space behind the modules that look tokens up:
                some models scale what they look up.

        Raises:
            ConfigError: the reasoner takes no embedding rows.
        """
        self._check_rows_are_read()
        graph = self._lockstep.call_soft("soft_losses", rows)
        return self._soft(rows, graph, self._in_batch.soft_losses)

    def soft_divergence(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, "contexts"]:
        """`divergence` with embedding rows in place of the prefix; gradients flow to the rows.

        Args:
            rows: as in `soft_losses`.

        Raises:
            ConfigError: the reasoner takes no embedding rows.
        """
        self._check_rows_are_read()
        graph = self._lockstep.call_soft("soft_divergence", rows)
        unprefixed = self._read_unprefixed()

        def measure(batch: Batch, copy: Float[Tensor, "length hidden"]) -> Float[Tensor, "contexts"]:
            return self._in_batch.soft_divergences(batch, copy, [unprefixed[index] for index in batch.order])

        return self._soft(rows, graph, measure)

    def _check_rows_are_read(self) -> None:
        if refusal := RowLayout.of(self.model).refusal:
            raise ConfigError(
                f"{type(self.model).__name__} takes neither gradients nor soft prefixes: {refusal}; "
                "choose a search.method that needs no gradient"
            )

    def _measured(
        self,
        candidates: Int[Tensor, "candidates length"],
        contexts: Sequence[int] | None,
        measure: Measure,
        kinds: int = 1,
    ) -> Values:
        """One or more kinds of numbers for every candidate in some of the contexts, on the CPU."""
        self.tokens += len(candidates) * self.num_tokens(candidates.shape[1], contexts)
        wanted = range(self.num_contexts) if contexts is None else contexts
        candidates = candidates.to(self.model.device)
        values = candidates.new_zeros((kinds, len(candidates), self.num_contexts), dtype=self._dtype)
        with inference(self.model):
            for batch in self._batches:
                rows = [row for row, index in enumerate(batch.order) if index in wanted]
                if rows:
                    for some, chosen, part in self._micro_batches.run(batch.select(rows), candidates, measure):
                        values[:, chosen[:, None], torch.tensor(some.order)] = part.to(values.dtype)
        return self._lockstep.add(values).cpu()[:, :, list(wanted)]

    def _read_unprefixed(self) -> dict[int, LogProbs]:
        """Log-probabilities in each context with nothing injected; read once, whichever contexts are asked for."""
        if self._unprefixed is None:
            self.tokens += self._bare_tokens
            with inference(self.model):
                read = [zip(batch.order, self._in_batch.unprefixed(batch), strict=True) for batch in self._batches]
            self._unprefixed = dict(chain.from_iterable(read))
        return self._unprefixed

    def _mean(self, sums: Sequence[Float[Tensor, "*shape"]]) -> Float[Tensor, "*shape"]:
        """The mean over contexts, from sums over the contexts of each batch, added in the order of the batches."""
        parts = sums[0].new_zeros(self._num_batches, *sums[0].shape)
        for index, part in zip(self._own, sums, strict=True):
            parts[index] = part
        return self._lockstep.add(parts).sum(0) / self.num_contexts

    def _soft(
        self, rows: Float[Tensor, "length hidden"], graph: int | None, measure: SoftMeasure
    ) -> Float[Tensor, "contexts"]:
        passes = 2 if rows.requires_grad and torch.is_grad_enabled() else 1
        self.tokens += passes * self.num_tokens(len(rows))
        copies = self._lockstep.fan_out(rows.to(self.model.device), self._num_batches)
        values = copies.new_zeros(self.num_contexts, dtype=self._dtype)
        for index, batch in zip(self._own, self._batches, strict=True):
            order = torch.tensor(batch.order, device=values.device)
            values = values.index_put((order,), measure(batch, copies[index]).to(self._dtype))
        return self._lockstep.merge(values, graph)


def serve(model: PreTrainedModel, cluster: Cluster) -> None:
    """Make and call the same scorers as the main process, until it has nothing more to say.

    Args:
        model: the reasoner, the same as there.
        cluster: the processes.
    """
    try:
        _serve(model, cluster)
    finally:
        cluster.leave()


def _serve(model: PreTrainedModel, cluster: Cluster) -> None:
    scorers: dict[int, Scorer] = {}
    graphs: dict[int, tuple[Tensor, Tensor]] = {}
    while (order := cluster.hear()) is not None:
        match order:
            case Made(number, arguments, forgotten):
                for gone in forgotten:
                    scorers.pop(gone, None)
                try:
                    scorers[number] = Scorer(model, *arguments, cluster=cluster)
                except ConfigError:
                    # The main process finds the same, and says so.
                    return
            case Called(number, method, arguments, None):
                getattr(scorers[number], method)(*arguments)
            case Called(number, method, (rows,), int(graph)):
                rows.requires_grad_()
                graphs[graph] = rows, getattr(scorers[number], method)(rows)
            case FlowsBack(graph, gradient):
                rows, values = graphs.pop(graph)
                torch.autograd.grad(values, rows, gradient.to(values.device))
            case _:
                raise AssertionError(f"unknown order {order!r}")
