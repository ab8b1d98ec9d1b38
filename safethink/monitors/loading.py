# pyright: standard
"""Loads the models of monitors, and refuses one whose weights transformers had to make up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch.nn import ModuleList
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MllamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safethink.config import GuardMonitorConfig, ModelSection, RewardMonitorConfig, StreamMonitorConfig
from safethink.errors import ConfigError
from safethink.models.adapters import Adapter
from safethink.models.checkpoint import Checkpoint
from safethink.models.loading import found
from safethink.models.placement import installed, pick_device, placed, put
from safethink.monitors.guards.stream import StreamGuard
from safethink.monitors.reward_models import BeaverScorer, SequenceScorer, UrmScorer
from safethink.testbed import folders

Model = TypeVar("Model", bound=PreTrainedModel, covariant=True)

BEAVER_CLASSES = ("LlamaForScore", "LlamaModelForScore")
"""Class names in the checkpoints of Safe RLHF."""
CLASSIFIES = "SEQ_CLS"
"""Task type of peft of a classifier's adapter, which has the head beside the update."""
URM_CLASSES = ("LlamaForSequenceClassificationWithNormal_Weights",)
"""Class names in the checkpoints of URM."""
NO_LANGUAGE_MODELS = ("ForSequenceClassification", "ForTokenClassification", "ForGuardModel", *BEAVER_CLASSES)
"""Name parts of classes with another kind of head; tied embeddings could pass one off as a language model's."""


@dataclass(frozen=True)
class Loaded(Generic[Model]):
    """A monitor's model in eval mode, and its tokenizer.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        missing: names of weights that the checkpoint does not have.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    missing: frozenset[str]


def guard_path(config: GuardMonitorConfig) -> str:
    """Path or hub id of the guard; `testbed` becomes the folder of the shipped one."""
    return str(folders().guard) if config.path == "testbed" else config.path


def load_guard(config: GuardMonitorConfig) -> Loaded[PreTrainedModel]:
    """Load a generative guard; of one that also reads images, the language model alone.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist, or the checkpoint is not that of a language model.
    """
    config = config.replace(path=guard_path(config))
    name = _architecture(config)
    if name.endswith(NO_LANGUAGE_MODELS):
        raise ConfigError(f"the model at {config.path!r} is a {name}, which gives no verdicts in words")
    loaded = load(AutoModelForCausalLM, config)
    refuse_made_up(loaded.missing, config.path)
    if isinstance(loaded.model, MllamaForCausalLM):
        _drop_cross_attention(loaded.model)
    return loaded


def load_stream(config: StreamMonitorConfig) -> Loaded[StreamGuard]:
    """Load Qwen3Guard-Stream.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist, or the checkpoint is another model's.
    """
    loaded = load(StreamGuard, config)
    refuse_made_up(loaded.missing, config.path)
    return loaded


def load_scorer(config: RewardMonitorConfig) -> Loaded[SequenceScorer | BeaverScorer | UrmScorer]:
    """Load a reward or cost model, of the class that its configuration names.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist, or the checkpoint has no such head.
    """
    checkpoint = Checkpoint.of(config)
    with found("model", config.path):
        adapter = checkpoint.adapter()
    if adapter is not None:
        return _load_adapted(config, checkpoint, adapter)
    if config.gguf_file is not None:
        raise ConfigError(f"monitor.gguf_file is for an adapter's base, and {config.path!r} has no adapter_config.json")
    name = _architecture(config)
    if name in BEAVER_CLASSES:
        return _load_beaver(config)
    if name in URM_CLASSES:
        loaded = load(UrmScorer, config)
        refuse_made_up(loaded.missing, config.path)
        return loaded
    classifier = load(AutoModelForSequenceClassification, config, config.trust_remote_code)
    refuse_made_up(classifier.missing, config.path)
    return Loaded(SequenceScorer(classifier.model).eval(), classifier.tokenizer, classifier.missing)


def _load_adapted(config: RewardMonitorConfig, checkpoint: Checkpoint, adapter: Adapter) -> Loaded[SequenceScorer]:
    """Load a classifier that is an update of a base model, with a head of its own.

    Raises:
        ConfigError: the adapter is of a model of another kind, or does not fit its base.
    """
    if adapter.task_type != CLASSIFIES:
        kind = adapter.task_type or "no kind of model"
        raise ConfigError(f"the adapter {config.path!r} is for {kind}, and a classifier's is for {CLASSIFIES}")
    place = pick_device(config.device)
    with installed(), found("model", config.path):
        tokenizer = checkpoint.tokenizer()
        options = placed(config.dtype, place, config.device_map, config.quantization)
        model = checkpoint.model(reader=AutoModelForSequenceClassification, num_labels=1, **options)
    return Loaded(SequenceScorer(put(model, place)).eval(), tokenizer, frozenset())


def _architecture(config: ModelSection) -> str:
    """The class that a checkpoint was saved from, by its own word; empty where it says none."""
    with found("model", config.path):
        values, _ = PreTrainedConfig.get_config_dict(config.path, revision=config.revision)
    return str((values.get("architectures") or [""])[0])


def _load_beaver(config: RewardMonitorConfig) -> Loaded[BeaverScorer]:
    """Load a beaver model; whether its head has a bias is what the checkpoint says, not its configuration."""
    loaded = load(BeaverScorer, config)
    model, missing = loaded.model, set(loaded.missing)
    if "score_head.bias" in missing:
        model.score_head.bias = None
    unused = () if getattr(model.config, "do_normalize", False) else ("normalizer.",)
    refuse_made_up({key for key in missing - {"score_head.bias"} if not key.startswith(unused)}, config.path)
    return loaded


def load(model_class: Any, config: ModelSection, trust_remote_code: bool = False) -> Loaded[Any]:
    """Load a model and its tokenizer.

    Args:
        model_class: whose `from_pretrained` loads it.
        config: where it is.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist.
    """
    place = pick_device(config.device)
    hub = {"revision": config.revision, "trust_remote_code": trust_remote_code}
    with installed(), found("model", config.path):
        tokenizer = AutoTokenizer.from_pretrained(config.path, **hub)
        model, info = model_class.from_pretrained(
            config.path,
            output_loading_info=True,
            **placed(config.dtype, place, config.device_map, config.quantization),
            **hub,
        )
    return Loaded(put(model, place), tokenizer, frozenset(info["missing_keys"]))


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a tokenizer's chat template; empty where it has none."""
    return str(tokenizer.chat_template or "")


def refuse_made_up(missing: Collection[str], path: str) -> None:
    """Check that every weight came from the checkpoint.

    Raises:
        ConfigError: transformers initialised some at random, so that scores would mean nothing.
    """
    if missing:
        names = ", ".join(sorted(missing)[:3]) + ("..." if len(missing) > 3 else "")
        raise ConfigError(f"the checkpoint at {path!r} lacks {names}: it is no model of the kind that is asked for")


def _drop_cross_attention(model: MllamaForCausalLM) -> None:
    """Take the layers out that look at images; without one they are skipped, and their empty caches are in the way."""
    language: Any = model.model
    looking = set(language.cross_attention_layers)
    kept: list[Any] = [layer for index, layer in enumerate(language.layers) if index not in looking]
    language.layers = ModuleList(kept)
    language.cross_attention_layers = []
    for index, layer in enumerate(kept):
        layer.layer_idx = layer.self_attn.layer_idx = index
