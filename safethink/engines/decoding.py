# pyright: standard
"""Continuous batching: the decode loop of rows that stop at different times, wait, and go on where they are."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from safethink.defenses.effects import Extension, StopReason, Until
from safethink.engines import ExtendRequest
from safethink.engines.reader import RowReader
from safethink.engines.sampling import Sampling, can_choose, no_choice, sample_tokens, uniforms
from safethink.engines.stopping import LOOK_BACK, Stopper
from safethink.errors import CacheFullError
from safethink.tokens import Tokens

logger = logging.getLogger(__name__)

NO_TOKEN: Final = -1
"""Stands for the next token of a row that can have none."""


@dataclass
class _Decoding:
    """One row while it is being decoded."""

    request: ExtendRequest
    ids: list[int] = field(init=False)
    text: list[int] = field(init=False)
    before: list[int] = field(init=False)
    stop: StopReason | None = None

    def __post_init__(self) -> None:
        request = self.request
        self.ids = list(request.ids)
        self.text = self.ids[request.step_start :]
        self.before = self.ids[max(0, request.step_start - LOOK_BACK) : request.step_start]
        self.stop = "length" if request.max_new_tokens < 1 else None

    @property
    def row(self) -> int:
        """The row's key."""
        return self.request.row

    @property
    def new(self) -> tuple[int, ...]:
        """Tokens produced so far."""
        return tuple(self.ids[len(self.request.ids) :])

    @property
    def num_trace(self) -> int:
        """Number of tokens behind the prompt; 0 where nobody says where it ends."""
        start = self.request.trace_start
        return 0 if start is None else len(self.ids) - start

    @property
    def may_resume(self) -> bool:
        """Whether anything can follow."""
        return self.stop != "end" and not (self.stop == "length" and self.request.until is Until.ANSWER)

    @cached_property
    def randoms(self) -> list[float]:
        """The random number of each position that may be decoded."""
        return uniforms(self.request.seed, len(self.request.ids), self.request.max_new_tokens).tolist()

    def next_random(self) -> float:
        """The random number of the next token's position."""
        return self.randoms[len(self.ids) - len(self.request.ids)]

    def append(self, token_id: int, stopper: Stopper) -> None:
        """Take the next token and see whether it is the last."""
        self.ids.append(token_id)
        self.text.append(token_id)
        self.stop = stopper.reason(self.text, self.request.until, self.before)
        if self.stop is None and len(self.ids) == len(self.request.ids) + self.request.max_new_tokens:
            self.stop = "length"


class Decoder:
    """Continuous batching with OOM back-off: rows are decoded side by side, new ones come in as others stop.

    The last token of a step is read together with the next tokens of the other rows, so a row that goes on where it
    stopped waits for no forward of its own.
    """

    def __init__(
        self,
        reader: RowReader,
        stopper: Stopper,
        sampling: Sampling,
        never: Sequence[int] = (),
        max_rows: int | None = None,
    ) -> None:
        """Decode what `reader` reads.

        Args:
            reader: reads rows.
            stopper: where steps, thinking and answers end.
            sampling: how the next token is chosen.
            never: tokens that are never chosen.
            max_rows: the most rows side by side; None for all there are. Halved when memory runs out.
        """
        self._reader = reader
        self._stopper = stopper
        self._sampling = sampling
        self._never = torch.tensor(never, dtype=torch.long)
        self._max_rows = max_rows
        self._queue: deque[_Decoding] = deque()
        self._active: dict[int, _Decoding] = {}
        self._done: dict[int, Extension] = {}

    def submit(self, requests: Sequence[ExtendRequest]) -> None:
        """Begin to continue rows; `collect` says what came of them."""
        self._queue += map(_Decoding, requests)

    def collect(self, rows: Collection[int], share: float) -> dict[int, Extension]:
        """Decode until a share of some rows has stopped, at least one.

        Args:
            rows: those that are asked about; what comes of others is kept until it is asked for.
            share: in [0, 1]; at 0 every row is handed back as soon as it stops.

        Returns:
            What was produced, by row; empty only where none of them is under way.

        Raises:
            CacheFullError: a single row does not fit into memory.
            LogitsError: what the model says of a row's next token is no number; that row is no longer under way.
        """
        while self._queue or self._active:
            stopped = [row for row in rows if row in self._done]
            if stopped and not self._queue and len(stopped) >= share * len(rows):
                break
            for row in self._advance():
                assert row.stop is not None, "still decoding"
                self._done[row.row] = Extension(Tokens.sampled(row.new), row.stop)
        return {row: self._done.pop(row) for row in rows if row in self._done}

    def release(self, row: int) -> None:
        """Stop continuing `row`, if it is under way."""
        self._active.pop(row, None)
        self._done.pop(row, None)
        self._queue = deque(waiting for waiting in self._queue if waiting.row != row)

    def possible(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """The logits, without the tokens that are never chosen, as `generate` and its servers do."""
        return logits.index_fill(-1, self._never.to(logits.device), -torch.inf) if len(self._never) else logits

    def _advance(self) -> list[_Decoding]:
        """Produce one token of every active row; return the rows that have stopped."""
        ready = set(self._active)
        stopped = self._admit()
        try:
            # Rows just taken in, and those that had to make room for others.
            behind = [
                row for key, row in self._active.items() if key not in ready or not self._reader.holds(row.row, row.ids)
            ]
            self._reader.open({row.row: row.ids for row in behind}, {row.row: row.num_trace for row in behind})
            if not all(self._reader.holds(row.row, row.ids) for row in self._active.values()):
                raise CacheFullError("rows had to make room for each other")
            self._append_all()
            reading = [row for row in self._active.values() if row.may_resume]
            if reading:
                ending = [row.row for row in reading if row.stop is not None]
                self._reader.step([row.row for row in reading], [row.ids[-1] for row in reading], ending)
        except (torch.OutOfMemoryError, CacheFullError) as error:
            self._halve(error)
        stopped += [row for row in self._active.values() if row.stop is not None]
        self._active = {key: row for key, row in self._active.items() if row.stop is None}
        return stopped

    def _admit(self) -> list[_Decoding]:
        """Take rows in while there is room; return those that have nothing to do."""
        stopped: list[_Decoding] = []
        while self._queue and (self._max_rows is None or len(self._active) < self._max_rows):
            row = self._queue.popleft()
            if row.stop is None:
                self._active[row.row] = row
            else:
                stopped.append(row)
        return stopped

    @torch.inference_mode()
    def _append_all(self) -> None:
        """Choose the next token of every active row.

        Raises:
            LogitsError: the logits of one are no numbers; nothing is appended to any.
        """
        rows = list(self._active.values())
        if not rows:
            return
        logits = self.possible(self._reader.logits(list(self._active)))
        greedy = self._sampling.temperature == 0
        drawn = [0.0] * len(rows) if greedy else [row.next_random() for row in rows]
        randoms = torch.tensor(drawn, dtype=torch.float64, device=logits.device)
        # Marked on the device, so that whether a token could be chosen comes along with which it is.
        marked = torch.where(can_choose(logits), sample_tokens(logits, randoms, self._sampling), NO_TOKEN)
        chosen = dict(zip((row.row for row in rows), marked.tolist(), strict=True))
        for row, its_logits in zip(rows, logits, strict=True):
            if chosen[row.row] == NO_TOKEN:
                self.release(row.row)
                # A masked NaN is still one (0 NaN = NaN): whoever came into its place in the cache would inherit it.
                self._reader.clear()
                raise no_choice(row.row, len(row.ids), its_logits)
        for row in rows:
            row.append(chosen[row.row], self._stopper)

    def _halve(self, error: Exception) -> None:
        """Go on with half as many rows; what was read is forgotten, what was produced is not.

        Raises:
            CacheFullError: there is one row only, and it does not fit.
        """
        rows = list(self._active.values())
        if len(rows) == 1 and self._reader.store.num_rows > 1:
            # Rows that wait may be what fills it.
            self._reader.clear()
            return
        if len(rows) < 2:
            num_tokens = len(rows[0].ids) if rows else 0
            raise CacheFullError(f"a row of {num_tokens} tokens does not fit into memory: {error}") from error
        self._reader.clear()
        self._max_rows = len(rows) // 2
        logger.warning("memory is full; going on with %d rows at once instead of %d", self._max_rows, len(rows))
        self._queue.extendleft(row for row in reversed(rows) if row.stop is None)
        self._active = {row.row: row for row in rows if row.stop is not None}
