# pyright: standard
"""Speed of a search, measured by two steps of it on the very reasoner: what `--dry-run` and `--budget` go by.

They are steps of the configured search, as wide and with the same objective, in a scratch folder. The first warms up,
and compiles where that is asked for; the second is timed. The contexts are those of `contexts.path` where they have
been collected. Else they are made up, and nothing is rolled out: the prompts themselves, with traces and targets of
random tokens behind them, as many and as long as they may get; on the testbed, as long as they typically are.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from optimize.config import MethodConfig, PhrasesConfig, SearchConfig, SearchSection, SoftConfig
from optimize.contexts import Context, ContextSet
from optimize.contexts.folder import MANIFEST, SEARCH, Source
from optimize.contexts.splits import Split
from optimize.pipeline import setup as setups
from optimize.pipeline.learning import initial_ids
from optimize.pipeline.searches import Problem, build_search
from optimize.pipeline.setup import Setup
from optimize.search.journal import LOG
from optimize.search.method import Ids
from optimize.search.vocabulary import Vocabulary, allowed_ids
from optimize.selection.judges import MonitorJudge
from safethink.config import ModelSection, ReasonerConfig
from safethink.config.monitors import models_of
from safethink.errors import ConfigError, SafeThinkError, SearchError
from safethink.evaluation.plan import TESTBED_TOKENS
from safethink.evaluation.speed import TESTBED, Speed, absent, measured, speed
from safethink.guarded import SafeThink
from safethink.models import loading
from safethink.monitors.build import as_monitor, build
from safethink.prefix import Identity
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.testbed.origin import is_testbed
from safethink.thinking.opening import open_prompt

NUM_STEPS: Final = 2
"""Steps of a probe."""
UNTRIED: Final = Speed(None, None, "decoding was not tried")
PHRASES: Final = "phrases are decoded, so no step of theirs is tried"
TESTBED_STEP: Final = 8
"""Tokens of a typical step of a testbed output."""
CLOCK_S: Final = 1e-3
"""Resolution of a log's seconds."""


@dataclass(frozen=True, slots=True)
class SearchPace:
    """Time and tokens of the two steps of a probe.

    Attributes:
        contexts: in what they were taken, for a reader.
        first_s: seconds of reading the contexts and of the first step, which warms up.
        first_tokens: tokens that the first step forwarded.
        step_s: seconds of the second step.
        step_tokens: tokens that it forwarded.
    """

    contexts: str
    first_s: float
    first_tokens: int
    step_s: float
    step_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens forwarded a second, once warm."""
        return self.step_tokens / self.step_s

    def steps(self, section: SearchSection) -> int:
        """Steps that a search takes at most: until its tokens are spent, where they are before its steps."""
        budget = section.budget_tokens
        if budget is None or self.step_tokens == 0:
            return section.steps
        return min(section.steps, 1 + max(0, math.ceil((budget - self.first_tokens) / self.step_tokens)))

    def seconds(self, steps: int, rounds: int = 1) -> float:
        """Time of so many steps, in rounds each of which reads its contexts first."""
        return min(rounds, steps) * self.first_s + max(0, steps - rounds) * self.step_s

    @property
    def source(self) -> str:
        """Origin of the numbers."""
        return f"two steps of the search tried on this machine, in {self.contexts}, the second timed"


@dataclass(frozen=True, slots=True)
class Trial:
    """Speed of a search's two kinds of work, as far as it was measured.

    Attributes:
        decoding: speed of the reasoner.
        pace: that of the search; None where no step was tried.
        complaint: why none was.
    """

    decoding: Speed
    pace: SearchPace | None
    complaint: str = ""

    @property
    def source(self) -> str:
        """Origin of the numbers, or the reason why there are none."""
        if self.pace is not None:
            return f"searching: {self.pace.source}; decoding: {self.decoding.source}"
        return "; ".join(part for part in (self.decoding.source, self.complaint) if part)


def try_search(config: SearchConfig) -> Trial:
    """Load a search's reasoner, where its weights are on this machine, and try it.

    The monitor loads only where the objective asks it. Nothing is written but to a scratch folder.
    """
    if isinstance(config.search, PhrasesConfig):
        return Trial(speed(config.run, probe=True), None, PHRASES)
    if (missing := _absent(config)) is not None:
        return Trial(speed(config.run, probe=True), None, f"the search was not tried: {missing} is not on this machine")
    try:
        reasoner = loading.load(config.run.reasoner)
        monitor = build(config.run.monitor) if _asks_monitor(config) else as_monitor(_silent)
        guarded = setups.guard(reasoner.model, reasoner.tokenizer, monitor, config.run)
    except SafeThinkError as error:
        return Trial(Speed(None, None, f"not known: {error}"), None)
    decoding = TESTBED if is_testbed(config.run.reasoner.path) else measured(guarded)
    try:
        threshold = setups.threshold_of(config.run)
        nobody = Identity(name="not asked")
        source = Source(reasoner=nobody, monitor=nobody, threshold=threshold, seed=config.seed)
        data = setups.prompts_of(config, config.selection.forced_prompts)
        setup = Setup(guarded, data, MonitorJudge(monitor, threshold, nobody.name), source)
        return Trial(decoding, probe(setup, config))
    except SafeThinkError as error:
        return Trial(decoding, None, f"the search was not tried: {error}")


def try_loaded(setup: Setup, config: SearchConfig) -> Trial:
    """Try a search whose models are loaded already; they are left as they were."""
    if isinstance(config.search, PhrasesConfig):
        testbed = is_testbed(config.run.reasoner.path)
        return Trial(TESTBED if testbed else measured(setup.guarded), None, PHRASES)
    guarded, monitor = setup.guarded, setup.guarded.monitor if _asks_monitor(config) else as_monitor(_silent)
    assert monitor is not None, "whoever learns has one"
    # An engine of its own: rows of a soft prefix that is tried must not be among those of the search.
    apart = setups.guard(guarded.model, guarded.tokenizer, monitor, config.run)
    try:
        return Trial(UNTRIED, probe(replace(setup, guarded=apart), config))
    except SafeThinkError as error:
        return Trial(UNTRIED, None, str(error))


def probe(setup: Setup, config: SearchConfig) -> SearchPace:
    """Run the first two steps of a search in a scratch folder.

    Raises:
        SafeThinkError: it does not come to a second step, or the contexts are another reasoner's.
    """
    contexts, told = _contexts(setup, config)
    section = _of_two_steps(config.search)
    vocabulary = Vocabulary.of(setup.guarded, contexts)
    problem = Problem(config, setup, None, contexts, vocabulary, initial_ids(setup.guarded, config.search))
    print("trying two steps of the search", file=sys.stderr, flush=True)
    with TemporaryDirectory() as scratch:
        journal, complaint = problem.journal(Path(scratch), section), "it ended in its first step"
        started = time.perf_counter()
        try:
            build_search(section, problem).run(journal)
        except SearchError as error:
            # Two steps may be too few for a whole prefix, and were taken all the same.
            complaint = str(error)
        whole_s = time.perf_counter() - started
        lines = [json.loads(line) for line in (Path(scratch) / LOG).read_text(encoding="utf-8").splitlines()]
    if len(lines) < NUM_STEPS:
        raise SearchError(complaint)
    first, second = lines[:NUM_STEPS]
    step_s = max(second["seconds"], CLOCK_S)
    return SearchPace(
        contexts=told,
        first_s=max(whole_s - step_s, CLOCK_S),
        first_tokens=first["tokens"],
        step_s=step_s,
        step_tokens=second["tokens"] - first["tokens"],
    )


def made_up(guarded: SafeThink, data: Split, config: SearchConfig) -> ContextSet:
    """Contexts of the planned number and length: prompts, with random allowed tokens for traces, steps and targets."""
    allowed = torch.tensor(allowed_ids(guarded.tokenizer, guarded.model, guarded.thought.banned_texts))
    generator = torch.Generator().manual_seed(stable_seed("made up", config.seed))
    delimiter = guarded.thought.encoder.begun("".join(guarded.thought.family.step_delimiter[:1]))
    trace_tokens, target_tokens = guarded.limits.max_trace_tokens, config.contexts.target_tokens
    if is_testbed(config.run.reasoner.path):
        trace_tokens, target_tokens = min(trace_tokens, TESTBED_TOKENS), min(target_tokens, TESTBED_STEP)

    def words(count: int) -> Ids:
        return tuple(allowed[torch.randint(len(allowed), (count,), generator=generator)].tolist())

    def context(prompt: Prompt) -> Context:
        opened = open_prompt(guarded.thought, prompt)
        room = trace_tokens - len(delimiter)
        if (window := guarded.thought.context_tokens) is not None:
            longest = config.search.length + len(guarded.thought.separator_ids) + target_tokens
            room = min(room, window - len(opened) - len(delimiter) - longest)
        # Whole steps, as a prefix finds them: its words stand behind a delimiter.
        trace = words(room) + delimiter if room > 0 else ()
        return Context(
            prompt=prompt,
            prompt_ids=opened,
            trace_ids=trace,
            step_ids=words(target_tokens),
            depth=0,
            target_ids=words(target_tokens),
        )

    def some(prompts: Sequence[Prompt], count: int) -> tuple[Context, ...]:
        return tuple(context(prompt) for prompt in islice(cycle(prompts), count))

    unsafe = some(data.attacks, config.contexts.max_contexts)
    harmless = some(data.harmless, config.contexts.harmless_prompts)
    return ContextSet(unsafe=unsafe, harmless=harmless, num_watched=len(unsafe), num_fired=len(unsafe))


def _contexts(setup: Setup, config: SearchConfig) -> tuple[ContextSet, str]:
    """The contexts of the configured folder, or made up; and what they are, for a reader.

    Raises:
        ConfigError: another reasoner's token ids.
        RecordError: the file is damaged.
    """
    path = config.contexts.path
    if path is None or not (Path(path) / MANIFEST).is_file():
        return made_up(setup.guarded, setup.data[0], config), "contexts of random tokens"
    contexts = ContextSet.load(Path(path) / SEARCH)
    num_rows = len(next(setup.guarded.model.get_input_embeddings().parameters()))
    if any(max(each.ids + each.target_ids) >= num_rows for each in contexts.unsafe + contexts.harmless):
        raise ConfigError(f"{path}: these contexts were collected from another reasoner")
    return contexts, f"the contexts of {path}"


def _of_two_steps(section: MethodConfig) -> MethodConfig:
    """The section, with nothing but its second step to end it, and nobody else told of its steps."""
    short = section.replace(steps=NUM_STEPS, budget_tokens=None, stop_after_steps=None)
    return short.replace(logger=None) if isinstance(short, SoftConfig) else short


def _asks_monitor(config: SearchConfig) -> bool:
    """Whether the objective may ask the monitor for scores."""
    return bool(config.objective.reward_weight or config.objective.terms)


def _silent(prompt: str, trace: str) -> float:
    """The monitor of an objective that asks none."""
    return 1.0


def _absent(config: SearchConfig) -> str | None:
    """The model whose weights would be downloaded; None where there is none."""
    models: list[ModelSection] = list(models_of(config.run.monitor)) if _asks_monitor(config) else []
    plain = [ReasonerConfig(path=each.path, revision=each.revision) for each in models]
    return next(filter(None, map(absent, [config.run.reasoner, *plain])), None)
