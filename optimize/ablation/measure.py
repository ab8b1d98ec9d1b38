# pyright: standard
"""Measurement of a cell: by the evaluation that everybody else uses, on the same prompts with the same seeds.

The reference that needs no prefix, the undefended traces and what follows from them with nothing injected, is the same
for many cells. It is generated once, as a run of its own, and its records are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, TypeAlias

import numpy as np
import torch

from optimize.ablation.config import MeasureConfig
from optimize.ablation.outcome import Choice, Observed
from optimize.config import PromptSetsConfig, SearchConfig
from optimize.scoring import Example, Scorer
from optimize.selection.trials import Arena, Trial
from safethink import defenses
from safethink.config import (
    BenchmarkConfig,
    EvalConfig,
    GuardRefuseConfig,
    JsonlBenchmarkConfig,
    NoneConfig,
    RefusalJudgeConfig,
    RowConfig,
    SafeThinkConfig,
    TestbedBenchmarkConfig,
    TestbedJudgeConfig,
)
from safethink.errors import ConfigError
from safethink.evaluation import metrics
from safethink.evaluation.jobs import NOTHING
from safethink.evaluation.metrics import COLUMNS, Ledger
from safethink.evaluation.statistics import Estimate, Observations, mean, paired_difference, rate
from safethink.evaluation.summary import Evidence
from safethink.guarded import SafeThink
from safethink.thinking.opening import open_prompt

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
    examples = [Example(open_prompt(thought, place.prompt) + place.start.ids, thought.close_ids) for place in places]
    nll = Scorer(guarded.model, examples).losses(torch.tensor([portfolio[0]])).nll[0]
    prompts = [place.prompt for place in places]
    seen = Observations.of(nll.tolist(), [each.id for each in prompts], [each.clusters for each in prompts])
    return mean(seen, evidence.config.run.seed)


SplitName: TypeAlias = Literal["validation", "test"]

UNDEFENDED: Final = "undefended"
GUARD_REFUSE: Final = "guard_refuse"
ON_TRIAL: Final = "on_trial"
"""Rows of every table."""
CHANGES: Final = {
    "lift": ("recovery_rate", NOTHING),
    "accuracy_forced_change": ("accuracy_forced", NOTHING),
    "over_refusal_forced_change": ("over_refusal_forced", NOTHING),
    "asr_change": ("asr_answer", UNDEFENDED),
    "accuracy_change": ("accuracy", UNDEFENDED),
    "over_refusal_change": ("over_refusal", UNDEFENDED),
}
"""Paired differences: of which column, to which records."""
PREDICTED: Final = "asr_predicted"


def reference(config: SearchConfig, measure: MeasureConfig, split: SplitName) -> EvalConfig:
    """The evaluation of what needs no prefix; cells with the same one share its records."""
    # Neither plays a part in an evaluation, whose rows bring their own.
    run = config.run.replace(defense=SafeThinkConfig(), prefix="wait-think-safely")
    return EvalConfig(
        run=run,
        prefix=run.prefix,
        benchmarks=_benchmarks(config, measure, split),
        rows=(
            RowConfig(name=UNDEFENDED, defense=NoneConfig()),
            # It also says where the monitor fires.
            RowConfig(name=GUARD_REFUSE, defense=GuardRefuseConfig(threshold=threshold_of(config))),
        ),
        world=config.world,
        samples=measure.samples,
        recovery_samples=measure.recovery_samples,
        forced_samples=measure.forced_samples,
        depth_curve=(),
        judge=TestbedJudgeConfig() if config.on_testbed else RefusalJudgeConfig(),
    )


def threshold_of(config: SearchConfig) -> float:
    """Score below which the monitor fires; the usual one where the defense has none."""
    own = defenses.build(config.run.defense).needs.threshold
    return SafeThinkConfig().threshold if own is None else own


def trial(config: SearchConfig, measure: MeasureConfig, split: SplitName, prefix: str) -> EvalConfig:
    """The evaluation of a prefix under the cell's defense.

    Args:
        config: of the cell.
        measure: how many prompts.
        split: which prompts.
        prefix: built-in name, artifact folder, or `text:` and a literal.
    """
    shared = reference(config, measure, split)
    rows = (*shared.rows, RowConfig(name=ON_TRIAL, defense=config.run.defense))
    return shared.replace(prefix=prefix, rows=rows)


@dataclass(frozen=True, slots=True)
class Seen:
    """Observations of a quantity in one or several cells.

    Attributes:
        own: with the prefix.
        against: what it is compared with, pair by pair; None for a quantity by itself.
        is_rate: whether it is a share, with an exact interval at 0 and 1.
    """

    own: Observations
    against: Observations | None = None
    is_rate: bool = True

    def estimate(self, seed: int) -> Estimate | None:
        """The number, with its interval."""
        if self.against is not None:
            return paired_difference(self.own, self.against, seed)
        return (rate if self.is_rate else mean)(self.own, seed)


def observe(ledger: Ledger, name: str, drops_prefix: bool = False) -> dict[str, Seen]:
    """Observations in the records called `name`, by column; columns without records are left out.

    Args:
        ledger: the records.
        name: of a row.
        drops_prefix: whether its defense does, see `defenses.drops_prefix`.
    """
    columns = [column for column in COLUMNS if column.dropped is None]
    seen = {column.name: ledger.observations(column, name, drops_prefix) for column in columns}
    plain = {
        column.name: Seen(own, is_rate=column.is_rate)
        for column in columns
        if (own := seen[column.name]) is not None and own.denominators.sum()
    }
    against = {
        change: ledger.observations(metrics.named(column), other)
        for change, (column, other) in CHANGES.items()
        if column in plain and name != other
    }
    paired = {
        change: Seen(plain[CHANGES[change][0]].own, other) for change, other in against.items() if other is not None
    }
    return plain | paired


def observe_choice(choice: Choice) -> dict[str, Seen]:
    """Observations of the choice of a prefix, by column, with its changes against nothing injected."""
    own = {name: each.observations for name, each in choice.own.items()}
    plain = {name: Seen(each) for name, each in own.items() if each.denominators.sum()}
    paired = {
        change: Seen(own[column], choice.nothing[column].observations)
        for change, (column, other) in CHANGES.items()
        if column in plain and column in choice.nothing and other == NOTHING
    }
    return plain | paired


def choice_of(arena: Arena, chosen: Trial, nothing: Trial) -> Choice:
    """Observations that the choice of a prefix rests on, and those of nothing injected.

    Args:
        arena: where they were tried.
        chosen: the prefix's trial.
        nothing: that of nothing injected.
    """

    def observed(trial: Trial) -> dict[str, Observed]:
        return {
            "recovery_rate": Observed.of(arena.recovery(trial)),
            "accuracy_forced": Observed.of(arena.accuracy(trial)),
            "over_refusal_forced": Observed.of(arena.refusals(trial)),
        }

    return Choice(own=observed(chosen), nothing=observed(nothing))


def pool(cells: Mapping[int, Seen]) -> Seen:
    """Observations of several seeds' cells, pooled: the seed is a factor that prompts are crossed with.

    Its interval covers other prompts and other seeds of the search alike, as far as so few seeds can tell.

    Args:
        cells: by seed; all about the same prompts.
    """
    every = list(cells.values())
    if len(every) == 1:
        return every[0]
    others = [each.against for each in every if each.against is not None]
    return Seen(
        own=_crossed([each.own for each in every], list(cells)),
        against=_crossed(others, list(cells)) if others else None,
        is_rate=every[0].is_rate,
    )


def _crossed(seen: Sequence[Observations], seeds: Sequence[int]) -> Observations:
    """Observations behind one another, the seed being one more factor of each."""
    return Observations(
        np.concatenate([each.numerators for each in seen]),
        np.concatenate([each.denominators for each in seen]),
        tuple(chain.from_iterable(each.units for each in seen)),
        tuple(
            {**(clusters or {"prompt": unit}), "search_seed": str(seed)}
            for each, seed in zip(seen, seeds, strict=True)
            for unit, clusters in zip(each.units, each.clusters, strict=True)
        ),
    )


def _benchmarks(config: SearchConfig, measure: MeasureConfig, split: SplitName) -> tuple[BenchmarkConfig, ...]:
    if config.prompt_sets is not None:
        return _held_out(config.prompt_sets, split)
    if config.prompts is not None:
        return (JsonlBenchmarkConfig(path=config.prompts, prompts="jailbreak", split=split),)
    wanted = {"jailbreak": measure.jailbreak, "harmless": measure.harmless, "borderline": measure.borderline}
    some = [{"prompts": kind, "split": split, "n": n} for kind, n in wanted.items() if n]
    return tuple(TestbedBenchmarkConfig.model_validate(each) for each in some)


def _held_out(sets: PromptSetsConfig, split: SplitName) -> tuple[BenchmarkConfig, ...]:
    """The benchmarks that are held out of learning.

    Raises:
        ConfigError: there are none, or they are not what is to be measured on.
    """
    if split == "validation":
        raise ConfigError("prompt_sets: what is chosen on is no benchmark by itself; give `validation: null`")
    if not sets.held_out:
        raise ConfigError("prompt_sets.held_out: nothing is held out to test on; name a benchmark, or `test: null`")
    return sets.held_out
