# pyright: standard
"""Classifiers of sequences with one output, as trainings of monitors begin with them, read with them and export them.

A partial trace is read as the assistant's turn behind the prompt, the whole chat rendered once, as a `reward` monitor
reads it. The exported folder is what such a monitor takes: the classifier, or its update by LoRA beside the name of its
base, and the tokenizer with the chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from safethink.errors import ConfigError
from safethink.files import atomic_write, write_text
from safethink.models.adapters import quiet_peft
from safethink.models.checkpoint import Checkpoint
from safethink.models.loading import context_window
from safethink.models.placement import pick_device
from safethink.prefix.artifact import Metric
from safethink.prompts import Message, Prompt
from safethink.testbed import folders
from safethink.thinking.chat import ChatEncoder


@dataclass(frozen=True, slots=True)
class Classifier:
    """A classifier of sequences and its tokenizer.

    Attributes:
        model: in float32, with one output.
        tokenizer: has a chat template, and pads.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def located(base: str) -> str:
    """Folder or hub id of a base; `testbed` names the shipped guard."""
    return str(folders().guard) if base == "testbed" else base


def load(base: str, revision: str | None, device: str, gguf_file: str | None = None) -> Classifier:
    """Load a model to start from; where it has no head of one output, one is drawn.

    Args:
        base: folder or hub id; `testbed` names the shipped guard.
        revision: commit of the hub repository.
        device: where to.
        gguf_file: name of the GGUF file that holds the weights.

    Raises:
        MissingFileError: there is no such model.
        ConfigError: it has no chat template.
    """
    checkpoint = Checkpoint(located(base), revision, gguf_file=gguf_file, section="monitor")
    tokenizer = checkpoint.tokenizer()
    model = checkpoint.model(reader=AutoModelForSequenceClassification, num_labels=1, dtype=torch.float32)
    if not tokenizer.chat_template:
        raise ConfigError(f"monitor.base: {base!r} has no chat template")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Set here as trl does, because the outputs are read without it too.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    Module.to(model, pick_device(device))
    return Classifier(model, tokenizer)


class ChatReader:
    """Writes partial traces down as token ids."""

    def __init__(self, classifier: Classifier) -> None:
        """Write for this classifier."""
        self._encoder = ChatEncoder(classifier.tokenizer)
        self.limit = context_window(classifier.model)

    def ids(self, prompt: Prompt, trace: str) -> tuple[int, ...]:
        """The whole chat; control tokens come from the template alone."""
        return self._encoder.chat((*prompt.messages, Message(role="assistant", content=trace))).ids


def export(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, title: str, said: str, metrics: Mapping[str, Metric]
) -> None:
    """Write a monitor's folder, whole or not at all.

    Args:
        model: the classifier, or its update.
        tokenizer: its tokenizer.
        folder: where to.
        title: of the card.
        said: paragraphs of the card behind the table of metrics.
        metrics: what was measured on `test`.
    """
    rows = [
        f"| {name} | {each.value:.3f} | [{each.low:.3f}, {each.high:.3f}] | {each.n} |"
        for name, each in metrics.items()
    ]
    table = "\n".join(["| on `test` | value | 95 % interval | n |", "|---|---|---|---|", *rows])
    usage = "```yaml\nmonitor: {kind: reward, path: THIS-FOLDER}\n```"
    with atomic_write(folder) as partial:
        with quiet_peft():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_text(partial / "README.md", "\n\n".join([f"# {title}", *filter(None, [table, said, usage])]) + "\n")
