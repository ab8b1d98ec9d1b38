# pyright: standard
"""Contract tests for engines: sampling, and the agreement of all that one offers beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch

from safethink.defenses.effects import Extension, Until
from safethink.engines import (
    ContinuousEngine,
    Engine,
    ExtendRequest,
    LookRequest,
    StateEngine,
    StateRequest,
    TokenLevelEngine,
    TokenStateEngine,
    WeighRequest,
)
from safethink.engines.stopping import LOOK_BACK, Stopper
from safethink.testing.check import Check, checks_of, ensure
from safethink.thinking.format import Thought

MAX_NEW_TOKENS = 12
LAYER = 1
TOP_K = 4
NUM_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """An engine before its suite.

    Attributes:
        make: makes a fresh one.
        thought: how its reasoner's thinking is written.
        prompts: opened prompts, as token ids.
        end_ids: what ends a turn.
        samples: whether it draws tokens; a greedy one need not heed seeds.
        tolerance: how far two numbers of the same forward may differ.
        stopper: where an extension must end.
    """

    make: Callable[[], Engine]
    thought: Thought
    prompts: tuple[tuple[int, ...], ...]
    end_ids: frozenset[int]
    samples: bool
    tolerance: float
    stopper: Stopper = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stopper", Stopper(self.thought, self.end_ids))

    def requests(self) -> list[ExtendRequest]:
        """Every prompt, thinking and answering, in several seeds."""
        asked: list[ExtendRequest] = []
        for ids in self.prompts:
            for until in Until:
                answering = until in (Until.ANSWER, Until.ANSWER_STEP)
                whole = ids + self.thought.close_ids if answering else ids
                asked += [self.request(len(asked) + seed, whole, until, seed) for seed in range(NUM_SEEDS)]
        return asked

    def request(self, row: int, ids: tuple[int, ...], until: Until = Until.THOUGHT, seed: int = 0) -> ExtendRequest:
        """One request, whose text begins behind `ids`."""
        return ExtendRequest(row, ids, len(ids), until, MAX_NEW_TOKENS, seed)

    def token_level(self) -> TokenLevelEngine | None:
        """A fresh engine, where it shows single tokens."""
        engine = self.make()
        return engine if isinstance(engine, TokenLevelEngine) else None

    def near(self, first: float, second: float, fault: str) -> None:
        """Raise with the fault where two numbers differ by more than the tolerance."""
        ensure(abs(first - second) <= self.tolerance, f"{fault}: {first} and {second}")


def checks(
    make: Callable[[], Engine],
    thought: Thought,
    prompts: Sequence[tuple[int, ...]],
    end_ids: Collection[int],
    *,
    samples: bool = True,
    tolerance: float = 1e-4,
) -> tuple[Check, ...]:
    """The suite for an engine; what it offers beyond `extend` is checked where it offers it.

    Args:
        make: makes a fresh one over the same weights.
        thought: how the reasoner's thinking is written.
        prompts: prompts as `opening.open_prompt` gives them, two at least, of different lengths.
        end_ids: what ends a turn.
        samples: whether it draws tokens; a greedy one need not heed seeds.
        tolerance: how far two numbers of the same forward may differ.
    """
    return checks_of(
        Trial(make, thought, tuple(prompts), frozenset(end_ids), samples, tolerance),
        has_the_members_of_an_engine,
        rows_do_not_influence_each_other,
        equal_seeds_reproduce_and_others_do_not,
        stops_where_it_was_asked_to,
        never_exceeds_the_token_limit,
        rolls_back_exactly,
        continues_where_it_stopped,
        forgets_what_is_released,
        rows_may_come_in_late,
        looks_agree_with_weights,
        weights_follow_the_chain_rule,
        a_look_changes_nothing,
        hidden_states_belong_to_their_rows,
    )


def has_the_members_of_an_engine(trial: Trial) -> None:
    """It has `extend` and `release`."""
    made: object = trial.make()
    ensure(isinstance(made, Engine), f"a {type(made).__name__} has no `extend` and `release`")


def rows_do_not_influence_each_other(trial: Trial) -> None:
    """Alone, in a batch, or in a batch the other way round, a row says the same; results stand in order."""
    asked = trial.requests()
    together = trial.make().extend(asked)
    ensure(len(together) == len(asked), f"{len(together)} extensions for {len(asked)} requests")
    _same(together, trial.make().extend(asked[::-1])[::-1], "requests in another order say something else")
    for request, extension in zip(asked, together, strict=True):
        _same([extension], trial.make().extend([request]), "alone a row says something else")


def equal_seeds_reproduce_and_others_do_not(trial: Trial) -> None:
    """Equal ids and seed give equal tokens, under another key too; another seed gives others, where it samples."""
    engine, first = trial.make(), trial.request(1, trial.prompts[0])
    others = [replace(first, row=10 + seed, seed=seed) for seed in range(8)]
    said = engine.extend([first, *others])
    ensure(said[0] == said[1], "under another key, equal ids and seed say something else")
    _same(said[:1], trial.make().extend([first]), "a fresh engine says something else")
    torch.manual_seed(1234)
    _same(said[:1], trial.make().extend([first]), "it depends on torch's global seed")
    if trial.samples:
        ensure(len({each.tokens.ids for each in said}) > 1, f"8 seeds all say {said[0].tokens.ids}")


def stops_where_it_was_asked_to(trial: Trial) -> None:
    """An extension ends with the first token that ends it, for that reason, and all of it is sampled."""
    asked = trial.requests()
    for request, extension in zip(asked, trial.make().extend(asked), strict=True):
        ids = extension.tokens.ids
        ensure(not any(extension.tokens.forced), f"{request.until}: sampled tokens are marked as forced")
        before = request.ids[-LOOK_BACK:]
        reasons = [trial.stopper.reason(ids[: end + 1], request.until, before) for end in range(len(ids))]
        late = next((end for end, reason in enumerate(reasons[:-1]) if reason), None)
        ensure(late is None, f"{request.until}: it should have ended at token {late} of {ids}")
        full = len(ids) == request.max_new_tokens
        expected = (reasons[-1] if reasons else None) or ("length" if full else None)
        ensure(extension.stop == expected, f"{request.until}: it stopped for {extension.stop!r}, not {expected!r}")


def never_exceeds_the_token_limit(trial: Trial) -> None:
    """At most `max_new_tokens`, none included; what is cut off says so and is what a longer one begins with."""
    whole = trial.request(1, trial.prompts[0])
    (full,) = trial.make().extend([whole])
    for limit in (0, 1, 3):
        (cut,) = trial.make().extend([replace(whole, max_new_tokens=limit)])
        ensure(len(cut.tokens) <= limit, f"{len(cut.tokens)} tokens where {limit} were asked for")
        ensure(cut.tokens.ids == full.tokens.ids[:limit], f"cut at {limit} it says {cut.tokens.ids}")
        shorter = limit < len(full.tokens)
        ensure(not shorter or cut.stop == "length", f"cut at {limit} it stops for {cut.stop!r}")


def rolls_back_exactly(trial: Trial) -> None:
    """A row that drops tokens and goes on elsewhere says what a fresh one says, as often as it likes."""
    engine, ids = trial.make(), trial.prompts[0]
    (first,) = engine.extend([trial.request(1, ids)])
    branches = [ids, ids + first.tokens.ids[:1] + trial.thought.separator_ids, ids[:-1], trial.prompts[1], ids]
    for branch in branches:
        request = trial.request(1, branch, seed=3)
        _same(trial.make().extend([request]), engine.extend([request]), "behind a rollback it says something else")


def continues_where_it_stopped(trial: Trial) -> None:
    """A row that goes on from its own tokens says what a fresh one says from there."""
    for seed in range(NUM_SEEDS):
        engine, ids, stop = trial.make(), trial.prompts[0], "step"
        while stop in ("step", "length") and len(ids) < len(trial.prompts[0]) + 3 * MAX_NEW_TOKENS:
            # Two tokens at once, so that there is something to go on from.
            request = replace(trial.request(1, ids, Until.STEP, seed), max_new_tokens=2)
            (step,) = engine.extend([request])
            _same(trial.make().extend([request]), [step], "what it keeps of a row changes what it says")
            ids, stop = ids + step.tokens.ids, step.stop


def forgets_what_is_released(trial: Trial) -> None:
    """A released key may come again with another prompt; releasing what it never saw raises nothing."""
    engine = trial.make()
    engine.release(12345)
    for ids in trial.prompts:
        request = trial.request(1, ids)
        _same(trial.make().extend([request]), engine.extend([request]), "a released key remembers its last row")
        engine.release(1)


def rows_may_come_in_late(trial: Trial) -> None:
    """A row that enters while others are under way says what it says alone, and so do those (continuous batching)."""
    engine, asked = trial.make(), trial.requests()
    if not isinstance(engine, ContinuousEngine):
        return
    alone = dict(zip((each.row for each in asked), trial.make().extend(asked), strict=True))
    waiting, under_way, done = list(asked), set[int](), dict[int, Extension]()
    while waiting or under_way:
        entering, waiting = waiting[:2], waiting[2:]
        engine.submit(entering)
        under_way |= {each.row for each in entering}
        stopped = engine.collect(sorted(under_way), share=0.0)
        ensure(bool(stopped), f"rows {sorted(under_way)} are under way, and none stops")
        ensure(stopped.keys() <= under_way, f"it hands back {sorted(stopped)}, and asked for were {sorted(under_way)}")
        done |= stopped
        under_way -= stopped.keys()
    _same([alone[each.row] for each in asked], [done[each.row] for each in asked], "let in late, a row differs")


def looks_agree_with_weights(trial: Trial) -> None:
    """A `Look` shows the sorted head of a distribution, with the log-probabilities `Weigh` gives the same tokens."""
    engine = trial.token_level()
    if engine is None:
        return
    asked = [LookRequest(row, ids, TOP_K) for row, ids in enumerate(trial.prompts)]
    views = engine.look(asked)
    for request, view in zip(asked, views, strict=True):
        (alone,) = trial.make().look([request])  # pyright: ignore[reportAttributeAccessIssue] (it is one more of them)
        ensure(len(view.token_ids) == len(view.log_probabilities) == TOP_K, f"{TOP_K} tokens were asked for: {view}")
        ensure(alone.token_ids == view.token_ids, "beside other rows, other tokens are likeliest")
        ordered = list(view.log_probabilities) == sorted(view.log_probabilities, reverse=True)
        ensure(ordered and max(view.log_probabilities) <= 0, f"no sorted log-probabilities: {view.log_probabilities}")
        mass = math.fsum(map(math.exp, view.log_probabilities))
        ensure(mass <= 1 + trial.tolerance, f"probabilities sum to {mass}")
        # What is left may be spread over nothing, or over the whole vocabulary.
        ensure(view.entropy >= -trial.tolerance - mass * math.log(max(mass, 1e-9)), f"no entropy: {view.entropy}")
        weights = engine.weigh([WeighRequest(request.row, request.ids, (token,)) for token in view.token_ids])
        for log_probability, (weight,) in zip(view.log_probabilities, weights, strict=True):
            trial.near(log_probability, weight, "Look and Weigh differ")


def weights_follow_the_chain_rule(trial: Trial) -> None:
    """A continuation weighs as its tokens do, one behind the other; rows do not mix."""
    engine = trial.token_level()
    if engine is None:
        return
    words = trial.prompts[1][:3]
    together = engine.weigh([WeighRequest(row, ids, words) for row, ids in enumerate(trial.prompts)])
    for row, (ids, whole) in enumerate(zip(trial.prompts, together, strict=True)):
        ensure(len(whole) == len(words), f"{len(whole)} weights for {len(words)} tokens")
        for place, weight in enumerate(whole):
            asked = WeighRequest(100 + row, ids + words[:place], words[place : place + 1])
            ((alone,),) = engine.weigh([asked])
            trial.near(weight, alone, f"token {place} of a continuation, and the same token alone")


def a_look_changes_nothing(trial: Trial) -> None:
    """A row that was looked at or weighed goes on as one that was not."""
    engine = trial.token_level()
    if engine is None:
        return
    for row, ids in enumerate(trial.prompts):
        request = trial.request(row, ids)
        expected = trial.make().extend([request])
        engine.look([LookRequest(row, ids, TOP_K, LAYER)])
        engine.weigh([WeighRequest(row, ids, trial.prompts[0][:2])])
        _same(expected, engine.extend([request]), "looked at and weighed, a row says something else")


def hidden_states_belong_to_their_rows(trial: Trial) -> None:
    """Alone or beside others a row has the same state; where it looks at single tokens too, the `Look` shows it."""
    engine = trial.make()
    if not isinstance(engine, StateEngine):
        return
    asked = [StateRequest(row, ids) for row, ids in enumerate(trial.prompts)]
    states = engine.states(asked, LAYER)
    ensure(len(states) == len(asked), f"{len(states)} states for {len(asked)} rows")
    for request, state in zip(asked, states, strict=True):
        fresh = trial.make()
        assert isinstance(fresh, StateEngine), "made by the same hand"
        apart = float((fresh.states([request], LAYER)[0] - state).abs().max())
        trial.near(apart, 0.0, "alone a row has another state")
        if isinstance(fresh, TokenStateEngine):
            (found,) = fresh.token_states([replace(request, num_tokens=2)], LAYER)
            ensure(len(found) == 2, f"{len(found)} states for 2 tokens")
            before = StateRequest(request.row, request.ids[:-1])
            apart = float((torch.stack([fresh.states([before], LAYER)[0], state]) - found).abs().max())
            trial.near(apart, 0.0, "one by one tokens have other states")
        if isinstance(engine, TokenLevelEngine):
            (view,) = engine.look([LookRequest(request.row, request.ids, layer=LAYER)])
            apart = float((torch.tensor(view.hidden, dtype=state.dtype) - state.cpu()).abs().max())
            trial.near(apart, 0.0, "Look and states differ")


def _same(expected: Sequence[Extension], found: Sequence[Extension], fault: str) -> None:
    """Raise with the fault where extensions differ; the scheduler, not the engine, says what was not thought."""
    pairs = list(zip(expected, found, strict=True))
    wrong = next(((a, b) for a, b in pairs if (a.tokens, a.stop) != (b.tokens, b.stop)), None)
    ensure(wrong is None, f"{fault}: {wrong}")
