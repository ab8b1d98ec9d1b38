"""A term that no configuration knows takes part in a search like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

import optimize
from optimize.config import ContextsConfig, GcgConfig, SelectionConfig
from optimize.objectives import Length, TermGradient, Weighted
from safethink.config import LimitsConfig
from safethink.errors import RecordError
from safethink.prompts import Prompt
from tests.support import tiny_reasoner

HIDDEN = 16
ATTACKS = [Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(12)]


class TokenIds:
    """Dislikes large token ids."""

    name = "token_ids"
    meters = ()

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Float[Tensor, "candidates"]:
        return candidates.float().mean(1)

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        costs = torch.arange(len(tiny_reasoner.tokenizer())).float() / len(prefix)
        return TermGradient(torch.zeros(len(prefix), HIDDEN), costs.expand(len(prefix), -1))

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        return rows.new_zeros(())


def by_length(prompt: str, trace: str) -> float:
    """Fires on every other length of a trace."""
    return 1.0 - 2.0 * (len(trace) % 2)


def learn(out: Path, *terms: Weighted) -> list[dict[str, float]]:
    """What the incumbent costs after each step."""
    optimize.learn(
        tiny_reasoner.model(hidden_size=HIDDEN, layers=1),
        tiny_reasoner.tokenizer(),
        by_length,
        ATTACKS,
        terms=terms,
        out=out,
        contexts=ContextsConfig(max_contexts=3, best_of=3, target_tokens=4),
        search=GcgConfig(length=3, steps=6, candidates=12, top_k=8, init=None),
        selection=SelectionConfig(finalists=1, spread=0, contexts=3, samples=1, forced_prompts=0),
        limits=LimitsConfig(max_step_tokens=4, max_trace_tokens=12, max_answer_tokens=4),
    )
    lines = (out / "artifact" / "search.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["cost"] for line in lines]


@pytest.mark.slow
def test_a_heavy_term_of_ones_own_is_what_the_search_minimises(tmp_path: Path) -> None:
    without = learn(tmp_path / "without", Weighted(TokenIds(), 0.0))[-1]
    heavy = learn(tmp_path / "heavy", Weighted(TokenIds(), 10.0))[-1]
    assert heavy["token_ids"] < without["token_ids"]
    known = {name: value for name, value in heavy.items() if name not in ("total", "token_ids")}
    assert {"continuation", "nll"} <= set(known)
    own = heavy["total"] - 10.0 * heavy["token_ids"]
    assert own == pytest.approx(known["continuation"] + 0.002 * known["nll"], rel=1e-4, abs=1e-3)


@pytest.mark.slow
def test_a_killed_search_does_not_go_on_under_other_terms(tmp_path: Path) -> None:
    learn(tmp_path, Weighted(Length()))
    with pytest.raises(RecordError, match=r"another search: terms\.0\.1 is 1\.0 there and 2\.0 here"):
        learn(tmp_path, Weighted(Length(), 2.0))
