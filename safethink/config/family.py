"""Facts about a family of reasoners: its thinking format, and the signs that tell it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DeclaredTags:
    """Tags of the thinking that a tokenizer declares itself, in its `response_template`.

    Attributes:
        open: what opens the thinking, the break behind it included; empty where the generation prompt has done so.
        close: what closes it.
    """

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Traits:
    """The facts that tell a reasoner's family.

    Attributes:
        template: the source of its chat template, without comments.
        generation_prompt: what the template puts behind the last message where it is asked to let the model think.
        model_type: its architecture, as its configuration names it; None where that is not known.
        vocabulary: the control tokens of its tokenizer.
        declared: the tags that its tokenizer declares; None where it declares none.
        prompt: all that the template makes of a question.
    """

    template: str
    generation_prompt: str
    model_type: str | None = None
    vocabulary: frozenset[str] = frozenset()
    declared: DeclaredTags | None = None
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs of a family; all of them must fit.

    Attributes:
        template: strings that the source of the chat template contains.
        model_types: architectures, any of them; empty for all.
        opened: whether the template opens the thinking; None where that says nothing.
        tags: whether the chat template or the vocabulary must show the family's tags.
        shared_vocabulary: beginnings of architectures that come with the family's tags in the vocabulary whether they
            reason or not, so that the template alone counts.
        ambiguous: whether models that do not reason show the same signs, so that only a user can tell.
    """

    template: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    opened: bool | None = None
    tags: bool = False
    shared_vocabulary: tuple[str, ...] = ()
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class PublishedSampling:
    """Sampling settings published by a family's authors.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass; 1 keeps everything.
        top_k: number of most likely tokens kept; 0 keeps everything.
        source: where they are published.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    r"""Thinking format of a family of reasoners.

    Attributes:
        name: how a configuration calls it.
        signs: what it is told by; None for one that must be named.
        models: which models it is, for people.
        hub: some of them on the hub.
        thinks: whether it thinks before it answers; where not, the answer is watched from its beginning.
        opener_in_template: whether the published template opens the thinking, or leaves it to the model.
        open_lead: what the model writes before the opener, where the template leaves that to it.
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
    signs: Signs | None = field(default=None, repr=False)
    models: str = field(default="", repr=False)
    hub: tuple[str, ...] = field(default=(), repr=False)
    thinks: bool = True
    opener_in_template: bool = False
    open_lead: str = ""
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
        signs = self.signs
        if signs is None:
            return False
        return (
            all(sign in traits.template for sign in signs.template)
            and (not signs.model_types or traits.model_type in signs.model_types)
            and signs.opened in (None, self.is_open(traits.generation_prompt))
            and (not signs.tags or self._shows_tags(signs, traits))
        )

    @property
    def is_ambiguous(self) -> bool:
        """Whether models that do not reason show the same signs."""
        return self.signs is not None and self.signs.ambiguous

    def is_open(self, text: str) -> bool:
        """Whether a text leaves the thinking open."""
        return text.rfind(self.open_tag) > text.rfind(self.close_tag)

    def agrees(self, declared: DeclaredTags) -> bool:
        """Whether the tags that a tokenizer declares are this family's."""
        opener, closing = (self.open_tag + self.open_break).strip(), self.close_lead + self.close_tag
        return declared.open.strip() in ("", opener) and closing.startswith(declared.close.strip())

    def _shows_tags(self, signs: Signs, traits: Traits) -> bool:
        tags = {self.open_tag, self.close_tag}
        in_vocabulary = tags <= traits.vocabulary and not (traits.model_type or "").startswith(signs.shared_vocabulary)
        in_template = all(tag in traits.template for tag in tags) or self.is_open(traits.generation_prompt)
        return in_vocabulary or in_template
