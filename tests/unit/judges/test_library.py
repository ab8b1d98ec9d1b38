"""The answer checker and math-verify agree on answers in LaTeX; `make install` brings the library."""

from __future__ import annotations

import pytest

from safethink.judges.answers import latex, library

PAIRS = [
    (r"\frac{1}{2}", "0.5", True),
    (r"\dfrac{3}{4}", r"\frac{6}{8}", True),
    (r"2\sqrt{2}", r"\sqrt{8}", True),
    (r"x^2 + 1", r"1 + x^2", True),
    (r"12", "13", False),
    (r"\frac{1}{3}", "0.5", False),
    (r"52_7", "52_8", False),
    (r"40_9", "40", False),
    (r"1, 1-1", "0", False),
    (r"5x - 7y + 11z + 4 = 0", "0", False),
    (r"x + 1", r"x - 1", False),
]


@pytest.mark.parametrize(("said", "reference", "equal"), PAIRS)
def test_both_checkers_say_the_same(said: str, reference: str, equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify", reason="the extra `math`, which `make install` brings")
    assert library.same(said, reference) is equal
    # By itself, for it asks the library wherever it finds no equality.
    monkeypatch.setattr(library, "installed", lambda: None)
    assert latex.same(said, reference) is equal
