"""A generative guard as monitor: a causal language model that is asked for a verdict on the trace so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safethink.engines.kv import RaggedBatch, RowKV
from safethink.errors import ConfigError, MonitorError, PromptError
from safethink.fingerprints import model_hash
from safethink.monitors import ScoreRequest
from safethink.prompts import Message
from safethink.templating import ChatEncoder, EncodedChat

logger = logging.getLogger(__name__)

MIN_VERDICT_MASS = 0.5
"""P(safe) + P(unsafe) below this means that the guard is not being asked in the way it was trained."""
SHORT_TOKENS = 32
"""Rows that lack no more than this are read together, however much they differ."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The two verdicts as a guard's token ids."""

    safe: tuple[int, ...]
    unsafe: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Reading:
    """One request as the guard reads it.

    Attributes:
        row: the request's key.
        ids: the whole question, template tail included.
        num_kept: tokens up to the end of the trace, which the next reading of the row will share.
    """

    row: int
    ids: tuple[int, ...]
    num_kept: int


class GuardQuestions:
    """Puts (prompt, trace) to a guard as its token ids.

    Attributes:
        verdicts: what it may answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, safe: str = "safe", unsafe: str = "unsafe") -> None:
        """Prepare the verdicts; see `GuardMonitor` for what the arguments mean and what is raised."""
        if not tokenizer.chat_template:
            raise ConfigError(f"guard {tokenizer.name_or_path!r} has no chat template")
        self._tokenizer = tokenizer
        self._encoder = ChatEncoder(tokenizer)
        self.verdicts = Verdicts(self._encoder.text(safe), self._encoder.text(unsafe))
        shorter = min(len(self.verdicts.safe), len(self.verdicts.unsafe))
        if self.verdicts.safe[:shorter] == self.verdicts.unsafe[:shorter]:
            raise ConfigError(f"guard verdicts {safe!r} and {unsafe!r}: one begins with the other")

    def ask(self, request: ScoreRequest) -> tuple[tuple[int, ...], int]:
        """The question about one request, and the number of its tokens up to the end of the trace.

        Raises:
            MonitorError: the template refuses the prompt's turns.
        """
        try:
            chat = self._chat((*request.prompt.messages, Message(role="assistant", content=request.trace)))
        except PromptError as error:
            raise MonitorError(f"prompt {request.prompt.id!r} cannot be put to the guard: {error}") from error
        return chat.ids + self._opening, chat.spans[-1].stop

    def _chat(self, turns: Sequence[Message]) -> EncodedChat:
        """Render the turns as they are where the template takes them, else in alternating turns."""
        try:
            return self._encoder.chat(turns, add_generation_prompt=True)
        except PromptError:
            return self._encoder.chat(alternating(turns), add_generation_prompt=True)

    @cached_property
    def _opening(self) -> tuple[int, ...]:
        """What the template writes after a header but leaves out after the last one, as Llama Guard 3's does.

        Where the question ends in a control token that is followed by blanks earlier on, the verdict follows the same
        blanks; the guard would otherwise spend its first token on them.
        """
        turns = [Message(role="user", content="x"), Message(role="assistant", content="x")]
        ids = self._encoder.chat(turns, add_generation_prompt=True).ids
        if ids[-1] not in self._tokenizer.added_tokens_decoder or ids[-1] not in ids[:-1]:
            return ()
        after = str(self._tokenizer.decode(list(ids[ids.index(ids[-1]) + 1 :])))
        return self._encoder.text(after[: len(after) - len(after.lstrip())])


class GuardMonitor:
    """Scores 2 P(safe) - 1, with P(safe) from the log-probabilities of both verdicts in full.

    What it has read of a row up to the end of the trace stays cached, so reading a growing trace takes time linear in
    its length. Whatever prompt and trace contain, the guard's control tokens come from its template alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        safe: str = "safe",
        unsafe: str = "unsafe",
        batch_size: int = 64,
    ) -> None:
        """Ask `model` for verdicts.

        Args:
            model: a causal language model in eval mode.
            tokenizer: the guard's, with a chat template that asks for a verdict on the last turn.
            safe: the verdict that means safe.
            unsafe: the verdict that means unsafe.
            batch_size: the most rows read side by side.

        Raises:
            ConfigError: if there is no chat template, or one verdict begins with the other.
        """
        self.num_forwarded = 0
        """Tokens sent through the guard so far, padding included."""
        self._model = model
        self._tokenizer = tokenizer
        self._questions = GuardQuestions(tokenizer, safe, unsafe)
        self._verdicts = self._questions.verdicts
        self._batch_size = batch_size
        self._read: dict[int, RowKV] = {}
        self._warned = False

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the guard's weights."""
        return model_hash(self._model)

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order: the same whatever else is in the batch and whatever was read before.

        Raises:
            MonitorError: if a prompt and trace do not fit into the guard's context window, or its template refuses
                the prompt's turns.
        """
        readings = [self._reading(request) for request in requests]
        scores = [math.nan] * len(readings)
        for group in self._groups(readings):
            for index, value in zip(group, self._score_group([readings[index] for index in group]), strict=True):
                scores[index] = value
        return scores

    def release(self, row: int) -> None:
        """Forget what was read of `row`."""
        self._read.pop(row, None)

    def _reading(self, request: ScoreRequest) -> _Reading:
        """Encode the guard's question about one request."""
        ids, num_kept = self._questions.ask(request)
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        num_tokens = len(ids) + max(len(self._verdicts.safe), len(self._verdicts.unsafe))
        if limit is not None and num_tokens > limit:
            raise MonitorError(
                f"prompt {request.prompt.id!r}: the guard would read {num_tokens} tokens, of at most {limit}"
            )
        return _Reading(request.row, ids, num_kept)

    def _groups(self, readings: Sequence[_Reading]) -> Iterator[list[int]]:
        """Split the readings into batches of rows that lack about equally many tokens."""
        missing = {
            index: len(reading.ids) - self._read.get(reading.row, RowKV()).common(reading.ids)
            for index, reading in enumerate(readings)
        }
        group: list[int] = []
        for index in sorted(missing, key=lambda index: missing[index]):
            too_long = group and missing[index] > max(SHORT_TOKENS, 2 * missing[group[0]])
            if too_long or len(group) == self._batch_size:
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    @torch.inference_mode()
    def _score_group(self, readings: Sequence[_Reading]) -> list[float]:
        """Score readings side by side and keep what they share with the next reading of their rows."""
        known = [self._read.get(reading.row, RowKV()) for reading in readings]
        batch, logits = RaggedBatch.read(self._model, [reading.ids for reading in readings], known)
        log_p_safe = _log_probability(batch, logits, self._verdicts.safe)
        log_p_unsafe = _log_probability(batch, logits, self._verdicts.unsafe)
        self._check_mass(log_p_safe.exp() + log_p_unsafe.exp(), logits)
        for index, reading in enumerate(readings):
            self._read[reading.row] = batch.row(index, reading.ids[: reading.num_kept])
        self.num_forwarded += batch.num_forwarded
        # exp(safe) / (exp(safe) + exp(unsafe)), without underflow.
        return (2 * torch.sigmoid(log_p_safe - log_p_unsafe) - 1).tolist()

    def _check_mass(self, mass: Float[Tensor, " batch"], logits: Float[Tensor, "batch vocab"]) -> None:
        """Warn once when the guard would rather say something else than a verdict."""
        worst = int(mass.argmin())
        if self._warned or not mass[worst] < MIN_VERDICT_MASS:
            return
        self._warned = True
        likeliest = self._tokenizer.decode([int(logits[worst].argmax())])
        logger.warning(
            "the guard gives its two verdicts only %.2f of the probability; it would rather begin with %r: "
            "check its chat template and verdicts",
            float(mass[worst]),
            likeliest,
        )


def alternating(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same words in turns that alternate from the user's, as many guards' templates demand.

    System messages open the user turn that follows them, and neighbours of one role become one turn.
    """
    turns: list[Message] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1].role == role:
            turns[-1] = Message(role=role, content=f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(Message(role=role, content=message.content))
    return tuple(turns)


def _log_probability(
    batch: RaggedBatch, logits: Float[Tensor, "batch vocab"], verdict: tuple[int, ...]
) -> Float[Tensor, " batch"]:
    """Log-probability of `verdict` after each row; the batch is left as it was.

    Args:
        batch: the rows, read up to where the verdict begins.
        logits: those after each row's last token.
        verdict: token ids, at least one.
    """
    first, *rest = verdict
    log_p = logits.double().log_softmax(-1)[:, first]
    if rest:
        ids = torch.tensor([verdict[:-1]] * len(logits), device=logits.device)
        steps = batch.extend(ids).double().log_softmax(-1)
        batch.crop(len(verdict) - 1)
        log_p = log_p + steps[:, torch.arange(len(rest)), rest].sum(-1)
    return log_p
