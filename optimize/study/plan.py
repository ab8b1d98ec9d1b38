"""Upper bounds on the work of a study, before any weights are loaded: `study --dry-run`."""

from __future__ import annotations

import math

from optimize.pipeline.dry_run import SearchPlan, num_decoded, plan
from optimize.study.config import StudyConfig
from safethink.evaluation.plan import TESTBED_TOKENS_PER_S
from safethink.frozen import Frozen


class StudyPlan(Frozen):
    """Upper bounds on the work of a study: pruned trials stop early, and trials share contexts."""

    trials: int
    """Whole searches."""
    trial: SearchPlan
    """One of them, at the base's settings."""
    seconds: int | None
    """Rough time with the configured workers, two CPU cores for each; None where the speed is not known."""
    memory_gib: float | None
    """Of all workers together; None where a model is not on this machine."""


def plan_study(config: StudyConfig) -> StudyPlan:
    """Count what a study takes: its trials at the base's settings, and the prompts each is judged on."""
    one, kinds = plan(config.base), 3  # Attacks; tasks with and without a defense.
    judged = {"judging": kinds * config.prompts}
    seconds = None
    if one.seconds is not None:
        seconds = one.seconds + num_decoded(judged, config.base.run) / TESTBED_TOKENS_PER_S
        seconds *= math.ceil(config.trials / config.workers)
    memory_gib = None if one.memory_gib is None else config.workers * one.memory_gib
    rounded = None if seconds is None else round(seconds)
    return StudyPlan(trials=config.trials, trial=one, seconds=rounded, memory_gib=memory_gib)
