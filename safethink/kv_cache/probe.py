# pyright: standard
"""Self-test of a KV cache: rows that go on, roll back, are copied, leave and wait, against plain forwards.

What a state has lost fades within a few tokens, so that rows are compared wherever they stop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.kv_cache import ReadRequest, Store, read


@dataclass(frozen=True, slots=True)
class Move:
    """Something done to rows, at whose end their logits are compared.

    Attributes:
        name: what it tries, after "logits differ"; moves of one name are judged together.
        tokens: ids that are read behind each row's; which ones does not matter, as long as they differ.
        cut: how many of each row's last tokens are taken back before.
        copies: rows that are given what was read of another, before that.
        leaving: rows that are dropped, before that.
    """

    name: str
    tokens: Mapping[int, tuple[int, ...]]
    cut: int = 0
    copies: Mapping[int, int] = field(default_factory=dict)
    leaving: tuple[int, ...] = ()


MOVES = (
    Move("from the start", {0: (3, 5, 7, 2, 11), 1: (4, 6, 9)}),
    Move("one token on", {0: (13,), 1: (10,)}),
    # Back to before a row's last token, where states were saved, and by one token on: nothing has faded there.
    Move("after a rollback", {0: (12,), 1: (8,)}, cut=2),
    Move("after a rollback", {0: (9,), 1: (3,)}, cut=1),
    Move("after a rollback", {0: (6, 4, 3), 1: (5, 14, 7, 2)}, cut=1),
    Move("after a rollback to between two saved places", {0: (9,), 1: (11,)}, cut=2),
    Move("several tokens on", {0: (8, 12, 9), 1: (15, 3, 11)}),
    # A third lane, so that the buffers of the others grow.
    Move("beside a copy", {0: (2,), 1: (7,)}, copies={2: 0}),
    Move("beside a copy", {0: (14,), 1: (5,)}),
    Move("as a copy", {2: (10,)}),
    Move("as a copy", {2: (4,)}),
    Move("as a copy", {2: (13, 6)}, cut=1),
    Move("in the lane of another", {3: (7, 10, 15, 4, 12, 8)}, leaving=(1,)),
    Move("in the lane of another", {3: (3,)}),
    Move("in the lane of another", {3: (9,)}),
    Move("after waiting", {0: (11,), 2: (5,), 3: (2,)}),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest difference of logits from plain forwards, as a share of the largest, and the move that shows it."""

    share: float
    move: str


@torch.inference_mode()
def largest_difference(model: PreTrainedModel, store: Store, single: bool = True) -> Difference:
    """Try a cache.

    Args:
        model: a causal language model in eval mode.
        store: an empty cache for it.
        single: whether a single end that differs counts; where not, the median of those of one name does: in half
            precision the router of a mixture of experts flips here and there, which a wrong cache has everywhere.
    """
    ends = _ends(store)
    plain = _plain(model, [ids for _, ids, _ in ends])
    shares: dict[str, list[float]] = defaultdict(list)
    for name, ids, logits in ends:
        shares[name].append(_share(logits, plain[ids]))
    judged = {name: max(each) if single else sorted(each)[(len(each) - 1) // 2] for name, each in shares.items()}
    worst = max(judged, key=judged.__getitem__)
    return Difference(judged[worst], worst)


def _ends(store: Store) -> list[tuple[str, tuple[int, ...], Float[Tensor, " vocab"]]]:
    """Make all moves; the name of each, and ids and logits at the end of each of its rows."""
    rows: dict[int, tuple[int, ...]] = {}
    ends: list[tuple[str, tuple[int, ...], Float[Tensor, " vocab"]]] = []
    for move in MOVES:
        for row in move.leaving:
            store.drop(row)
        for target, source in move.copies.items():
            store.share(source, [target])
            rows[target] = rows[source]
        for row, new in move.tokens.items():
            before = rows.get(row, ())
            rows[row] = before[: len(before) - move.cut] + new
        keys = list(move.tokens)
        for indices, result in read(store, [ReadRequest(row, rows[row]) for row in keys]):
            ends += [(move.name, rows[keys[index]], result.logits[place, -1]) for place, index in enumerate(indices)]
    return ends


def _plain(model: PreTrainedModel, ends: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Float[Tensor, " vocab"]]:
    """Logits at each end by plain forwards; those of a row's beginning are among the longer one's."""
    found: dict[tuple[int, ...], Float[Tensor, " vocab"]] = {}
    for ids in sorted(ends, key=len, reverse=True):
        if ids not in found:
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
            found = {ids[: place + 1]: each for place, each in enumerate(logits)} | found
    return found


def _share(logits: Float[Tensor, " vocab"], plain: Float[Tensor, " vocab"]) -> float:
    """Largest difference as a share of the largest plain logit, both where they are finite.

    Zero where no plain logit is finite, which is said where it is met, with the name of the row; infinite where others
    are than should be.
    """
    finite = plain.isfinite()
    if not finite.any():
        return 0.0
    if not torch.equal(finite, logits.isfinite()):
        return float("inf")
    ours, theirs = logits[finite].double(), plain[finite].double()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
