# pyright: standard
"""Reward and cost models as monitors: one number for the conversation so far, mapped to [-1, 1].

A reward says which of two answers people prefer. It has no zero, and helpfulness is in it as much as harmlessness, so
any threshold has to be calibrated on harmless traces. A cost (Safe RLHF) is above 0 where the answer is unsafe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from transformers import PreTrainedTokenizerBase

from safethink.errors import MonitorError
from safethink.monitors import ScoreRequest
from safethink.monitors.guards.forms import Form
from safethink.monitors.guards.questions import Asker
from safethink.monitors.reader import Conversation, ReadingMonitor
from safethink.monitors.reward_models import BeaverScorer, SequenceScorer, UrmScorer

CHAT: Final = Form(replies=False)
"""The chat template around the turns, with the trace as the assistant's, as Skywork-Reward and URM are asked."""

BEAVER: Final = Form(text="{bos}BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{trace}{eos}")
"""The published words of Safe RLHF. The end token is that of its training data, where the head reads."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Affine map and squashing of a reward to a score in [-1, 1].

    With x = (reward - center) / scale, and x = (center - cost) / scale for a cost, the score is tanh(x), or x cut off
    at -1 and 1. The centre scores 0.

    Attributes:
        center: the reward or cost that scores 0.
        scale: the distance from it that counts as 1.
        higher_is_safer: False for a cost.
        squash: `tanh` keeps all rewards apart, `clip` keeps equal distances equal inside the range.
    """

    center: float = 0.0
    scale: float = 1.0
    higher_is_safer: bool = True
    squash: Literal["tanh", "clip"] = "tanh"

    def score(self, reward: float) -> float:
        """The score of a reward; NaN, which is no score, for one that is NaN or infinite."""
        x = (reward - self.center) / self.scale * (1 if self.higher_is_safer else -1)
        if not math.isfinite(x):
            return math.nan
        if self.squash == "tanh":
            return math.tanh(x)
        return max(-1.0, min(1.0, x))


class RewardMonitor(ReadingMonitor[SequenceScorer | BeaverScorer | UrmScorer]):
    """Scores with a head on a causal language model, at the last token of the conversation so far.

    What it has read of a row up to the end of the trace stays cached. Whatever prompt and trace contain, control tokens
    come from the form alone.
    """

    def __init__(
        self,
        model: SequenceScorer | BeaverScorer | UrmScorer,
        tokenizer: PreTrainedTokenizerBase,
        scale: Scale,
        form: Form = CHAT,
        label: int = 0,
        batch_size: int = 64,
    ) -> None:
        """Score with `model`.

        Args:
            model: in eval mode.
            tokenizer: its tokenizer.
            scale: how a reward becomes a score.
            form: how the conversation is written down.
            label: which output of the head is the reward.
            batch_size: the most rows read side by side.

        Raises:
            ConfigError: if the tokenizer cannot write the conversation down so.
        """
        super().__init__(model, batch_size)
        self._asker = Asker(tokenizer, form)
        self._scale, self._label = scale, label

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order: the same whatever else is in the batch and whatever was read before.

        Raises:
            MonitorError: if a prompt and trace do not fit into the context window, or the template refuses the turns.
        """
        readings = [self._reading(request) for request in requests]
        scores = [math.nan] * len(readings)
        for group, lanes in self._reader.read(readings):
            if self._label >= lanes.logits.shape[-1]:
                raise MonitorError(f"the reward model has no output {self._label}, only {lanes.logits.shape[-1]}")
            for index, reward in zip(group, lanes.logits[:, -1, self._label].tolist(), strict=True):
                scores[index] = self._scale.score(reward)
        return scores

    def tokens_read(self, row: int) -> int:
        """Tokens that the last score of `row` took: what was not cached."""
        return self._reader.take_num_read(row)

    def release(self, row: int) -> None:
        """Forget what was read of `row`."""
        self._reader.release(row)

    def _reading(self, request: ScoreRequest) -> Conversation:
        question = self._asker.ask(request.prompt, request.trace)
        self._reader.refuse_too_long(request.prompt.id, len(question.ids))
        return Conversation(request.row, question.ids, question.trace.stop)
