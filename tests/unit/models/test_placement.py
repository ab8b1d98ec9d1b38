"""What a model takes is read off its configuration, and agrees with the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from safethink.config import GuardMonitorConfig, LimitsConfig, ReasonerConfig, RunConfig
from safethink.kv_cache.hybrid_store import MAX_SNAPSHOTS
from safethink.models.loading import load
from safethink.models.placement import (
    GIB,
    LARGE_VOCABULARY,
    PROMPT_TOKENS,
    STATES_PER_ROW,
    decoding_gib,
    footprint,
    put,
)
from tests.support.architectures import ATTENTION, Architecture
from tests.support.hybrid_architectures import HYBRID


def test_a_footprint_is_that_of_the_loaded_model() -> None:
    model = load(ReasonerConfig(path="testbed", device="cpu")).model
    planned = footprint(ReasonerConfig(path="testbed", device="cpu"))
    assert planned is not None
    assert planned.weights_bytes == sum(each.numel() * each.element_size() for each in model.parameters())
    read = model(torch.arange(5)[None], past_key_values=DynamicCache(config=model.config))
    held = [layer[kept] for layer in read.past_key_values for kept in (0, 1)]
    assert planned.position_bytes == sum(each.numel() * each.element_size() for each in held) / 5
    assert planned.logits_bytes == read.logits.shape[-1] * 4


@pytest.mark.parametrize("each", [*ATTENTION, *HYBRID], ids=lambda each: each.name)
def test_what_a_row_takes_is_what_the_model_caches_of_it(each: Architecture, tmp_path: Path) -> None:
    model = each.make().float()
    model.save_pretrained(tmp_path)
    planned = footprint(ReasonerConfig(path=str(tmp_path), dtype="float32", device="cpu"))
    assert planned is not None
    layers = model(input_ids=torch.tensor([[3, 4, 5]])).past_key_values.layers
    pairs = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    states = [getattr(layer, name, None) or {} for layer in layers for name in ("conv_states", "recurrent_states")]
    assert planned.position_bytes == sum(pair.nbytes // pair.shape[-2] for pair in pairs if pair is not None)
    assert planned.state_bytes == sum(state.nbytes for some in states for state in some.values() if state is not None)


def test_saved_states_are_counted() -> None:
    assert STATES_PER_ROW == MAX_SNAPSHOTS + 2


def test_half_the_precision_is_half_the_memory() -> None:
    full, half = (footprint(ReasonerConfig(path="testbed", dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert full is not None
    assert half is not None
    assert full.weights_bytes == 2 * half.weights_bytes
    assert full.position_bytes == 2 * half.position_bytes


def test_what_is_not_on_this_machine_is_not_known() -> None:
    assert footprint(ReasonerConfig(path="some/model")) is None
    testbed = ReasonerConfig(path="testbed")
    assert decoding_gib(RunConfig(reasoner=testbed, monitor=GuardMonitorConfig(path="some/guard"))) is None


def test_decoding_takes_a_full_batch_of_both_models() -> None:
    limits = LimitsConfig(max_trace_tokens=1000, max_answer_tokens=500)
    config = RunConfig(reasoner=ReasonerConfig(path="testbed"), limits=limits, batch_size=64)
    reasoner, guard = footprint(config.reasoner), footprint(GuardMonitorConfig())
    assert reasoner is not None
    assert guard is not None
    rows = 64 * (PROMPT_TOKENS + 1500)
    expected = sum(each.weights_bytes + rows * each.position_bytes for each in (reasoner, guard)) / GIB
    taken = decoding_gib(config)
    assert taken is not None
    assert expected <= taken < expected + 0.01


@pytest.mark.parametrize(("vocab_size", "is_large"), [(LARGE_VOCABULARY, True), (LARGE_VOCABULARY - 1, False)])
def test_a_large_head_reads_the_last_tokens_of_all_rows_at_once(vocab_size: int, is_large: bool) -> None:
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    model = put(Qwen3ForCausalLM(config), torch.device("cpu"))
    seen: list[bool] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous()))
    ids = torch.arange(12).view(3, 4)
    with torch.inference_mode():
        last, whole = model(ids, logits_to_keep=1).logits, model(ids).logits
    assert seen == [is_large, True]
    torch.testing.assert_close(last[:, 0], whole[:, -1])
