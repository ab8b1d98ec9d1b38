"""What else a scorer says, each against one plain full forward per context: soft rows, divergence, some contexts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from optimize.scoring import Example, Scorer
from tests.support import tiny_reasoner

VOCABULARY, LENGTH = 97, 4
ATTENTIONS = ["shared", "expanded", "plain"]


@pytest.fixture(scope="module")
def model():
    return tiny_reasoner.model(VOCABULARY).double()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Contexts, separators and targets of many lengths."""
    generator = torch.Generator().manual_seed(1)
    lengths = [(5, 3, 2), (17, 1, 0), (9, 7, 1), (30, 4, 2), (6, 6, 2), (12, 2, 0), (21, 5, 1)]

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    return [Example(ids(context), ids(target), ids(separator)) for context, target, separator in lengths]


@pytest.fixture(scope="module")
def candidates() -> torch.Tensor:
    return torch.randint(VOCABULARY, (5, LENGTH), generator=torch.Generator().manual_seed(2))


def log_probs(model, example: Example, inside: torch.Tensor) -> torch.Tensor:
    """At every target token, behind embedding rows `inside`, by one full forward with nothing padded or cached."""
    embed = model.get_input_embeddings()
    before, after = embed(torch.tensor(example.context)), embed(torch.tensor(example.target))
    logits = model(inputs_embeds=torch.cat([before, inside, after])[None]).logits[0, :-1]
    return logits[-len(example.target) :].log_softmax(-1)


def injected(model, example: Example, prefix: torch.Tensor) -> torch.Tensor:
    """Embedding rows of prefix and separator."""
    return model.get_input_embeddings()(torch.cat([prefix, torch.tensor(example.separator, dtype=torch.long)]))


def plain_loss(model, example: Example, inside: torch.Tensor) -> torch.Tensor:
    return functional.nll_loss(log_probs(model, example, inside), torch.tensor(example.target))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_losses_equal_a_plain_forward_in_float64(model, examples, candidates, attention):
    scorer = Scorer(model, examples, rows_per_forward=10, contexts_per_batch=3, attention=attention)
    assert scorer.attention == attention
    losses, alone = scorer.losses(candidates), scorer.continuations(candidates)
    with torch.no_grad():
        expected = [
            [plain_loss(model, example, injected(model, example, prefix)) for example in examples]
            for prefix in candidates
        ]
    for found in (losses.continuation, alone):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.parametrize("contexts", [[4, 1], [6], [0, 1, 2, 3, 4, 5, 6], []])
def test_some_contexts_in_the_order_asked_for(model, examples, candidates, contexts):
    scorer = Scorer(model, examples, contexts_per_batch=3)
    whole, part = scorer.losses(candidates), scorer.losses(candidates, contexts)
    torch.testing.assert_close(part.continuation, whole.continuation[:, contexts], atol=1e-7, rtol=0)
    torch.testing.assert_close(part.nll, whole.nll[:, contexts], atol=1e-7, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_soft_losses_of_a_tokens_own_rows_are_its_losses_and_gradients_flow(model, examples, candidates, attention):
    scorer = Scorer(model, examples, contexts_per_batch=3, attention=attention)
    rows = model.get_input_embeddings()(candidates[0]).detach().requires_grad_()
    soft = scorer.soft_losses(rows)
    torch.testing.assert_close(soft.detach(), scorer.losses(candidates[:1]).continuation[0], atol=1e-7, rtol=0)
    (gradient,) = torch.autograd.grad(soft.mean(), rows)
    hard = scorer.gradient(candidates[0])
    torch.testing.assert_close(gradient, hard, atol=1e-7, rtol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_next_tokens_are_those_of_a_plain_forward(model, examples, candidates, attention):
    scorer = Scorer(model, examples, rows_per_forward=4, contexts_per_batch=3, attention=attention)
    allowed, prefix = torch.tensor([3, 50, 8]), candidates[0]
    found = scorer.next_tokens(candidates[:2], allowed, keep=LENGTH + 1)[0]
    with torch.no_grad():
        whole = [model(torch.cat([torch.tensor(each.context), prefix])[None]).logits[0] for each in examples]
    expected = torch.stack([each[-LENGTH - 1 :].log_softmax(-1)[:, allowed] for each in whole]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(scorer.next_tokens(candidates[:2, :0], allowed, keep=1)[1], found[:1], atol=1e-6, rtol=0)


def test_soft_losses_of_rows_that_are_no_tokens(model, examples):
    rows = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    some = [Example(example.context, example.target) for example in examples]
    with torch.no_grad():
        expected = torch.stack([plain_loss(model, example, rows) for example in some])
        torch.testing.assert_close(Scorer(model, some).soft_losses(rows), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_divergence_is_that_of_two_plain_forwards(model, examples, candidates, attention):
    nothing = torch.empty(0, 32, dtype=torch.float64)
    scorer = Scorer(model, examples, contexts_per_batch=3, attention=attention)
    found = scorer.divergence(candidates)
    with torch.no_grad():
        for row, prefix in enumerate(candidates):
            for column, example in enumerate(examples):
                base = log_probs(model, example, nothing)
                seen = log_probs(model, example, injected(model, example, prefix))
                expected = functional.kl_div(seen, base, log_target=True, reduction="none").sum(-1).mean()
                assert found[row, column].item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(scorer.divergence(candidates, [3, 0]), found[:, [3, 0]], atol=1e-7, rtol=0)
    rows = model.get_input_embeddings()(candidates[1]).detach().requires_grad_()
    soft = scorer.soft_divergence(rows)
    torch.testing.assert_close(soft.detach(), found[1], atol=1e-7, rtol=0)
    assert torch.autograd.grad(soft.sum(), rows)[0].abs().sum() > 0


def test_tokens_count_what_is_forwarded(model, examples, candidates):
    read = sum(len(example.context) for example in examples)
    behind = [len(example.separator) + len(example.target) for example in examples]
    scorer = Scorer(model, examples)
    assert scorer.tokens == read
    scorer.losses(candidates)
    every = sum(LENGTH + tokens for tokens in behind)
    assert scorer.tokens == read + 5 * every
    scorer.losses(candidates, [1, 3])
    some = 2 * LENGTH + behind[1] + behind[3]
    assert scorer.tokens == read + 5 * (every + some)
    scorer.gradient(candidates[0])
    assert scorer.tokens == read + 5 * (every + some) + 2 * every
    before = scorer.tokens
    scorer.nll_gradient(candidates[0])
    assert scorer.tokens == before + 2 * len(examples) * (LENGTH - 1), "the last token is no input"
    before = scorer.tokens
    scorer.soft_losses(torch.zeros(LENGTH, 32, dtype=torch.float64, requires_grad=True))
    assert scorer.tokens == before + 2 * every
    before, bare = scorer.tokens, sum(len(example.target) for example in examples)
    scorer.divergence(candidates)
    assert scorer.tokens == before + bare + 5 * every
    scorer.divergence(candidates)
    assert scorer.tokens == before + bare + 10 * every, "what stands there with nothing injected is read once"


def test_the_plain_way_reads_the_context_every_time(model, examples, candidates):
    scorer = Scorer(model, examples, attention="plain")
    before = scorer.tokens
    scorer.losses(candidates)
    per_context = [len(each.context) + LENGTH + len(each.separator) + len(each.target) for each in examples]
    assert scorer.tokens == before + 5 * sum(per_context)


def test_a_forward_that_does_not_fit_is_halved_and_the_size_remembered(model, examples, candidates, monkeypatch):
    scorer = Scorer(model, examples, rows_per_forward=64, contexts_per_batch=4)
    expected, forward, sizes = scorer.losses(candidates), model.forward, []

    def limited(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", limited)
    torch.testing.assert_close(scorer.losses(candidates).nll, expected.nll, atol=1e-7, rtol=0)
    assert max(sizes) > 3
    assert scorer.rows_per_forward <= 3
    sizes.clear()
    scorer.losses(candidates)
    assert max(sizes) <= 3, "a size that was too large is not tried again"
