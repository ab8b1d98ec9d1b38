"""Today's architectures are scored a fast way, and whatever it is, it says what reading every context anew says.

Compared in float64 throughout, so that what differs is an error and no rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from optimize.scoring import Example, Scorer
from safethink.errors import ConfigError
from safethink.models.input_rows import RowLayout
from tests.support import architectures, hybrid_architectures
from tests.support.architectures import ATTENTION, VOCABULARY, Architecture
from tests.support.hybrid_architectures import HYBRID
from tests.support.in_double import InDouble

TOLERANCE = 1e-9
"""Largest difference, as a share of the largest value."""
LENGTH = 4
EXPANDED = {
    "Qwen2, sliding window",
    "Phi-3, sliding window",
    "Mistral",
    "Ministral",
    "Gemma 3",
    "Gemma 3n",
    "Gemma 4",
    "Olmo 3",
    "EXAONE 4",
    "gpt-oss",
    "DeepSeek-V3",
    "Zamba2",
}
"""Those with windows, sinks, latent keys or attention that several layers share; the others share contexts."""


@pytest.fixture
def in_double() -> Iterator[None]:
    with InDouble():
        yield


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Contexts of many lengths, longer and shorter than a window and a chunk; two of one length."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    lengths = [(2, 3, 2), (17, 1, 0), (9, 7, 1), (30, 4, 2), (9, 2, 0)]
    return [Example(ids(context), ids(target), ids(separator)) for context, target, separator in lengths]


@pytest.fixture(scope="module")
def candidates() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (5, LENGTH), generator=torch.Generator().manual_seed(2))


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance * expected.abs().max().item(), rtol=0)


def both(model, examples: list[Example]) -> tuple[Scorer, Scorer]:
    """The way that is taken, in batches of several contexts and forwards of few rows, and the plain one."""
    fast = Scorer(model, examples, rows_per_forward=4, contexts_per_batch=3)
    return fast, Scorer(model, examples, attention="plain")


@pytest.mark.slow
@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("architecture", ATTENTION + HYBRID, ids=lambda each: each.name)
def test_candidates_cost_what_they_cost_behind_a_context_read_anew(architecture: Architecture, examples, candidates):
    scorer, plain = both(architecture.make(), examples)
    assert scorer.attention == ("expanded" if architecture.name in EXPANDED else "shared")
    for some in (candidates, candidates[:, :1]):
        found, expected = scorer.losses(some), plain.losses(some)
        assert_same(found.continuation, expected.continuation)
        assert_same(found.nll, expected.nll)
        assert_same(scorer.continuations(some), expected.continuation)
        assert_same(scorer.divergence(some), plain.divergence(some))
    assert_same(scorer.losses(candidates, [3, 0]).continuation, plain.losses(candidates, [3, 0]).continuation)
    allowed = torch.tensor([3, 50, 8])
    for length in (LENGTH, 1):
        prefixes = candidates[:2, :length]
        assert_same(scorer.next_tokens(prefixes, allowed, length + 1), plain.next_tokens(prefixes, allowed, length + 1))


@pytest.mark.slow
@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("architecture", ATTENTION + HYBRID, ids=lambda each: each.name)
def test_gradients_are_those_behind_a_context_read_anew(architecture: Architecture, examples, candidates):
    model = architecture.make()
    scorer, plain = both(model, examples)
    for prefix in (candidates[0], candidates[0, :2], candidates[0, :1]):
        assert_same(scorer.gradient(prefix), plain.gradient(prefix))
        found, expected = scorer.nll_gradient(prefix), plain.nll_gradient(prefix)
        assert_same(found.embeddings, expected.embeddings)
        assert_same(found.token_nll, expected.token_nll)
    width = RowLayout.of(model).width
    rows = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    for name in ("soft_losses", "soft_divergence"):
        found, expected = getattr(scorer, name)(rows), getattr(plain, name)(rows)
        assert_same(found.detach(), expected.detach())
        assert_same(*(torch.autograd.grad(each.sum(), rows)[0] for each in (found, expected)))


@pytest.mark.parametrize("architecture", HYBRID, ids=lambda each: each.name)
def test_hybrids_take_gradients_in_single_precision_too(architecture: Architecture, examples, candidates):
    """In float64 a recurrence copies its state, in float32 it works on the very tensor that is kept."""
    scorer, plain = both(architecture.make().float(), examples)
    assert scorer.attention != "plain"
    assert_same(scorer.losses(candidates).continuation, plain.losses(candidates).continuation, 1e-5)
    assert_same(scorer.gradient(candidates[0]), plain.gradient(candidates[0]), 1e-3)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("architecture", HYBRID, ids=lambda each: each.name)
def test_the_state_of_a_context_is_never_written(architecture: Architecture, examples, candidates):
    scorer = Scorer(architecture.make(), examples, contexts_per_batch=3)
    first = scorer.losses(candidates)
    scorer.losses(candidates[:, :1])
    scorer.gradient(candidates[0])
    scorer.next_tokens(candidates[:2, :1], torch.tensor([3]), keep=1)
    assert torch.equal(scorer.losses(candidates).continuation, first.continuation)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("architecture", HYBRID, ids=lambda each: each.name)
def test_padding_gets_into_no_state(architecture: Architecture, examples, candidates):
    model = architecture.make()
    beside_longer = Scorer(model, examples, contexts_per_batch=5).losses(candidates).continuation
    alone = [Scorer(model, [each]).losses(candidates).continuation for each in examples]
    torch.testing.assert_close(beside_longer, torch.cat(alone, dim=1), atol=1e-12, rtol=0)


def test_a_hybrids_context_is_forwarded_once_whatever_the_number_of_candidates(candidates, monkeypatch):
    model = hybrid_architectures.qwen3_next()
    examples = [Example(tuple(range(3, 3 + length)), target=(5, 6, 7)) for length in (20, 9, 33)]
    forward, seen = model.forward, []

    def counting(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    contexts, behind = sum(len(each.context) for each in examples), len(examples) * (LENGTH + 3)
    scorers = {attention: Scorer(model, examples, attention=attention) for attention in ("plain", "expanded", "shared")}
    monkeypatch.setattr(model, "forward", counting)
    for attention, scorer in scorers.items():
        assert scorer.tokens == contexts
        read_again = contexts if attention == "plain" else 0
        seen.clear()
        scorer.losses(candidates)
        assert scorer.tokens == contexts + len(candidates) * (read_again + behind)
        assert sum(seen) == len(candidates) * (read_again + behind - len(examples)), "the last token is a label alone"


def test_a_class_that_forgets_its_state_between_forwards_is_read_anew_and_it_is_said_why(examples, candidates, caplog):
    """Jamba's scan begins with an empty state wherever it reads several tokens at once."""
    model = hybrid_architectures.jamba()
    with caplog.at_level(logging.INFO, "optimize.scoring.strategies"):
        scorer = Scorer(model, examples)
    assert scorer.attention == "plain"
    assert "contexts cannot be read the expanded way (logits differ by" in caplog.text
    assert_same(scorer.losses(candidates).nll, Scorer(model, examples, attention="plain").losses(candidates).nll)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(("lengths", "attention"), [((5, 15), "plain"), ((15, 16), "plain"), ((30, 40), "shared")])
def test_positions_that_turn_otherwise_in_longer_texts_are_not_mixed(lengths, attention, candidates, caplog):
    """This model's window is of 24 tokens, in which contexts of 15 tokens are, and not what stands behind them."""
    examples = [Example(tuple(range(3, 3 + length)), target=tuple(range(40, 48))) for length in lengths]
    model = architectures.phi3_longrope()
    assert Scorer(model, examples).attention == attention
    assert ("turns positions by 'longrope', otherwise in texts of more than 24 tokens" in caplog.text) == (
        attention == "plain"
    )
    scorer, plain = both(model, examples)
    assert_same(scorer.losses(candidates).continuation, plain.losses(candidates).continuation)
    assert Scorer(model, [Example(tuple(range(3, 53)), (5,))]).attention == "shared", "it is asked for other texts anew"


def test_layers_that_look_tokens_up_and_cannot_be_told_what_they_would_find_take_no_rows(examples, candidates):
    scorer = Scorer(architectures.looks_ids_up(), examples)
    rows = torch.zeros(LENGTH, 32, dtype=torch.float64)
    for ask in (
        lambda: scorer.gradient(candidates[0]),
        lambda: scorer.nll_gradient(candidates[0]),
        lambda: scorer.soft_losses(rows),
        lambda: scorer.soft_divergence(rows),
    ):
        with pytest.raises(ConfigError, match=r"LlamaForCausalLM takes neither .* search\.method"):
            ask()
