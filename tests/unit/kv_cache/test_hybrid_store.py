"""States side by side in one batch: a rollback costs the tokens redone, and a token of many rows one forward."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from safethink import Prompt, SafeThink
from safethink.config import LimitsConfig, SafeThinkConfig
from safethink.kv_cache import ReadRequest, read
from safethink.kv_cache.choose import choose_store
from safethink.kv_cache.hybrid_store import MAX_SNAPSHOTS, HybridStore
from tests.support import chat_reasoner
from tests.support.architectures import SIZES, VOCABULARY
from tests.support.counted_store import CountedStore
from tests.support.hybrid_architectures import jamba, lfm2, nemotron_h, qwen3_5

NUM_ROWS = 64
DEFENSES = (
    SafeThinkConfig(max_steered_steps=9),
    SafeThinkConfig(max_steered_steps=9, keep_prefix=True),
    SafeThinkConfig(max_steered_steps=9, fallback="rollback", rollback_steps=2, max_resamples=2),
)


def ids(row: int, count: int) -> tuple[int, ...]:
    return tuple((37 * row + 11 * place) % (VOCABULARY - 3) + 3 for place in range(count))


@pytest.fixture
def model() -> PreTrainedModel:
    return qwen3_5()


@pytest.fixture
def shapes(model: PreTrainedModel) -> Iterator[list[tuple[int, ...]]]:
    """Rows and tokens of every forward."""
    seen: list[tuple[int, ...]] = []

    def note(_: object, __: object, given: dict[str, Any]) -> None:
        seen.append(tuple(given["input_ids"].shape))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def bring(store: HybridStore, rows: dict[int, tuple[int, ...]], num_asked: int = 1) -> int:
    """Read rows to the end of these ids; the number of tokens that it took."""
    before = store.num_forwarded
    list(read(store, [ReadRequest(row, row_ids, num_asked) for row, row_ids in rows.items()]))
    return store.num_forwarded - before


def test_a_token_of_64_rows_of_different_lengths_is_one_forward(
    model: PreTrainedModel, shapes: list[tuple[int, ...]]
) -> None:
    store = HybridStore(model)
    rows = list(range(NUM_ROWS))
    # Lengths that are read together, see `read`.
    store.forward(rows, [ids(row, 20 + row % 8) for row in rows])
    # All but the last tokens, and those.
    assert shapes == [(NUM_ROWS, 26), (NUM_ROWS, 1)]
    shapes.clear()
    for _ in range(5):
        store.forward(rows, [ids(row, 1) for row in rows])
    assert shapes == [(NUM_ROWS, 1)] * 5
    shapes.clear()
    # So are those of some, while others wait.
    store.forward(rows[::3], [ids(row, 1) for row in rows[::3]])
    assert len(shapes) == 1


def test_a_rollback_to_an_accepted_step_costs_what_is_redone(model: PreTrainedModel) -> None:
    store = HybridStore(model)
    rows = {row: ids(row, 30 + row) for row in range(3)}
    assert bring(store, rows) == sum(map(len, rows.values()))
    for _ in range(4):
        store.forward([0, 1, 2], [(5,)] * 3)
    # Resampled from the end of the prompt: its last token is read for what may follow it.
    assert bring(store, rows) == 3
    # Injected into: the last token of what was accepted is read again as well.
    injected = {row: (*row_ids, 7, 8, 9) for row, row_ids in rows.items()}
    assert bring(store, injected) == 9
    store.forward([0, 1, 2], [(5,)] * 3)
    # The next try with the same prefix, and with another one.
    assert bring(store, injected) == 3
    assert bring(store, {row: (*row_ids, 7, 4) for row, row_ids in rows.items()}) == 3 * 3


def test_a_marked_place_is_one_to_go_back_to(model: PreTrainedModel) -> None:
    store = HybridStore(model)
    bring(store, {0: ids(0, 20)})
    for place in range(6):
        if place == 3:
            store.mark([0])
        store.forward([0], [(5 + place,)])
    store.truncate(0, 25)
    assert store.length(0) == 23
    # Further back there is the end of the prompt, and then nothing.
    store.truncate(0, 22)
    assert store.length(0) == 19
    store.truncate(0, 18)
    assert store.length(0) == 0


def test_snapshots_are_few_and_lie_the_wider_apart_the_older(model: PreTrainedModel) -> None:
    store = HybridStore(model)
    bring(store, {0: ids(0, 20)})
    num_steps = 3 * MAX_SNAPSHOTS
    for place in range(num_steps):
        store.forward([0], [(5 + place,)])
        store.mark([0])
    end = store.length(0)
    assert end == 20 + num_steps
    kept: list[int] = []
    for depth in range(num_steps + 2):
        store.truncate(0, end - depth)
        # However deep, no more is lost than was taken back.
        assert store.length(0) >= end - 2 * depth
        kept.append(store.length(0))
    assert kept[:4] == [end, end - 1, end - 2, end - 3]
    # One snapshot is where the row stands.
    assert len(set(kept)) == MAX_SNAPSHOTS + 1
    assert kept[-1] == 19


def test_rows_that_grow_by_unlike_lengths_take_few_forwards(
    model: PreTrainedModel, shapes: list[tuple[int, ...]]
) -> None:
    store = HybridStore(model)
    rows = list(range(NUM_ROWS))
    bring(store, {row: ids(row, 20) for row in rows})
    shapes.clear()
    store.forward(rows, [ids(row + 1, 16 + row % 40) for row in rows])
    # What all lack, then 32, 16, 8, 4, 2 and 1, and the token that something is asked of.
    assert len(shapes) == 8
    # Many that lack equally much are read at once.
    shapes.clear()
    store.forward(rows, [ids(row + 2, 30) for row in rows])
    assert shapes == [(NUM_ROWS, 29), (NUM_ROWS, 1)]


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("make_model", [qwen3_5, lfm2, jamba])
def test_unlike_lengths_give_the_logits_and_states_of_plain_forwards(make_model: Any) -> None:
    model, layer, num_asked, num_states = make_model(), 2, 2, 12
    store = HybridStore(model, by_token=make_model is jamba)
    rows = {row: ids(row, 9 + row) for row in range(8)}
    bring(store, rows)
    new = [ids(row + 3, count) for row, count in enumerate((3, 5, 6, 9, 14, 20, 25, 31))]
    result = store.forward(list(rows), new, num_asked, layer, num_states)
    assert result.states is not None
    for row, more in enumerate(new):
        plain = model(torch.tensor([rows[row] + more]), output_hidden_states=True)
        num = min(num_states, len(more))
        torch.testing.assert_close(result.logits[row], plain.logits[0, -num_asked:], atol=1e-9, rtol=1e-9)
        expected = plain.hidden_states[layer][0, -num:]
        torch.testing.assert_close(result.states[row, -num:], expected, atol=1e-9, rtol=1e-9)
        assert not result.states[row, : num_states - num].any()


def test_states_stay_where_they_are_while_columns_grow_and_old_buffers_are_let_go(model: PreTrainedModel) -> None:
    store = HybridStore(model)
    bring(store, {row: ids(row, 20) for row in range(4)})
    layer = store._lanes._cache._states[0]
    before = {key: buffer.data_ptr() for key, buffer in layer._buffers.items()}
    bring(store, {0: ids(0, 200)})
    assert {key: buffer.data_ptr() for key, buffer in layer._buffers.items()} == before
    old = [weakref.ref(buffer) for buffer in layer._buffers.values()]
    bring(store, {row: ids(row, 20) for row in range(4, 9)})
    assert old
    assert not any(ref() for ref in old)
    assert all(states is None for held in (layer.conv_states, layer.recurrent_states) for states in held.values())


def test_rows_that_push_each_other_out_are_read_anew(model: PreTrainedModel) -> None:
    small = HybridStore(model, None, 2 * 64)
    small.forward([0], [ids(0, 20)])
    small.forward([1, 2], [ids(1, 30), ids(2, 25)])
    assert [small.length(row) for row in range(3)] == [0, 30, 25]
    # What was saved of the first row is gone with its keys and values.
    assert bring(small, {0: ids(0, 21)}) == 21


def fickle(prompt: str, trace: str) -> float:
    return math.cos(sum(map(ord, trace)))


@pytest.mark.slow
@pytest.mark.parametrize("defense", DEFENSES, ids=("prefix dropped", "prefix kept", "rollback of two steps"))
@pytest.mark.parametrize("make_model", [qwen3_5, nemotron_h])
def test_a_guarded_run_forwards_what_lanes_would(
    make_model: Any, defense: SafeThinkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[CountedStore] = []

    def counted(*args: Any) -> CountedStore:
        stores.append(CountedStore(choose_store(*args)))
        return stores[-1]

    monkeypatch.setattr("safethink.engines.reader.choose_store", counted)
    tokenizer = chat_reasoner.tokenizer()
    monkeypatch.setitem(SIZES, "vocab_size", len(tokenizer))
    reasoner = make_model()
    reasoner.generation_config.suppress_tokens = sorted(tokenizer.added_tokens_decoder)
    limits = LimitsConfig(max_step_tokens=16, max_trace_tokens=128, max_answer_tokens=16)
    guarded = SafeThink(reasoner, tokenizer, monitor=fickle, defense=defense, limits=limits)
    results = guarded.run([Prompt.from_text(f"Add {i} and 4. " + "zz " * i, id=f"p{i}") for i in range(16)])
    assert sum(len(result.interventions) for result in results) > 16
    (store,) = stores
    assert store.num_forwarded < 1.05 * store.num_ideal
