# pyright: standard
"""Qwen3Guard-Stream's model, for there is none in transformers."""

from __future__ import annotations

from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen3.modeling_qwen3 import Qwen3PreTrainedModel, Qwen3RMSNorm

from safethink.errors import ConfigError
from safethink.monitors.reward_models import read_with_head

HEAD_SIZES: Final = ("guard_inner_size", "num_risk_level", "num_category")
"""Keys of the sizes of the heads in the published configuration."""


class StreamGuard(Qwen3PreTrainedModel):
    """Qwen3Guard-Stream (arXiv 2510.14276): Qwen3 with two heads on every token, its risk and its category of harm.

    Published as code in the model's repository, which calls the class `Qwen3ForGuardModel`. What is known of it, from
    public ports: after the final norm, `risk_level_category_pre` projects to `guard_inner_size` without a bias,
    `risk_level_category_layernorm` is an RMS norm with the backbone's epsilon, and `risk_level_head` and
    `category_head` are linear without a bias; `query_...` modules of the same make judge the user's turn. The
    configuration gives the sizes (`num_risk_level`, `num_category`) and the names (`response_risk_level_map`,
    `response_category_map`), with `Safe`, `Unsafe` and `Controversial` as risks 0, 1 and 2.

    Only what judges a response is taken here. `logits` holds the risks first, then the categories.
    """

    config_class = Qwen3Config
    _keys_to_ignore_on_load_unexpected = [r"^query_", r"^lm_head"]  # noqa: RUF012

    def __init__(self, config: Qwen3Config) -> None:
        """Lay the model out.

        Raises:
            ConfigError: the configuration names no size for the heads.
        """
        super().__init__(config)
        sizes: list[Any] = [getattr(config, name, None) for name in HEAD_SIZES]
        if None in sizes:
            raise ConfigError(
                f"{config.name_or_path!r} is no Qwen3Guard-Stream: its config.json lacks the heads' sizes"
            )
        inner, num_risks, num_categories = sizes
        self.model = Qwen3Model(config)
        self.risk_level_category_pre = nn.Linear(config.hidden_size, inner, bias=False)
        self.risk_level_category_layernorm = Qwen3RMSNorm(inner, eps=config.rms_norm_eps)
        self.risk_level_head = nn.Linear(inner, num_risks, bias=False)
        self.category_head = nn.Linear(inner, num_categories, bias=False)
        self.post_init()

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        """Judge each of the last `logits_to_keep` tokens; all for 0."""
        return read_with_head(self.model, self._judge, logits_to_keep, inputs)

    def _judge(self, states: Float[Tensor, "batch new hidden"]) -> Float[Tensor, "batch new labels"]:
        inner = self.risk_level_category_layernorm(self.risk_level_category_pre(states))
        return torch.cat([self.risk_level_head(inner), self.category_head(inner)], dim=-1)
