"""Rows read side by side, from whatever was read of them before, give what one full forward gives."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from safethink.engines.kv import RaggedBatch, RowKV
from tests.unit import tiny_guard

ROWS = [tuple((7 * column + 13 * length) % 99 + 1 for column in range(length)) for length in (5, 40, 17, 1, 29)]


def sliding_window_model() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 100}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **heads, sliding_window=8)).eval()


@pytest.mark.parametrize("read_before", [(0, 0, 0, 0, 0), (4, 30, 10, 0, 29), (5, 40, 17, 1, 29), (0, 39, 3, 1, 28)])
@pytest.mark.parametrize("make_model", [tiny_guard.model, sliding_window_model])
@torch.inference_mode()
def test_ragged_rows_equal_a_full_forward(make_model, read_before: tuple[int, ...]) -> None:
    model: PreTrainedModel = make_model()
    known = [read_alone(model, ids[:length]) for ids, length in zip(ROWS, read_before, strict=True)]
    batch, last_logits = RaggedBatch.read(model, ROWS, known)
    more = torch.tensor([[3, 1, 4]] * len(ROWS))
    more_logits = batch.extend(more)
    for index, ids in enumerate(ROWS):
        full = model(torch.tensor([[*ids, *more[index].tolist()]])).logits[0, len(ids) - 1 :]
        torch.testing.assert_close(
            torch.cat([last_logits[index, None], more_logits[index]]), full, atol=1e-5, rtol=1e-5
        )


def read_alone(model: PreTrainedModel, ids: tuple[int, ...]) -> RowKV:
    return RaggedBatch.read(model, [ids], [RowKV()])[0].row(0, ids) if ids else RowKV()


def test_what_was_read_of_another_row_is_ignored() -> None:
    model = tiny_guard.model()
    other = read_alone(model, tuple(reversed(ROWS[1])))
    _, expected = RaggedBatch.read(model, ROWS[1:2], [RowKV()])
    _, actual = RaggedBatch.read(model, ROWS[1:2], [other])
    torch.testing.assert_close(actual, expected)


def test_only_new_tokens_are_forwarded() -> None:
    model = tiny_guard.model()
    batch, _ = RaggedBatch.read(model, ROWS[1:2], [read_alone(model, ROWS[1][:35])])
    assert batch.num_forwarded == 5


def test_cropped_and_selected_rows_go_on_as_if_nothing_had_been() -> None:
    model = tiny_guard.model()
    batch, _ = RaggedBatch.read(model, ROWS, [RowKV()] * len(ROWS))
    batch.extend(torch.ones(len(ROWS), 4, dtype=torch.long))
    batch.crop(4)
    batch.select(torch.tensor([2, 0]))
    logits = batch.extend(torch.tensor([[7], [8]]))[:, -1]
    for row, ids in zip(logits, [(*ROWS[2], 7), (*ROWS[0], 8)], strict=True):
        expected = RaggedBatch.read(model, [ids], [RowKV()])[1][0]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)
