"""The expected reward: RLOO is unbiased, what is drawn is on policy and repeatable, and the prefix learns from it."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from optimize.config import GcgConfig, ObjectiveConfig, RacingConfig, RewardConfig
from optimize.contexts import Context, ContextSet
from optimize.objectives import CachedScorer, ExpectedReward, Objective, Weighted, build
from optimize.objectives.protocols import embeddings_of
from optimize.objectives.reward import SampledContext, Surrogate, leave_one_out
from optimize.objectives.sampler import RememberingMonitor, Sampler
from optimize.search import driver, methods
from optimize.search.journal import Journal, untimed
from optimize.testing import terms
from safethink.config import LimitsConfig
from safethink.errors import MonitorError
from safethink.guarded import SafeThink
from safethink.monitors import ScoreRequest
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from tests.support import tiny_reasoner
from tests.support.toy_search import Killed, Letters
from tests.unit.optimize.objectives.test_objectives import costs_of

LIMITS = LimitsConfig(max_step_tokens=12, max_trace_tokens=60, max_answer_tokens=4)
CONFIG = RewardConfig(samples=5, continuation_tokens=6, contexts=3, refresh_every_steps=2)
PREFIX, OTHER = (80, 81, 82), (300, 301, 302)


def even(prompt: str, trace: str) -> float:
    """Passes traces of even length."""
    return 0.5 - len(trace) % 2


class Counting:
    """Passes traces of even length, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[ScoreRequest] = []
        self.released: list[int] = []

    def score(self, requests):
        self.asked += requests
        return [even("", request.trace) for request in requests]

    def release(self, row):
        self.released.append(row)


def guard(monitor=even) -> SafeThink:
    return SafeThink(tiny_reasoner.model().double(), tiny_reasoner.tokenizer(), monitor=monitor, limits=LIMITS)


@pytest.fixture(scope="module")
def guarded() -> SafeThink:
    return guard()


@pytest.fixture(scope="module")
def contexts(guarded) -> list[Context]:
    def context(n: int) -> Context:
        prompt = Prompt.from_text(f"mix the parts {n}", id=f"p{n}")
        return Context(
            prompt=prompt,
            prompt_ids=open_prompt(guarded.thought, prompt),
            trace_ids=(70, 71 + n)[: 1 + n % 2],
            step_ids=(72,),
            depth=1,
            target_ids=(75, 76, 77),
            target_score=0.9,
        )

    return [context(n) for n in range(3)]


def term(guarded: SafeThink, contexts, config: RewardConfig = CONFIG, seed: int = 0) -> ExpectedReward:
    sampler = Sampler(guarded, config.continuation_tokens, seed)
    return ExpectedReward(sampler, partial(CachedScorer.of, guarded, config=ObjectiveConfig()), contexts, 0.0, config)


def test_advantages_are_against_the_mean_of_the_others_and_sum_to_nothing():
    assert leave_one_out([1.0, 0.0, 0.0]) == [1.0, -0.5, -0.5]
    assert leave_one_out([1.0, 1.0]) == [0.0, 0.0]
    assert sum(leave_one_out([0.3, 0.9, 0.1, 0.4])) == pytest.approx(0.0)


@pytest.mark.slow
def test_the_leave_one_out_gradient_is_unbiased():
    """Of a softmax policy over five actions, against the exact gradient of its expected reward."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.5, -0.3, 0.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    (exact,) = torch.autograd.grad(-(logits.softmax(-1) * reward).sum(), logits)
    score = torch.eye(5, dtype=torch.float64) - logits.softmax(-1).detach()
    draws = torch.multinomial(logits.softmax(-1).detach(), 4 * 20_000, replacement=True, generator=generator)
    estimates = [
        -(torch.tensor(leave_one_out(some_rewards.tolist()), dtype=torch.float64) @ score[some]) / 4
        for some, some_rewards in zip(draws.view(-1, 4), reward[draws].view(-1, 4), strict=True)
    ]
    found = torch.stack(estimates)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() < 4 * error).all()
    assert (error < 0.1 * exact.abs().max()).all()


def plain_log_prob(guarded: SafeThink, context: Context, prefix: tuple[int, ...], continuation: tuple[int, ...]):
    """Log-probability of a whole continuation behind prefix and separator, by one plain forward."""
    ids = context.ids + prefix + guarded.thought.separator_ids + continuation
    with torch.no_grad():
        log_probs = guarded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(continuation)
    return sum(log_probs[start + place - 1, token].item() for place, token in enumerate(continuation))


def test_the_surrogate_is_its_formula_by_plain_forwards(guarded, contexts):
    pools = [
        SampledContext(contexts[0], ((90, 91), (92,), (93, 94, 95)), (1.0, 0.0, 1.0)),
        SampledContext(contexts[1], ((90,), (91,)), (1.0, 1.0)),
        SampledContext(contexts[2], ((), (96, 97)), (0.0, 1.0)),
    ]
    surrogate = Surrogate(pools, partial(CachedScorer.of, guarded, config=ObjectiveConfig()))
    found = surrogate.of(torch.tensor([PREFIX, OTHER]), range(3))
    for row, prefix in enumerate((PREFIX, OTHER)):
        for column, pool in enumerate(pools):
            advantages = leave_one_out(pool.rewards)
            log_probs = [plain_log_prob(guarded, pool.context, prefix, ids) for ids in pool.continuations]
            expected = -sum(a * p for a, p in zip(advantages, log_probs, strict=True)) / len(advantages)
            assert found[row, column].item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(surrogate.of(torch.tensor([PREFIX]), [2, 0]), found[:1, [2, 0]])
    rows = embeddings_of(guarded.model, torch.tensor(OTHER))
    torch.testing.assert_close(surrogate.of_rows(rows).to(found), found[1], atol=1e-5, rtol=0)
    assert not found[:, 1].any(), "where everything passes there is nothing to learn"


def test_where_nothing_differs_there_is_no_signal_but_a_cost(contexts):
    content = term(guard(monitor=lambda *texts: 1.0), contexts)
    content.move_to(PREFIX)
    assert costs_of(content, torch.tensor([PREFIX, OTHER])).tolist() == [0.0, 0.0]
    assert not content.gradient(torch.tensor(PREFIX)).embeddings.any()
    failing = term(guard(monitor=lambda *texts: -1.0), [c.replace(target_score=-1.0) for c in contexts])
    failing.move_to(PREFIX)
    assert costs_of(failing, torch.tensor([PREFIX])).tolist() == [1.0]


def test_the_elite_speaks_where_all_samples_fail(contexts):
    reward = term(guard(monitor=lambda *texts: -1.0), contexts)
    reward.move_to(PREFIX)
    reading = CachedScorer.of(reward._sampler._guarded, contexts, config=ObjectiveConfig())
    before = reading.losses(torch.tensor([PREFIX])).continuation.mean()
    rows = embeddings_of(reading.model, torch.tensor(PREFIX))
    stepped = rows - 0.5 * reward.gradient(torch.tensor(PREFIX)).embeddings.to(rows)
    assert reading.scorer.soft_losses(stepped).mean() < before, "the mined continuation becomes likelier"


def test_at_the_incumbent_the_cost_is_the_measured_share_that_does_not_pass(guarded, contexts):
    reward = term(guarded, contexts)
    reward.move_to(PREFIX)
    fresh = Sampler(guarded, CONFIG.continuation_tokens, seed=0).draw(contexts, PREFIX, CONFIG.samples, 0)
    missed = [draw.score < 0.0 for some in fresh for draw in some[: CONFIG.samples]]
    assert 0 < sum(missed) < len(missed)
    assert costs_of(reward, torch.tensor([PREFIX])).item() == pytest.approx(sum(missed) / len(missed), abs=1e-5)
    assert costs_of(reward, torch.tensor([OTHER])).item() != pytest.approx(sum(missed) / len(missed), abs=1e-3)


def test_far_from_the_incumbent_the_estimate_stays_a_share(guarded, contexts):
    reward = term(guarded, contexts)
    reward.move_to(PREFIX)
    far = torch.randint(100, 300, (48, 3), generator=torch.Generator().manual_seed(0))
    costs = reward.context_costs(far, range(3))
    assert reward._surrogate is not None
    straight = reward._surrogate.of(far, range(3)) + torch.tensor(reward._drawn.level)
    assert straight.min() < -0.1
    assert straight.max() > 1.01
    inside = (straight > 0) & (straight < 1)
    torch.testing.assert_close(costs[inside], straight[inside].to(costs))
    assert costs.min() >= -0.001
    assert costs.max() <= 1.001


def test_against_the_gradient_what_passes_becomes_likelier(guarded, contexts):
    reward = term(guarded, contexts)
    reward.move_to(PREFIX)
    pools = [[draw for draw in some if draw.ids] for some in reward._drawn.fresh]
    passing = [(c, d.ids) for c, some in zip(contexts, pools, strict=True) for d in some if d.score >= 0]
    failing = [(c, d.ids) for c, some in zip(contexts, pools, strict=True) for d in some if d.score < 0]
    rows = embeddings_of(guarded.model, torch.tensor(PREFIX))
    stepped = rows - 0.05 * reward.gradient(torch.tensor(PREFIX)).embeddings.to(rows)

    def mean_loss(pairs, at) -> float:
        reading = CachedScorer.of(guarded, [c for c, _ in pairs], [ids for _, ids in pairs], config=ObjectiveConfig())
        return reading.scorer.soft_losses(at).mean().item()

    gap_before = mean_loss(failing, rows) - mean_loss(passing, rows)
    gap_after = mean_loss(failing, stepped) - mean_loss(passing, stepped)
    assert gap_after > gap_before
    assert reward.soft_cost(stepped) < reward.soft_cost(rows)


def test_the_monitor_never_reads_the_prefix_and_no_text_twice(guarded, contexts):
    monitor = Counting()
    reward = term(guard(monitor), contexts)
    ids = tuple(guarded.tokenizer.encode("think safely", add_special_tokens=False))
    reward.move_to(ids)
    starts = {c.prompt.id: guarded.thought.decode(c.trace_ids) for c in contexts}
    assert monitor.asked
    assert all(request.trace.startswith(starts[request.prompt.id]) for request in monitor.asked)
    assert not any("think safely" in request.trace for request in monitor.asked)
    texts = [(request.prompt.id, request.trace) for request in monitor.asked]
    assert len(set(texts)) == len(texts)
    reward.move_to(OTHER)
    reward.move_to(ids)
    texts = [(request.prompt.id, request.trace) for request in monitor.asked]
    assert len(set(texts)) == len(texts)


def test_a_monitor_that_fails_still_stops_the_run(contexts):
    class Broken(Counting):
        def score(self, requests):
            return [float("nan")] * len(requests)

    with pytest.raises(MonitorError, match="'p0'"):
        RememberingMonitor(Broken()).score([ScoreRequest(0, contexts[0].prompt, "x")])


@pytest.mark.slow
def test_it_draws_when_the_incumbent_moves_and_every_few_steps(guarded, contexts):
    reward = term(guarded, contexts)

    def drawn(prefix) -> list:
        reward.move_to(prefix)
        return reward._drawn.fresh

    first = drawn(PREFIX)
    assert drawn(PREFIX) is first
    again = drawn(PREFIX)
    assert again != first, "after two steps it listens anew"
    assert drawn(OTHER) != again
    assert drawn(PREFIX) not in (first, again), "a prefix is not fitted to the numbers of one draw"
    assert term(guarded, contexts)._sampler.draw(contexts, PREFIX, 5, 0) == first
    assert term(guarded, contexts, seed=1)._sampler.draw(contexts, PREFIX, 5, 0) != first


def test_elites_are_kept(guarded, contexts):
    reward = term(guarded, [c.replace(target_score=-1.0) for c in contexts])
    reward.move_to(PREFIX)
    best = [max(draw.score for draw in some) for some in reward._drawn.fresh]
    assert [elite.score for elite in reward._drawn.elites] == [max(score, -1.0) for score in best]
    elites = reward._drawn.elites
    reward.move_to(OTHER)
    assert all(new.score >= old.score for new, old in zip(reward._drawn.elites, elites, strict=True))


@pytest.mark.slow
def test_killed_and_resumed_it_goes_on_the_same(guarded, contexts):
    path = [PREFIX, PREFIX, OTHER, OTHER, OTHER, PREFIX, PREFIX]

    def walk(cut: int | None) -> list:
        objective = Objective(guarded.model, [Weighted(term(guarded, contexts), 2.0)])
        costs = []
        for step, prefix in enumerate(path):
            if step == cut:
                state = json.loads(json.dumps(objective.state_dict()))
                objective = Objective(guarded.model, [Weighted(term(guarded, contexts), 2.0)])
                objective.load_state_dict(state)
            objective.move_to(prefix)
            costs.append(objective.cost([(1, 2, 3), OTHER]).total.tolist())
        return costs

    whole = walk(cut=None)
    assert len({tuple(costs) for costs in whole}) == 4, "drawn where it moves, and at the other once more"
    assert all(walk(cut) == whole for cut in (1, 3, 5))


def test_before_there_is_an_incumbent_the_first_candidate_is_one(guarded, contexts):
    asked, told = term(guarded, contexts), term(guarded, contexts)
    told.move_to(PREFIX)
    candidates = torch.tensor([PREFIX, OTHER])
    assert torch.equal(costs_of(asked, candidates), costs_of(told, candidates))


def test_a_soft_prefix_is_heard_like_a_hard_one(guarded, contexts):
    rows = embeddings_of(guarded.model, torch.tensor(PREFIX))
    soft, hard = term(guarded, contexts), term(guarded, contexts)
    soft.move_to(rows)
    hard.move_to(PREFIX)
    assert soft._drawn.fresh == hard._drawn.fresh
    torch.testing.assert_close(soft.soft_cost(rows), hard.soft_cost(rows), atol=1e-6, rtol=0)
    soft.move_to(rows + 0.1)
    assert soft._drawn.fresh == hard._drawn.fresh, "rows change with every step; only steps count"
    soft.move_to(rows + 0.1)
    assert soft._drawn.fresh != hard._drawn.fresh


def test_what_it_decodes_and_forwards_is_counted(guarded, contexts):
    reward = term(guarded, contexts)
    reward.move_to(PREFIX)
    decoded = reward.tokens
    assert decoded >= 3 * 6 * (1 + len(PREFIX))
    costs_of(reward, torch.tensor([PREFIX, OTHER]))
    scored = reward.tokens
    assert scored > decoded
    reward.move_to(OTHER)
    assert reward.tokens > scored, "what the last scorer forwarded stays counted"


@pytest.mark.slow
def test_a_search_over_terms_that_remember_is_killed_and_resumed_to_the_same_log(guarded, contexts, tmp_path):
    settings = GcgConfig(length=3, steps=4, candidates=8, top_k=6, patience=1)
    racing = RacingConfig(first_contexts=2, keep=2)
    weights = ObjectiveConfig(reward_weight=1.0, benign_kl_weight=0.2, reward=CONFIG, racing=racing)
    states = ContextSet(unsafe=tuple(contexts), harmless=tuple(contexts[:2]), num_watched=3, num_fired=3)

    def search(folder: Path, calls_left: float) -> list[dict[str, object]]:
        objective = build(guarded, states, weights)
        cost = objective.cost

        def mortal(candidates, incumbent=None):
            nonlocal calls_left
            calls_left -= 1
            if calls_left < 0:
                raise Killed
            return cost(candidates, incumbent)

        objective.cost = mortal
        folder.mkdir(exist_ok=True)
        journal = Journal(folder, "f")
        method = methods.build(settings, objective, Letters(range(80, 120)), PREFIX, journal.archive)
        driver.search(objective, Letters(range(80, 120)), method, settings, journal, seed=0)
        return untimed(journal.log)

    whole = search(tmp_path / "whole", math.inf)
    for calls in (1, 3):
        with pytest.raises(Killed):
            search(tmp_path / str(calls), calls)
        assert search(tmp_path / str(calls), math.inf) == whole


@pytest.mark.slow
def test_it_keeps_what_the_suite_asks_of_every_term_behind_one_incumbent(guarded, contexts) -> None:
    def make() -> ExpectedReward:
        made = term(guarded, contexts)
        made.move_to(PREFIX)
        return made

    table = guarded.model.get_input_embeddings().weight
    for check in terms.checks(make, table, [PREFIX, OTHER, (83, 84, 85)]):
        check()
