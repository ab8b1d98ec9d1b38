"""Work and time that making a reasoner takes, told before any model loads."""

from __future__ import annotations

from optimize.reasoners.config import ReasonerTrainingConfig
from optimize.reasoners.corpus import Draft, drafts
from safethink.frozen import Frozen

DECODED_PER_S = 60
"""Tokens that a base of 135 M parameters continues in a second on one core, reading its prompts included."""
LEARNED_PER_S = 80
"""Tokens that it learns from in a second, with the update on its upper two thirds."""
TOKENS_PER_ROW = 95
"""Of a prompt with thinking and answer."""


class ReasonerPlan(Frozen):
    """Work ahead of a training."""

    rows: dict[str, int]
    """Rows by kind, at most: those that stop short are left out."""
    decoded_tokens: int
    """Tokens that the base continues, at most."""
    steps: int
    """Steps of the optimiser, at most."""
    minutes: float
    """Time on one core, for a base of 135 M parameters."""


def plan(config: ReasonerTrainingConfig) -> ReasonerPlan:
    """Count the work of a configuration; loads no model and reads no file."""
    wanted, own = config.corpus, drafts(config.corpus, config.seed)
    rows = {
        "word_problem": wanted.word_problems,
        "rationale": 0 if wanted.rationales is None else wanted.num_rationales,
        "instruction": sum(draft.kind == "instruction" for draft in own),
        "refusal": sum(draft.kind == "refusal" for draft in own),
    }
    decoded = sum(_decoded(draft, config) for draft in own)
    steps = -(-sum(rows.values()) // config.training.batch_size) * config.training.epochs
    steps = min(steps, config.training.stop_after or steps)
    learned = steps * config.training.batch_size * TOKENS_PER_ROW
    seconds = decoded / DECODED_PER_S + learned / LEARNED_PER_S
    return ReasonerPlan(rows=rows, decoded_tokens=decoded, steps=steps, minutes=round(seconds / 60, 1))


def _decoded(draft: Draft, config: ReasonerTrainingConfig) -> int:
    """Tokens that the base continues for one row."""
    answer = config.corpus.max_answer_tokens if draft.answer is None else 0
    return len(draft.openings) * config.corpus.max_plan_tokens + answer
