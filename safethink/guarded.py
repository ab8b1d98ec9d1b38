# pyright: standard
"""A guarded reasoner: the Python API."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import TypedDict, Unpack, overload

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safethink import defenses
from safethink import prefix as prefixes
from safethink.config import (
    LimitsConfig,
    ReasonerConfig,
    RunConfig,
    SamplingConfig,
    ThoughtConfig,
)
from safethink.defenses import DefenseLike, Rule
from safethink.defenses.inject_once import inject_once
from safethink.defenses.replayed import replayed
from safethink.engines import Engine, LocalEngine, WritingEngine, build
from safethink.engines.build import ServedModel
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ConfigError
from safethink.models import loading
from safethink.models.numerics import Numerics
from safethink.monitors import fingerprint_of, numerics_of
from safethink.monitors.build import MonitorLike, as_monitor
from safethink.prefix import PrefixArtifact, PrefixLike
from safethink.prompts import Prompt, refuse_duplicates
from safethink.runtime import scheduler
from safethink.runtime.result import Branch, Event, Replay, Result, Transcript
from safethink.runtime.row import Accepted, Finished, Row, open_row
from safethink.runtime.scheduler import refuse_unfit
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.opening import prefill_tokens, refuse_contradiction
from safethink.thinking.reading import answer_text, full_trace_text, trace_text
from safethink.thinking.template_args import TemplateArg

DEFAULT = RunConfig(reasoner=ReasonerConfig(path=""))
"""The settings' defaults are those of the YAML file."""


class Settings(TypedDict, total=False):
    """The sections of `RunConfig` that the Python API takes by name."""

    defense: DefenseLike
    thought: ThoughtConfig
    sampling: SamplingConfig
    limits: LimitsConfig
    batch_size: int
    seed: int
    max_cached_tokens: int | None
    template_args: Mapping[str, TemplateArg]


class SafeThink:
    """A reasoner with a monitor, a defense and a prefix.

    Attributes:
        thought: how the reasoner's thinking is written down.
        engine: produces its tokens.
        monitor: scores partial traces; None where the defense asks for no scores.
        defense: the rule for when and how to intervene, as it was given.
        rule: the same, ready to begin on a row.
        limits: how long steps, traces and answers may get.
        batch_size: the most rows decoded at once.
        seed: base seed of every row.
    """

    def __init__(
        self,
        model: build.Model,
        tokenizer: PreTrainedTokenizerBase,
        *,
        monitor: MonitorLike | None = None,
        prefix: PrefixLike | None = "wait-think-safely",
        defense: DefenseLike = DEFAULT.defense,
        thought: ThoughtConfig = DEFAULT.thought,
        sampling: SamplingConfig = DEFAULT.sampling,
        limits: LimitsConfig = DEFAULT.limits,
        batch_size: int = DEFAULT.batch_size,
        seed: int = DEFAULT.seed,
        max_cached_tokens: int | None = None,
        template_args: Mapping[str, TemplateArg] = MappingProxyType({}),
    ) -> None:
        """Guard a model that is already loaded; see `RunConfig` for what the settings mean.

        A defense of one's own is any generator function `(task) -> Defense`; see `defenses.Needs` for what it may
        declare. Without a `prefix` only those defenses fit that inject none.

        Raises:
            ConfigError: if the defense needs a monitor or a prefix and there is none, or an engine of another kind; or
                if it cannot be told how the reasoner thinks.
            MissingFileError: if the prefix or the monitor's model cannot be found.
            ArtifactError: if the prefix does not fit the reasoner.
        """
        self._model, self.tokenizer = model, tokenizer
        window, model_type = build.context_window(model), model.config.model_type
        self.thought = Thought.today(thought, tokenizer, window, limits.max_step_tokens, model_type, template_args)
        refuse_contradiction(self.thought)
        self.stopper = Stopper(self.thought, build.end_ids(model, tokenizer))
        settings = Sampling(**sampling.model_dump())
        self.engine: Engine = build.build(model, self.thought, self.stopper, settings, max_cached_tokens)
        self.limits, self.batch_size, self.seed = limits, batch_size, seed
        self.monitor = None if monitor is None else as_monitor(monitor)
        self._prefix = None if prefix is None else self.bind(prefix)
        self.defense, self.rule = defense, self._checked(defenses.build(defense))

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        monitor: MonitorLike | None = None,
        prefix: PrefixLike = "wait-think-safely",
        **settings: Unpack[Settings],
    ) -> SafeThink:
        """Load a reasoner and guard it.

        Args:
            path: folder or hub id; `testbed` names the shipped reasoner.
            monitor: what scores its traces.
            prefix: what is injected.
            settings: the sections of `RunConfig`.
        """
        reasoner = loading.load(ReasonerConfig(path=path))
        return cls(reasoner.model, reasoner.tokenizer, monitor=monitor, prefix=prefix, **settings)

    @classmethod
    def from_config(cls, config: RunConfig) -> SafeThink:
        """Build what a YAML file describes; a monitor loads only where the defense asks for scores."""
        # First, so that a defense which is not there is said before anything is loaded.
        rule = defenses.build(config.defense)
        reasoner = build.load(config.reasoner)
        return cls(
            reasoner.model,
            reasoner.tokenizer,
            monitor=config.monitor if rule.needs.scores else None,
            prefix=config.prefix,
            defense=config.defense,
            thought=config.thought,
            sampling=config.sampling,
            limits=config.limits,
            batch_size=config.batch_size,
            seed=config.seed,
            max_cached_tokens=config.reasoner.max_cached_tokens,
            template_args=config.reasoner.template_args,
        )

    def variant(self, *, defense: DefenseLike | None = None, prefix: PrefixLike | None = None) -> SafeThink:
        """The same reasoner and monitor under another defense or with another prefix; nothing is loaded again."""
        other = copy(self)
        other._prefix = self._prefix if prefix is None else self.bind(prefix)
        if defense is not None:
            other.defense, other.rule = defense, other._checked(defenses.build(defense))
        elif prefix is not None:
            other._checked(other.rule)
        return other

    @property
    def prefix(self) -> PrefixArtifact:
        """The portfolio, with the token ids of this reasoner.

        Raises:
            ConfigError: there is none.
        """
        if self._prefix is None:
            raise ConfigError("this needs a prefix, and none was given")
        return self._prefix

    @property
    def model(self) -> PreTrainedModel:
        """The reasoner's weights.

        Raises:
            ConfigError: they stand behind a server.
        """
        if isinstance(self._model, ServedModel):
            raise ConfigError(
                "this needs the reasoner's own weights, and they stand behind a server: leave out `server`"
            )
        return self._model

    @property
    def fingerprint(self) -> str:
        """Hash of the reasoner's weights, or their name where they stand behind a server."""
        return build.fingerprint(self._model)

    @property
    def models(self) -> dict[str, str]:
        """Hash of the weights of each model, by its role: `reasoner`, and `guard` where the monitor has weights."""
        guard = None if self.monitor is None else fingerprint_of(self.monitor)
        return {"reasoner": self.fingerprint} | ({} if guard is None else {"guard": guard})

    @property
    def numerics(self) -> dict[str, Numerics]:
        """Numerical settings of each model that is loaded here: `reasoner`, and `guard` or `guard 2` and so on."""
        guards = {f"guard {n}" if n > 1 else "guard": each for n, each in enumerate(numerics_of(self.monitor), start=1)}
        own = {} if isinstance(self._model, ServedModel) else {"reasoner": Numerics.of(self._model)}
        return own | guards

    @property
    def local_engine(self) -> LocalEngine:
        """The engine, where it has the reasoner's weights.

        Raises:
            ConfigError: it has not, as one behind a server.
        """
        if not isinstance(self.engine, LocalEngine):
            raise ConfigError("this needs the reasoner's own weights, which its engine has not")
        return self.engine

    def bind(self, prefix: PrefixLike) -> PrefixArtifact:
        """Load a prefix and bind it to this reasoner; the rows of a soft one are handed to the engine.

        Raises:
            MissingFileError: if the prefix cannot be found.
            ArtifactError: if it does not fit this reasoner.
        """
        artifact = prefix if isinstance(prefix, PrefixArtifact) else prefixes.load(prefix)
        return prefixes.bind(artifact, self.tokenizer, self.engine)

    @overload
    def __call__(self, prompt: str | Prompt) -> Result: ...
    @overload
    def __call__(self, prompt: Sequence[str | Prompt]) -> list[Result]: ...
    def __call__(self, prompt: str | Prompt | Sequence[str | Prompt]) -> Result | list[Result]:
        """Think and answer, guarded: one prompt gives one result, a list is run as one batch.

        Raises:
            PromptError: if a prompt is empty or too long, or two of a list are the same.
            MonitorError: if the monitor fails; nothing is answered unguarded.
        """
        if isinstance(prompt, str | Prompt):
            return self.run([prompt])[0]
        return self.run(prompt)

    def run(self, prompts: Sequence[str | Prompt], samples: int = 1) -> list[Result]:
        """Run every prompt `samples` times; results come prompt by prompt, sample by sample.

        Raises:
            PromptError: if a prompt is empty or too long, or two have the same id; several runs of one are `samples`.
            MonitorError: if the monitor fails; nothing is answered unguarded.
        """
        named = [as_prompt(prompt) for prompt in prompts]
        refuse_duplicates(named)
        jobs = [(prompt, sample) for prompt in named for sample in range(samples)]
        return self._ordered([self.row(prompt, sample) for prompt, sample in jobs])

    def as_finished(self, jobs: Iterable[tuple[Prompt, int]]) -> Iterator[Result]:
        """Run (prompt, sample) pairs and yield results as they finish, in no particular order."""
        for finished in self._run(self.row(prompt, sample) for prompt, sample in jobs):
            yield self._result(finished)

    def stream(self, prompt: str | Prompt, sample: int = 0) -> Generator[Event, None, None]:
        """Think and answer, guarded, and show what is accepted as soon as it is; see `Event`.

        Nothing is ever shown that was not accepted, or that may still be taken back. The result is that of a call.
        Whoever stops reading stops the reasoner.

        Raises:
            PromptError: if the prompt is empty or too long.
            MonitorError: if the monitor fails; nothing is shown unguarded.
        """
        transcript = Transcript(self.thought)
        row = self.row(as_prompt(prompt), sample, streamed=True)
        with closing(scheduler.follow([row], self.engine, self.monitor, self.thought, self.limits)) as news:
            for event in news:
                if isinstance(event, Accepted):
                    yield from transcript.show(event.standing, event.sampled)
                else:
                    yield from transcript.finish(self._result(event))

    def row(self, prompt: Prompt, sample: int = 0, streamed: bool = False) -> Row:
        """One prompt and sample under this defense, ready for the scheduler.

        Args:
            prompt: the prompt.
            sample: which sample of it.
            streamed: whether somebody reads along.

        Raises:
            PromptError: if the prompt is empty or too long.
        """
        prefixes = self.prefix.token_ids if self.rule.needs.prefix else ()
        return open_row(
            self.thought, prompt, self.rule, seed=self.seed, sample=sample, prefixes=prefixes, streamed=streamed
        )

    def continue_from(self, branches: Iterable[Branch], seed: int | None = None) -> list[Result]:
        """Continue unguarded from the middle of traces: one injection each, no monitor, no resampling.

        Branches that differ only in what they inject use the same random numbers, so their difference is paired.

        Args:
            branches: where to start and what to inject.
            seed: base seed; None for this reasoner's.

        Returns:
            One result per branch, in order; its trace begins with the branch's trace, and the injected tokens where
            they are kept.
        """
        return self._ordered([self._branch_row(branch, self.seed if seed is None else seed) for branch in branches])

    def replay(self, replays: Iterable[Replay]) -> list[Result]:
        """Run this defense on steps that were sampled before, and from there on: its resamples, limits and fallback.

        Returns:
            One result per replay, in order.
        """
        prefixes = self.prefix.token_ids if self.rule.needs.prefix else ()
        rows = [
            open_row(
                self.thought,
                each.prompt,
                partial(replayed, defense=self.rule, steps=each.steps),
                seed=stable_seed(self.seed, "branch", each.num_before_last),
                sample=each.sample,
                trace=each.trace,
                prefixes=prefixes,
            )
            for each in replays
        ]
        return self._ordered(rows)

    def fork(
        self, result: Result, step: int, prefix: PrefixLike | None = None, n: int = 1, seed: int | None = None
    ) -> list[Result]:
        """Go back to before a step of `result`, inject once, and continue unguarded; see `Result.fork`."""
        trace = result.verdict.trace
        starts = self.stopper.step_starts(
            trace, self.limits.max_step_tokens, first=len(prefill_tokens(self.thought, result.prompt))
        )
        if not 0 <= step < len(starts):
            why = "" if self.thought.family.thinks else "; this model does not think"
            raise ValueError(f"the trace has {len(starts)} steps, counted from 0, and no step {step}{why}")
        ids = () if prefix is None else self.bind(prefix).token_ids[0]
        base = stable_seed(result.seed, result.sample, "fork") if seed is None else seed
        kept = trace[: starts[step]]
        return self.continue_from([Branch(result.prompt, kept, ids, sample) for sample in range(n)], base)

    def _branch_row(self, branch: Branch, seed: int) -> Row:
        return open_row(
            self.thought,
            branch.prompt,
            partial(inject_once, keep_prefix=branch.keep_prefix),
            seed=stable_seed(seed, "branch", len(branch.trace)),
            sample=branch.sample,
            trace=branch.trace,
            prefixes=(branch.prefix_ids,) if branch.prefix_ids else (),
        )

    def _ordered(self, rows: Sequence[Row]) -> list[Result]:
        places = {id(row): place for place, row in enumerate(rows)}
        finished = sorted(self._run(rows), key=lambda done: places[id(done.row)])
        return [self._result(done) for done in finished]

    def _run(self, rows: Iterable[Row]) -> Iterator[Finished]:
        return scheduler.run(rows, self.engine, self.monitor, self.thought, self.limits, self.batch_size)

    def _result(self, finished: Finished) -> Result:
        row, verdict, usage = finished
        trace = full_trace_text(self.thought, verdict.trace)
        return Result(
            prompt=row.prompt,
            sample=row.sample,
            seed=row.seed,
            prompt_ids=row.prompt_ids,
            verdict=verdict,
            usage=usage,
            trace=trace,
            own_trace=trace_text(self.thought, verdict.trace) if any(verdict.trace.forced) else trace,
            answer=answer_text(self.thought, verdict.answer),
            prefixes=() if self._prefix is None else self._prefix.texts,
            guarded=self,
        )

    def _checked(self, rule: Rule) -> Rule:
        if rule.needs.scores and self.monitor is None:
            raise ConfigError(f"defense {rule.name!r} needs a monitor, and none was given")
        if rule.needs.prefix and self._prefix is None:
            raise ConfigError(f"defense {rule.name!r} needs a prefix, and none was given")
        refuse_unfit(self.engine, rule, self.monitor)
        if rule.needs.prefix and isinstance(self.engine, WritingEngine):
            for prefix_ids in self.prefix.token_ids:
                self.engine.refuse_unwritable(self.thought.injection(prefix_ids))
        return rule


def as_prompt(prompt: str | Prompt) -> Prompt:
    """A text as a prompt; its id is a hash of the text, so that its seeds do not depend on what runs beside it."""
    return Prompt.from_text(prompt, id=f"text-{stable_seed(prompt):016x}") if isinstance(prompt, str) else prompt
