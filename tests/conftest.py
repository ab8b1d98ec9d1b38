"""What every test shares: no network, one thread per process, the same examples in every run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.hooked_imports import keep_libraries_compiled


def pytest_configure(config: pytest.Config) -> None:
    # Before any test module is imported: huggingface_hub, torch and tokenizers read these once.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    keep_libraries_compiled()
    # No deadline: beartype and a busy machine make the first example slow.
    settings.register_profile("safethink", deadline=None, derandomize=True)
    settings.load_profile("safethink")
