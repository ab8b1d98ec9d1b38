"""The script that compares the table of families with the hub, run on trl's templates in the hub's place."""

from __future__ import annotations

import pytest

from docs.tools import compare_templates
from safethink.config.families import FAMILIES, PLAIN, named
from safethink.errors import MissingFileError
from safethink.thinking.format import Thought
from tests.support.published_families import PUBLISHED
from tests.unit.thinking.test_classification import REASONERS, thought_of

OF_TRL = {family: name for name, (family, _, _) in reversed(REASONERS.items())}


def load(model: str) -> Thought:
    """A template of trl for the model's family; LLaVA-CoT has Llama's, which says nothing."""
    family = next(family.name for family in (*FAMILIES, PLAIN) if model in family.hub)
    if family in ("llava-cot", "llamav-o1"):
        published = PUBLISHED[family]
        return Thought(compare_templates.ThoughtConfig(), published.tokenizer(), model_type="mllama")
    if family not in OF_TRL and family != PLAIN.name:
        raise MissingFileError(f"no tokenizer at {model!r}")
    return thought_of(OF_TRL.get(family, "llama3_1"))


@pytest.mark.parametrize("name", [*sorted({*OF_TRL} - {"think"}), "llava-cot", "llamav-o1", "plain"])
def test_a_template_that_is_as_the_table_says_agrees(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_templates.main([name], load) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(named(name).hub)
    assert all(line.startswith(f"ok   {model}: {name}") for line, model in zip(lines, named(name).hub, strict=True))


def test_a_template_that_changed_and_one_that_cannot_be_read_are_said_and_end_with_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare_templates.main(["gpt-oss"], lambda _: thought_of("qwen3")) == 1
    assert "OTHER openai/gpt-oss-20b: gpt-oss, told qwen3" in capsys.readouterr().out
    assert compare_templates.main(["qwq"], load) == 1
    assert "no tokenizer at 'Qwen/QwQ-32B'" in capsys.readouterr().out


def test_every_family_that_is_told_by_its_signs_names_a_model_on_the_hub() -> None:
    assert [family.name for family in FAMILIES if not family.hub] == ["think"]
