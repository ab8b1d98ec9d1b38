"""LoRA on completions: the loss is trl's, the upper layers alone are trained, a killed training goes on alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from optimize.reasoners import training
from optimize.reasoners.config import LoraTrainingConfig
from optimize.reasoners.encoding import Example
from optimize.trainer import last_complete
from safethink.errors import ConfigError, SearchError
from tests.support import tiny_reasoner

CONFIG = LoraTrainingConfig(
    rank=2, alpha=4, targets=("q_proj", "down_proj"), first_layer=1, learning_rate=0.02, batch_size=3, epochs=2,
    save_steps=2, max_tokens=24,
)  # fmt: skip


def examples() -> list[Example]:
    drawn = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 300, (6 + row % 5,), generator=drawn).tolist() for row in range(12)]
    return [Example(tuple(row[:3]), tuple(row[3:])) for row in ids]


def train(
    checkpoints: Path, rows: list[Example] | None = None, config: LoraTrainingConfig = CONFIG
) -> tuple[dict[str, torch.Tensor], list[float]]:
    adapted, losses = training.train(
        tiny_reasoner.llama(), tiny_reasoner.tokenizer(), rows or examples(), config, seed=0, checkpoints=checkpoints
    )
    return {name: weight for name, weight in adapted.state_dict().items() if "lora_" in name}, losses


def test_a_killed_training_goes_on_to_the_same_weights_by_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, losses = train(tmp_path / "whole")
    assert len(losses) == 8

    class Killed(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            if state.global_step == 5:  # pyright: ignore[reportAttributeAccessIssue]
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "StepProgress", lambda advance: Killed())
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    resumed, resumed_losses = train(tmp_path / "killed")
    assert resumed_losses == losses
    for name, weight in weights.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("stop_after", [1, 5, 100])
def test_stopped_early_it_has_taken_the_first_steps_of_the_same_training(tmp_path: Path, stop_after: int) -> None:
    _, losses = train(tmp_path / "whole")
    stopped = CONFIG.replace(stop_after=stop_after)
    weights, first = train(tmp_path / "stopped", config=stopped)
    assert first == losses[:stop_after]
    # Started again, it is where it was.
    again, repeated = train(tmp_path / "stopped", config=stopped)
    assert repeated == first
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    half = tmp_path / "checkpoint-7"
    half.mkdir()
    assert last_complete(tmp_path) is None
    assert not half.exists()


def test_it_learns_and_trains_the_upper_layers_alone(tmp_path: Path) -> None:
    weights, losses = train(tmp_path)
    assert losses[-1] < losses[0]
    assert weights
    assert all("layers.1." in name for name in weights)


def test_the_loss_is_that_of_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = train(tmp_path / "ours")
    monkeypatch.setattr(training._CompletionTrainer, "compute_loss", SFTTrainer.compute_loss)
    _, theirs = train(tmp_path / "theirs")
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_long_rows_are_left_out_and_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="corpus: no row has at most 24 tokens"):
        train(tmp_path, [Example((5,) * 20, (6,) * 5)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_layer": 2}, "training.first_layer is 2, and the base has 2 layers"),
        ({"targets": ("w_pack",)}, r"training.targets: .*w_pack"),
    ],
)
def test_layers_that_the_base_does_not_have_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training.with_lora(tiny_reasoner.llama(), CONFIG.replace(**changes))
