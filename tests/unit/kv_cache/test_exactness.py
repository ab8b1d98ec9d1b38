"""Whatever becomes of rows beside each other, logits and hidden states are those of one plain forward of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.kv_cache import ReadRequest, Store, read
from safethink.kv_cache.choose import choose_store
from tests.support.architectures import ATTENTION, VARYING, VOCABULARY, Architecture
from tests.support.hybrid_architectures import BY_TOKEN, HYBRID

pytestmark = pytest.mark.usefixtures("in_double")

EVERY = ATTENTION + HYBRID + BY_TOKEN + VARYING
INJECTED = (7, 8, 9)
TOLERANCE = 1e-9
"""Largest difference of logits, as a share of the largest."""


def tokens(row: int, start: int, count: int) -> tuple[int, ...]:
    """Some tokens, others for every row and place."""
    return tuple(
        (37 * row + 11 * place + place * place) % (VOCABULARY - 3) + 3 for place in range(start, start + count)
    )


def prompt(row: int) -> tuple[int, ...]:
    return tokens(row, 0, 9 + 5 * row)


def plain(model: PreTrainedModel, ids: Sequence[int]) -> Float[Tensor, "tokens vocab"]:
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0]


@dataclass
class Rows:
    """Rows in a store, whose logits are compared with plain forwards at every move."""

    model: PreTrainedModel
    store: Store
    ids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    worst: float = 0.0

    def read(self, num_asked: int = 1, **rows: tuple[int, ...]) -> None:
        """Bring rows to the end of other ids, as an engine does that opens them, or looks back."""
        self.ids |= {int(name.removeprefix("row")): ids for name, ids in rows.items()}
        keys = [int(name.removeprefix("row")) for name in rows]
        requests = [ReadRequest(key, self.ids[key], num_asked) for key in keys]
        for indices, result in read(self.store, requests):
            for place, index in enumerate(indices):
                self.compare(keys[index], result.logits[place, -num_asked:])

    def step(self, rows: Sequence[int], count: int) -> None:
        """Read tokens of rows one by one, side by side; the others wait."""
        for _ in range(count):
            new = [tokens(row, len(self.ids[row]) + 5, 1) for row in rows]
            self.store.pack(rows)
            logits = self.store.forward(rows, new).logits
            for place, row in enumerate(rows):
                self.ids[row] += new[place]
                self.compare(row, logits[place, -1:])

    def compare(self, row: int, logits: Float[Tensor, "asked vocab"]) -> None:
        """Note how far these logits are from those of a plain forward."""
        expected = plain(self.model, self.ids[row])[-len(logits) :]
        assert self.store.length(row) == len(self.ids[row])
        self.worst = max(self.worst, float((logits - expected).abs().max() / expected.abs().max()))


@pytest.fixture(params=EVERY, ids=lambda each: each.name)
def rows(request: pytest.FixtureRequest) -> Rows:
    architecture: Architecture = request.param
    model = architecture.make()
    return Rows(model, choose_store(model))


def test_rows_of_different_lengths_that_go_on_wait_and_roll_back_are_exact(rows: Rows) -> None:
    rows.read(row0=prompt(0), row1=prompt(1), row2=prompt(2), row3=prompt(3))
    rows.step([0, 1, 2, 3], 4)
    # Two are rolled back and injected into, to different depths, while the others wait; then one of them alone goes on.
    rows.read(row0=rows.ids[0][:-2] + INJECTED, row2=rows.ids[2][:-4] + INJECTED[:2])
    rows.step([2, 0], 3)
    rows.step([2], 2)
    rows.step([3, 1, 0, 2], 3)
    # Resampled with nothing injected: to the end of what was accepted.
    rows.read(row1=rows.ids[1][:-3], row3=rows.ids[3][:-3])
    rows.step([1, 3], 2)
    # The injected prefix is dropped again, and one row goes back into its prompt.
    rows.read(row0=rows.ids[0][: len(prompt(0)) + 2], row2=prompt(2)[:-5] + INJECTED)
    rows.step([0, 1, 2, 3], 2)
    assert rows.worst < TOLERANCE


def test_shared_dropped_and_moved_rows_are_exact(rows: Rows) -> None:
    rows.read(row0=prompt(3), row1=prompt(1), row2=prompt(0))
    rows.store.share(0, [3, 4])
    rows.ids |= {3: rows.ids[0], 4: rows.ids[0]}
    rows.read(row3=(*prompt(3), 5, 6), row4=(*prompt(3), 9))
    rows.step([0, 3, 4], 2)
    # Others take the lane of a row that is gone.
    rows.store.drop(1)
    rows.read(row5=prompt(2), row1=(*prompt(0), 3))
    rows.step([5, 1], 2)
    rows.step([0, 1, 2, 3, 4, 5], 1)
    rows.read(row4=prompt(3)[:-1] + INJECTED, row5=prompt(2))
    rows.step([4, 5, 1], 2)
    rows.store.clear()
    rows.read(row4=prompt(1), row2=prompt(0))
    rows.step([2, 4], 1)
    assert rows.worst < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ATTENTION + HYBRID + BY_TOKEN, ids=lambda each: each.name)
def test_logits_of_several_last_tokens_are_exact(architecture: Architecture) -> None:
    model = architecture.make()
    rows = Rows(model, choose_store(model))
    rows.read(row0=prompt(0), row1=prompt(1))
    rows.step([0, 1], 3)
    rows.read(4, row0=rows.ids[0] + INJECTED, row1=rows.ids[1][:-1] + INJECTED)
    rows.read(3, row0=rows.ids[0], row1=rows.ids[1][:-2])
    rows.step([0, 1], 1)
    assert rows.worst < TOLERANCE
