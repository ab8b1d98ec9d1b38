"""The probe takes the fastest way that suits a reasoner, says which, and whatever it takes is exact."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from optimize.scoring import Example, Scorer, shared_attention
from safethink.errors import ConfigError
from tests.support import tiny_reasoner

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
WINDOWED = SIZES | {"head_dim": 8, "sliding_window": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "eager", "rope_parameters": None}
STATES = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
ARCHITECTURES = {
    "qwen3": ("shared", lambda: tiny_reasoner.model(VOCABULARY)),
    "llama": ("shared", lambda: LlamaForCausalLM(LlamaConfig(**SIZES))),
    "phi3": ("shared", lambda: Phi3ForCausalLM(Phi3Config(**SIZES))),
    "gpt2": ("shared", lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4))),
    "sliding windows": ("expanded", lambda: MistralForCausalLM(MistralConfig(**WINDOWED))),
    "capped scores": ("expanded", lambda: Gemma2ForCausalLM(Gemma2Config(**WINDOWED))),
    "scaled embeddings": ("expanded", lambda: Gemma3ForCausalLM(Gemma3TextConfig(**WINDOWED))),
    "sinks": ("expanded", lambda: GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=8, **EXPERTS))),
    "state space": ("shared", lambda: FalconH1ForCausalLM(FalconH1Config(**SIZES, **STATES))),
}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    lengths = [(5, 3, 1), (17, 1, 0), (9, 7, 1), (30, 4, 2)]
    return [Example(ids(context), ids(target), ids(separator)) for context, target, separator in lengths]


@pytest.fixture(scope="module")
def candidates() -> torch.Tensor:
    return torch.randint(VOCABULARY, (5, 4), generator=torch.Generator().manual_seed(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_way_that_is_taken_gives_the_losses_of_the_plain_one(name, examples, candidates, caplog):
    expected, make = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = make().eval()
    implementation = model.config._attn_implementation
    with caplog.at_level(logging.INFO, "optimize.scoring.strategies"):
        scorer = Scorer(model, examples)
        assert Scorer(model, examples[:2]).attention == scorer.attention
    assert scorer.attention == expected
    told = [record.message for record in caplog.records if record.message.endswith(f"read the {expected} way")]
    assert len(told) == 1, "it is said once for a model, not for every scorer"
    plain = Scorer(model, examples, attention="plain")
    found, right = scorer.losses(candidates), plain.losses(candidates)
    torch.testing.assert_close(found.continuation, right.continuation, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.nll, right.nll, atol=1e-5, rtol=0)
    gradients = [each.gradient(candidates[0]) for each in (scorer, plain)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
    gradients = [each.nll_gradient(candidates[0]).embeddings for each in (scorer, plain)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_share_contexts_too(examples, candidates, dtype):
    model = tiny_reasoner.model(VOCABULARY).to(dtype)
    scorer = Scorer(model, examples)
    assert scorer.attention == "shared"
    plain = Scorer(model, examples, attention="plain").losses(candidates)
    tolerance = 1e-7 if dtype is torch.float64 else 0.1
    torch.testing.assert_close(scorer.losses(candidates).continuation, plain.continuation, atol=tolerance, rtol=0)


def test_a_way_that_does_not_suit_is_refused_when_it_is_asked_for(examples):
    model = MistralForCausalLM(MistralConfig(**WINDOWED)).eval()
    with pytest.raises(ConfigError, match=r"objective\.attention: 'shared' does not suit.*sliding_window"):
        Scorer(model, examples, attention="shared")


def test_attention_that_ignores_the_context_is_found_out(examples, monkeypatch, caplog):
    """A model may take the argument and drop it on the way to its layers: nothing is raised, and the logits are off."""
    model = tiny_reasoner.model(VOCABULARY, seed=3)
    forward = model.forward

    def deaf(*args, shared_context=None, **kwargs):
        model.config._attn_implementation = "sdpa"
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", deaf)
    assert Scorer(model, examples).attention == "expanded"
    assert "logits differ" in caplog.text


def test_the_models_attention_is_restored_after_an_error(examples, candidates, monkeypatch):
    model = tiny_reasoner.model(VOCABULARY, seed=4)
    scorer = Scorer(model, examples)

    def failing(*args, **kwargs):
        raise ValueError("boom")

    monkeypatch.setattr(model, "forward", failing)
    with pytest.raises(ValueError, match="boom"):
        scorer.losses(candidates)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_the_fused_kernel_is_that_with_it(causal):
    """Other devices, and heads whose values are wider than their keys, go without it."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    bias = None if causal else torch.tensor([0.0, 0.0, -torch.inf, 0.0, -torch.inf]).double().expand(2, 1, 1, 5)
    fused, fused_lse = shared_attention._attend(query, key, value, 0.3, bias, causal)
    wider = torch.cat([value, value[..., :2]], dim=-1)
    plain, plain_lse = shared_attention._attend(query, key, wider, 0.3, bias, causal)
    torch.testing.assert_close(plain[..., :8], fused)
    torch.testing.assert_close(plain_lse, fused_lse)
