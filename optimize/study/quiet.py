"""Optuna without its notices."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import optuna
from optuna.exceptions import ExperimentalWarning


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Silence what Optuna says of the heartbeat being experimental, and its line per trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Of trials too few, or too much alike, to say which parameter matters.
        warnings.filterwarnings("ignore", message="Target and region quantiles")
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
