"""Writes the tables of docs/real-models.md from what they are tables of: families, architectures, guards.

    python -m docs.tools.make_tables

A test fails where the page is not what this writes. How an architecture's rows are read is found out by building a tiny
model of it and letting it choose its cache, as any model does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import yaml

from docs.tools.pages import ROOT
from safethink.config.families import DECLARED, FAMILIES, PLAIN
from safethink.config.family import Family
from safethink.kv_cache.choose import store_kind
from safethink.monitors.guards.forms import Preset
from safethink.monitors.guards.presets import PRESETS
from tests.support.architectures import ATTENTION, VARYING
from tests.support.hybrid_architectures import BY_TOKEN, HYBRID

PAGE: Final = ROOT / "docs/real-models.md"
_TABLE: Final = "<!-- {name}: by docs/tools/make_tables.py -->\n{rows}\n<!-- /{name} -->"
_MARKED: Final = re.compile(r"<!-- (?P<name>\w+): by docs/tools/make_tables\.py -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def families() -> str:
    """Families of reasoners: their tags, published sampling and shipped runs."""
    rows = [_family(family) for family in (*FAMILIES, DECLARED, PLAIN)]
    return _rows(("`thought.family`", "models", "thinks between", "published sampling", "shipped runs"), rows)


def _family(family: Family) -> tuple[str, ...]:
    runs = [f"`{name}`" for name, path in _shipped_reasoners().items() if path in family.hub]
    return f"`{family.name}`", family.models, _tags(family), _sampling(family), ", ".join(runs)


def _tags(family: Family) -> str:
    if not family.thinks:
        return "does not think"
    if family.stage_turns:
        return f"{len(family.stage_turns)} turns of a chat"
    if family is DECLARED:
        return "the tags declared"
    opened = ", opened by the template" if family.opener_in_template else ""
    return f"{_code(family.open_tag)} {_code(family.close_tag)}{opened}"


def _sampling(family: Family) -> str:
    published = family.sampling
    if published is None:
        return ""
    values = [f"temperature {published.temperature:g}" if published.temperature else "greedy"]
    values += [f"top_p {published.top_p:g}"] * (published.top_p < 1)
    values += [f"top_k {published.top_k}"] * (published.top_k > 0)
    return f"{', '.join(values)} ({published.source})"


def _shipped_reasoners() -> dict[str, str]:
    """Path of each shipped run's reasoner, by the run's name."""
    files = sorted((ROOT / "configs/run").glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))["reasoner"]["path"] for file in files}


def architectures() -> str:
    """Architectures by how the local engine reads their rows, fast or exact and slow."""
    by_kind: dict[str, list[str]] = {}
    for each in (*ATTENTION, *HYBRID, *BY_TOKEN, *VARYING):
        by_kind.setdefault(store_kind(each.make()), []).append(each.name)
    rows = [(kind, _COSTS[kind], "; ".join(names)) for kind, names in by_kind.items()]
    return _rows(("rows are read", "a rollback costs", "architectures"), rows)


_COSTS: Final = {
    "in lanes": "the tokens that are redone",
    "in hybrid lanes": "the tokens that are redone",
    "in hybrid lanes, token by token": "the tokens that are redone, one by one",
    "one at a time, and again after a rollback": "the whole row",
    "one at a time, and again at every token": "the whole row, as does every token",
}


def guards() -> str:
    """Generative guards: what each is asked, what it may say, the kinds of harm that it tells apart."""
    return _rows(("`monitor.preset`", "guards", "asks", "verdicts", "categories"), map(_guard, PRESETS.values()))


def _guard(preset: Preset) -> tuple[str, ...]:
    # The verdict itself, which may follow other answers; some guards write it in either case.
    lines = {verdict.text.strip().splitlines()[-1] for verdict in preset.verdicts}
    written = {line.casefold(): line for line in sorted(lines)}
    verdicts = " or ".join(map(_code, sorted(written.values())))
    names = [] if preset.categories is None else list(preset.categories.names)
    categories = f"{len(names)}, {_code(names[0])} to {_code(names[-1])}" if names else ""
    return f"`{preset.name}`", f"{preset.title}: {', '.join(preset.models)}", preset.asks, verdicts, categories


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") for cells in lines)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


TABLES: Final[dict[str, Callable[[], str]]] = {"families": families, "architectures": architectures, "guards": guards}
"""The tables by the name in their marks."""


def written(page: str) -> str:
    """A page with all its tables as they should be.

    Raises:
        ValueError: it has no place for one of them.
    """
    missing = TABLES.keys() - {mark["name"] for mark in _MARKED.finditer(page)}
    if missing:
        raise ValueError(f"{PAGE.name} has no place for {', '.join(sorted(missing))}")
    return _MARKED.sub(lambda mark: _TABLE.format(name=mark["name"], rows=TABLES[mark["name"]]()), page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
