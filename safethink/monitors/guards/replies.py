"""Replies of several lines as a tree of tokens: a guard that lists what it found, or says more before its verdict.

A reply is a path from the root to a leaf, which has a share of safety. Only what the guard's format allows is in the
tree, and it grows where it is read: lists of any length and order fit into it. With q the guard's probabilities among
what may follow, P(safe) = sum over leaves of safety(leaf) times the product of q along its path. This is exact for a
guard that keeps to its format, and no list needs to be guessed.

Branches whose product is below `MIN_SHARE` are not read, and count as unsafe. The score is a bound from below then.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float

from safethink.errors import ConfigError
from safethink.monitors.guards.forms import GuardVerdict, Line, Preset

MIN_SHARE: Final = 1e-3
"""Product of probabilities below which a branch is not read on."""

Ids: TypeAlias = tuple[int, ...]
Shares: TypeAlias = "Float[np.ndarray, ' lanes']"
LogProbabilities: TypeAlias = "Float[np.ndarray, 'lanes children']"


@dataclass(frozen=True, slots=True)
class _State:
    """Position of a reply as text.

    Attributes:
        text: what was said so far.
        line: index of the line that it stands in.
        said: what was chosen in that line.
        safety: the verdict's share of safety, once it was given.
    """

    text: str = ""
    line: int = -1
    said: tuple[str, ...] = ()
    safety: float = 0.0


@dataclass(slots=True)
class Node:
    """Position of replies as tokens, which many of them may share.

    Attributes:
        ids: the tokens so far.
        children: what may follow.
        safety: the share of safety of the reply that ends here; None where it goes on.
        state: where it stands as text, until its children are known.
    """

    ids: Ids
    children: dict[int, Node] = field(default_factory=lambda: {})
    safety: float | None = None
    state: _State | None = None


class Replies:
    """The replies that a preset allows, as a tree that grows where it is asked for.

    Attributes:
        root: nothing is said yet.
        along: the first reply but for its last token: what is read together with the question.
        num_tokens: the most tokens that a reply may take.
    """

    def __init__(self, preset: Preset, encode: Callable[[str], Ids], ends: Sequence[int]) -> None:
        """Prepare the tree.

        Args:
            preset: its lines, verdicts and categories.
            encode: text as token ids of what the guard may say next.
            ends: the tokens by any of which a reply ends.

        Raises:
            ConfigError: one reply begins with another, or none can end.
        """
        self._encode, self._ends = encode, ends
        self._lines = preset.lines
        categories = preset.categories
        self._ignored = frozenset(categories.ignored if categories is not None else ())
        self._listing = categories.listing if categories is not None and self._ignored else None
        names = () if categories is None else tuple(categories.names)
        # What the first reply is made of comes first: it is read with the question, and should hold a list.
        if self._listing is None:
            self._verdicts = preset.verdicts
        else:
            self._verdicts = tuple(sorted(preset.verdicts, key=lambda verdict: verdict.safety or 0.0))
        self._names = tuple(sorted(names, key=lambda name: name not in self._ignored))
        if self._listing is not None and not self._listing.end and not ends:
            raise ConfigError("the guard's tokenizer names no token that ends a reply, so no list of categories ends")
        self.root = Node((), state=_State())
        spine = self._spine(self.root)
        self.along = spine.ids[:-1]
        longest = [*(option for line in self._lines for option in line.options), *self._names]
        self.num_tokens = len(spine.ids) + len(encode(", ".join(longest))) + len(longest)

    def walk(self) -> Generator[Node, LogProbabilities, Shares]:
        """P(safe) of several guards' replies at once, one lane each; no lane influences another.

        Yields:
            A node; is sent the log-probabilities of its children in each lane.

        Returns:
            P(safe) of each lane; NaN where a log-probability is.
        """
        log_p = yield self.grown(self.root)
        safe, is_number = np.zeros(len(log_p)), ~np.isnan(log_p).any(axis=1)
        open_nodes = list(self._followed(self.root, np.ones(len(log_p)), log_p))
        while open_nodes:
            node, share = open_nodes.pop()
            if node.safety is not None:
                safe += share * node.safety
                continue
            share = np.where(share >= MIN_SHARE, share, 0.0)
            if share.any():
                log_p = yield self.grown(node)
                is_number &= ~np.isnan(log_p).any(axis=1)
                open_nodes += self._followed(node, share, log_p)
        return np.where(is_number, safe, np.nan)

    def path(self, node: Node) -> tuple[Node, ...]:
        """`node` and those behind it on the way to its first reply, each of which goes on."""
        nodes = [self.grown(node)]
        while (following := next(iter(nodes[-1].children.values()))).safety is None:
            nodes.append(self.grown(following))
        return tuple(nodes)

    def grown(self, node: Node) -> Node:
        """`node` with all of its children."""
        state, node.state = node.state, None
        if state is not None:
            for text, following in self._options(state):
                self._insert(node, state, text, following)
        return node

    def _spine(self, node: Node) -> Node:
        """The first reply behind `node`."""
        return next(iter(self.path(node)[-1].children.values()))

    def _followed(self, node: Node, share: Shares, log_p: LogProbabilities) -> Iterator[tuple[Node, Shares]]:
        shifted = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        among = shifted / shifted.sum(axis=1, keepdims=True)
        for column, child in enumerate(node.children.values()):
            yield child, share * among[:, column]

    def _options(self, state: _State) -> Iterator[tuple[str | int, _State | float]]:
        """All that may follow: a text or an end token, and where the reply stands then, or its share of safety."""
        if state.line > len(self._lines):
            yield from self._list_goes_on(state)
        elif state.line == len(self._lines):
            assert self._listing is not None, "a verdict is only followed by a list"
            yield from self._names_after(state, len(self._lines) + 1, self._listing.lead)
        else:
            yield from self._line(state.line + 1, state)
            if state.line >= 0:
                yield from self._more(self._lines[state.line], state)

    def _line(self, index: int, state: _State) -> Iterator[tuple[str, _State | float]]:
        """The ways to begin the line of that index, which may be the verdict's."""
        if index < len(self._lines):
            line = self._lines[index]
            for option in line.options:
                yield line.lead + option, _State(state.text + line.lead + option, index, (option,))
        else:
            for verdict in self._verdicts:
                yield verdict.text, self._after(verdict, state.text + verdict.text)

    def _after(self, verdict: GuardVerdict, text: str) -> _State | float:
        safety = 0.0 if verdict.safety is None else verdict.safety
        if self._listing is None or safety == 1:
            return safety
        return _State(text, len(self._lines), safety=safety)

    def _more(self, line: Line, state: _State) -> Iterator[tuple[str, _State]]:
        """Further options of a line that may name several."""
        if line.separator is None or state.said == line.options[:1]:
            return
        for option in line.options[1:]:
            if option not in state.said:
                text = line.separator + option
                yield text, _State(state.text + text, state.line, (*state.said, option))

    def _list_goes_on(self, state: _State) -> Iterator[tuple[str | int, _State | float]]:
        """The end of the list, or a further category."""
        assert self._listing is not None, "only a listing has names"
        is_counted = not self._ignored.issuperset(state.said)
        safety = state.safety if is_counted else 1.0
        for end in [self._listing.end] if self._listing.end else self._ends:
            yield end, safety
        for text, following in self._names_after(state, state.line, self._listing.separator):
            # Once one counts, what else is named changes nothing.
            yield text, safety if is_counted else following

    def _names_after(self, state: _State, line: int, lead: str) -> Iterator[tuple[str, _State]]:
        assert self._listing is not None, "only a listing has names"
        for name in self._names:
            if name not in state.said:
                text = lead + self._listing.blank + name
                yield text, _State(state.text + text, line, (*state.said, name), state.safety)

    def _insert(self, node: Node, state: _State, text: str | int, following: _State | float) -> None:
        """Let `text` follow `node`, which stands at `state`."""
        ids = (text,) if isinstance(text, int) else self._behind(node.ids, state.text, text)
        decided = isinstance(following, float) and state.line > len(self._lines) and isinstance(text, str)
        for token_id in ids[:1] if decided else ids:
            is_clash = node.safety is not None
            node = node.children.setdefault(token_id, Node((*node.ids, token_id)))
            if is_clash:
                raise ConfigError(f"the guard's replies cannot be told apart: one ends where {text!r} goes on")
        if isinstance(following, _State):
            node.state = following
        else:
            node.safety = following
        if node.safety is not None and node.children:
            raise ConfigError(f"the guard's replies cannot be told apart: one ends where {text!r} goes on")

    def _behind(self, ids: Ids, said: str, text: str) -> Ids:
        """`text` as tokens behind what was said, whose tokens are `ids`."""
        whole = self._encode(said + text)
        return whole[len(ids) :] if whole[: len(ids)] == ids and len(whole) > len(ids) else self._encode(text)
