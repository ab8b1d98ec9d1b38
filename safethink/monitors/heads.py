# pyright: standard
"""A head that puts out numbers on a language model's backbone, called as a causal language model is.

So whatever reads one reads the other: `logits` holds the head's numbers after every token that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast


def read(
    backbone: nn.Module, head: Callable[[Tensor], Tensor], logits_to_keep: int, inputs: dict[str, Any]
) -> CausalLMOutputWithPast:
    """Read `inputs` and apply the head to the last `logits_to_keep` tokens, or to all for 0.

    Args:
        backbone: a base model of transformers, without a head.
        head: takes final hidden states, `Float[Tensor, "batch new hidden"]`, to numbers.
        logits_to_keep: how many tokens are asked for.
        inputs: what the backbone takes.
    """
    output = backbone(**inputs)
    return CausalLMOutputWithPast(
        logits=head(output.last_hidden_state[:, -logits_to_keep:]),
        past_key_values=output.past_key_values,
        hidden_states=output.hidden_states,
    )
