"""Work and time that making a reasoner takes: `--dry-run`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from optimize.reasoners import corpus, encoding, training
from optimize.reasoners.config import ReasonerTrainingConfig
from optimize.reasoners.corpus import Draft
from optimize.reasoners.distillation import Base
from optimize.reasoners.run import asked_sets, refuse_unfit_base
from safethink.benchmarks import Benchmark
from safethink.evaluation.speed import PROBE_TOKENS, absent
from safethink.frozen import Frozen
from safethink.models import loading
from safethink.progress import track

TOKENS_PER_ROW: Final = 95
"""Of a prompt with thinking and answer."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed of a base.

    Attributes:
        decoded_per_s: tokens that it continues in a second, in full batches, reading its prompts included.
        learned_per_s: tokens that it learns from in a second, with the update on its upper layers.
        source: where the numbers are from.
    """

    decoded_per_s: float
    learned_per_s: float
    source: str

    def minutes(self, decoded: int, learned: int) -> float:
        """The time of decoding and of learning from so many tokens."""
        return round((decoded / self.decoded_per_s + learned / self.learned_per_s) / 60, 1)


TYPICAL: Final = Pace(100.0, 160.0, "a base of 135 M parameters on a quiet CPU core; this base is not on this machine")


class ReasonerPlan(Frozen):
    """Work ahead of a training."""

    rows: dict[str, int]
    """Rows by kind, at most: those that stop short are left out."""
    decoded_tokens: int
    """Tokens that the base continues, at most."""
    steps: int
    """Steps of the optimiser, at most."""
    asked: dict[str, int]
    """Prompts that the reasoner is measured on, by set."""
    answered_tokens: int
    """Tokens that it thinks and answers with there, at most."""
    minutes: float | None
    """Rough time of all that; None where nothing was tried."""
    timed_by: str
    """Source of the speed that the time is estimated from."""


def plan(config: ReasonerTrainingConfig, probe: bool = False) -> ReasonerPlan:
    """Count the work of a configuration. Reads the files that it names and the base's configuration.

    Args:
        config: the resolved configuration.
        probe: whether the base is loaded and tried, where it is on this machine.

    Raises:
        SafeThinkError: the base, the rationales or a set is missing or does not fit.
    """
    tests, development = asked_sets(config.evaluation)
    refuse_unfit_base(config.base)
    solved, own = corpus.solved(config.corpus, config.seed), corpus.drafts(config.corpus, config.seed)
    kinds = [row.kind for row in solved] + [draft.kind for draft in own]
    batch_size, limits = config.training.batch_size, config.evaluation.limits
    steps = -(-len(kinds) // batch_size) * config.training.epochs
    steps = min(steps, config.training.stop_after or steps)
    asked = tests + development
    decoded = sum(_decoded(draft, config) for draft in own)
    answered = _prompts(asked) * (limits.max_trace_tokens + limits.max_answer_tokens)
    pace = _pace(config, own) if probe else None
    return ReasonerPlan(
        rows={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        decoded_tokens=decoded,
        steps=steps,
        asked={each.name: len(each.prompts) for each in asked},
        answered_tokens=answered,
        minutes=None if pace is None else pace.minutes(decoded + answered, steps * batch_size * TOKENS_PER_ROW),
        timed_by="not tried" if pace is None else pace.source,
    )


def _prompts(sets: list[Benchmark]) -> int:
    return sum(len(each.prompts) for each in sets)


def _decoded(draft: Draft, config: ReasonerTrainingConfig) -> int:
    """Tokens that the base continues for one row."""
    answer = config.corpus.max_answer_tokens if draft.answer is None else 0
    return len(draft.openings) * config.corpus.max_plan_tokens + answer


def _pace(config: ReasonerTrainingConfig, own: list[Draft]) -> Pace:
    """The speed of the base, tried for a few seconds; a typical one where it would have to be downloaded."""
    if absent(config.base) is not None:
        return TYPICAL
    with track(f"trying {config.base.path}"):
        lm = loading.load(config.base)
        decoded_per_s = _tried_decoding(Base(lm, config.corpus), own)
        learned_per_s = _tried_learning(lm, config)
    source = f"{PROBE_TOKENS} tokens of a batch and two steps of the optimiser, tried on this machine"
    return Pace(decoded_per_s, learned_per_s, source)


def _tried_decoding(base: Base, own: list[Draft]) -> float:
    """Tokens per second of one batch that is continued."""
    prompts = [base.opened(draft.request) for draft in own[: base.config.batch_size]]
    prompts = prompts or [base.opened("Add 3 and 4.")]
    base.continued(prompts[:1], 2, seed=0)
    started = time.perf_counter()
    base.continued(prompts, PROBE_TOKENS, seed=0)
    return len(prompts) * PROBE_TOKENS / (time.perf_counter() - started)


def _tried_learning(lm: loading.CausalLM, config: ReasonerTrainingConfig) -> float:
    """Tokens per second of a training step on word problems."""
    wanted = config.corpus.replace(word_problems=config.training.batch_size, rationales=None)
    tokenizer = encoding.reasoner_tokenizer(lm.tokenizer)
    examples = encoding.encoded(corpus.solved(wanted, config.seed), tokenizer, lm.model.config.model_type)
    return training.tried(lm.model, tokenizer, examples, config.training)
