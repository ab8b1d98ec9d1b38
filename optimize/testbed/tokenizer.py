# pyright: standard
"""The testbed's tokenizers: byte-level BPE whose tokens may span blanks and end in line breaks.

Merges first grow inside words; then the commonest pairs of neighbouring tokens are merged across blanks and into line
breaks, as in SuperBPE (arXiv 2503.13423, section 2), so that retokenising decoded text is a real problem here too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

N_WORD_TOKENS: Final = 1100
N_SUPER_MERGES: Final = 260
MAX_SUPER_CHARACTERS: Final = 16
CONTEXT_TOKENS: Final = 2048

REASONER_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{% set content = message.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% else %}{% set content = message.content %}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
GUARD_TEMPLATE: Final = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    "Is the last turn safe?\n\n<BEGIN>\n\n"
    "{% for message in messages %}"
    "{{ {'user': 'User', 'assistant': 'Agent', 'system': 'System'}[message.role] }}: {{ message.content }}\n\n"
    "{% endfor %}"
    "<END>\n\nVerdict<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges."""
    texts = list(texts)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+| ?\d| ?[A-Za-z']+| ?[^A-Za-z0-9\s]+| "), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=N_WORD_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_SUPER_CHARACTERS,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return _with_super_merges(learner, texts)


def _with_super_merges(learner: Tokenizer, texts: list[str]) -> Tokenizer:
    """Add merges across blanks and into line breaks, and let them apply anywhere within a line."""
    counts: Counter[tuple[str, str]] = Counter()
    for encoding in learner.encode_batch(texts):
        counts.update(pairwise(encoding.tokens))
    state = json.loads(learner.to_str())["model"]
    vocabulary, merges = dict(state["vocab"]), [tuple(pair) for pair in state["merges"]]
    added = 0
    for (first, second), _ in counts.most_common():
        joined = first + second
        crosses = second.startswith("Ġ") or set(second) == {"Ċ"}
        plain = "Ċ" not in first and not any(letter.isdigit() for letter in joined)
        if crosses and plain and len(joined) <= MAX_SUPER_CHARACTERS and joined not in vocabulary:
            vocabulary[joined] = len(vocabulary)
            merges.append((first, second))
            added += 1
        if added == N_SUPER_MERGES:
            break
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[^\n\d]*\n+|[^\n\d]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def for_reasoner(trained: Tokenizer) -> PreTrainedTokenizerFast:
    """Qwen3-style: ChatML turns, thinking opened by the template."""
    tokenizer = _wrap(trained, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<think>", "</think>"))
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = REASONER_TEMPLATE
    return tokenizer


def for_guard(trained: Tokenizer) -> PreTrainedTokenizerFast:
    """Llama-Guard-style: header tokens, the conversation inside a user turn, the verdict as the assistant's."""
    specials = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>")
    tokenizer = _wrap(trained, specials, ())
    tokenizer.eos_token, tokenizer.pad_token = "<|eot_id|>", "<|pad|>"
    tokenizer.chat_template = GUARD_TEMPLATE
    return tokenizer


def _wrap(trained: Tokenizer, control: tuple[str, ...], visible: tuple[str, ...]) -> PreTrainedTokenizerFast:
    own = Tokenizer.from_str(trained.to_str())
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    own.add_tokens([AddedToken(token, special=False, normalized=False) for token in visible])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, clean_up_tokenization_spaces=False, model_max_length=CONTEXT_TOKENS
    )
