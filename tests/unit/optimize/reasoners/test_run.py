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
from optimize.reasoners.plan import TOKENS_PER_ROW, TYPICAL, plan
from optimize.reasoners.rows import read
from optimize.reasoners.run import ADAPTER, CONFIG, ROWS, TRAINED, run
from safethink.config import JsonlBenchmarkConfig, LimitsConfig, ReasonerConfig, yaml_config
from safethink.errors import ConfigError, SearchError
from safethink.models import loading
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


def test_the_card_keeps_apart_what_something_was_chosen_by(config: ReasonerTrainingConfig, tmp_path: Path) -> None:
    tests = measuring(config, tmp_path).evaluation
    chosen = tmp_path / "chosen.jsonl"
    # The second line asks what the first line of the tests asks.
    chosen.write_text('{"prompt": "Add 9 and 9."}\n{"prompt": "add 0 and 4"}\n')
    development = (JsonlBenchmarkConfig(path=str(chosen), prompts="harmless"),)
    both = tests.replace(development=development, chosen="the seed, of 0 and 1")
    made = run(config.replace(evaluation=both), tmp_path)
    assert [measured.metrics["closed"].n for measured in (*made.sets, *made.development)] == [2, 2]
    card = (tmp_path / ADAPTER / "README.md").read_text()
    of_tests, of_development = card.split("### Tests")[1].split("### Development")
    assert "Nothing was chosen by these sets.\n\n| set |" in of_tests
    assert "- asked: prompts left out that are in the development sets too: 1" in of_tests
    assert "Something was chosen by these sets: the seed, of 0 and 1." in of_development
    assert "| chosen | 2 |" in of_development
    run(config.replace(evaluation=tests), tmp_path)
    assert "Whether anything was chosen by these sets is not said" in (tmp_path / ADAPTER / "README.md").read_text()


def test_a_test_of_development_prompts_alone_is_refused(config: ReasonerTrainingConfig, tmp_path: Path) -> None:
    tests = measuring(config, tmp_path).evaluation
    with pytest.raises(ConfigError, match=r"evaluation\.benchmarks: asked: every prompt is one of `development` too"):
        plan(config.replace(evaluation=tests.replace(development=tests.benchmarks)))


def test_what_was_chosen_needs_sets_that_it_was_chosen_by() -> None:
    with pytest.raises(ValueError, match="which has no set"):
        ReasonerEvaluationConfig(chosen="the seed")


def test_keys_of_today_are_not_written_where_they_say_nothing() -> None:
    assert "development" not in yaml_config.dump(ReasonerEvaluationConfig())


def test_the_plan_counts_rows_steps_and_prompts_and_tries_nothing_unasked(
    config: ReasonerTrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(loading, "load")
    planned = plan(measuring(config, tmp_path))
    assert planned.rows == {"word_problem": 6, "instruction": 2, "refusal": 1}
    assert planned.steps == 4
    assert planned.asked == {"asked": 3}
    assert planned.answered_tokens == 3 * (8 + 4)
    assert (planned.minutes, planned.timed_by) == (None, "not tried")


def test_the_plan_tries_the_base_where_it_is_here(config: ReasonerTrainingConfig) -> None:
    planned = plan(config, probe=True)
    assert planned.timed_by == "20 tokens of a batch and two steps of the optimiser, tried on this machine"
    assert planned.minutes is not None


def test_a_base_that_would_be_downloaded_is_told_by_a_typical_one(
    config: ReasonerTrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimize.reasoners.plan.absent", lambda base: base.path)
    monkeypatch.delattr(loading, "load")
    planned = plan(config, probe=True)
    assert planned.timed_by.startswith("a base of 135 M parameters on a quiet CPU core")
    assert planned.minutes == TYPICAL.minutes(planned.decoded_tokens, 4 * 8 * TOKENS_PER_ROW)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--base.path", "nowhere/base"], "no model at 'nowhere/base': no such folder, and no such repository on the"),
        (["--base.gguf_file", "small.gguf"], "it has no small.gguf"),
        (["--corpus.rationales", "nowhere.jsonl"], "corpus.rationales: nothing at 'nowhere.jsonl': no such file"),
        (["--evaluation.benchmarks", '{"kind": "svamp", "path": "nowhere.json"}'], "nowhere.json: No such file"),
        (["--base.path", "smollm2-reasoner"], "base.path: 'smollm2-reasoner' is an adapter; give the model that it"),
    ],
)
@pytest.mark.parametrize("ending", [["--dry-run"], ["--dry-run", "--probe", "False"], []])
def test_what_is_missing_is_named_before_any_time_is_told(
    capsys: pytest.CaptureFixture[str],
    config: ReasonerTrainingConfig,
    tmp_path: Path,
    changed: list[str],
    said: str,
    ending: list[str],
) -> None:
    (tmp_path / "small.yaml").write_text(yaml_config.dump(config))
    words = ["reasoner", str(tmp_path / "small.yaml"), *changed, "--out", str(tmp_path / "out"), *ending]
    assert cli.PROGRAM.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1
