"""The loss of many candidate prefixes over many contexts: as exact as a plain forward, and much faster.

What makes it fast: a context is read once and its cache kept at batch 1, because the prefix changes and the context
does not. Only prefix and target positions reach the output head. The gradient is taken with respect to what the layers
read for the prefix (embeddings and, in some models, per-layer inputs behind them), averaged over contexts, so that a
search needs one product with the rows of all tokens.

Axes of the tensors in this room:

    candidates  prefixes that are scored      contexts   examples, those of one batch or of all
    rows        (context, candidate) pairs of one forward, context by context: rows = contexts * candidates
    length      tokens of a prefix            target     separator and target tokens behind it, padded on the right
    tokens      of a row: length + target - 1 positions  tokens of a context, padded on the left
    heads, kv_heads, head_dim, vocab  of the reasoner
    hidden      numbers that its layers read at a position, see `safethink.models.input_rows`
"""

from __future__ import annotations

from optimize.scoring.batches import Example
from optimize.scoring.modes import frozen
from optimize.scoring.reader import Losses, NllGradient
from optimize.scoring.scorer import Scorer, serve

__all__ = ["Example", "Losses", "NllGradient", "Scorer", "frozen", "serve"]
