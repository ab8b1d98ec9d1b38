"""What may enter a prefix, and what survives being written down and read again."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from optimize.search.vocabulary import TAIL_TOKENS, Vocabulary, allowed_ids, tails
from safethink import prefix as prefixes
from safethink.prefix import Prefix, PrefixArtifact
from safethink.thinking.chat import ChatEncoder
from tests.support import tiny_reasoner, tiny_sentencepiece

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
        return encode(text) == list(ids) and all(encode(end + text)[-len(ids) :] == list(ids) for end in endings)

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


@cache
def gpt2_kind() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind GPT-2's own pattern: a blank line alone is one token, and two with a word behind it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    # A pattern that keeps line breaks together only where nothing follows learns them from texts that end so.
    bpe.train_from_iterator([f"{line}.\n\n" for text in tiny_reasoner.CORPUS * 4 for line in text.split(".")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def test_a_word_survives_behind_a_blank_line_that_is_written_in_other_tokens_once_a_word_follows():
    tokenizer = gpt2_kind()
    pieces = tokenizer.convert_ids_to_tokens
    assert pieces(tokenizer.encode("done.\n\n"))[-1] == "ĊĊ"
    assert pieces(tokenizer.encode("done.\n\nwait"))[-3:] == ["Ċ", "Ċ", "wait"]
    words = Vocabulary(tokenizer, [], ["first mix the two parts.\n\n", "done\n\n"], separator="\n")
    for text in ("wait, think safely", " wait", "think"):
        assert words.survive([words.ids(text)]) == [True]
        assert not words.complaint(words.ids(text))


def test_a_separator_that_merges_with_a_prefix_drops_it_and_the_reason_says_what_is_read(tokenizer):
    bpe = Tokenizer.from_str(gpt2_kind().backend_tokenizer.to_str())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.train_from_iterator(["wait.\n", "done.\n\n"] * 9, trainers.BpeTrainer(vocab_size=265, show_progress=False))
    words = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=bpe), [], ["done.\n\n"], separator="\n")
    ids = words.ids("wait.")
    assert words.survive([ids]) == [False]
    assert "'wait.\\n' is read as" in words.complaint(ids)
    assert ".Ċ" in words.complaint(ids)
    assert words.unseparated().survive([ids]) == [True]


@pytest.mark.parametrize("rule", ["normalizer", "first", "always"])
def test_words_and_blanks_survive_where_the_tokenizer_puts_a_blank_in_front(rule):
    tokenizer = tiny_sentencepiece.tokenizer(rule)
    words = Vocabulary(tokenizer, [], ["mix the parts.\n\n", "done\n"], separator="\n")
    for text in ("wait, think", " think again", " be careful", "é"):
        assert words.text(words.ids(text)) == text
        assert words.survive([words.ids(text)]) == [True]
    at_the_start = tuple(tokenizer.encode("wait", add_special_tokens=False))
    assert words.text(at_the_start) == " wait", "in place its blank is part of it"
    split = tuple(tokenizer.convert_tokens_to_ids(["w", "a", "it"]))
    assert words.survive([split]) == [False]
    assert all(part in words.complaint(split) for part in ("'ait'", "the tokenizer's rule", "▁"))


TOKENIZERS = {
    "merging": tiny_reasoner.tokenizer,
    "gpt2": gpt2_kind,
    "normalizer": lambda: tiny_sentencepiece.tokenizer("normalizer"),
    "first": lambda: tiny_sentencepiece.tokenizer("first"),
    "always": lambda: tiny_sentencepiece.tokenizer("always"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=30)
@given(st.data())
def test_what_survives_is_what_a_reader_of_the_whole_text_finds_and_a_loader_makes_of_its_own(kind, data):
    tokenizer = TOKENIZERS[kind]()
    tail = data.draw(st.sampled_from(["mix the parts.\n\n", "so\n\n", "then heat it. ", "café"]))
    separator = data.draw(st.sampled_from(["\n", "", "\n\n"]))
    words = Vocabulary(tokenizer, [], [tail], separator=separator)
    known = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder))
    drawn = tuple(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4)))
    read_again = words.ids(words.text(drawn))
    for ids in filter(None, (drawn, read_again)):
        (survives,) = words.survive([ids])
        assert survives == (not words.complaint(ids))
        if survives:
            text = words.text(ids)
            assert words.ids(text) == ids
            whole = tokenizer.encode(tail + text + separator, add_special_tokens=False)
            assert tokenizer.decode(whole, clean_up_tokenization_spaces=False).endswith(text + separator)
            own = len(ids) + len(ChatEncoder(tokenizer).inside(separator))
            assert tuple(whole[len(whole) - own :][: len(ids)]) == ids
            bound = prefixes.bind(PrefixArtifact(name="x", prefixes=(Prefix(text=text, token_ids=ids),)), tokenizer)
            assert bound.token_ids == (ids,)


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
