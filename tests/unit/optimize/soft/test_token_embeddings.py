"""The nearest token is that of float64 cosines, the first of equal ones, however few are computed in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from optimize.soft import module
from optimize.soft.module import TokenEmbeddings

HIDDEN = 24


class Table:
    """An engine that knows embeddings and nothing else; counts how many it was asked for."""

    def __init__(self, weights: Tensor, parts: tuple[int, ...] = ()) -> None:
        self._weights, self._parts = weights, parts or (weights.shape[1],)
        self.asked = 0

    def row_parts(self) -> tuple[int, ...]:
        return self._parts

    def rows(self, ids: Sequence[int]) -> Tensor:
        self.asked += len(ids)
        return self._weights[list(ids)]


def embeddings(weights: Tensor, allowed: Sequence[int] | None = None) -> TokenEmbeddings:
    return TokenEmbeddings(Table(weights), range(len(weights)) if allowed is None else allowed)


def plain(weights: Tensor, rows: Tensor) -> tuple[int, ...]:
    """By all cosines in float64, each computed in the same way."""
    cosines = (normalize(rows.double(), dim=1)[:, None] * normalize(weights.double(), dim=1)).sum(-1)
    return tuple(cosines.argmax(1).tolist())


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(0, 10_000),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([1e-20, 1e-3, 1.0, 1e3]),
)
def test_it_is_that_of_all_cosines_in_float64(seed: int, dtype: torch.dtype, scale: float) -> None:
    weights = (scale * random(seed, 300, HIDDEN)).to(dtype)
    rows = torch.cat([random(seed + 1, 3, HIDDEN), weights[:2].float() + scale * 1e-4 * random(seed + 2, 2, HIDDEN)])
    assert embeddings(weights).nearest(rows) == plain(weights, rows)


@given(st.integers(0, 10_000), st.integers(-12, -6), st.permutations(range(60)))
def test_of_tokens_nearer_to_each_other_than_float32_tells_float64_decides(
    seed: int, exponent: int, order: list[int]
) -> None:
    row = random(seed, 1, HIDDEN).double()
    apart = torch.linspace(1, 2, 60, dtype=torch.float64)[order, None] * 10.0**exponent
    # One direction at ever wider angles, at lengths of their own; then others, far from it.
    aside = random(seed + 1, 1, HIDDEN).double()
    close = (row + apart.sqrt() * (aside - (aside * row).sum() / row.square().sum() * row)) * (0.5 + apart.sqrt())
    weights = torch.cat([random(seed + 2, 40, HIDDEN).double(), close])
    assert embeddings(weights).nearest(row) == plain(weights, row) == (40 + order.index(0),)


PARTS = (10, 14)


def of_two_scales(seed: int, num_rows: int, scale: float) -> Tensor:
    return random(seed, num_rows, HIDDEN) * torch.tensor([1.0] * PARTS[0] + [scale] * PARTS[1])


@given(
    st.integers(0, 10_000), st.sampled_from([2.0**-9, 0.3, 1.0, 50.0]), st.sampled_from([torch.float32, torch.bfloat16])
)
def test_of_rows_of_two_parts_both_cosines_count_however_long_they_are(
    seed: int, scale: float, dtype: torch.dtype
) -> None:
    weights, rows = of_two_scales(seed, 300, scale).to(dtype), of_two_scales(seed + 1, 4, scale)
    cosines = [
        normalize(row, dim=1) @ normalize(part, dim=1).T
        for row, part in zip(rows.double().split(PARTS, 1), weights.double().split(PARTS, 1), strict=True)
    ]
    surroundings = TokenEmbeddings(Table(weights, PARTS), range(300))
    assert surroundings.nearest(rows) == tuple((cosines[0] + cosines[1]).argmax(1).tolist())


@pytest.mark.parametrize("scale", [2.0**-9, 0.3, 1.0, 50.0])
def test_rows_of_two_parts_are_measured_part_by_part(scale: float) -> None:
    weights = of_two_scales(0, 300, scale)
    surroundings = TokenEmbeddings(Table(weights, PARTS), range(300))
    assert surroundings.typical_norms == [part.norm(dim=1).median().item() for part in weights.double().split(PARTS, 1)]
    size = surroundings.units[-1].item()
    assert 2**-0.6 < size / scale < 2**0.6
    assert math.frexp(size)[0] == 0.5, "a power of two"
    assert surroundings.units.tolist() == [1.0] * PARTS[0] + [size] * PARTS[1]
    # Twice too long in one part, whichever it is, costs the same.
    typical = torch.cat(
        [
            normalize(part, dim=1) * norm
            for part, norm in zip(weights[:5].split(PARTS, 1), surroundings.typical_norms, strict=True)
        ],
        dim=1,
    )
    assert surroundings.excess(typical).item() == pytest.approx(0, abs=1e-10)
    for part in (slice(PARTS[0]), slice(PARTS[0], None)):
        long = typical.clone()
        long[:, part] *= 2
        assert surroundings.excess(long).item() == pytest.approx(0.5, rel=1e-5)


def test_of_equal_tokens_it_is_the_first_one_across_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    weights = random(0, 40, HIDDEN)
    weights[[5, 6, 7, 33]] = weights[20].clone()
    found = embeddings(weights).nearest(weights[[20, 21]])
    assert found == (5, 21)
    assert embeddings(weights, [33, 20, 6]).nearest(weights[[20]]) == (33,)


def test_where_nothing_is_nearer_than_anything_else_it_is_the_first() -> None:
    assert embeddings(random(0, 40, HIDDEN)).nearest(torch.zeros(1, HIDDEN)) == (0,)
    assert embeddings(torch.zeros(40, HIDDEN)).nearest(random(0, 1, HIDDEN)) == (0,)


def test_few_are_looked_at_in_float64() -> None:
    weights = random(0, 5000, 256)
    table = Table(weights)
    surroundings = TokenEmbeddings(table, range(len(weights)))
    surroundings.nearest(weights[:1])
    table.asked = 0
    surroundings.nearest(random(1, 3, 256))
    assert table.asked < 5000 + 3 * 20


def test_products_in_less_than_single_precision_are_not_leant_on(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, seen = random(0, 40, HIDDEN), []
    surroundings = embeddings(weights)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    cosines = surroundings._cosines
    monkeypatch.setattr(surroundings, "_cosines", lambda *args: seen.append(cosines(*args)) or seen[-1])
    assert surroundings.nearest(weights[:3]) == (0, 1, 2)
    assert seen[0].dtype is torch.float64
