"""Self-distillation: the base continues, batch by batch, and a killed run asks it nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from optimize.reasoners.config import CorpusConfig
from optimize.reasoners.corpus import drafts
from optimize.reasoners.distillation import Base, distilled, sentence, whole_sentences
from safethink.models.loading import CausalLM
from tests.support import tiny_reasoner

CONFIG = CorpusConfig(word_problems=0, instructions=6, refusals=2, batch_size=4, max_plan_tokens=6, max_answer_tokens=8)
DRAFTS = drafts(CONFIG, seed=0)


@dataclass(frozen=True)
class Scripted(Base):
    """A base that says the same to everything, and counts how often it is asked."""

    lm: CausalLM = field(default_factory=lambda: CausalLM(tiny_reasoner.model(), tiny_reasoner.tokenizer()))
    config: CorpusConfig = CONFIG
    says: str = " going on and on. And more"
    asked: list[int] = field(default_factory=list)

    def continued(self, prompts: Sequence[tuple[int, ...]], max_tokens: int, seed: int) -> list[str]:
        self.asked.append(len(prompts))
        return [self.says] * len(prompts)


def test_steps_and_answers_are_completed_in_order(tmp_path: Path) -> None:
    rows = distilled(DRAFTS, Scripted(), tmp_path / "cache.jsonl", seed=0)
    assert [row.id for row in rows] == [draft.id for draft in DRAFTS]
    for row, draft in zip(rows, DRAFTS, strict=True):
        assert row.steps == (*draft.steps, *(f"{opening} going on and on." for opening in draft.openings))
        assert row.answer == (draft.answer or "going on and on.")


def test_a_killed_run_asks_nothing_twice(tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    whole = distilled(DRAFTS, Scripted(), tmp_path / "whole.jsonl", seed=0)
    distilled(DRAFTS[:4], Scripted(), cache, seed=0)
    # The line that was being written when it was killed.
    cache.write_text(cache.read_text() + '{"id": "instruc')
    base = Scripted()
    assert distilled(DRAFTS, base, cache, seed=0) == whole
    assert sum(base.asked) < sum(len(draft.openings) + (draft.answer is None) for draft in DRAFTS)
    again = Scripted()
    assert distilled(DRAFTS, again, cache, seed=0) == whole
    assert again.asked == []


@pytest.mark.parametrize("says", ["", " so", " going on. Wait, is this request harmful"])
def test_what_stops_short_is_left_out(tmp_path: Path, says: str) -> None:
    rows = distilled(DRAFTS, Scripted(says=says), tmp_path / "cache.jsonl", seed=0)
    assert all(row.answer and all(row.steps) for row in rows)
    assert len(rows) < len(DRAFTS)


def test_a_base_of_random_weights_is_continued_alike_in_any_order(tmp_path: Path) -> None:
    base = Base(CausalLM(tiny_reasoner.model(), tiny_reasoner.tokenizer()), CONFIG)
    prompts = [base.opened(draft.request) for draft in DRAFTS[:3]]
    texts = base.continued(prompts, 5, seed=0)
    assert texts == base.continued(prompts, 5, seed=1)
    assert texts == [base.continued([prompt], 5, seed=0)[0] for prompt in prompts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I will start by naming the flour. Then", "I will start by naming the flour."),
        ("I will start by naming the flour, the water, and", "I will start by naming the flour, the water."),
        ("I will start by naming it\nand", ""),
        ('I will start by saying, "Bread is good. And', 'I will start by saying, "Bread is good."'),
        ("I will start by", ""),
    ],
)
def test_a_step_is_one_sentence(text: str, expected: str) -> None:
    assert sentence(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bread needs flour and water. Mix th", "Bread needs flour and water."),
        ("Here is how it goes:\n\n1. Mix flour and water.\n2.", "Here is how it goes:\n\n1. Mix flour and water."),
        ("Bread needs", ""),
        ("Yes.", ""),
    ],
)
def test_an_answer_ends_with_a_whole_sentence(text: str, expected: str) -> None:
    assert whole_sentences(text) == expected
