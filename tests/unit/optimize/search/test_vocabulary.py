"""What may enter a prefix, and what survives being written down and read again."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast

from optimize.search.vocabulary import TAIL_TOKENS, Vocabulary, allowed_ids, tails
from tests.support import tiny_reasoner

TAGS = ("<think>", "</think>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_reasoner.tokenizer()


@pytest.fixture(scope="module")
def allowed(tokenizer) -> list[int]:
    return allowed_ids(tokenizer, tiny_reasoner.model(), TAGS)


def test_control_tokens_thinking_tags_and_eos_are_banned(tokenizer, allowed):
    banned = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    assert None not in banned
    assert not set(banned) & set(allowed)
    assert not set(tokenizer.all_special_ids) & set(allowed)


def test_ids_that_only_the_generation_config_calls_an_end_are_banned(tokenizer, allowed):
    for end in (allowed[5], [allowed[5], allowed[9]]):
        model = tiny_reasoner.model()
        model.generation_config = GenerationConfig(eos_token_id=end)
        assert set(allowed) - set(allowed_ids(tokenizer, model, TAGS)) == set([end] if isinstance(end, int) else end)


def test_ids_without_an_embedding_row_and_rows_without_a_token_are_banned(tokenizer, allowed):
    small = tiny_reasoner.model(vocab_size=300)
    assert allowed_ids(tokenizer, small, TAGS) == [index for index in allowed if index < 300]
    padded = tiny_reasoner.model(vocab_size=512)
    assert allowed_ids(tokenizer, padded, TAGS) == allowed
    assert max(allowed) < len(tokenizer)


def test_no_allowed_token_has_a_line_break_or_broken_characters(tokenizer, allowed):
    texts = [tokenizer.decode([index]) for index in allowed]
    assert all(text and text.isprintable() and "\ufffd" not in text for text in texts)
    everything = [tokenizer.decode([index]) for index in range(len(tokenizer))]
    assert any("\n" in text for text in everything)
    assert any("\ufffd" in text for text in everything)
    assert any(" " in text.strip() for text in texts), "tokens that hold several words are there to be used"


@pytest.mark.parametrize("name", ["<|reserved_special_token_7|>", "[unused12]", "<unused3>", "<extra_id_0>"])
def test_reserved_rows_are_banned_even_as_plain_vocabulary(tokenizer, name):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    longest = max(vocabulary, key=lambda token: (len(token), token))
    state["model"]["merges"] = [pair for pair in state["model"]["merges"] if "".join(pair) != longest]
    vocabulary[name] = vocabulary.pop(longest)
    reserved = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    assert vocabulary[name] not in allowed_ids(reserved, tiny_reasoner.model(), TAGS)


def survivors_one_by_one(tokenizer, candidates, endings) -> list[bool]:
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def survives(ids: tuple[int, ...]) -> bool:
        text = tokenizer.decode(ids)
        return encode(text) == list(ids) and all(encode(end + text) == encode(end) + list(ids) for end in endings)

    return [survives(ids) for ids in candidates]


def test_the_batched_filter_is_the_plain_one(tokenizer, allowed):
    endings = ["<think>\n", "first mix the two parts.\n\n", "then heat it slowly"]
    draws = torch.randint(len(allowed), (200, 3), generator=torch.Generator().manual_seed(0)).tolist()
    candidates = [tuple(allowed[index] for index in draw) for draw in draws]
    alive = Vocabulary(tokenizer, allowed, endings).survive(candidates)
    assert alive == survivors_one_by_one(tokenizer, candidates, endings)
    assert 0 < sum(alive) < len(alive)


def test_a_prefix_that_merges_with_what_stands_before_it_is_dropped(tokenizer, allowed):
    ids = tuple(tokenizer.encode(" safely", add_special_tokens=False))
    assert set(ids) <= set(allowed)
    assert Vocabulary(tokenizer, allowed, ["done.\n\n"]).survive([ids]) == [True]
    assert Vocabulary(tokenizer, allowed, ["done.\n\n", "wait, think"]).survive([ids]) == [False]


def test_a_tag_spelled_with_ordinary_tokens_is_dropped(tokenizer, allowed):
    letters = tokenizer.get_vocab()
    ids = (letters["<"], letters["x"], letters[">"])
    assert Vocabulary(tokenizer, allowed).survive([ids]) == [True]
    assert Vocabulary(tokenizer, allowed, banned_texts=["<x>"]).survive([ids]) == [False]


def test_nothing_survives_of_nothing(tokenizer, allowed):
    assert Vocabulary(tokenizer, allowed, ["a"]).survive([]) == []


@pytest.mark.slow
@given(st.data())
def test_survivors_are_read_again_as_the_same_ids(data):
    tokenizer = tiny_reasoner.tokenizer()
    allowed = allowed_ids(tokenizer, tiny_reasoner.model(), TAGS)
    vocabulary = Vocabulary(tokenizer, allowed, ["x.\n\n"])
    ids = tuple(data.draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=5)))
    if vocabulary.survive([ids])[0]:
        assert tuple(tokenizer.encode(vocabulary.text(ids), add_special_tokens=False)) == ids


def test_tails_are_the_endings_of_contexts_most_frequent_first(tokenizer):
    rare = tokenizer.encode("then heat it slowly.\n\n", add_special_tokens=False)
    common = tokenizer.encode("first mix the two parts.\n\n", add_special_tokens=False)
    found = tails(tokenizer, [rare, common, common])
    assert found == [tokenizer.decode(common[-TAIL_TOKENS:]), tokenizer.decode(rare[-TAIL_TOKENS:])]
