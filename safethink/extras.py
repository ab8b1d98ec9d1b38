"""What a plain installation leaves out, asked for before any work is done."""

from __future__ import annotations

from importlib.util import find_spec

from safethink.errors import ConfigError


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed; none is imported.

    Raises:
        ConfigError: one is not; says how to install it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(f"this command needs {' and '.join(missing)}: pip install 'safethink[{extra}]'")
