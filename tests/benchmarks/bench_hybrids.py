# pyright: standard
"""What rollbacks cost a model with recurrent states, and how fast many of its rows are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from transformers import PreTrainedModel, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from safethink.config import LimitsConfig, SafeThinkConfig, SamplingConfig
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.guarded import SafeThink
from safethink.kv_cache.choose import choose_store
from safethink.kv_cache.per_row import PerRowStore
from safethink.models.loading import load_causal_lm
from safethink.testbed import folders
from safethink.testbed.prompts import draw
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow, speedup
from tests.support.counted_store import CountedStore

NUM_PROMPTS = 64
NEW_TOKENS = 32
LIMITS = LimitsConfig(max_step_tokens=32, max_trace_tokens=256, max_answer_tokens=32)
ROLLBACK = SafeThinkConfig(max_steered_steps=9, max_resamples=2, fallback="rollback", rollback_steps=2)


def rows() -> Iterator[BenchRow]:
    """Tokens forwarded in a guarded run over what lanes would, and 64 rows side by side over one at a time."""
    model = _hybrid()
    for name, defense in (("resampled", SafeThinkConfig(max_steered_steps=9)), ("rolled_back", ROLLBACK)):
        yield _tokens_over_lanes(f"hybrid_tokens_over_lanes_{name}", model, defense)
    yield _side_by_side(model)


def _hybrid() -> PreTrainedModel:
    """A random Qwen3.5 over the testbed's vocabulary that never ends its turn."""
    torch.manual_seed(0)
    tokenizer = load_causal_lm(folders().reasoner).tokenizer
    config = Qwen3_5TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=24,
        linear_value_head_dim=24,
        max_position_embeddings=2048,
        initializer_range=0.1,
    )
    model = Qwen3_5ForCausalLM(config).eval().requires_grad_(False)
    model.generation_config.suppress_tokens = sorted(tokenizer.added_tokens_decoder)
    return model


def _tokens_over_lanes(name: str, model: PreTrainedModel, defense: SafeThinkConfig) -> BenchRow:
    guarded = SafeThink(
        model,
        load_causal_lm(folders().reasoner).tokenizer,
        monitor=lambda prompt, trace: math.cos(sum(map(ord, trace))),
        defense=defense,
        sampling=SamplingConfig(),
        limits=LIMITS,
    )
    store = CountedStore(choose_store(model))
    # The engine's cache is built when it is first asked for.
    guarded.engine._reader.store = store  # pyright: ignore
    results = guarded.run(draw("harmless", "test", NUM_PROMPTS))
    num_interventions = sum(len(each.interventions) for each in results)
    ratio = store.num_forwarded / store.num_ideal
    note = f"{store.num_forwarded} tokens, {store.num_ideal} in lanes, {num_interventions} interventions"
    return BenchRow(name, ratio, ratio, ratio, target=1.05, direction="at_most", note=note)


def _side_by_side(model: PreTrainedModel) -> BenchRow:
    """Greedy tokens of 64 rows, in hybrid lanes and one at a time."""
    thought = testbed.guarded("testbed").thought

    def decoded(store: type | None) -> list[tuple[int, ...]]:
        engine = HfEngine(model, Stopper(thought, ()), Sampling(temperature=0.0))
        if store is not None:
            engine._reader.store = store(model)
        prompts = [tuple((37 * row + 11 * place) % 200 + 3 for place in range(24 + row % 8)) for row in range(64)]
        requests = [ExtendRequest(row, ids, len(ids), Until.ANSWER, NEW_TOKENS, row) for row, ids in enumerate(prompts)]
        return [extension.tokens.ids for extension in engine.extend(requests)]

    exact = decoded(None) == decoded(PerRowStore)
    name = "hybrid_lanes_over_one_at_a_time_64_rows"
    ratio = speedup(name, lambda: decoded(PerRowStore), lambda: decoded(None), target=4, exact=exact, repeats=3)
    return replace(ratio, note="time of a greedy answer, the cache's self-test included")
