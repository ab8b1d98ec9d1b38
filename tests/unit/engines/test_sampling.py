from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from safethink.engines.sampling import Sampling, sample_tokens, truncate, uniforms

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
    return torch.isfinite(truncate(LOGITS, sampling)[0]).nonzero()[:, 0].tolist()


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
    allowed = truncate(logits / temperature, sampling).isfinite()
    for uniform in (0.0, 0.5, 1 - 2**-53):
        chosen = sample_tokens(logits, torch.full((3,), uniform, dtype=torch.float64), sampling)
        assert allowed[torch.arange(3), chosen].all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(32, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random = torch.cat([uniforms(seed, 0, 1) for seed in range(32)])
    together = sample_tokens(logits, random, Sampling(top_p=0.9))
    alone = torch.cat([sample_tokens(logits[i : i + 1], random[i : i + 1], Sampling(top_p=0.9)) for i in range(32)])
    assert torch.equal(together, alone)
