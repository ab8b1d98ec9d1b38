# pyright: standard
"""The cost, while decoding, of everything that looks at all of a vocabulary, beside the reasoner's own step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Qwen3ForCausalLM

from safethink.engines.decoding import Decoder
from safethink.engines.hf import _log_probabilities, _view
from safethink.engines.sampling import Sampling, can_choose, sample_tokens, uniforms
from tests.benchmarks.frame import BenchRow
from tests.benchmarks.wide_vocabulary import GREEDY, PEAKED, ROWS, VOCABULARY, one_layer, random_logits, step_share

CHECKED: Final = 4
"""Rows whose tokens are compared with those of a full sort."""
FLAT: Final = 0.6
"""Spread of logits whose nucleus holds most tokens."""
PLAIN = Sampling()
NUCLEUS, TOP_K = Sampling(temperature=0.6, top_p=0.95), Sampling(temperature=0.6, top_p=0.95, top_k=20)
MAX_TWO_TOKENS: Final = 1.5
"""Of a step that reads one: the head, which takes most of the time, reads as many hidden states."""
NEVER: Final = (5, VOCABULARY - 1)
"""Tokens that are never chosen."""


def rows() -> Iterator[BenchRow]:
    """Shares of a `generate` step."""
    model, logits = one_layer(), random_logits(PEAKED)
    for name, sampling in (("greedy", GREEDY), ("plain", PLAIN), ("nucleus", NUCLEUS), ("top_k", TOP_K)):
        yield _choice(f"choose_{name}_over_generate_step", model, logits, sampling)
    yield _choice("choose_nucleus_of_flat_logits_over_generate_step", model, random_logits(FLAT), NUCLEUS)
    exact = all(bool(can_choose(row)) == bool(row.amax().isfinite()) for row in logits)
    yield step_share("can_choose_over_generate_step", model, lambda: can_choose(logits), exact)
    yield _masked(model, logits)
    views = _sees_alike(logits)
    yield step_share("look_over_generate_step", model, lambda: [_view(row, 20, ()) for row in logits], views)
    yield _weighed(model, logits)
    yield _last_tokens(model)


def _choice(name: str, model: Qwen3ForCausalLM, logits: Float[Tensor, "rows vocab"], sampling: Sampling) -> BenchRow:
    random = torch.cat([uniforms(seed, 0, 1) for seed in range(ROWS)])
    some = logits[:CHECKED]
    exact = torch.equal(sample_tokens(some, random[:CHECKED], sampling), _by_sorting(some, random[:CHECKED], sampling))
    return step_share(name, model, lambda: sample_tokens(logits, random, sampling), exact, sampling)


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


def _masked(model: Qwen3ForCausalLM, logits: Float[Tensor, "rows vocab"]) -> BenchRow:
    """Logits without the tokens that are never chosen."""
    # It reads and stops nothing here.
    decoder = Decoder(cast(Any, None), cast(Any, None), GREEDY, NEVER)
    plain = logits.clone()
    plain[:, list(NEVER)] = -torch.inf
    exact = torch.equal(decoder.possible(logits), plain)
    return step_share("possible_over_generate_step", model, lambda: decoder.possible(logits), exact)


def _sees_alike(logits: Float[Tensor, "rows vocab"]) -> bool:
    """Whether a view says what `log_softmax` says."""
    for row in logits[:CHECKED]:
        plain, view = row.double().log_softmax(-1), _view(row, 20, ())
        entropy = float(torch.special.entr(plain.exp()).sum())
        top = torch.tensor(view.log_probabilities, dtype=torch.float64)
        if not torch.allclose(top, plain.topk(20).values) or abs(view.entropy - entropy) > 1e-9:
            return False
    return True


def _weighed(model: Qwen3ForCausalLM, logits: Float[Tensor, "rows vocab"]) -> BenchRow:
    """The log-probability of one token in each row."""
    token_ids = range(0, ROWS * 1000, 1000)
    plain = logits.double().log_softmax(-1)[range(ROWS), list(token_ids)]
    weighed = torch.tensor(_log_probabilities(logits, token_ids), dtype=torch.float64)
    exact = torch.allclose(weighed, plain, rtol=0.0, atol=1e-9)
    return step_share("weigh_over_generate_step", model, lambda: _log_probabilities(logits, token_ids), exact)


def _last_tokens(model: Qwen3ForCausalLM) -> BenchRow:
    """Reading two tokens in every row for the logits of the last, what the second token and the head's layout add."""
    ids = torch.arange(2 * ROWS).view(ROWS, 2)

    def read() -> Tensor:
        with torch.inference_mode():
            return model(ids, use_cache=False, logits_to_keep=1).logits

    exact = torch.allclose(read(), torch.cat([model(row[None]).logits[:, -1:] for row in ids]), rtol=0.0, atol=1e-4)
    row = step_share("last_of_two_tokens_over_generate_step", model, read, exact)
    return BenchRow(row.name, row.value, row.low, row.high, MAX_TWO_TOKENS, "at_most", exact, row.note)
