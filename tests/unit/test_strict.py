"""Files that import neither torch nor transformers are typed strictly."""

from __future__ import annotations

import tomllib

from tests.source import ROOT, imports_any, modules

UNTYPED = {"torch", "transformers"}


def test_pyright_is_strict_where_the_libraries_allow_it() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]["strict"]
    files = [path for package in ("safethink", "optimize") for path in modules(package) if path.stat().st_size]
    expected = sorted(str(path.relative_to(ROOT)) for path in files if not imports_any(path, UNTYPED))
    assert sorted(listed) == expected, "set [tool.pyright] strict in pyproject.toml to the right-hand side"
