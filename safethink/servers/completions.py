# pyright: standard
"""The OpenAI completions protocol, with what vLLM and SGLang add to it: token ids in and out.

For a server that takes nothing but text, token ids are written as text, and the text that comes back as token ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, Field
from transformers import PreTrainedTokenizerBase

from safethink.config import ServerConfig
from safethink.errors import ConfigError, ServerError
from safethink.servers.replicas import RefusedError, Replicas
from safethink.tokens import num_shared

logger = logging.getLogger(__name__)

PATH: Final = "/completions"
MISUNDERSTOOD: Final = (400, 422)
"""HTTP statuses of a server that does not know the form of a request."""
PROBED_TOKENS: Final = 8
PLAIN: Final[Mapping[str, object]] = MappingProxyType(
    {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }
)
"""Says aloud what is meant where nothing is said: servers take the model's own generation config for their default."""
EXCERPT_CHARACTERS: Final = 40
ROUNDING_NATS: Final = 1e-3
"""A log-probability may be so far above 0 by rounding."""
SAMPLE: Final = "Think step by step: 12 + 30 = 42.\n\nWait, let me check this once more."


def _refuse_nonsense(value: float) -> float:
    # Comparisons with NaN are false, so it is refused too; a token that is impossible has -inf.
    if not value <= ROUNDING_NATS:
        raise ValueError("no log-probability")
    return value


LogProbability: TypeAlias = Annotated[float, AfterValidator(_refuse_nonsense)]
"""A natural logarithm of a probability; -inf for one of 0."""


class Logprobs(BaseModel):
    """Log-probabilities of single tokens in a response."""

    tokens: list[str] | None = None
    token_logprobs: list[LogProbability | None] | None = None
    top_logprobs: list[dict[str, LogProbability] | None] | None = None


class Choice(BaseModel):
    """One continuation."""

    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None


class TokenUsage(BaseModel):
    """Token counts of a response."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    """An answer, as far as it is read here."""

    model: str | None = None
    choices: list[Choice] = Field(min_length=1)
    usage: TokenUsage | None = None


class Card(BaseModel):
    """A model in a server's list."""

    id: str
    max_model_len: int | None = None


class CardList(BaseModel):
    """Response of `/models`."""

    data: list[Card]


@dataclass(frozen=True, slots=True)
class Form:
    """Request format that a server accepts.

    Attributes:
        prompts: token ids, or text.
        extended: whether it takes the fields that vLLM and SGLang add to OpenAI's.
    """

    prompts: Literal["ids", "text"]
    extended: bool


FORMS: Final = (Form("ids", True), Form("text", True), Form("text", False))
"""The best one first."""


class Completions:
    """A model behind a server that continues prompts.

    Attributes:
        model: what the server calls it.
        form: how it wants to be asked.
        context_tokens: how many tokens the server lets it attend to; None where it does not say.
    """

    def __init__(self, config: ServerConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Find out what the server calls its model and how it wants to be asked.

        Args:
            config: where it is.
            tokenizer: the model's, known here.

        Raises:
            ServerError: it cannot be reached, or answers nonsense.
            ConfigError: the model or the prompt form that `config` names is not to be had there, or the tokenizer is
                not the server's.
        """
        self.replicas = Replicas(config)
        self.in_place = InPlace(tokenizer)
        self.model, self.context_tokens = served_model(self.replicas, config)
        self.form = self._probe(config)
        logger.info("the server at %s takes prompts as %s", config.urls[0], _described(self.form))

    async def complete(
        self, ids: Sequence[int], body: Mapping[str, object], row: int, form: Form | None = None
    ) -> Choice:
        """Continue `ids`.

        Args:
            ids: the prompt.
            body: what else is asked.
            row: see `Replicas.post`.
            form: how to ask; None for the server's own.

        Raises:
            ServerError: there is no usable answer, or the prompt cannot be written as the text that the server wants.
        """
        form = form or self.form
        prompt = list(ids) if form.prompts == "ids" else self.in_place.text(ids)
        extra = {**PLAIN, "return_token_ids": True} if form.extended else {}
        whole = {"model": self.model, "prompt": prompt, **extra, **body}
        answer = await self.replicas.post(PATH, whole, row, Completion)
        refuse_other_model(answer.model, self.model)
        self._check(answer, len(ids))
        return answer.choices[0]

    def each_replica(self) -> Sequence[Completions]:
        """The same model asked at one of its servers alone, once for each; they share their connections."""
        alone = [copy(self) for _ in self.replicas.urls]
        for each, replicas in zip(alone, self.replicas.each(), strict=True):
            each.replicas = replicas
        return alone

    def _check(self, answer: Completion, num_tokens: int) -> None:
        """Refuse what was said to another prompt, or not to the end."""
        read = answer.usage.prompt_tokens if answer.usage else None
        if read is not None and read != num_tokens:
            raise ServerError(
                f"the server read {read} tokens where the tokenizer here makes {num_tokens}: its tokenizer is another"
            )
        reason = answer.choices[0].finish_reason
        if reason not in ("stop", "length"):
            raise ServerError(f"the server broke an answer off: its finish_reason is {reason!r}")

    def _probe(self, config: ServerConfig) -> Form:
        """The best form that the server takes, found with requests for a few tokens each."""
        forms = [form for form in FORMS if config.prompts in ("auto", form.prompts)]
        ids = self.in_place.sample()
        for form in forms:
            asked = self.complete(ids, {"max_tokens": PROBED_TOKENS, "temperature": 0.0}, 0, form)
            try:
                (choice,) = self.replicas.gather([asked])
            except RefusedError as error:
                if error.status not in MISUNDERSTOOD or form is forms[-1]:
                    raise
                continue
            if form.prompts == "text":
                return form
            if choice.token_ids is not None and not self.in_place.reads(choice.token_ids, choice.text):
                raise ConfigError(
                    f"the server at {config.urls[0]} says {choice.text!r} for the tokens {choice.token_ids}, which the "
                    "tokenizer here reads otherwise: `path` names another model's"
                )
            if choice.token_ids is not None:
                return form
        raise ConfigError(
            f"the server at {config.urls[0]} takes token ids but returns none: it needs `return_token_ids`, which vLLM "
            "and SGLang have; or set `prompts: text`"
        )


def served_model(replicas: Replicas, config: ServerConfig) -> tuple[str, int | None]:
    """The model's name on the server, and its context length in tokens where the server says so.

    Raises:
        ServerError: it lists nothing, and `config` names no model.
        ConfigError: it lists several, or none, and `config` names no model.
    """
    asked = replicas.get("/models", CardList, None if config.model is None else 0)
    try:
        (listed,) = replicas.gather([asked])
    except ServerError:
        if config.model is None:
            raise
        # A server may serve what it does not list, or list nothing; the first request tells.
        return config.model, None
    windows = {card.id: card.max_model_len for card in listed.data}
    if config.model is not None:
        return config.model, windows.get(config.model)
    if len(windows) != 1:
        names = ", ".join(map(repr, windows)) or "no model"
        raise ConfigError(f"the server at {config.urls[0]} lists {names}: say which with `model`")
    return next(iter(windows.items()))


def refuse_other_model(named: str | None, model: str) -> None:
    """Check that an answer is the model's.

    Raises:
        ServerError: the answer names another one.
    """
    # `transformers serve` adds the revision.
    if named is not None and named.split("@")[0] != model.split("@")[0]:
        raise ServerError(f"the server answers for the model {named!r}, not for {model!r}")


def _described(form: Form) -> str:
    what = "token ids" if form.prompts == "ids" else "text"
    return what if form.extended else f"{what}, with OpenAI's own fields alone"


class InPlace:
    """Encodes text where it stands.

    A server encodes what it is sent with control tokens and all. So a prompt can be sent as text where its decoded text
    encodes to the same ids, and only there: a control string that a user wrote would become a control token, and tokens
    that meet at a seam might merge.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Encode as a server with the same tokenizer does, opening token included where it adds one."""
        self._tokenizer = tokenizer

    def sample(self) -> tuple[int, ...]:
        """A short prompt that any server can be asked, and that two tokenizers seldom encode alike."""
        return self.encode(SAMPLE)

    def reads(self, ids: Sequence[int], text: str) -> bool:
        """Whether `text` is what `ids` decode to, apart from blanks and half a character at the end."""
        own, there = ("".join(each.split()).rstrip("\ufffd") for each in (self._decode(ids), text))
        return own.startswith(there)

    def piece(self, token_id: int) -> str:
        """One token as text."""
        return self._decode([token_id])

    def text(self, ids: Sequence[int]) -> str:
        """The text that encodes to `ids`.

        Raises:
            ServerError: there is none; names what stands where the two part.
        """
        text = self._decode(ids)
        opening = self._tokenizer.bos_token
        # What the server puts before a text must not stand there twice.
        candidates = [text.removeprefix(opening), text] if isinstance(opening, str) else [text]
        encoded = {candidate: self.encode(candidate) for candidate in candidates}
        for candidate in candidates:
            if encoded[candidate] == tuple(ids):
                return candidate
        shared = max(num_shared(ids, other) for other in encoded.values())
        raise ServerError(
            f"the server takes prompts as text alone, and the text of this one encodes to other tokens from "
            f"{self._decode(ids[shared:])[:EXCERPT_CHARACTERS]!r} on; a server that takes token ids has no such limit"
        )

    def is_writable(self, ids: Sequence[int]) -> bool:
        """Whether some text encodes to `ids`."""
        try:
            self.text(ids)
        except ServerError:
            return False
        return True

    def continuation(self, ids: Sequence[int], text: str) -> tuple[int, ...]:
        """Token ids that `text` adds to `ids`; they can be sent as text again.

        Raises:
            ServerError: the text merges with the last token of `ids`, or `ids` cannot be written as text.
        """
        encoded = self.encode(self.text(ids) + text)
        if encoded[: len(ids)] != tuple(ids):
            raise ServerError(
                f"the server returned {text[:EXCERPT_CHARACTERS]!r}, which merges with the token before it when it is "
                "encoded; a server that takes and returns token ids has no such limit"
            )
        return encoded[len(ids) :]

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text as the server encodes it, opening token included where it adds one."""
        return tuple(self._tokenizer(text)["input_ids"])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
