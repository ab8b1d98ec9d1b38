"""How every chat template of the installed trl is told: its family and tags, or a refusal; none in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl
from transformers import PreTrainedTokenizerFast

from safethink.config import ThoughtConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt, refuse_contradiction
from tests.support.published_families import byte_level

TEMPLATES = Path(trl.__file__).with_name("chat_templates")
THINK = "<think>", "</think>"
GEMMA = "<|channel>thought", "<channel|>"
GPT_OSS = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
MUSE = "<|start|>assistant to=self<|message|>", "<|start|>assistant to=user<|message|>"
CHANNELS = "<|channel>", "<channel|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|eom|>"
QWEN3_TYPES = {"qwen3": "qwen3", "qwen3_instruct_2507": "qwen3", "qwen3_vl": "qwen3_vl"}
"""Where the architecture decides, since the vocabulary has the tags whether the model reasons or not."""

REASONERS = {
    # Template: its family, its tags, and what stands behind the prompt where the model takes over.
    "deepseek_r1_distill": ("deepseek-r1-distill", THINK, "<｜Assistant｜><think>\n"),
    "deepseekv3": ("deepseek-r1-distill", THINK, "<｜Assistant｜><think>\n"),
    "diffusion_gemma": ("gemma-4", GEMMA, "<turn|>\n<|turn>model\n<|channel>thought\n"),
    "gemma4": ("gemma-4", GEMMA, "<turn|>\n<|turn>model\n<|channel>thought\n"),
    "gemma4_v2": ("gemma-4", GEMMA, "<turn|>\n<|turn>model\n<|channel>thought\n"),
    "gemma4_v3": ("gemma-4", GEMMA, "<turn|>\n<|turn>model\n<|channel>thought\n"),
    "gemma4_v4": ("gemma-4", GEMMA, "<turn|>\n<|turn>model\n<|channel>thought\n"),
    "gemma4_v5": ("gemma-4", GEMMA, "<turn|>\n<|turn>model\n<|channel>thought\n"),
    "glm4moe": ("glm-4-moe", THINK, "<|assistant|>\n<think>"),
    "gptoss": ("gpt-oss", GPT_OSS, "<|end|><|start|>assistant<|channel|>analysis<|message|>"),
    "muse_glimmer": ("muse-glimmer", MUSE, "<|eot|><|start|>assistant to=self<|message|>"),
    "nemotron_3_5_lightning": ("nemotron-3", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "nemotron_3_nano": ("nemotron-3", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "nemotron_3_super": ("nemotron-3", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "nemotron_3_ultra": ("nemotron-3", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "qwen3": ("qwen3", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "qwen3_5_nothink": ("qwen3.5", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "qwen3_5_think": ("qwen3.5", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "qwen3_6": ("qwen3.5", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    "qwen3_8": ("qwen3.5", THINK, "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
}
SHARED = {"lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"}
"""Templates that reasoners and others have alike, so that the user must say which it is."""
OTHERS = {
    "cohere", "cohere2", "gemma", "gemma3", "idefics3", "lfm2", "lfm2_v2", "llama3", "llama3_1", "llama3_2",
    "llava_next", "phi3", "phi3_5", "qwen2_5", "qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl", "smolvlm",
}  # fmt: skip
"""Templates of models that do not reason."""
OF_PARTS = {"idefics3", "llava_next", "smolvlm"}
"""Those that want contents as lists of parts."""
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with a template of trl, and in its vocabulary what the model's own has."""
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    tags = [tag for tag in (*THINK, *CHANNELS) if tag in source or (tag in THINK and published(name) in QWEN3_TYPES)]
    return byte_level(source, (*((tag, False) for tag in tags), ("<eos>", True)), "<eos>", "<eos>")


def published(name: str) -> str:
    """The template as it was published, where trl has a variant of it for training."""
    return name.removesuffix("_training")


def thought_of(name: str, family: str = "auto") -> Thought:
    return Thought(ThoughtConfig(family=family), tokenizer(name), model_type=QWEN3_TYPES.get(published(name)))


@pytest.mark.parametrize("name", NAMES)
def test_every_template_of_trl_is_told_or_refused_by_name(name: str) -> None:
    assert published(name) in {*REASONERS, *SHARED, *OTHERS}, f"a new template of trl: {name}"
    if published(name) in SHARED:
        with pytest.raises(ConfigError, match=r"set thought\.family to lfm2\.5-thinking, or to plain if it does not"):
            _ = thought_of(name).family
        for named, behind in (("lfm2.5-thinking", "<think>"), ("plain", "")):
            refuse_contradiction(thought_of(name, named))
            opened = thought_of(name, named).decode(open_prompt(thought_of(name, named), Prompt.from_text("Why?")))
            assert opened.endswith(f"Why?<|im_end|>\n<|im_start|>assistant\n{behind}")
        return
    if published(name) in OTHERS:
        with pytest.raises(ConfigError, match=r"does not show how it thinks.*thought\.family: plain"):
            _ = thought_of(name).family
        return
    family, tags, behind = REASONERS[published(name)]
    thought = thought_of(name)
    assert (thought.family.name, (thought.family.open_tag, thought.family.close_tag)) == (family, tags)
    refuse_contradiction(thought)
    opened = thought.decode(open_prompt(thought, Prompt.from_text("Why is the sky blue?")))
    assert opened.partition("Why is the sky blue?")[2] == behind


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_model_that_does_not_reason_is_opened_as_its_template_does(name: str) -> None:
    thought = thought_of(name, "plain")
    refuse_contradiction(thought)
    prompt = Prompt.from_text("Why is the sky blue?")
    contents: list[object] = [prompt.text, [{"type": "text", "text": prompt.text}]]
    expected = [
        thought.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        for content in contents[name in OF_PARTS :][:1]
    ]
    assert [thought.decode(open_prompt(thought, prompt))] == expected


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "nemotron_3_nano", "glm4moe"])
def test_a_reasoner_with_a_switch_may_be_guarded_as_one_that_does_not_think(name: str) -> None:
    thought = thought_of(name, "plain")
    refuse_contradiction(thought)
    opened = thought.decode(open_prompt(thought, Prompt.from_text("Why?")))
    assert opened.rstrip().endswith("</think>")


def test_plain_is_refused_where_the_template_opens_the_thinking_whatever_it_is_told() -> None:
    with pytest.raises(ConfigError, match="family is plain, and the chat template opens the thinking"):
        refuse_contradiction(thought_of("deepseek_r1_distill", "plain"))


@pytest.mark.parametrize("name", ["gptoss", "muse_glimmer"])
def test_plain_is_refused_where_the_template_is_that_of_a_reasoner_without_a_switch(name: str) -> None:
    with pytest.raises(ConfigError, match=r"family is plain, and the chat template is that of .* whatever it is told"):
        refuse_contradiction(thought_of(name, "plain"))


@pytest.mark.parametrize("name", ["gemma4", "diffusion_gemma"])
def test_a_template_that_turns_the_thinking_on_in_the_system_turn_may_be_plain(name: str) -> None:
    refuse_contradiction(thought_of(name, "plain"))
