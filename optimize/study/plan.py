"""Upper bounds on the work of a study, before it begins: `study --dry-run`."""

from __future__ import annotations

import math

from optimize.pipeline.dry_run import SearchPlan, num_decoded, plan
from optimize.study.config import StudyConfig
from safethink.evaluation.speed import speed
from safethink.frozen import Frozen


class StudyPlan(Frozen):
    """Upper bounds on the work of a study: pruned trials stop early, and trials share contexts."""

    trials: int
    """Whole searches."""
    trial: SearchPlan
    """One of them, at the base's settings."""
    seconds: int | None
    """Rough time where the configured workers do not slow each other; None where the speed is not known."""
    timed_by: str
    """Source of the speed that the time is estimated from."""
    memory_gib: float | None
    """Of all workers together; None where a model is not on this machine."""


def plan_study(config: StudyConfig, probe: bool = False) -> StudyPlan:
    """Count what a study takes: its trials at the base's settings, and the prompts each is judged on.

    Args:
        config: the study.
        probe: whether a reasoner of unknown speed is loaded and tried.
    """
    one, kinds = plan(config.base, probe), 3  # Attacks; tasks with and without a defense.
    judged = {"judging": kinds * config.prompts}
    judging_s = speed(config.base.run, probe).seconds(num_decoded(judged, config.base.run))
    seconds = None
    if one.seconds is not None and judging_s is not None:
        seconds = (one.seconds + judging_s) * math.ceil(config.trials / config.workers)
    memory_gib = None if one.memory_gib is None else config.workers * one.memory_gib
    return StudyPlan(trials=config.trials, trial=one, seconds=seconds, timed_by=one.timed_by, memory_gib=memory_gib)
