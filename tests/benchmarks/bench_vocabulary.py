# pyright: standard
"""The cost of everything that looks at all of a vocabulary of 151,936 tokens, beside the reasoner's own step.

The denominator is a step of transformers' own `generate` with the same settings, on a model of one layer: with more
layers the shares are smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from optimize.search import edits
from optimize.search.method import Archive
from safethink.engines.hf import _view
from safethink.engines.sampling import Sampling, can_choose, sample_tokens, uniforms
from tests.benchmarks.frame import BenchRow

VOCABULARY: Final = 151_936
ROWS: Final = 64
STEPS: Final = 2
REPEATS: Final = 3
MAX_SHARE: Final = 0.1
CHECKED: Final = 4
"""Rows whose tokens are compared with those of a full sort."""
PEAKED, FLAT = 6.0, 0.6
"""Spread of the logits: the nucleus of the one holds few tokens, as with trained models, that of the other most."""
GREEDY, PLAIN = Sampling(temperature=0.0), Sampling()
NUCLEUS, TOP_K = Sampling(temperature=0.6, top_p=0.95), Sampling(temperature=0.6, top_p=0.95, top_k=20)
LENGTH, BEST = 4, 256
"""Of a prefix that is searched for, and how many substitutes are kept at each of its places."""


def rows() -> Iterator[BenchRow]:
    """Shares of a `generate` step."""
    model = _one_layer()
    logits = _logits(PEAKED)
    for name, sampling in (("greedy", GREEDY), ("plain", PLAIN), ("nucleus", NUCLEUS), ("top_k", TOP_K)):
        yield _choice(f"choose_{name}_over_generate_step", model, logits, sampling)
    yield _choice("choose_nucleus_of_flat_logits_over_generate_step", model, _logits(FLAT), NUCLEUS)
    exact = all(bool(can_choose(row)) == bool(row.amax().isfinite()) for row in logits)
    yield _share("can_choose_over_generate_step", model, GREEDY, lambda: can_choose(logits), exact)
    yield _share(
        "look_over_generate_step", model, GREEDY, lambda: [_view(row, 20, ()) for row in logits], _sees_alike(logits)
    )
    yield _edits(model)


def _one_layer() -> Qwen3ForCausalLM:
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
    return Qwen3ForCausalLM(config).eval().requires_grad_(False)


def _logits(spread: float) -> Float[Tensor, "rows vocab"]:
    return spread * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))


def _choice(name: str, model: Qwen3ForCausalLM, logits: Float[Tensor, "rows vocab"], sampling: Sampling) -> BenchRow:
    random = torch.cat([uniforms(seed, 0, 1) for seed in range(ROWS)])
    some = logits[:CHECKED]
    exact = torch.equal(sample_tokens(some, random[:CHECKED], sampling), _by_sorting(some, random[:CHECKED], sampling))
    return _share(name, model, sampling, lambda: sample_tokens(logits, random, sampling), exact)


def _by_sorting(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """The plain form of sampling: everything sorted and summed in float64."""
    if sampling.temperature == 0:
        return logits.max(-1).indices
    ordered, order = (logits.double() / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -torch.inf
    probabilities = ordered.softmax(-1)
    if sampling.top_p < 1:
        ordered[probabilities.cumsum(-1) - probabilities >= sampling.top_p] = -torch.inf
    cumulative = torch.empty_like(ordered).scatter_(-1, order, ordered).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]


def _sees_alike(logits: Float[Tensor, "rows vocab"]) -> bool:
    """Whether a view says what `log_softmax` says."""
    for row in logits[:CHECKED]:
        plain, view = row.double().log_softmax(-1), _view(row, 20, ())
        entropy = float(torch.special.entr(plain.exp()).sum())
        top = torch.tensor(view.log_probabilities, dtype=torch.float64)
        if not torch.allclose(top, plain.topk(20).values) or abs(view.entropy - entropy) > 1e-9:
            return False
    return True


def _edits(model: Qwen3ForCausalLM) -> BenchRow:
    """The substitutes that a gradient promises most of, without those that were tried."""
    slopes = torch.randn(LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(1))
    allowed, ids, archive = torch.arange(VOCABULARY), tuple(range(LENGTH)), Archive()
    archive.costs[ids] = 1.0

    def propose() -> list[tuple[int, int]]:
        return edits.promising(slopes, edits.tried(ids, allowed, archive), allowed, BEST)

    masked = slopes.clone()
    masked[torch.arange(LENGTH), torch.arange(LENGTH)] = torch.inf
    best = {(place, token) for place in range(LENGTH) for token in masked[place].argsort()[:BEST].tolist()}
    return _share("gcg_substitutes_over_generate_step", model, GREEDY, propose, best >= set(propose()))


def _share(name: str, model: Qwen3ForCausalLM, sampling: Sampling, work: Callable[[], object], exact: bool) -> BenchRow:
    """Processor time of some work over that of a `generate` step, measured in turn."""
    work()
    _generate(model, sampling)
    shares = sorted(
        _processor_s(work) / (_processor_s(lambda: _generate(model, sampling)) / STEPS) for _ in range(REPEATS)
    )
    note = f"{ROWS} rows, {VOCABULARY:,} tokens, hidden 1,024, processor time"
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
