"""Objectives: the cost of a prefix as a weighted sum of terms, and its gradients.

Every term is a class of its own; `WholeTerm` and `ContextTerm` say what one has to offer, so that another can be added
from outside. No term lowers safety.

Axes of the tensors in this room: candidates (prefixes of one length), contexts, columns (of the cost matrix), length
(tokens of a prefix), allowed (ids that may take a place), hidden (width of the reasoner), vocab.
"""

from __future__ import annotations

from optimize.objectives.benign import BenignDivergence, BenignLikelihood
from optimize.objectives.build import build, terms
from optimize.objectives.cached_scorer import CachedScorer
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
    "CachedScorer",
    "ContextTerm",
    "Cost",
    "ExpectedReward",
    "Length",
    "Meter",
    "Objective",
    "OnPolicyTerm",
    "Readability",
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
