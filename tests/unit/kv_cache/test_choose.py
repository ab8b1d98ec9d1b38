"""Every model gets the fastest cache that a few tokens, a rollback and a continuation find exact."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from safethink.errors import ModelError
from safethink.kv_cache.choose import choose_store, store_kind
from safethink.kv_cache.hybrid_store import HybridStore
from safethink.kv_cache.lane_store import LaneStore
from safethink.kv_cache.per_row import PerRowStore
from tests.support.architectures import ATTENTION, Architecture, phi3_longrope, qwen3
from tests.support.hybrid_architectures import HYBRID, jamba, qwen3_5


@pytest.mark.parametrize("architecture", ATTENTION, ids=lambda each: each.name)
def test_a_model_that_attends_to_tokens_alone_gets_lanes(architecture: Architecture) -> None:
    model = architecture.make()
    assert store_kind(model) == "in lanes"
    assert isinstance(choose_store(model), LaneStore)


@pytest.mark.parametrize("architecture", HYBRID, ids=lambda each: each.name)
def test_a_model_that_keeps_states_gets_hybrid_lanes(architecture: Architecture) -> None:
    model = architecture.make()
    assert store_kind(model) == "in hybrid lanes"
    assert isinstance(choose_store(model), HybridStore)


def said(caplog: pytest.LogCaptureFixture, model: PreTrainedModel) -> list[str]:
    """What is said when a cache is chosen."""
    with caplog.at_level(logging.WARNING):
        choose_store(model)
    return [record.getMessage() for record in caplog.records if record.name.startswith("safethink")]


def test_a_class_that_forgets_its_state_is_read_token_by_token(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = said(caplog, jamba())
    assert message.startswith("rows are read in hybrid lanes, token by token: JambaForCausalLM gives other logits")


def test_a_row_whose_positions_turn_is_read_again_at_every_token(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = said(caplog, phi3_longrope())
    assert message.startswith("rows are read one at a time, and again at every token: Phi3ForCausalLM turns positions")
    assert isinstance(choose_store(phi3_longrope()), PerRowStore)


def test_the_fastest_way_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert not said(caplog, qwen3()) + said(caplog, qwen3_5())


def test_a_class_that_errs_wherever_it_goes_on_is_read_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = qwen3()
    forward = type(model).forward

    def forgetful(self: Any, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        output = forward(self, *args, past_key_values=past_key_values, **kwargs)
        # As a class would that counts positions, or states, from where it goes on.
        output.logits = output.logits if past_key_values is None else output.logits.roll(1, dims=-1)
        return output

    monkeypatch.setattr(type(model), "forward", forgetful)
    assert store_kind(model) == "one at a time, and again at every token"
    (message,) = said(caplog, model)
    assert message.startswith(
        "rows are read one at a time, and again at every token: Qwen3ForCausalLM gives other logits"
    )


def test_a_model_that_differs_from_itself_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = qwen3()
    forward = type(model).forward

    def noisy(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output

    monkeypatch.setattr(type(model), "forward", noisy)
    with pytest.raises(ModelError, match="Qwen3ForCausalLM gives other logits"):
        choose_store(model)
