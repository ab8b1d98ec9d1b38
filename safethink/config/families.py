"""Thinking format of each family of reasoners: one table of facts, and the signs that tell a family.

What is true of a family stands in its row; nothing else in the project knows a family by name. A row is chosen from the
reasoner's own chat template and configuration, never from the name of its folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from safethink.errors import ConfigError

AUTO: Final = "auto"
"""Stands for the family that fits the reasoner."""


@dataclass(frozen=True, slots=True)
class Traits:
    """The facts that tell a reasoner's family.

    Attributes:
        template: the source of its chat template.
        generation_prompt: what the template puts behind the last message.
        model_type: its architecture, as its configuration names it; None where that is not known.
    """

    template: str
    generation_prompt: str
    model_type: str | None = None


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs of a family; all of them must fit.

    Attributes:
        template: strings that the source of the chat template contains.
        model_types: architectures, any of them; empty for all.
        opened: whether the template opens the thinking; None where that says nothing.
    """

    template: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    opened: bool | None = None


@dataclass(frozen=True, slots=True)
class PublishedSampling:
    """Sampling settings published by a family's authors.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass; 1 keeps everything.
        top_k: number of most likely tokens kept; 0 keeps everything.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    r"""Thinking format of a family of reasoners.

    Attributes:
        name: how a configuration calls it.
        signs: what it is told by.
        opener_in_template: whether the published template opens the thinking, or leaves it to the model.
        open_tag: what opens the thinking; empty where nothing does.
        open_break: what stands between an opener that is put there for the model and the first word.
        close_tag: what closes it, as the model writes it; empty where only the last of `stage_turns` does.
        close_lead: what stands before `close_tag` where a defense closes the thinking itself.
        message_breaks: what stands between two messages of one thinking; no part of its text.
        header_fields: regular expression of what may follow the words in a message's header, such as its recipient.
        answer_break: what stands between the closed thinking and an answer that a defense writes.
        answer_tags: what an answer may be wrapped in; no part of its text.
        step_delimiter: what ends a step, any of them.
        sentences: whether the end of a sentence ends a step as well.
        step_tokens: how many tokens a step is, whatever delimiters stand in it; 0 where those end it.
        stage_turns: what the user says in each turn of a reasoner that thinks over several; the first is put behind the
            prompt, the last asks for the answer.
        prefix_separator: injected right behind a prefix.
        sampling: how its authors sample it; None where they do not say.
    """

    name: str
    signs: Signs = field(default=Signs(), repr=False)
    opener_in_template: bool = False
    open_tag: str = "<think>"
    open_break: str = "\n"
    close_tag: str = "</think>"
    close_lead: str = ""
    message_breaks: tuple[str, ...] = ()
    header_fields: str = ""
    answer_break: str = "\n\n"
    answer_tags: tuple[str, ...] = ()
    step_delimiter: tuple[str, ...] = ("\n\n",)
    sentences: bool = False
    step_tokens: int = 0
    stage_turns: tuple[str, ...] = ()
    prefix_separator: str = "\n"
    sampling: PublishedSampling | None = None

    def fits(self, traits: Traits) -> bool:
        """Whether a reasoner shows all signs of this family."""
        signs, prompt = self.signs, traits.generation_prompt
        opened = prompt.rfind(self.open_tag) > prompt.rfind(self.close_tag)
        return (
            all(sign in traits.template for sign in signs.template)
            and (not signs.model_types or traits.model_type in signs.model_types)
            and signs.opened in (None, opened)
        )


_MLLAMA = ("mllama", "mllama_text_model")
_QWEN3 = ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe")

FAMILIES: Final = (
    Family(
        "testbed",
        Signs(("{% else %}{% set content = message.content %}{% endif %}<|im_start|>{{ message.role }}\n",)),
        opener_in_template=True,
    ),
    Family(
        "gpt-oss",
        Signs(("<|channel|>analysis<|message|>",)),
        open_tag="<|channel|>analysis<|message|>",
        open_break="",
        close_tag="<|channel|>final<|message|>",
        close_lead="<|end|><|start|>assistant",
        message_breaks=(
            "<|end|><|start|>assistant<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>commentary<|message|>",
        ),
        # Recipient and content type (openai/harmony, docs/format.md); too short to hide a thought in.
        header_fields=r"( to=[\w.:-]{1,40})?( ?<\|constrain\|> ?\w{1,12}| json| code)?",
        answer_break="",
        sampling=PublishedSampling(1.0),
    ),
    Family(
        "begin-of-thought",
        Signs(("<|begin_of_thought|>",)),
        open_tag="<|begin_of_thought|>",
        open_break="\n\n",
        close_tag="<|end_of_thought|>",
        answer_tags=("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    Family(
        "deepseek-r1-distill",
        Signs(("<｜Assistant｜>",)),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95),
    ),
    Family(
        "phi-4-reasoning",
        Signs(("<|im_sep|>", "<think>")),
        open_break="",
        sampling=PublishedSampling(0.8, 0.95),
    ),
    Family(
        "qwen3-thinking-2507",
        Signs(model_types=_QWEN3, opened=True),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95, 20),
    ),
    Family(
        "qwen3",
        Signs(("enable_thinking",), _QWEN3),
        sampling=PublishedSampling(0.6, 0.95, 20),
    ),
    Family(
        "qwq",
        Signs(("<|im_start|>",), ("qwen2",), opened=True),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95),
    ),
    Family(
        "llava-cot",
        Signs(model_types=_MLLAMA),
        open_tag="<SUMMARY>",
        open_break="",
        close_tag="<CONCLUSION>",
        close_lead="\n\n",
        answer_break=" ",
        answer_tags=("</CONCLUSION>",),
        step_delimiter=("\n\n", "</SUMMARY>", "</CAPTION>", "</REASONING>"),
        sampling=PublishedSampling(0.6, 0.9),
    ),
    Family(
        "llamav-o1",
        Signs(model_types=_MLLAMA),
        open_tag="",
        open_break="",
        close_tag="",
        message_breaks=("<|eot_id|>",),
        answer_break="",
        stage_turns=(
            "\nSummarize how you will approach the problem and explain the steps you will take to reach the answer.",
            "Provide a detailed description of the image, particularly emphasizing the aspects related to the "
            "question.",
            "Provide a chain-of-thought, logical explanation of the problem. This should outline step-by-step "
            "reasoning.",
            "State the final answer in a clear and direct format. It must match the correct answer exactly.",
        ),
        sampling=PublishedSampling(0.6, 0.9),
    ),
    Family("think", answer_tags=("<answer>", "</answer>")),
)
"""Every family; the first that fits is taken, and `think` fits whatever no other does."""

_BY_NAME: Final = {family.name: family for family in FAMILIES}


def named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ConfigError: there is none; the known ones are listed.
    """
    if name not in _BY_NAME:
        raise ConfigError(f"no family of reasoners is called {name!r}; known are {AUTO}, {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def choose(traits: Traits) -> Family:
    """The family that a reasoner belongs to.

    Raises:
        ConfigError: several have the very signs that it shows, so that only its user can tell.
    """
    first = next(family for family in FAMILIES if family.fits(traits))
    alike = [family.name for family in FAMILIES if family.signs == first.signs]
    if len(alike) > 1:
        raise ConfigError(
            f"the chat template does not say how this reasoner ({traits.model_type}) thinks: "
            f"set thought.family to {' or '.join(alike)}"
        )
    return first
