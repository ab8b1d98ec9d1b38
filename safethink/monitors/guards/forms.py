"""Vocabulary of guard presets: how a conversation is put to a guard, and how its reply is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

NO_ARGS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a question that is written by us and rendered by the guard's chat template.

    Attributes:
        role: who says it.
        text: its words, with the holes {prompt}, {trace}, {policy} and {categories} where wanted.
    """

    role: Literal["system", "user"]
    text: str


@dataclass(frozen=True, slots=True)
class Form:
    """Prompt format: a conversation as the input of a model.

    By default the conversation itself goes through the tokenizer's chat template, which asks. Where it does not ask,
    one of `text`, `turns` and `asks` does.

    Attributes:
        text: the whole input in words, with the holes {prompt} and {trace}, and {policy}, {categories}, {bos}, {eos}
            where wanted, control tokens spelled out.
        turns: the turns of the question, rendered by the chat template.
        asks: what a last user's turn asks behind the conversation, with the hole {policy} where wanted.
        forced: what the model has said already when it is read.
        policies: the question is asked once with each; empty where it has no such hole.
        control: control tokens that `text` or the verdicts spell and the tokenizer must know.
        replies: whether the chat template opens a turn of the model's own after the conversation.
        trims: whether the blanks around prompt and trace go.
        template_args: handed to the chat template.
    """

    text: str | None = None
    turns: tuple[Turn, ...] = ()
    asks: str | None = None
    forced: str = ""
    policies: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    replies: bool = True
    trims: bool = False
    template_args: Mapping[str, Any] = field(default_factory=lambda: NO_ARGS)

    @property
    def words(self) -> str:
        """All words of ours; empty where the chat template alone asks."""
        return "\n".join([self.text or "", *(turn.text for turn in self.turns), self.asks or ""]).strip()

    @property
    def is_asked_by_template(self) -> bool:
        """Whether nothing but the chat template asks."""
        return not self.words


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """One thing that a guard may say.

    Attributes:
        text: its words, from where the forced ones end.
        safety: the share of it that counts as safe, in [0, 1]; None for a verdict in between, which counts as the
            configuration says.
        category: the category of harm that it names, where the verdict itself does.
    """

    text: str
    safety: float | None
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A part of a reply that offers a choice.

    Attributes:
        lead: the words in front of it.
        options: what may be said.
        separator: what stands between several options of one line; None where only one may be said. The first option is
            then what is said in place of any other, such as ` None`; empty for none such.
    """

    lead: str
    options: tuple[str, ...]
    separator: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """List of the categories of harm that a guard found, behind an unsafe verdict.

    Attributes:
        lead: between the verdict and the first name.
        separator: between two names.
        end: what follows the last one; empty where the reply ends there.
        blank: stands before each name, as the blank in ` S1` does.
        template_args: make the chat template ask for the list.
    """

    lead: str
    separator: str
    end: str = ""
    blank: str = ""
    template_args: Mapping[str, Any] = field(default_factory=lambda: NO_ARGS)


@dataclass(frozen=True, slots=True)
class Categories:
    """The kinds of harm that a guard tells apart.

    Attributes:
        names: each as the guard writes it, with what it stands for.
        listing: where the reply names those found; None where the verdict itself does, or none is named and the
            question asks about `names` alone.
        ignored: those of `names` that do not count.
        chosen: those that a configuration writes down, as the ignored ones or as those that alone count.
        template_arg: name of the chat template's argument that takes a taxonomy of one's own; None for none such.
    """

    names: Mapping[str, str]
    listing: Listing | None = None
    ignored: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    template_arg: str | None = None

    @property
    def is_listed(self) -> bool:
        """Whether the list behind a verdict bears on the score."""
        return self.listing is not None and bool(self.ignored)


@dataclass(frozen=True, slots=True)
class Preset:
    """One published guard, or several that are asked alike.

    Attributes:
        name: what configurations call it.
        title: the guard's published name.
        models: hub ids of what it was published as.
        asks: what is asked about the trace, in a few words.
        form: how the question is put.
        verdicts: what may be answered.
        lines: what the reply says before its verdict, and is summed over.
        categories: the kinds of harm that it tells apart; None for none.
        in_name: words by any of which the model's name tells that it is of this kind.
        in_template: a word that its chat template has, and others have not.
        model_type: its architecture, where no other guard has it.
    """

    name: str
    title: str
    models: tuple[str, ...]
    asks: str
    form: Form
    verdicts: tuple[GuardVerdict, ...]
    lines: tuple[Line, ...] = ()
    categories: Categories | None = None
    in_name: tuple[str, ...] = ()
    in_template: str | None = None
    model_type: str | None = None

    def fits(self, model_type: str, name: str, template: str) -> bool:
        """Whether a model shows any of the marks."""
        return (
            self.model_type == model_type
            or any(word in name for word in self.in_name)
            or (self.in_template is not None and self.in_template in template)
        )
