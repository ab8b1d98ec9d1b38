"""A mend of jaxtyping's import hook, without which every library is compiled again in each run of the tests."""

from __future__ import annotations

from functools import partial
from importlib.machinery import SourceFileLoader
from types import CodeType
from unittest.mock import patch

from jaxtyping import _import_hook as hook


def keep_libraries_compiled() -> None:
    """Make the hook use its own cache of bytecode for the modules that it rewrites, and for no other.

    jaxtyping puts the hook's name into the names of all `.pyc` files for as long as a rewritten module runs, so also of
    those that it imports: torch, transformers and all behind them are then not found compiled
    (https://github.com/patrick-kidger/jaxtyping/issues/329). Here the name holds while the module itself is read.
    """
    hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module
    hook._JaxtypingLoader.get_code = _code


def _code(self: hook._JaxtypingLoader, fullname: str) -> CodeType | None:
    named = partial(hook._optimized_cache_from_source, self._typechecker.get_hash())
    with patch("importlib._bootstrap_external.cache_from_source", named):
        return SourceFileLoader.get_code(self, fullname)
