"""A reasoner made end to end from a tiny base: corpus, adapter, card, and what it is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from optimize import cli
from optimize.reasoners import corpus, training
from optimize.reasoners.config import (
    CorpusConfig,
    LoraTrainingConfig,
    ReasonerEvaluationConfig,
    ReasonerTrainingConfig,
)
from optimize.reasoners.plan import plan
from optimize.reasoners.rows import read
from optimize.reasoners.run import ADAPTER, CONFIG, ROWS, TRAINED, run
from safethink.config import JsonlBenchmarkConfig, LimitsConfig, ReasonerConfig, yaml_config
from safethink.errors import ConfigError, SearchError
from safethink.models.hashes import model_hash
from safethink.models.loading import load
from tests.support import tiny_reasoner


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    tiny_reasoner.model().save_pretrained(folder)
    own = PreTrainedTokenizerFast(
        tokenizer_object=tiny_reasoner.tokenizer().backend_tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    own.chat_template = tiny_reasoner.CHAT_TEMPLATE.replace("<think>\n", "")
    own.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(base: str) -> ReasonerTrainingConfig:
    return ReasonerTrainingConfig(
        base=ReasonerConfig(path=base, dtype="float32", device="cpu"),
        base_name="owner/tiny",
        corpus=CorpusConfig(word_problems=6, instructions=2, refusals=1, max_plan_tokens=6, max_answer_tokens=6),
        training=LoraTrainingConfig(rank=2, first_layer=1, epochs=2, learning_rate=0.01),
        name="tiny",
    )


def measuring(config: ReasonerTrainingConfig, folder: Path) -> ReasonerTrainingConfig:
    file = folder / "asked.jsonl"
    lines = [{"prompt": f"Add {number} and 4.", "reference": str(number + 4)} for number in range(3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ReasonerEvaluationConfig(
        benchmarks=(JsonlBenchmarkConfig(path=str(file), prompts="harmless"),),
        limits=LimitsConfig(max_step_tokens=4, max_trace_tokens=8, max_answer_tokens=4),
    )
    return config.replace(evaluation=settings)


def test_the_adapter_is_small_loads_on_its_base_and_has_a_card(config: ReasonerTrainingConfig, tmp_path: Path) -> None:
    made = run(config, tmp_path)
    adapter = tmp_path / ADAPTER
    assert {file.name for file in adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
    }
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "owner/tiny"
    merged = load(ReasonerConfig(path=made.path, base=config.base.path))
    assert model_hash(merged.model) != model_hash(load(config.base).model)
    assert "<think>" in merged.tokenizer.chat_template
    assert made.rows == len(read(tmp_path / ROWS))
    card = (adapter / "README.md").read_text()
    assert "It says nothing of large models" in card
    assert model_hash(load(config.base).model, rounded=True) in card
    assert "6 arithmetic word problems" in card


def test_the_same_call_measures_what_is_there_and_trains_nothing(
    config: ReasonerTrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(config, tmp_path)
    monkeypatch.delattr(training, "train")
    measured = run(measuring(config, tmp_path), tmp_path)
    assert measured.final_loss == made.final_loss
    (asked,) = measured.sets
    assert asked.metrics["closed"].n == asked.metrics["correct"].n == 3
    assert "| asked | 3 | 0.00 [0.00, 0.71]" in (tmp_path / ADAPTER / "README.md").read_text()


def test_another_training_in_its_folder_is_refused(config: ReasonerTrainingConfig, tmp_path: Path) -> None:
    run(config, tmp_path)
    with pytest.raises(ConfigError, match="seed"):
        run(config.replace(seed=1), tmp_path)


def test_a_corpus_with_a_correction_is_not_trained_on(
    config: ReasonerTrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = corpus.solved(config.corpus, config.seed)
    spoiled = clean[2].replace(steps=(*clean[2].steps, "Wait, think safely."))
    monkeypatch.setattr(corpus, "solved", lambda settings, seed: [*clean[:2], spoiled])
    with pytest.raises(SearchError, match=r"row 'word_problem-2' holds a correction \('think safely'\)"):
        run(config, tmp_path)
    assert not (tmp_path / ADAPTER).exists()


def test_its_files_say_what_was_done(config: ReasonerTrainingConfig, tmp_path: Path) -> None:
    made = run(config, tmp_path)
    trained = json.loads((tmp_path / TRAINED).read_text())
    assert trained["losses"][-1] == made.final_loss
    assert yaml_config.load(ReasonerTrainingConfig, tmp_path / CONFIG) == config


def test_the_plan_counts_rows_and_steps(config: ReasonerTrainingConfig) -> None:
    planned = plan(config)
    assert planned.rows == {"word_problem": 6, "rationale": 0, "instruction": 2, "refusal": 1}
    assert planned.steps == 4
    assert planned.minutes > 0


def test_the_command_plans_without_loading_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.PROGRAM.main(["reasoner", "smollm2", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["refusal"] == 75


def test_the_command_names_a_base_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["reasoner", "smollm2", "--base.path", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert cli.PROGRAM.main(words) == 2
    assert "nowhere" in capsys.readouterr().err
