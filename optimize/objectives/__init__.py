"""Objectives: what a prefix is worth, as a weighted sum of terms.

Every term is a class of its own; `WholeTerm` and `ContextTerm` say what one has to offer, so that another can be added
from outside. No term lowers safety.
"""

from __future__ import annotations

from optimize.objectives.benign import BenignDivergence, BenignLikelihood
from optimize.objectives.build import build, terms
from optimize.objectives.cached_scorer import Reading
from optimize.objectives.continuation import SafeContinuation, Unlikelihood
from optimize.objectives.objective import Objective
from optimize.objectives.protocols import (
    ContextTerm,
    Cost,
    Meter,
    OnPolicyTerm,
    Term,
    TermGradient,
    Weighted,
    WholeTerm,
    through_rows,
)
from optimize.objectives.readability import Length, Readability
from optimize.objectives.reward import ExpectedReward

__all__ = [
    "BenignDivergence",
    "BenignLikelihood",
    "ContextTerm",
    "Cost",
    "ExpectedReward",
    "Length",
    "Meter",
    "Objective",
    "OnPolicyTerm",
    "Readability",
    "Reading",
    "SafeContinuation",
    "Term",
    "TermGradient",
    "Unlikelihood",
    "Weighted",
    "WholeTerm",
    "build",
    "terms",
    "through_rows",
]
