# pyright: standard
"""A model of one layer with a vocabulary of 151,936 tokens, and what some work takes beside a step of it.

With more layers all shares are smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from safethink.engines.sampling import Sampling
from safethink.models.placement import put
from tests.benchmarks.frame import BenchRow

VOCABULARY: Final = 151_936
ROWS: Final = 64
STEPS: Final = 2
REPEATS: Final = 3
MAX_SHARE: Final = 0.1
GREEDY: Final = Sampling(temperature=0.0)
PEAKED: Final = 6.0
"""Spread of logits whose mass is on few tokens, as with trained models."""


def one_layer() -> Qwen3ForCausalLM:
    """The model, as it is when it was loaded."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    put(model, torch.device("cpu"))
    return model


def random_logits(spread: float) -> Float[Tensor, "rows vocab"]:
    """Logits of all rows, without the model."""
    return spread * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))


def step_share(
    name: str, model: Qwen3ForCausalLM, work: Callable[[], object], exact: bool, sampling: Sampling = GREEDY
) -> BenchRow:
    """Processor time of some work over that of a step of transformers' own `generate`, with the same settings."""
    return share(name, work, lambda: _generate(model, sampling), exact, STEPS, f"{ROWS} rows, a step of generate")


def share(
    name: str, work: Callable[[], object], whole: Callable[[], object], exact: bool, parts: int = 1, over: str = ""
) -> BenchRow:
    """Processor time of some work over that of another, measured in turn.

    Args:
        name: of the row.
        work: what is measured.
        whole: what it is measured by.
        exact: whether the work was checked to be right.
        parts: the work stands beside so small a part of the whole.
        over: what that part is.
    """
    work()
    whole()
    shares = sorted(_processor_s(work) / (_processor_s(whole) / parts) for _ in range(REPEATS))
    note = f"over {over}; {VOCABULARY:,} tokens, hidden 1,024, processor time"
    return BenchRow(name, shares[REPEATS // 2], shares[0], shares[-1], MAX_SHARE, "at_most", exact, note)


def _generate(model: Any, sampling: Sampling) -> None:
    """Some steps of `generate` behind one token, so that the first is as any other."""
    sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    settings: dict[str, Any] = {"do_sample": True, **sampled} if sampling.temperature else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=STEPS, min_new_tokens=STEPS, pad_token_id=0, **settings)
    ids = torch.arange(ROWS)[:, None]
    with torch.inference_mode():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)


def _processor_s(run: Callable[[], object]) -> float:
    """Seconds on the processor: on a machine that others use too, those on the clock are no measure."""
    started = time.process_time()
    run()
    return time.process_time() - started
