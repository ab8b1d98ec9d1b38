"""Tiny random models of the real classes, in float64, their logits far enough apart to compare by argmax.

Those that attend to tokens alone; `hybrid_architectures` has those that keep a state as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Exaone4Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    LlamaConfig,
    MiniMaxM2Config,
    MinistralConfig,
    MistralConfig,
    Olmo3Config,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SeedOssConfig,
    SmolLM3Config,
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


@dataclass(frozen=True)
class Architecture:
    """A kind of model that users have.

    Attributes:
        name: as its publisher writes it.
        make: builds a tiny one.
    """

    name: str
    make: Callable[[], PreTrainedModel]


def tiny(config: Any, **options: Any) -> PreTrainedModel:
    """A random model of `config`, the same every time."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, **options).double().eval()


def tiny_moe(config: Any) -> PreTrainedModel:
    """A mixture of experts, whose default implementation takes no float64."""
    return tiny(config, experts_implementation="eager")


def qwen3() -> PreTrainedModel:
    return tiny(Qwen3Config(**SIZES, head_dim=8))


def qwen2() -> PreTrainedModel:
    return tiny(Qwen2Config(**SIZES))


def qwen2_sliding() -> PreTrainedModel:
    return tiny(Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1))


def llama() -> PreTrainedModel:
    return tiny(LlamaConfig(**SIZES))


def phi3() -> PreTrainedModel:
    return tiny(Phi3Config(**SIZES))


def phi3_sliding() -> PreTrainedModel:
    return tiny(Phi3Config(**SIZES, sliding_window=WINDOW))


def mistral() -> PreTrainedModel:
    return tiny(MistralConfig(**SIZES, sliding_window=WINDOW))


def ministral() -> PreTrainedModel:
    return tiny(MinistralConfig(**SIZES, head_dim=8, sliding_window=WINDOW, layer_types=MIXED))


def gemma3() -> PreTrainedModel:
    return tiny(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=WINDOW, layer_types=MIXED))


def gemma4(vocab_size: int = VOCABULARY) -> PreTrainedModel:
    """Layers that read the keys and values of earlier ones, and embeddings of their own for each layer."""
    shape = {"head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": vocab_size}
    layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    sizes = SIZES | {"num_hidden_layers": len(layers), "vocab_size": vocab_size}
    return tiny(Gemma4TextConfig(**sizes, **shape, sliding_window=WINDOW, layer_types=layers, num_kv_shared_layers=2))


def gemma3n(vocab_size: int = VOCABULARY, only_embedded: int = 0) -> PreTrainedModel:
    """Embeddings of their own for each layer, which are left out in silence where embeddings alone are given.

    Args:
        vocab_size: tokens.
        only_embedded: the last ones of these that the layers have no embedding of, as in the published checkpoints.
    """
    for_layers = vocab_size - only_embedded
    shape = {"head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": for_layers}
    layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    own = {"num_kv_shared_layers": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * len(layers)}
    sizes = SIZES | {"num_hidden_layers": len(layers), "vocab_size": vocab_size}
    model = tiny(Gemma3nTextConfig(**sizes, **shape, **own, sliding_window=WINDOW, layer_types=layers))
    # Untrained, it lets them count for nothing.
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_()
    return model


PER_LAYER = [gemma3n, gemma4]
"""Those whose layers read inputs of their own beside the embeddings of tokens."""


class Aside(nn.Module):
    """A layer that remembers which tokens were embedded, as any class may that nobody has listed."""

    def __init__(self, model: PreTrainedModel, strength: float) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        assert head is not None
        self.head, self.strength = head, strength
        self.seen: Tensor | None = None
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, model: nn.Module, args: tuple[object, ...], read: dict[str, Tensor]) -> None:
        self.seen = read.get("input_ids")

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden)
        if self.seen is None:
            return logits
        return logits + self.strength * logits.std() * self.seen[:, -hidden.shape[1] :, None].cos()


def looks_ids_up(strength: float = 1.0) -> PreTrainedModel:
    """A model that cannot read rows: it looks ids up without a way to be told what it would find."""
    model = llama()
    model.set_output_embeddings(Aside(model, strength))
    return model


def smollm3() -> PreTrainedModel:
    """No position in every third layer."""
    return tiny(SmolLM3Config(**SIZES, no_rope_layer_interval=3))


def olmo3() -> PreTrainedModel:
    return tiny(Olmo3Config(**SIZES, sliding_window=WINDOW, layer_types=MIXED))


def exaone4() -> PreTrainedModel:
    return tiny(Exaone4Config(**SIZES, sliding_window=WINDOW, layer_types=MIXED))


def seed_oss() -> PreTrainedModel:
    return tiny(SeedOssConfig(**SIZES, head_dim=8, attention_dropout=0.0, residual_dropout=0.0))


def glm4_moe() -> PreTrainedModel:
    experts = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
    return tiny_moe(Glm4MoeConfig(**SIZES, **experts))


def deepseek_v3() -> PreTrainedModel:
    """Latent attention: keys are wider than values."""
    heads = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2}
    sizes = SIZES | {"num_key_value_heads": 4}
    return tiny_moe(DeepseekV3Config(**sizes, **heads, **experts, topk_group=1, first_k_dense_replace=1))


def minimax_m2() -> PreTrainedModel:
    return tiny_moe(MiniMaxM2Config(**SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2))


def gpt_oss() -> PreTrainedModel:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return tiny_moe(GptOssConfig(**SIZES, **experts, head_dim=8, sliding_window=WINDOW, layer_types=MIXED))


def phi3_longrope() -> PreTrainedModel:
    """Rotary frequencies that change where a row outgrows the original window."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24, **factors}
    return tiny(Phi3Config(**SIZES, rope_parameters=rope, original_max_position_embeddings=24))


ATTENTION = [
    Architecture("Qwen3", qwen3),
    Architecture("Qwen2", qwen2),
    Architecture("Qwen2, sliding window", qwen2_sliding),
    Architecture("Llama", llama),
    Architecture("Phi-3", phi3),
    Architecture("Phi-3, sliding window", phi3_sliding),
    Architecture("Mistral", mistral),
    Architecture("Ministral", ministral),
    Architecture("Gemma 3", gemma3),
    Architecture("Gemma 3n", gemma3n),
    Architecture("Gemma 4", gemma4),
    Architecture("SmolLM3", smollm3),
    Architecture("Olmo 3", olmo3),
    Architecture("EXAONE 4", exaone4),
    Architecture("Seed-OSS", seed_oss),
    Architecture("GLM-4 MoE", glm4_moe),
    Architecture("DeepSeek-V3", deepseek_v3),
    Architecture("MiniMax-M2", minimax_m2),
    Architecture("gpt-oss", gpt_oss),
]
"""Those that attend to tokens alone."""
VARYING = [Architecture("Phi-3, long context (longrope)", phi3_longrope)]
"""Those whose cached keys do not hold for a longer row."""

IN_LANES = [each.make for each in ATTENTION]
