# pyright: standard
"""A probe: a linear head on one layer of a reasoner's hidden states, and the folder that it is kept in.

A folder holds `probe.safetensors` (the head), `README.md` (a card) and `probe.json` (everything else). The last is
written last, so that a folder that has one is complete. Nothing in it is executable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from safethink.errors import ArtifactError, MissingFileError
from safethink.files import read_sealed, seal, write_bytes, write_text, writing
from safethink.prefix.artifact import Identity, Metric

JSON_FILE, WEIGHTS_FILE, CARD_FILE = "probe.json", "probe.safetensors", "README.md"
WEIGHT, BIAS = "weight", "bias"


class ProbeCard(BaseModel):
    """What `probe.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    """Version of this layout."""
    kind: Literal["probe"] = "probe"
    """What the folder holds."""
    layer: int
    """Which hidden state it reads, as transformers counts them: 0 is the embedding, -1 the last."""
    hidden_size: int = Field(ge=1)
    """Length of a hidden state."""
    reasoner: Identity
    """Whose hidden states they are. Its hash is that of the weights, rounded to bfloat16 or as they are; see
    `safethink.models.hashes.model_hash`."""
    labelled_by: Identity
    """Who said which partial traces are safe: a guard, or a judge of the testbed."""
    label_threshold: float = 0.0
    """Partial traces that it scored below this counted as unsafe."""
    reads_injected_tokens: Literal[True] = True
    """A hidden state depends on every token before it, so a probe reads what a defense injected too; monitors that read
    text never do."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The resolved configuration of the training."""
    data_fingerprint: str | None = None
    """Hash of the prompts it was trained on."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """What was measured on `test`, by name."""
    weights_sha256: str = ""
    """Hash of `probe.safetensors`, which holds `weight` of shape (hidden size,) and `bias` of shape ()."""
    content_sha256: str | None = None
    """Hash of everything above; written when saved, checked when loaded."""


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
    card = seal(probe.card.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()}))
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
