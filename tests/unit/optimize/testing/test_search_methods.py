"""Our search methods keep what the suite asks of each, and each check finds the fault it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from optimize.config import (
    BeamConfig,
    EvolutionConfig,
    GcgConfig,
    RandomConfig,
    ReflectConfig,
    RelaxedConfig,
    UnigramConfig,
)
from optimize.search import methods
from optimize.search.method import Ids, Scored
from optimize.search.methods import MethodInputs, ReasonerAccess
from optimize.testing import search_methods
from safethink.testing.check import Check
from tests.support.toy_search import Letters, Scribe, Talker, Toy, Units

SHORT: dict[str, Any] = {"length": 3, "steps": 5, "candidates": 8, "init": None}
CONFIGS = (
    GcgConfig(**SHORT, top_k=8),
    EvolutionConfig(**SHORT, population=4, top_k=8),
    BeamConfig(**SHORT, beams=3, branches=4),
    ReflectConfig(**SHORT, lists=3, traces=2),
    RelaxedConfig(**SHORT),
    RandomConfig(**SHORT),
    UnigramConfig(**SHORT),
)


def made(given: MethodInputs) -> Any:
    """The built-in method of a section."""
    config: Any = given.config
    return methods.build(config, given.objective, given.vocabulary, given.start, given.archive, given.aids)


AIDS = ReasonerAccess(Talker, Units, writer=Scribe, traces=("one", "two", "three"))
NAMED = [
    (f"{config.kind}: {check}", check)
    for config in CONFIGS
    for check in search_methods.checks(made, config, objective=Toy, vocabulary=Letters(), aids=AIDS, start=(5, 6, 7))
]


@pytest.mark.parametrize("check", [check for _, check in NAMED], ids=[name for name, _ in NAMED])
def test_ours_keeps(check: Check) -> None:
    check()


class Climber:
    """A sound method, which changes one token of the best it has seen; each subclass breaks one thing."""

    def __init__(self, given: MethodInputs) -> None:
        self.given, self.best, self.cost = given, (3, 3, 3), 1e9

    def propose(self, generator: torch.Generator) -> Any:
        places = torch.randint(3, (16,), generator=generator).tolist()
        allowed = self.given.vocabulary.allowed
        tokens = torch.randint(len(allowed), (16,), generator=generator).tolist()
        pairs = zip(places, tokens, strict=True)
        return [(*self.best[:place], allowed[token], *self.best[place + 1 :]) for place, token in pairs]

    def observe(self, scored: Sequence[Scored]) -> None:
        for each in scored:
            if each.cost < self.cost:
                self.best, self.cost = each.ids, each.cost

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best), "cost": self.cost}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.cost = tuple(state["best"]), state["cost"]


class NoState:
    def __init__(self, given: MethodInputs) -> None: ...

    def propose(self, generator: torch.Generator) -> list[Ids]:
        return []


class Long(Climber):
    def propose(self, generator: torch.Generator) -> Any:
        return [(*ids, 4) for ids in super().propose(generator)]


class Foreign(Climber):
    def propose(self, generator: torch.Generator) -> Any:
        return [(0, *ids[1:]) for ids in super().propose(generator)]


class Unseeded(Climber):
    def propose(self, generator: torch.Generator) -> Any:
        return super().propose(torch.Generator().manual_seed(torch.seed()))


class Global(Climber):
    def propose(self, generator: torch.Generator) -> Any:
        proposals = super().propose(generator)
        return [proposals[place] for place in torch.randperm(len(proposals)).tolist()]


class Forgetful(Climber):
    """Loads all but what it had found."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cost = state["cost"]


class Sets(Climber):
    def state_dict(self) -> dict[str, Any]:
        return {"best": set(self.best), "cost": self.cost}


class Shared(Climber):
    """Hands out the list that it goes on changing."""

    def __init__(self, given: MethodInputs) -> None:
        super().__init__(given)
        self.seen: list[float] = []

    def observe(self, scored: Sequence[Scored]) -> None:
        super().observe(scored)
        self.seen.extend(each.cost for each in scored)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.seen = list(state["seen"])


class Rounded(Climber):
    """Loses half of a tensor's digits when it is loaded."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"exact": torch.tensor(self.cost, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.cost = float(state["exact"].float())


class Drops(Climber):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.cost = 1e9


class NeedsSome(Climber):
    def observe(self, scored: Sequence[Scored]) -> None:
        super().observe([min(scored, key=lambda each: each.cost)])


BROKEN: list[tuple[Callable[[MethodInputs], Any], Callable[..., None]]] = [
    (NoState, search_methods.has_the_members_of_a_method),
    (Long, search_methods.proposes_allowed_tokens_of_allowed_lengths),
    (Foreign, search_methods.proposes_allowed_tokens_of_allowed_lengths),
    (Unseeded, search_methods.is_deterministic_by_its_seed),
    (Global, search_methods.is_deterministic_by_its_seed),
    (Shared, search_methods.keeps_a_state_that_can_be_written_down),
    (Rounded, search_methods.keeps_a_state_that_can_be_written_down),
    (Forgetful, search_methods.goes_on_from_its_state_to_the_same_result),
    (Sets, search_methods.keeps_a_state_that_can_be_written_down),
    (Drops, search_methods.keeps_a_state_that_can_be_written_down),
    (NeedsSome, search_methods.lives_through_a_step_in_which_nothing_survives),
]


def suite(make: Callable[[MethodInputs], Any]) -> tuple[Check, ...]:
    return search_methods.checks(make, RandomConfig(**SHORT))


@pytest.mark.parametrize(("make", "broken"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_a_check_finds_its_fault(make: Callable[[MethodInputs], Any], broken: Callable[..., None]) -> None:
    check = next(each for each in suite(make) if each.name == broken.__name__)
    with pytest.raises(AssertionError):
        check()


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {broken.__name__ for _, broken in BROKEN} == {check.name for check in suite(Climber)}


@pytest.mark.parametrize("check", suite(Climber), ids=str)
def test_a_sound_one_passes_them_all(check: Check) -> None:
    check()
