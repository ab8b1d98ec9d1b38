# pyright: standard
"""Journal of a search: its state after every step, so that killing it loses at most the step in hand.

Two files. `search.jsonl` has one line per finished step: for people, and for the artifact. `search.safetensors` has
what the next step needs, written beside and then renamed, so that it is always whole. A step counts once the second is
in place; a log that is a line ahead, or ends in the middle of one, is cut back to it. A line ends with what its step
took, in seconds and in CPU seconds of this process: all that differs between two runs of the same search.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from optimize.search.method import Archive, Ids
from safethink.config.mismatch import other_settings
from safethink.errors import RecordError
from safethink.files import write_bytes, writing

LOG = "search.jsonl"
STATE = "search.safetensors"
METHOD = "method."
"""Key prefix of a method's tensors in the file."""
REMEDY = "give a fresh --out"


@dataclass
class SearchState:
    """State of a search, beside its archive.

    Attributes:
        step: steps finished.
        tokens: tokens forwarded by the objective.
        best: total cost of the best prefix of all starts.
        improved: steps that were finished when it was found.
        restart: index of the current start; None where the method knows no starts.
        incumbent: the best prefix of this start; empty before one is scored.
        cost: what it costs, term by term.
        policy: the incumbent that an objective on policy was told of last; it outlives its start.
        method: the method's own state.
        objective: that of an objective that learns on policy.
    """

    step: int = 0
    tokens: int = 0
    best: float = math.inf
    improved: int = 0
    restart: int | None = None
    incumbent: Ids = ()
    cost: dict[str, float] = field(default_factory=dict[str, float])
    policy: Ids = ()
    method: dict[str, Any] = field(default_factory=dict[str, Any])
    objective: dict[str, Any] = field(default_factory=dict[str, Any])


class Journal:
    """The two files of one search.

    Args:
        folder: where they are.
        fingerprint: identifies what is searched, and how; a journal with another one is refused.
        settings: what the fingerprint is a hash of, by key, so that what differs can be named.

    Attributes:
        archive: what was tried so far; the driver fills it, methods read it.
    """

    def __init__(self, folder: Path, fingerprint: str, settings: Mapping[str, object] = MappingProxyType({})) -> None:
        self.log, self._state, self.fingerprint = folder / LOG, folder / STATE, fingerprint
        self._settings = dict(settings)
        self.archive = Archive()
        self._num_lines = 0
        self._clocks = _clocks()

    def resume(self) -> SearchState:
        """The state to go on from, a fresh one where there is none; fills the archive.

        Raises:
            RecordError: the files belong to a search over something else, which is named; or they are damaged.
        """
        self._clocks = _clocks()
        if not self._state.exists():
            with writing(self.log):
                self.log.write_text("")
            return SearchState()
        try:
            with safe_open(self._state, "pt") as file:
                head = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, KeyError, ValueError) as error:
            raise RecordError(f"{self._state} is damaged ({error}); {REMEDY}") from error
        there = head.pop("settings", None)  # A journal may be older than this key.
        if head.pop("fingerprint") != self.fingerprint:
            raise RecordError(other_settings(self._state, there, self._settings, "another search", REMEDY))
        self._cut_log(head.pop("lines"))
        rows = tensors.pop("ids").split(tensors.pop("lengths").tolist())
        candidates: list[Ids] = [tuple(row.tolist()) for row in rows]
        self.archive.add(candidates, tensors.pop("costs").tolist(), tensors.pop("exact").tolist())
        head["method"] |= {name.removeprefix(METHOD): tensor for name, tensor in tensors.items()}
        return SearchState(**head | {name: tuple(head[name]) for name in ("incumbent", "policy")})

    def commit(self, state: SearchState, line: dict[str, Any]) -> None:
        """Append `line` to the log, then put `state` and the archive in place.

        Raises:
            RecordError: one of the two could not be written; the steps before stay, and the same command resumes.
        """
        now = _clocks()
        took = {name: round(value - self._clocks[name], 3) for name, value in now.items()}
        self._clocks = now
        with writing(self.log), self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | took) + "\n")
        self._num_lines += 1
        kept = {name: value for name, value in state.method.items() if not isinstance(value, Tensor)}
        head = vars(state) | {
            "method": kept,
            "fingerprint": self.fingerprint,
            "settings": self._settings,
            "lines": self._num_lines,
        }
        candidates = list(self.archive.costs)
        tensors = {
            "ids": torch.tensor([token for ids in candidates for token in ids], dtype=torch.long),
            "lengths": torch.tensor([len(ids) for ids in candidates], dtype=torch.long),
            "costs": torch.tensor(list(self.archive.costs.values()), dtype=torch.float64),
            "exact": torch.tensor([ids not in self.archive.estimated for ids in candidates], dtype=torch.bool),
        }
        # Copies: what is written may be a view, or the same tensor under two names.
        tensors |= {
            METHOD + name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in state.method.items()
            if isinstance(value, Tensor)
        }
        # Not `save_file`, which leaves a temporary file of its own behind when it is killed.
        write_bytes(self._state, save(tensors, {"state": json.dumps(head)}))

    def _cut_log(self, num_lines: int) -> None:
        """Cut the log back to the steps that count."""
        lines = self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []
        if len(lines) < num_lines:
            raise RecordError(f"{self.log}: has {len(lines)} of {num_lines} lines; {REMEDY}")
        os.truncate(self.log, sum(map(len, lines[:num_lines])))
        self._num_lines = num_lines


def untimed(log: Path) -> list[dict[str, Any]]:
    """The lines of a log without the time that their steps took: what all runs of one search have in common."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    clocks = _clocks()
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines]


def _clocks() -> dict[str, float]:
    """Wall clock and CPU time of this process, in seconds."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}
