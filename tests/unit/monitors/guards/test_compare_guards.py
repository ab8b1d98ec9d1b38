"""Our questions beside those of real chat templates: those that trl carries, of the families that guards come from."""

from __future__ import annotations

from importlib.resources import files

import pytest
from transformers import PreTrainedTokenizerBase

from docs.tools.compare_guards import compare, main
from safethink.monitors.guards.presets import PRESETS
from tests.support.tiny_guards import CHATML, GEMMA, GUARDS, HARMONY, byte_level, sentencepiece

ARCHITECTURES = {"gpt_oss_safeguard": "gpt_oss"}


def real(name: str) -> PreTrainedTokenizerBase:
    """A tiny tokenizer with the real template of the family that a guard was made from."""
    template = {
        "dynaguard": "qwen3",
        "polyguard": "qwen2_5",
        "nemotron_content_safety_reasoning": "gemma3",
        "gpt_oss_safeguard": "gptoss",
    }[name]
    text = (files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    if name == "nemotron_content_safety_reasoning":
        return sentencepiece(tuple(GEMMA), False, text)
    return byte_level(tuple(HARMONY if name == "gpt_oss_safeguard" else CHATML), text)


@pytest.mark.parametrize(
    ("name", "added", "gone"),
    [
        ("dynaguard", ["<answer>"], []),
        ("polyguard", ["Harmful request:"], []),
        ("nemotron_content_safety_reasoning", ["Prompt harm:"], []),
        (
            "gpt_oss_safeguard",
            ["Assistant: TRACE<|end|><|start|>assistant<|channel|>final<|message|>"],
            ["Current date: ", "Assistant: TRACE<|end|><|start|>assistant"],
        ),
    ],
)
def test_our_question_is_that_of_the_template_but_for_what_is_put_there_for_the_guard(
    name: str, added: list[str], gone: list[str]
) -> None:
    (compared, *_) = compare([PRESETS[name]], lambda _: (real(name), ARCHITECTURES.get(name, "other")))
    assert compared.told == name
    lines = [line for line in compared.difference if not line.startswith(("---", "+++", "@@"))]
    assert [line[1:] for line in lines if line[0] == "+"] == added
    taken = [line[1:] for line in lines if line[0] == "-"]
    assert len(taken) == len(gone)
    assert all(line.startswith(words) for line, words in zip(taken, gone, strict=True))


def test_every_guard_is_compared_with_its_template() -> None:
    folders = {next(name for name in PRESETS if folder.startswith(name)): folder for folder in GUARDS}
    for name, preset in PRESETS.items():
        tokenizer = GUARDS[folders[name]].tokenizer()
        for compared in compare([preset], lambda _, found=tokenizer, kind=name: (found, ARCHITECTURES.get(kind, ""))):
            assert compared.agrees, str(compared)


def test_a_model_that_is_told_to_be_another_guard_is_said_and_ends_with_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = GUARDS["llama_guard_3_8b"].tokenizer()
    assert main(["qwen3guard"], lambda _: (tokenizer, "llama")) == 1
    assert "OTHER Qwen/Qwen3Guard-Gen-0.6B: qwen3guard, told llama_guard" in capsys.readouterr().out
    assert main(["llama_guard"], lambda _: (tokenizer, "llama")) == 0


def test_a_preset_that_there_is_not_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama_guard", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("there is no preset 'nonsense'; there are llama_guard, ")
    assert said.count("\n") == 1
