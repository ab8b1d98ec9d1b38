# pyright: standard
"""Which way of reading suits a reasoner: the fastest that gives the same logits as the plain one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from optimize.scoring.examples import Example
from optimize.scoring.strategies import EXPANDED, PLAIN, SHARED, Way
from safethink.errors import ConfigError

Wanted = Literal["auto", "shared", "expanded", "plain"]

FASTEST_FIRST = (SHARED, EXPANDED, PLAIN)
NUM_CANDIDATES, NUM_TOKENS = 3, 6
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Root mean square difference of the logits, in units of their own; float64 models compute parts of it in float32."""

logger = logging.getLogger(__name__)

_chosen: WeakKeyDictionary[PreTrainedModel, dict[str, Way]] = WeakKeyDictionary()
"""What was found out about each model in each precision, so that its other scorers need not ask again."""


def choose(model: PreTrainedModel, examples: Sequence[Example], wanted: Wanted) -> Way:
    """The way asked for, or the fastest that suits the reasoner; tested once for each model and logged.

    Args:
        model: the reasoner, in evaluation mode, without gradients.
        examples: what will be scored.
        wanted: its name.

    Raises:
        ConfigError: the way asked for does not suit the reasoner.
    """
    known = _chosen.setdefault(model, {})
    key = f"{wanted} {model.dtype} {model.device} {model.config.get_text_config()._attn_implementation}"
    if key not in known:
        known[key] = _find(model, examples, wanted)
    return known[key]


def _find(model: PreTrainedModel, examples: Sequence[Example], wanted: Wanted) -> Way:
    """The first of the ways that passes, in the order of their speed."""
    for way in FASTEST_FIRST:
        if wanted not in ("auto", way.name):
            continue
        complaint = None if way is PLAIN else _complaint(model, examples, way)
        if complaint is None:
            logger.info("contexts are read the %s way", way.name)
            return way
        if wanted == way.name:
            raise ConfigError(f"objective.attention: {wanted!r} does not suit this reasoner: {complaint}")
        logger.warning("contexts cannot be read the %s way (%s)", way.name, complaint)
    raise AssertionError("the plain way suits everyone")


def _complaint(model: PreTrainedModel, examples: Sequence[Example], way: Way) -> str | None:
    """Why a way does not suit the reasoner; None where it does.

    The shortest and the longest context are read in one batch, with a few candidates made of tokens of the examples.
    """
    lengths = [len(example.context) for example in examples]
    order = tuple({lengths.index(min(lengths)): None, lengths.index(max(lengths)): None})
    known = torch.tensor(sorted({token for example in examples for token in example.context + example.target}))
    drawn = torch.randint(
        len(known), (len(order) * NUM_CANDIDATES, NUM_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    rows = known[drawn].to(model.device)
    expected = PLAIN.follow(model, PLAIN.read(model, order, examples), rows, NUM_TOKENS)
    try:
        found = way.follow(model, way.read(model, order, examples), rows, NUM_TOKENS)
    except Exception as error:  # Whatever an architecture that it was not made for may raise.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    difference = (found - expected).double().square().mean().sqrt() / expected.double().std()
    if difference <= TOLERANCES.get(model.dtype, 0.0):
        return None
    return f"logits differ by {difference:.1g} of their standard deviation"
