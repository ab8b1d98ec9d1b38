"""Contexts: the states in which a prefix may be injected, and what it should lead to."""

from __future__ import annotations

from optimize.contexts.collection import collect_search, collect_validation
from optimize.contexts.context import Context, ContextSet, spread

__all__ = ["Context", "ContextSet", "collect_search", "collect_validation", "spread"]
