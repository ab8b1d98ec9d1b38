"""Files that import neither torch nor transformers nor datasets are typed strictly."""

from __future__ import annotations

from tests.support.source import ROOT, imports_any, modules

UNTYPED = {"torch", "transformers", "datasets"}
MARK = "# pyright: standard\n"


def test_pyright_is_strict_where_the_libraries_allow_it() -> None:
    files = [path for package in ("safethink", "optimize") for path in modules(package)]
    marked = {str(path.relative_to(ROOT)) for path in files if path.read_text(encoding="utf-8").startswith(MARK)}
    assert marked == {str(path.relative_to(ROOT)) for path in files if imports_any(path, UNTYPED)}
