# pyright: standard
"""On-policy sampling: continuations right behind an injected prefix, scored by the monitor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from optimize.contexts import Context
from optimize.objectives.protocols import Ids
from safethink.defenses.effects import Defense, Task, Until, Verdict
from safethink.defenses.moves import extend, score
from safethink.engines import Engine, LocalEngine
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.guarded import SafeThink
from safethink.monitors import Monitor, ScoreRequest, alone, fail_closed
from safethink.runtime import scheduler
from safethink.runtime.row import Row, open_row
from safethink.seeds import stable_seed
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Draw:
    """One continuation.

    Attributes:
        ids: its token ids; empty where the trace had no room left.
        score: the monitor's, of the trace with it and without what was injected.
    """

    ids: Ids
    score: float


class Sampler:
    """On-policy sampler of one step behind a prefix, at random and greedily.

    Args:
        guarded: the reasoner with its monitor.
        max_tokens: of a continuation.
        seed: with what `draw` is given, the only source of randomness.

    Attributes:
        model: the reasoner.
    """

    def __init__(self, guarded: SafeThink, max_tokens: int, seed: int) -> None:
        assert guarded.monitor is not None, "a reward needs a monitor"
        self.model = guarded.model
        self._guarded, self._seed = guarded, seed
        self._monitor = RememberingMonitor(alone(guarded.monitor))
        self._greedy = HfEngine(guarded.model, guarded.stopper, Sampling(temperature=0.0))
        self._limits = guarded.limits.replace(max_step_tokens=max_tokens)

    def add_rows(self, rows: Float[Tensor, "length hidden"]) -> Ids:
        """The ids by which a soft prefix can be injected."""
        assert isinstance(self._guarded.engine, LocalEngine), "an objective has the reasoner's weights"
        self._greedy.add_rows(rows)
        return self._guarded.engine.add_rows(rows)

    def draw(self, contexts: Sequence[Context], prefix: Ids, num_samples: int, round_index: int) -> list[list[Draw]]:
        """Per context, `num_samples` sampled continuations and, last, the greedy one.

        Prefixes share their random numbers within a round, so that what differs between them is paired.

        Args:
            contexts: where the prefix is injected.
            prefix: its ids.
            num_samples: how many are sampled.
            round_index: seeds the sampling anew.

        Raises:
            MonitorError: the monitor fails.
        """
        sampled = self._run(self._guarded.engine, contexts, prefix, num_samples, round_index)
        greedy = self._run(self._greedy, contexts, prefix, 1, round_index)
        return [[*some, *one] for some, one in zip(sampled, greedy, strict=True)]

    def _run(
        self, engine: Engine, contexts: Sequence[Context], prefix: Ids, num_samples: int, round_index: int
    ) -> list[list[Draw]]:
        thought = self._guarded.thought

        def rows() -> Iterator[Row]:
            for place, context in enumerate(contexts):
                seed = stable_seed(self._seed, "reward", round_index, len(context.trace_ids))
                for sample in range(num_samples):
                    yield open_row(
                        thought,
                        context.prompt,
                        one_step,
                        seed=seed,
                        sample=place * num_samples + sample,
                        prompt_ids=context.prompt_ids,
                        trace=Tokens.sampled(context.trace_ids),
                        injected=prefix,
                    )

        run = scheduler.run(
            rows(), engine, self._monitor, self._guarded.thought, self._limits, self._guarded.batch_size
        )
        draws: dict[int, Draw] = {}
        for row, verdict, _ in run:
            context = contexts[row.sample // num_samples]
            # What the template puts behind a turn is injected too, and no more the reasoner's than the prefix is.
            draws[row.sample] = Draw(verdict.trace[len(context.trace_ids) :].own(), verdict.step_scores[0])
        return [
            [draws[place * num_samples + sample] for sample in range(num_samples)] for place in range(len(contexts))
        ]


def one_step(task: Task) -> Defense:
    """Defense that takes one step and has the trace scored; what was injected is masked, as ever."""
    step = yield from extend(task.start, Until.STEP)
    trace = task.start + step.tokens
    value = yield from score(trace)
    return Verdict(trace, Tokens(), closed=False, step_scores=(value,))


class RememberingMonitor:
    """A monitor that is asked about a text once: samples of a sharp policy are often the same.

    Args:
        monitor: who is asked.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._scores: dict[tuple[str, str], float] = {}

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order."""
        fresh = {_key(request): request for request in requests if _key(request) not in self._scores}
        scores = fail_closed.score(self._monitor, list(fresh.values())) if fresh else []
        self._scores |= dict(zip(fresh, scores, strict=True))
        return [self._scores[_key(request)] for request in requests]

    def release(self, row: int) -> None:
        """Forget what the monitor keeps of `row`; what it said of its text stays."""
        self._monitor.release(row)


def _key(request: ScoreRequest) -> tuple[str, str]:
    return request.prompt.id, request.trace
