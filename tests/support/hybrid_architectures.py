"""Tiny random models of the real classes that keep recurrent or convolution states beside keys and values."""

from __future__ import annotations

from typing import Any

from transformers import (
    BambaConfig,
    FalconH1Config,
    GraniteMoeHybridConfig,
    JambaConfig,
    Lfm2Config,
    NemotronHConfig,
    PreTrainedModel,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    Zamba2Config,
)

from tests.support.architectures import SIZES, Architecture, tiny, tiny_moe

LAYERS = ["linear_attention", "full_attention", "linear_attention"]
DELTA_NET: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
    "layer_types": LAYERS,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MAMBA2: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 4}
UNBOUNDED: dict[str, Any] = {"time_step_min": 1e-12}
"""These classes bound time steps from below where they read many tokens, and not where they read one."""


def qwen3_next() -> PreTrainedModel:
    return tiny_moe(Qwen3NextConfig(**SIZES, **DELTA_NET, **EXPERTS))


def qwen3_5() -> PreTrainedModel:
    return tiny(Qwen3_5TextConfig(**SIZES, **DELTA_NET))


def qwen3_5_moe() -> PreTrainedModel:
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
    return tiny_moe(Qwen3_5MoeTextConfig(**sizes, **DELTA_NET, **EXPERTS))


def nemotron_h() -> PreTrainedModel:
    """Mamba-2, attention, a mixture of experts and a plain perceptron, each a layer of its own."""
    layers = ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"]
    sizes = {name: value for name, value in SIZES.items() if name != "num_hidden_layers"}
    mamba = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 4}
    mamba |= UNBOUNDED
    experts = {"n_routed_experts": 4, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16}
    return tiny_moe(NemotronHConfig(**sizes, **mamba, **experts, head_dim=8, layers_block_type=layers))


def bamba() -> PreTrainedModel:
    return tiny(BambaConfig(**SIZES, **MAMBA2, attn_layer_indices=[1]))


def falcon_h1() -> PreTrainedModel:
    """Attention and Mamba-2 side by side in every layer."""
    return tiny(FalconH1Config(**SIZES, **MAMBA2, mamba_d_ssm=64))


def granite_hybrid() -> PreTrainedModel:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 16}
    return tiny_moe(GraniteMoeHybridConfig(**SIZES, **MAMBA2, **experts, layer_types=LAYERS))


def jamba() -> PreTrainedModel:
    """Mamba-1, whose state is read by scanning token by token."""
    layers = {"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    return tiny_moe(JambaConfig(**SIZES, **layers, **experts, mamba_d_state=8, mamba_dt_rank=4))


def lfm2() -> PreTrainedModel:
    """Short convolutions, and no recurrent state."""
    layers = ["conv", "full_attention", "conv"]
    return tiny(Lfm2Config(**SIZES, layer_types=layers, block_auto_adjust_ff_dim=False))


def zamba2() -> PreTrainedModel:
    """One attention block whose weights several layers share."""
    layers = ["linear_attention", "hybrid", "linear_attention"]
    sizes = SIZES | {"num_key_value_heads": 4}
    mamba = {"mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16, "chunk_size": 4}
    return tiny(Zamba2Config(**sizes, **mamba, **UNBOUNDED, layers_block_type=layers, adapter_rank=4))


HYBRID = [
    Architecture("Qwen3-Next", qwen3_next),
    Architecture("Qwen3.5", qwen3_5),
    Architecture("Qwen3.5 MoE", qwen3_5_moe),
    Architecture("Nemotron-H (Nemotron 3)", nemotron_h),
    Architecture("Bamba", bamba),
    Architecture("Falcon-H1", falcon_h1),
    Architecture("Granite 4 hybrid", granite_hybrid),
    Architecture("LFM2", lfm2),
    Architecture("Zamba2", zamba2),
]
"""Those that keep recurrent or convolution states beside keys and values."""
BY_TOKEN = [Architecture("Jamba", jamba)]
"""Those that start from an empty state where they read several tokens behind others (transformers 5.23)."""

IN_HYBRID_LANES = [each.make for each in HYBRID]
