# pyright: standard
"""The prefix artifact: everything needed to use a corrective prefix and to check it.

An artifact is a folder with `prefix.json`, `prefix.safetensors` where the prefix is soft, `search.jsonl` (what the
search did, without prompts or traces) and `README.md` (a model card). Nothing in it is executable.
"""

from __future__ import annotations

import os
import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from safethink.config.yaml_config import did_you_mean
from safethink.errors import ArtifactError, MissingFileError
from safethink.files import read_sealed, seal, write_bytes, write_text
from safethink.models.hashes import chat_template_hash, tokenizer_hash
from safethink.prefix import hub
from safethink.prefix.artifact import Identity, Metric, Prefix, PrefixArtifact, RowsFile
from safethink.prompts import is_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from safethink.engines import Engine, LocalEngine
    from safethink.thinking.chat import ChatEncoder

__all__ = [
    "Identity",
    "Metric",
    "Prefix",
    "PrefixArtifact",
    "PrefixLike",
    "RowsFile",
    "bind",
    "built_in",
    "list_built_in",
    "load",
    "round_trips",
    "save",
]

LITERAL = "text:"
"""A prefix given as `text:...` is that text itself."""
JSON_FILE, ROWS_FILE, LOG_FILE, CARD_FILE = "prefix.json", "prefix.safetensors", "search.jsonl", "README.md"


PrefixLike: TypeAlias = str | Path | PrefixArtifact
"""A built-in prefix's name, an artifact's folder or place on the hub, `text:` and a literal prefix, or an artifact."""


def load(
    path_or_name: str | Path, tokenizer: PreTrainedTokenizerBase | None = None, engine: Engine | None = None
) -> PrefixArtifact:
    """Load a prefix and verify it.

    Args:
        path_or_name: folder of an artifact, name of a built-in prefix, `text:` and a literal prefix, or a place on the
            hub, `OWNER/NAME@COMMIT`.
        tokenizer: the reasoner's; without it nothing that concerns token ids is checked.
        engine: the reasoner's, see `bind`.

    Returns:
        The artifact; with `tokenizer`, bound to the reasoner.

    Raises:
        MissingFileError: if there is no such folder, built-in prefix or commit of a repository.
        ArtifactError: if the artifact is damaged, edited or does not fit the reasoner.
        ConfigError: if a place on the hub is not pinned to a commit.
        HubError: if the hub cannot be reached.
    """
    spec = str(path_or_name)
    if spec == LITERAL:
        raise ArtifactError(f"prefix {spec!r} has no text")
    if not is_unicode(spec):
        raise ArtifactError(f"prefix {spec!r} is not Unicode text: it has half of a character")
    if spec.startswith(LITERAL):
        artifact = PrefixArtifact(name=spec, prefixes=(Prefix(text=spec.removeprefix(LITERAL)),))
    elif spec in list_built_in():
        artifact = built_in(spec)
    elif not os.path.isdir(spec) and (place := hub.parse(spec)):
        artifact = _read(hub.download(place))
    else:
        artifact = _read(Path(spec))
    return artifact if tokenizer is None else bind(artifact, tokenizer, engine)


def list_built_in() -> tuple[str, ...]:
    """Names of the prefixes that ship with the package."""
    return tuple(sorted(folder.name for folder in _shipped().iterdir() if folder.joinpath(JSON_FILE).is_file()))


def built_in(name: str) -> PrefixArtifact:
    """Load a prefix that ships with the package; it has no token ids until `bind` makes them."""
    with resources.as_file(_shipped() / name) as folder:
        return _read(folder)


def bind(artifact: PrefixArtifact, tokenizer: PreTrainedTokenizerBase, engine: Engine | None = None) -> PrefixArtifact:
    """Make an artifact usable with a reasoner: check its token ids, or make them where it has none.

    A text learned on another reasoner is encoded anew and flagged as transferred; rows learned on another one are
    refused.

    Args:
        artifact: what to bind.
        tokenizer: the reasoner's.
        engine: the reasoner's; without one that has its weights, a soft prefix is refused, and a text is not found to
            be transferred where tokenizer and template are the same.

    Raises:
        ArtifactError: naming what does not match.
    """
    from safethink.engines import LocalEngine
    from safethink.thinking.chat import ChatEncoder

    local = engine if isinstance(engine, LocalEngine) else None
    retokenised = _differs(artifact.tokenizer, tokenizer_hash(tokenizer))
    transferred = retokenised or _differs(artifact.chat_template, chat_template_hash(tokenizer))
    if artifact.kind == "soft":
        _hand_over_rows(artifact, local)
        return artifact.bound_to(artifact.prefixes, transferred)
    elsewhere = local is not None and _learned_elsewhere(artifact.reasoner, local)
    encoder = ChatEncoder(tokenizer)
    # Ids of another tokenizer say nothing here.
    is_foreign = retokenised or artifact.transferred
    prefixes = tuple(Prefix(text=each.text) if is_foreign else each for each in artifact.prefixes)
    bound = tuple(_bound(artifact.name, prefix, tokenizer, encoder) for prefix in prefixes)
    return artifact.bound_to(bound, transferred or elsewhere)


def round_trips(prefix: Prefix, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder) -> bool:
    """Whether the text encodes to the token ids where a prefix stands, none of them a control token, and back.

    Args:
        prefix: text and ids.
        tokenizer: the reasoner's.
        encoder: of that tokenizer.
    """
    added = tokenizer.added_tokens_decoder
    if any(token_id in added and added[token_id].content.strip() for token_id in prefix.token_ids):
        return False
    encoded = tokenizer.encode(encoder.lead_in + prefix.text, add_special_tokens=False)
    is_same = encoded == [*encoder.text(encoder.lead_in), *prefix.token_ids]
    return is_same and encoder.said(prefix.token_ids) == prefix.text


def save(artifact: PrefixArtifact, folder: Path, search_log: Path | None, card: str) -> PrefixArtifact:
    """Write an artifact; `prefix.json` comes last, so a folder that has one is complete.

    Args:
        artifact: what to write; its hash is computed here.
        folder: created where missing.
        search_log: the search's own log, copied; None leaves an empty one.
        card: the model card, as Markdown.

    Returns:
        The artifact with its hash.

    Raises:
        ArtifactError: if the artifact is bound to another reasoner than it was learned on: what it would say of its
            token ids is not true of them.
    """
    if artifact.transferred:
        raise ArtifactError(
            f"prefix {artifact.name!r} is bound to another reasoner; save the artifact as it was loaded"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if search_log is None:
        (folder / LOG_FILE).touch()
    elif search_log.resolve() != (folder / LOG_FILE).resolve():
        shutil.copyfile(search_log, folder / LOG_FILE)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    hashed = seal(artifact)
    if artifact.rows is not None:
        write_bytes(folder / ROWS_FILE, artifact.rows_content)
    write_text(folder / JSON_FILE, f"{hashed.model_dump_json(indent=2)}\n")
    if artifact.rows is None:
        (folder / ROWS_FILE).unlink(missing_ok=True)
    return hashed


def _shipped() -> Traversable:
    return resources.files("safethink") / "prefix" / "built_in"


def _read(folder: Path) -> PrefixArtifact:
    path = folder / JSON_FILE
    if not os.path.isfile(path):
        is_folder = os.path.isdir(folder)
        what = f"{folder} has no {JSON_FILE}" if is_folder else f"no prefix {str(folder)!r}: neither a folder"
        hint = did_you_mean(str(folder), list_built_in())
        others = f" nor one of the built-in {', '.join(list_built_in())}, nor OWNER/NAME@COMMIT on the hub{hint}"
        known = "" if is_folder else others
        raise MissingFileError(what + known)
    artifact = read_sealed(PrefixArtifact, path)
    if (artifact.kind == "soft") != (artifact.rows is not None):
        raise ArtifactError(f"{path}: a {artifact.kind} prefix {'with' if artifact.rows else 'without'} rows")
    return artifact if artifact.rows is None else artifact.with_content(_read_rows(folder))


def _read_rows(folder: Path) -> bytes:
    path = folder / ROWS_FILE
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is incomplete: its {JSON_FILE} says that the prefix is soft, and it has no {path.name}"
        )
    return path.read_bytes()


def _differs(recorded: Identity | None, sha256: str) -> bool:
    return recorded is not None and recorded.sha256 != sha256


def _learned_elsewhere(recorded: Identity | None, engine: LocalEngine) -> bool:
    """Whether the weights are known to be others; they are read for it only where there is a hash to compare."""
    return recorded is not None and recorded.sha256 is not None and not engine.is_reasoner(recorded.sha256)


def _hand_over_rows(artifact: PrefixArtifact, engine: LocalEngine | None) -> None:
    """Make the rows of a soft artifact readable, on the reasoner it was learned on alone."""
    if engine is None:
        raise ArtifactError(
            f"soft prefix {artifact.name!r} is embedding rows, which only the reasoner's own weights can read, and a "
            "server reads tokens alone: turn its rows into tokens with `safethink-optimize export ARTIFACT --reasoner "
            "REASONER --out FOLDER` and serve FOLDER with the prefix in it, or use the nearest hard prefix"
        )
    learned_on = artifact.reasoner
    if learned_on is None or learned_on.sha256 is None or not engine.is_reasoner(learned_on.sha256):
        where = "a reasoner that it does not name" if learned_on is None else repr(learned_on.name)
        raise ArtifactError(f"soft prefix {artifact.name!r} was learned on {where}, and its rows fit no other reasoner")
    for rows in artifact.soft_rows:
        engine.add_rows(rows)


def _bound(name: str, prefix: Prefix, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder) -> Prefix:
    """The prefix with its ids, checked both ways.

    They are those of its text where a prefix stands. Where a tokenizer puts a blank in front of a text, an artifact may
    also have been written with the ids of its text alone.
    """
    in_place, alone = encoder.injected(prefix.text), encoder.text(prefix.text)
    ids = prefix.token_ids or in_place
    if ids not in (in_place, alone):
        raise ArtifactError(f"prefix {name!r}: {prefix.text!r} encodes to {list(in_place)}, not to {list(ids)}")
    decoded = (
        encoder.said(ids) if ids == in_place else str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    )
    if decoded != prefix.text:
        raise ArtifactError(f"prefix {name!r}: {prefix.text!r} does not round-trip, its ids decode to {decoded!r}")
    return Prefix(text=prefix.text, token_ids=ids)
