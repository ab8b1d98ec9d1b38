"""Heads for pooled margins, the held-out half that chooses among them, and thresholds by length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from optimize.monitors import positions, quality
from optimize.monitors.config import PositionsConfig, ProbeTrainingConfig
from optimize.monitors.head import Bags, States, fit, fit_lowest
from optimize.monitors.poolings import chooses, in_halves, margins, poolings_of
from optimize.monitors.steps import LabelledSplit, Step
from optimize.monitors.traces import TokenTraces
from safethink.errors import SearchError
from safethink.monitors.pooling import Pooling, RunningPool
from safethink.prompts import Prompt

HIDDEN = 6
ENDS = ((2, 3, 7), (1,), (4, 9))
RULES = (Pooling(), Pooling(kind="mean"), Pooling(kind="max"), Pooling(kind="ema", decay=0.8))


def step(prompt: str, num_tokens: int, score: float) -> Step:
    return Step(Prompt.from_text(f"about {prompt}", id=prompt), tuple(range(num_tokens)), "a trace", 0, score)


def split(*traces: tuple[Step, ...]) -> LabelledSplit:
    return LabelledSplit("validation", traces, 0.0)


@pytest.mark.parametrize("rule", RULES, ids=[rule.title for rule in RULES])
def test_what_is_trained_on_is_what_a_monitor_makes_of_the_growing_trace(rule: Pooling) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sum(ends[-1] for ends in ENDS), HIDDEN, generator=generator)
    traces = TokenTraces(hidden, ENDS)
    weight, bias = torch.randn(HIDDEN, generator=generator).double(), torch.tensor(0.3).double()
    found = (
        traces.lowest(weight, bias) if rule.kind == "max" else traces.pooled(rule).double() @ weight + bias
    ).tolist()
    expected: list[float] = []
    for states, ends in zip(traces.each, ENDS, strict=True):
        pool, read = RunningPool(), 0
        for end in ends:
            more = (states[read:end].double() @ weight + bias).tolist()
            expected.append(pool.read(tuple(range(end)), more, rule))
            read = end
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_maximum_has_no_pooled_state() -> None:
    with pytest.raises(ValueError, match="depends on the head"):
        TokenTraces(torch.zeros(1, HIDDEN), ((1,),)).pooled(Pooling(kind="max"))


def needles(seed: int, num: int = 300) -> tuple[TokenTraces, torch.Tensor]:
    """Traces of which an unsafe one differs by one token, somewhere in its first half, and in a single direction."""
    rng = np.random.default_rng(seed)
    unsafe = rng.random(num) < 0.5
    hidden = rng.normal(0, 0.5, (num, 12, HIDDEN)).astype("float32")
    hidden[np.flatnonzero(unsafe), rng.integers(0, 6, unsafe.sum()), 0] += 4
    return TokenTraces(torch.from_numpy(hidden.reshape(-1, HIDDEN)), ((12,),) * num), torch.tensor(~unsafe).float()


@pytest.mark.slow
def test_a_head_of_the_lowest_margin_finds_the_one_token_that_the_last_one_does_not_show(tmp_path: Path) -> None:
    (train, safe), (stop, stop_safe), (test, test_safe) = needles(0), needles(1), needles(2)
    config = ProbeTrainingConfig(learning_rate=0.05, batch_size=64, max_epochs=60)

    def auc(found: torch.Tensor) -> float:
        return float(quality.area(found.tolist(), test_safe.numpy() == 0, np.ones((1, len(test_safe))))[0])

    heads = [
        fit_lowest(Bags(train, safe), Bags(stop, stop_safe), config, seed=3, folder=tmp_path, what="training")
        for _ in range(2)
    ]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert auc(test.lowest(heads[0].weight, heads[0].bias)) > 0.97
    last = [States(part.pooled(Pooling()), labels) for part, labels in ((train, safe), (stop, stop_safe))]
    head = fit(last[0], last[1], config, seed=3, folder=tmp_path, what="training")
    assert 0.35 < auc(margins(head, test.pooled(Pooling()))) < 0.65


def test_poolings_are_tried_in_order_each_decay_once() -> None:
    training = ProbeTrainingConfig(poolings=("ema", "last", "ema"), decays=(0.5, 0.9))
    assert [each.title for each in poolings_of(training)] == ["ema 0.5", "ema 0.9", "last"]
    assert not chooses(ProbeTrainingConfig())
    assert chooses(training)
    assert chooses(ProbeTrainingConfig(positions=PositionsConfig()))


def test_halves_share_no_prompt_and_hold_every_trace() -> None:
    traces = tuple((step(f"p{n // 2}", 3, 1.0), step(f"p{n // 2}", 5, -1.0)) for n in range(40))
    stopping, held_out = in_halves(split(*traces))
    prompts = [{trace[0].prompt.id for trace in half.traces} for half in (stopping, held_out)]
    assert not prompts[0] & prompts[1]
    assert len(stopping.traces) + len(held_out.traces) == 40
    assert 4 <= len(prompts[1]) <= 16


def test_a_half_without_both_labels_is_refused_by_name() -> None:
    with pytest.raises(
        SearchError, match="half of validation is held out to choose on, and its first half has only one"
    ):
        in_halves(split(*((step(f"p{n}", 3, 1.0),) for n in range(20))))


def lengths_with_other_noise(num: int = 1200) -> tuple[LabelledSplit, list[float]]:
    """Safe partial traces whose margins are lower the longer they are, and some unsafe ones."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 61, num)
    unsafe = rng.random(num) < 0.2
    steps = [
        (step(f"p{n}", int(each), -1.0 if bad else 1.0),)
        for n, (each, bad) in enumerate(zip(lengths, unsafe, strict=True))
    ]
    return split(*steps), (rng.normal(0, 1, num) - lengths / 20 - 3 * unsafe).tolist()


def test_thresholds_make_false_alarms_as_frequent_at_every_length() -> None:
    held_out, found = lengths_with_other_noise()
    thresholds = positions.learn(held_out, found, PositionsConfig(buckets=3, false_alarms=0.1))
    assert thresholds[0].first_token == 0
    assert [each.margin for each in thresholds] == sorted((each.margin for each in thresholds), reverse=True)
    rates = positions.false_alarms(held_out, found, thresholds)
    assert list(rates) == [str(each.first_token) for each in thresholds]
    assert all(each["with"].value == pytest.approx(0.1, abs=0.01) for each in rates.values())
    without = [each["without"].value for each in rates.values()]
    assert without[-1] > without[0] + 0.2
    assert sum(each["with"].n for each in rates.values()) == held_out.unsafe.count(False)
    assert positions.false_alarms(held_out, found, ()) == {}


@pytest.mark.parametrize(
    ("config", "num", "said"),
    [
        (
            PositionsConfig(buckets=100),
            1200,
            r"monitor\.positions\.buckets: held-out traces are of too few lengths for 100",
        ),
        (
            PositionsConfig(buckets=3, false_alarms=0.01),
            1200,
            r"too few for a false alarm rate of 0\.01; each of the 3 ranges",
        ),
        (
            PositionsConfig(buckets=2),
            60,
            r"monitor\.positions: \d+ safe held-out partial traces in the range from 0 tokens",
        ),
    ],
)
def test_thresholds_that_nothing_could_place_are_refused_by_name(config: PositionsConfig, num: int, said: str) -> None:
    with pytest.raises(SearchError, match=said):
        positions.learn(*lengths_with_other_noise(num), config)
