"""A random Qwen3 with a chat template and fused delimiters: the real classes, small enough for a unit test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CORPUS = (
    "Wait, think safely about this request.\n\nHmm, let me see what is asked.\n\n",
    "This could hurt people, so I should not help.\n\nFirst mix the two parts.\n\nThen heat it slowly.\n\n",
    "I cannot help with that. Add 3 and 4 to get 7. café naïve ✓ </think> <|im_end|>\n\n",
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges cross blanks and line breaks; the thinking tags are added but not special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_tokens(["<think>", "</think>"])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def model(
    hidden_size: int = 32,
    num_layers: int = 2,
    vocab_size: int | None = None,
    context_tokens: int = 512,
    dtype: torch.dtype = torch.float64,
) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, in eval mode."""
    config = Qwen3Config(
        vocab_size=vocab_size or len(tokenizer()),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        max_position_embeddings=context_tokens,
        initializer_range=0.3,
        eos_token_id=tokenizer().eos_token_id,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).to(dtype).eval()


def token_id(name: str) -> int:
    """The id of a control token."""
    found = tokenizer().convert_tokens_to_ids(name)
    assert isinstance(found, int)
    return found


def encode(text: str) -> tuple[int, ...]:
    """Token ids as the tokenizer gives them, control tokens included."""
    return tuple(tokenizer().encode(text, add_special_tokens=False))


def decode(ids: Sequence[int]) -> str:
    """Text with control tokens spelled out."""
    return str(tokenizer().decode(list(ids)))


def generate(model: Any, ids: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
    """The new tokens of the library's own greedy decoding."""
    tokens = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer().pad_token_id,
    )
    return tuple(tokens[0, len(ids) :].tolist())
