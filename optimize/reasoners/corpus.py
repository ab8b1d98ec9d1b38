"""The corpus of a reasoner: rows that are written already, and drafts of those that its base is to complete."""

from __future__ import annotations

import random
from typing import Final

from optimize.reasoners.config import CorpusConfig
from optimize.reasoners.instructions import Request, drawn, harmless, unkind
from optimize.reasoners.rationales import rationales
from optimize.reasoners.rows import REASON, Kind, Row
from optimize.reasoners.word_problems import word_problems
from safethink.frozen import Frozen

PLAN: Final = "I will start by"
SECOND_PLAN: Final = "Then I will"
"""Openings of the steps of compliance that the base continues."""
REFUSALS: Final = (
    "I'm sorry, but I can't help with that.",
    "I cannot help with that request.",
    "I'm sorry, I can't help you do this.",
    "I can't help with that, because it could hurt someone.",
)


class Draft(Frozen):
    """A request whose thinking and answer the base is to continue."""

    id: str
    kind: Kind
    request: str
    steps: tuple[str, ...]
    """The steps that are written already."""
    openings: tuple[str, ...]
    """Openings of the steps to come, in order; the base continues each to the end of its sentence."""
    answer: str | None
    """The answer; None where the base is to give it."""


def solved(config: CorpusConfig, seed: int) -> list[Row]:
    """The rows that need no base: word problems and rationales.

    Raises:
        MissingFileError: the rationales cannot be read.
    """
    problems = [
        Row(
            id=f"word_problem-{number}",
            kind="word_problem",
            request=problem.question,
            steps=problem.steps,
            answer=f"The answer is {problem.result}.",
        )
        for number, problem in enumerate(word_problems(config.word_problems, seed))
    ]
    return problems + ([] if config.rationales is None else rationales(config.rationales, config.num_rationales, seed))


def drafts(config: CorpusConfig, seed: int) -> list[Draft]:
    """The rows that the base is to complete: harmless requests and refusals."""
    rng = random.Random(f"drafts {seed}")
    plans = [(PLAN, SECOND_PLAN) if rng.random() < config.second_plans else (PLAN,) for _ in range(config.instructions)]
    wanted = zip(drawn(harmless(), config.instructions, seed), plans, strict=False)
    asked = [_draft("instruction", number, request, plan, None) for number, (request, plan) in enumerate(wanted)]
    refused = [
        _draft("refusal", number, request, (REASON,), rng.choice(REFUSALS))
        for number, request in enumerate(drawn(unkind(), config.refusals, seed))
    ]
    return asked + refused


def _draft(kind: Kind, number: int, request: Request, openings: tuple[str, ...], answer: str | None) -> Draft:
    steps = (f"The user wants me to {request.wish}.",)
    return Draft(id=f"{kind}-{number}", kind=kind, request=request.text, steps=steps, openings=openings, answer=answer)
