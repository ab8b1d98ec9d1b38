# pyright: standard
"""A linear head on the reasoner's own hidden states as monitor: no second model at all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from safethink.engines import HiddenState, TokenStates
from safethink.errors import ArtifactError, MissingFileError, MonitorError
from safethink.files import json_hash, read_sealed, seal, write_bytes, write_text, writing
from safethink.frozen import Frozen
from safethink.monitors import ScoreRequest
from safethink.monitors.pooling import Pooling, RunningPool
from safethink.prefix.artifact import Identity, Metric

JSON_FILE, WEIGHTS_FILE, CARD_FILE = "probe.json", "probe.safetensors", "README.md"
WEIGHT, BIAS = "weight", "bias"


class PositionThreshold(Frozen):
    """Threshold of a probe for traces of at least so many tokens, up to those of the next one."""

    first_token: int = Field(ge=0)
    """Least number of tokens behind the prompt, injected ones included."""
    margin: float = Field(allow_inf_nan=False)
    """Margin that scores 0 there: it is taken off before the score."""


class ProbeCard(Frozen):
    """Schema of `probe.json`."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    kind: Literal["probe"] = "probe"
    """Kind of the artifact in the folder."""
    layer: int
    """Index of the hidden state it reads, as in transformers: 0 is the embedding, -1 the last."""
    hidden_size: int = Field(ge=1)
    """Length of a hidden state."""
    reasoner: Identity
    """Reasoner of the hidden states. Its hash is that of the weights, rounded to bfloat16 or as they are; see
    `safethink.models.hashes.model_hash`. Of an adapter it is that of the adapter's file, so that the probe fits it on
    its base from wherever that is loaded; see `adapter_hash`."""
    labelled_by: Identity
    """Labeller of the partial traces as safe or unsafe: a guard, or a judge of the testbed."""
    label_threshold: float = 0.0
    """Partial traces that it scored below this counted as unsafe."""
    pooling: Pooling = Pooling()
    """Pooling of the margins of the trace's tokens; their states are read at `layer`."""
    thresholds: tuple[PositionThreshold, ...] = ()
    """Thresholds by the length of the trace; none: a margin of 0 scores 0 everywhere."""
    reads_injected_tokens: Literal[True] = True
    """A hidden state depends on every token before it, so a probe reads what a defense injected too; monitors that read
    text never do."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The resolved configuration of the training."""
    data_fingerprint: str | None = None
    """Hash of the prompts it was trained on."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Metrics on `test`, by name."""
    poolings: dict[str, dict[str, Metric]] = Field(default_factory=dict)
    """Metrics of each pooling that was tried on the held-out traces that the choice was made on."""
    false_alarms: dict[str, dict[str, Metric]] = Field(default_factory=dict)
    """Share of safe partial traces of `test` that score below 0, `without` the thresholds and `with` them, by the
    `first_token` of each."""
    weights_sha256: str = ""
    """Hash of `probe.safetensors`, which holds `weight` of shape (hidden size,) and `bias` of shape ()."""
    content_sha256: str | None = None
    """Hash of everything above; written when saved, checked when loaded."""

    @model_validator(mode="after")
    def _thresholds_grow(self) -> ProbeCard:
        first = [each.first_token for each in self.thresholds]
        if first and (first[0] != 0 or any(one >= other for one, other in pairwise(first))):
            raise ValueError(f"thresholds: first_token must begin at 0 and grow, and is {first}")
        return self

    def threshold(self, num_tokens: int) -> float:
        """The margin that scores 0 for a trace of so many tokens."""
        return next((each.margin for each in reversed(self.thresholds) if each.first_token <= num_tokens), 0.0)


@dataclass(frozen=True)
class Probe:
    """A linear head: the logit of a hidden state h being safe is `weight @ h + bias`.

    Attributes:
        card: what it is and where it comes from.
        weight: one number per dimension, any standardisation of the states folded in.
        bias: the logit of a state of zeros.
    """

    card: ProbeCard
    weight: Float[Tensor, " hidden"]
    bias: Float[Tensor, ""]


def save(probe: Probe, folder: Path, readme: str) -> Probe:
    """Write a probe; `probe.json` comes last.

    Args:
        probe: what to write; its hashes are computed here.
        folder: created where missing.
        readme: the card, as Markdown.

    Returns:
        The probe with its hashes.

    Raises:
        ArtifactError: a number of the head is not finite, or it has another size than its card says.
        RecordError: the folder cannot be written.
    """
    tensors = {WEIGHT: probe.weight.detach().cpu().double(), BIAS: probe.bias.detach().cpu().double()}
    _refuse_unfit(tensors, probe.card.hidden_size, str(folder))
    content = pack(tensors)
    card = seal(probe.card.replace(weights_sha256=hashlib.sha256(content).hexdigest()))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS_FILE, content)
    write_text(folder / CARD_FILE, readme)
    write_text(folder / JSON_FILE, card.model_dump_json(indent=2) + "\n")
    return Probe(card, tensors[WEIGHT], tensors[BIAS])


def load(folder: Path) -> Probe:
    """Read a probe and verify it: schema, hashes and sizes. That it fits a reasoner is checked when it meets one.

    Raises:
        MissingFileError: there is no such folder, or it has no `probe.json`: its writing never came to an end.
        ArtifactError: it is damaged, edited or half-written.
    """
    if not (folder / JSON_FILE).is_file():
        reason = f"it has no {JSON_FILE}, which is written last" if folder.is_dir() else "no such folder"
        raise MissingFileError(f"no probe at {str(folder)!r}: {reason}")
    card = read_sealed(ProbeCard, folder / JSON_FILE)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder} is incomplete: it has no {WEIGHTS_FILE}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card.weights_sha256:
        raise ArtifactError(f"{path} is not the head that {JSON_FILE} names: it does not match weights_sha256")
    try:
        tensors = unpack(content)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a safetensors file: {error}") from error
    _refuse_unfit(tensors, card.hidden_size, str(path))
    return Probe(card, tensors[WEIGHT].double(), tensors[BIAS].double())


def _refuse_unfit(tensors: dict[str, Tensor], hidden_size: int, where: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {WEIGHT: (hidden_size,), BIAS: ()}:
        raise ArtifactError(f"{where}: a head of {shapes}, not of hidden size {hidden_size}")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ArtifactError(f"{where}: the head has values that are not finite")


class ProbeMonitor:
    """Scores 2 sigmoid(p - t) - 1: p pools w @ h + b over the trace's tokens, h the hidden state of each at one layer.

    t is the threshold for traces of that length, 0 where the probe has none. The pooling `last` looks at the last token
    alone. An empty trace is scored at the last token of the prompt.

    Unlike a monitor that reads text it reads injected tokens too: the reasoner's state depends on all that it has read.
    So its scores behind an injected prefix are partly about the prefix, and a prefix must not be learned against it
    without a judge that cannot be flattered.
    """

    def __init__(self, probe: Probe) -> None:
        """Score with `probe`."""
        self._probe = probe
        self._pools: dict[int, RunningPool] = {}

    @property
    def layer(self) -> int:
        """Index of the hidden state each request must carry, as in transformers."""
        return self._probe.card.layer

    @property
    def reads_text(self) -> bool:
        """It reads states alone."""
        return False

    @property
    def fingerprint(self) -> str:
        """Hash of the probe's head, and of its pooling and thresholds where it has any."""
        card = self._probe.card
        if card.pooling == Pooling() and not card.thresholds:
            return card.weights_sha256
        rule = card.model_dump(mode="json", include={"weights_sha256", "pooling", "thresholds"})
        return json_hash(rule)

    @property
    def pools(self) -> bool:
        """Whether it reads more than the last token."""
        return self._probe.card.pooling.kind != "last"

    def num_unread(self, row: int, ids: tuple[int, ...]) -> int:
        """Number of last tokens of the trace `ids` that were not pooled yet; at least one."""
        pool = self._pools.get(row, RunningPool())
        return max(1, pool.num_unread(ids)) if self.pools else 1

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: a request carries no hidden state, or one of another size.
        """
        if not requests:
            return []
        margins = self._pooled(requests) if self.pools else self._margins(self._states(requests))
        if self._probe.card.thresholds:
            thresholds = [self._probe.card.threshold(len(request.ids)) for request in requests]
            margins = margins - torch.tensor(thresholds, dtype=torch.float64)
        # tanh(m / 2) is 2 sigmoid(m) - 1. An infinite margin would be the surest score of all: it is none.
        return torch.tanh(margins / 2).where(margins.isfinite(), torch.nan).tolist()

    def release(self, row: int) -> None:
        """Forget the running statistic of `row`."""
        self._pools.pop(row, None)

    def refuse_other(self, is_reasoner: Callable[[str], bool]) -> None:
        """Refuse another reasoner than the one whose hidden states it was trained on.

        Args:
            is_reasoner: whether a hash is that of the reasoner's weights, see `LocalEngine.is_reasoner`.

        Raises:
            ArtifactError: it is another one.
        """
        trained_on = self._probe.card.reasoner
        if trained_on.sha256 is None or not is_reasoner(trained_on.sha256):
            raise ArtifactError(
                f"the probe was trained on the hidden states of {trained_on.name!r} (hidden size "
                f"{self._probe.card.hidden_size}, layer {self.layer}), and this reasoner has other weights"
            )

    def _states(self, requests: Sequence[ScoreRequest]) -> Float[Tensor, "rows hidden"]:
        """The states of the traces' last tokens, side by side."""
        states = [request.state for request in requests if request.state is not None]
        if len(states) < len(requests):
            raise self._lacking(next(request for request in requests if request.state is None))
        self._refuse_other_size(states)
        return torch.stack(states)

    def _margins(self, states: Float[Tensor, "tokens hidden"]) -> Float[Tensor, " tokens"]:
        # Few numbers, so that double precision on the CPU costs nothing and means the same on every device.
        return states.to("cpu", torch.float64) @ self._probe.weight + self._probe.bias

    def _pooled(self, requests: Sequence[ScoreRequest]) -> Float[Tensor, " rows"]:
        """The pooled margin of each trace, of which only the unread tokens are looked at."""
        unread: list[TokenStates] = []
        for request in requests:
            num_tokens = self.num_unread(request.row, request.ids)
            if request.states is None or len(request.states) < num_tokens:
                raise self._lacking(request)
            unread.append(request.states[len(request.states) - num_tokens :])
        self._refuse_other_size([states[0] for states in unread])
        margins = self._margins(torch.cat(unread)).split([len(states) for states in unread])
        pooled = [self._pool(request, each.tolist()) for request, each in zip(requests, margins, strict=True)]
        return torch.tensor(pooled, dtype=torch.float64)

    def _pool(self, request: ScoreRequest, margins: list[float]) -> float:
        if not all(map(math.isfinite, margins)):
            # A minimum could hide it.
            return math.nan
        if not request.ids:
            return margins[-1]
        pool = self._pools.setdefault(request.row, RunningPool())
        return pool.read(request.ids, margins, self._probe.card.pooling)

    def _lacking(self, request: ScoreRequest) -> MonitorError:
        many = " of all unread tokens" if self.pools else ""
        return MonitorError(
            f"prompt {request.prompt.id!r}: a probe reads the reasoner's hidden states{many}, and there is none here"
        )

    def _refuse_other_size(self, states: Sequence[HiddenState]) -> None:
        hidden_size = self._probe.card.hidden_size
        if any(len(state) != hidden_size for state in states):
            raise MonitorError(f"the probe reads hidden states of size {hidden_size}, not {len(states[0])}")
