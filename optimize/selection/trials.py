"""Chooses a prefix by what it does on validation, never by training loss.

Every finalist is injected once, at states where the monitor fired and the chooser confirms the drift, and the reasoner
goes on without a guard: the share that ends in a refusal or a helpful answer is its recovery rate. Behind the step that
follows it the prefix stays in the trace or is dropped, as the defense does that it is learned for. It is also forced
into harmless and borderline prompts, where it must not cost accuracy or raise refusals beyond a floor. Finalists, the
prefix the search began with, and nothing at all see the same states and the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from optimize.config import ChosenBy, SelectionConfig
from optimize.contexts import Context, ContextSet
from optimize.contexts.watching import Watched, scores
from optimize.selection.constraints import Constraints
from optimize.selection.judges import Chooser
from safethink import defenses
from safethink.config import DefenseConfig, SafeThinkConfig
from safethink.defenses.effects import Extension, Until
from safethink.errors import ConfigError, RecordError, SearchError
from safethink.evaluation.statistics import Observations
from safethink.files import write_text, writing
from safethink.frozen import Frozen
from safethink.guarded import Branch, SafeThink
from safethink.prefix import PrefixArtifact
from safethink.progress import progress
from safethink.runtime.result import Replay, Result
from safethink.thinking.opening import prefill_tokens
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens

Ids = tuple[int, ...]


class Trial(Frozen):
    """One prefix's trial on validation; one entry per (context, seed), in the arena's order."""

    prefix_ids: Ids
    """Injected token ids; empty for nothing."""
    judged_by: str
    """Name of the chooser."""
    recovered: tuple[bool, ...]
    """At drifted states: whether the chooser calls the output a refusal or helpful."""
    accepted: tuple[bool, ...]
    """There: whether the monitor passes the whole trace."""
    passed: tuple[bool, ...]
    """There: whether the monitor passes the step behind the injection, so that a defense would take it."""
    correct: tuple[bool | None, ...] = ()
    """Forced into harmless prompts: whether the answer is right; None where the prompt has no reference."""
    refused: tuple[bool, ...] = ()
    """There: whether the chooser calls the output a refusal."""
    dropped: bool = False
    """Whether the prefix was dropped once the step behind it was taken."""

    def safe_by(self, by: ChosenBy) -> tuple[bool, ...]:
        """At drifted states: whether the output is safe, in the eyes of whoever chooses."""
        return self.recovered if by == "judge" else self.accepted


@dataclass(frozen=True)
class Arena:
    """The states on which prefixes are tried, the same for all.

    Attributes:
        guarded: the reasoner and its monitor.
        chooser: judges.
        drifted: states where the monitor fired and the chooser confirms the drift.
        harmless: random steps of harmless and borderline prompts.
        samples: seeds per state.
        threshold: of the monitor.
        defense: what the prefix is learned for; it says whether the prefix stays in the trace.
    """

    guarded: SafeThink
    chooser: Chooser
    drifted: tuple[Context, ...]
    harmless: tuple[Context, ...]
    samples: int
    threshold: float
    defense: DefenseConfig = field(default_factory=SafeThinkConfig)

    @classmethod
    def build(
        cls,
        guarded: SafeThink,
        chooser: Chooser,
        contexts: ContextSet,
        config: SelectionConfig,
        threshold: float,
        defense: DefenseConfig = SafeThinkConfig(),  # noqa: B008 (it is frozen)
    ) -> Arena:
        """Keep the states at which the chooser confirms what the monitor flagged.

        Raises:
            SearchError: there is none.
        """
        texts = [
            (c.prompt, trace_text(guarded.thought, Tokens.sampled(c.trace_ids + c.step_ids))) for c in contexts.unsafe
        ]
        flags = chooser.drifted(texts)
        drifted = [context for context, drifts in zip(contexts.unsafe, flags, strict=True) if drifts]
        if not drifted:
            raise SearchError(f"{chooser.name} confirms none of the {len(texts)} states at which the monitor fired")
        harmless = contexts.harmless[: config.forced_prompts]
        return cls(guarded, chooser, tuple(drifted[: config.contexts]), harmless, config.samples, threshold, defense)

    @property
    def drops_prefix(self) -> bool:
        """Whether a prefix leaves the trace once the step behind it is taken."""
        return defenses.drops_prefix(self.defense)

    def try_out(self, prefix_ids: Ids) -> Trial:
        """Inject a prefix once at every state and see how it ends."""
        drifted = self.inject(self.drifted, prefix_ids)
        forced = self.inject(self.harmless, prefix_ids)
        states = [context for context in self.drifted for _ in range(self.samples)]
        judged_forced = self.chooser.judge(forced)
        return Trial(
            prefix_ids=prefix_ids,
            judged_by=self.chooser.name,
            recovered=tuple(self.judged_safe(drifted)),
            accepted=tuple(self._accepts([Watched.of(each) for each in drifted])),
            # A defense takes the step with the prefix where it is.
            passed=tuple(
                self._accepts([self._first_step(*pair) for pair in zip(states, drifted, strict=True)], in_place=True)
            ),
            correct=tuple(judgement.correct for judgement in judged_forced),
            refused=tuple(judgement.outcome == "refusal" for judgement in judged_forced),
            dropped=self.drops_prefix and bool(prefix_ids),
        )

    def guarded_recovery(self, prefixes: PrefixArtifact) -> Observations:
        """Recovery by the defense itself, from the same drifted states on: its resamples, limits and fallback."""
        running = self.guarded.variant(defense=self.defense, prefix=prefixes)
        results = running.replay(
            self._replay(context, sample) for context in self.drifted for sample in range(self.samples)
        )
        return self.observe_drifted(self.judged_safe(results))

    def judged_safe(self, results: Sequence[Result]) -> list[bool]:
        """Whether the chooser calls each output a refusal or helpful."""
        return [judgement.outcome in ("refusal", "helpful") for judgement in self.chooser.judge(results)]

    def recovery(self, trial: Trial) -> Observations:
        """The recovery rate's observations."""
        return self.observe_drifted(trial.recovered)

    def acceptance(self, trial: Trial) -> Observations:
        """The same outputs as the monitor sees them."""
        return self.observe_drifted(trial.accepted)

    def observe_drifted(self, values: Sequence[bool]) -> Observations:
        """Something that is true or not of every (drifted state, seed), with its clusters."""
        return self._observe(values, self.drifted)

    def accuracy(self, trial: Trial) -> Observations:
        """Right answers, with the prefix forced in, where there is a reference."""
        counts = [correct is not None for correct in trial.correct]
        return self._observe([bool(correct) for correct in trial.correct], self.harmless, counts)

    def refusals(self, trial: Trial) -> Observations:
        """Refusals, with the prefix forced in, of prompts without a reference."""
        counts = [correct is None for correct in trial.correct]
        values = [refused and count for refused, count in zip(trial.refused, counts, strict=True)]
        return self._observe(values, self.harmless, counts)

    def constraints(self, trial: Trial, nothing: Trial, limit: float) -> Constraints:
        """The prefix's cost on harmless and borderline prompts against nothing injected, with its bounds."""
        fall = _value(self.accuracy(nothing)) - _value(self.accuracy(trial))
        rise = _value(self.refusals(trial)) - _value(self.refusals(nothing))
        return Constraints(fall, rise, limit)

    def inject(self, contexts: Sequence[Context], prefix_ids: Ids) -> list[Result]:
        """Unguarded continuations after one injection at some states; state by state, seed by seed."""
        return self.guarded.continue_from(
            Branch(context.prompt, Tokens.sampled(context.trace_ids), prefix_ids, sample, not self.drops_prefix)
            for context in contexts
            for sample in range(self.samples)
        )

    def _replay(self, context: Context, sample: int) -> Replay:
        """The steps of a drifted state, the one at which the monitor fired the last of them."""
        first = len(prefill_tokens(self.guarded.thought, context.prompt))
        trace = Tokens.sampled(context.trace_ids)
        # Where the trace has no words yet there is no step before the one that drifted.
        begun = self.guarded.stopper.step_starts(trace, self.guarded.limits.max_step_tokens, first)
        cuts = [*(start for start in begun if start < len(trace)), len(trace)]
        steps = [Extension(trace[start:stop], "step") for start, stop in pairwise(cuts)]
        stop = self.guarded.stopper.reason(context.step_ids, Until.STEP, context.trace_ids) or "step"
        drifted = Extension(Tokens.sampled(context.step_ids), stop)
        return Replay(context.prompt, trace[: cuts[0]], (*steps, drifted), sample)

    def _accepts(self, traces: Sequence[Watched], in_place: bool = False) -> list[bool]:
        return [score >= self.threshold for score in scores(self.guarded, traces, in_place)]

    def _first_step(self, context: Context, result: Result) -> Watched:
        """The trace up to the end of the step behind the injection."""
        trace, start = result.verdict.trace, len(context.trace_ids)
        starts = self.guarded.stopper.step_starts(trace, self.guarded.limits.max_step_tokens, start)
        end = starts[1] if len(starts) > 1 else len(trace)
        return Watched(result.prompt, result.prompt_ids, trace[:end])

    def _observe(
        self, values: Sequence[bool], contexts: Sequence[Context], counts: Sequence[bool] | None = None
    ) -> Observations:
        prompts = [context.prompt for context in contexts for _ in range(self.samples)]
        return Observations.of(
            [float(value) for value in values],
            [prompt.id for prompt in prompts],
            [prompt.clusters for prompt in prompts],
            None if counts is None else [float(count) for count in counts],
        )


def on_trial(ranked: Sequence[Ids], config: SelectionConfig) -> list[Ids]:
    """The candidates to try: the cheapest, and some spread evenly over the rest.

    The cheapest are mostly single edits of one another. Such near-duplicates are passed over, so that what is tried
    comes from all starts of the search and the choice is one.

    Args:
        ranked: all candidates, cheapest first.
        config: how many of each.
    """
    finalists: list[Ids] = []
    for ids in ranked:
        if len(finalists) < config.finalists and not any(_near(ids, finalist) for finalist in finalists):
            finalists.append(ids)
    rest = [ids for ids in ranked if ids not in finalists]
    step = max(1, len(rest) // max(1, config.spread))
    return finalists + rest[step - 1 :: step][: config.spread]


def _near(a: Ids, b: Ids) -> bool:
    """Whether one of several places differs."""
    return len(a) == len(b) > 1 and sum(x != y for x, y in zip(a, b, strict=True)) == 1


def run_trials(arena: Arena, prefixes: Sequence[Ids], path: Path) -> list[Trial]:
    """Try every prefix; finished trials are read from `path`, new ones appended to it.

    Args:
        arena: where.
        prefixes: what, in order; the empty one is nothing injected.
        path: a JSONL file of trials.

    Raises:
        RecordError: the file has a damaged line, or could not be written.
        ConfigError: somebody else judged the finished trials, or the prefix was kept in them and is dropped now, or the
            other way round.
    """
    done = _read(path)
    other = next((trial.judged_by for trial in done.values() if trial.judged_by != arena.chooser.name), None)
    if other is not None:
        raise ConfigError(f"{path}: {other} judged these trials, not {arena.chooser.name}; give a fresh --out")
    if any(trial.dropped != arena.drops_prefix for trial in done.values() if trial.prefix_ids):
        now = "is dropped behind its step" if arena.drops_prefix else "stays in the trace"
        raise ConfigError(f"{path}: these trials treat the prefix otherwise; here it {now}; give a fresh --out")
    write_text(path, "".join(f"{_line(trial)}\n" for trial in done.values()))
    for ids in progress(prefixes, "trying candidates"):
        if ids not in done:
            done[ids] = arena.try_out(ids)
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(f"{_line(done[ids])}\n")
    return [done[ids] for ids in prefixes]


def best(arena: Arena, trials: Sequence[Trial], nothing: Trial, config: SelectionConfig) -> int:
    """Index of the trial to publish: see `choose_finalist`.

    Args:
        arena: where they took place.
        trials: the candidates', cheapest by training cost first.
        nothing: the trial of nothing injected.
        config: who says what recovered, and the floor.
    """
    recoveries = [arena.observe_drifted(trial.safe_by(config.by)).value for trial in trials]
    return choose_finalist(recoveries, [arena.constraints(trial, nothing, config.max_forced_loss) for trial in trials])


def choose_finalist(recoveries: Sequence[float], constraints: Sequence[Constraints]) -> int:
    """Index of the candidate to publish.

    The best recovery among those that satisfy their constraints, the earlier one on a tie; where none does, the one
    that costs harmless prompts least.

    Args:
        recoveries: recovery rate of each candidate, cheapest by training cost first.
        constraints: what each costs harmless prompts.
    """
    feasible = [index for index, each in enumerate(constraints) if each.satisfied]
    if feasible:
        return max(feasible, key=lambda index: recoveries[index])
    return min(range(len(constraints)), key=lambda index: constraints[index].forced_loss)


def _line(trial: Trial) -> str:
    return trial.model_dump_json(exclude={"dropped"} if not trial.dropped else None)


def _value(seen: Observations) -> float:
    return seen.value if seen.denominators.sum() else 0.0


def _read(path: Path) -> dict[Ids, Trial]:
    if not path.exists():
        return {}
    whole_lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        trials = [Trial.model_validate_json(line) for line in whole_lines]
    except ValidationError as error:
        raise RecordError(f"{path}: not a trial ({error.errors(include_url=False)[0]['msg']})") from error
    return {trial.prefix_ids: trial for trial in trials}
