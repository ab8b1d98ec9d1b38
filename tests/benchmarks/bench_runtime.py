"""How fast a guarded reasoner is: against the paper's loop written naively, and against the reasoner alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from safethink.config import SafeThinkConfig, SamplingConfig
from safethink.defenses.effects import Extension, Until, Verdict
from safethink.engines import ExtendRequest
from safethink.guarded import SafeThink
from safethink.monitors.function import ConstantMonitor
from safethink.prompts import Prompt
from safethink.runtime.scheduler import run
from safethink.testbed.prompts import draw
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow, speedup, timed
from tests.benchmarks.naive import Naive, NaiveRun
from tests.benchmarks.runtime_models import WIDE, long_thinker, never_firing_probe

NUM_PROMPTS = 64
LONG_TRACE_TOKENS, STEP_TOKENS = 500, 16
GREEDY = SamplingConfig(temperature=0.0)
MAX_NEW_TOKENS = 256
MAX_OVERHEAD = 1.10
WIDE_TRACE_TOKENS = 64
NUM_STEPS = 20
REPEATS = 5


def rows() -> Iterator[BenchRow]:
    """Ratios to the naive loop and to the reasoner alone, and the scheduler's own time."""
    # The random guard of one bench has no use for verdicts, and says so.
    logging.getLogger("safethink.monitors").setLevel(logging.ERROR)
    watched = testbed.guarded("testbed")
    yield _over_naive("guarded_over_naive_64_prompts", watched, _mixed_prompts(), SamplingConfig(), 25, repeats=3)
    thinker = long_thinker(LONG_TRACE_TOKENS, STEP_TOKENS)
    yield _over_naive("guarded_over_naive_one_long_trace", thinker, draw("harmless", "test", 1), GREEDY, 1.5, REPEATS)
    yield _over_generate("guarded_by_a_probe_over_generate", watched, 4 * REPEATS)
    # The testbed's reasoner is so small that what is around it counts; here it is the model that takes the time.
    wide = long_thinker(WIDE_TRACE_TOKENS, STEP_TOKENS, WIDE)
    yield _over_generate("guarded_by_a_probe_over_generate_wide", wide, REPEATS)
    yield _scheduler()


def _mixed_prompts() -> list[Prompt]:
    kinds = ("jailbreak", "harmful", "harmless", "borderline")
    return [prompt for kind in kinds for prompt in draw(kind, "test", NUM_PROMPTS // len(kinds))]


def _over_naive(
    name: str, guarded: SafeThink, prompts: Sequence[Prompt], sampling: SamplingConfig, target: float, repeats: int
) -> BenchRow:
    """One prompt after the other, with nothing kept between steps, against the runtime."""
    assert isinstance(guarded.defense, SafeThinkConfig)
    naive = Naive(guarded, sampling, guarded.defense)
    slow = [naive.run(prompt) for prompt in prompts]
    fast = guarded.run(prompts)
    exact = slow == [NaiveRun(each.trace_ids, each.answer_ids, len(each.interventions)) for each in fast]
    return speedup(
        name,
        lambda: [naive.run(prompt) for prompt in prompts],
        lambda: guarded.run(prompts),
        target,
        exact,
        repeats,
    )


def _over_generate(name: str, reasoner: SafeThink, repeats: int) -> BenchRow:
    """Harmless prompts, greedy, from text to text: watched by a probe, against plain batched `generate`."""
    prompts = draw("harmless", "test", NUM_PROMPTS)
    probed = SafeThink(
        reasoner.model,
        reasoner.tokenizer,
        monitor=never_firing_probe(reasoner),
        sampling=GREEDY,
        limits=reasoner.limits,
        batch_size=NUM_PROMPTS,
    )
    exact = [text(each.guarded, each.trace_ids + each.answer_ids) for each in probed.run(prompts)]
    ratio = speedup(
        name,
        lambda: probed.run(prompts),
        lambda: generate(probed, prompts),
        target=0,
        exact=exact == generate(probed, prompts),
        repeats=repeats,
    )
    return replace(ratio, target=MAX_OVERHEAD, direction="at_most", note="time, from prompts to texts")


def generate(reasoner: SafeThink, prompts: Sequence[Prompt]) -> list[str]:
    """What transformers' own `generate` makes of a left-padded batch."""
    opened = [open_prompt(reasoner.thought, prompt) for prompt in prompts]
    width, limits = max(map(len, opened)), reasoner.limits
    model: Any = reasoner.model
    with torch.inference_mode():
        out = model.generate(
            input_ids=_padded(opened, width, 0),
            attention_mask=_padded([(1,) * len(each) for each in opened], width, 0),
            do_sample=False,
            temperature=None,
            max_new_tokens=min(MAX_NEW_TOKENS, limits.max_trace_tokens),
            pad_token_id=0,
        )
    return [text(reasoner, tuple(row)) for row in out[:, width:].tolist()]


def text(reasoner: SafeThink, ids: tuple[int, ...]) -> str:
    """Up to the end of the turn, tags included."""
    end = reasoner.tokenizer.eos_token_id
    return reasoner.thought.decode(ids[: ids.index(end)] if end in ids else ids)


def _padded(rows: Sequence[tuple[int, ...]], width: int, fill: int) -> Int[Tensor, "rows width"]:
    return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])


class _Scripted:
    """An engine that says the same short step again and again, and closes after some."""

    def __init__(self, close: tuple[int, ...]) -> None:
        self._close = close
        self.num_effects = 0

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """One step for each."""
        self.num_effects += len(requests)
        return [self._one(request) for request in requests]

    def release(self, row: int) -> None:
        """Nothing is kept."""

    def _one(self, request: ExtendRequest) -> Extension:
        if request.until is Until.ANSWER:
            return Extension(Tokens.sampled((5, 6)), "end")
        if len(request.ids) > NUM_STEPS * 4:
            return Extension(Tokens.sampled(self._close), "thought")
        return Extension(Tokens.sampled((5, 6, 7, 8)), "step")


def _scheduler() -> BenchRow:
    """Microseconds that the scheduler spends on an effect, with an engine and a monitor that cost nothing."""
    guarded = testbed.guarded("testbed")
    prompts = draw("harmless", "test", NUM_PROMPTS)

    def drive(batch_size: int = NUM_PROMPTS) -> tuple[int, dict[str, Verdict]]:
        engine = _Scripted(guarded.thought.close_ids)
        rows = [guarded.row(prompt) for prompt in prompts]
        finished = list(run(rows, engine, ConstantMonitor(1.0), guarded.thought, guarded.limits, batch_size))
        # Every step is extended and scored.
        num_effects = engine.num_effects + sum(each.usage.monitor_calls for each in finished)
        return num_effects, {each.row.prompt.id: each.verdict for each in finished}

    num_effects, verdicts = drive()
    exact = len(verdicts) == NUM_PROMPTS and verdicts == drive(batch_size=1)[1]
    opening = timed(lambda: [guarded.row(prompt) for prompt in prompts], REPEATS)
    times = sorted((seconds - opening[0]) / num_effects * 1e6 for seconds in timed(drive, REPEATS))
    note = "microseconds, reading traces as text included"
    return BenchRow("scheduler_per_effect_us", times[len(times) // 2], times[0], times[-1], 50, "at_most", exact, note)
