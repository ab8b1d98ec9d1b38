# pyright: standard
"""A finite pool of phrases, or a slot grammar, tried out on validation: the paper's own way of finding a prefix.

SafeThink (arXiv 2602.11096) had phrases of one to five tokens written, scored them by what they do on validation, and
kept those that leave the reasoner's distribution on harmless prompts about as it is. Here a phrase is injected once at
states where the monitor fired; its cost is the share that does not recover, and never a loss. A grammar that is small
is tried as a whole. From a larger one Optuna picks: its TPE sampler chooses slot by slot, and its Wilcoxon pruner drops
a phrase as soon as it is surely worse than the best one on the states that both have seen, in shuffled order.

Every step tries one phrase. The study is rebuilt from what was tried, with a sampler seeded by the step, so that a
search that was killed goes on to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, TypeAlias, runtime_checkable

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from optimize.config import PhrasesConfig
from optimize.objectives import Cost
from optimize.quiet import quiet_optuna
from optimize.search.driver import search
from optimize.search.journal import Journal
from optimize.search.method import Alphabet, Archive, Explaining, Ids, Scored, Wording
from safethink.errors import ConfigError, SearchError
from safethink.seeds import stable_seed

Choice: TypeAlias = dict[str, int]
"""Indices that pick a phrase: its number in the pool, or for every slot that of its choice."""

POOL = "pool"
"""Name of the choice of a phrase of the pool."""
BLOCK = 16
"""States a phrase is tried at before the pruner is asked."""
MAX_ASKS = 8
"""Suggestions that were tried before, with all their neighbours, after which the next phrase is taken as written."""


class Grammar:
    """All phrases of a configuration, the pool's first.

    Args:
        config: has the pool and the slots.

    Raises:
        ConfigError: there is no phrase, or a slot has no choice.
    """

    def __init__(self, config: PhrasesConfig) -> None:
        for number, slot in enumerate(config.slots):
            if not slot:
                raise ConfigError(f"search.slots: slot {number} has no choice")
        self._pool, self._slots = config.pool, config.slots
        if len(self) == 0:
            raise ConfigError("search.pool: there are no phrases; give some in search.pool, or search.slots")

    def __len__(self) -> int:
        return len(self._pool) + (math.prod(map(len, self._slots)) if self._slots else 0)

    def text(self, choice: Choice) -> str:
        """The phrase of a choice; choices of slots are joined as written."""
        if POOL in choice:
            return self._pool[choice[POOL]]
        return "".join(slot[choice[_name(number)]] for number, slot in enumerate(self._slots))

    def choices(self) -> Iterator[Choice]:
        """All choices, in the order in which they are written; the last slot changes fastest."""
        yield from self.of_pool()
        for chosen in product(*(range(len(slot)) for slot in self._slots)) if self._slots else ():
            yield {_name(number): index for number, index in enumerate(chosen)}

    def of_pool(self) -> Iterator[Choice]:
        """The choices of the pool."""
        return ({POOL: index} for index in range(len(self._pool)))

    def sizes(self) -> dict[str, int]:
        """Sizes of the choices, by name: a choice of every slot; without slots, a phrase of the pool."""
        if self._slots:
            return {_name(number): len(slot) for number, slot in enumerate(self._slots)}
        return {POOL: len(self._pool)}

    def neighbours(self, choice: Choice) -> list[Choice]:
        """All choices that differ in one thing."""
        sizes = self.sizes()
        return [choice | {name: other} for name in choice for other in range(sizes[name]) if other != choice[name]]


def _name(number: int) -> str:
    return f"slot {number}"


@runtime_checkable
class RecoveryObjective(Protocol):
    """Recovery of states at which the monitor fired, and divergence on harmless ones."""

    num_contexts: int
    tokens: int
    """Tokens forwarded so far: what a budget is spent on."""

    def recovered(self, prefix: Ids, contexts: Sequence[int]) -> list[float]:
        """For each of some states, by index, whether it recovers after one injection, or the share of its seeds."""
        ...

    def divergence(self, prefix: Ids) -> float:
        """KL divergence of harmless continuations from the bare reasoner, in nats per token."""
        ...


@dataclass(frozen=True, slots=True)
class Tried:
    """A phrase that was tried.

    Attributes:
        choice: which one.
        failures: the share that did not recover, state by state; not of all states where the pruner stopped it.
    """

    choice: Choice
    failures: list[float]

    @property
    def cost(self) -> float:
        """The share that did not recover."""
        return sum(self.failures) / len(self.failures)


def search_phrases(
    config: PhrasesConfig, measured: RecoveryObjective, words: Wording, journal: Journal, seed: int
) -> Archive:
    """Try phrases, until all are tried or the budget is spent; what a phrase costs is what the driver logs of it.

    Args:
        config: the phrases, and how many may be tried.
        measured: where they are tried.
        words: reads texts, and says which survive being written down and read again.
        journal: keeps every step.
        seed: of Optuna's choices and the order of the states.

    Raises:
        ConfigError: there are no phrases, or none of at most `config.length` tokens.
        SearchError: none survives, or none is near enough to the bare reasoner.
    """
    phrases = Phrases(config, measured, words, journal.archive, seed)
    if config.max_kl is None:
        return search(phrases, words, phrases, config, journal, seed)
    near = Restrained(words, measured, config.max_kl)
    try:
        return search(phrases, near, phrases, config, journal, seed)
    except SearchError as error:
        if not near.num_too_far:
            raise
        raise SearchError(
            f"search.max_kl: {near.num_too_far} phrases move harmless continuations by more than {config.max_kl} nats "
            "per token, and no other one survives"
        ) from error


class Restrained:
    """An alphabet from which prefixes are dropped that move harmless continuations too far.

    Args:
        alphabet: drops what does not survive being written down and read again.
        measured: says how far they move.
        max_kl: how far they may, in nats per token.

    Attributes:
        num_too_far: prefixes that were dropped for it so far.
    """

    def __init__(self, alphabet: Alphabet, measured: RecoveryObjective, max_kl: float) -> None:
        self.allowed = alphabet.allowed
        self._alphabet, self._measured, self._max_kl = alphabet, measured, max_kl
        self.num_too_far = 0

    def survive(self, candidates: Sequence[Ids]) -> list[bool]:
        """Mask of the candidates that survive, and are near enough."""
        alive = self._alphabet.survive(candidates)
        return [survives and self._is_near(ids) for ids, survives in zip(candidates, alive, strict=True)]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prefix."""
        return self._alphabet.text(ids)

    def complaint(self, ids: Ids) -> str:
        """The reason why a prefix does not survive; empty where it does, or where nobody says."""
        return self._alphabet.complaint(ids) if isinstance(self._alphabet, Explaining) else ""

    def _is_near(self, ids: Ids) -> bool:
        is_near = self._measured.divergence(ids) <= self._max_kl
        self.num_too_far += not is_near
        return is_near


class Phrases:
    """Chooses phrases and tries them: the method and the objective of a search in one.

    Args:
        config: the phrases.
        measured: where they are tried.
        words: reads texts.
        archive: what was tried so far.
        seed: of the order of the states.

    Raises:
        ConfigError: there are no phrases, or none that is short enough.
    """

    def __init__(
        self, config: PhrasesConfig, measured: RecoveryObjective, words: Wording, archive: Archive, seed: int
    ) -> None:
        self._config, self._measured, self._words, self._archive = config, measured, words, archive
        self._grammar = Grammar(config)
        self._exhaustive = len(self._grammar) <= config.exhaustive_below
        generator = torch.Generator().manual_seed(stable_seed("phrases", "states", seed))
        self._order: list[int] = torch.randperm(measured.num_contexts, generator=generator).tolist()
        self._ids: dict[str, Ids] = {}
        self._proposed: Choice = {}
        self._tried: list[Tried] = []
        if not any(map(self._fits, map(self._read, self._grammar.choices()))):
            raise ConfigError(f"search.length: no phrase has at most {config.length} tokens")

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far."""
        return self._measured.tokens

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """The next phrase: as written where all are to be tried, otherwise the pool's first, then Optuna's choice."""
        if self._exhaustive:
            return self._next(self._grammar.choices())
        ahead = self._next(self._grammar.of_pool()) if POOL not in self._grammar.sizes() else []
        return ahead or self._suggested(generator) or self._next(self._grammar.choices())

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """The share of states that do not recover; of those it was tried at where the pruner stops it."""
        (ids,) = candidates
        tried = Tried(self._proposed, self._try(ids))
        self._tried.append(tried)
        total = torch.tensor([tried.cost], dtype=torch.float64)
        contexts = torch.tensor([len(tried.failures)], dtype=torch.float64)
        exact = torch.tensor([len(tried.failures) == len(self._order)])
        return Cost(total, {"unrecovered": total, "contexts": contexts}, exact)

    def observe(self, scored: Sequence[Scored]) -> None:
        """No-op: what is tried is noted while it is."""

    def state_dict(self) -> dict[str, Any]:
        """Phrases tried so far, with their failures."""
        return {"tried": [[tried.choice, tried.failures] for tried in self._tried]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._tried = [Tried(choice, failures) for choice, failures in state["tried"]]

    def _read(self, choice: Choice) -> Ids:
        text = self._grammar.text(choice)
        if text not in self._ids:
            self._ids[text] = self._words.ids(text)
        return self._ids[text]

    def _fits(self, ids: Ids) -> bool:
        return 0 < len(ids) <= self._config.length

    def _next(self, choices: Iterable[Choice]) -> list[Ids]:
        """The first phrase that was never tried; none where all were."""
        for choice in choices:
            ids = self._read(choice)
            if self._fits(ids) and ids not in self._archive:
                self._proposed = choice
                return [ids]
        return []

    def _suggested(self, generator: torch.Generator) -> list[Ids]:
        """Optuna's choice, or a neighbour of it where that was tried: the sampler likes to repeat what was good."""
        seed = int(torch.randint(2**31, (), generator=generator))
        with quiet_optuna():
            study = self._study(TPESampler(seed=seed))
            for _ in range(MAX_ASKS):
                trial = study.ask(self._distributions())
                neighbours = self._grammar.neighbours(trial.params)
                order = torch.randperm(len(neighbours), generator=generator).tolist()
                if found := self._next([trial.params, *(neighbours[index] for index in order)]):
                    return found
                study.tell(trial, state=TrialState.FAIL)
        return []

    def _try(self, ids: Ids) -> list[float]:
        """Failures to recover, state by state, until all were seen or the pruner stops it."""
        if self._exhaustive:
            return [1.0 - share for share in self._measured.recovered(ids, self._order)]
        failures: list[float] = []
        with quiet_optuna():
            trial = self._study(TPESampler()).ask()
            while len(failures) < len(self._order):
                block = self._order[len(failures) :][:BLOCK]
                for context, share in zip(block, self._measured.recovered(ids, block), strict=True):
                    trial.report(1.0 - share, step=context)
                    failures.append(1.0 - share)
                if trial.should_prune():
                    break
        return failures

    def _study(self, sampler: TPESampler) -> optuna.Study:
        """A study of what was tried so far."""
        study = optuna.create_study(direction="minimize", sampler=sampler, pruner=WilcoxonPruner())
        distributions = self._distributions()
        for tried in self._tried:
            complete = len(tried.failures) == len(self._order)
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                    value=tried.cost,
                    params={name: index for name, index in tried.choice.items() if name in distributions},
                    distributions={name: distributions[name] for name in tried.choice if name in distributions},
                    intermediate_values=dict(zip(self._order, tried.failures, strict=False)),
                )
            )
        return study

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {name: CategoricalDistribution(range(size)) for name, size in self._grammar.sizes().items()}
