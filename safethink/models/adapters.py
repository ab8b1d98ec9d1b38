# pyright: standard
"""LoRA adapters of peft on their base models.

An adapter folder holds `adapter_config.json`, the update, and usually the tokenizer with the chat template that it was
trained with. The update is merged into the base's weights, so that a guarded run costs what the base costs; where the
base is quantised it stays beside them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedModel
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from safethink.errors import ConfigError, MissingFileError
from safethink.models.hashes import noted

_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json")
WEIGHTS_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin")
"""The update, in either format."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter, as its configuration describes it.

    Attributes:
        path: folder or hub id.
        revision: commit of the adapter's hub repository.
        base: folder or hub id of the base that it was trained on.
        base_revision: commit of that repository; None where the adapter names none.
        has_tokenizer: whether the tokenizer stands beside the update.
        task_type: peft's name of what the adapted model is for, such as `CAUSAL_LM`; None where it says none.
        chat_template: the chat template that stands there, for the base's tokenizer; None for none.
    """

    path: str
    revision: str | None
    base: str | None
    base_revision: str | None
    has_tokenizer: bool
    task_type: str | None
    chat_template: str | None = None

    @classmethod
    def at(cls, path: str, revision: str | None = None) -> Adapter | None:
        """The adapter in a folder or hub repository; None where a model or nothing is there.

        Raises:
            MissingFileError: its configuration cannot be read.
        """
        if os.path.isdir(path) and os.path.isfile(Path(path, "config.json")):
            return None
        file = find_adapter_config_file(path, revision=revision)
        if file is None:
            return None
        try:
            config = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise MissingFileError(f"{file} is not JSON: {error}") from error
        template = _beside(path, "chat_template.jinja", revision)
        return cls(
            path,
            revision,
            config.get("base_model_name_or_path"),
            config.get("revision"),
            has_tokenizer=all(_beside(path, name, revision) for name in _TOKENIZER_FILES),
            task_type=config.get("task_type"),
            chat_template=None if template is None else Path(template).read_text(encoding="utf-8"),
        )

    def located(self, base: str | None, section: str = "reasoner") -> tuple[str, str | None]:
        """Place and commit of the base: `base` where it is given, else what the adapter names.

        Args:
            base: folder or hub id.
            section: of the configuration that has it as `base`.

        Raises:
            MissingFileError: neither is.
        """
        if base is not None:
            return base, self.base_revision if base == self.base else None
        if not self.base:
            raise MissingFileError(f"the adapter {self.path!r} names no base model: set {section}.base")
        if os.path.isabs(self.base) and not os.path.isdir(self.base):
            raise MissingFileError(
                f"the adapter {self.path!r} was trained on {self.base!r}, which is not here: set {section}.base"
            )
        return self.base, self.base_revision

    def put_on(self, model: PreTrainedModel) -> PreTrainedModel:
        """The base with the update: merged into its weights in their precision, or beside them if they are quantised.

        Raises:
            ConfigError: peft is not installed, or the update does not fit the base; names the layer.
        """
        try:
            with quiet_peft():
                from peft import PeftModel, get_peft_model_state_dict
                from peft.utils.save_and_load import load_peft_weights
        except ImportError as error:
            raise ConfigError("an adapter needs peft: pip install 'safethink[adapters]'") from error
        weights = next(filter(None, (_beside(self.path, name, self.revision) for name in WEIGHTS_FILES)), None)
        if weights is None:
            raise MissingFileError(f"the adapter {self.path!r} has no weights: there is no {WEIGHTS_FILES[0]}")
        where = f"the adapter {self.path!r} does not fit its base {model.name_or_path!r}"
        # Of the hub this is the snapshot of the commit, which peft would ask the hub for again.
        folder = str(Path(weights).parent)
        try:
            with quiet_peft():
                adapted: Any = PeftModel.from_pretrained(model, folder)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ConfigError(f"{where}: {_first(error)}") from error
        # peft passes over what finds no layer, and leaves a layer without an update as it was.
        taken = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        # Embeddings of the base that were written down with the update are none of it.
        held = set(load_peft_weights(folder, device="cpu")) - set(adapted.state_dict())
        if taken != held:
            at_odds = sorted(taken ^ held)[0]
            missing = "the base has no such layer" if at_odds in held else "the adapter has no weights for it"
            raise ConfigError(f"{where}: {at_odds}: {missing}")
        sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        if getattr(model, "is_quantized", False):
            return noted(adapted.get_base_model(), sha256)
        if not hasattr(adapted, "merge_and_unload"):
            kind = adapted.active_peft_config.peft_type
            raise ConfigError(f"the adapter {self.path!r} is of the kind {kind}, which is not merged into weights")
        try:
            return noted(adapted.merge_and_unload(safe_merge=True), sha256)
        except ValueError as error:
            raise ConfigError(f"{where}: {_first(error)}") from error


def _beside(path: str, name: str, revision: str | None) -> str | None:
    """A file of an adapter's folder or hub repository; None where there is no such file."""
    return cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)


@contextmanager
def quiet_peft() -> Generator[None, None, None]:
    """Silence what peft says of transformers' names of today and of layers without an update, which is told here.

    And of a base without a configuration, which a GGUF file has inside; and what bitsandbytes, which peft imports, says
    of kernels that nothing asks for.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
        warnings.filterwarnings("ignore", message="Could not find a config file", category=UserWarning)
        try:
            yield
        finally:
            logger.setLevel(level)


def _first(error: Exception) -> str:
    """The line of an error that says most: the last one of a list of layers, else the first."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)
