# pyright: standard
"""How readable a prefix is: how likely the reasoner itself finds it where it is injected."""

from __future__ import annotations

from typing import Final

import torch

from optimize.scoring import Example, Scorer
from safethink.evaluation.statistics import Estimate, Observations, mean
from safethink.evaluation.summary import Evidence
from safethink.guarded import SafeThink

MAX_PLACES: Final = 64
"""The most places at which it is measured."""


def readability(guarded: SafeThink, evidence: Evidence) -> Estimate | None:
    """Mean negative log-likelihood per token of the prefix on trial, in nats, where an evaluation injected it.

    Args:
        guarded: the reasoner.
        evidence: what the evaluation saw.

    Returns:
        The estimate; None where nothing is injected, or no token ids are.
    """
    portfolio, places = evidence.rows[-1].token_ids, evidence.contexts.places[:MAX_PLACES]
    if not portfolio or not portfolio[0] or not places:
        return None
    thought = guarded.thought
    # What would follow plays no part; the scorer wants something to.
    examples = [Example(thought.open_prompt(place.prompt) + place.start.ids, thought.close_ids) for place in places]
    nll = Scorer(guarded.model, examples).losses(torch.tensor([portfolio[0]])).nll[0]
    prompts = [place.prompt for place in places]
    seen = Observations.of(nll.tolist(), [each.id for each in prompts], [each.clusters for each in prompts])
    return mean(seen, evidence.config.run.seed)
