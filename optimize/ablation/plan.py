"""Cost estimate of an ablation, before it begins: `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optimize.ablation import measure
from optimize.ablation.config import AblationConfig, MeasureConfig
from optimize.ablation.grid import Cell, expand
from optimize.config import CollectConfig, SearchConfig
from optimize.pipeline.dry_run import plan as plan_search
from optimize.pipeline.dry_run import plan_contexts
from safethink.evaluation.plan import plan as plan_evaluation
from safethink.evaluation.speed import Speed, speed
from safethink.frozen import Frozen

TESTBED: Final = Speed(7_000.0, 20_000.0, "the testbed's speed on one CPU core, its guard included")
"""Of one worker, which has one thread."""


class AblationPlan(Frozen):
    """Compute, time and memory to decode and score; upper bounds, since contexts are found on the way."""

    cells: int
    """Cells of the grid."""
    cells_by_method: dict[str, int]
    """The same, by method."""
    tests: int
    """Winners that are reported on `test`."""
    decoded_tokens: int
    """Tokens to decode: about as many on the testbed, at most as many elsewhere."""
    scored_tokens: int
    """Tokens forwarded by the searches."""
    seconds: int | None
    """Rough time where workers do not slow each other; None where the speed is not known."""
    timed_by: str
    """Source of the speed that the time is estimated from."""
    memory_gib: float | None
    """Of all workers together, in the largest cell; None where a model is not on this machine."""


@dataclass(frozen=True, slots=True)
class _Share:
    """A part of the whole, in tokens."""

    decoded: int = 0
    scored: int = 0


def plan(config: AblationConfig, probe: bool = False) -> AblationPlan:
    """Count what an ablation decodes and scores. Reads prompt files.

    Args:
        config: the ablation.
        probe: whether reasoners of unknown speed are loaded and tried; the slowest counts for all.

    Raises:
        ConfigError: a key or a value of the grid does not fit.
    """
    cells = expand(config)
    winners = list({(cell.method, cell.place.label): cell for cell in cells}.values()) if config.test else []
    shares = [_searched(cell) for cell in cells] + _collected(cells)
    shares += _measured(cells, config.validation, "validation") if config.validation else []
    shares += _measured(winners, config.test, "test") if config.test else []
    decoded, scored = sum(share.decoded for share in shares), sum(share.scored for share in shares)
    paces = [speed(cell.config.run, probe, TESTBED) for cell in cells]
    slowest = min(paces, key=lambda pace: pace.decoded_per_s or 0.0)
    seconds = slowest.seconds(decoded, scored)
    return AblationPlan(
        cells=len(cells),
        cells_by_method={method: sum(cell.method == method for cell in cells) for method in config.methods},
        tests=len(winners),
        decoded_tokens=decoded,
        scored_tokens=scored,
        seconds=None if seconds is None else round(seconds / config.workers),
        timed_by=slowest.source,
        memory_gib=_memory_gib(cells, config.workers),
    )


def _memory_gib(cells: Sequence[Cell], workers: int) -> float | None:
    """As much as the largest cell takes, in every worker."""
    alike = [cell.config.replace(seed=0) for cell in cells]
    different = {config.model_dump_json(): config for config in alike}
    taken = [plan_search(each).memory_gib for each in different.values()]
    known = [each for each in taken if each is not None]
    return workers * max(known) if len(known) == len(taken) else None


def _searched(cell: Cell) -> _Share:
    """A cell's search and trials; its contexts are shared."""
    if not cell.needs_contexts:
        return _Share()
    contexts = cell.config.contexts.replace(path="shared")
    planned = plan_search(cell.config.replace(contexts=contexts))
    if cell.searches:
        return _Share(planned.decoded_tokens, planned.scored_tokens)
    trials = len(cell.variant.phrases) / (cell.config.selection.finalists + cell.config.selection.spread)
    return _Share(round(planned.decoded_tokens * trials))


def _collected(cells: Sequence[Cell]) -> list[_Share]:
    """The contexts that cells share."""
    wanted = {_contexts(cell.config).model_dump_json(): _contexts(cell.config) for cell in cells if _collects(cell)}
    planned = [plan_contexts(each) for each in wanted.values()]
    return [_Share(each.decoded_tokens) for each in planned]


def _collects(cell: Cell) -> bool:
    return cell.needs_contexts and cell.config.contexts.path is None


def _contexts(config: SearchConfig) -> CollectConfig:
    # What else the defense does plays no part in what it is watched for.
    defense = measure.reference(config, MeasureConfig(), "validation").rows[-1].defense
    return CollectConfig(
        run=config.run.replace(defense=defense, prefix="wait-think-safely"),
        world=config.world,
        prompts=config.prompts,
        prompt_sets=config.prompt_sets,
        contexts=config.contexts,
        forced_prompts=config.selection.forced_prompts,
    )


def _measured(cells: Sequence[Cell], sizes: MeasureConfig, split: measure.SplitName) -> list[_Share]:
    """The measurements, and what they share."""
    references = [measure.reference(cell.config, sizes, split) for cell in cells]
    trials = [measure.trial(cell.config, sizes, split, cell.config.run.prefix) for cell in cells]
    # Most are alike, and counting reads prompts.
    different = {each.model_dump_json(): each for each in [*references, *trials]}
    tokens = {key: plan_evaluation(each).tokens for key, each in different.items()}
    shared = [each.model_dump_json() for each in references]
    own = [tokens[each.model_dump_json()] - tokens[key] for each, key in zip(trials, shared, strict=True)]
    return [_Share(each) for each in [*(tokens[key] for key in set(shared)), *own]]
