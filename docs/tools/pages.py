"""The documents as data: headings, links, named files and fenced blocks of each page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).resolve().parents[2]
NOT_RUN: Final = re.compile(r"<!--\s*not run:(?P<reason>.*?)-->", re.DOTALL)
"""Above a fenced block: why it is left out."""
_FILES: Final = re.compile(r"(?:safethink|optimize|tests|docs|configs|notebooks)/[\w./-]*")
"""Path in this repository, as a code span names it."""
_HTML_LINK: Final = re.compile(r"""(?:href|src)=["']([^"']+)["']""")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file that it stands in.
        line: the first line of its fence, counted from 1.
        language: the first word behind the fence; empty for none.
        text: what stands between the fences.
        reason: why it is not run; None where it is.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        """Place of the block, as `file:line`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Page:
    """A document.

    Attributes:
        path: the file.
        anchors: the headings, as links spell them.
        links: every link and picture, with its line.
        files: every file or folder of this repository that a code span names, with its line.
        blocks: its fenced blocks, in order.
    """

    path: Path
    anchors: frozenset[str]
    links: tuple[tuple[int, str], ...]
    files: tuple[tuple[int, str], ...]
    blocks: tuple[Block, ...]


def documents() -> list[Path]:
    """The pages, in the order in which somebody reads them."""
    first = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("concepts", "learn", "real-models"))]
    others = sorted(set((ROOT / "docs").glob("*.md")) - set(first))
    return [*first, *others, ROOT / "docs/llms.txt", ROOT / "CONTRIBUTING.md"]


def read(path: Path) -> Page:
    """Parse a page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    links, files = [], []
    for line, token in _inline(tokens):
        target = token.attrGet("href") or token.attrGet("src")
        if isinstance(target, str):
            links.append((line, target))
        elif token.type in ("html_inline", "html_block"):
            links += [(line, found) for found in _HTML_LINK.findall(token.content)]
        elif token.type == "code_inline" and _FILES.fullmatch(token.content):
            files.append((line, token.content))
    return Page(path, frozenset(_anchors(tokens)), tuple(links), tuple(files), tuple(_blocks(path, tokens)))


def broken_links(pages: list[Page]) -> list[str]:
    """Links to files and headings that are not there, and files that are named and not there; nothing is fetched."""
    anchors = {page.path: page.anchors for page in pages}
    problems = [
        f"{page.path.relative_to(ROOT)}:{line}: no file {name!r}"
        for page in pages
        for line, name in page.files
        if not (ROOT / name).exists()
    ]
    for page in pages:
        for line, link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            if not target.exists() or (parts.fragment and parts.fragment not in anchors.get(target, frozenset())):
                problems.append(f"{page.path.relative_to(ROOT)}:{line}: nothing at {link!r}")
    return problems


def slug(heading: str) -> str:
    """Anchor of a heading, spelled as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _inline(tokens: list[Token]) -> Iterator[tuple[int, Token]]:
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        yield line, token
        for child in token.children or ():
            yield line, child


def _anchors(tokens: list[Token]) -> Iterator[str]:
    for opening, heading in pairwise(tokens):
        if opening.type == "heading_open":
            yield slug("".join(child.content for child in heading.children or ()))


def _blocks(path: Path, tokens: list[Token]) -> Iterator[Block]:
    reason = None
    for token in tokens:
        comment = NOT_RUN.search(token.content) if token.type == "html_block" else None
        if token.type == "fence" and token.map is not None:
            language = token.info.split()[0] if token.info else ""
            yield Block(path, token.map[0] + 1, language, token.content, reason)
        reason = comment["reason"].strip() if comment else None
