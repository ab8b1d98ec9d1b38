"""Silences the notices of Lightning and Optuna, since a command shows its own progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

NOISE = ".*LeafSpec.*"
"""Pattern of the warnings about Lightning's own use of torch, which cannot be helped here."""
ADVICE = ".*does not have many workers.*"
"""Pattern of its advice that does not hold here: the data is in memory, and workers would only copy it."""


@contextmanager
def quiet_lightning() -> Generator[None, None, None]:
    """No notices of Lightning's, and no warnings of what it does itself."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=NOISE, category=FutureWarning)
            warnings.filterwarnings("ignore", message=ADVICE)
            yield
    finally:
        log.setLevel(level)


@contextmanager
def quiet_optuna() -> Generator[None, None, None]:
    """Silence what Optuna says of the heartbeat being experimental, and its line per trial."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

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
