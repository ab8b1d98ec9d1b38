# pyright: standard
"""A guard that judges every token as it is read, Qwen3Guard-Stream (arXiv 2510.14276), and its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3Model
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen3.modeling_qwen3 import Qwen3PreTrainedModel, Qwen3RMSNorm

from safethink.errors import ConfigError
from safethink.monitors import ScoreRequest
from safethink.monitors.guards.choosing import ignored_of
from safethink.monitors.guards.forms import Form
from safethink.monitors.guards.questions import Asker
from safethink.monitors.reader import Conversation, ReadingMonitor
from safethink.monitors.reward_models import read_with_head

HEAD_SIZES: Final = ("guard_inner_size", "num_risk_level", "num_category")
"""Keys of the sizes of the heads in the published configuration."""
CONVERSATION = Form(replies=False)
"""The chat template around the turns, with the trace as the assistant's; nothing is asked."""
RISKS: Final = {0: "Safe", 1: "Unsafe", 2: "Controversial"}
"""The published names, for a configuration that has none."""


class StreamGuard(Qwen3PreTrainedModel):
    """Qwen3Guard-Stream (arXiv 2510.14276): Qwen3 with two heads on every token, its risk and its category of harm.

    Published as code in the model's repository, which calls the class `Qwen3ForGuardModel`. What is known of it, from
    public ports: after the final norm, `risk_level_category_pre` projects to `guard_inner_size` without a bias,
    `risk_level_category_layernorm` is an RMS norm with the backbone's epsilon, and `risk_level_head` and
    `category_head` are linear without a bias; `query_...` modules of the same make judge the user's turn. The
    configuration gives the sizes (`num_risk_level`, `num_category`) and the names (`response_risk_level_map`,
    `response_category_map`), with `Safe`, `Unsafe` and `Controversial` as risks 0, 1 and 2.

    Only what judges a response is taken here. `logits` holds the risks first, then the categories.
    """

    config_class = Qwen3Config
    _keys_to_ignore_on_load_unexpected = [r"^query_", r"^lm_head"]  # noqa: RUF012

    def __init__(self, config: Qwen3Config) -> None:
        """Lay the model out.

        Raises:
            ConfigError: the configuration names no size for the heads.
        """
        super().__init__(config)
        sizes: list[Any] = [getattr(config, name, None) for name in HEAD_SIZES]
        if None in sizes:
            raise ConfigError(
                f"{config.name_or_path!r} is no Qwen3Guard-Stream: its config.json lacks the heads' sizes"
            )
        inner, num_risks, num_categories = sizes
        self.model = Qwen3Model(config)
        self.risk_level_category_pre = nn.Linear(config.hidden_size, inner, bias=False)
        self.risk_level_category_layernorm = Qwen3RMSNorm(inner, eps=config.rms_norm_eps)
        self.risk_level_head = nn.Linear(inner, num_risks, bias=False)
        self.category_head = nn.Linear(inner, num_categories, bias=False)
        self.post_init()

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        """Judge each of the last `logits_to_keep` tokens; all for 0."""
        return read_with_head(self.model, self._judge, logits_to_keep, inputs)

    def _judge(self, states: Float[Tensor, "batch new hidden"]) -> Float[Tensor, "batch new labels"]:
        inner = self.risk_level_category_layernorm(self.risk_level_category_pre(states))
        return torch.cat([self.risk_level_head(inner), self.category_head(inner)], dim=-1)


@dataclass(frozen=True, slots=True)
class _Judged:
    """Cached risks of a row's tokens.

    Attributes:
        ids: the tokens, from the conversation's first.
        start: position of the first one that was judged.
        risks: one for each from there on, in [0, 1].
    """

    ids: tuple[int, ...] = ()
    start: int = 0
    risks: tuple[float, ...] = ()

    def known(self, ids: Sequence[int], start: int) -> tuple[float, ...]:
        """The risks that still hold for `ids` from `start` on."""
        if start < self.start:
            return ()
        pairs = enumerate(zip(self.ids, ids, strict=False))
        same = next((index for index, (old, new) in pairs if old != new), min(len(self.ids), len(ids)))
        return self.risks[start - self.start : max(0, same - self.start)]


class StreamMonitor(ReadingMonitor[StreamGuard]):
    """Scores 1 - 2 r, where r is the highest risk that `debounce` tokens of the trace in a row all reach.

    The risk of a token is P(Unsafe) + c P(Controversial), times the probability that its category counts. So the score
    is negative where, and only where, so many tokens in a row were flagged, and stays so while they are in the trace.
    A trace that is shorter, as an empty one is, is judged together with the last tokens before it.

    The text is tokenised for this model, whatever the reasoner's tokens are. Each token is read once.
    """

    def __init__(
        self,
        model: StreamGuard,
        tokenizer: PreTrainedTokenizerBase,
        controversial: float = 1.0,
        debounce: int = 2,
        ignored_categories: Collection[str] = (),
        batch_size: int = 64,
        only_categories: Collection[str] = (),
    ) -> None:
        """Watch with `model`.

        Args:
            model: in eval mode.
            tokenizer: its tokenizer, with Qwen3's chat template.
            controversial: c, the share of P(Controversial) that counts as unsafe.
            debounce: how many tokens in a row must be flagged.
            ignored_categories: names of categories that do not count.
            batch_size: the most rows read side by side.
            only_categories: names of those that alone count; empty for all but the ignored ones.

        Raises:
            ConfigError: if the model does not name a risk or category so, or the tokenizer has no chat template.
        """
        super().__init__(model, batch_size)
        self._asker = Asker(tokenizer, CONVERSATION)
        self._debounce = debounce
        self._weights = self._risk_weights(controversial)
        self._counted = self._counted_categories(ignored_categories, only_categories)
        self._judged: dict[int, _Judged] = {}

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order: the same whatever else is in the batch and whatever was read before.

        Raises:
            MonitorError: if a prompt and trace do not fit into the context window, or the template refuses the turns.
        """
        tasks = [self._task(request) for request in requests]
        unread = [index for index, task in enumerate(tasks) if task.num_new]
        readings = [tasks[index].reading for index in unread]
        for group, lanes in self._reader.read(readings):
            for lane, place in enumerate(group):
                task = tasks[unread[place]]
                new = self._risks(lanes.logits[lane, -task.num_new :])
                self._judged[task.row] = _Judged(task.ids, task.start, task.known + tuple(new.tolist()))
        return [self._score(task) for task in tasks]

    def tokens_read(self, row: int) -> int:
        """Tokens that the last score of `row` took: what was not cached."""
        return self._reader.take_num_read(row)

    def release(self, row: int) -> None:
        """Forget what was read of `row`."""
        self._reader.release(row)
        self._judged.pop(row, None)

    def _task(self, request: ScoreRequest) -> _Task:
        """The task for a request: its tokens, the first to be judged, and the risks known from before."""
        question = self._asker.ask(request.prompt, request.trace)
        ids = question.ids[: question.trace.stop]
        self._reader.refuse_too_long(request.prompt.id, len(ids))
        # From the first token whose risk counts; a short trace takes tokens before it to fill the window.
        start = max(0, min(question.trace.start, len(ids) - self._debounce))
        return _Task(request.row, ids, start, self._judged.get(request.row, _Judged()).known(ids, start))

    def _score(self, task: _Task) -> float:
        """The score of a row whose tokens are all judged."""
        known = self._judged[task.row].known(task.ids, task.start)
        risks = torch.tensor(known, dtype=torch.float64)
        # Tensors carry a NaN on, which Python's min and max may drop.
        return float(1 - 2 * risks.unfold(0, min(self._debounce, len(known)), 1).amin(-1).amax())

    def _risks(self, logits: Float[Tensor, "tokens labels"]) -> Float[Tensor, " tokens"]:
        """The risk of each token."""
        risks, categories = logits.double().split([len(self._weights), len(self._counted)], dim=-1)
        flagged = (risks.softmax(-1) * self._weights.to(risks)).sum(-1)
        return flagged * (categories.softmax(-1) * self._counted.to(categories)).sum(-1)

    def _risk_weights(self, controversial: float) -> Float[Tensor, " risks"]:
        worth = {"Safe": 0.0, "Unsafe": 1.0, "Controversial": controversial}
        names = _names(self._model, "response_risk_level_map", RISKS)
        if sorted(names) != sorted(worth) or len(names) != self._model.risk_level_head.out_features:
            raise ConfigError(f"the stream guard's risks are {names}, not {list(worth)}")
        return torch.tensor([worth[name] for name in names])

    def _counted_categories(self, ignored: Collection[str], only: Collection[str]) -> Float[Tensor, " categories"]:
        names = _names(self._model, "response_category_map", {})
        counted = torch.ones(self._model.category_head.out_features)
        for name in ignored_of({name: name for name in names}, ignored, only, "the stream guard"):
            counted[names.index(name)] = 0
        return counted


@dataclass(frozen=True, slots=True)
class _Task:
    """One request as it is read.

    Attributes:
        row: the request's key.
        ids: the conversation up to the end of the trace.
        start: position of the first token whose risk counts.
        known: the risks from there on that are known.
    """

    row: int
    ids: tuple[int, ...]
    start: int
    known: tuple[float, ...]

    @property
    def num_new(self) -> int:
        """Number of tokens still to be judged."""
        return len(self.ids) - self.start - len(self.known)

    @property
    def reading(self) -> Conversation:
        """The conversation for the reader."""
        return Conversation(self.row, self.ids, len(self.ids), self.num_new)


def _names(model: StreamGuard, name: str, default: Mapping[int, str]) -> list[str]:
    """The labels of a head in order, as the model's configuration names them."""
    found: Mapping[Any, str] = getattr(model.config, name, None) or default
    return [label for _, label in sorted((int(index), label) for index, label in found.items())]
