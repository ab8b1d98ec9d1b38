"""Where two texts of ours meet, their token ids are those of both written as one, as a reasoner has read them."""

from __future__ import annotations

from copy import deepcopy
from functools import cache, partial
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from safethink.config import ThoughtConfig
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Task
from safethink.defenses.none import undefended
from safethink.engines.stopping import Stopper
from safethink.errors import ServerError
from safethink.prompts import Prompt
from safethink.refusals import REFUSAL
from safethink.runtime.row import open_row
from safethink.servers.completions import InPlace
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt, prefill_tokens
from safethink.tokens import FIRST_SOFT_ID, Tokens
from tests.support import tiny_sentencepiece

QWEN: Final = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen splits text so; punctuation takes the line breaks behind it along."""
TEMPLATE: Final = (
    "{% for message in messages %}[{{ message.role }}]\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
SPELLED: Final[dict[str, Any]] = {"family": "begin-of-thought"}


@cache
def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE that fuses punctuation with line breaks, and knows no thinking tags."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(QWEN, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    text = ["<|begin_of_thought|>\n\nWait.\nHmm?\n\n<|end_of_thought|>\n\nI cannot help with that.", "a:\nb)\n!\n"] * 40
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["[bos]", "[eos]"])
    )
    if bos:
        from tokenizers import processors

        backend.post_processor = processors.TemplateProcessing("[bos] $A", special_tokens=[("[bos]", 0)])
    named = {"eos_token": "[eos]"} | ({"bos_token": "[bos]"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **named)


def encode(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().encode(text, add_special_tokens=False))


@pytest.fixture
def thought() -> Thought:
    return Thought(ThoughtConfig(**SPELLED), tokenizer())


def test_this_vocabulary_fuses_a_tag_with_the_break_behind_it() -> None:
    assert encode("|>\n\n") != encode("|>") + encode("\n\n")


def test_an_opener_that_is_spelled_is_encoded_with_its_break(thought: Thought) -> None:
    rendered = "[user]\nAdd 3.\n[assistant]\n<|begin_of_thought|>\n\n"
    assert open_prompt(thought, Prompt.from_text("Add 3.")) == encode(rendered)


def test_a_refusal_behind_a_spelled_closer_is_encoded_with_it(thought: Thought) -> None:
    written = thought.close_ids + thought.refusal_ids
    assert written == (*encode(f"<|end_of_thought|>\n\n{REFUSAL}"), tokenizer().eos_token_id)
    assert thought.decode(thought.close_ids) == "<|end_of_thought|>\n\n"


def test_a_defense_that_refuses_closes_the_thinking_as_the_reasoner_would(thought: Thought) -> None:
    start = Tokens.sampled(encode("Hmm?\n\n"))
    row = open_row(thought, Prompt.from_text("x"), undefended, seed=0, trace=start)
    assert row.prompt_ids == open_prompt(thought, Prompt.from_text("x"))
    task = Task(start, close=thought.close_ids, refusal=thought.refusal_ids)
    verdict = Draft.of(task).refusing(task).verdict()
    ids = verdict.trace.ids
    assert Stopper(thought, [])._closer.ends(ids, len(ids) - 1)


@pytest.mark.parametrize("text", ["Wait", "Wait.", "Hmm?", "a:", "b)", "Wait!", "Wait.\n", "Wait ", "x  "])
def test_a_prefix_is_encoded_with_its_separator_and_can_be_sent_as_text(thought: Thought, text: str) -> None:
    injected = thought.injection(encode(text))
    assert injected == encode(f"{text}\n")
    step = encode("Hmm?\n\n")
    assert InPlace(tokenizer()).text(step + injected) == f"Hmm?\n\n{text}\n"


def test_tokens_that_are_no_texts_keep_their_separator(thought: Thought) -> None:
    soft = (FIRST_SOFT_ID, FIRST_SOFT_ID + 1)
    assert thought.injection(soft) == soft + thought.separator_ids
    bytewise = tuple(encode(letter)[0] for letter in "Wait.")
    assert thought.injection(bytewise) == bytewise + thought.separator_ids


def test_the_place_at_which_a_text_parts_is_right_behind_a_token_that_opens_every_text() -> None:
    bytewise = tuple(encode(letter)[0] for letter in "Wait.")
    ids = (0, *encode("Hmm?\n\n"), *bytewise)
    with pytest.raises(ServerError, match="encodes to other tokens from 'W"):
        InPlace(tokenizer(bos=True)).text(ids)


@cache
def gpt2_like() -> PreTrainedTokenizerFast:
    """A byte-level BPE that has two line breaks as one token, and splits them in front of a word."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["[eos]"],
        show_progress=False,
    )
    backend.train_from_iterator(["First step.\n\n", "So it is.\n\n\n", "a\n \n"] * 40, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, eos_token="[eos]")


SPLITTERS: Final = {
    "gpt2": gpt2_like,
    "qwen": tokenizer,
    "normalizer": partial(tiny_sentencepiece.tokenizer, "normalizer"),
    "metaspace": partial(tiny_sentencepiece.tokenizer, "first"),
}
STEPS = st.lists(st.text("ab1 .:", min_size=1, max_size=6).filter(lambda step: step.strip()), min_size=1, max_size=3)


@pytest.mark.parametrize("splitter", SPLITTERS)
@given(steps=STEPS, end=st.sampled_from(["", ".", ":"]), breaks=st.sampled_from(["\n\n", "\n", "\n\n\n", "\n \n"]))
def test_a_prefill_has_the_ids_of_the_whole_text_that_goes_on_behind_it(
    splitter: str, steps: list[str], end: str, breaks: str
) -> None:
    thought = Thought(ThoughtConfig(family="think"), SPLITTERS[splitter]())
    text = "\n\n".join(steps) + end + breaks
    prefilled = prefill_tokens(thought, Prompt.from_text("Add 3.").replace(prefill=text)).ids
    assert thought.encoder.said(prefilled) == text
    for word in ("So", "And", "first"):
        assert thought.encoder.inside(text + word)[: len(prefilled)] == prefilled


def test_a_blank_line_that_ends_a_text_is_one_token_and_that_of_a_prefill_two() -> None:
    thought = Thought(ThoughtConfig(family="think"), gpt2_like())
    prefilled = prefill_tokens(thought, Prompt.from_text("Add 3.").replace(prefill="First step.\n\n")).ids
    assert [thought.decode([token_id]) for token_id in prefilled[-2:]] == ["\n", "\n"]
    assert thought.decode(thought.encoder.text("First step.\n\n")[-1:]) == "\n\n"


def test_a_prefill_that_stops_within_a_line_is_encoded_as_it_stands() -> None:
    thought = Thought(ThoughtConfig(family="think"), gpt2_like())
    prefilled = prefill_tokens(thought, Prompt.from_text("Add 3.").replace(prefill="First st")).ids
    assert prefilled == thought.encoder.text("First st")


@pytest.mark.parametrize("rule", ["normalizer", "first", "always"])
@pytest.mark.parametrize("behind_bos", ["", " ", "\n", "</s>", "<think>"])
@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""])
def test_an_opened_chat_has_the_ids_of_its_template(rule: tiny_sentencepiece.Rule, behind_bos: str, bos: str) -> None:
    splitter = deepcopy(tiny_sentencepiece.tokenizer(rule))
    splitter.chat_template = bos + behind_bos + tiny_sentencepiece.CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    thought = Thought(ThoughtConfig(family="think"), splitter)
    turns: list[dict[str, str]] = [{"role": "user", "content": " Add 3. So is it.\n\nAnd 4"}]
    opened = splitter.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert open_prompt(thought, Prompt.from_text(turns[0]["content"])) == tuple(opened)


def test_a_later_text_of_a_chat_has_no_blank_in_front_by_a_rule_within_a_sequence() -> None:
    splitter = deepcopy(tiny_sentencepiece.tokenizer("first"))
    backend = splitter.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, pre_tokenizers.Digits()])
    splitter.chat_template = tiny_sentencepiece.CHAT_TEMPLATE
    turns = [{"role": "user", "content": "Add 34."}]
    opened = splitter.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert open_prompt(Thought(ThoughtConfig(family="think"), splitter), Prompt.from_text("Add 34.")) == tuple(opened)
