"""Published guards, tiny: the real classes with random weights, tokenizers of the real kinds, our own short templates.

The templates keep what is fixed about the published ones: the control tokens, the order of the parts, whether contents
are texts or lists of parts, and what the last header is followed by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CORPUS = (
    "Check if there is unsafe content in the messages. Safety: Safe Unsafe Controversial Categories Refusal Yes No 0 1",
    "Harmful request: yes\nResponse refusal: no\nHarmful response: no\n\nyes no yes no Does the Response violate?",
    "how do I mix the two parts?\n\nfirst mix the two parts.\n\nthen heat them slowly. safe unsafe\n\n",
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits text before merging, and nearly how Qwen and gpt-oss do."""

LLAMA_HEADERS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA_4_HEADERS = ["<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HARMONY = ["<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]


def llama_guard_template(begin: str, start: str, end: str, turn: str, content: str) -> str:
    """As Llama Guard 3's and 4's: turns alternate, contents are trimmed, no blank line follows the last header."""
    return (
        f"{begin}{start}user{end}\n\nTask: Check if there is unsafe content in "
        "'{{ 'Agent' if messages|length is even else 'User' }}' messages.\n\n<BEGIN CONVERSATION>\n\n"
        "{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 is even) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{{ 'User' if message['role'] == 'user' else 'Agent' }}: " + content + "{{ '\n\n' }}{% endfor %}"
        f"<END CONVERSATION>\n\nFirst line must read 'safe' or 'unsafe'.{turn}{start}assistant{end}"
    )


TEXT_CONTENT = "{{ message['content'] | trim }}"
PARTS_CONTENT = (
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}"
)
QWEN3GUARD_TEMPLATE = (
    "<|im_start|>user\nClassify the safety of the LAST response.\nOutput: Safety: Safe, Unsafe, Controversial\n\n"
    "<BEGIN CONVERSATION>\n\n{% for message in messages %}{{ message.role | upper }}: {{ message.content }}\n\n"
    "{% endfor %}<END CONVERSATION><|im_end|>\n{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
)


GRANITE = ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"]
GRANITE_TEMPLATE = (
    "{% for message in messages %}<|start_of_role|>{{ message.role }}<|end_of_role|>{{ message.content }}"
    "<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_TEMPLATE = (
    "<bos>{% for message in messages %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NEMOTRON_3_TEMPLATE = (
    "<bos><start_of_turn>user\nCheck the user and agent messages.\nViolence, Threat, Other\n"
    "{% for message in messages %}{{ 'user' if message.role == 'user' else 'response: agent' }}: "
    "{{ message.content }}\n{% endfor %}{{ request_categories | default('/no_categories') }}"
    "{{ '<end_of_turn>\\n<start_of_turn>model\\n' }}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
KANANA = [*LLAMA_HEADERS, "<SAFE>", *(f"<UNSAFE-S{number}>" for number in range(1, 8))]
KANANA_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content }}<|eot_id|>{% endfor %}{{ '<|start_header_id|>safety<|end_header_id|>\\n\\n' }}"
)


@dataclass(frozen=True)
class Guard:
    """One guard that can be saved to a folder.

    Attributes:
        model: makes the model, given a vocabulary's size.
        tokenizer: makes its tokenizer.
    """

    model: Callable[[int], PreTrainedModel]
    tokenizer: Callable[[], PreTrainedTokenizerFast]

    def save(self, folder: Path) -> str:
        """Write both as a checkpoint; return where."""
        tokenizer = self.tokenizer()
        torch.manual_seed(0)
        self.model(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)


@cache
def byte_level(special: tuple[str, ...], template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE, split into words, as of Llama 3, Qwen and gpt-oss; the first special token begins a text."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=special[0], eos_token=special[-1], chat_template=template
    )


@cache
def sentencepiece(
    special: tuple[str, ...], prepend: bool, template: str | None = None, words: str = ""
) -> PreTrainedTokenizerFast:
    """BPE over words that carry their blank, as of Mistral and Gemma; Mistral's also puts one before a text."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    blanks = [normalizers.Replace(" ", "▁")]
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *blanks] if prepend else blanks)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prepend else [])
    )
    alphabet = sorted(set("".join(CORPUS)) | set("▁\n\"'*=<>|[]()/{}-,;:.?!") | set("abcdefghijklmnopqrstuvwxyz"))
    capitals = [chr(code) for code in range(ord("A"), ord("Z") + 1)] + list("0123456789")
    tokens = ["<pad>", "<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(tokens) + 160,
        initial_alphabet=[*alphabet, *capitals],
        special_tokens=[AddedToken(token, normalized=False) for token in tokens],
        show_progress=False,
    )
    # Blanks are put in front again when trained on; line breaks stay tokens of their own.
    bpe.train_from_iterator([word for text in (*CORPUS, words) for word in text.split()] * 4, trainer)
    state = bpe.to_str()
    return PreTrainedTokenizerFast(
        tokenizer_object=_only_special(state, special),
        bos_token=special[0],
        eos_token=special[1],
        unk_token="<unk>",
        chat_template=template,
    )


def _only_special(state: str, special: Sequence[str]) -> Tokenizer:
    """The same tokenizer, in which bytes are plain entries of the vocabulary."""
    import json

    values = json.loads(state)
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] in (*special, "<pad>", "<unk>")]
    return Tokenizer.from_str(json.dumps(values))


def llama(size: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, **SIZES))


def mllama(size: int) -> PreTrainedModel:
    text = SIZES | {
        "num_hidden_layers": 4,
        "cross_attention_layers": [1, 3],
        "rope_parameters": {"rope_type": "default"},
    }
    text["rope_parameters"]["rope_theta"] = 10000.0
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 28,
        "patch_size": 14,
        "max_num_tiles": 1,
        "vision_output_dim": 32,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1]],
    }
    del text["head_dim"]
    config = MllamaConfig(vision_config=vision, text_config=text | {"vocab_size": size, "eos_token_id": 3})
    return MllamaForConditionalGeneration(config)


def llama_4(size: int) -> PreTrainedModel:
    text = SIZES | {
        "vocab_size": size,
        "intermediate_size_mlp": 48,
        "num_hidden_layers": 4,
        "num_local_experts": 1,
        "moe_layers": [],
        "attention_chunk_size": 8192,
        "bos_token_id": 0,
        "eos_token_id": 3,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "vision_output_dim": 32,
    }
    return Llama4ForConditionalGeneration(Llama4Config(vision_config=vision, text_config=text))


def qwen3(size: int) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=size, **SIZES))


def mistral(size: int) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(vocab_size=size, sliding_window=None, **SIZES))


def gemma_2(size: int) -> PreTrainedModel:
    """With a sliding window that is shorter than the question."""
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=size, sliding_window=64, query_pre_attn_scalar=8, **SIZES))


def gpt_oss(size: int) -> PreTrainedModel:
    """With a sliding window that is shorter than the question."""
    sizes = SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return GptOssForCausalLM(GptOssConfig(vocab_size=size, eos_token_id=5, rope_parameters=rope, **sizes))


def granite(size: int) -> PreTrainedModel:
    return GraniteForCausalLM(GraniteConfig(vocab_size=size, **SIZES))


def gemma_3(size: int) -> PreTrainedModel:
    """With a sliding window that is shorter than the question, and eyes that are never used."""
    text = SIZES | {"vocab_size": size, "sliding_window": 64, "query_pre_attn_scalar": 8, "initializer_range": 0.1}
    text["layer_types"] = ["sliding_attention", "full_attention"]
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"image_size": 28, "patch_size": 14}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=size - 1)
    )


GUARDS = {
    "llama_guard_3_8b": Guard(
        llama,
        lambda: byte_level(tuple(LLAMA_HEADERS), llama_guard_template(*LLAMA_HEADERS, content=TEXT_CONTENT)),
    ),
    "llama_guard_3_1b": Guard(
        llama,
        lambda: byte_level(tuple(LLAMA_HEADERS), llama_guard_template(*LLAMA_HEADERS, content=PARTS_CONTENT)),
    ),
    "llama_guard_3_11b_vision": Guard(
        mllama,
        lambda: byte_level(tuple(LLAMA_HEADERS), llama_guard_template(*LLAMA_HEADERS, content=PARTS_CONTENT)),
    ),
    "llama_guard_4": Guard(
        llama_4,
        lambda: byte_level(tuple(LLAMA_4_HEADERS), llama_guard_template(*LLAMA_4_HEADERS, content=PARTS_CONTENT)),
    ),
    "qwen3guard": Guard(qwen3, lambda: byte_level(tuple(CHATML), QWEN3GUARD_TEMPLATE)),
    "wildguard": Guard(mistral, lambda: sentencepiece(("<s>", "</s>"), prepend=True)),
    "shieldgemma": Guard(
        gemma_2, lambda: sentencepiece(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), prepend=False)
    ),
    "gpt_oss_safeguard": Guard(gpt_oss, lambda: byte_level(tuple(HARMONY))),
    "granite_guardian_4": Guard(granite, lambda: byte_level(tuple(GRANITE), GRANITE_TEMPLATE)),
    "nemotron_content_safety_reasoning": Guard(
        gemma_3, lambda: sentencepiece(tuple(GEMMA), False, GEMMA_TEMPLATE, "harmful unharmful " * 8)
    ),
    "nemotron_3_content_safety": Guard(gemma_3, lambda: sentencepiece(tuple(GEMMA), False, NEMOTRON_3_TEMPLATE)),
    "polyguard": Guard(qwen3, lambda: byte_level(tuple(CHATML), CHATML_TEMPLATE)),
    "dynaguard": Guard(qwen3, lambda: byte_level(tuple(CHATML), CHATML_TEMPLATE)),
    "kanana_safeguard_8b": Guard(llama, lambda: byte_level(tuple(KANANA), KANANA_TEMPLATE)),
}
"""By a name that tells the preset of each."""
