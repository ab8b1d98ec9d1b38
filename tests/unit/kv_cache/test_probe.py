"""A cache that loses something is refused, whatever it loses and however soon it fades; a sound one is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from safethink.kv_cache.choose import HALF_STATE_TOLERANCE, STATE_TOLERANCE, choose_store
from safethink.kv_cache.hybrid_store import HybridStore
from safethink.kv_cache.lane_store import LaneStore
from safethink.kv_cache.lanes import LanePlacement
from safethink.kv_cache.probe import largest_difference
from safethink.kv_cache.states import LaneStates, StateLayer
from tests.support.architectures import qwen3
from tests.support.hybrid_architectures import jamba, lfm2, nemotron_h, qwen3_5, qwen3_5_moe

STATEFUL = (qwen3_5, nemotron_h, lfm2)
place, settle = StateLayer.place, StateLayer.settle


def last_layer_not_restored(self: LaneStore, row: int, states: Sequence[LaneStates]) -> None:
    for layer, saved in list(zip(self._cache._states, states, strict=True))[:-1]:
        layer.load(self._lanes[row], saved)


def first_layer_not_restored(self: LaneStore, row: int, states: Sequence[LaneStates]) -> None:
    for layer, saved in list(zip(self._cache._states, states, strict=True))[1:]:
        layer.load(self._lanes[row], saved)


def convolutions_alone_restored(self: LaneStore, row: int, states: Sequence[LaneStates]) -> None:
    for layer, saved in zip(self._cache._states, states, strict=True):
        for ((name, _), buffer), state in zip(layer._buffers.items(), saved, strict=True):
            if name == "conv_states":
                buffer[self._lanes[row]] = state


def restored_to_another_row(self: LaneStore, row: int, states: Sequence[LaneStates]) -> None:
    self._cache.load_states((self._lanes[row] + 1) % 2, states)


def left_over_at_the_start(self: StateLayer, placement: LanePlacement) -> None:
    place(self, placement)
    if self._buffers:
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), True)


def advanced_while_waiting(self: StateLayer) -> None:
    self._waiting = []
    settle(self)


def emptied_where_lanes_grow(self: StateLayer, kept: Sequence[int], size: tuple[int, int]) -> None:
    self._num_lanes = size[0]
    self._buffers = {key: buffer.new_zeros(size[0], *buffer.shape[1:]) for key, buffer in self._buffers.items()}


def not_copied(self: StateLayer, source: int, target: int, num_columns: int) -> None:
    """Copies keys and values alone."""


def cut_between_saved_places(self: HybridStore, row: int, num_tokens: int) -> None:
    """Keys and values are kept up to there, states are those of before."""
    if self.length(row) > num_tokens:
        saved = {length: states for length, states in self._snapshots[row].items() if length <= num_tokens}
        self._lanes.truncate(row, num_tokens)
        self._lanes.load_states(row, saved[max(saved)])


LOSSES = [
    (LaneStore, "load_states", last_layer_not_restored),
    (LaneStore, "load_states", first_layer_not_restored),
    (LaneStore, "load_states", convolutions_alone_restored),
    (LaneStore, "load_states", restored_to_another_row),
    (StateLayer, "place", left_over_at_the_start),
    (StateLayer, "settle", advanced_while_waiting),
    (StateLayer, "resize", emptied_where_lanes_grow),
    (StateLayer, "copy", not_copied),
    (HybridStore, "truncate", cut_between_saved_places),
]


CASES = [
    pytest.param(make_model, *loss, id=f"{loss[-1].__name__}-{make_model.__name__}")
    for make_model in STATEFUL
    for loss in LOSSES
    # LFM2 has no states but those of convolutions.
    if not (make_model is lfm2 and loss[-1] is convolutions_alone_restored)
]


@pytest.mark.parametrize(("make_model", "owner", "name", "loss"), CASES)
def test_a_cache_that_loses_states_is_told(
    make_model: Callable[[], PreTrainedModel], owner: type, name: str, loss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    monkeypatch.setattr(owner, name, loss)
    assert largest_difference(model, HybridStore(model)).share > STATE_TOLERANCE


@pytest.mark.parametrize("make_model", STATEFUL)
def test_a_sound_cache_is_far_within_the_tolerance(make_model: Callable[[], PreTrainedModel]) -> None:
    model = make_model()
    assert largest_difference(model, HybridStore(model)).share < STATE_TOLERANCE / 50


def share_with_flips(flipped: Callable[[int], bool], single: bool) -> float:
    """Difference where some forwards beside a cache, counted from one, answer with other experts."""
    model = qwen3_5_moe()
    counts = count(1)

    def flip(_: object, __: object, given: dict[str, Any], output: Any) -> None:
        if "past_key_values" in given and flipped(next(counts)):
            output.logits = output.logits.roll(1, dims=-1)

    model.register_forward_hook(flip, with_kwargs=True)
    return largest_difference(model, HybridStore(model), single).share


def test_in_half_precision_one_flipped_expert_is_no_fault_and_a_wrong_cache_is() -> None:
    # The start takes two forwards, and what follows one token on is the first after a rollback.
    first_rollback = 4
    assert share_with_flips(lambda number: number == first_rollback, single=True) > HALF_STATE_TOLERANCE
    assert share_with_flips(lambda number: number == first_rollback, single=False) < STATE_TOLERANCE / 50
    assert share_with_flips(lambda number: number >= first_rollback, single=False) > HALF_STATE_TOLERANCE


def with_logits(change: Callable[[torch.Tensor, bool], torch.Tensor]) -> PreTrainedModel:
    """A model whose logits are changed, given whether there is a cache beside."""
    model = qwen3()

    def changed(_: object, __: object, given: dict[str, Any], output: Any) -> None:
        output.logits = change(output.logits, "past_key_values" in given)

    model.register_forward_hook(changed, with_kwargs=True)
    return model


def test_tokens_that_a_model_never_says_hide_no_fault() -> None:
    def barred(logits: torch.Tensor, cached: bool) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([5]), -torch.inf)

    def barred_and_wrong(logits: torch.Tensor, cached: bool) -> torch.Tensor:
        return barred(logits.roll(1, dims=-1) if cached else logits, cached)

    def barred_beside_a_cache(logits: torch.Tensor, cached: bool) -> torch.Tensor:
        return barred(logits, cached) if cached else logits

    shares = [
        largest_difference(model, LaneStore(model)).share
        for model in map(with_logits, (barred, barred_and_wrong, barred_beside_a_cache))
    ]
    assert shares[0] < 1e-5
    assert shares[1] > 0.1
    assert shares[2] == torch.inf


def test_a_model_that_says_no_number_at_all_is_left_to_those_who_read_it() -> None:
    model = with_logits(lambda logits, _: torch.full_like(logits, torch.nan))
    assert largest_difference(model, LaneStore(model)).share == 0.0


def test_lanes_read_token_by_token_are_bounded_as_others_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        choose_store(jamba(), max_tokens=512)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("safethink")]
    assert "token by token" in message
    assert "max_cached_tokens" not in message
