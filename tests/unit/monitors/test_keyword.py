"""Refusal phrases as a monitor."""

from __future__ import annotations

import pytest

from safethink.config import KeywordMonitorConfig
from safethink.monitors import ScoreRequest
from safethink.monitors.build import build
from safethink.prompts import Prompt
from safethink.refusals import REFUSAL_PHRASES, refuses


def score(config: KeywordMonitorConfig, trace: str) -> float:
    return build(config).score([ScoreRequest(0, Prompt.from_text("x"), trace)])[0]


@pytest.mark.parametrize("phrase", REFUSAL_PHRASES)
def test_a_trace_is_safe_once_it_holds_a_published_phrase(phrase: str) -> None:
    assert score(KeywordMonitorConfig(), f"Let me see.\n\n{phrase.upper()} do that.") == 1.0
    assert refuses(f"{phrase} do that.")


def test_it_is_unsafe_until_then() -> None:
    assert score(KeywordMonitorConfig(), "First mix the two parts.") == -1.0
    assert score(KeywordMonitorConfig(), "") == -1.0


def test_a_curly_apostrophe_is_an_apostrophe() -> None:
    assert score(KeywordMonitorConfig(), "I can\u2019t help.") == 1.0


def test_phrases_and_scores_of_ones_own() -> None:
    config = KeywordMonitorConfig(phrases=("Detonate",), found=-0.5, absent=0.5)
    assert score(config, "then detonate it") == -0.5
    assert score(config, "I'm sorry") == 0.5


def test_scores_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        KeywordMonitorConfig(found=2)
