"""The prefix artifact: everything needed to use a corrective prefix and to check it.

An artifact is a folder with `prefix.json`, `search.jsonl` (what the search did, without prompts or traces) and
`README.md` (a model card). Nothing in it is executable.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safethink import hub
from safethink.errors import ArtifactError, MissingFileError
from safethink.fingerprints import chat_template_hash, json_hash, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LITERAL = "text:"
"""A prefix given as `text:...` is that text itself."""
JSON_FILE, LOG_FILE, CARD_FILE = "prefix.json", "search.jsonl", "README.md"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Prefix(_Part):
    """One hard prefix."""

    text: str = Field(min_length=1)
    """What is injected."""
    token_ids: tuple[int, ...] = ()
    """The same as token ids of the reasoner's tokenizer; empty in an artifact that is tied to none."""


class Identity(_Part):
    """Which model, tokenizer or template something was learned on."""

    name: str
    """Hub id, folder name or file name."""
    revision: str | None = None
    """Commit of the hub repository."""
    sha256: str | None = None
    """Hash of the content, where it can be checked."""


class Metric(_Part):
    """A measured number."""

    value: float
    """The estimate."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int = Field(ge=0)
    """How many observations."""
    clusters: int | None = None
    """How many independent groups they fall into."""


class PrefixArtifact(_Part):
    """What `prefix.json` holds."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: str
    """What the artifact is called."""
    kind: Literal["hard"] = "hard"
    """`hard`: text and token ids."""
    prefixes: tuple[Prefix, ...] = Field(min_length=1)
    """The portfolio: try b of an intervention uses prefix b, the last one again when it runs out."""
    placement: Literal["after_accepted_trace"] = "after_accepted_trace"
    """Where it is injected: directly after the accepted trace; `thought.prefix_separator` follows it."""
    reasoner: Identity | None = None
    """The reasoner it was learned on."""
    tokenizer: Identity | None = None
    """The tokenizer of `token_ids`; None where the text is all there is."""
    chat_template: Identity | None = None
    """The reasoner's chat template."""
    monitor: Identity | None = None
    """The monitor that fired in the contexts it was learned on."""
    threshold: float | None = None
    """The monitor's threshold then."""
    seeds: dict[str, int] = Field(default_factory=dict)
    """Every seed of the search, by name."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The resolved configuration of the search."""
    data_fingerprint: str | None = None
    """Hash of the prompts it was learned on."""
    selected_by: str | None = None
    """The judge that chose it."""
    reported_by: str | None = None
    """The judge behind `metrics`."""
    test_evaluations: int = Field(default=0, ge=0)
    """How often its lineage was evaluated on `test`."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """What was measured, by name."""
    license: str = "apache-2.0"
    """Licence of the artifact, as the hub spells it."""
    content_sha256: str | None = None
    """Hash of everything above; written when saved, checked when loaded."""

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """The portfolio as token ids."""
        return tuple(prefix.token_ids for prefix in self.prefixes)

    @property
    def texts(self) -> tuple[str, ...]:
        """The portfolio as texts."""
        return tuple(prefix.text for prefix in self.prefixes)

    def content_hash(self) -> str:
        """Hash everything but the hash itself, as canonical JSON."""
        return json_hash(self.model_dump(mode="json", exclude={"content_sha256"}))

    def learned_hash(self) -> str:
        """Hash what was learned and on what; it stays the same when numbers are reported or the licence changes."""
        added_later = {"metrics", "reported_by", "test_evaluations", "license", "content_sha256"}
        return json_hash(self.model_dump(mode="json", exclude=added_later, exclude_defaults=True))


PrefixLike: TypeAlias = str | Path | PrefixArtifact
"""A built-in prefix's name, an artifact's folder or place on the hub, `text:` and a literal prefix, or an artifact."""


def load(path_or_name: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> PrefixArtifact:
    """Load a prefix and verify it.

    Args:
        path_or_name: folder of an artifact, name of a built-in prefix, `text:` and a literal prefix, or a place on the
            hub, `OWNER/NAME@COMMIT`.
        tokenizer: the reasoner's; without it nothing that concerns token ids is checked.

    Returns:
        The artifact; with `tokenizer`, every prefix has its token ids.

    Raises:
        MissingFileError: if there is no such folder, built-in prefix or commit of a repository.
        ArtifactError: if the artifact is damaged, edited or made for another tokenizer.
        ConfigError: if a place on the hub is not pinned to a commit.
        HubError: if the hub cannot be reached.
    """
    spec = str(path_or_name)
    if spec == LITERAL:
        raise ArtifactError(f"prefix {spec!r} has no text")
    if spec.startswith(LITERAL):
        artifact = PrefixArtifact(name=spec, prefixes=(Prefix(text=spec.removeprefix(LITERAL)),))
    elif spec in list_built_in():
        artifact = built_in(spec)
    elif not os.path.isdir(spec) and (place := hub.parse(spec)):
        artifact = _read(hub.download(place))
    else:
        artifact = _read(Path(spec))
    return artifact if tokenizer is None else bind(artifact, tokenizer)


def list_built_in() -> tuple[str, ...]:
    """Names of the prefixes that ship with the package."""
    return tuple(sorted(folder.name for folder in _shipped().iterdir() if folder.joinpath(JSON_FILE).is_file()))


def built_in(name: str) -> PrefixArtifact:
    """Load a prefix that ships with the package; it has no token ids until `bind` makes them."""
    with resources.as_file(_shipped() / name) as folder:
        return _read(folder)


def bind(artifact: PrefixArtifact, tokenizer: PreTrainedTokenizerBase) -> PrefixArtifact:
    """Make an artifact usable with `tokenizer`: check its token ids, or make them where it has none.

    Raises:
        ArtifactError: naming what does not match.
    """
    from safethink.templating import ChatEncoder

    _check_identity(artifact, "tokenizer", artifact.tokenizer, tokenizer_hash(tokenizer))
    _check_identity(artifact, "chat template", artifact.chat_template, chat_template_hash(tokenizer))
    encoder = ChatEncoder(tokenizer)
    bound = tuple(_bound(artifact.name, prefix, tokenizer, encoder.text(prefix.text)) for prefix in artifact.prefixes)
    return artifact.model_copy(update={"prefixes": bound})


def round_trips(prefix: Prefix, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the text encodes to the token ids, none of them a control token, and the ids decode to the text."""
    added = tokenizer.added_tokens_decoder
    if any(token_id in added and added[token_id].content.strip() for token_id in prefix.token_ids):
        return False
    encoded = tokenizer.encode(prefix.text, add_special_tokens=False)
    return encoded == list(prefix.token_ids) and _decode(prefix, tokenizer) == prefix.text


def save(artifact: PrefixArtifact, folder: Path, search_log: Path | None, card: str) -> PrefixArtifact:
    """Write an artifact; `prefix.json` comes last, so a folder that has one is complete.

    Args:
        artifact: what to write; its hash is computed here.
        folder: created where missing.
        search_log: the search's own log, copied; None leaves an empty one.
        card: the model card, as Markdown.

    Returns:
        The artifact with its hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if search_log is None:
        (folder / LOG_FILE).touch()
    elif search_log.resolve() != (folder / LOG_FILE).resolve():
        shutil.copyfile(search_log, folder / LOG_FILE)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    hashed = artifact.model_copy(update={"content_sha256": artifact.content_hash()})
    partial = folder / f"{JSON_FILE}.partial"
    partial.write_text(hashed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / JSON_FILE)
    return hashed


def _shipped() -> Traversable:
    return resources.files("safethink") / "prefixes"


def _read(folder: Path) -> PrefixArtifact:
    path = folder / JSON_FILE
    if not os.path.isfile(path):
        is_folder = os.path.isdir(folder)
        what = f"{folder} has no {JSON_FILE}" if is_folder else f"no prefix {str(folder)!r}: neither a folder"
        known = "" if is_folder else f" nor one of the built-in {', '.join(list_built_in())}"
        raise MissingFileError(what + known)
    written = path.read_bytes()
    try:
        artifact = PrefixArtifact.model_validate_json(written)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise ArtifactError(f"{path}: {where}: {first['msg']}") from error
    # Of what the file holds, so that a field added later leaves older artifacts whole.
    held = {key: value for key, value in json.loads(written).items() if key != "content_sha256"}
    if artifact.content_sha256 != json_hash(held):
        raise ArtifactError(f"{path} was edited: its content does not match content_sha256")
    return artifact


def _check_identity(artifact: PrefixArtifact, what: str, recorded: Identity | None, sha256: str) -> None:
    if recorded is not None and recorded.sha256 != sha256:
        raise ArtifactError(
            f"prefix {artifact.name!r} was made for the {what} of {recorded.name!r}, not for this one "
            f"(sha256 {(recorded.sha256 or 'missing')[:12]}, here {sha256[:12]})"
        )


def _bound(name: str, prefix: Prefix, tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> Prefix:
    if prefix.token_ids and prefix.token_ids != ids:
        raise ArtifactError(f"prefix {name!r}: {prefix.text!r} encodes to {list(ids)}, not to {list(prefix.token_ids)}")
    bound = Prefix(text=prefix.text, token_ids=ids)
    if (decoded := _decode(bound, tokenizer)) != prefix.text:
        raise ArtifactError(f"prefix {name!r}: {prefix.text!r} does not round-trip, its ids decode to {decoded!r}")
    return bound


def _decode(prefix: Prefix, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(prefix.token_ids), clean_up_tokenization_spaces=False))
