"""What a search knows, kept so that killing it at any moment loses at most the step in hand.

Two files. `search.jsonl` has one line per finished step: for people, and for the artifact. `search.safetensors` has
what the next step needs, written beside and then renamed, so that it is always whole. A step counts once the second is
in place; a log that is a line ahead, or ends in the middle of one, is cut back to it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from safethink.errors import RecordError
from safethink.evaluation.records import writing

LOG = "search.jsonl"
STATE = "search.safetensors"


@dataclass
class SearchState:
    """Where a search stands.

    Attributes:
        step: steps finished.
        restart: index of the current start, from 0.
        stale: steps since it last improved.
        incumbent: token ids of the best prefix of this start; empty before one is scored.
        cost: what it costs, term by term.
        momentum: smoothed coordinate gradient; shape (length, allowed), or empty before the first step.
        visited: every candidate ever proposed, in order, with its total cost; infinite for one that did not survive
            being written down and read again.
    """

    step: int = 0
    restart: int = 0
    stale: int = 0
    incumbent: tuple[int, ...] = ()
    cost: dict[str, float] = field(default_factory=dict)
    momentum: Tensor = field(default_factory=lambda: torch.empty(0))
    visited: dict[tuple[int, ...], float] = field(default_factory=dict)

    def ranked(self) -> list[tuple[int, ...]]:
        """All candidates that survive, cheapest first."""
        alive = [ids for ids, cost in self.visited.items() if cost < float("inf")]
        return sorted(alive, key=self.visited.__getitem__)


class Journal:
    """The two files of one search.

    Args:
        folder: where they are.
        fingerprint: identifies what is searched, and how; a journal with another one is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.log, self._state, self.fingerprint = folder / LOG, folder / STATE, fingerprint
        self._num_lines = 0

    def resume(self) -> SearchState:
        """The state to go on from; a fresh one where there is none.

        Raises:
            RecordError: the files belong to a search over something else.
        """
        if not self._state.exists():
            self.log.write_text("")
            return SearchState()
        with safe_open(self._state, "pt") as file:
            head = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if head["fingerprint"] != self.fingerprint:
            raise RecordError(f"{self._state}: belongs to another search; give a fresh --out")
        lines = self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []
        self._num_lines = head["lines"]
        if len(lines) < self._num_lines:
            raise RecordError(f"{self.log}: has {len(lines)} of {self._num_lines} lines; give a fresh --out")
        os.truncate(self.log, sum(map(len, lines[: self._num_lines])))
        ids = map(tuple, tensors["visited"].tolist())
        return SearchState(
            step=head["step"],
            restart=head["restart"],
            stale=head["stale"],
            incumbent=tuple(head["incumbent"]),
            cost=head["cost"],
            momentum=tensors["momentum"],
            visited=dict(zip(ids, tensors["visited_cost"].tolist(), strict=True)),
        )

    def commit(self, state: SearchState, line: dict[str, Any]) -> None:
        """Append `line` to the log, then put `state` in place.

        Raises:
            RecordError: one of the two could not be written; the steps before stay, and the same command resumes.
        """
        with writing(self.log), self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._num_lines += 1
        head = {
            "fingerprint": self.fingerprint,
            "lines": self._num_lines,
            "step": state.step,
            "restart": state.restart,
            "stale": state.stale,
            "incumbent": state.incumbent,
            "cost": state.cost,
        }
        tensors = {
            "momentum": state.momentum,
            "visited": torch.tensor(list(state.visited)),
            "visited_cost": torch.tensor(list(state.visited.values()), dtype=torch.float64),
        }
        partial = self._state.with_suffix(".partial")
        try:
            save_file(tensors, partial, {"state": json.dumps(head)})
        except SafetensorError as error:
            raise RecordError(f"{self._state}: {error}") from error
        os.replace(partial, self._state)
