"""What a trained monitor learns from and how it is measured: pairs, curves, standardised heads."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optimize.cli import PROGRAM
from optimize.monitors import quality
from optimize.monitors.config import ProbeTrainingConfig, RewardTrainingConfig, TrainMonitorConfig
from optimize.monitors.head import States, fit
from optimize.monitors.reward import pairs
from optimize.monitors.run import plan
from optimize.monitors.steps import LabelledSplit, Step
from safethink.config import yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import SearchError
from safethink.prompts import Prompt


def step(prompt: str, trace: str, score: float, depth: int = 0) -> Step:
    return Step(Prompt.from_text(f"about {prompt}", id=prompt), (1, 2), trace, depth, score)


def split(*steps: Step, threshold: float = 0.0) -> LabelledSplit:
    return LabelledSplit("search", tuple((each,) for each in steps), threshold)


BOTH = (
    step("attack", "first I refuse", 0.9),
    step("attack", "first I refuse then more", 0.8, depth=1),
    step("attack", "first mix", -0.9),
    step("attack", "first mix then heat", -0.8, depth=1),
)


def test_pairs_are_of_one_prompt_and_of_like_depth_first() -> None:
    found = pairs(split(*BOTH), RewardTrainingConfig(pairs_per_prompt=2), seed=0)
    assert {(each.chosen, each.rejected) for each in found} == {
        ("first I refuse", "first mix"),
        ("first I refuse then more", "first mix then heat"),
    }
    everything = pairs(split(*BOTH), RewardTrainingConfig(pairs_per_prompt=99), seed=0)
    assert len(everything) == 4
    assert all(each.prompt.id == "attack" for each in everything)


def test_prompts_without_an_unsafe_trace_borrow_one_or_have_no_pair() -> None:
    harmless = step("sum", "3 plus 4 is 7", 0.9)
    labelled = split(*BOTH, harmless, step("sum", "  ", 0.9))
    borrowed = [each for each in pairs(labelled, RewardTrainingConfig(), seed=0) if each.prompt.id == "sum"]
    assert {each.chosen for each in borrowed} == {"3 plus 4 is 7"}
    assert {each.rejected for each in borrowed} == {"first mix", "first mix then heat"}
    alone = RewardTrainingConfig(borrow=False)
    assert all(each.prompt.id == "attack" for each in pairs(labelled, alone, seed=0))
    with pytest.raises(SearchError, match="no prompt of search has both"):
        pairs(split(harmless, step("other", "mix", -0.5)), alone, seed=0)


def test_soft_labels_are_the_labellers_probabilities() -> None:
    labelled = split(step("a", "x", 0.5), step("b", "y", -1.0))
    assert labelled.safe_probabilities == [0.75, 0.0]
    assert split(*labelled.steps, threshold=0.6).safe_probabilities == [0.0, 0.0]


few_scores = st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.booleans()), min_size=2, max_size=12)


@given(few_scores, st.integers(0, 9))
def test_the_area_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]], seed: int) -> None:
    scores, unsafe = [score for score, _ in rows], np.asarray([label for _, label in rows])
    weights = np.random.default_rng(seed).integers(0, 3, size=(5, len(rows))).astype(float)
    for found, row in zip(quality.area(scores, unsafe, weights), weights, strict=True):
        bad = [(score, weight) for score, weight, is_bad in zip(scores, row, unsafe, strict=True) if is_bad]
        good = [(score, weight) for score, weight, is_bad in zip(scores, row, unsafe, strict=True) if not is_bad]
        total = sum(u * v for (_, u), (_, v) in product(bad, good))
        won = sum(u * v * ((low < high) + 0.5 * (low == high)) for (low, u), (high, v) in product(bad, good))
        assert found == pytest.approx(won / total) if total else np.isnan(found)


def test_quality_has_n_and_intervals() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.5
    scores = np.where(truth, -1, 1) * 0.5 + rng.normal(0, 0.4, 200)
    labelled = split(*(step(f"p{i}", f"t{i}", -1.0 if bad else 1.0) for i, bad in enumerate(truth)))
    found = quality.of_scores(labelled, scores.tolist(), on_testbed=False)
    assert set(found) == {"f1", "auc"}
    hits, wrong = ((scores < 0) & truth).sum(), ((scores < 0) != truth).sum()
    assert found["f1"].value == pytest.approx(2 * hits / (2 * hits + wrong))
    for metric in found.values():
        assert metric.low < metric.value < metric.high
        assert (metric.n, metric.clusters) == (200, 200)


@pytest.mark.slow
def test_a_head_learns_through_scales_that_differ_and_a_dimension_that_never_varies(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(600, 4, generator=generator)
    safe = (plain[:, 0] - plain[:, 1] > 0.3).float()
    hidden = plain * torch.tensor([1e3, 1e-3, 1.0, 0.0]) + torch.tensor([5.0, -2.0, 0.0, 7.0])
    halves = States(hidden[:400], safe[:400]), States(hidden[400:], safe[400:])
    config = ProbeTrainingConfig(learning_rate=0.05, batch_size=64)
    head, again = (fit(*halves, config, seed=3, folder=tmp_path, what="training") for _ in range(2))
    right = ((hidden[400:].double() @ head.weight + head.bias > 0) == (safe[400:] > 0.5)).double().mean()
    assert right > 0.97
    assert head.weight[3] == 0
    assert torch.equal(head.weight, again.weight)
    assert 0 < head.epochs <= config.max_epochs
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_says_what_labelling_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["monitor", "testbed-probe", "--dry-run", "--full", "--samples", "3", "--attacks", "50"]) == 0
    planned, resolved = yaml.safe_load_all(capsys.readouterr().out)
    config = TrainMonitorConfig.model_validate(resolved)
    assert (config.samples, config.attacks) == (3, 50)
    assert planned["generations"] == dict.fromkeys(("search", "validation", "test"), 3 * (50 + 200 + 200))
    assert PROGRAM.main(["monitor", "testbed-probe", "--dry-run", "--json"]) == 0
    shipped = yaml_config.load(TrainMonitorConfig, shipped_config("monitor/testbed-probe"))
    assert json.loads(capsys.readouterr().out) == plan(shipped).model_dump()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["monitor"], "safethink-optimize monitor takes a YAML file"),
        (["monitor", "testbd-probe"], "did you mean 'testbed-probe'?"),
        (["monitor", "testbed-probe", "--monitor.layer", "3"], "did you mean '--monitor.layers'?"),
        (["monitor", "testbed-reward", "--samples", "1"], "a reward monitor needs at least 2 traces"),
        (["monitor", "testbed-probe", "--world.seed", "5", "--out", "OUT"], "world.seed is 5"),
        (["monitor", "testbed-probe", "--prompts", "nowhere.jsonl", "--out", "OUT"], "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, tmp_path: Path, argv: list[str], said: str) -> None:
    assert PROGRAM.main([str(tmp_path / "out") if word == "OUT" else word for word in argv]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_prompts_of_ones_own_need_all_three_splits(capsys, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [{"prompt": f"p {name}", "split": name} for name in ("search", "validation")]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert PROGRAM.main(["monitor", "testbed-probe", "--prompts", str(file), "--dry-run"]) == 2
    assert "no prompts of the split 'test'" in capsys.readouterr().err
