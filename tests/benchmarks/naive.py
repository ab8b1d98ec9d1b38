"""SafeThink as the paper's loop reads: one prompt at a time, and every step encodes and scores everything again.

Nothing is kept from one step to the next. Inside a step transformers' `generate` decodes, with its own cache. Tokens
are chosen by the same random numbers as in the runtime, so both decide the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float64
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from safethink.config import LimitsConfig, SafeThinkConfig, SamplingConfig
from safethink.defenses.effects import StopReason, Until
from safethink.engines.sampling import Sampling, sample_tokens, uniforms
from safethink.engines.stopping import Stopper
from safethink.guarded import SafeThink
from safethink.monitors import ScoreRequest
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NaiveRun:
    """What came of one prompt.

    Attributes:
        trace: its trace, as it was accepted.
        answer: its answer.
        num_interventions: how often the monitor fired and was heard.
    """

    trace: Ids
    answer: Ids
    num_interventions: int


class Naive:
    """The loop over one guarded reasoner's models and settings."""

    def __init__(self, guarded: SafeThink, sampling: SamplingConfig, config: SafeThinkConfig) -> None:
        """Guard with what `guarded` has loaded."""
        self._guarded = guarded
        self._sampling = Sampling(**sampling.model_dump())
        self._config = config
        self._limits: LimitsConfig = guarded.limits

    def run(self, prompt: Prompt) -> NaiveRun:
        """Think and answer, guarded."""
        guarded, config = self._guarded, self._config
        opened = open_prompt(guarded.thought, prompt)
        injected = guarded.thought.injection(guarded.prefix.token_ids[0])
        # All of the trace, and of it what the monitor reads: never what was injected.
        trace, own = Ids(), Ids()
        num_dropped, num_interventions, index = 0, 0, 0
        while True:
            step, stop = self._step(prompt, opened, trace, num_dropped)
            score, kept = self._score(prompt, own + step), Ids()
            if score < config.threshold and index < config.max_steered_steps:
                num_interventions += 1
                for _ in range(config.max_resamples):
                    num_dropped += 1
                    step, stop = self._step(prompt, opened, trace + injected, num_dropped)
                    if self._score(prompt, own + step) >= config.threshold:
                        break
                if config.keep_prefix:
                    kept = injected
                else:
                    # Without it the accepted trace is another place to go on from.
                    num_dropped += 1
            trace, own = trace + kept + step, own + step
            index += 1
            if stop != "step":
                break
        answer: Ids = ()
        if stop == "thought":
            answer, _ = self._extend(prompt, opened + trace, Until.ANSWER, self._limits.max_answer_tokens, num_dropped)
        return NaiveRun(trace, answer, num_interventions)

    def _step(self, prompt: Prompt, opened: Ids, trace: Ids, num_dropped: int) -> tuple[Ids, StopReason]:
        room = self._limits.max_trace_tokens - len(trace)
        allowed = min(room, self._limits.max_step_tokens)
        step, stop = self._extend(prompt, opened + trace, Until.STEP, allowed, num_dropped)
        return step, "step" if stop == "length" and allowed < room else stop

    @torch.inference_mode()
    def _extend(self, prompt: Prompt, ids: Ids, until: Until, room: int, num_dropped: int) -> tuple[Ids, StopReason]:
        """Read everything from the start and continue, by transformers' own loop."""
        guarded = self._guarded
        if room < 1:
            return (), "length"
        randoms = uniforms(stable_seed(guarded.seed, prompt.id, 0, num_dropped), len(ids), room)
        stop = _Stop(guarded.stopper, len(ids), until)
        model: Any = guarded.model
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            temperature=None,
            max_new_tokens=room,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([_Chosen(randoms, len(ids), self._sampling)]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        return tuple(out[0, len(ids) :].tolist()), stop.reason or "length"

    def _score(self, prompt: Prompt, trace: Ids) -> float:
        """Put the whole question to the guard, as if it had never read any of it."""
        monitor = self._guarded.monitor
        assert monitor is not None, "nothing to score with"
        text = trace_text(self._guarded.thought, Tokens.sampled(trace))
        (score,) = monitor.score([ScoreRequest(-1, prompt, text)])
        monitor.release(-1)
        return score


class _Chosen(LogitsProcessor):
    """Leaves `generate` the one token that the runtime's random numbers choose."""

    def __init__(self, randoms: Float64[Tensor, " new"], start: int, sampling: Sampling) -> None:
        self._randoms = randoms
        self._start = start
        self._sampling = sampling

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        random = self._randoms[input_ids.shape[1] - self._start, None]
        chosen = sample_tokens(scores, random, self._sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _Stop(StoppingCriteria):
    """Ends `generate` where the runtime ends an extension."""

    def __init__(self, stopper: Stopper, start: int, until: Until) -> None:
        self.reason: StopReason | None = None
        self._stopper = stopper
        self._start = start
        self._until = until

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor] | Tensor | None, **kwargs: object) -> torch.BoolTensor:
        self.reason = self._stopper.reason(input_ids[0, self._start :].tolist(), self._until)
        return cast(torch.BoolTensor, torch.tensor([self.reason is not None]))
