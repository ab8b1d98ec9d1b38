"""What trainings by Lightning share: it keeps quiet, since a command shows its own progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

NOISE = ".*LeafSpec.*"
"""What Lightning is warned of, and cannot be helped here: its own use of torch."""
ADVICE = ".*does not have many workers.*"
"""What it advises, and does not hold here: the data is in memory, and workers would only copy it."""


@contextmanager
def quiet() -> Generator[None, None, None]:
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
