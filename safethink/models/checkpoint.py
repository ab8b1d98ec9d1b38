# pyright: standard
"""Checkpoints: what lies in a model's folder or hub repository, as it is read by transformers.

A checkpoint is a model, an adapter on its base, or a GGUF file, whose weights are dequantised.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from safethink.config import ReasonerConfig, RewardMonitorConfig
from safethink.errors import ConfigError, MissingFileError, SafeThinkError, not_found, require
from safethink.models.adapters import Adapter
from safethink.models.shipped import located
from safethink.progress import progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's location, for what is read beside its weights.

    Attributes:
        path: folder or hub id of a model or an adapter, or the name of a shipped reasoner.
        revision: commit of the hub repository.
        trust_remote_code: whether code from the model's repository may run.
        base: folder or hub id of an adapter's base; None for the one that it names.
        gguf_file: name of the GGUF file that holds the model, or an adapter's base.
        section: of the configuration that names all these, for errors.
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    base: str | None = None
    gguf_file: str | None = None
    section: str = "reasoner"

    @classmethod
    def of(cls, config: ReasonerConfig | RewardMonitorConfig) -> Checkpoint:
        """The configured reasoner's, or that of a monitor which may be an adapter."""
        section = "reasoner" if isinstance(config, ReasonerConfig) else "monitor"
        return cls(config.path, config.revision, config.trust_remote_code, config.base, config.gguf_file, section)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer; an adapter's own where it has one, else its base's with the adapter's chat template.

        Raises:
            MissingFileError: if there is no such folder or hub repository.
            ConfigError: if `base` is given for what is no adapter, or a GGUF file cannot be read here.
        """
        with found("tokenizer", self.path):
            adapter = self.adapter()
            if adapter is not None and adapter.has_tokenizer:
                return AutoTokenizer.from_pretrained(
                    located(self.path), revision=self.revision, trust_remote_code=self.trust_remote_code
                )
            tokenizer = self._read("tokenizer", AutoTokenizer, adapter)
        if adapter is not None and adapter.chat_template is not None:
            tokenizer.chat_template = adapter.chat_template
        return tokenizer

    def config(self, local_files_only: bool = False) -> PreTrainedConfig:
        """Load the model's own configuration; of an adapter, its base's.

        Args:
            local_files_only: never ask the hub.

        Raises:
            MissingFileError: if there is no such folder or hub repository.
            ConfigError: if `base` is given for what is no adapter, or a GGUF file cannot be read here.
        """
        with found("model", self.path):
            return self._read("model", AutoConfig, self.adapter(), local_files_only=local_files_only)

    def model(
        self, config: PreTrainedConfig | None = None, reader: Any = AutoModelForCausalLM, **options: Any
    ) -> PreTrainedModel:
        """Load the weights; an adapter's merged into its base's.

        Args:
            config: the model's own, where it was read already, so that a GGUF file is parsed once less; None reads it.
            reader: class whose `from_pretrained` reads them.
            **options: of `from_pretrained`: precision, device, attention.

        Raises:
            MissingFileError: if there is no such folder or hub repository.
            ConfigError: if an adapter does not fit its base, or a GGUF file cannot be read here.
        """
        adapter = self.adapter()
        if self.gguf_file is not None:
            options["quantization_config"] = GgufConfig(gguf_file=self.gguf_file, dequantize=True)
            options["config"] = config
        with shown_dequantising(self.gguf_file):
            model = self._read("model", reader, adapter, **options)
        if self.gguf_file is not None:
            precision = str(model.dtype).removeprefix("torch.")
            logger.warning("the weights of %s are dequantised to %s", self.gguf_file, precision)
            _forget_rounding(model)
        return model if adapter is None else adapter.put_on(model)

    def adapter(self) -> Adapter | None:
        """The adapter that lies there; None where a whole model or nothing does.

        Raises:
            ConfigError: if `base` is given for what is no adapter.
        """
        adapter = Adapter.at(located(self.path), self.revision)
        if adapter is None and self.base is not None:
            raise ConfigError(f"{self.section}.base is for an adapter, and {self.path!r} has no adapter_config.json")
        return adapter

    def _read(self, what: str, reader: Any, adapter: Adapter | None, **options: Any) -> Any:
        """Read something of the model, or of an adapter's base, by a class of transformers."""
        path, revision = (self.path, self.revision) if adapter is None else adapter.located(self.base, self.section)
        if self.gguf_file is not None:
            require("gguf", "gguf")
            options["gguf_file"] = self.gguf_file
        named = what if adapter is None else f"base {what} ({self.section}.base) of the adapter {self.path!r}"
        with found(named, path, self.gguf_file, self.section):
            return reader.from_pretrained(
                located(path), revision=revision, trust_remote_code=self.trust_remote_code, **options
            )


@contextmanager
def shown_dequantising(gguf_file: str | None) -> Generator[None, None, None]:
    """Show the dequantising of a GGUF file as all long work is shown; transformers draws a bar of its own unasked."""
    reader: Any = modeling_gguf_pytorch_utils
    theirs = reader.tqdm
    reader.tqdm = lambda tensors, **_: progress(tensors, f"dequantising {gguf_file}")
    try:
        yield
    finally:
        reader.tqdm = theirs


def _forget_rounding(model: PreTrainedModel) -> None:
    """Let weights that were dequantised be those of any model: to be saved, hashed, adapted."""
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    for name, plain in {"hf_quantizer": None, "is_quantized": False, "quantization_method": None}.items():
        if hasattr(model, name):
            setattr(model, name, plain)


@contextmanager
def found(
    what: str, path: str | Path, gguf_file: str | None = None, section: str = "reasoner"
) -> Generator[None, None, None]:
    """Turn the errors of loading `path` by transformers into one line.

    Args:
        what: what is loaded.
        path: folder or hub id.
        gguf_file: name of the file that it is loaded from; None where it is a model's own.
        section: of the configuration that would name that file.

    Raises:
        MissingFileError: whatever transformers says; an error of this package is raised as it is.
    """
    try:
        yield
    except SafeThinkError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingFileError(f"no {what} {_reason(str(path), error, gguf_file, section)}") from error


def _reason(path: str, error: Exception, gguf_file: str | None, section: str) -> str:
    """The place that nothing can be loaded from, and why."""
    folder, wanted = Path(located(path)), gguf_file or "config.json"
    if not folder.is_dir() or (folder / wanted).is_file():
        return f"at {path!r}: {not_found(path, error)}"
    if (folder / "adapter_config.json").is_file():
        return f"at {path!r}: it is an adapter, not a whole model"
    in_gguf = sorted(each.name for each in folder.glob("*.gguf"))
    hint = f"; for the weights of {in_gguf[0]} set {section}.gguf_file" if in_gguf else ""
    return f"in the folder {path!r}: it has no {wanted}{hint}"
