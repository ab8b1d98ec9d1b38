from __future__ import annotations

import pytest
import torch
from transformers import Qwen3ForCausalLM

from safethink.config import ThoughtConfig
from safethink.defenses.effects import Extension, Until
from safethink.engines import ExtendRequest
from safethink.engines.build import end_ids
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling, sample_tokens, uniforms
from safethink.engines.stopping import Stopper
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from tests.support import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER)
CLOSE, END = chat_reasoner.token_id("</think>"), chat_reasoner.token_id("<|im_end|>")
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return chat_reasoner.model()


def engine(model: Qwen3ForCausalLM, sampling: Sampling, eos: frozenset[int] | None = None) -> HfEngine:
    return HfEngine(model, Stopper(THOUGHT, end_ids(model, TOKENIZER) if eos is None else eos), sampling)


def requests(n: int, until: Until = Until.ANSWER, max_new_tokens: int = NUM_TOKENS) -> list[ExtendRequest]:
    opened = [open_prompt(THOUGHT, Prompt.from_text("zz " * (1 + 7 * i % 23) + str(i))) for i in range(n)]
    return [ExtendRequest(i, ids, len(ids), until, max_new_tokens, 100 + i) for i, ids in enumerate(opened)]


GREEDY, SAMPLED, NUCLEUS = Sampling(temperature=0.0), Sampling(), Sampling(temperature=0.8, top_p=0.9, top_k=50)


def plain(model: Qwen3ForCausalLM, request: ExtendRequest, sampling: Sampling) -> tuple[int, ...]:
    """The same without cache, batch or padding: one full forward per token."""
    ids, random = list(request.ids), uniforms(request.seed, len(request.ids), request.max_new_tokens)
    stop = end_ids(model, TOKENIZER)
    for position in range(request.max_new_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[:, -1]
        ids.append(int(sample_tokens(logits, random[position, None], sampling)))
        if ids[-1] in stop:
            break
    return tuple(ids[len(request.ids) :])


def test_greedy_equals_generate_token_for_token(model: Qwen3ForCausalLM) -> None:
    todo = requests(12)
    for request, extension in zip(todo, engine(model, GREEDY).extend(todo), strict=True):
        assert extension.tokens.ids == chat_reasoner.generate(model, request.ids, NUM_TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "until"),
    [(GREEDY, Until.ANSWER), (SAMPLED, Until.ANSWER), (SAMPLED, Until.STEP), (NUCLEUS, Until.THOUGHT)],
)
def test_a_row_gives_the_same_tokens_alone_as_in_a_batch_of_32(
    model: Qwen3ForCausalLM, sampling: Sampling, until: Until
) -> None:
    todo = requests(32, until)
    together = engine(model, sampling).extend(todo)
    assert together == [engine(model, sampling).extend([request])[0] for request in todo]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SAMPLED, NUCLEUS])
def test_a_batch_equals_plain_forwards(model: Qwen3ForCausalLM, sampling: Sampling) -> None:
    todo = requests(6)
    extensions = engine(model, sampling).extend(todo)
    assert [extension.tokens.ids for extension in extensions] == [plain(model, request, sampling) for request in todo]


def continued(request: ExtendRequest, ids: tuple[int, ...], seed: int, until: Until = Until.STEP) -> ExtendRequest:
    return ExtendRequest(request.row, ids, len(ids), until, 12, seed)


@pytest.mark.slow
def test_rollbacks_and_injections_resume_exactly(model: Qwen3ForCausalLM) -> None:
    warm = engine(model, SAMPLED)
    todo = requests(16, Until.STEP, 12)
    prefix = THOUGHT.encoder.text("Wait, think safely")
    for round_index in range(6):
        extensions = warm.extend(todo)
        cold = engine(model, SAMPLED).extend(todo)
        assert extensions == cold
        # Every third row rolls its step back and injects, every third goes on, the rest start over elsewhere.
        moved = [
            (request.ids + prefix, request.ids + extension.tokens.ids, request.ids[:-3] + prefix)[(i + round_index) % 3]
            for i, (request, extension) in enumerate(zip(todo, extensions, strict=True))
        ]
        seeds = [1000 * round_index + i for i in range(len(todo))]
        todo = [continued(*parts) for parts in zip(todo, moved, seeds, strict=True)]


def test_a_rollback_forwards_only_the_tokens_redone(model: Qwen3ForCausalLM) -> None:
    warm = engine(model, SAMPLED, eos=frozenset())
    (request,) = requests(1, Until.STEP, 12)
    warm.extend([request])
    before = warm.stats.forwarded
    prefix = THOUGHT.encoder.text("Wait")
    (extension,) = warm.extend([continued(request, request.ids + prefix, 7)])
    assert warm.stats.forwarded - before == len(prefix) + len(extension.tokens)


def test_rows_with_equal_ids_are_read_once(model: Qwen3ForCausalLM) -> None:
    (request,) = requests(1)
    twins = [ExtendRequest(row, request.ids, len(request.ids), Until.ANSWER, 1, row) for row in range(10)]
    many = engine(model, SAMPLED)
    many.extend(twins)
    assert many.stats.forwarded == len(request.ids)


def test_rows_with_equal_ids_may_take_the_lanes_of_others(model: Qwen3ForCausalLM) -> None:
    used, (request, *_) = engine(model, SAMPLED), requests(1)
    twins = [ExtendRequest(row, request.ids, len(request.ids), Until.ANSWER, 5, row) for row in range(50, 58)]
    used.extend(requests(9))
    for row in range(1, 9):
        used.release(row)
    assert used.extend(twins) == engine(model, SAMPLED).extend(twins)


def test_a_released_row_is_read_again(model: Qwen3ForCausalLM) -> None:
    todo = requests(1, Until.STEP, 6)
    again = engine(model, SAMPLED)
    first = again.extend(todo)
    again.release(0)
    before = again.stats.forwarded
    assert again.extend(todo) == first
    assert again.stats.forwarded - before >= len(todo[0].ids)


def test_every_stop_is_where_the_text_says(model: Qwen3ForCausalLM) -> None:
    for request, extension in zip(todo := requests(64, Until.STEP), engine(model, SAMPLED).extend(todo), strict=True):
        ids, text = extension.tokens.ids, chat_reasoner.decode(extension.tokens.ids).lstrip()
        assert CLOSE not in ids[:-1]
        assert END not in ids[:-1]
        before_last = chat_reasoner.decode(ids[:-1]).lstrip()
        assert "\n\n" not in before_last
        expected = {CLOSE: "thought", END: "end"}.get(ids[-1], "step" if "\n\n" in text else "length")
        assert extension.stop == expected
        assert (len(ids) == request.max_new_tokens) or extension.stop != "length"


def test_no_room_gives_no_tokens(model: Qwen3ForCausalLM) -> None:
    (extension,) = engine(model, SAMPLED).extend(requests(1, max_new_tokens=0))
    assert (len(extension.tokens), extension.stop) == (0, "length")


def test_every_end_of_turn_counts(model: Qwen3ForCausalLM) -> None:
    configured = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [5, 6]
        assert end_ids(model, TOKENIZER) == {5, 6, END}
        model.generation_config.eos_token_id = None
        assert end_ids(model, TOKENIZER) == {END}
    finally:
        model.generation_config.eos_token_id = configured


def test_stats_count_tokens(model: Qwen3ForCausalLM) -> None:
    counting = engine(model, SAMPLED)
    extensions: list[Extension] = counting.extend(requests(4))
    assert counting.stats.sampled == sum(len(extension.tokens) for extension in extensions)
    assert counting.stats.seconds > 0
