"""Tiny random models of the real classes, in float64, their logits far enough apart to compare by argmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

VOCABULARY = 300
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 8
"""Shorter than any prompt here, so that it matters."""

MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def _model(config: Any, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, **options).double().eval()


def qwen3() -> PreTrainedModel:
    return _model(Qwen3Config(**SIZES, head_dim=8))


def qwen2() -> PreTrainedModel:
    return _model(Qwen2Config(**SIZES))


def qwen2_sliding() -> PreTrainedModel:
    return _model(Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1))


def llama() -> PreTrainedModel:
    return _model(LlamaConfig(**SIZES))


def phi3() -> PreTrainedModel:
    return _model(Phi3Config(**SIZES))


def phi3_sliding() -> PreTrainedModel:
    return _model(Phi3Config(**SIZES, sliding_window=WINDOW))


def mistral() -> PreTrainedModel:
    return _model(MistralConfig(**SIZES, sliding_window=WINDOW))


def gemma3() -> PreTrainedModel:
    return _model(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=WINDOW, layer_types=MIXED))


def gpt_oss() -> PreTrainedModel:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = GptOssConfig(**SIZES, **experts, head_dim=8, sliding_window=WINDOW, layer_types=MIXED)
    # The default implementation of the experts takes no float64.
    return _model(config, experts_implementation="eager")


def qwen3_next() -> PreTrainedModel:
    """Linear attention in some layers: a state that cannot roll back."""
    heads = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
    config = Qwen3NextConfig(
        **SIZES,
        **heads,
        head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    )
    return _model(config, experts_implementation="eager")


def phi3_longrope() -> PreTrainedModel:
    """Rotary frequencies that change where a row outgrows the original window."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24, **factors}
    return _model(Phi3Config(**SIZES, rope_parameters=rope, original_max_position_embeddings=24))


IN_LANES: list[Callable[[], PreTrainedModel]] = [
    qwen3, qwen2, qwen2_sliding, llama, phi3, phi3_sliding, mistral, gemma3, gpt_oss,
]  # fmt: skip
ONE_BY_ONE: list[Callable[[], PreTrainedModel]] = [qwen3_next, phi3_longrope]
