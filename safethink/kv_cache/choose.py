# pyright: standard
"""Choice of the KV cache: the fastest that a self-test finds exact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from safethink.errors import ModelError
from safethink.kv_cache import Store
from safethink.kv_cache.hybrid_store import HybridStore
from safethink.kv_cache.lane_cache import ATTENTION_KINDS, STATE_KINDS, STATELESS_KINDS, layer_kinds
from safethink.kv_cache.lane_store import LaneStore
from safethink.kv_cache.per_row import PerRowStore
from safethink.kv_cache.probe import largest_difference
from safethink.models.soft_rows import RowTable

logger = logging.getLogger(__name__)

ATTENTIONS = {"eager", "sdpa"}
"""Implementations that take any mask."""
VARYING_ROPES = {"longrope", "dynamic"}
"""Rotary embeddings whose frequencies change with the length of what is read."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest difference of logits, as a share of the largest, where rows attend to tokens alone."""
STATE_TOLERANCE = 1e-2
"""Likewise where states carry on: they add up roundings in float32 at best, and some classes bound the time steps of
many tokens alone, which changes logits by some thousandths. A state that is lost changes them by several percent."""
HALF_TOLERANCE, HALF_STATE_TOLERANCE = 1e-2, 0.1
"""Likewise in half precisions."""


@dataclass(frozen=True)
class StoreOption:
    """A kind of KV cache that a model may get.

    Attributes:
        kind: how rows are read in it.
        build: makes one, given where soft rows are looked up and the most tokens that it may have room for.
        tolerance: difference of logits up to which it is exact, as a share of the largest.
        bounded: whether the most tokens that it may have room for are kept to.
        obstacle: why it does not suit the model, known without trying; None where nothing speaks against it.
    """

    kind: str
    build: Callable[[RowTable | None, int | None], Store]
    tolerance: float
    bounded: bool
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
        unbounded = "" if max_tokens is None or option.bounded else "; max_cached_tokens is not kept to"
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


def _is_quantized(model: PreTrainedModel) -> bool:
    """Whether its products are rounded, by as much as depends on the rows that are read together."""
    return bool(getattr(model, "is_quantized", False))


def _options(model: PreTrainedModel) -> Iterator[StoreOption]:
    """The kinds of KV cache that a model may get, the fastest first."""
    strict = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    lenient = STATE_TOLERANCE if model.dtype in TOLERANCE else HALF_STATE_TOLERANCE
    if _is_quantized(model):
        strict = lenient = HALF_STATE_TOLERANCE
    hybrid = _has_layers(model) and bool(STATE_KINDS & set(layer_kinds(model)))
    why = _obstacle(model, hybrid)
    if hybrid:
        yield StoreOption("in hybrid lanes", lambda *given: HybridStore(model, *given), lenient, True, why)
        by_token = "in hybrid lanes, token by token"
        yield StoreOption(by_token, lambda *given: HybridStore(model, *given, by_token=True), lenient, True, why)
    else:
        yield StoreOption("in lanes", lambda *given: LaneStore(model, *given), strict, True, why)
    again = "one at a time, and again after a rollback"
    varying = f"{type(model).__name__} turns positions by {rope_type(model)!r}" if _varies(model) else None
    yield StoreOption(again, lambda table, _: PerRowStore(model, table), lenient, False, varying)
    anew = "one at a time, and again at every token"
    yield StoreOption(anew, lambda table, _: PerRowStore(model, table, keeps_cache=False), lenient, False)


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
        found = largest_difference(
            model, option.build(None, None), single=model.dtype in TOLERANCE and not _is_quantized(model)
        )
    except torch.OutOfMemoryError:
        raise
    # Whatever a foreign class makes of a cache that it does not know, its own way remains.
    except Exception as error:
        return f"{name} cannot be read {option.kind} ({type(error).__name__}: {error})"
    if found.share <= option.tolerance:
        return None
    return f"{name} gives other logits where rows are read {option.kind} ({found.share:.1e} {found.move})"
