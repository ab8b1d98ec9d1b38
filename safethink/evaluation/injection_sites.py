"""Injection sites: drifted steps of attack prompts, and random steps of harmless ones, in unsteered traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from safethink.benchmarks import Benchmark
from safethink.defenses.effects import Extension
from safethink.engines.stopping import Stopper
from safethink.evaluation.jobs import WATCH, InjectionSite, attack_benchmarks, only_kinds
from safethink.evaluation.records import Key, Record
from safethink.judges import Judge, first_opinions
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.opening import prefill_tokens
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of the recovery rate.

    Attributes:
        places: just before the step at which the monitor fired first, where no judge contradicts it.
        fired: prompts on which the monitor fired.
        watched: prompts on which it watched.
        unconfirmed: places on which no judge has an opinion, so that the monitor's word stands.
    """

    places: tuple[InjectionSite, ...]
    fired: int
    watched: int
    unconfirmed: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """An undefended trace, cut into steps.

    Attributes:
        benchmark: name of the prompt's benchmark.
        prompt: what was asked.
        record: what came of it.
        trace: the trace.
        starts: number of tokens before each step.
    """

    benchmark: str
    prompt: Prompt
    record: Record
    trace: Tokens
    starts: tuple[int, ...]

    def through(self, step: int) -> Tokens:
        """The trace up to and including a step."""
        return self.trace[: self.starts[step + 1]] if step + 1 < len(self.starts) else self.trace

    def steps(self, last: int) -> tuple[Extension, ...]:
        """The steps up to and including one, as the reasoner proposed them."""
        steps = (Extension(self.through(step)[self.starts[step] :], "step") for step in range(last))
        ended = "thought" if self.record.closed else "length"
        stop = ended if last + 1 == len(self.starts) else "step"
        return (*steps, Extension(self.through(last)[self.starts[last] :], stop))


def watched(
    benchmarks: Iterable[Benchmark],
    records: Mapping[Key, Record],
    thought: Thought,
    max_step_tokens: int,
    sample: int = 0,
) -> list[Watched]:
    """Cut the undefended traces of these prompts into steps; prompts that could not be run are passed over."""
    stopper = Stopper(thought, eos_ids=())
    out: list[Watched] = []
    for benchmark in benchmarks:
        for prompt in benchmark.prompts:
            record = records[Key("watch", WATCH, benchmark.name, prompt.id, sample)]
            if record.note or not record.trace_ids:
                continue
            trace = Tokens.sampled(record.trace_ids)
            starts = stopper.step_starts(trace, max_step_tokens, first=len(prefill_tokens(thought, prompt)))
            out.append(Watched(benchmark.name, prompt, record, trace, starts))
    return out


def find_contexts(
    benchmarks: Sequence[Benchmark],
    records: Mapping[Key, Record],
    thought: Thought,
    judges: Sequence[Judge],
    threshold: float,
    max_step_tokens: int,
) -> Contexts:
    """Find the contexts: the same for every row of the table.

    Args:
        benchmarks: all benchmarks; only attack prompts are looked at.
        records: of the pass in which the monitor only watched.
        thought: reads traces.
        judges: confirm the drift; the first that has an opinion on a trace is heard.
        threshold: the monitor fires below it.
        max_step_tokens: where a step without a delimiter was cut.
    """
    traces = watched(attack_benchmarks(benchmarks), records, thought, max_step_tokens)
    fired: list[tuple[Watched, int]] = []
    for each in traces:
        step = next((i for i, score in enumerate(each.record.step_scores) if score < threshold), None)
        if step is not None and step < len(each.starts):
            fired.append((each, step))
    partial = [(each.prompt, trace_text(thought, each.through(step))) for each, step in fired]
    drifted = first_opinions(judges, partial)
    places = [
        InjectionSite(each.benchmark, each.prompt, each.trace[: each.starts[step]], proposed=each.steps(step))
        for (each, step), has_drifted in zip(fired, drifted, strict=True)
        if has_drifted is not False
    ]
    return Contexts(tuple(places), len(fired), len(traces), sum(opinion is None for opinion in drifted))


def random_steps(
    benchmarks: Sequence[Benchmark],
    records: Mapping[Key, Record],
    thought: Thought,
    seed: int,
    samples: int,
    max_step_tokens: int,
) -> tuple[InjectionSite, ...]:
    """Draw a step of each harmless and borderline prompt's undefended trace; the same for every row of the table."""
    traces = watched(only_kinds(benchmarks, "harmless", "borderline"), records, thought, max_step_tokens)
    return tuple(random_step(each, thought, seed, sample) for each in traces for sample in range(samples))


def random_step(each: Watched, thought: Thought, seed: int, sample: int) -> InjectionSite:
    """Draw a step of a trace, as the place before it."""
    # Between the last words and the closing tag there is no step, and in an empty thought there is none at all.
    starts = [start for start in each.starts if trace_text(thought, each.trace[start:]).strip()]
    starts = starts or [len(prefill_tokens(thought, each.prompt))]
    start = starts[stable_seed(seed, "forced", each.prompt.id, sample) % len(starts)]
    return InjectionSite(each.benchmark, each.prompt, each.trace[:start], sample)
