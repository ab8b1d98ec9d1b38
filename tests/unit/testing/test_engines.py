"""Our engine keeps what the suite asks of every engine, and each check finds the fault it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from safethink.config import ThoughtConfig
from safethink.defenses.effects import Extension, View
from safethink.engines import ExtendRequest, LookRequest, StateRequest, WeighRequest
from safethink.engines.build import end_ids
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import LOOK_BACK, Stopper
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.testing import engines
from safethink.testing.check import Check
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens
from tests.support import chat_reasoner

THOUGHT = Thought(ThoughtConfig(), chat_reasoner.tokenizer())
PROMPTS = tuple(open_prompt(THOUGHT, Prompt.from_text(text)) for text in ("Add 3 and 4.", "Hmm, is it so? Wait."))
MODEL = chat_reasoner.model()
END_IDS = end_ids(MODEL, chat_reasoner.tokenizer())
STOPPER = Stopper(THOUGHT, END_IDS)


def checks(make: Callable[[], Any], samples: bool = True) -> tuple[Check, ...]:
    return engines.checks(make, THOUGHT, PROMPTS, END_IDS, samples=samples)


OURS = {
    "sampling": checks(lambda: HfEngine(MODEL, STOPPER, Sampling())),
    "greedy": checks(lambda: HfEngine(MODEL, STOPPER, Sampling(temperature=0.0)), samples=False),
    "short of memory": checks(lambda: HfEngine(MODEL, STOPPER, Sampling(top_p=0.9), max_cached_tokens=64)),
}
NAMED = [(f"{name}: {check}", check) for name, suite in OURS.items() for check in suite]


@pytest.mark.slow
@pytest.mark.parametrize("check", [check for _, check in NAMED], ids=[name for name, _ in NAMED])
def test_ours_keeps(check: Check) -> None:
    check()


class Hashed:
    """A sound engine whose next token is a function of all before it; each subclass breaks one thing."""

    def __init__(self) -> None:
        self.submitted: list[ExtendRequest] = []

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        return [self.one(request) for request in requests]

    def submit(self, requests: Sequence[ExtendRequest]) -> None:
        self.submitted += requests

    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        first = next(request for request in self.submitted if request.row in rows)
        self.submitted.remove(first)
        return {first.row: self.one(first)}

    def look(self, requests: Sequence[LookRequest]) -> list[View]:
        return [self.view(request) for request in requests]

    def weigh(self, requests: Sequence[WeighRequest]) -> list[tuple[float, ...]]:
        return [
            tuple(
                float(self.scores(request.ids + request.continuation[:place])[token])
                for place, token in enumerate(request.continuation)
            )
            for request in requests
        ]

    def states(self, requests: Sequence[StateRequest], layer: int) -> torch.Tensor:
        return torch.stack([self.state(request.ids) for request in requests])

    def release(self, row: int) -> None: ...

    def one(self, request: ExtendRequest) -> Extension:
        said: list[int] = []
        while len(said) < request.max_new_tokens:
            said.append(self.next_token(request, (*request.ids, *said)))
            stop = STOPPER.reason(said, request.until, request.ids[-LOOK_BACK:])
            if stop:
                return Extension(Tokens.sampled(tuple(said)), stop)
        return Extension(Tokens.sampled(tuple(said)), "length")

    def next_token(self, request: ExtendRequest, ids: tuple[int, ...]) -> int:
        generator = torch.Generator().manual_seed(stable_seed(request.seed, len(ids)))
        return int(torch.multinomial(self.scores(ids).exp(), 1, generator=generator))

    def scores(self, ids: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(stable_seed("next", *ids))
        logits = torch.randn(len(chat_reasoner.tokenizer()), generator=generator, dtype=torch.float64)
        logits[list({*END_IDS, *THOUGHT.close_ids, *THOUGHT.encoder.text("\n\n")})] += 4
        return logits.log_softmax(0)

    def state(self, ids: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(stable_seed("state", *ids)))

    def view(self, request: LookRequest) -> View:
        scores = self.scores(request.ids)
        top = scores.topk(request.top_k)
        hidden = () if request.layer is None else tuple(self.state(request.ids).tolist())
        entropy = float(torch.special.entr(scores.exp()).sum())
        return View(tuple(top.indices.tolist()), tuple(top.values.tolist()), entropy, hidden)


class NoRelease:
    extend = Hashed.extend


class BatchSeeded(Hashed):
    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        return [self.one(replace(each, seed=each.seed + len(requests))) for each in requests]


class OneSeed(Hashed):
    def one(self, request: ExtendRequest) -> Extension:
        return super().one(replace(request, seed=0))


class KeySeeded(Hashed):
    def one(self, request: ExtendRequest) -> Extension:
        return super().one(replace(request, seed=stable_seed(request.seed, request.row)))


class Global(Hashed):
    def next_token(self, request: ExtendRequest, ids: tuple[int, ...]) -> int:
        return int(torch.multinomial(self.scores(ids).exp(), 1))


class RunsOver(Hashed):
    """Says one token more than it should."""

    def one(self, request: ExtendRequest) -> Extension:
        said = super().one(request)
        return said if said.stop == "length" else replace(said, tokens=said.tokens + Tokens.sampled((5,)))


class WrongReason(Hashed):
    def one(self, request: ExtendRequest) -> Extension:
        return replace(super().one(request), stop="length")


class Forces(Hashed):
    def one(self, request: ExtendRequest) -> Extension:
        said = super().one(request)
        return replace(said, tokens=Tokens.injected(said.tokens.ids))


class Greedy(Hashed):
    """Takes one token more than there is room for."""

    def one(self, request: ExtendRequest) -> Extension:
        return super().one(replace(request, max_new_tokens=request.max_new_tokens + 1))


class Stale(Hashed):
    """Keeps what it has read of a row, and never takes it back."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, tuple[int, ...]] = {}

    def one(self, request: ExtendRequest) -> Extension:
        kept = max(self.kept.get(request.row, ()), request.ids, key=len)
        said = super().one(replace(request, ids=kept))
        self.kept[request.row] = kept + said.tokens.ids
        return said

    def release(self, row: int) -> None:
        self.kept.pop(row, None)


class Stream(Hashed):
    """One stream of random numbers per row, whatever the position."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[int]()

    def one(self, request: ExtendRequest) -> Extension:
        self.calls[request.row] += 1
        return super().one(replace(request, seed=request.seed + self.calls[request.row] - 1))


class Ghost(Hashed):
    """A released row comes back as another."""

    def __init__(self) -> None:
        super().__init__()
        self.released = Counter[int]()

    def one(self, request: ExtendRequest) -> Extension:
        return super().one(replace(request, seed=request.seed + self.released[request.row]))

    def release(self, row: int) -> None:
        self.released[row] += 1


class LateSeeded(Hashed):
    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        self.submitted = [replace(each, seed=each.seed + 1) for each in self.submitted]
        return super().collect(rows, share)


class Hangs(Hashed):
    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        return {}


class Unsorted(Hashed):
    def view(self, request: LookRequest) -> View:
        view = super().view(request)
        return replace(view, token_ids=view.token_ids[::-1], log_probabilities=view.log_probabilities[::-1])


class Tempered(Hashed):
    """Shows what it samples from at another temperature."""

    def view(self, request: LookRequest) -> View:
        view = super().view(request)
        return replace(view, log_probabilities=tuple(2 * each for each in view.log_probabilities))


class Unconditional(Hashed):
    """Weighs every token as if it were the first."""

    def weigh(self, requests: Sequence[WeighRequest]) -> list[tuple[float, ...]]:
        return [tuple(self.scores(each.ids)[list(each.continuation)].tolist()) for each in requests]


class Stirred(Hashed):
    """A look draws a random number of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = Counter[int]()

    def view(self, request: LookRequest) -> View:
        self.looks[request.row] += 1
        return super().view(request)

    def one(self, request: ExtendRequest) -> Extension:
        return super().one(replace(request, seed=request.seed + self.looks[request.row]))


class Swapped(Hashed):
    def states(self, requests: Sequence[StateRequest], layer: int) -> torch.Tensor:
        return super().states(requests[::-1], layer)


class OtherState(Hashed):
    def view(self, request: LookRequest) -> View:
        view = super().view(request)
        return replace(view, hidden=tuple(2 * each for each in view.hidden))


BROKEN: list[tuple[Callable[[], Any], Callable[..., None]]] = [
    (NoRelease, engines.has_the_members_of_an_engine),
    (BatchSeeded, engines.rows_do_not_influence_each_other),
    (OneSeed, engines.equal_seeds_reproduce_and_others_do_not),
    (KeySeeded, engines.equal_seeds_reproduce_and_others_do_not),
    (Global, engines.equal_seeds_reproduce_and_others_do_not),
    (RunsOver, engines.stops_where_it_was_asked_to),
    (WrongReason, engines.stops_where_it_was_asked_to),
    (Forces, engines.stops_where_it_was_asked_to),
    (Greedy, engines.never_exceeds_the_token_limit),
    (Stale, engines.rolls_back_exactly),
    (Stream, engines.continues_where_it_stopped),
    (Ghost, engines.forgets_what_is_released),
    (LateSeeded, engines.rows_may_come_in_late),
    (Hangs, engines.rows_may_come_in_late),
    (Unsorted, engines.looks_agree_with_weights),
    (Tempered, engines.looks_agree_with_weights),
    (Unconditional, engines.weights_follow_the_chain_rule),
    (Stirred, engines.a_look_changes_nothing),
    (Swapped, engines.hidden_states_belong_to_their_rows),
    (OtherState, engines.hidden_states_belong_to_their_rows),
]


@pytest.mark.parametrize(("make", "broken"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_a_check_finds_its_fault(make: Callable[[], Any], broken: Callable[..., None]) -> None:
    check = next(each for each in checks(make) if each.name == broken.__name__)
    with pytest.raises(AssertionError):
        check()


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {broken.__name__ for _, broken in BROKEN} == {check.name for check in checks(Hashed)}


@pytest.mark.parametrize("check", checks(Hashed), ids=str)
def test_a_sound_one_passes_them_all(check: Check) -> None:
    check()
