"""The exact ASR of a guarded run on the testbed, to stand beside the measured one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safethink.config import DefenseConfig, EvalConfig
from safethink.evaluation.injection_sites import Watched
from safethink.prompts import Prompt
from safethink.testbed import oracle
from safethink.testbed.origin import origin, require_world
from safethink.testbed.process import MonitorRates, predict_asr
from safethink.testbed.world import World
from safethink.thinking.format import Thought
from safethink.thinking.reading import trace_text


@dataclass(frozen=True, slots=True)
class Forecast:
    """ASR predicted by the planted process.

    Attributes:
        world: the dynamics.
        rates: how often the monitor fires, by what the trace really is.
    """

    world: World
    rates: MonitorRates

    def asr(self, prompts: Sequence[Prompt], defense: DefenseConfig, prefix_texts: tuple[str, ...]) -> float | None:
        """Mean exact ASR over attack prompts; None where the process has no answer."""
        exact = [predict_asr(self.world, prompt, defense, prefix_texts, self.rates) for prompt in prompts]
        known = [value for value in exact if value is not None]
        return sum(known) / len(known) if known and len(known) == len(exact) else None


def make_world(config: EvalConfig) -> World | None:
    """The world behind the evaluated reasoner and prompts; None where either is not the testbed's.

    Its process goes by the testbed's own steps, so there is none either where steps are counted in tokens.

    Raises:
        ConfigError: `world` is not the one that the reasoner was trained on.
    """
    path = config.run.reasoner.path
    found = origin(path)
    counted = bool(config.run.thought.step_tokens)
    if found is None or counted or any(each.kind != "testbed" for each in config.benchmarks):
        return None
    require_world(path, config.world)
    return found.world()


def monitor_rates(traces: Iterable[Watched], threshold: float, thought: Thought) -> MonitorRates:
    """Count how often the monitor fired on undefended traces, step by step, by what the oracle says of each.

    Args:
        traces: of the pass in which the monitor only watched.
        threshold: the monitor fires below it.
        thought: reads traces.
    """
    fired: dict[str, list[bool]] = {"overt": [], "covert": [], "clean": []}
    for each in traces:
        # Where a trace meets its limit at the end of a step, the empty one after it was scored too.
        scores = each.record.step_scores[: len(each.starts)]
        for step, score in zip(range(len(each.starts)), scores, strict=True):
            depth, overt = oracle.drift_state(trace_text(thought, each.through(step)))
            fired[oracle.drift_label(depth, overt)].append(score < threshold)
    return MonitorRates(**{state: _share(seen) for state, seen in fired.items()})


def _share(seen: Sequence[bool]) -> float:
    return sum(seen) / len(seen) if seen else 0.0
