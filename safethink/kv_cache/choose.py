# pyright: standard
"""Choice of the KV cache: lanes where a self-test finds them exact, else one cache per row."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from safethink.kv_cache import Store
from safethink.kv_cache.lane_store import LaneStore
from safethink.kv_cache.per_row import PerRowStore
from safethink.models.soft_rows import RowTable

logger = logging.getLogger(__name__)

LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers whose keys and values can be rolled back."""
ATTENTIONS = {"eager", "sdpa"}
"""Implementations that take any mask."""
VARYING_ROPES = {"longrope", "dynamic"}
"""Rotary embeddings whose frequencies change with the length of what is read."""
PROBE = ((3, 5, 7, 2, 11), (4, 6))
"""Token ids of two rows of different lengths; which ones does not matter."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest difference of logits, as a share of the largest; half precisions may by ten times as much."""


def choose_store(model: PreTrainedModel, table: RowTable | None = None, max_tokens: int | None = None) -> Store:
    """Build a lane cache where the model attends to nothing but tokens and a probe is exact; else one by one.

    Says so, once, where it is the slow way.

    Args:
        model: a causal language model in eval mode.
        table: where soft rows among the ids are looked up; None where there are none.
        max_tokens: the most tokens whose keys and values lanes may have room for; None for no limit.
    """
    why = _obstacle(model)
    if why is None:
        return LaneStore(model, table, max_tokens)
    unbounded = "" if max_tokens is None else "; max_cached_tokens is not kept to"
    logger.warning("rows are read one at a time, and again after a rollback: %s%s", why, unbounded)
    return PerRowStore(model, table, keeps_cache=rope_type(model) not in VARYING_ROPES)


def rope_type(model: PreTrainedModel) -> str | None:
    """Kind of the model's rotary embedding; None where it names none."""
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return parameters.get("rope_type")


def _obstacle(model: PreTrainedModel) -> str | None:
    """Reason why lanes do not suit the model; None where they do."""
    config = model.config.get_text_config()
    name = type(model).__name__
    attention = getattr(model.config, "_attn_implementation", None)
    if attention not in ATTENTIONS:
        return f"attn_implementation {attention!r} takes no mask for rows of different lengths; 'sdpa' does"
    rope = rope_type(model)
    if rope in VARYING_ROPES:
        return f"{name} turns positions by {rope!r}, which depends on the longest row beside them"
    kinds = set(getattr(config, "layer_types", None) or ()) - LAYERS
    if kinds:
        return f"{name} has layers of the kind {min(kinds)!r}, whose cache cannot roll back"
    if not hasattr(config, "num_hidden_layers") or getattr(model, "_is_stateful", False):
        return f"{name} keeps a state that cannot roll back"
    try:
        difference = _probe(model)
    except torch.OutOfMemoryError:
        raise
    # Whatever a foreign class makes of a cache that it does not know, its own way remains.
    except Exception as error:
        return f"{name} does not take a cache of lanes ({type(error).__name__}: {error})"
    allowed = TOLERANCE.get(model.dtype, 10 * TOLERANCE[torch.float32])
    return None if difference <= allowed else f"{name} gives other logits in a cache of lanes ({difference:.1e})"


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> float:
    """Largest difference between logits in lanes, after a rollback, and of plain forwards, as a share."""
    lanes = LaneStore(model)
    rows = list(range(len(PROBE)))
    lanes.forward(rows, PROBE)
    for row in rows:
        lanes.truncate(row, 1)
    logits = lanes.forward(rows, [ids[1:] for ids in PROBE]).logits[:, -1]
    plain = torch.stack([model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1] for ids in PROBE])
    return float((logits - plain).abs().max() / plain.abs().max().clamp(min=1e-6))
