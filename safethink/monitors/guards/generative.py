# pyright: standard
"""A generative guard as monitor: a causal language model that is asked for a verdict on the trace so far."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safethink.errors import ConfigError
from safethink.monitors import ScoreRequest
from safethink.monitors.guards.forms import Preset
from safethink.monitors.guards.presets import LLAMA_GUARD
from safethink.monitors.guards.questions import Asker
from safethink.monitors.guards.replies import Ids, LogProbabilities, Node, Replies
from safethink.monitors.guards.roles import refuse_swapped_roles
from safethink.monitors.reader import Conversation, ReadConversations, ReadingMonitor


@dataclass(frozen=True)
class Verdicts:
    """A guard's verdicts as its token ids.

    Attributes:
        ids: one sequence per verdict.
        safety: the share of each that counts as safe, in [0, 1].
    """

    ids: tuple[tuple[int, ...], ...]
    safety: tuple[float, ...]

    @classmethod
    def of(cls, preset: Preset, asker: Asker) -> Verdicts:
        """The verdicts of `preset`, which must all have a share.

        Raises:
            ConfigError: one verdict begins with another, so that the longer one's probability is part of the other's.
        """
        ids = tuple(asker.answer(verdict.text) for verdict in preset.verdicts)
        for one, first in zip(ids, preset.verdicts, strict=True):
            for other, second in zip(ids, preset.verdicts, strict=True):
                if first is not second and one == other[: len(one)]:
                    raise ConfigError(f"guard verdicts {first.text!r} and {second.text!r}: one begins with the other")
        return cls(ids, tuple(0.0 if verdict.safety is None else verdict.safety for verdict in preset.verdicts))

    @property
    def num_tokens(self) -> int:
        """Length of the longest."""
        return max(map(len, self.ids))

    def weigh(self, lanes: ReadConversations) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """P(safe) among the verdicts, and the probability that any of them is given, for each lane.

        P(safe) = sum_v safety(v) P(v) / sum_v P(v), in double precision and without underflow.
        """
        log_p = self._log_probabilities(lanes)
        safety = torch.tensor(self.safety, dtype=log_p.dtype, device=log_p.device)
        return (log_p.softmax(-1) * safety).sum(-1), log_p.exp().sum(-1)

    @cached_property
    def along(self) -> tuple[int, ...]:
        """Token ids appended to a question and read with it: the longest verdict but for its last token."""
        return max(self.ids, key=len)[:-1]

    def _log_probabilities(self, lanes: ReadConversations) -> Float[Tensor, "batch verdicts"]:
        """The log-probability of each verdict, where `along` was read behind each lane."""
        read = {self.along: lanes.logits[:, -len(self.along) - 1 :].double().log_softmax(-1)}
        columns: list[Tensor] = []
        for verdict in self.ids:
            body = verdict[:-1]
            known = next((scores for ids, scores in read.items() if ids[: len(body)] == body), None)
            if known is None:
                first = read[self.along][:, :1]
                known = read[body] = torch.cat([first, lanes.ahead(body).double().log_softmax(-1)], dim=1)
            columns.append(known[:, torch.arange(len(verdict)), list(verdict)].sum(-1))
        return torch.stack(columns, dim=-1)


class ReplyReader:
    """P(safe) over replies of several lines, see `replies`, for conversations that were read side by side.

    Attributes:
        along: token ids appended to a question and read with it.
        num_tokens: the most tokens that a reply may take.
    """

    def __init__(self, replies: Replies) -> None:
        """Read `replies`."""
        self.along = replies.along
        self.num_tokens = replies.num_tokens
        self._replies = replies

    def weigh(self, lanes: ReadConversations) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """P(safe), and the probability that a reply begins as any does, for each lane."""
        first = self._replies.path(self._replies.root)
        known = _children(first, lanes.logits[:, -len(first) :])
        mass = np.exp(known[()]).sum(axis=1)
        walk, asked = self._replies.walk(), self._replies.root
        next(walk)
        try:
            while True:
                if asked.ids not in known:
                    nodes = self._replies.path(asked)
                    known |= _children(nodes, lanes.ahead(nodes[-1].ids)[:, -len(nodes) :])
                asked = walk.send(known[asked.ids])
        except StopIteration as stop:
            p_safe = stop.value
        return torch.from_numpy(p_safe), torch.from_numpy(mass)


def _children(nodes: Sequence[Node], logits: Float[Tensor, "batch nodes vocab"]) -> dict[Ids, LogProbabilities]:
    """The log-probabilities of each node's children, in double precision."""
    found: dict[Ids, LogProbabilities] = {}
    for place, node in enumerate(nodes):
        log_p = logits[:, place].double().log_softmax(-1)[:, list(node.children)]
        found[node.ids] = log_p.cpu().numpy()
    return found


def reader_of(preset: Preset, asker: Asker) -> Verdicts | ReplyReader:
    """Reader of the replies of `preset`: of its verdicts alone, or of more lines where they bear on the score.

    Raises:
        ConfigError: one reply begins with another.
    """
    verdicts = Verdicts.of(preset, asker)
    replies = replies_of(preset, asker)
    return verdicts if replies is None else ReplyReader(replies)


def replies_of(preset: Preset, asker: Asker) -> Replies | None:
    """The replies of several lines that `preset` is read by; None where its verdicts alone are.

    Raises:
        ConfigError: one begins with another, or the question does not name a category that does not count.
    """
    categories = preset.categories
    if categories is not None:
        asker.refuse_unnamed(categories)
    if not preset.lines and (categories is None or not categories.is_listed):
        return None
    return Replies(preset, asker.answer, asker.ends)


logger = logging.getLogger(__name__)

MIN_VERDICT_MASS = 0.5
"""Verdicts that are less likely together mean that the guard is not being asked in the way it was trained."""


class GuardMonitor(ReadingMonitor[PreTrainedModel]):
    """Scores 2 P(safe) - 1, with P(safe) from the log-probabilities of all verdicts in full.

    Where there are several policies, the worst score counts. What it has read of a row up to the end of the trace stays
    cached, so reading a growing trace takes time linear in its length. Whatever prompt and trace contain, the guard's
    control tokens come from its template alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        preset: Preset = LLAMA_GUARD,
        batch_size: int = 64,
        name: str = "",
    ) -> None:
        """Ask `model` for verdicts.

        Args:
            model: a causal language model in eval mode.
            tokenizer: the guard's.
            preset: how the question is put and the answer read.
            batch_size: the most rows read side by side.
            name: what messages call the guard; empty for where its tokenizer is.

        Raises:
            ConfigError: if the tokenizer cannot put the question so, the chat template asks about the user's turn, or
                one verdict begins with another.
        """
        super().__init__(model, batch_size)
        self._tokenizer = tokenizer
        self._asker = Asker(tokenizer, preset.form, name)
        refuse_swapped_roles(self._asker)
        self._verdicts = reader_of(preset, self._asker)
        self._warned = False

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order: the same whatever else is in the batch and whatever was read before.

        Raises:
            MonitorError: if a prompt and trace do not fit into the guard's context window, or its template refuses
                the prompt's turns.
        """
        # One policy after the other: what is read for the first serves the next ones up to the end of the trace.
        scores = [self._scores(requests, policy) for policy in range(self._asker.num_policies)]
        return torch.tensor(scores, dtype=torch.float64).amin(0).tolist()

    def release(self, row: int) -> None:
        """Forget what was read of `row`."""
        for key in self._keys(row):
            self._reader.release(key)

    def tokens_read(self, row: int) -> int:
        """Tokens that the last score of `row` took: what was not cached of the question, and the verdicts."""
        return sum(map(self._reader.take_num_read, self._keys(row)))

    def _scores(self, requests: Sequence[ScoreRequest], policy: int) -> list[float]:
        """Score by one policy."""
        readings = [self._reading(request, policy) for request in requests]
        scores = [0.0] * len(readings)
        for group, lanes in self._reader.read(readings, self._verdicts.along):
            p_safe, mass = self._verdicts.weigh(lanes)
            self._check_mass(mass, lanes)
            for index, value in zip(group, (2 * p_safe - 1).tolist(), strict=True):
                scores[index] = value
        return scores

    def _reading(self, request: ScoreRequest, policy: int) -> Conversation:
        """Encode the guard's question about one request."""
        question = self._asker.ask(request.prompt, request.trace, policy)
        self._reader.refuse_too_long(request.prompt.id, len(question.ids) + self._verdicts.num_tokens)
        return Conversation(self._key(request.row, policy), question.ids, question.trace.stop)

    def _key(self, row: int, policy: int) -> int:
        """Under which key a row is read: one for all policies where they stand behind the trace."""
        return row * self._asker.num_policies + (0 if self._asker.shares_trace else policy)

    def _keys(self, row: int) -> set[int]:
        return {self._key(row, policy) for policy in range(self._asker.num_policies)}

    def _check_mass(self, mass: Float[Tensor, " batch"], lanes: ReadConversations) -> None:
        """Warn once when the guard would rather say something else than a verdict."""
        worst = int(mass.argmin())
        if self._warned or not mass[worst] < MIN_VERDICT_MASS:
            return
        self._warned = True
        likeliest = self._tokenizer.decode([int(lanes.logits[worst, -len(self._verdicts.along) - 1].argmax())])
        logger.warning(
            "the guard gives its verdicts only %.2f of the probability; it would rather begin with %r: "
            "check its chat template and verdicts",
            float(mass[worst]),
            likeliest,
        )
