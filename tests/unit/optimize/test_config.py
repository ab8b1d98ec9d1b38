"""Sections of what learns: how they are written down."""

from __future__ import annotations

from optimize.config import EntryPointTermConfig, ObjectiveConfig


def test_an_objective_without_terms_of_others_is_written_as_before_there_were_any() -> None:
    assert "terms" not in ObjectiveConfig().model_dump(mode="json")
    some = ObjectiveConfig(terms=(EntryPointTermConfig(name="mine", weight=0.5),))
    assert ObjectiveConfig.model_validate(some.model_dump(mode="json")) == some
    assert ObjectiveConfig.model_validate(ObjectiveConfig().model_dump(mode="json")) == ObjectiveConfig()
