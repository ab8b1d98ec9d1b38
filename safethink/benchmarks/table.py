"""Any table: a CSV, TSV, JSON, JSONL or Parquet file, by the names of its columns."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter

from safethink.benchmarks import Loaded, rows
from safethink.benchmarks.rows import Row
from safethink.config import TableBenchmarkConfig
from safethink.config.published import stem
from safethink.errors import ConfigError
from safethink.prompts import Prompt, PromptKind


def load(config: TableBenchmarkConfig) -> Loaded:
    """The rows of the wanted split, each as a prompt of the kind that its label says.

    Raises:
        ConfigError: a column that is not there, or a row that is no prompt or has no known label; it is named.
    """
    fields = config.fields
    references = (fields.reference,) if isinstance(fields.reference, str) else fields.reference
    named = (fields.prompt, fields.id, fields.label, fields.category, fields.group, fields.split, fields.system)
    columns = [column for column in (*named, *references, *_columns(config.template)) if column is not None]
    # The split is a column's, so the hub is asked for all of them.
    source = config if fields.split is None else config.replace(split=None)
    found = rows.read(source, *columns, file=rows.FileFormat(config.format, config.delimiter, config.comment))
    if fields.split is not None and config.split is not None:
        found = [row for row in found if row.maybe(fields.split) == config.split]
    labelled: list[tuple[Row, PromptKind | None]] = [(row, _kind(row, config)) for row in found]
    prompts = [_prompt(row, kind, config, references) for row, kind in labelled if kind is not None]
    if not prompts:
        wanted = "" if config.split is None else f" of the split {config.split!r}"
        raise ConfigError(f"{config.path}: no prompts{wanted}")
    left_out = len(found) - len(prompts)
    return Loaded(tuple(prompts), (f"{left_out} rows left out by their labels",) if left_out else ())


def _prompt(row: Row, kind: PromptKind, config: TableBenchmarkConfig, references: tuple[str, ...]) -> Prompt:
    fields = config.fields
    own_id = None if fields.id is None else row.text(fields.id)
    group = None if fields.group is None else row.maybe(fields.group)
    return row.prompt(
        id=f"{stem(config.path)}:{own_id or row.place.row}",
        text=_text(row, config),
        kind=kind,
        category=None if fields.category is None else row.maybe(fields.category),
        references=[answer for column in references for answer in row.texts(column)],
        clusters={} if group is None else {"group": group},
        system=None if fields.system is None else row.maybe(fields.system),
    )


def _text(row: Row, config: TableBenchmarkConfig) -> str:
    if config.fields.prompt is not None:
        return row.text(config.fields.prompt)
    template = config.template or ""
    return template.format_map({column: row.maybe(column) or "" for column in _columns(template)}).strip()


def _kind(row: Row, config: TableBenchmarkConfig) -> PromptKind | None:
    """The kind of a row; None for one that is left out."""
    label = None if config.fields.label is None else row.maybe(config.fields.label)
    if not label and "" not in config.labels:
        if config.prompts is None:
            raise ConfigError(
                f'{row.place}: no label; give `prompts`, the kind of such rows, or leave them out by `"": null` among '
                "`labels`"
            )
        return config.prompts
    label = label or ""
    if label not in config.labels:
        raise ConfigError(f"{row.place}: the label {label!r} is not one of `labels`: {', '.join(config.labels)}")
    return config.labels[label]


def _columns(template: str | None) -> Iterator[str]:
    """The columns that a template names.

    Raises:
        ConfigError: it is no template.
    """
    try:
        parts = list(Formatter().parse(template or ""))
    except ValueError as error:
        raise ConfigError(f"template {template!r}: {error}; a brace of the text itself is written twice") from error
    for _, column, format_spec, conversion in parts:
        if column is None:
            continue
        if not column or format_spec or conversion or set(column) & set(".["):
            raise ConfigError(f"template {template!r}: expected names of columns in braces, not {{{column}}}")
        yield column
