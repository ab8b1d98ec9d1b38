"""A random Qwen3 and a byte-level BPE with merges across blanks, small enough for a unit test."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CORPUS = (
    "wait, think safely about this request.\n\nhmm, let me see what is asked.\n\n",
    "this could be dangerous, so stop here.\n\nfirst mix the two parts.\n\nthen heat it slowly.\n\n",
    "think again about harm. be careful and kind. add 3 and 4 to get 7. café naïve ✓\n\n",
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINKING_TAGS = ["<think>", "</think>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges cross blanks and line breaks: nothing splits the text before merging."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS)
    bpe.train_from_iterator(CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_tokens(THINKING_TAGS)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def model(vocab_size: int | None = None, hidden_size: int = 32, layers: int = 2, seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, in eval mode."""
    config = Qwen3Config(
        vocab_size=vocab_size or len(tokenizer()),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).eval()


def llama(hidden_size: int = 16, layers: int = 2, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with random weights, in eval mode."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()
