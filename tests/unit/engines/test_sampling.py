from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from safethink.engines import sampling as module
from safethink.engines.sampling import Sampling, sample_tokens, uniforms
from safethink.engines.truncation import Truncated, candidates, truncate, truncate_to_highest, truncate_to_nucleus

LOGITS = torch.log(torch.tensor([[0.1, 0.2, 0.4, 0.3]], dtype=torch.float64))


def test_a_number_depends_on_seed_and_position_alone() -> None:
    whole = uniforms(3, 0, 50)
    assert torch.equal(uniforms(3, 7, 5), whole[7:12])
    assert not torch.equal(uniforms(4, 0, 50), whole)


def test_greedy_takes_the_likeliest() -> None:
    assert sample_tokens(LOGITS, torch.zeros(1, dtype=torch.float64), Sampling(temperature=0.0)).tolist() == [2]


def test_the_cumulative_distribution_is_inverted() -> None:
    points = torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.69, 0.71, 1 - 2**-53], dtype=torch.float64)
    chosen = sample_tokens(LOGITS.expand(len(points), -1), points, Sampling())
    assert chosen.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_frequencies_follow_the_tempered_probabilities() -> None:
    draws = uniforms(1, 0, 20_000)
    chosen = sample_tokens(LOGITS.expand(len(draws), -1), draws, Sampling(temperature=0.5))
    expected = np.array([0.1, 0.2, 0.4, 0.3]) ** 2
    np.testing.assert_allclose(np.bincount(chosen) / len(draws), expected / expected.sum(), atol=0.01)


def kept(sampling: Sampling) -> list[int]:
    return truncate(LOGITS, sampling.top_k, sampling.top_p).masses[0].nonzero()[:, 0].tolist()


def test_truncation_keeps_the_likeliest() -> None:
    assert kept(Sampling(top_k=2)) == [2, 3]
    assert kept(Sampling(top_p=0.39)) == [2]
    assert kept(Sampling(top_p=0.41)) == [2, 3]
    assert kept(Sampling(top_p=0.95)) == [0, 1, 2, 3]
    assert kept(Sampling(top_k=3, top_p=0.7)) == [2, 3]
    assert kept(Sampling(top_p=1e-9)) == [2]


@given(st.integers(0, 2**63 - 1), st.floats(0.05, 1), st.integers(0, 8), st.floats(0.1, 3))
def test_what_is_cut_off_is_never_chosen(seed: int, top_p: float, top_k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    logits = 4 * torch.randn(3, 8, generator=generator, dtype=torch.float64)
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    allowed = truncate(logits / temperature, top_k, top_p).masses > 0
    for uniform in (0.0, 0.5, 1 - 2**-53):
        chosen = sample_tokens(logits, torch.full((3,), uniform, dtype=torch.float64), sampling)
        assert allowed[torch.arange(3), chosen].all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(32, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random = torch.cat([uniforms(seed, 0, 1) for seed in range(32)])
    together = sample_tokens(logits, random, Sampling(top_p=0.9))
    alone = torch.cat([sample_tokens(logits[i : i + 1], random[i : i + 1], Sampling(top_p=0.9)) for i in range(32)])
    assert torch.equal(together, alone)


def fully_sorted(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """The plain form, for vocabularies of any size: all scores sorted and inverted in float64."""
    scores = logits.double() / sampling.temperature
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -torch.inf
    probabilities = ordered.softmax(-1)
    if sampling.top_p < 1:
        ordered[probabilities.cumsum(-1) - probabilities >= sampling.top_p] = -torch.inf
    cumulative = torch.empty_like(scores).scatter_(-1, order, ordered).softmax(-1).cumsum(-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


LEVELS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0 + 2**-20, 3.0, -2.0, -40.0, -800.0, 1e-30, -torch.inf, -torch.inf])
UNIFORMS = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.25, 0.5, 1 - 2**-53, 1e-12]))


@given(
    rows=st.integers(1, 40).flatmap(
        lambda vocab: st.lists(st.lists(LEVELS, min_size=vocab, max_size=vocab), min_size=1, max_size=3)
    ),
    uniform=UNIFORMS,
    top_p=st.one_of(st.floats(1e-6, 1), st.sampled_from([0.25, 0.5, 2 / 3, 0.75, 1 - 1e-12, 1.0])),
    top_k=st.integers(0, 6),
    temperature=st.floats(0.01, 20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
@example([[0.0] * 8], 0.5, 0.5, 0, 1.0, torch.float32)
@example([[0.0] * 9], 1 - 2**-53, 2 / 3, 3, 1.0, torch.bfloat16)
@example([[3.0] + [-torch.inf] * 30], 0.0, 0.9, 2, 1.0, torch.float32)
@example([[0.0, 1e-30, 1.0, 1.0 + 1e-16]], 0.3, 0.7, 0, 3.0, torch.float64)
def test_tokens_are_those_of_a_full_sort(
    rows: list[list[float]], uniform: float, top_p: float, top_k: int, temperature: float, dtype: torch.dtype
) -> None:
    """Ties, banned tokens and masses at the very edge of the nucleus included."""
    for row in rows:
        row[0] = 0.0 if max(row) == -torch.inf else row[0]
    logits = torch.tensor(rows, dtype=torch.float64).to(dtype)
    random = torch.full((len(rows),), uniform, dtype=torch.float64)
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "LARGE_VOCABULARY", 1)
        assert torch.equal(sample_tokens(logits, random, sampling), fully_sorted(logits, random, sampling))


SETTINGS = [(1.0, 0), (0.95, 0), (0.999, 0), (0.5, 0), (1.0, 20), (0.95, 20), (0.9, 2000), (0.9, 10_000)]


@pytest.mark.parametrize(("top_p", "top_k"), SETTINGS)
@pytest.mark.parametrize(("spread", "dtype"), [(0.5, torch.float32), (3.0, torch.bfloat16), (8.0, torch.float32)])
def test_a_large_vocabulary_gives_the_tokens_of_a_full_sort(
    spread: float, dtype: torch.dtype, top_p: float, top_k: int
) -> None:
    logits = (spread * torch.randn(6, 12_345, generator=torch.Generator().manual_seed(top_k))).to(dtype)
    logits[:, 100:200] = -torch.inf
    random = torch.cat([uniforms(seed, 0, 1) for seed in range(len(logits))])
    sampling = Sampling(temperature=0.6, top_p=top_p, top_k=top_k)
    assert torch.equal(sample_tokens(logits, random, sampling), fully_sorted(logits, random, sampling))


REAL_SIZES = {"SmolLM2": 49_152, "Llama 3": 128_256, "Qwen3": 151_936, "Gemma 3": 262_144}


@settings(max_examples=12, deadline=None)
@given(
    vocab=st.sampled_from(list(REAL_SIZES.values())),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    spread=st.sampled_from([0.0, 0.3, 2.0, 6.0]),
    num_banned=st.sampled_from([0, 1, 40_000]),
    cut=st.sampled_from([(0.95, 0), (0.5, 0), (1 - 1e-7, 0), (1.0, 1), (0.95, 20), (0.9, 64)]),
    seed=st.integers(0, 2**31),
)
def test_logits_in_half_precision_give_the_tokens_of_a_full_sort_at_real_sizes(
    vocab: int, dtype: torch.dtype, spread: float, num_banned: int, cut: tuple[float, int], seed: int
) -> None:
    """Half precision has far fewer numbers than they have tokens, so most logits have equals; float64 decides."""
    generator = torch.Generator().manual_seed(seed)
    logits = (spread * torch.randn(1, vocab, generator=generator)).to(dtype)
    logits[:, torch.randint(vocab, (num_banned,), generator=generator)] = -torch.inf
    sampling = Sampling(temperature=0.6, top_p=cut[0], top_k=cut[1])
    random = uniforms(seed, 0, 1)
    assert torch.equal(sample_tokens(logits, random, sampling), fully_sorted(logits, random, sampling))


class Sorts(TorchFunctionMode):
    """Notes how much is sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.sort:
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spread", [0.5, 6.0])
def test_what_a_large_vocabulary_keeps_is_found_without_sorting_it(spread: float) -> None:
    """Where nothing is close to call, neither way falls back on a sort, and each sorts few."""
    logits = spread * torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    for top_k, find in (
        (0, lambda: truncate_to_nucleus(logits, 1.0, 0.95)),
        (40, lambda: truncate_to_highest(logits, 1.0, 40, 0.95)),
    ):
        with Sorts() as sorts:
            truncated = find()
        assert truncated.sure.all()
        assert sorts.sizes
        assert max(sorts.sizes) < 5_000
        assert kept_ids(truncated) == kept_ids(truncate(logits.double(), top_k, 0.95))


@given(
    row=st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0 + 2**-20, -3.0, -800.0, -torch.inf]), min_size=1, max_size=40),
    top_k=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
@example([0.0] * 17, 3, torch.float32)
@example([-torch.inf] * 16 + [0.0], 1, torch.float32)
def test_candidates_are_all_that_may_be_among_the_highest(row: list[float], top_k: int, dtype: torch.dtype) -> None:
    logits = torch.tensor([row, row[::-1]], dtype=torch.float64).to(dtype)
    top_k = min(top_k, len(row))
    rows, tokens = candidates(logits, top_k)
    for index, scores in enumerate(logits):
        found = tokens[rows == index].tolist()
        assert found == sorted(set(found))
        assert set((scores >= scores.topk(top_k).values[-1]).nonzero()[:, 0].tolist()) <= set(found)


def kept_ids(truncated: Truncated) -> list[int]:
    places = truncated.masses[0].nonzero()[:, 0]
    return (places if truncated.ids is None else truncated.ids[0, places]).tolist()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=5), Sampling(top_k=5, top_p=0.9)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_of_no_numbers_disturbs_no_other(sampling: Sampling, bad: float) -> None:
    """What is drawn from it is a token, though one that counts for nothing."""
    logits = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0))
    random = torch.full((3,), 0.4, dtype=torch.float64)
    alone = sample_tokens(logits[[0, 2]], random[:2], sampling)
    logits[1, 7] = bad
    chosen = sample_tokens(logits, random, sampling)
    assert torch.equal(chosen[[0, 2]], alone)
    assert 0 <= int(chosen[1]) < 10_000
    logits[1] = torch.nan
    assert torch.equal(sample_tokens(logits, random, sampling)[[0, 2]], alone)
