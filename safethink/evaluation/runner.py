"""Evaluates a guarded reasoner: every row on the same prompts with the same seeds, then the summary and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safethink import benchmarks, defenses, files, judges, prefix
from safethink.benchmarks import Benchmark
from safethink.config import EntryPointJudgeConfig, EvalConfig
from safethink.config.judges import judge_leaves
from safethink.config.mismatch import refuse_other
from safethink.evaluation import exact_asr, folder, holdout, injection_sites, jobs, numerics, records, variants
from safethink.evaluation import judges as side_by_side
from safethink.evaluation.injection_sites import Contexts
from safethink.evaluation.jobs import Job
from safethink.evaluation.metrics import Ledger
from safethink.evaluation.numerics import RunNumerics
from safethink.evaluation.panel import Panel, assemble, collect
from safethink.evaluation.records import Key, Record, RecordWriter
from safethink.evaluation.summary import Evidence, PrefixSummary, Summary, summarise
from safethink.evaluation.variants import TableRow
from safethink.evaluation.worker import Execution, GuardedReasoner, load_reasoner
from safethink.models import loading
from safethink.monitors import fingerprint_of
from safethink.thinking.format import Thought


def evaluate(
    config: EvalConfig, out: Path, reasoner: GuardedReasoner | None = None, show_texts: bool = False
) -> Summary:
    """Evaluate, or take up an evaluation where it was interrupted.

    Writes `config.yaml`, `models.json`, `numerics.json`, `records.jsonl`, `summary.json` and `report.html`. The same
    command run again does only what is missing, and ends with the same summary but for the seconds. With further rows
    or second judges it adds them to what is there.

    Args:
        config: what to run.
        out: folder of the run.
        reasoner: a guarded reasoner that is loaded already; None loads that of `config.run`.
        show_texts: whether the report shows a prompt and what became of it, where that is none of the testbed's.

    Returns:
        The summary.

    Raises:
        ConfigError: a configuration that cannot be run, or `out` belongs to another one, to other models or to other
            numerical settings.
        MissingFileError: a prefix, model or prompt file that is not there.
        ArtifactError: a prefix that does not fit.
        MonitorError: the monitor failed; no row is ever answered without its guard.
        RecordError: a record could not be written or read.
    """
    summary = summarise(gather(config, out, reasoner))
    files.write_text(out / folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
    _write_report(out, show_texts)
    return summary


def gather(
    config: EvalConfig, out: Path, reasoner: GuardedReasoner | None = None, shared: Path | None = None
) -> Evidence:
    """Do what `evaluate` does, short of the summary and the report.

    Args:
        config: what to run.
        out: folder of the run.
        reasoner: as of `evaluate`.
        shared: folder of a run over the same prompts with the same settings and seeds, whose rows stand in this table
            too: what it has recorded holds here as well, and is not generated again.

    Returns:
        All that the summary is computed from.

    Raises:
        SafeThinkError: as `evaluate`; or `shared` is a run over something else.
    """
    loaded = tuple(benchmarks.load(benchmark, config.world) for benchmark in config.benchmarks)
    _refuse_missing_plugins(config)
    side_by_side.refuse_unusable(config)
    world = exact_asr.make_world(config)
    artifact = prefix.load(config.prefix)
    config = _complete(folder.on_the_day_of(out, config), reasoner)
    folder.claim(out, config)
    reasoner = reasoner or load_reasoner(config)
    # First, because weights in another precision are others as well.
    made_with = numerics.claim(out, RunNumerics.of(reasoner, config.run.batch_size), folder.has_begun(out))
    folder.claim_models(out, reasoner.models)
    on_trial = prefix.bind(artifact, reasoner.thought.tokenizer, reasoner.engine)
    table = variants.load(config, on_trial, reasoner.thought.tokenizer, reasoner.engine)
    known = {} if shared is None else _known(shared, config, table, reasoner)
    weights = fingerprint_of(reasoner.monitor)
    panel = assemble(config, out, weights)
    test_evaluations = holdout.count_evaluation(config, on_trial)
    done, contexts = run(config, table, loaded, reasoner, panel, out, known)
    ledger = Ledger(loaded, done)
    opinions = collect(panel.second, loaded, done, out)
    return Evidence(
        config=config,
        rows=table,
        ledger=ledger,
        judges=side_by_side.summarise(config, panel, opinions, ledger, table, weights),
        contexts=contexts,
        forecast=None if world is None else _forecast(config, world, loaded, done, table, reasoner.thought),
        prefix=PrefixSummary(
            path=config.prefix,
            texts=on_trial.texts,
            transferred=on_trial.transferred,
            test_evaluations=test_evaluations,
            learned_sha256=artifact.learned_hash(),
        ),
        numerics=made_with,
        learned_on=artifact.learned_on,
    )


def _refuse_missing_plugins(config: EvalConfig) -> None:
    """Load the defenses of other packages and look up their judges, before any model is loaded.

    Raises:
        ConfigError: one is not there, or no defense.
    """
    for row in config.rows:
        defenses.build(row.defense)
    for judge in config.judges:
        for leaf in judge_leaves(judge):
            if isinstance(leaf, EntryPointJudgeConfig):
                judges.PLUGINS.find(leaf.name)


def _complete(config: EvalConfig, reasoner: GuardedReasoner | None) -> EvalConfig:
    """The configuration with nothing left to the reasoner's family; it is asked for before the weights are loaded."""
    run = loading.complete(config.run) if reasoner is None else reasoner.thought.complete(config.run)
    return config.replace(run=run)


def run(
    config: EvalConfig,
    table: tuple[TableRow, ...],
    loaded: tuple[Benchmark, ...],
    reasoner: GuardedReasoner,
    panel: Panel,
    out: Path,
    known: Mapping[Key, Record] = MappingProxyType({}),
) -> tuple[dict[Key, Record], Contexts]:
    """Generate and judge whatever `out` has no record of.

    Args:
        config: the evaluation.
        table: its rows.
        loaded: its benchmarks.
        reasoner: what generates and watches.
        panel: its judges.
        out: folder of the run, where records are read and appended.
        known: records of another run that hold here too.

    Returns:
        All records by key, and the contexts behind the recovery rate.
    """
    done = {**known, **_recorded(out / folder.RECORDS, table)}
    folder.grow(out, config)
    with RecordWriter(out / folder.RECORDS) as writer:
        execution = Execution(config, reasoner, panel.first, writer, done)
        fires_below, cut = jobs.fires_below(config), config.run.limits.max_step_tokens
        execution.run([*jobs.watch(fires_below, jobs.watched_benchmarks(loaded))], "monitor watching")
        execution.run(_openly(config, table, loaded), "guarded runs")
        contexts = injection_sites.find_contexts(loaded, done, reasoner.thought, panel.all, fires_below, cut)
        forced = injection_sites.random_steps(
            loaded, done, reasoner.thought, config.run.seed, config.forced_samples, cut
        )
        branches = [
            *jobs.injections("recovery", table, contexts.places, config.recovery_samples, config.recovery_both_ways),
            *jobs.guarded_recovery(table, contexts.places, config.recovery_samples if config.recovery_guarded else 0),
            *jobs.injections("forced", table, forced, samples=1),
        ]
        execution.run(branches, "injections")
    return _at_contexts(done, contexts), contexts


def _at_contexts(done: Mapping[Key, Record], contexts: Contexts) -> dict[Key, Record]:
    """The records without injections at what is no context any more, because a judge that was added contradicts it."""
    places = {(place.benchmark, place.prompt.id) for place in contexts.places}
    return {
        key: record
        for key, record in done.items()
        if not key.phase.startswith("recovery") or (key.benchmark, key.prompt) in places
    }


def _openly(config: EvalConfig, table: tuple[TableRow, ...], loaded: tuple[Benchmark, ...]) -> list[Job]:
    """Every defense from a fresh prompt."""
    trial = jobs.trial_row(table)
    return [
        *jobs.guarded(table, loaded, config.samples),
        *(jobs.depth(config, trial, loaded) if trial else ()),
    ]


def _recorded(path: Path, table: tuple[TableRow, ...]) -> dict[Key, Record]:
    """Keys already recorded.

    Raises:
        ConfigError: a prefix has changed since; its row is named, and the hash of both.
    """
    now = {row.name: row.fingerprint for row in table}
    done: dict[Key, Record] = {}
    for record in records.read(path):
        if record.row in now:
            begun, here = ({"rows": {record.row: {"prefix": each}}} for each in (record.injected, now[record.row]))
            refuse_other(path, begun, here)
        done[record.key] = record
    return done


def _known(
    shared: Path, config: EvalConfig, table: tuple[TableRow, ...], reasoner: GuardedReasoner
) -> dict[Key, Record]:
    """The records of another run, where it is over the same things.

    Raises:
        ConfigError: it is not; what differs is named.
    """
    theirs = folder.read_config(shared)
    refuse_other(shared, theirs.replace(rows=config.rows, prefix=config.prefix), config)
    begun = {row.name: row for row in theirs.rows}
    refuse_other(shared, {"rows": begun}, {"rows": {row.name: row for row in config.rows if row.name in begun}})
    folder.claim_plugins(shared, theirs)
    numerics.claim(shared, RunNumerics.of(reasoner, config.run.batch_size), folder.has_begun(shared))
    folder.claim_models(shared, reasoner.models)
    return _recorded(shared / folder.RECORDS, table)


def _forecast(
    config: EvalConfig,
    world: exact_asr.World,
    loaded: tuple[Benchmark, ...],
    done: dict[Key, Record],
    table: tuple[TableRow, ...],
    thought: Thought,
) -> exact_asr.Forecast:
    traces = injection_sites.watched(jobs.attack_benchmarks(loaded), done, thought, config.run.limits.max_step_tokens)
    return exact_asr.Forecast(world, exact_asr.monitor_rates(traces, jobs.fires_below(config), thought))


def _write_report(out: Path, show_texts: bool) -> None:
    from safethink.evaluation import report

    report.write(out, show_texts)
