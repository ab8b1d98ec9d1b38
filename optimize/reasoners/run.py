# pyright: standard
"""Makes a small reasoner end to end: writes its corpus, trains it, exports the adapter and measures it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from peft import PeftModel

from optimize.reasoners import corpus, encoding, training
from optimize.reasoners.card import card
from optimize.reasoners.config import ReasonerEvaluationConfig, ReasonerTrainingConfig
from optimize.reasoners.distillation import Base, distilled
from optimize.reasoners.evaluation import Measured, measure
from optimize.reasoners.rows import Row, read, refuse_corrections, write
from safethink import benchmarks
from safethink.benchmarks import Benchmark
from safethink.config import ConstantMonitorConfig, NoneConfig, ReasonerConfig, RunConfig, WorldConfig, yaml_config
from safethink.config.mismatch import refuse_other
from safethink.errors import ConfigError
from safethink.files import atomic_write, write_text, writing
from safethink.frozen import Frozen
from safethink.guarded import SafeThink
from safethink.models import loading
from safethink.models.adapters import Adapter
from safethink.models.checkpoint import Checkpoint
from safethink.models.hashes import model_hash
from safethink.models.shipped import located

CONFIG, ROWS, DISTILLED, CHECKPOINTS = "config.yaml", "corpus.jsonl", "distilled.jsonl", "checkpoints"
ADAPTER, TRAINED, MEASURED = "adapter", "trained.json", "measured.json"
TEMPLATE_FILE, CARD_FILE = "chat_template.jinja", "README.md"


class Reasoner(Frozen):
    """A reasoner that was made."""

    path: str
    """Its adapter folder; what `reasoner.path` takes."""
    rows: int
    """Rows that it was taught."""
    final_loss: float
    """Loss of its last step."""
    sets: tuple[Measured, ...]
    """Tests that it was measured on."""
    development: tuple[Measured, ...] = ()
    """Sets that something was chosen by."""


def run(config: ReasonerTrainingConfig, out: Path) -> Reasoner:
    """Make a reasoner; go on where an earlier call was interrupted.

    Writes `config.yaml`, `corpus.jsonl`, `adapter/` with its card, and what was measured. Once the adapter is there,
    the same call with other benchmarks measures it and trains nothing.

    Args:
        config: the resolved configuration.
        out: the folder of all this.

    Raises:
        SafeThinkError: a base, a file or a set that does not fit, a correction in the corpus, or a folder that belongs
            to another training.
    """
    _claim(config, out)
    tests, development = asked_sets(config.evaluation)
    refuse_unfit_base(config.base)
    if (out / TRAINED).is_file() and (out / ROWS).is_file():
        rows = read(out / ROWS)
        trained = training.Trained.model_validate_json((out / TRAINED).read_text(encoding="utf-8"))
    else:
        rows, trained = _train(config, out)
    on_tests: list[Measured] = []
    on_development: list[Measured] = []
    if tests or development:
        undefended = _undefended(config, out / ADAPTER)
        on_tests, on_development = measure(undefended, tests), measure(undefended, development)
    write_text(out / ADAPTER / CARD_FILE, card(config, trained, rows, on_tests, on_development))
    made = Reasoner(
        path=str(out / ADAPTER),
        rows=len(rows),
        final_loss=trained.losses[-1],
        sets=tuple(on_tests),
        development=tuple(on_development),
    )
    write_text(out / MEASURED, made.model_dump_json(indent=2) + "\n")
    return made


def refuse_unfit_base(base: ReasonerConfig) -> None:
    """Check that a base is there and a whole model; reads its configuration alone.

    Raises:
        MissingFileError: there is no such folder, GGUF file or hub repository.
        ConfigError: it is an adapter, which no adapter can be trained on.
    """
    if Adapter.at(located(base.path), base.revision) is not None:
        raise ConfigError(f"base.path: {base.path!r} is an adapter; give the model that it was trained on")
    Checkpoint.of(base).config()


def asked_sets(config: ReasonerEvaluationConfig) -> tuple[list[Benchmark], list[Benchmark]]:
    """The tests, without the prompts that a development set has too, and the development sets.

    Raises:
        MissingFileError: a file that is not there.
        ConfigError: a file that cannot be read, or a test of which no prompt is left.
    """
    development = [benchmarks.load(each, WorldConfig()) for each in config.development]
    known = {prompt.words_hash for each in development for prompt in each.prompts}
    tests: list[Benchmark] = []
    for test in (benchmarks.load(each, WorldConfig()) for each in config.benchmarks):
        kept = tuple(prompt for prompt in test.prompts if prompt.words_hash not in known)
        if not kept:
            raise ConfigError(f"evaluation.benchmarks: {test.name}: every prompt is one of `development` too")
        left_out = len(test.prompts) - len(kept)
        note = (f"prompts left out that are in the development sets too: {left_out}",) if left_out else ()
        tests.append(Benchmark(test.name, kept, (*test.notes, *note)))
    return tests, development


def _train(config: ReasonerTrainingConfig, out: Path) -> tuple[list[Row], training.Trained]:
    rows = corpus.solved(config.corpus, config.seed)
    lm = loading.load(config.base)
    base_hash = model_hash(lm.model, rounded=True)
    rows += distilled(corpus.drafts(config.corpus, config.seed), Base(lm, config.corpus), out / DISTILLED, config.seed)
    refuse_corrections(rows)
    write(rows, out / ROWS)
    tokenizer = encoding.reasoner_tokenizer(lm.tokenizer)
    examples = encoding.encoded(rows, tokenizer, lm.model.config.model_type)
    started = time.monotonic()
    model, losses = training.train(lm.model, tokenizer, examples, config.training, config.seed, out / CHECKPOINTS)
    base = config.base_name or config.base.path
    _export(model, base, config.base.revision, out / ADAPTER)
    trained = training.Trained(
        base=base,
        base_sha256=base_hash,
        losses=tuple(round(loss, 4) for loss in losses),
        minutes=round((time.monotonic() - started) / 60, 1),
    )
    write_text(out / TRAINED, trained.model_dump_json(indent=2) + "\n")
    return rows, trained


def _export(model: PeftModel, base: str, revision: str | None, folder: Path) -> None:
    """Write the update in bfloat16 with the chat template; the tokenizer is the base's."""
    settings = model.peft_config["default"]
    settings.base_model_name_or_path, settings.revision = base, revision
    weights = {name: weight for name, weight in model.state_dict().items() if "lora_" in name}
    rounded = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    with atomic_write(folder) as partial:
        model.save_pretrained(str(partial), state_dict=rounded, save_embedding_layers=False)
        write_text(partial / TEMPLATE_FILE, encoding.CHAT_TEMPLATE)


def _undefended(config: ReasonerTrainingConfig, adapter: Path) -> SafeThink:
    """The trained reasoner on its base, with no defense."""
    reasoner = config.base.replace(path=str(adapter), base=config.base.path, revision=None)
    settings: ReasonerEvaluationConfig = config.evaluation
    return SafeThink.from_config(
        RunConfig(
            reasoner=reasoner,
            monitor=ConstantMonitorConfig(),
            defense=NoneConfig(),
            sampling=settings.sampling,
            limits=settings.limits,
            batch_size=settings.batch_size,
            seed=config.seed,
        )
    )


def _claim(config: ReasonerTrainingConfig, out: Path) -> None:
    """Make `out` the home of a training, or find it to be the home of the same one, measured otherwise or not.

    Raises:
        ConfigError: another training lives there; what differs is named.
        RecordError: the folder cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG
    if path.is_file() and ((out / DISTILLED).is_file() or (out / ROWS).is_file()):
        earlier = yaml_config.load(ReasonerTrainingConfig, path)
        refuse_other(path, earlier.replace(evaluation=config.evaluation), config, "another training")
    write_text(path, yaml_config.dump(config))
