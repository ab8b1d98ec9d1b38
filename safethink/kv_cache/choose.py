# pyright: standard
"""Choice of the KV cache: the fastest that a self-test finds exact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from safethink.errors import ModelError
from safethink.kv_cache import ReadRequest, Store, read
from safethink.kv_cache.hybrid_store import HybridStore
from safethink.kv_cache.lane_cache import ATTENTION_KINDS, STATE_KINDS, STATELESS_KINDS, layer_kinds
from safethink.kv_cache.lane_store import LaneStore
from safethink.kv_cache.per_row import PerRowStore
from safethink.models.soft_rows import RowTable

logger = logging.getLogger(__name__)

ATTENTIONS = {"eager", "sdpa"}
"""Implementations that take any mask."""
VARYING_ROPES = {"longrope", "dynamic"}
"""Rotary embeddings whose frequencies change with the length of what is read."""
PROBE = ((3, 5, 7, 2, 11), (4, 6, 9))
"""Token ids of two rows of different lengths; which ones does not matter."""
PROBE_STEP = ((13,), (10,))
"""A token that follows each and is rolled back again."""
PROBE_INJECTED = ((6, 4, 3), (5, 14, 7, 2))
"""Token ids put in the place of each row's last and what followed it."""
PROBE_MORE = (((8, 12, 9), (15, 3, 11)), ((2,), (7,)))
"""Token ids that follow: several at once, then one."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest difference of logits, as a share of the largest; half precisions may by ten times as much."""
STATE_LENIENCE = 10
"""Factor for what states carry on: they add up roundings in float32 at best. One that is lost changes logits by tens of
percent."""


@dataclass(frozen=True)
class StoreOption:
    """A kind of KV cache that a model may get.

    Attributes:
        kind: how rows are read in it.
        build: makes one, given where soft rows are looked up and the most tokens that it may have room for.
        tolerance: difference of logits up to which it is exact, as a share of the largest.
        obstacle: why it does not suit the model, known without trying; None where nothing speaks against it.
    """

    kind: str
    build: Callable[[RowTable | None, int | None], Store]
    tolerance: float
    obstacle: str | None = None


def choose_store(model: PreTrainedModel, table: RowTable | None = None, max_tokens: int | None = None) -> Store:
    """Build the fastest KV cache that is exact: lanes, else one cache per row, else none at all.

    Says so, once, where it is a slow way.

    Args:
        model: a causal language model in eval mode.
        table: where soft rows among the ids are looked up; None where there are none.
        max_tokens: the most tokens whose keys and values lanes may have room for; None for no limit.

    Raises:
        ModelError: the model differs from itself even where everything is read again.
    """
    option, why = _chosen(model)
    if why:
        unbounded = "" if max_tokens is None else "; max_cached_tokens is not kept to"
        logger.warning("rows are read %s: %s%s", option.kind, why, unbounded)
    return option.build(table, max_tokens)


def store_kind(model: PreTrainedModel) -> str:
    """Kind of the KV cache that a model gets: `in lanes`, `in hybrid lanes`, or `one at a time` and how much again.

    Raises:
        ModelError: the model differs from itself even where everything is read again.
    """
    return _chosen(model)[0].kind


def rope_type(model: PreTrainedModel) -> str | None:
    """Kind of the model's rotary embedding; None where it names none."""
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return parameters.get("rope_type")


def _chosen(model: PreTrainedModel) -> tuple[StoreOption, str]:
    """The first option that is exact, and why none before it is; empty where it is the fastest."""
    reasons: list[str] = []
    for option in _options(model):
        why = option.obstacle or _fault(model, option)
        if why is None:
            return option, reasons[0] if reasons else ""
        reasons.append(why)
    raise ModelError(reasons[-1])


def _options(model: PreTrainedModel) -> Iterator[StoreOption]:
    """The kinds of KV cache that a model may get, the fastest first."""
    strict = TOLERANCE.get(model.dtype, 10 * TOLERANCE[torch.float32])
    lenient = STATE_LENIENCE * max(strict, TOLERANCE[torch.float32])
    hybrid = _has_layers(model) and bool(STATE_KINDS & set(layer_kinds(model)))
    why = _obstacle(model, hybrid)
    if hybrid:
        yield StoreOption("in hybrid lanes", lambda *given: HybridStore(model, *given), lenient, why)
        by_token = "in hybrid lanes, token by token"
        yield StoreOption(by_token, lambda *given: HybridStore(model, *given, by_token=True), lenient, why)
    else:
        yield StoreOption("in lanes", lambda *given: LaneStore(model, *given), strict, why)
    again = "one at a time, and again after a rollback"
    varying = f"{type(model).__name__} turns positions by {rope_type(model)!r}" if _varies(model) else None
    yield StoreOption(again, lambda table, _: PerRowStore(model, table), lenient, varying)
    anew = "one at a time, and again at every token"
    yield StoreOption(anew, lambda table, _: PerRowStore(model, table, keeps_cache=False), lenient)


def _obstacle(model: PreTrainedModel, hybrid: bool) -> str | None:
    """Reason why lanes do not suit the model; None where nothing speaks against them."""
    name = type(model).__name__
    attention = getattr(model.config, "_attn_implementation", None)
    if attention not in ATTENTIONS:
        return f"attn_implementation {attention!r} takes no mask for rows of different lengths; 'sdpa' does"
    if _varies(model):
        return f"{name} turns positions by {rope_type(model)!r}, which depends on the longest row beside them"
    if not _has_layers(model) or (getattr(model, "_is_stateful", False) and not hybrid):
        return f"{name} keeps a state that cannot roll back"
    strange = set(layer_kinds(model)) - ATTENTION_KINDS - STATE_KINDS - STATELESS_KINDS
    if strange:
        return f"{name} has layers of the kind {min(strange)!r}, whose cache cannot roll back"
    if not set(layer_kinds(model)) & (ATTENTION_KINDS | {"hybrid"}):
        return f"{name} has no layer that attends to tokens"
    return None


def _has_layers(model: PreTrainedModel) -> bool:
    """Whether the model's configuration counts its layers."""
    return hasattr(model.config.get_text_config(), "num_hidden_layers")


def _varies(model: PreTrainedModel) -> bool:
    """Whether the keys of a row's tokens change as the row grows."""
    return rope_type(model) in VARYING_ROPES


def _fault(model: PreTrainedModel, option: StoreOption) -> str | None:
    """Fault of a kind of cache when it is tried; None where it is exact."""
    name = type(model).__name__
    try:
        difference = _probe(model, option.build(None, None))
    except torch.OutOfMemoryError:
        raise
    # Whatever a foreign class makes of a cache that it does not know, its own way remains.
    except Exception as error:
        return f"{name} cannot be read {option.kind} ({type(error).__name__}: {error})"
    if difference <= option.tolerance:
        return None
    return f"{name} gives other logits where rows are read {option.kind} ({difference:.1e})"


@torch.inference_mode()
def _probe(model: PreTrainedModel, store: Store) -> float:
    """Largest difference of logits, as a share, after some steps, a rollback and an injection, to plain forwards."""
    rows = list(PROBE)
    _bring(store, rows)
    _bring(store, [ids + new for ids, new in zip(rows, PROBE_STEP, strict=True)])
    rows = [ids[:-1] + new for ids, new in zip(rows, PROBE_INJECTED, strict=True)]
    logits = _bring(store, rows)
    for more in PROBE_MORE:
        rows = [ids + new for ids, new in zip(rows, more, strict=True)]
        logits = _bring(store, rows)
    plain = torch.stack([model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1] for ids in rows])
    if not plain.isfinite().all():
        # Said where it is met, with the name of the row.
        return 0.0
    return float((logits - plain).abs().max() / plain.abs().max().clamp(min=1e-6))


def _bring(store: Store, rows: list[tuple[int, ...]]) -> torch.Tensor:
    """Read rows to the end of these ids and return the logits there."""
    logits: dict[int, torch.Tensor] = {}
    for indices, result in read(store, [ReadRequest(row, ids) for row, ids in enumerate(rows)]):
        logits |= zip(indices, result.logits[:, -1], strict=True)
    return torch.stack([logits[row] for row in range(len(rows))])
