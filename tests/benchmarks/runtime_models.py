"""What the runtime benches run: the testbed's models with a probe that costs what any does, and random models with long
windows, whose traces are as long as one likes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from safethink.config import LimitsConfig, SafeThinkConfig, SamplingConfig
from safethink.guarded import SafeThink
from safethink.models.loading import load_causal_lm
from safethink.monitors.guards.generative import GuardMonitor
from safethink.monitors.probe import Probe, ProbeCard, ProbeMonitor
from safethink.prefix import Identity
from safethink.testbed import folders

POSITIONS = 4096
LAYER = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a random model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


REASONER = Shape(hidden=96, intermediate=288, layers=4, heads=4, kv_heads=2, head_dim=24)
"""About that of the testbed's reasoner."""
WIDE = Shape(hidden=768, intermediate=2304, layers=8, heads=12, kv_heads=4, head_dim=64)
"""Wide enough that the model takes the time, and not what is around it."""
SMALL_GUARD = Shape(hidden=512, intermediate=1536, layers=8, heads=16, kv_heads=8, head_dim=32)
GUARD = Shape(hidden=2048, intermediate=8192, layers=2, heads=32, kv_heads=8, head_dim=64)
"""Two of the sixteen layers of Llama-Guard-3-1B, the smallest guard of its family."""


def random_model(tokenizer: PreTrainedTokenizerBase, shape: Shape, seed: int) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights and a window of `POSITIONS`."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=POSITIONS,
        initializer_range=0.06,
    )
    return Qwen3ForCausalLM(config).eval().requires_grad_(False)


def never_firing_probe(reasoner: SafeThink) -> ProbeMonitor:
    """A probe that reads every state and finds all of it safe: it costs what any probe costs."""
    hidden = reasoner.model.config.get_text_config().hidden_size
    card = ProbeCard(
        layer=LAYER,
        hidden_size=hidden,
        reasoner=Identity(name="testbed", sha256=reasoner.fingerprint),
        labelled_by=Identity(name="nobody"),
    )
    return ProbeMonitor(Probe(card, torch.zeros(hidden, dtype=torch.float64), torch.tensor(9.0, dtype=torch.float64)))


def long_thinker(max_trace_tokens: int, step_tokens: int, shape: Shape = REASONER) -> SafeThink:
    """A random reasoner that thinks to its limit, watched by a random guard whose verdicts are never heard."""
    reasoner, guard = load_causal_lm(folders().reasoner), load_causal_lm(folders().guard)
    model = random_model(reasoner.tokenizer, shape, seed=0)
    # The end of turn and the closing tag are among them.
    model.generation_config.suppress_tokens = sorted(reasoner.tokenizer.added_tokens_decoder)
    return SafeThink(
        model,
        reasoner.tokenizer,
        monitor=GuardMonitor(random_model(guard.tokenizer, REASONER, seed=1), guard.tokenizer),
        # No score is below it.
        defense=SafeThinkConfig(threshold=-1.0),
        sampling=SamplingConfig(temperature=0.0),
        limits=LimitsConfig(max_step_tokens=step_tokens, max_trace_tokens=max_trace_tokens),
    )
