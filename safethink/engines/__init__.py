# pyright: standard
"""Engines: continuation of token ids by the reasoner, ids in, ids out.

Axes of the tensors in this room: rows (sequences of a batch), hidden (width of the model), vocab (size of the
vocabulary), asked (last tokens whose logits are read).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from safethink.defenses.effects import Extension, Until, View
from safethink.tokens import is_soft

HiddenState: TypeAlias = Float[Tensor, " hidden"]
"""The hidden state of one token."""
HiddenStates: TypeAlias = Float[Tensor, "rows hidden"]
"""The hidden state of one token of each of several rows."""
TokenStates: TypeAlias = Float[Tensor, "tokens hidden"]
"""The hidden states of consecutive tokens of one row."""


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """One row of a batch handed to an engine.

    Attributes:
        row: a stable key; the engine may keep this row's KV cache under it between calls.
        ids: everything so far, prompt and trace, as token ids.
        step_start: index into `ids` where the text that a delimiter may complete begins.
        until: where to stop.
        max_new_tokens: the most tokens to produce.
        seed: seeds a stream of random numbers, of which a token takes the one at its own position; equal ids and seed
            give equal tokens whatever else is in the batch.
        trace_start: index into `ids` of the first token behind the prompt, from which on token states may be asked for;
            None where it is not known. See `TokenStateEngine`.
    """

    row: int
    ids: tuple[int, ...]
    step_start: int
    until: Until
    max_new_tokens: int
    seed: int
    trace_start: int | None = None


@runtime_checkable
class Engine(Protocol):
    """Continues token ids."""

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """Continue every request to its own stop, in order. Rows never influence each other."""
        ...

    def release(self, row: int) -> None:
        """Forget what was cached for `row`."""
        ...


@runtime_checkable
class WritingEngine(Engine, Protocol):
    """An engine that may have to write the ids it continues as text, which not all sequences of ids can be."""

    def refuse_unwritable(self, injected: tuple[int, ...]) -> None:
        """Refuse a prefix that could never be injected.

        Args:
            injected: its token ids, separator included.

        Raises:
            ConfigError: behind the prompt or a step, its text is other tokens.
        """
        ...


@runtime_checkable
class ContinuousEngine(Protocol):
    """Continues token ids; rows may come in while others are under way."""

    def submit(self, requests: Sequence[ExtendRequest]) -> None:
        """Begin to continue rows, each to its own stop."""
        ...

    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        """Work until a share of `rows` has stopped, at least one; return what was produced, by row."""
        ...


@dataclass(frozen=True, slots=True)
class LookRequest:
    """One row that is looked at; see `Look`.

    Attributes:
        row: as in `ExtendRequest`.
        ids: everything so far, prompt and trace, as token ids.
        top_k: how many of the likeliest next tokens to show.
        layer: which hidden state of the last token to show; None for none.
    """

    row: int
    ids: tuple[int, ...]
    top_k: int = 0
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class WeighRequest:
    """One row that a continuation is forced on; see `Weigh`.

    Attributes:
        row: as in `ExtendRequest`.
        ids: everything so far, prompt and trace, as token ids.
        continuation: the tokens to weigh, none of them a soft row: that is no token and has no probability.
    """

    row: int
    ids: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(map(is_soft, self.continuation)):
            raise ValueError("a soft row has no probability")


@runtime_checkable
class TokenLevelEngine(Engine, Protocol):
    """An engine that shows what the reasoner makes of single tokens; exactly what a plain forward would say."""

    def look(self, requests: Sequence[LookRequest]) -> list[View]:
        """Show what may follow each request, in order; `View.room` is left to the scheduler."""
        ...

    def weigh(self, requests: Sequence[WeighRequest]) -> list[tuple[float, ...]]:
        """The log-probability of each token of each continuation, in nats, in order."""
        ...


@dataclass(frozen=True, slots=True)
class StateRequest:
    """One row whose hidden states are read.

    Attributes:
        row: as in `ExtendRequest`.
        ids: everything so far, prompt and trace, as token ids.
        num_tokens: of how many last tokens, at least one; more than that one only by `TokenStateEngine.token_states`.
    """

    row: int
    ids: tuple[int, ...]
    num_tokens: int = 1


@runtime_checkable
class StateEngine(Engine, Protocol):
    """An engine that shows the reasoner's hidden states; exactly those of a plain forward."""

    def states(self, requests: Sequence[StateRequest], layer: int) -> HiddenStates:
        """The hidden state of each request's last token, in order, at `layer` as transformers counts them."""
        ...


@runtime_checkable
class TokenStateEngine(StateEngine, Protocol):
    """An engine that shows the hidden states of every token of a trace; exactly those of a plain forward."""

    def keep_states(self, layer: int) -> None:
        """Keep the states at `layer` of all tokens read from now on, so that none is read twice for its state."""
        ...

    def token_states(self, requests: Sequence[StateRequest], layer: int) -> list[TokenStates]:
        """The hidden states of each request's last `num_tokens` tokens, in order, at `layer`."""
        ...


@runtime_checkable
class LocalEngine(Engine, Protocol):
    """An engine that has the reasoner's weights."""

    def is_reasoner(self, sha256: str) -> bool:
        """Whether `sha256` is the hash of these weights, see `models.hashes.model_hash`, rounded or not."""
        ...

    def add_rows(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """Make input rows readable and return their token ids; see `RowTable.add`."""
        ...

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input rows of token ids; see `RowTable.rows`."""
        ...

    def row_parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a row, each of which has a scale of its own; see `RowTable.row_parts`."""
        ...
