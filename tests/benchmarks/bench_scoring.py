"""Fast scoring against plain full forwards, on the testbed's reasoner and contexts.

Two plain ways: one forward for each candidate and context, and one for each context with all candidates as a batch.
Neither keeps anything from one call to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from optimize.contexts import ContextSet
from optimize.scoring import Example, Losses, Scorer
from safethink.config import WorldConfig
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow, speedup

NUM_CONTEXTS, NUM_CANDIDATES, LENGTH = 16, 64, 4
FEW_CANDIDATES = 8
"""For the plainest way: what it takes grows evenly with the number of candidates."""
TOLERANCES_NATS = {torch.float32: 1e-5, torch.float64: 1e-7}
MIN_RATIO = 2.0
MIN_SHARED_RATIO = 0.97
"""Sharing a context must not cost more than a few percent where contexts are as short as here."""
REPEATS = 3


def rows() -> Iterator[BenchRow]:
    """The largest difference of any loss in nats per token, in both precisions; and how many times faster it is."""
    reasoner, rows_per_forward = testbed.guarded("testbed"), testbed.shipped_search().objective.rows_per_forward
    contexts = testbed.validation(reasoner, WorldConfig(), num_harmless=0)
    examples = _examples(contexts)
    drawn = testbed.random_prefixes(testbed.vocabulary(reasoner, contexts), NUM_CANDIDATES, LENGTH, seed=0)
    candidates, few = torch.tensor(drawn), torch.tensor(drawn[:FEW_CANDIDATES])
    model, scorer = reasoner.model, Scorer(reasoner.model, examples, rows_per_forward)
    difference = _difference("float32", model, examples, candidates)
    yield difference
    yield _difference("float64", deepcopy(model).double(), examples, candidates)

    def one_by_one() -> None:
        for candidate in few:
            plain(model, candidate[None], examples)

    exact = difference.met
    yield speedup("scoring_over_one_by_one", one_by_one, lambda: scorer.losses(few), MIN_RATIO, exact, REPEATS)
    yield speedup(
        "scoring_over_batched_plain",
        lambda: plain(model, candidates, examples),
        lambda: scorer.losses(candidates),
        MIN_RATIO,
        exact,
        repeats=REPEATS,
    )
    expanded = Scorer(model, examples, rows_per_forward, attention="expanded")
    yield speedup(
        f"{scorer.attention}_over_expanded",
        lambda: expanded.losses(candidates),
        lambda: scorer.losses(candidates),
        MIN_SHARED_RATIO,
        exact,
    )


def _difference(
    name: str, model: PreTrainedModel, examples: Sequence[Example], candidates: Int[Tensor, "candidates length"]
) -> BenchRow:
    scorer, tolerance = Scorer(model, examples), TOLERANCES_NATS[model.dtype]
    fast, slow = scorer.losses(candidates), plain(model, candidates, examples)
    gap = max((a - b).abs().max().item() for a, b in zip(_both(fast), _both(slow), strict=True))
    note = f"contexts are read the {scorer.attention} way"
    return BenchRow(f"scoring_difference_{name}", gap, gap, gap, tolerance, "at_most", gap <= tolerance, note)


@torch.no_grad()
def plain(model: PreTrainedModel, candidates: Int[Tensor, "candidates length"], examples: Sequence[Example]) -> Losses:
    """The same losses by full forwards over context + prefix + target: nothing cached, padded or left out."""
    length, parts = candidates.shape[1], []
    for example in examples:
        before, after = (torch.tensor(ids).expand(len(candidates), -1) for ids in (example.context, example.target))
        ids = torch.cat([before, candidates, after], dim=1)
        nll = functional.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        start = before.shape[1] - 1
        parts.append((nll[:, start + length :].mean(1), nll[:, start : start + length].mean(1)))
    continuation, nll = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
    return Losses(continuation, nll)


def _examples(contexts: ContextSet) -> list[Example]:
    """Contexts as long as a search's; what follows each is the step that did follow, since any target is as long."""
    tokens = testbed.shipped_search().contexts.target_tokens
    return [Example(context.ids, context.step_ids[:tokens]) for context in contexts.unsafe[:NUM_CONTEXTS]]


def _both(losses: Losses) -> tuple[Float[Tensor, "candidates contexts"], Float[Tensor, "candidates contexts"]]:
    return losses.continuation, losses.nll
