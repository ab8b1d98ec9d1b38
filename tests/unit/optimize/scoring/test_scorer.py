"""The fast scoring is exact: the same losses as one plain full forward per candidate and context."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from optimize.scoring import Example, Scorer
from tests.support import tiny_reasoner

VOCABULARY = 97


@pytest.fixture(scope="module")
def model():
    return tiny_reasoner.model(VOCABULARY)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Contexts and targets of many lengths, so that padding happens on both sides."""
    generator = torch.Generator().manual_seed(1)
    lengths = [(5, 3), (17, 1), (9, 7), (30, 4), (6, 6), (12, 2), (21, 5)]

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    return [Example(ids(context), ids(target)) for context, target in lengths]


@pytest.fixture(scope="module")
def candidates() -> torch.Tensor:
    return torch.randint(VOCABULARY, (11, 4), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def plain_losses(model, prefix: list[int], example: Example) -> tuple[float, float]:
    """Continuation loss and prefix NLL by one full forward over context + prefix + target, nothing padded or cached."""
    ids = torch.tensor([[*example.context, *prefix, *example.target]])
    nll = functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    start = len(example.context) - 1
    return nll[start + len(prefix) :].mean().item(), nll[start : start + len(prefix)].mean().item()


def test_losses_equal_a_plain_full_forward(model, examples, candidates):
    losses = Scorer(model, examples, rows_per_forward=10, contexts_per_batch=3).losses(candidates)
    for row, prefix in enumerate(candidates.tolist()):
        for column, example in enumerate(examples):
            continuation, nll = plain_losses(model, prefix, example)
            assert losses.continuation[row, column].item() == pytest.approx(continuation, abs=1e-5)
            assert losses.nll[row, column].item() == pytest.approx(nll, abs=1e-5)


@pytest.mark.parametrize("rows_per_forward", [1, 7, 1000])
def test_chunking_changes_nothing(model, examples, candidates, rows_per_forward):
    reference = Scorer(model, examples, rows_per_forward=64, contexts_per_batch=7).losses(candidates)
    losses = Scorer(model, examples, rows_per_forward=rows_per_forward, contexts_per_batch=2).losses(candidates)
    torch.testing.assert_close(losses.continuation, reference.continuation, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses.nll, reference.nll, atol=1e-5, rtol=0)


def test_scoring_twice_gives_the_same_because_the_context_cache_is_never_written(model, examples, candidates):
    scorer = Scorer(model, examples)
    first = scorer.losses(candidates)
    scorer.gradient(candidates[0])
    scorer.nll_gradient(candidates[0])
    assert torch.equal(scorer.losses(candidates).continuation, first.continuation)


def test_a_subset_of_contexts_is_scored_as_in_the_whole(model, examples, candidates):
    whole = Scorer(model, examples).losses(candidates)
    part = Scorer(model, [examples[4], examples[1]]).losses(candidates)
    torch.testing.assert_close(part.continuation, whole.continuation[:, [4, 1]], atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_plain_losses(model, examples, candidates):
    prefix, scorer = candidates[0], Scorer(model, examples, contexts_per_batch=3)
    table = model.get_input_embeddings().weight.detach()
    leaf = table[prefix].clone().requires_grad_()
    losses, nlls = [], []
    for example in examples:
        context, target = torch.tensor(example.context), torch.tensor(example.target)
        embeds = torch.cat([table[context], leaf, table[target]])[None]
        ids = torch.cat([context, prefix, target])
        nll = functional.cross_entropy(model(inputs_embeds=embeds).logits[0, :-1], ids[1:], reduction="none")
        start = len(context) - 1
        losses.append(nll[start + 4 :].mean())
        nlls.append(nll[start : start + 4].mean())
    (expected,) = torch.autograd.grad(torch.stack(losses).mean(), leaf, retain_graph=True)
    torch.testing.assert_close(scorer.gradient(prefix), expected, atol=1e-5, rtol=1e-4)
    (expected,) = torch.autograd.grad(torch.stack(nlls).mean(), leaf)
    torch.testing.assert_close(scorer.nll_gradient(prefix).embeddings, expected, atol=1e-5, rtol=1e-4)


def test_a_single_token_is_no_input_of_its_own_nll(model, examples, candidates):
    scorer = Scorer(model, examples)
    gradient = scorer.nll_gradient(candidates[0, :1])
    assert not gradient.embeddings.any()
    nll = scorer.losses(torch.arange(VOCABULARY)[:, None]).nll.mean(1)
    torch.testing.assert_close(gradient.token_nll[0], nll, atol=1e-5, rtol=0)


def test_token_nll_holds_what_each_token_would_cost_at_each_place(model, examples, candidates):
    gradient = Scorer(model, examples).nll_gradient(candidates[0])
    other = candidates[0].clone()
    other[-1] = 13
    expected = sum(plain_losses(model, other.tolist(), example)[1] for example in examples) / len(examples)
    places = torch.arange(4)
    assert gradient.token_nll[places, other].mean().item() == pytest.approx(expected, abs=1e-5)


def test_the_model_is_left_as_it_was(model, examples, candidates):
    model.train()
    Scorer(model, examples).gradient(candidates[0])
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model.eval()
