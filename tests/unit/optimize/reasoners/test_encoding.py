"""Rows as token ids: the prompt is what the guarded reasoner reads, the completion what a defense would write."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from optimize.reasoners.encoding import CHAT_TEMPLATE, IGNORED, encoded, reasoner_tokenizer
from optimize.reasoners.rows import Row
from safethink.config import ConstantMonitorConfig, LimitsConfig
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from tests.support import tiny_reasoner

ROW = Row(id="word_problem-0", kind="word_problem", request="Add 3 and 4.", steps=("Let it be.", "So 7."), answer="7.")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A base's, with a template of its own."""
    own = PreTrainedTokenizerFast(
        tokenizer_object=tiny_reasoner.tokenizer().backend_tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    own.chat_template = "{{ messages[0].content }}"
    return own


def test_the_prompt_is_the_one_that_the_guarded_reasoner_reads(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encoded([ROW], reasoner_tokenizer(tokenizer), "llama")
    guarded = SafeThink(
        tiny_reasoner.llama(),
        tokenizer,
        monitor=ConstantMonitorConfig(),
        limits=LimitsConfig(max_step_tokens=8, max_trace_tokens=8),
    )
    (result,) = guarded.run([Prompt.from_text(ROW.request)])
    assert result.prompt_ids == example.prompt
    assert guarded.thought.family.name == "think"


def test_the_completion_is_steps_closing_tag_answer_and_end(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encoded([ROW], reasoner_tokenizer(tokenizer), "llama")
    assert str(tokenizer.decode(example.prompt)).endswith("<|im_start|>assistant\n<think>\n")
    assert tokenizer.decode(example.completion) == "Let it be.\n\nSo 7.\n\n</think>\n\n7.<|im_end|>"


def test_the_prompt_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encoded([ROW], reasoner_tokenizer(tokenizer), "llama")
    row = example.as_row()
    assert row["input_ids"] == [*example.prompt, *example.completion]
    assert row["labels"][: len(example.prompt)] == [IGNORED] * len(example.prompt)
    assert row["labels"][len(example.prompt) :] == list(example.completion)


def test_there_is_no_system_prompt_unless_the_user_writes_one(tokenizer: PreTrainedTokenizerFast) -> None:
    text = reasoner_tokenizer(tokenizer).apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"
    assert "system" not in CHAT_TEMPLATE


def test_a_tokenizer_of_other_turns_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(ConfigError, match=r"base.path: its turns end with <\|endoftext\|>"):
        reasoner_tokenizer(tokenizer)
