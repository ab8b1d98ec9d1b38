# pyright: standard
"""Exports of a soft prefix: a copy of its reasoner in which the rows are tokens, so that any server runs it.

The new tokens `<|safe_0|>`, `<|safe_1|>`, ... stand behind the vocabulary, and their embeddings are the rows; where the
layers read inputs of their own for a token, the table of these grows too. They are
added tokens and not special: a server that hides special tokens from what it returns leaves them alone. Nobody can make
the reasoner say them: the generation config suppresses them, which `generate`, `transformers serve` and the engine here
obey. It is what can be done without code in the model: an output head that is tied to the embeddings has neither a row
nor a bias to spare. A server that reads no `suppress_tokens`, such as vLLM, must be told with every request.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from optimize.publishing.model_card import card
from safethink import prefix as prefixes
from safethink.config import NoneConfig
from safethink.errors import ArtifactError, ConfigError
from safethink.guarded import SafeThink
from safethink.models import loading
from safethink.models.checkpoint import Checkpoint
from safethink.models.hashes import chat_template_hash, model_hash, tokenizer_hash
from safethink.models.input_rows import RowLayout
from safethink.models.loading import CausalLM
from safethink.models.shipped import located
from safethink.prefix import LOG_FILE, Identity, Prefix, PrefixArtifact


def extend_vocabulary(artifact: Path, reasoner: str, out: Path) -> PrefixArtifact:
    """Write a copy of a reasoner in which the rows of a soft prefix are tokens, and that prefix as token ids.

    Args:
        artifact: folder of the soft artifact.
        reasoner: the one that it was learned on: a folder, a hub id or `testbed`.
        out: folder of the copy, and of the hard artifact for it; must not exist, or be empty.

    Returns:
        The hard artifact; its numbers are those of the soft one, which does the same.

    Raises:
        ArtifactError: the artifact is not soft, or was learned on another reasoner.
        ConfigError: `out` holds something, or the reasoner's embeddings are no plain table.
        MissingFileError: one of the two is not there.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; give a fresh --out")
    soft = prefixes.load(artifact)
    if soft.kind != "soft":
        raise ArtifactError(f"prefix {soft.name!r} is hard: any server takes it as it is")
    loaded = _load(reasoner)
    # Refuses rows of another reasoner.
    SafeThink(loaded.model, loaded.tokenizer, prefix=soft, defense=NoneConfig())
    hard = extend(loaded, soft, out.resolve().name)
    loaded.model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)
    return prefixes.save(hard, out, artifact / LOG_FILE, card(hard))


def extend(reasoner: CausalLM, soft: PrefixArtifact, name: str) -> PrefixArtifact:
    """Add the rows of a soft prefix to a reasoner's vocabulary, in place.

    Args:
        reasoner: model and tokenizer, both of which are changed.
        soft: the prefix; its rows are rounded to the reasoner's precision.
        name: what the extended reasoner is called.

    Returns:
        The same prefix as token ids of the extended reasoner.

    Raises:
        ConfigError: the reasoner reads no rows, or its embeddings are no plain table.
    """
    model, tokenizer = reasoner.model, reasoner.tokenizer
    # Nor would a token that is new be in the tables that its layers look it up in.
    if refusal := RowLayout.of(model).refusal:
        raise ConfigError(f"{type(model).__name__} takes no rows as tokens: {refusal}")
    # Whatever it is that they refuse, before anything is changed.
    for module in _look_ups(model):
        _scale(module)
    portfolio = soft.soft_rows
    ids = iter(_add_tokens(tokenizer, sum(map(len, portfolio))))
    learned = [_as_tokens([next(ids) for _ in rows], tokenizer) for rows in portfolio]
    _write_rows(model, [each for prefix in learned for each in prefix.token_ids], torch.cat(portfolio))
    _suppress(model, [each for prefix in learned for each in prefix.token_ids])
    extended = Identity(name=name, sha256=model_hash(model, rounded=True))
    changes = {
        "kind": "hard",
        "rows": None,
        "prefixes": tuple(learned),
        "reasoner": extended,
        "tokenizer": Identity(name=name, sha256=tokenizer_hash(tokenizer)),
        "chat_template": Identity(name=name, sha256=chat_template_hash(tokenizer)),
    }
    return PrefixArtifact.model_validate(soft.model_dump() | changes)


def _load(path: str) -> CausalLM:
    """The reasoner in the precision that it is kept in, so that its copy is as large."""
    kept = Checkpoint(path).config().dtype if Path(located(path)).is_dir() else None
    return loading.load_causal_lm(path, dtype=str(kept).removeprefix("torch.") if kept else "auto", device="cpu")


def _add_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> list[int]:
    """Add so many tokens, under names that are not taken, and return their ids."""
    taken = tokenizer.get_vocab()
    free = (name for index in range(len(taken) + count) if (name := f"<|safe_{index}|>") not in taken)
    names = [next(free) for _ in range(count)]
    tokens: list[str | AddedToken] = [AddedToken(name, special=False, normalized=False) for name in names]
    tokenizer.add_tokens(tokens)
    known = tokenizer.get_vocab()
    return [known[name] for name in names]


def _as_tokens(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Prefix:
    return Prefix(text="".join(tokenizer.convert_ids_to_tokens(ids)), token_ids=tuple(ids))


@torch.no_grad()
def _write_rows(model: PreTrainedModel, ids: list[int], rows: Float[Tensor, "tokens hidden"]) -> None:
    """Make `rows` what the layers read for `ids`; of a head of its own, the new outputs are 0 and suppressed.

    Rows that the table has to spare are used before it grows; it never shrinks.
    """
    sizes = [len(_table(module)) for module in _look_ups(model)]
    if max(ids) >= min(sizes):
        # They grow together: in some checkpoints the table of per-layer inputs is the shorter one.
        model.resize_token_embeddings(max(max(ids) + 1, sizes[0]), mean_resizing=False)
        for module, size in zip(_look_ups(model), sizes, strict=True):
            # Of tokens beyond the shorter table its first row was read.
            if size < sizes[0]:
                _table(module)[size:] = _table(module)[0]
    outputs = _table(model.get_output_embeddings())
    for module, part in zip(_look_ups(model), rows.split(RowLayout.of(model).parts, dim=1), strict=True):
        table = _table(module)
        table[ids] = (part.double() / _scale(module)).to(table)
    if outputs is not _table(model.get_input_embeddings()):
        outputs[ids] = 0


def _look_ups(model: PreTrainedModel) -> list[Module]:
    """The modules that look the parts of a row up.

    Raises:
        ConfigError: the class does not say which one looks per-layer inputs up.
    """
    if not RowLayout.of(model).num_layers:
        return [model.get_input_embeddings()]
    # Classes that have them also grow their table with that of the embeddings.
    per_layer = getattr(model, "get_per_layer_input_embeddings", None)
    if per_layer is None:
        raise ConfigError(f"{type(model).__name__} does not say which table its layers look tokens up in")
    return [model.get_input_embeddings(), per_layer()]


def _table(module: Module | None) -> Float[Tensor, "vocab hidden"]:
    assert module is not None, "a causal language model reads and writes tokens"
    return module.get_parameter("weight")


def _scale(embed: Module) -> float:
    """By what the embedding module multiplies the rows of its table: 1, but for the Gemma family and a few others.

    Raises:
        ConfigError: it does something else to them.
    """
    weight = _table(embed)
    index = int(weight.double().norm(dim=1).argmax())
    row, out = weight[index].double(), embed(torch.tensor([index], device=weight.device))[0].double()
    scale = ((row @ out) / (row @ row)).item()
    if not torch.allclose(out, scale * row, rtol=0.02, atol=1e-6):
        raise ConfigError("the reasoner's embeddings are no plain table: a row cannot be written into them")
    return scale


def _suppress(model: PreTrainedModel, ids: list[int]) -> None:
    """Keep tokens from being sampled."""
    assert model.generation_config is not None, "a causal language model generates"
    before = model.generation_config.suppress_tokens or []
    model.generation_config.suppress_tokens = sorted({*before, *ids})
