"""Stepwise decoding with rollbacks and injections is one plain forward over the same ids, whatever the architecture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from safethink.config import ThoughtConfig
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest, LookRequest, StateRequest
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ModelError
from safethink.kv_cache.choose import VARYING_ROPES, rope_type
from safethink.thinking.format import Thought
from tests.support import chat_reasoner
from tests.support.architectures import IN_LANES, VOCABULARY, gemma3n, phi3_longrope, qwen3
from tests.support.hybrid_architectures import IN_HYBRID_LANES, jamba

EVERY = [*IN_LANES, *IN_HYBRID_LANES, jamba, phi3_longrope]
HAVE_STATES = [make for make in EVERY if make is not gemma3n]
THOUGHT = Thought(ThoughtConfig(), chat_reasoner.tokenizer())
INJECTED = (7, 8, 9)
STEP_TOKENS = 6
ROUNDS = 5


def engine(model: PreTrainedModel, **limits: int) -> HfEngine:
    return HfEngine(model, Stopper(THOUGHT, ()), Sampling(temperature=0.0), **limits)


def prompt(row: int) -> tuple[int, ...]:
    return tuple((37 * row + 11 * place) % (VOCABULARY - 3) + 3 for place in range(9 + 5 * row))


def greedy(model: PreTrainedModel, ids: tuple[int, ...]) -> list[int]:
    """What one plain forward would say after each of `ids`."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].argmax(-1).tolist()


def said(model: PreTrainedModel, ids: tuple[int, ...]) -> list[int]:
    """What a plain forward over all before it says of each token of the last step."""
    if rope_type(model) not in VARYING_ROPES:
        return greedy(model, ids)[-STEP_TOKENS - 1 : -1]
    # What comes later would turn what stands before.
    return [greedy(model, ids[:end])[-1] for end in range(len(ids) - STEP_TOKENS, len(ids))]


def request(row: int, ids: tuple[int, ...]) -> ExtendRequest:
    # Blank text is no step, so no delimiter of the random tokens ends one.
    return ExtendRequest(row, ids, len(ids), Until.ANSWER, STEP_TOKENS, row)


def run(decoding: HfEngine, rows: int = 4) -> dict[int, list[tuple[int, ...]]]:
    """Some rounds in which rows go on, roll back, and roll back and inject; the ids of each extension's end."""
    seen: dict[int, list[tuple[int, ...]]] = {row: [] for row in range(rows)}
    ids = {row: prompt(row) for row in range(rows)}
    for turn in range(ROUNDS):
        extensions = decoding.extend([request(row, ids[row]) for row in ids])
        for row, extension in zip(ids, extensions, strict=True):
            seen[row].append(ids[row] + extension.tokens.ids)
            match (row + turn) % 3:
                case 0:
                    ids[row] += extension.tokens.ids
                case 1:
                    ids[row] += INJECTED
                case _:
                    ids[row] = ids[row][:-2] + INJECTED
    return seen


@pytest.mark.parametrize("make_model", EVERY)
def test_rollbacks_and_injections_equal_one_plain_forward(make_model: Callable[[], PreTrainedModel]) -> None:
    model = make_model()
    for ends in run(engine(model)).values():
        for ids in ends:
            assert list(ids[-STEP_TOKENS:]) == said(model, ids)


@pytest.mark.parametrize("make_model", IN_LANES)
def test_only_what_is_new_is_forwarded(make_model: Callable[[], PreTrainedModel]) -> None:
    model = make_model()
    decoding = engine(model)
    ids = prompt(0)
    (first,) = decoding.extend([request(0, ids)])
    # The last token of an answer is not read: nothing follows.
    assert decoding.stats.forwarded == len(ids) + STEP_TOKENS - 1
    decoding.extend([request(0, ids + first.tokens.ids[:2] + INJECTED)])
    assert decoding.stats.forwarded == len(ids) + 2 * (STEP_TOKENS - 1) + len(INJECTED)


@pytest.mark.slow
@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("make_model", HAVE_STATES)
def test_hidden_states_equal_a_plain_forward_at_any_time(make_model: Callable[[], PreTrainedModel]) -> None:
    model = make_model()
    decoding = engine(model)
    ids = {row: prompt(row) for row in range(3)}
    for _ in range(3):
        states = decoding.states([StateRequest(row, row_ids) for row, row_ids in ids.items()], layer=2)
        for state, row_ids in zip(states, ids.values(), strict=True):
            with torch.inference_mode():
                expected = model(torch.tensor([row_ids]), output_hidden_states=True).hidden_states[2][0, -1]
            torch.testing.assert_close(state, expected, atol=1e-9, rtol=1e-9)
        extensions = decoding.extend([request(row, row_ids) for row, row_ids in ids.items()])
        ids = {
            row: ids[row] + each.tokens.ids[:row_end]
            for row, (each, row_end) in enumerate(zip(extensions, (6, 3, 1), strict=True))
        }


def test_a_model_with_several_states_of_each_token_shows_none_and_is_named() -> None:
    with pytest.raises(ModelError, match="Gemma3nForCausalLM keeps several hidden states of each token"):
        engine(gemma3n()).states([StateRequest(0, prompt(0))], layer=2)


@pytest.mark.slow
@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("make_model", HAVE_STATES)
def test_states_of_all_tokens_equal_a_plain_forward_through_rollbacks_and_injections(
    make_model: Callable[[], PreTrainedModel],
) -> None:
    """Of the whole trace, or of its last step; kept from the prompt on, or first asked for when it is long."""
    model = make_model()
    layer, starts = 2, {row: len(prompt(row)) for row in range(3)}
    kept, late = engine(model), engine(model)
    kept.keep_states(layer)
    ids = {row: prompt(row) for row in starts}
    for turn in range(ROUNDS):
        asked = [replace(request(row, row_ids), trace_start=starts[row]) for row, row_ids in ids.items()]
        extensions = kept.extend(asked)
        late.extend(asked)
        ends = {row: ids[row] + each.tokens.ids for row, each in zip(ids, extensions, strict=True)}
        # An odd round asks about nothing, as a defense may; what was read then is asked for in the next one.
        for decoding in () if turn % 2 else (kept, late):
            some = [
                StateRequest(row, end, STEP_TOKENS if turn == 2 and row else len(end) - starts[row])
                for row, end in ends.items()
            ]
            for each, found in zip(some, decoding.token_states(some, layer), strict=True):
                with torch.inference_mode():
                    expected = model(torch.tensor([each.ids]), output_hidden_states=True).hidden_states[layer][0]
                # Where what comes later turns what stands before, a state is that of when its token was read.
                num = 1 if rope_type(model) in VARYING_ROPES else each.num_tokens
                torch.testing.assert_close(found[-num:], expected[-num:], atol=1e-9, rtol=1e-9)
                assert len(found) == each.num_tokens
        moves = {row: (end, ids[row] + INJECTED, end[:-2] + INJECTED) for row, end in ends.items()}
        ids = {row: move[(row + turn) % 3] for row, move in moves.items()}


@pytest.mark.parametrize("limits", [{}, {"max_rows": 1}, {"max_cached_tokens": 2 * 128}])
def test_states_of_all_tokens_cost_no_forward_of_their_own(limits: dict[str, int]) -> None:
    model = qwen3()
    plain, watched = engine(model, **limits), engine(model, **limits)
    watched.keep_states(2)
    ids = {row: prompt(row) for row in range(3)}
    starts = {row: len(row_ids) for row, row_ids in ids.items()}
    # The trace of one begins before anything is sampled, as a prefilled one does.
    ids[2] += INJECTED
    for turn in range(ROUNDS):
        asked = [replace(request(row, row_ids), trace_start=starts[row]) for row, row_ids in ids.items()]
        extensions = watched.extend(asked)
        ends = {row: ids[row] + each.tokens.ids for row, each in zip(ids, extensions, strict=True)}
        plain.extend(asked)
        # Reads the last token, which the end of an answer leaves unread.
        plain.look([LookRequest(row, end) for row, end in ends.items()])
        some = [StateRequest(row, end, len(end) - starts[row]) for row, end in ends.items()]
        assert [len(found) for found in watched.token_states(some, 2)] == [each.num_tokens for each in some]
        moves = {row: (end, ids[row] + INJECTED, end[:-2] + INJECTED) for row, end in ends.items()}
        ids = {row: move[(row + turn) % 3] for row, move in moves.items()}
    assert watched.stats.forwarded == plain.stats.forwarded


@pytest.mark.parametrize("limits", [{"max_rows": 2}, {"max_cached_tokens": 2 * 128}, {"max_rows": 1}])
def test_limits_change_no_token(limits: dict[str, int]) -> None:
    model = qwen3()
    assert run(engine(model, **limits)) == run(engine(model))


LENGTHS = (40, 200, 9, 70, 120, 30, 64, 15)


@pytest.mark.parametrize("max_cached_tokens", [320, 400, 700, 1500])
def test_rows_that_push_each_other_out_give_the_same_tokens_and_states(max_cached_tokens: int) -> None:
    model = qwen3()
    ids = {
        row: tuple((37 * row + 11 * place) % 290 + 3 for place in range(length)) for row, length in enumerate(LENGTHS)
    }
    seen = []
    for decoding in (engine(model, max_cached_tokens=max_cached_tokens), engine(model)):
        extensions = decoding.extend([request(row, row_ids) for row, row_ids in ids.items()])
        grown = [StateRequest(row, ids[row] + each.tokens.ids) for row, each in enumerate(extensions)]
        states = decoding.states(grown, layer=2)
        views = decoding.look([LookRequest(each.row, each.ids, 1) for each in grown])
        seen.append((extensions, states, [view.token_ids for view in views]))
    (ours, our_states, our_views), (theirs, their_states, their_views) = seen
    assert ours == theirs
    assert our_views == their_views
    torch.testing.assert_close(our_states, their_states, atol=1e-6, rtol=1e-5)


def test_a_row_that_goes_on_alone_takes_the_room_of_those_that_wait() -> None:
    model = qwen3()
    crowded, alone = engine(model, max_cached_tokens=512), engine(model)
    crowded.extend([request(row, prompt(row)) for row in range(4)])
    long = (prompt(0) * 40)[:300]
    assert crowded.extend([request(0, long)]) == alone.extend([request(0, long)])


def test_two_runs_may_share_an_engine() -> None:
    model = qwen3()
    shared, alone = engine(model), engine(model)
    shared.submit([request(row, prompt(row)) for row in range(4)])
    first = shared.collect(range(4), share=0.25)
    inner = shared.extend([request(row, prompt(row)) for row in (7, 8)])
    rest = {row for row in range(4) if row not in first}
    outer = first | (shared.collect(rest, share=1.0) if rest else {})
    assert inner == alone.extend([request(row, prompt(row)) for row in (7, 8)])
    assert [outer[row] for row in range(4)] == alone.extend([request(row, prompt(row)) for row in range(4)])


def test_a_row_that_exceeds_the_cache_by_itself_is_named() -> None:
    with pytest.raises(MemoryError, match=r"a row of 9 tokens does not fit into memory: .* 64 tokens"):
        engine(qwen3(), max_cached_tokens=20).extend([request(0, prompt(0))])


@pytest.mark.slow
def test_when_memory_runs_out_half_as_many_rows_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = qwen3()
    expected = run(engine(model), rows=8)
    forward = type(model).forward

    def little_memory(self, input_ids, **kwargs):
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("no memory for more than 3 rows")
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(type(model), "forward", little_memory)
    with caplog.at_level(logging.WARNING):
        assert run(engine(model), rows=8) == expected
    halvings = [record.args for record in caplog.records]
    # A lane that waits is forwarded along, so how far down it goes depends on who waits.
    assert halvings[:2] == [(4, 8), (2, 4)]
    assert len(halvings) <= 3
