"""What a prefix costs: it should make the safe continuation likely, harmless ones no less so, and be readable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.config import ObjectiveConfig
from optimize.contexts import Context, ContextSet
from optimize.scoring import Example, Scorer
from safethink.thought import Thought


@dataclass(frozen=True, slots=True)
class Cost:
    """What candidates cost, term by term, averaged over contexts; lower is better.

    Attributes:
        total: the weighted sum, which the search minimises.
        continuation: mean loss per token of the safe continuation, where the monitor fired.
        benign: mean loss per token of harmless continuations with the prefix forced in; 0 without harmless contexts.
        nll: mean negative log-likelihood per token of the prefix itself, where the monitor fired.
    """

    total: Float[Tensor, "candidates"]
    continuation: Float[Tensor, "candidates"]
    benign: Float[Tensor, "candidates"]
    nll: Float[Tensor, "candidates"]

    def terms(self, candidate: int) -> dict[str, float]:
        """The terms of one candidate."""
        return {name: getattr(self, name)[candidate].item() for name in ("total", "continuation", "benign", "nll")}


class Objective:
    """continuation + benign_weight * benign + nll_weight * nll, and where it falls.

    Args:
        unsafe: scores the safe continuations at the states where the monitor fired.
        harmless: scores the reasoner's own continuations of harmless prompts; None where there are none.
        config: the weights.

    Attributes:
        tokens: tokens forwarded so far, gradients counted twice.
    """

    def __init__(self, unsafe: Scorer, harmless: Scorer | None, config: ObjectiveConfig) -> None:
        self._unsafe = unsafe
        self._harmless = harmless if config.benign_weight > 0 else None
        self._config = config
        self.tokens = 0

    def cost(self, candidates: Sequence[tuple[int, ...]]) -> Cost:
        """What every candidate costs.

        Args:
            candidates: prefixes of one length, as token ids.
        """
        return self._cost(torch.tensor(candidates))

    def _cost(self, candidates: Int[Tensor, "candidates length"]) -> Cost:
        self._count(*candidates.shape)
        unsafe = self._unsafe.losses(candidates)
        continuation, nll = unsafe.continuation.mean(1), unsafe.nll.mean(1)
        benign = torch.zeros_like(continuation)
        if self._harmless is not None:
            benign = self._harmless.losses(candidates).continuation.mean(1)
        total = continuation + self._config.benign_weight * benign + self._config.nll_weight * nll
        return Cost(total, continuation, benign, nll)

    def coordinate_gradient(
        self, prefix: Int[Tensor, "length"], allowed: Int[Tensor, "allowed"]
    ) -> Float[Tensor, "length allowed"]:
        """What putting each allowed token at each place would change, to first order, up to a constant per place.

        The gradient with respect to the prefix's embeddings, averaged over all contexts, times the embeddings of the
        allowed tokens (GCG, arXiv 2307.15043, section 2); plus, exactly, what each token costs as a label of its own
        NLL.

        Args:
            prefix: token ids.
            allowed: ids that may take a place.
        """
        self._count(2, len(prefix))
        gradient = self._unsafe.gradient(prefix, self._config.nll_weight)
        embeddings = gradient.embeddings
        if self._harmless is not None:
            embeddings = embeddings + self._config.benign_weight * self._harmless.gradient(prefix, 0.0).embeddings
        model = self._unsafe.model
        allowed = allowed.to(model.device)
        # Through the module, not its weight: some models scale what they look up.
        with torch.no_grad():
            rows = model.get_input_embeddings()(allowed).float()
        as_label = self._config.nll_weight / len(prefix) * gradient.token_nll[:, allowed]
        return (embeddings @ rows.T + as_label).cpu()

    def _count(self, candidates: int, length: int) -> None:
        """Add what is forwarded to score so many candidates."""
        scorers = [self._unsafe] if self._harmless is None else [self._unsafe, self._harmless]
        self.tokens += candidates * sum(scorer.num_tokens(length) for scorer in scorers)


def build(model: PreTrainedModel, thought: Thought, contexts: ContextSet, config: ObjectiveConfig) -> Objective:
    """The objective over a set of contexts with targets.

    Args:
        model: the reasoner.
        thought: how its thinking is written down.
        contexts: where prefixes are injected and what they should lead to.
        config: the weights.
    """

    def scorer(some: Sequence[Context]) -> Scorer:
        examples = [Example(context.ids, context.target_ids, thought.separator_ids) for context in some]
        return Scorer(model, examples, config.rows_per_forward)

    return Objective(scorer(contexts.unsafe), scorer(contexts.harmless) if contexts.harmless else None, config)
