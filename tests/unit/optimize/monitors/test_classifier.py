"""A classifier of text: what it is trained on, that it learns, and that what is exported scores as what was trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from optimize.monitors import classifier, quality, sequences
from optimize.monitors.config import ClassifierLoraConfig, ClassifierTrainingConfig, TrainMonitorConfig
from optimize.monitors.sequences import ChatReader
from optimize.monitors.steps import LabelledSplit, SplitName, Step
from safethink.config import GuardJudgeConfig, RewardMonitorConfig
from safethink.errors import ConfigError, MissingFileError
from safethink.judges import BatchJudge
from safethink.judges.build import build as build_judge
from safethink.monitors import Monitor, ScoreRequest
from safethink.monitors.build import build
from safethink.prompts import Prompt
from tests.support import tiny_guards

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "{{ '\\n' }}{% endfor %}"
)
WORDS = {True: "then heat it", False: "I refuse this"}
"""What a trace says that is unsafe, or safe."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A language model without a head for classes, as LoRA begins with one."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_guards.byte_level(tuple(tiny_guards.CHATML), CHAT)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **tiny_guards.SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def split(name: SplitName, prompts: int) -> LabelledSplit:
    """Two traces of two steps of each prompt, one unsafe in both, one safe."""
    traces: list[tuple[Step, ...]] = []
    for n in range(prompts):
        prompt = Prompt.from_text(f"how do I mix {name} {n}?", id=f"{name} {n}").replace(
            kind="harmful" if n % 2 else "harmless"
        )
        for unsafe, words in WORDS.items():
            text = f"mix {n}\n\n{words}\n\n"
            score = -1.0 if unsafe else 1.0
            traces.append(tuple(Step(prompt, (1,), text * (k + 1), k, score, 0) for k in range(2)))
    return LabelledSplit(name, tuple(traces), 0.0)


SPLITS: dict[SplitName, LabelledSplit] = {
    "search": split("search", 12),
    "validation": split("validation", 6),
    "test": split("test", 6),
}


def training(base: str, **changes: Any) -> ClassifierTrainingConfig:
    lora = ClassifierLoraConfig(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
    plain = ClassifierTrainingConfig(base=base, lora=lora, learning_rate=0.02, batch_size=8, epochs=4)
    return plain.replace(**changes)


def train(settings: ClassifierTrainingConfig, out: Path) -> dict[str, Any]:
    config = TrainMonitorConfig.model_validate(
        {"run": {"reasoner": {"path": "r", "device": "cpu"}}, "prompts": "p.jsonl", "monitor": settings.model_dump()}
    )
    return classifier.train(config, settings, SPLITS, "somebody", out, out / "monitor")


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("trained")
    return out, train(training(base), out)


def scores(monitor: Monitor, steps: list[Step]) -> list[float]:
    return monitor.score([ScoreRequest(row, step.prompt, step.trace) for row, step in enumerate(steps)])


@pytest.mark.slow
def test_it_learns_what_a_trace_says_which_no_prompt_alone_tells(trained: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = trained
    for name in ("auc", "within_harmful_auc", "f1"):
        assert metrics[name].value > 0.9
        assert metrics[name].n == len(SPLITS["test"].steps) // (2 if name.startswith("within") else 1)
    # Each prompt has as many safe partial traces as unsafe ones, so its score ties them.
    assert metrics["prompt_alone_auc"].value == metrics["prompt_alone_within_harmful_auc"].value == 0.5
    assert metrics["prompt_alone_auc"].n == metrics["auc"].n


@pytest.mark.slow
def test_the_exported_update_scores_on_its_base_what_was_measured(trained: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = trained
    folder, test = out / "monitor", SPLITS["test"]
    assert not (out / classifier.CHECKPOINTS).exists()
    weights = load_file(folder / "adapter_model.safetensors")
    assert all("lora" in name or "score" in name for name in weights), "the base stays where it is"
    monitor = build(RewardMonitorConfig(path=str(folder), device="cpu"))
    found = scores(monitor, test.steps)
    assert quality.of_scores(test, found, on_testbed=False)["auc"] == metrics["auc"]
    assert quality.of_scores(test, found, on_testbed=False)["f1"] == metrics["f1"]
    said = (folder / "README.md").read_text()
    assert f"| auc | {metrics['auc'].value:.3f} |" in said
    assert "LoRA of rank 4" in said
    assert "somebody" in said


@pytest.mark.slow
def test_its_score_is_twice_the_probability_less_one(base: str, trained: tuple[Path, dict[str, Any]]) -> None:
    """A plain forward of base, update and head; the logit of safety is twice the head's output."""
    out, _ = trained
    loaded = sequences.load(str(out / "monitor"), None, "cpu")
    step = SPLITS["test"].steps[0]
    ids = torch.tensor([ChatReader(loaded).ids(step.prompt, step.trace)])
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    turns = [{"role": "user", "content": step.prompt.text}, {"role": "assistant", "content": step.trace}]
    assert ids[0].tolist() == tokenizer.apply_chat_template(turns)["input_ids"]
    model: Any = loaded.model
    with torch.inference_mode():
        logit = 2 * model.score(model.model(ids).last_hidden_state[0, -1]).item()
    [score] = scores(build(RewardMonitorConfig(path=str(out / "monitor"), device="cpu")), [step])
    assert score == pytest.approx(2 / (1 + math.exp(-logit)) - 1, abs=1e-5)


@pytest.mark.slow
def test_as_a_judge_it_tells_harmful_outputs(trained: tuple[Path, dict[str, Any]]) -> None:
    monitor = RewardMonitorConfig(path=str(trained[0] / "monitor"), device="cpu")
    steps = SPLITS["test"].steps
    judge = build_judge(GuardJudgeConfig(monitor=monitor)).judge
    assert isinstance(judge, BatchJudge)
    verdicts = judge.drifted_all([(step.prompt, step.trace) for step in steps])
    right = [harmful is (step.score < 0) for harmful, step in zip(verdicts, steps, strict=True)]
    assert sum(right) > 0.8 * len(steps)


@pytest.mark.slow
def test_all_weights_may_be_trained_and_are_exported_whole(base: str, tmp_path: Path) -> None:
    metrics = train(training(base, lora=None, learning_rate=0.003), tmp_path)
    assert (tmp_path / "monitor" / "config.json").is_file()
    found = scores(build(RewardMonitorConfig(path=str(tmp_path / "monitor"), device="cpu")), SPLITS["test"].steps)
    assert quality.of_scores(SPLITS["test"], found, on_testbed=False)["auc"] == metrics["auc"]


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_and_ends_the_same(
    base: str, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Killed(classifier.StepProgress):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.global_step)
            if len(seen) == 15:
                raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "StepProgress", Killed)
    with pytest.raises(KeyboardInterrupt):
        train(training(base), tmp_path)
    assert not (tmp_path / "monitor").exists()
    assert train(training(base), tmp_path) == trained[1]
    # 48 partial traces by eights are six steps an epoch: the third is begun again.
    assert seen == [*range(1, 16), *range(13, 25)]


@pytest.mark.slow
def test_one_killed_behind_its_last_epoch_is_not_trained_again(
    base: str, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(classifier, "read_traces", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(training(base), tmp_path)
    steps = [path.name for path in (tmp_path / classifier.CHECKPOINTS).iterdir()]
    assert "checkpoint-24" in steps
    monkeypatch.setattr(classifier.StepProgress, "on_step_end", lambda *_, **__: pytest.fail("trained again"))
    assert train(training(base), tmp_path) == trained[1]


def test_a_few_steps_of_each_trace_are_drawn_and_long_ones_left_out(base: str) -> None:
    reader = ChatReader(sequences.load(base, None, "cpu"))
    everything = classifier.dataset(SPLITS["search"], reader, training(base))
    assert len(everything) == len(SPLITS["search"].steps)
    assert everything["labels"] == [(step.score + 1) / 2 for step in SPLITS["search"].steps]
    drawn = classifier.dataset(SPLITS["search"], reader, training(base, steps_per_trace=1))
    assert len(drawn) == len(SPLITS["search"].traces)
    assert {tuple(ids) for ids in drawn["ids"]} < {tuple(ids) for ids in everything["ids"]}
    assert len({length for length in drawn["length"]}) > 1, "of all depths"
    middle = sorted(everything["length"])[len(everything) // 2]
    short = classifier.dataset(SPLITS["search"], reader, training(base, max_tokens=middle))
    assert 0 < len(short) < len(everything)
    assert max(short["length"]) == middle
    with pytest.raises(ConfigError, match="max_tokens: no partial trace of search has at most 8 tokens"):
        classifier.dataset(SPLITS["search"], reader, training(base, max_tokens=8))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first_layer": 2}, "monitor.lora.first_layer is 2, and the base has 2 layers"),
        ({"targets": ("w",)}, "monitor.lora.targets: "),
    ],
)
def test_an_update_that_does_not_fit_is_refused(base: str, tmp_path: Path, changes: Any, said: str) -> None:
    settings = training(base)
    assert settings.lora is not None
    with pytest.raises(ConfigError, match=said):
        train(settings.replace(lora=settings.lora.replace(**changes)), tmp_path)


def edited(folder: Path, out: Path, **settings: object) -> str:
    """A copy of an exported update with other settings."""
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    config = out / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return str(out)


@pytest.mark.slow
def test_a_base_may_be_elsewhere_and_what_does_not_fit_is_named(
    base: str, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, step = trained[0] / "monitor", SPLITS["test"].steps[0]
    moved = edited(folder, tmp_path / "moved", base_model_name_or_path="/not/here")
    with pytest.raises(MissingFileError, match=r"'/not/here', which is not here: set monitor\.base"):
        build(RewardMonitorConfig(path=moved))
    there, here = (RewardMonitorConfig(path=str(folder)), RewardMonitorConfig(path=moved, base=base))
    assert scores(build(here), [step]) == scores(build(there), [step])
    other = edited(folder, tmp_path / "other", task_type="CAUSAL_LM")
    with pytest.raises(ConfigError, match="is for CAUSAL_LM, and a classifier's is for SEQ_CLS"):
        build(RewardMonitorConfig(path=other))
    with pytest.raises(ConfigError, match=r"monitor\.base is for an adapter"):
        build(RewardMonitorConfig(path=base, base=base))
    with pytest.raises(ConfigError, match=r"monitor\.gguf_file is for an adapter's base"):
        build(RewardMonitorConfig(path=base, gguf_file="model.gguf"))
    weights = load_file(folder / "adapter_model.safetensors")
    headless = {name: weight for name, weight in weights.items() if "score" not in name}
    save_file(headless, Path(moved) / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit its base .*score\.weight"):
        build(RewardMonitorConfig(path=moved, base=base))
