# pyright: standard
"""Schema of a prefix artifact: the pydantic models of `prefix.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, PrivateAttr

from safethink.errors import ArtifactError
from safethink.files import json_hash
from safethink.frozen import Frozen, Growing
from safethink.tokens import is_soft

if TYPE_CHECKING:
    from torch import Tensor


class Prefix(Frozen):
    """One prefix."""

    text: str = Field(min_length=1)
    """Injected text; of a soft prefix, a text near it, for readers only."""
    token_ids: tuple[int, ...] = ()
    """The same as token ids of the reasoner's tokenizer; empty in an artifact that is tied to none. Of a soft prefix,
    the ids that its rows go by, made from their content."""

    @property
    def is_soft(self) -> bool:
        """Whether embedding rows are injected rather than the text."""
        return any(map(is_soft, self.token_ids))

    @property
    def shown(self) -> str:
        """The prefix as text for display."""
        return f"⟨soft: {len(self.token_ids)} rows, near {self.text!r}⟩" if self.is_soft else self.text


class Identity(Frozen):
    """Identity of the model, tokenizer or template that something was learned on."""

    name: str
    """Hub id, folder name or file name."""
    revision: str | None = None
    """Commit of the hub repository."""
    sha256: str | None = None
    """Hash of the content, where it can be checked."""


class RowsFile(Frozen):
    """The file that holds the rows of a soft portfolio."""

    sha256: str
    """Hash of `prefix.safetensors`, which holds one tensor of shape (rows, hidden size) for each prefix, `prefix.0` the
    first; as the reasoner's embedding module puts rows out, any scaling included. Behind that stand the per-layer
    inputs, where its layers read any."""
    hidden_size: int = Field(ge=1)
    """Length of a row: the width of the reasoner's embeddings, and of its per-layer inputs together."""


class Metric(Frozen):
    """A measured number."""

    value: float
    """The estimate."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int = Field(ge=0)
    """Number of observations."""
    clusters: int | None = None
    """Number of independent groups they fall into."""


class PrefixArtifact(Growing):
    """Schema of `prefix.json`."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"learned_on"})

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: str
    """Name of the artifact."""
    kind: Literal["hard", "soft"] = "hard"
    """`hard`: text and token ids. `soft`: embedding rows, which fit one reasoner only."""
    prefixes: tuple[Prefix, ...] = Field(min_length=1)
    """The portfolio: try b of an intervention uses prefix b, the last one again when it runs out."""
    rows: RowsFile | None = None
    """The rows of a soft portfolio; null for a hard one."""
    placement: Literal["after_accepted_trace"] = "after_accepted_trace"
    """Position of injection: directly after the accepted trace; `thought.prefix_separator` follows it."""
    reasoner: Identity | None = None
    """The reasoner it was learned on. Its hash is that of the weights, rounded to bfloat16 or as they are; see
    `safethink.models.hashes.model_hash`."""
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
    """Number of times its lineage was evaluated on `test`."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Metrics, by name."""
    license: str = "apache-2.0"
    """Licence of the artifact, as the hub spells it."""
    learned_on: tuple[str, ...] = ()
    """Hashes of the prompts behind it (`Prompt.words_hash`), where they are not the testbed's: no benchmark that asks
    them too may be reported."""
    content_sha256: str | None = None
    """Hash of everything above; written when saved, checked when loaded."""

    _rows_content: bytes = PrivateAttr(b"")
    _transferred: bool = PrivateAttr(False)

    @property
    def transferred(self) -> bool:
        """Whether it is bound to another reasoner, tokenizer or chat template than it was learned on."""
        return self._transferred

    @property
    def rows_content(self) -> bytes:
        """Content of `prefix.safetensors`; empty for a hard portfolio."""
        return self._rows_content

    @property
    def soft_rows(self) -> tuple[Tensor, ...]:
        """The rows of each prefix of a soft portfolio, each `Float[Tensor, "rows hidden"]`; none for a hard one."""
        from safethink.models import soft_rows

        return soft_rows.unpack(self._rows_content) if self._rows_content else ()

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """The portfolio as token ids."""
        return tuple(prefix.token_ids for prefix in self.prefixes)

    @property
    def texts(self) -> tuple[str, ...]:
        """The portfolio in words."""
        return tuple(prefix.shown for prefix in self.prefixes)

    def with_rows(self, portfolio: Sequence[Tensor], texts: Sequence[str]) -> PrefixArtifact:
        """The same artifact with a soft portfolio.

        Args:
            portfolio: the rows of each prefix, each `Float[Tensor, "rows hidden"]`; their precision is kept.
            texts: a text near each prefix, for readers: what it was initialised from, or its nearest tokens.

        Raises:
            ArtifactError: if a row has values that are not finite.
        """
        from safethink.models import soft_rows

        content = soft_rows.pack(portfolio)
        pairs = zip(portfolio, texts, strict=True)
        prefixes = tuple(Prefix(text=text, token_ids=soft_rows.row_ids(rows)) for rows, text in pairs)
        file = RowsFile(sha256=hashlib.sha256(content).hexdigest(), hidden_size=portfolio[0].shape[1])
        return self.replace(kind="soft", prefixes=prefixes, rows=file).with_content(content)

    def with_content(self, content: bytes) -> PrefixArtifact:
        """The same artifact with the content of its `prefix.safetensors`, checked.

        Raises:
            ArtifactError: if that is not what the artifact names.
        """
        from safethink.models import soft_rows

        if self.rows is None or hashlib.sha256(content).hexdigest() != self.rows.sha256:
            raise ArtifactError(f"the rows of soft prefix {self.name!r} were edited: they do not match their sha256")
        try:
            portfolio = soft_rows.unpack(content)
            ids = tuple(map(soft_rows.row_ids, portfolio))
        except ArtifactError as error:
            raise ArtifactError(f"the rows of soft prefix {self.name!r}: {error}") from error
        if ids != self.token_ids or {rows.shape[1] for rows in portfolio} != {self.rows.hidden_size}:
            raise ArtifactError(f"the rows of soft prefix {self.name!r} are not those that its token ids stand for")
        filled = self.model_copy()
        filled._rows_content = content
        return filled

    def bound_to(self, prefixes: tuple[Prefix, ...], transferred: bool) -> PrefixArtifact:
        """The same artifact with the token ids of a reasoner; see `safethink.prefix.bind`."""
        bound = self.replace(prefixes=prefixes)
        bound._transferred = transferred
        return bound

    def learned_hash(self) -> str:
        """Hash what was learned and on what; it stays the same when numbers are reported or the licence changes."""
        added_later = {"metrics", "reported_by", "test_evaluations", "license", "content_sha256"}
        return json_hash(self.model_dump(mode="json", exclude=added_later, exclude_defaults=True))


SCHEMA_FILE: Final = "prefix.schema.json"
"""The JSON Schema of `prefix.json` as it ships, for readers that are not this package; `json_schema` writes it."""


def json_schema() -> str:
    """The schema of what `PrefixArtifact` reads, as JSON."""
    return json.dumps(PrefixArtifact.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def shipped_schema() -> str:
    """The schema as it ships with the package."""
    return (resources.files("safethink") / "prefix" / SCHEMA_FILE).read_text(encoding="utf-8")
