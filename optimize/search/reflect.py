# pyright: standard
"""Reflective search: a language model reads failed traces and the best phrases so far, and writes new ones.

One step, in the manner of OPRO (arXiv 2309.03409):
    1. a few failed traces are drawn, and shown with the best phrases so far and what they cost;
    2. the writer goes on with a list of phrases, several times over;
    3. what is a phrase, short enough and new is scored by the driver, as the candidates of every other method are.

Showing failures rather than solved examples follows ProTeGi (arXiv 2305.03495) and GEPA (arXiv 2507.19457). Unlike
these there is one call of the writer per list, with no critique that it writes first, and no tree: OPRO's best so far
is all that steps hand on. It stands in the archive, so there is no other state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from optimize.config import ReflectConfig
from optimize.search.method import Archive, Ids, Scored, Wording
from optimize.search.reflection import Costed, is_copied, opening, phrases, request
from optimize.search.writer import Writer

logger = logging.getLogger(__name__)

MAX_ASKS = 4
"""Requests in a row that bring nothing new, after which the writer has nothing left to say."""

ENDS = ".,;!?"
"""Characters that end a sentence; many tokenizers have one token for them with a line break."""


class Reflect:
    """Lets a writer propose phrases.

    Args:
        config: how much it reads and writes.
        words: reads texts.
        start: the phrase that is tried first; empty for none.
        archive: what was tried so far.
        traces: failed traces of the contexts that are searched on.
        writer: writes.
    """

    def __init__(
        self, config: ReflectConfig, words: Wording, start: Ids, archive: Archive, traces: Sequence[str], writer: Writer
    ) -> None:
        self._config, self._words, self._archive = config, words, archive
        self._start, self._traces, self._writer = start, traces, writer
        self._allowed = frozenset(words.allowed)

    @property
    def tokens(self) -> int:
        """Tokens that the writer has read and written."""
        return self._writer.tokens

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """New phrases, as they were written; first the start. Empty when the writer says nothing new any more."""
        if self._start and self._start not in self._archive:
            return [self._start]
        for _ in range(MAX_ASKS):
            if new := self._written(generator):
                return new
        logger.warning("search.writer: nothing new in %d lists; the search ends", MAX_ASKS * self._config.lists)
        return []

    def observe(self, scored: Sequence[Scored]) -> None:
        """No-op: the archive has what phrases cost."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: what steps hand on stands in the archive."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No-op: there is no state."""

    def _written(self, generator: torch.Generator) -> list[Ids]:
        """New phrases of the lists that one request brings."""
        order: list[int] = torch.randperm(len(self._traces), generator=generator).tolist()
        shown = [self._traces[index] for index in order[: self._config.traces]]
        seed = int(torch.randint(2**31, (), generator=generator))
        tried = self._tried()
        lists = self._writer.write(request(shown, tried), opening(tried), self._config.lists, seed)
        found = dict.fromkeys(phrase for each in lists for phrase in phrases(each.text, each.is_cut))
        texts = [phrase for phrase in found if not is_copied(phrase, shown)]
        return [ids for ids in dict.fromkeys(map(self._read, texts)) if self._is_new(ids)]

    def _read(self, text: str) -> Ids:
        """Token ids of a phrase, without the end of its sentence where that merges with what is injected behind it."""
        whole = self._words.ids(text)
        return whole if all(self._words.survive([whole])) else self._words.ids(text.rstrip(ENDS))

    def _tried(self) -> list[Costed]:
        """The best phrases so far, the best last."""
        exact = (ids for ids in self._archive.ranked() if ids not in self._archive.estimated)
        best = [ids for ids, _ in zip(exact, range(self._config.shown), strict=False)]
        return [Costed(self._words.text(ids), self._archive.costs[ids]) for ids in reversed(best)]

    def _is_new(self, ids: Ids) -> bool:
        return 0 < len(ids) <= self._config.length and self._allowed.issuperset(ids) and ids not in self._archive
