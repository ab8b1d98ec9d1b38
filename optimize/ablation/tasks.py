"""Tasks of an ablation's processes; every task finds what an earlier start has finished, and goes on from there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from optimize.ablation import measure
from optimize.ablation.config import LENGTH, MeasureConfig
from optimize.ablation.grid import Cell, settings_hash
from optimize.ablation.measure import readability
from optimize.ablation.outcome import (
    CELL,
    CELLS,
    CONTEXTS,
    LOG,
    REFERENCES,
    TEST,
    Choice,
    Result,
    reference_folder,
    settings_on_test,
    spent_tokens,
)
from optimize.config import SearchConfig
from optimize.contexts.folder import load as load_contexts
from optimize.contexts.folder import shared
from optimize.pipeline import learning
from optimize.pipeline.setup import Models, Setup
from optimize.publishing.holdout_metrics import report_run
from optimize.search import journal
from optimize.selection.trials import best, run_trials
from safethink import prefix as prefixes
from safethink.config import EvalConfig, yaml_config
from safethink.errors import SafeThinkError
from safethink.evaluation import folder, runner
from safethink.evaluation.jobs import trial_row
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import Evidence, predicted, summarise
from safethink.files import write_text
from safethink.prefix import LITERAL


@dataclass(frozen=True, slots=True)
class _Measured:
    """Numbers of a cell's prefix on validation.

    Attributes:
        texts: what is injected.
        metrics: estimates, by column.
        choice: what they rest on, where the choice of the prefix is all that was measured.
    """

    texts: tuple[str, ...]
    metrics: dict[str, Estimate]
    choice: Choice | None = None


@dataclass(frozen=True, slots=True)
class CollectContexts:
    """Collects what several cells learn on.

    Attributes:
        name: of the task.
        config: of one of the cells.
        out: folder of the ablation.
    """

    name: str
    config: SearchConfig
    out: Path
    after: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """File of its progress messages."""
        return self.out / CONTEXTS / LOG

    def run(self, models: Models) -> None:
        """Collect them."""
        contexts_of(models.setup(self.config), self.config, self.out)


@dataclass(frozen=True, slots=True)
class MeasureReference:
    """Measures what needs no prefix.

    Attributes:
        name: of the task.
        config: of one of the cells that share it.
        reference: the evaluation.
        out: folder of the ablation.
    """

    name: str
    config: SearchConfig
    reference: EvalConfig
    out: Path
    after: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """File of its progress messages."""
        return self.out / REFERENCES / LOG

    def run(self, models: Models) -> None:
        """Measure it."""
        reasoner = models.setup(self.config).guarded
        runner.gather(self.reference, reference_folder(self.out, self.reference), reasoner)


@dataclass(frozen=True, slots=True)
class RunCell:
    """Comes by a cell's prefix, and measures it on validation.

    Attributes:
        cell: which.
        out: folder of the ablation.
        after: contexts, reference and the cell it starts from.
    """

    cell: Cell
    out: Path
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell's."""
        return self.cell.name

    @property
    def log(self) -> Path:
        """File of its progress messages."""
        return self.out / CELLS / self.cell.name / LOG

    def run(self, models: Models) -> None:
        """Learn, choose or take the prefix; measure; write `cell.json`."""
        started_s, home = time.monotonic(), self.log.parent
        home.mkdir(parents=True, exist_ok=True)
        setup = models.setup(self.cell.config)
        prefix, learned = _come_by(self.cell, setup, self.out)
        measured = self._measured(setup, prefix)
        result = Result(
            fingerprint=self.cell.fingerprint,
            settings=self.cell.settings,
            prefix=prefix,
            texts=measured.texts,
            metrics=measured.metrics,
            learned=learned,
            choice=measured.choice,
            tokens=spent_tokens(home / journal.LOG) if self.cell.searches else 0,
            seconds=time.monotonic() - started_s,
        )
        write_text(home / CELL, result.model_dump_json(indent=2) + "\n")

    def _measured(self, setup: Setup, prefix: str) -> _Measured:
        """The prefix on validation: by an evaluation, or as its choice saw it."""
        cell, home = self.cell, self.log.parent
        located = _located(prefix, home)
        if cell.measure is None:
            return _as_chosen(cell, setup, contexts_of(setup, cell.config, self.out), located, home)
        config = measure.trial(cell.config, cell.measure, "validation", located)
        reference = measure.reference(cell.config, cell.measure, "validation")
        evidence = runner.gather(config, home / "validation", setup.guarded, reference_folder(self.out, reference))
        return _Measured(evidence.rows[-1].texts, _metrics(evidence))


@dataclass(frozen=True, slots=True)
class ReportOnTest:
    """Reports a cell's prefix on `test`, and writes what it showed into the artifact, where there is one.

    Attributes:
        cell: which.
        sizes: how many prompts.
        prefix: what the cell came by.
        out: folder of the ablation.
        after: the reference.
    """

    cell: Cell
    sizes: MeasureConfig
    prefix: str
    out: Path
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell's, marked."""
        return f"{self.cell.name} on test"

    @property
    def log(self) -> Path:
        """File of its progress messages."""
        return self.out / CELLS / self.cell.name / LOG

    def run(self, models: Models) -> None:
        """Measure; write `test.json`."""
        started_s, home = time.monotonic(), self.log.parent
        setup = models.setup(self.cell.config)
        config = measure.trial(self.cell.config, self.sizes, "test", _located(self.prefix, home))
        reference = measure.reference(self.cell.config, self.sizes, "test")
        evidence = runner.gather(config, home / "test", setup.guarded, reference_folder(self.out, reference))
        settings = settings_on_test(self.cell, self.sizes)
        is_soft = prefixes.load(config.prefix).kind == "soft"
        nll = None if is_soft else readability(setup.guarded, evidence)
        result = Result(
            fingerprint=settings_hash(settings),
            settings=settings,
            prefix=self.prefix,
            texts=evidence.rows[-1].texts,
            metrics=_metrics(evidence) | ({} if nll is None else {"nll": nll}),
            seconds=time.monotonic() - started_s,
        )
        if self.cell.searches and trial_row(evidence.rows) is not None:
            write_text(home / "test" / folder.SUMMARY, summarise(evidence).model_dump_json(indent=2) + "\n")
            report_run(home / self.prefix, home / "test")
        write_text(home / TEST, result.model_dump_json(indent=2) + "\n")


def contexts_of(setup: Setup, config: SearchConfig, out: Path) -> Path:
    """The folder of what a cell learns on: the one it names, or one for all cells, collected by the first."""
    if config.contexts.path is not None:
        return Path(config.contexts.path)
    return shared(out / CONTEXTS, setup.guarded, setup.data, config.contexts, setup.source)


def _come_by(cell: Cell, setup: Setup, out: Path) -> tuple[str, dict[str, Estimate]]:
    """The cell's prefix, and what the search measured of it."""
    home = out / CELLS / cell.name
    if not cell.variant.learn:
        write_text(home / learning.CONFIG, yaml_config.dump(cell.config))
        return cell.config.run.prefix, {}
    contexts = contexts_of(setup, cell.config, out)
    if not cell.searches:
        write_text(home / learning.CONFIG, yaml_config.dump(cell.config))
        return best_phrase(cell, setup, contexts, home / learning.TRIALS), {}
    changes = {"contexts.path": str(contexts)}
    if cell.shorter is not None:
        changes["search.init"] = str(out / CELLS / cell.shorter.name / learning.ARTIFACT)
    config = yaml_config.override(cell.config, changes, cell.name)
    artifact = learning.run(config, setup, home)
    learned = {
        name: Estimate(metric.value, metric.low, metric.high, metric.n, metric.clusters or metric.n)
        for name, metric in artifact.metrics.items()
    }
    return learning.ARTIFACT, learned


def _located(prefix: str, home: Path) -> str:
    """A cell's prefix as an evaluation takes it."""
    return str(home / prefix) if prefix == learning.ARTIFACT else prefix


def _metrics(evidence: Evidence) -> dict[str, Estimate]:
    """All numbers of the row on trial."""
    row, seed = evidence.rows[-1], evidence.config.run.seed
    observed = measure.observe(evidence.ledger, row.name, row.drops_prefix)
    estimates = {name: seen.estimate(seed) for name, seen in observed.items()}
    estimates[measure.PREDICTED] = predicted(row, estimates.get("asr_answer"), evidence)
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _as_chosen(cell: Cell, setup: Setup, contexts: Path, prefix: str, home: Path) -> _Measured:
    """The numbers of the choice of a prefix, from its finished trials."""
    chosen = prefixes.load(prefix)
    _, _, validation = load_contexts(contexts, setup.source, setup.data)
    arena = setup.arena(validation, cell.config.selection, cell.config.run.defense)
    nothing, trial = run_trials(arena, [(), setup.guarded.bind(chosen).token_ids[0]], home / learning.TRIALS)
    choice = measure.choice_of(arena, trial, nothing)
    estimates = {name: seen.estimate(cell.config.run.seed) for name, seen in measure.observe_choice(choice).items()}
    return _Measured(chosen.texts, {name: each for name, each in estimates.items() if each is not None}, choice)


def best_phrase(cell: Cell, setup: Setup, contexts: Path, trials: Path) -> str:
    """Of the cell's phrases that have its length, the best on validation.

    Args:
        cell: names the phrases.
        setup: models and chooser.
        contexts: folder of the states to try them on.
        trials: file of trials; those in it are not run again.

    Returns:
        The phrase, as a literal prefix.

    Raises:
        SafeThinkError: no phrase has as many tokens as the cell's length says.
    """
    guarded, config = setup.guarded, cell.config
    ids = {phrase: guarded.bind(LITERAL + phrase).token_ids[0] for phrase in cell.variant.phrases}
    length = config.search.length
    fitting = [phrase for phrase in cell.variant.phrases if len(ids[phrase]) == length]
    other = next((phrase for phrase in ids if phrase not in fitting), None)
    # Along lengths every cell has its own; elsewhere a phrase that is never tried is a mistake.
    if other is not None and LENGTH not in dict(cell.place.values):
        raise SafeThinkError(
            f"methods.{cell.method}.phrases: {other!r} has {len(ids[other])} tokens, search.length is {length}"
        )
    if not fitting:
        lengths = ", ".join(map(str, sorted({len(tokens) for tokens in ids.values()})))
        raise SafeThinkError(f"methods.{cell.method}.phrases: none has {length} tokens; they have {lengths}")
    _, _, validation = load_contexts(contexts, setup.source, setup.data)
    arena = setup.arena(validation, config.selection, config.run.defense)
    nothing, *tried = run_trials(arena, [(), *(ids[phrase] for phrase in fitting)], trials)
    return LITERAL + fitting[best(arena, tried, nothing, config.selection)]
