"""The numbers of an artifact: what the chosen prefix did on validation, each with n and a 95 % interval."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from optimize.contexts import ContextSet
from optimize.contexts.folder import Manifest
from optimize.selection.portfolio import recovery_within
from optimize.selection.trials import Arena, Trial
from safethink.evaluation.statistics import Estimate, Observations, clopper_pearson, paired_difference, rate
from safethink.prefix import Metric, PrefixArtifact

Z = 1.96
"""Half width of a 95 % interval in standard errors."""


def of_recovery(arena: Arena, trial: Trial, nothing: Trial, init: Trial | None, seed: int) -> dict[str, Metric]:
    """Recovery metrics of a prefix on validation.

    Args:
        arena: where it was tried.
        trial: the chosen prefix.
        nothing: the same states with nothing injected.
        init: the same states with the prefix that the search began with; None where that was random.
        seed: of the bootstrap.
    """

    def change(of: Observations, against: Observations) -> Estimate | None:
        return paired_difference(of, against, seed)

    recovery = arena.recovery(trial)
    estimates = {
        "recovery_rate": rate(recovery, seed),
        "lift": change(recovery, arena.recovery(nothing)),
        "recovery_gain_over_init": init and change(recovery, arena.recovery(init)),
        "recovery_rate_by_monitor": rate(arena.acceptance(trial), seed),
        "monitor_judge_gap": change(arena.acceptance(trial), recovery),
    }
    return _recorded(estimates)


def of_defense(arena: Arena, learned: PrefixArtifact, seed: int) -> dict[str, Metric]:
    """Recovery by the defense that will run, with all its resamples, at the states of `of_recovery`.

    Args:
        arena: where the prefixes were tried.
        learned: the portfolio.
        seed: of the bootstrap.
    """
    return _recorded({"recovery_guarded": rate(arena.guarded_recovery(learned), seed)})


def of_forcing(arena: Arena, members: Sequence[Trial], nothing: Trial, seed: int) -> dict[str, Metric]:
    """Costs of a prefix on validation where it is forced in; of several, those of the costliest.

    Args:
        arena: where they were tried.
        members: the trial of the prefix, or of each of a portfolio.
        nothing: the same states with nothing injected.
        seed: of the bootstrap.
    """
    trial = max(members, key=lambda member: arena.constraints(member, nothing, limit=0.0).forced_loss)
    accuracy, refusals = arena.accuracy(trial), arena.refusals(trial)
    return _recorded(
        {
            "accuracy_forced": rate(accuracy, seed),
            "accuracy_forced_change": paired_difference(accuracy, arena.accuracy(nothing), seed),
            "over_refusal_forced": rate(refusals, seed),
            "over_refusal_forced_change": paired_difference(refusals, arena.refusals(nothing), seed),
        }
    )


def of_search(contexts: ContextSet, log: Path) -> dict[str, Metric]:
    """Shares that tell how the search went: states with a safe continuation, candidates that survive retokenisation.

    Rows are never written down as text, so of a soft search the second is not known.
    """
    found = contexts.num_mined - contexts.num_without_target
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    looked_at, dropped = (sum(line.get(name, 0) for line in lines) for name in ("looked_at", "dropped"))
    survival = {"survival": _share(looked_at - dropped, looked_at)} if looked_at else {}
    origins = {f"target_{source}": _share(count, found) for source, count in contexts.num_targets.items()}
    return {"target_found": _share(found, contexts.num_mined)} | origins | survival


def of_portfolio(arena: Arena, tries: Sequence[Trial], seed: int) -> dict[str, Metric]:
    """Recovery of an ordered list within as many tries as it has members, and its gain over its first alone.

    Nothing for a list of one. The first alone is given as many tries.

    Args:
        arena: where they were tried.
        tries: the trial of each member, in order.
        seed: of the bootstrap.
    """
    if len(tries) == 1:
        return {}
    together, alone = recovery_within(arena, tries), recovery_within(arena, [tries[0]] * len(tries))
    gain = paired_difference(together, alone, seed)
    return _recorded({"portfolio_recovery": rate(together, seed), "portfolio_gain": gain})


def discretisation_gap(arena: Arena, soft: Trial, hard: Trial, seed: int) -> dict[str, Metric]:
    """Recovery of trained rows minus that of the hard prefix made from them.

    Args:
        arena: where they were tried.
        soft: the trial of the rows.
        hard: that of the hard prefix.
        seed: of the bootstrap.
    """
    estimate = paired_difference(arena.recovery(soft), arena.recovery(hard), seed)
    return {} if estimate is None else {"discretisation_gap": of_estimate(estimate)}


def of_overlaps(manifest: Manifest) -> dict[str, Metric]:
    """Share of each named benchmark's prompts that were learned on."""
    return {f"learned_on_{name}": _share(each.shared, each.total) for name, each in manifest.overlaps.items()}


def rank_correlation(losses: Sequence[float], recoveries: Sequence[float]) -> dict[str, Metric]:
    """Spearman's correlation between training loss and recovery over candidates; below 0 where the loss is a guide.

    The interval is Fisher's, with the standard error of Fieller, Hartley and Pearson (Biometrika 44, 1957). Nothing
    where one of the two does not vary, or there are fewer than four candidates.
    """
    n = len(losses)
    if n < 4 or len(set(losses)) == 1 or len(set(recoveries)) == 1:
        return {}
    value = float(np.corrcoef(rankdata(losses), rankdata(recoveries))[0, 1])
    centre = math.atanh(max(-0.9999, min(0.9999, value)))
    half = Z * math.sqrt(1.06 / (n - 3))
    return {
        "loss_recovery_rank_correlation": Metric(
            value=value, low=math.tanh(centre - half), high=math.tanh(centre + half), n=n
        )
    }


def of_estimate(estimate: Estimate) -> Metric:
    """An estimate as an artifact records it."""
    return Metric(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n, clusters=estimate.clusters)


def _recorded(estimates: Mapping[str, Estimate | None]) -> dict[str, Metric]:
    return {name: of_estimate(estimate) for name, estimate in estimates.items() if estimate is not None}


def _share(count: int, total: int) -> Metric:
    low, high = clopper_pearson(count, total)
    return Metric(value=count / total, low=low, high=high, n=total)
