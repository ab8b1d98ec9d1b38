"""What the reasoner would say: the same as plain forwards say, and counted."""

from __future__ import annotations

import pytest
import torch

from optimize.scoring import Example, Scorer
from optimize.search.proposals import Proposals
from tests.support import tiny_reasoner

VOCABULARY = 48
ALLOWED = (3, 4, 7, 11, 30)
CONTEXTS = ((5, 6, 7, 8), (9, 10), (11, 12, 13, 14, 15, 16, 17))


@pytest.fixture(scope="module")
def model():
    return tiny_reasoner.model(VOCABULARY, hidden_size=16, layers=1)


def proposals(model, **settings) -> Proposals:
    return Proposals(Scorer(model, [Example(context, (1, 2)) for context in CONTEXTS], **settings), ALLOWED)


@torch.no_grad()
def plain(model, prefix: tuple[int, ...]) -> torch.Tensor:
    """Averaged over contexts, among the allowed tokens, from one full forward for each."""
    logits = [model(torch.tensor([[*context, *prefix]])).logits[0, -1] for context in CONTEXTS]
    return torch.stack([each.log_softmax(-1) for each in logits]).mean(0)[list(ALLOWED)].log_softmax(-1)


@pytest.mark.parametrize(
    "settings", [{}, {"rows_per_forward": 2, "contexts_per_batch": 2}, {"attention": "plain"}, {"attention": "shared"}]
)
def test_next_tokens_equal_plain_forwards(model, settings) -> None:
    prefixes = [(), (3,), (4, 7), (), (11, 30), (3, 4, 7)]
    said = proposals(model, **settings).next_tokens(prefixes)
    for prefix, log_probs in zip(prefixes, said, strict=True):
        torch.testing.assert_close(log_probs, plain(model, prefix)[None], atol=1e-5, rtol=0)


def test_everywhere_is_before_every_token_and_behind_the_last(model) -> None:
    (said, nothing) = proposals(model).next_tokens([(3, 4, 7), ()], everywhere=True)
    expected = torch.stack([plain(model, (3, 4, 7)[:gap]) for gap in range(4)])
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(nothing, plain(model, ())[None], atol=1e-5, rtol=0)


def test_tokens_are_counted(model) -> None:
    proposer = proposals(model, attention="expanded")
    begun = proposer.tokens
    proposer.next_tokens([(3, 4), (3, 4), (7,), ()])
    assert proposer.tokens - begun == len(CONTEXTS) * (2 + 1)
