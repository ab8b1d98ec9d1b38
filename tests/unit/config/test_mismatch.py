"""What was made by other settings is refused, and the first key that differs is named with both values."""

from __future__ import annotations

import pytest

from safethink.config import ReasonerConfig, RunConfig, ServerConfig
from safethink.config.mismatch import other_settings, refuse_other
from safethink.errors import ConfigError


def served(address: str, **changes: object) -> RunConfig:
    server = ServerConfig(urls=(address,))
    return RunConfig(reasoner=ReasonerConfig(path="org/model", server=server), **changes)


def test_the_same_settings_pass_as_a_model_and_as_json() -> None:
    run = served("http://one/v1")
    refuse_other("there", run, served("http://one/v1"))
    refuse_other("there", run.model_dump(mode="json"), run)
    refuse_other("there", {"ids": (1, 2)}, {"ids": [1, 2]})


def test_the_key_and_both_values_are_named_on_one_line() -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_other("out/config.yaml", {"seed": 3, "by": "a"}, {"seed": 4, "by": "b"}, "another training")
    said = "out/config.yaml belongs to another training: seed is 3 there and 4 here; use another --out"
    assert str(refused.value) == said


def test_a_key_that_one_side_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match=r"words\.1 is 'absent' there and 'b' here"):
        refuse_other("there", {"words": ["a"]}, {"words": ["a", "b"]})


def test_a_run_may_go_on_at_another_address_but_not_with_another_seed() -> None:
    refuse_other("there", served("http://one/v1"), served("http://two/v1"))
    with pytest.raises(ConfigError, match="seed is 0 there and 1 here"):
        refuse_other("there", served("http://one/v1"), served("http://two/v1", seed=1))


def test_what_is_known_to_differ_names_even_an_address() -> None:
    said = other_settings("there", served("http://one/v1"), served("http://two/v1"), "another study")
    assert "reasoner.server.urls.0 is 'http://one/v1' there and 'http://two/v1' here" in said


def test_settings_that_were_not_written_down_are_said_to_be_unknown() -> None:
    said = other_settings("there", None, {"seed": 1}, "another study", "give it another name")
    assert said == "there belongs to another study: by which setting was not written down; give it another name"
