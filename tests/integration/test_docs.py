"""The documents: links lead somewhere, commands and configurations are valid, the picture is that of today's run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from docs.tools import check, commands, make_tables, make_trace_svg, pages
from docs.tools.pages import ROOT
from optimize.config import SearchConfig
from safethink.config import yaml_config

FENCE = "```"


@pytest.fixture(scope="module")
def documents() -> list[pages.Page]:
    return [pages.read(path) for path in pages.documents()]


def written(folder: Path, text: str) -> pages.Page:
    """A page with that text."""
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return pages.read(path)


def test_every_link_and_every_named_file_is_there(documents: list[pages.Page]) -> None:
    assert pages.broken_links(documents) == []


@pytest.mark.parametrize("path", pages.documents(), ids=lambda path: path.name)
def test_what_a_page_shows_is_valid(path: Path, tmp_path: Path) -> None:
    assert check.check(pages.read(path), tmp_path, runs=False) == []


@pytest.mark.parametrize("package", ["safethink", "optimize"])
def test_the_design_states_the_order_of_the_rooms_that_is_enforced(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (each["layers"] for each in contracts if each.get("containers") == [package])
    design = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    assert f"{package}: {' > '.join(layers)}" in " ".join(design.split())


def test_the_tables_of_real_models_are_those_of_today() -> None:
    page = make_tables.PAGE.read_text(encoding="utf-8")
    assert make_tables.written(page) == page, "run python -m docs.tools.make_tables"
    with pytest.raises(ValueError, match="has no place for"):
        make_tables.written("")


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 900


@pytest.mark.slow
def test_the_picture_in_the_readme_is_that_of_today_s_run() -> None:
    assert make_trace_svg.draw(make_trace_svg.trace_lines()) == make_trace_svg.PATH.read_text(encoding="utf-8")


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_broken_links_and_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = written(
        tmp_path, "# One two\n\n[a](#one-two) [b](#three) [c](page.md#one-two) [d](gone.md) `docs/gone.py`\n"
    )
    assert pages.broken_links([page]) == [
        "page.md:3: no file 'docs/gone.py'",
        "page.md:3: nothing at '#three'",
        "page.md:3: nothing at 'gone.md'",
    ]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (f"{FENCE}sh\nsafethink genrate testbed Hello\n{FENCE}", "no command 'safethink genrate'"),
        (f"{FENCE}sh\nsafethink generate nowhere Hello\n{FENCE}", "no configuration 'nowhere'"),
        (f"{FENCE}sh\nsafethink generate testbed Hello --defense.treshold 1\n{FENCE}", "defense.treshold: unknown key"),
        (f"{FENCE}sh\nsafethink evaluate testbed --uot runs/eval\n{FENCE}", "has no flag --uot"),
        (f"{FENCE}python\nprint(\n{FENCE}", "not python"),
        (f"{FENCE}yaml\ndefense: {{kind: safethnik}}\n{FENCE}", "did you mean 'safethink'?"),
        (f"{FENCE}json\n{{\n{FENCE}", "not json"),
        (f"{FENCE}rust\nfn main() {{}}\n{FENCE}", "a block in 'rust'"),
        (f"<!-- not run: -->\n{FENCE}sh\nls\n{FENCE}", "without a reason"),
    ],
)
def test_a_mistake_in_a_block_is_found(
    block: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (problem,) = check.check(written(tmp_path, f"{block}\n"), tmp_path, runs=False)
    assert complaint in problem


def test_blocks_run_one_after_the_other_and_a_status_other_than_0_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = written(
        tmp_path,
        f"{FENCE}sh\necho hello > said\n{FENCE}\n\n{FENCE}python\nprint(open('said').read())\n{FENCE}\n\n"
        f"<!-- not run: it would fail -->\n{FENCE}sh\nfalse\n{FENCE}\n\n{FENCE}sh\necho oh && false\n{FENCE}\n",
    )
    assert check.check(page, tmp_path, runs=True) == ["page.md:14: status 1: oh"]


def test_a_block_that_takes_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(check, "TIMEOUT_S", 0.1)
    page = written(tmp_path, f"{FENCE}sh\nsleep 5\n{FENCE}\n")
    assert check.check(page, tmp_path, runs=True) == ["page.md:1: not done after 0.1 s"]


def test_a_short_form_changes_the_configuration_and_leaves_the_rest_of_the_command(tmp_path: Path) -> None:
    line = "safethink-optimize search testbed-gcg --search.length 3 --out runs/gcg"
    (call,) = commands.calls(commands.short_form(line, tmp_path, tmp_path))
    assert (call.name, call.words[1:]) == ("safethink-optimize search", ("--search.length", "3", "--out", "runs/gcg"))
    short = commands.short_forms()[call.name].set
    assert yaml_config.load(SearchConfig, Path(call.words[0])).search.steps == short["search.steps"]
    assert commands.short_form("safethink prefix list", tmp_path, tmp_path) == "safethink prefix list"
