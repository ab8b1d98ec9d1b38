"""The JSON Schema that ships says what `prefix.json` holds."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from safethink.prefix import JSON_FILE, Metric, Prefix, PrefixArtifact, artifact, list_built_in
from tests.support.source import ROOT

ARTIFACT = PrefixArtifact(
    name="learned",
    prefixes=(Prefix(text="Wait", token_ids=(3, 4)),),
    seeds={"search": 1},
    config={"search": {"kind": "gcg"}},
    metrics={"asr_test": Metric(value=0.1, low=0.0, high=0.2, n=300)},
)


def holds(content: dict[str, Any]) -> bool:
    validator = jsonschema.Draft202012Validator(json.loads(artifact.shipped_schema()))
    return not list(validator.iter_errors(content))


def test_it_is_what_the_models_say() -> None:
    write = "from safethink.prefix.artifact import json_schema as schema; print(schema(), end=str())"
    command = f"python -c '{write}' > safethink/prefix/prefix.schema.json"
    assert json.loads(artifact.shipped_schema()) == json.loads(artifact.json_schema()), f"run: {command}"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(artifact.shipped_schema()))


def test_what_is_saved_fits_it() -> None:
    assert holds(ARTIFACT.model_dump(mode="json"))
    for name in list_built_in():
        assert holds(json.loads((ROOT / "safethink" / "prefix" / "built_in" / name / JSON_FILE).read_text()))


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"name": None},
        {"prefixes": []},
        {"prefixes": [{"text": ""}]},
        {"kind": "executable"},
        {"metrics": {"asr_test": {"value": 0.1}}},
        {"unheard_of": 1},
    ],
)
def test_what_the_models_refuse_does_not(change: dict[str, Any]) -> None:
    content = ARTIFACT.model_dump(mode="json") | change
    assert not holds(content)
    with pytest.raises(ValueError, match="validation error"):
        PrefixArtifact.model_validate_json(json.dumps(content))
