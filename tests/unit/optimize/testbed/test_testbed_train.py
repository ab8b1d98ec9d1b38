"""`safethink-optimize testbed` and the folder it writes; the training itself is in test_testbed_corpus."""

from __future__ import annotations

import hashlib

import pytest

from optimize import testbed
from optimize.testbed.models import PLANS
from safethink.errors import ConfigError
from safethink.testbed import folders


def test_the_card_belongs_to_the_shipped_weights() -> None:
    for name, model in folders().card["models"].items():
        weights = (folders().root / name / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == model["sha256"]
        assert model["steps"] == PLANS[name].steps


def test_the_shipped_models_stay_small() -> None:
    sizes = [(folders().root / name / "model.safetensors").stat().st_size for name in testbed.MODELS]
    assert sum(sizes) < 16 * 2**20
    assert all(model["parameters"] <= 3_000_000 for model in folders().card["models"].values())


def test_another_seed_or_world_needs_another_folder(tmp_path) -> None:
    testbed._claim(tmp_path, seed=0)
    testbed._claim(tmp_path, seed=0)
    for seed, kind, said in (
        (1, "planted", "world_seed is 0 there and 1 here; give a fresh --out"),
        (0, "costly", "world_kind is 'absent' there and 'costly' here"),
    ):
        with pytest.raises(ConfigError, match=said):
            testbed._claim(tmp_path, seed, kind)
