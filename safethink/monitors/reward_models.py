# pyright: standard
"""Models that put out one number for a conversation: sequence classifiers of transformers, and two that it lacks.

Each is a head on a language model's backbone, called as a causal language model is, so whatever reads one reads the
other: `logits` holds the head's numbers after every token that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from safethink.errors import ConfigError


def read_with_head(
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


class SequenceScorer(PreTrainedModel):
    """A sequence classifier of transformers, read token by token: its `score` after every one of them."""

    # The backbone has been asked already; the wrapper attends to nothing itself.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, classifier: PreTrainedModel) -> None:
        """Read with the backbone and the head of `classifier`.

        Raises:
            ConfigError: it has no `score` head on a causal language model, as one that reads both ways.
        """
        super().__init__(classifier.config)
        head = getattr(classifier, "score", None)
        if not isinstance(head, nn.Module) or classifier.base_model is classifier:
            raise ConfigError(
                f"{type(classifier).__name__} has no `score` head on a causal language model, so it cannot read a "
                "trace as it grows"
            )
        self.backbone = classifier.base_model
        self.score = head
        self._embeddings = classifier.get_input_embeddings

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's."""
        return self._embeddings()

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        """Score after each of the last `logits_to_keep` tokens; after all for 0."""
        return read_with_head(self.backbone, self.score, logits_to_keep, inputs)


class BeaverScorer(LlamaPreTrainedModel):
    """The cost and reward models of PKU-Alignment (Safe RLHF, arXiv 2310.12773): Llama with a `score_head`.

    Checkpoints call the class `LlamaForScore` or `LlamaModelForScore` and hold `model.*`, `score_head.weight`, in the
    newer ones `score_head.bias`, and `normalizer.mean`, `.var` and `.count`. A cost is above 0 where the answer is
    unsafe.

    With `do_normalize` in its configuration, which is False by default, a reward is standardised and a cost is scaled
    alone, so that its sign keeps its meaning.
    """

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        """Lay the model out with a bias; whoever loads it drops that where the checkpoint has none."""
        super().__init__(config)
        num_scores = int(getattr(config, "score_dim", None) or 1)
        self.model = LlamaModel(config)
        self.score_head = nn.Linear(config.hidden_size, num_scores)
        self.normalizer = Normalizer(num_scores)
        self.post_init()

    @property
    def is_cost(self) -> bool:
        """Whether higher is less safe."""
        return getattr(self.config, "score_type", "reward") == "cost"

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        """Score after each of the last `logits_to_keep` tokens; after all for 0."""
        return read_with_head(self.model, self._score, logits_to_keep, inputs)

    def _score(self, states: Float[Tensor, "batch new hidden"]) -> Float[Tensor, "batch new scores"]:
        scores = self.score_head(states)
        if not getattr(self.config, "do_normalize", False):
            return scores
        return self.normalizer(scores, centered=not self.is_cost)


class Normalizer(nn.Module):
    """Running statistics of the scores that a beaver model saw in training."""

    mean: Tensor
    var: Tensor

    def __init__(self, num_scores: int) -> None:
        """Make room for `num_scores` scores; a checkpoint fills it."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_scores))
        self.register_buffer("var", torch.ones(num_scores))
        self.register_buffer("count", torch.ones(1))

    def forward(self, scores: Float[Tensor, "*batch scores"], centered: bool) -> Float[Tensor, "*batch scores"]:
        """Divide by the standard deviation, after taking the mean away where `centered`."""
        return (scores - self.mean if centered else scores) / self.var.sqrt()


class UrmScorer(LlamaPreTrainedModel):
    """URM (arXiv 2410.00847): the reward is a weighted sum over attributes, and the weights depend on the text.

    Published as code in the model's repository, which calls the class
    `LlamaForSequenceClassificationWithNormal_Weights`. What is known of it, from public ports: `score` puts out a mean
    and a deviation for each attribute, in turn; `weights.fc`, three linear layers with SELUs between, puts out a weight
    for each attribute; reward = sum_i weight_i mean_i.
    """

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        """Lay the model out."""
        super().__init__(config)
        self.model = LlamaModel(config)
        num_labels = len(config.id2label or {})
        self.score = nn.Linear(config.hidden_size, num_labels, bias=False)
        self.weights = AttributeWeights(config.hidden_size, num_labels // 2)
        self.post_init()

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        """Score after each of the last `logits_to_keep` tokens; after all for 0."""
        return read_with_head(self.model, self._score, logits_to_keep, inputs)

    def _score(self, states: Float[Tensor, "batch new hidden"]) -> Float[Tensor, "batch new 1"]:
        means = self.score(states)[..., 0::2]
        return (means * self.weights(states)).sum(-1, keepdim=True)


class AttributeWeights(nn.Module):
    """Gating network of a URM: the weight of each attribute in a context."""

    def __init__(self, hidden_size: int, num_attributes: int) -> None:
        """Lay the three layers out."""
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(hidden_size, hidden_size),
            nn.SELU(),
            nn.Linear(hidden_size, hidden_size),
            nn.SELU(),
            nn.Linear(hidden_size, num_attributes),
        )

    def forward(self, states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch attributes"]:
        """One weight per attribute."""
        return self.fc(states)
