"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.in_double import InDouble


@pytest.fixture
def in_double() -> Iterator[None]:
    """Compute everything in float64: exactness is tested with no rounding in the way."""
    with InDouble():
        yield
