# pyright: standard
"""Contract of every search method; checked by searching a toy objective, with no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from optimize.config import MethodConfig
from optimize.objectives import Cost
from optimize.search import driver
from optimize.search.journal import Journal, untimed
from optimize.search.method import Alphabet, Ids, Method, Scored, Searchable
from optimize.search.methods import MethodInputs, ReasonerAccess
from safethink.testing.check import Check, checks_of, ensure

NUM_TOKENS = 30


class Letters:
    """A vocabulary of letters, of which a few prefixes do not survive being written down and read again."""

    allowed: tuple[int, ...] = tuple(range(3, NUM_TOKENS))

    def survive(self, candidates: Sequence[Ids]) -> list[bool]:
        """All do, but for those whose ids add up to a multiple of seven."""
        return [sum(ids) % 7 > 0 for ids in candidates]

    def text(self, ids: Sequence[int]) -> str:
        """One letter per token."""
        return "".join(chr(97 + token) for token in ids)


class Toy:
    """Costs that add up token by token; the gradient is exact."""

    def __init__(self) -> None:
        self._costs = torch.randn(64, NUM_TOKENS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.tokens = 0

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """Costs of the candidates."""
        self.tokens += len(candidates)
        totals = [sum(float(self._costs[place, token]) for place, token in enumerate(ids)) for ids in candidates]
        return Cost.of(torch.tensor(totals, dtype=torch.float64), {})

    def coordinate_gradient(self, prefix: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Change of the cost by each allowed token at each place."""
        self.tokens += 2
        return self._costs[: len(prefix), allowed].float()


class Killed(Exception):
    """Stands for kill -9."""


class Watched:
    """A method whose proposals are written down; dies before the step after `num_steps`."""

    def __init__(self, method: Method, num_steps: int | None) -> None:
        self.proposals: list[list[Ids]] = []
        self.observed: list[list[Scored]] = []
        self._method, self._num_steps = method, num_steps

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Pass on what is proposed."""
        if len(self.proposals) == self._num_steps:
            raise Killed
        # Whoever draws from torch's global generator draws something else each time.
        torch.seed()
        proposals = self._method.propose(generator)
        self.proposals.append(list(proposals))
        return proposals

    def observe(self, scored: Sequence[Scored]) -> None:
        """Pass on what was scored."""
        self.observed.append(list(scored))
        self._method.observe(scored)

    def state_dict(self) -> dict[str, Any]:
        """The method's."""
        return self._method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand it to the method."""
        self._method.load_state_dict(state)


class Course(NamedTuple):
    """Course of a search: its log, the costs by candidate, and the proposals."""

    log: list[str]
    costs: dict[Ids, float]
    proposals: list[list[Ids]]


@dataclass(frozen=True, slots=True)
class Trial:
    """A search method before its suite.

    Attributes:
        make: makes a fresh one.
        config: how long, how many, how often.
        objective: makes what is minimised.
        vocabulary: what prefixes are made of.
        aids: what else the method may ask for.
        start: what the first start begins with.
    """

    make: Callable[[MethodInputs], Method]
    config: MethodConfig
    objective: Callable[[], Searchable] = Toy
    vocabulary: Alphabet = field(default_factory=Letters)
    aids: ReasonerAccess | None = None
    start: Ids = ()

    def search(self, folder: Path, seed: int = 0, num_steps: int | None = None) -> Course:
        """Search, or go on in a folder where a search was killed.

        Raises:
            Killed: after `num_steps`.
        """
        objective, journal = self.objective(), Journal(folder, "conformance")
        watched = Watched(self.make(self.given(journal, objective)), num_steps)
        driver.search(objective, self.vocabulary, watched, self.config, journal, seed)
        log = [json.dumps(line) for line in untimed(journal.log)]
        return Course(log, dict(journal.archive.costs), watched.proposals)

    def given(self, journal: Journal, objective: Searchable) -> MethodInputs:
        """Inputs that the method is built from."""
        return MethodInputs(self.config, objective, self.vocabulary, self.start, journal.archive, self.aids)

    def fresh(self, seed: int = 0) -> Course:
        """Search from the beginning."""
        with TemporaryDirectory() as folder:
            return self.search(Path(folder), seed)


def checks(
    make: Callable[[MethodInputs], Method],
    config: MethodConfig,
    *,
    objective: Callable[[], Searchable] = Toy,
    vocabulary: Alphabet | None = None,
    aids: ReasonerAccess | None = None,
    start: Ids = (),
) -> tuple[Check, ...]:
    """The suite for a search method.

    Args:
        make: makes a fresh one, such as its class.
        config: its section; a few steps are enough.
        objective: makes what is minimised, for a method that asks more of it than the toy has.
        vocabulary: what prefixes are made of; None for letters.
        aids: what else the method may ask for.
        start: what the first start begins with; empty for random tokens.
    """
    return checks_of(
        Trial(make, config, objective, vocabulary or Letters(), aids, start),
        has_the_members_of_a_method,
        proposes_allowed_tokens_of_allowed_lengths,
        is_deterministic_by_its_seed,
        goes_on_from_its_state_to_the_same_result,
        keeps_a_state_that_can_be_written_down,
        lives_through_a_step_in_which_nothing_survives,
    )


def has_the_members_of_a_method(trial: Trial) -> None:
    """It has `propose`, `observe`, `state_dict` and `load_state_dict`."""
    with TemporaryDirectory() as folder:
        made: object = trial.make(trial.given(Journal(Path(folder), "conformance"), trial.objective()))
    ensure(isinstance(made, Method), f"a {type(made).__name__} is without one of a method's four members")


def proposes_allowed_tokens_of_allowed_lengths(trial: Trial) -> None:
    """Prefixes are tuples of 1 to `length` tokens of the vocabulary."""
    allowed = set(trial.vocabulary.allowed)
    for ids in (each for step in trial.fresh().proposals for each in step):
        ensure(isinstance(ids, tuple), f"a prefix is a tuple, not a {type(ids).__name__}")
        ensure(1 <= len(ids) <= trial.config.length, f"{len(ids)} tokens where at most {trial.config.length} may be")
        ensure(set(ids) <= allowed, f"{sorted(set(ids) - allowed)} may stand in no prefix")


def is_deterministic_by_its_seed(trial: Trial) -> None:
    """The same seed gives the same search in a fresh method."""
    first, second = trial.fresh(seed=3), trial.fresh(seed=3)
    ensure(first == second, _difference(first, second, "the same seed searches elsewhere"))


def goes_on_from_its_state_to_the_same_result(trial: Trial) -> None:
    """Killed after any step, a search comes to the same result."""
    whole = trial.fresh()
    for num_steps in range(1, len(whole.proposals)):
        with TemporaryDirectory() as place:
            folder = Path(place)
            with suppress(Killed):
                trial.search(folder, num_steps=num_steps)
            resumed = trial.search(folder)
        fault = f"killed after step {num_steps}, it goes elsewhere"
        ensure((resumed.log, resumed.costs) == (whole.log, whole.costs), _difference(whole, resumed, fault))


def keeps_a_state_that_can_be_written_down(trial: Trial) -> None:
    """A state holds tensors, and values that JSON gives back as they were; a later step does not change an old one."""
    with TemporaryDirectory() as place:
        given = trial.given(Journal(Path(place), "conformance"), trial.objective())
        method, earlier = trial.make(given), list[tuple[dict[str, Any], dict[str, Any]]]()
        for seed in range(2):
            proposals = method.propose(torch.Generator().manual_seed(seed))
            method.observe(_scored(trial, given, proposals))
            state = method.state_dict()
            written = _written(state)
            other = trial.make(given)
            other.load_state_dict(deepcopy(written))
            ensure(_same_state(other.state_dict(), written), f"loaded, a state of {written} is {other.state_dict()}")
            earlier.append((state, written))
        for state, written in earlier:
            ensure(_same_state(state, written), f"a later step changed an old state, {written}, to {state}")


def lives_through_a_step_in_which_nothing_survives(trial: Trial) -> None:
    """Observing nothing raises nothing, and the next step proposes."""
    with TemporaryDirectory() as place:
        given = trial.given(Journal(Path(place), "conformance"), trial.objective())
        method = trial.make(given)
        given.archive.bury(method.propose(torch.Generator().manual_seed(0)))
        try:
            method.observe([])
            method.propose(torch.Generator().manual_seed(1))
        except Exception as error:
            raise AssertionError(f"behind a step of which nothing survived it raises {error!r}") from error


def _scored(trial: Trial, given: MethodInputs, proposals: Sequence[Ids]) -> list[Scored]:
    some = list(dict.fromkeys(proposals))[: trial.config.candidates]
    if not some:
        return []
    cost = given.objective.cost(some)
    given.archive.add(some, cost.total.tolist(), [True] * len(some))
    return [Scored(ids, float(cost.total[index]), cost.candidate(index)) for index, ids in enumerate(some)]


def _written(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a checkpoint gives it back: tensors as they are, the rest by way of JSON.

    Raises:
        AssertionError: it cannot be written down.
    """
    tensors = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    kept = {name: value for name, value in state.items() if name not in tensors}
    try:
        return json.loads(json.dumps(kept)) | tensors
    except TypeError as error:
        raise AssertionError(f"a state of {kept} cannot be written down: {error}") from error


def _same_state(state: dict[str, Any], written: dict[str, Any]) -> bool:
    again = _written(state)
    return again.keys() == written.keys() and all(
        torch.equal(again[name], value) if isinstance(value, torch.Tensor) else again[name] == value
        for name, value in written.items()
    )


def _difference(first: Course, second: Course, fault: str) -> str:
    """The fault, and the first step at which two searches differ."""
    pairs = enumerate(zip(first.log, second.log, strict=False))
    step = next((index for index, (a, b) in pairs if a != b), min(len(first.log), len(second.log)))
    return f"{fault}, from step {step} on"
