"""Tags that a tokenizer declares itself: trl's and transformers' declarations, and broken ones."""

from __future__ import annotations

import re

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.cli.serving import utils as serving
from trl import chat_template_utils as declarations

from safethink.config import ThoughtConfig, families
from safethink.config.family import DeclaredTags, Traits
from safethink.errors import ConfigError
from safethink.prompts import Prompt
from safethink.thinking.declaration import declared_tags
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from tests.support.published_families import PUBLISHED, byte_level

TURNS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ROWS = {
    # trl's declaration: the family that its tags must be those of.
    "qwen3_template": "qwen3",
    "qwen3_5_template": "qwen3.5",
    "glm4moe_template": "glm-4-moe",
    "gptoss_template": "gpt-oss",
    "lfm2_2_5_template": "think",
    "nemotron_3_template": "nemotron-3",
    "gemma4_template": "gemma-4",
    "deepseek_r1_distill_template": "deepseek-r1-distill",
}


def tokenizer(declared: object, template: str = TURNS) -> PreTrainedTokenizerFast:
    made = byte_level(template, (("<eos>", True), ("<|in|>", True), ("<|out|>", True)), "<eos>")
    made.response_template = declared
    return made


def declaration(**field: object) -> dict[str, object]:
    return {"start_anchor": "[assistant]", "fields": {"reasoning_content": field, "content": {"close": "<eos>"}}}


def thought_of(declared: object, template: str = TURNS, **said: object) -> Thought:
    return Thought(ThoughtConfig.model_validate(said), tokenizer(declared, template))


@pytest.mark.parametrize(("name", "family"), ROWS.items())
def test_what_trl_declares_of_a_template_agrees_with_the_family(name: str, family: str) -> None:
    tags = declared_tags(tokenizer(getattr(declarations, name)))
    assert tags is not None
    assert families.named(family).agrees(tags), tags


def test_every_declaration_of_trl_is_compared_or_declares_no_thinking() -> None:
    found = {
        name for name in vars(declarations) if name.endswith("_template") and isinstance(vars(declarations)[name], dict)
    }
    silent = {name for name in found if declared_tags(tokenizer(vars(declarations)[name])) is None}
    assert found - silent == set(ROWS)
    assert silent == {"llama3_template"}


@pytest.mark.parametrize(("types", "declared"), serving._RESPONSE_TEMPLATE_FALLBACKS.items())
def test_what_transformers_serves_by_agrees_with_the_family(types: tuple[str, ...], declared: object) -> None:
    family = {"qwen2": "qwq", "qwen3_5": "qwen3.5", "gemma4": "gemma-4"}[types[0]]
    tags = declared_tags(tokenizer(declared))
    assert tags is not None
    assert families.named(family).agrees(tags)


def test_a_reasoner_of_no_known_family_thinks_in_the_tags_that_its_tokenizer_declares() -> None:
    thought = thought_of(declaration(open="<|in|>", close_pattern=r"<\|out\|>\s*"))
    assert (thought.family.name, thought.family.open_tag, thought.family.close_tag) == ("declared", "<|in|>", "<|out|>")
    assert thought.opener.is_control
    assert thought.decode(open_prompt(thought, Prompt.from_text("Add."))) == "[user]Add.[assistant]<|in|>"


def test_a_declared_break_is_written_behind_the_opener() -> None:
    thought = thought_of(declaration(open="<|in|>thought\n", close="<|out|>"))
    assert thought.decode(open_prompt(thought, Prompt.from_text("Add."))).endswith("[assistant]<|in|>thought\n")
    assert (thought.family.open_tag, thought.family.open_break) == ("<|in|>thought", "\n")


@pytest.mark.parametrize(
    ("field", "open_tag", "open_break"),
    [
        ({"open_pattern": r"<\|in\|>\n", "close": "<|out|>"}, "<|in|>", "\n"),
        ({"open_pattern": re.escape("<|in|>\n"), "close": "<|out|>"}, "<|in|>", "\n"),
        ({"open_pattern": r"^<\|in\|>", "close": ["<|out|>"]}, "<|in|>", ""),
    ],
)
def test_a_pattern_of_a_fixed_text_is_that_text(field: dict[str, object], open_tag: str, open_break: str) -> None:
    family = thought_of(declaration(**field)).family
    assert (family.open_tag, family.open_break, family.close_tag) == (open_tag, open_break, "<|out|>")


def test_of_several_closing_texts_the_one_that_mirrors_the_opener_closes() -> None:
    tags = declared_tags(tokenizer(declaration(open="<a>", close=["<eos>", "</a>"])))
    assert tags == DeclaredTags("<a>", "</a>")


def test_the_complete_settings_of_a_declared_family_are_read_back_without_the_declaration() -> None:
    thought = thought_of(declaration(open="<|in|>", close="<|out|>"))
    again = Thought(thought.settings, tokenizer(None))
    assert again.family == thought.family


def test_a_declaration_goes_before_the_table_and_the_users_words_before_both() -> None:
    template = TURNS + "{{ '<think></think>' if false }}"
    assert thought_of(None, template).family.name == "think"
    declared = declaration(open="<|in|>", close="<|out|>")
    assert thought_of(declared, template).family.open_tag == "<|in|>"
    said = thought_of(declared, template, open_tag="[[", close_tag="]]").family
    assert (said.name, said.open_tag, said.close_tag) == ("think", "[[", "]]")
    assert thought_of(declared, template, family="plain").family.thinks is False


def test_a_declaration_that_agrees_leaves_a_family_its_other_facts() -> None:
    made = PUBLISHED["qwen3"].tokenizer()
    made.response_template = declarations.qwen3_template
    try:
        assert Thought(ThoughtConfig(), made, model_type="qwen3").family == families.named("qwen3")
    finally:
        made.response_template = None


def test_an_opener_that_the_generation_prompt_writes_is_found_in_the_declared_anchor() -> None:
    tags = declared_tags(tokenizer(declarations.nemotron_3_template))
    assert tags == DeclaredTags("<think>", "</think>")


@pytest.mark.parametrize(
    ("declared", "culprit"),
    [
        ("<think>", "it has no `fields`"),
        ({"fields": {"reasoning_content": "text"}}, "is no mapping"),
        (declaration(open="<a>"), "nothing closes its thinking"),
        (declaration(open="<a>", close_pattern="("), r"'close_pattern' '\(' is no regular expression"),
        (declaration(open="<a>", close_pattern="</a>|</b>"), "'close_pattern' '</a>|</b>' is no fixed text"),
        (declaration(open_pattern=r"<\w+>", close="</a>"), "is no fixed text"),
        (declaration(open="<a>", close_pattern="</t.>"), "'close_pattern' '</t.>' is no fixed text"),
        (declaration(open="<a>", close=["<eos>", "</b>"]), "its 'close' is any of several texts"),
        (declaration(open=3, close="</a>"), "its 'open' is no text"),
        (declaration(open_pattern=3, close="</a>"), "its 'open_pattern' is no text"),
    ],
)  # fmt: skip
def test_a_broken_declaration_is_refused_with_what_is_wrong_and_what_to_set(declared: object, culprit: str) -> None:
    with pytest.raises(ConfigError, match="response_template that the tokenizer declares cannot be used") as refused:
        _ = thought_of(declared).family
    assert culprit.replace("\\", "") in str(refused.value)
    assert "set thought.family" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_broken_declaration_does_not_matter_where_the_user_names_the_family() -> None:
    assert thought_of("<think>", family="qwen3").family == families.named("qwen3")


def test_a_family_called_declared_needs_a_declaration() -> None:
    with pytest.raises(ConfigError, match=r"thought\.family is declared, and the tokenizer declares no tags"):
        _ = thought_of(None, family="declared").family


def test_tags_that_disagree_with_a_family_that_fits_are_those_of_the_declaration() -> None:
    traits = Traits("{{ '<think>' }}{{ '</think>' }}", "", declared=DeclaredTags("<x>", "</x>"))
    assert families.choose(traits).name == "declared"
