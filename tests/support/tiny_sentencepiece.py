"""A random Llama, and a BPE of the SentencePiece kind that puts a blank in front of a text, small enough for a test."""

from __future__ import annotations

import json
from functools import cache
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support import tiny_reasoner

Rule = Literal["normalizer", "first", "always"]
"""Who puts the blank in front: a normalizer, as in Llama-2's files, or Metaspace under one of its two schemes."""
BLANK = "▁"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST] {{ message.content }} [/INST]{% endfor %}"
    "{% if add_generation_prompt %}<think>\n{% endif %}"
)


@cache
def tokenizer(rule: Rule) -> PreTrainedTokenizerFast:
    """BPE over words that begin with their blank, with a byte for every character that it does not know."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    # Line breaks are no part of a word in these vocabularies; they are bytes.
    words.train_from_iterator([line for text in tiny_reasoner.CORPUS * 4 for line in text.splitlines()], trainer)
    learned = json.loads(words.to_str())["model"]
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    merges = [tuple(pair) for pair in learned["merges"]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if rule == "normalizer":
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme=rule, split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def model(rule: Rule, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with random weights, in eval mode."""
    config = LlamaConfig(
        vocab_size=len(tokenizer(rule)),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()
