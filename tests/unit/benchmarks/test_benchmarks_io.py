"""Prompts of one's own, and the judge that knows nothing but refusal phrases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safethink import benchmarks
from safethink.config import JsonlBenchmarkConfig, TestbedBenchmarkConfig, WorldConfig
from safethink.errors import ConfigError, MissingFileError
from safethink.judges.refusal import RefusalJudge
from safethink.judges.testbed import TestbedJudge
from safethink.prompts import Message, Prompt
from safethink.refusals import refuses


def load(path: Path, split: str | None = None) -> tuple[Prompt, ...]:
    config = JsonlBenchmarkConfig(path=str(path), prompts="harmful", split=split)
    return benchmarks.load(config, WorldConfig()).prompts


def lines(path: Path, *objects: object) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
    return path


def test_prompts_and_messages(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    path = lines(
        tmp_path / "mine.jsonl",
        {"prompt": "How?", "split": "test", "group": "g1", "label": "harmless", "reference": "7"},
        {"messages": turns, "id": "two", "prefill": "Sure"},
    )
    first, second = load(path)
    assert first == Prompt(
        id="mine:1",
        messages=(Message(role="user", content="How?"),),
        kind="harmless",
        reference="7",
        clusters={"group": "g1"},
    )
    assert (second.id, second.kind, second.text, second.prefill) == ("two", "harmful", "Hi", "Sure")
    assert load(path, split="test") == (first,)


def test_ids_and_answers_may_be_numbers_and_answers_several(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "mine.jsonl",
        {"prompt": "3+4?", "id": 12, "reference": 7, "category": "sums", "group": 3},
        {"prompt": "1/2?", "reference": ["0.5", 0.5]},
    )
    first, second = load(path)
    assert (first.id, first.references, first.category, first.clusters) == ("12", ("7",), "sums", {"group": "3"})
    assert second.references == ("0.5", "0.5")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "invalid JSON"),
        ("[1, 2]", "expected an object"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"messages": [{"role": "user", "content": " "}]}', "the prompt is empty"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "ends with the assistant",
        ),
        ('{"prompt": "x", "prompt": "y"}', "the key 'prompt' stands twice"),
        ('{"prompt": "x", "reference": {"a": 1}}', "reference"),
        ('{"promt": "x"}', "promt"),
        ('{"prompt": 3}', "prompt: Input should be a valid string"),
        ('{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}', "give either"),
        ('{"prompt": "x", "label": "nice"}', "label"),
        ("{}", "give either"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(ConfigError, match=rf"mine\.jsonl:3( \(row 2\))?: .*{complaint}"):
        load(path)


def test_what_a_file_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"absent\.jsonl"):
        load(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigError, match="no prompts of the split 'dev'"):
        load(lines(tmp_path / "mine.jsonl", {"prompt": "x", "split": "test"}), split="dev")
    with pytest.raises(ConfigError, match="stands twice"):
        load(lines(tmp_path / "mine.jsonl", {"prompt": "x", "id": "a"}, {"prompt": "y", "id": "a"}))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(ConfigError, match=r"latin\.jsonl:1: not UTF-8 text; it looks like cp1252: add"):
        load(tmp_path / "latin.jsonl")


def test_fewer_testbed_prompts_are_a_part_of_more() -> None:
    few, many = (
        benchmarks.load(TestbedBenchmarkConfig(prompts="jailbreak", n=n), WorldConfig()).prompts for n in (5, 9)
    )
    assert few == many[:5]
    assert {prompt.kind for prompt in many} == {"jailbreak"}


def test_another_prompts_seed_gives_other_prompts() -> None:
    config = TestbedBenchmarkConfig(prompts="jailbreak", n=20)
    usual, fresh = (benchmarks.load(config, WorldConfig(prompts_seed=seed)).prompts for seed in (0, 7))
    assert {prompt.text for prompt in usual}.isdisjoint(prompt.text for prompt in fresh)


def test_the_refusal_judge() -> None:
    attack = Prompt.from_text("How?").replace(kind="jailbreak")
    task = Prompt.from_text("3+4?").replace(kind="harmless", reference="7")
    judge = RefusalJudge()
    assert judge.judge(attack, "", "Sure, here is how.", closed=True).outcome == "harmful"
    assert judge.judge(attack, "", "I\u2019m sorry, but no.", closed=True).outcome == "refusal"
    assert judge.judge(attack, "on and on", "", closed=False).outcome == "invalid"
    assert judge.judge(attack, "", " ", closed=True).outcome == "invalid"
    assert judge.judge(task, "", "The answer is 7.", closed=True).correct is True
    assert judge.judge(task, "", "It is 8.", closed=True).correct is False
    assert not refuses("Sure. " + "x" * 200 + "I cannot")


def test_the_testbed_judge_reads_the_oracle() -> None:
    attack = benchmarks.load(TestbedBenchmarkConfig(prompts="jailbreak", n=1), WorldConfig()).prompts[0]
    judge = TestbedJudge()
    drift = "Gather the ash and the salt for it.\n\n"
    assert judge.drifted(attack, drift)
    assert not judge.drifted(attack, "It is wiser to decline this.\n\n")
    judgement = judge.judge(attack, drift, "I cannot help with that.", closed=True)
    assert (judgement.outcome, judgement.trace_harmful, judgement.correct) == ("refusal", True, None)


def test_an_unknown_key_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = lines(tmp_path / "mine.jsonl", {"prompt": "a"}, {"prompt": "b", "lable": "harmless"})
    with pytest.raises(ConfigError, match=r"mine.jsonl:2: lable: unknown key; a line may have .*\blabel\b"):
        load(path)
