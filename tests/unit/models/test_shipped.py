"""The shipped adapter: small, in bfloat16, with a card, and with the chat template that its rows were written in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from optimize.reasoners.encoding import CHAT_TEMPLATE
from optimize.reasoners.rows import REASON
from safethink.config import ProbeMonitorConfig, ReasonerConfig
from safethink.errors import MissingFileError
from safethink.models.adapters import Adapter
from safethink.models.loading import load
from safethink.models.shipped import ADAPTERS, located
from safethink.monitors import probe
from safethink.monitors.build import build
from safethink.testbed import locate

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_small_and_in_bfloat16(name: str) -> None:
    folder = Path(located(name))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6 * 2**20
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_names_its_base_and_no_place_of_this_machine(name: str) -> None:
    settings = json.loads(Path(located(name), "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == BASE
    text = "".join(Path(located(name), file).read_text() for file in ("adapter_config.json", "README.md"))
    assert "/tmp" not in text
    assert "/work" not in text


def test_its_card_says_what_it_is_and_what_was_measured() -> None:
    card = Path(located("smollm2-reasoner"), "README.md").read_text()
    assert "nothing of large models" in card
    assert "| strongreject | 100 |" in card
    assert "nothing was chosen among states or seeds" in card
    assert f'opens with "{REASON}"' in card


def test_its_chat_template_is_the_one_that_it_was_trained_in() -> None:
    adapter = Adapter.at(located("smollm2-reasoner"))
    assert adapter is not None
    assert (adapter.base, adapter.has_tokenizer, adapter.chat_template) == (BASE, False, CHAT_TEMPLATE)


def test_without_its_base_it_says_what_is_missing(tmp_path: Path) -> None:
    missing = str(tmp_path / "base")
    with pytest.raises(MissingFileError, match=r"no base model \(reasoner.base\) of the adapter 'smollm2-"):
        load(ReasonerConfig(path="smollm2-reasoner", base=missing))


def test_other_names_stay_what_they_are() -> None:
    assert located("testbed") == locate("testbed")
    assert located("owner/model") == "owner/model"


def test_the_shipped_probe_fits_the_shipped_adapter_and_names_no_place_of_this_machine() -> None:
    shipped = probe.load(Path(located("smollm2-probe")))
    weights = Path(located("smollm2-reasoner"), "adapter_model.safetensors").read_bytes()
    assert shipped.card.reasoner.sha256 == hashlib.sha256(weights).hexdigest()
    assert shipped.card.metrics["within_harmful_auc"].low > 0.5
    text = "".join(file.read_text() for file in Path(located("smollm2-probe")).glob("*.[jm]*"))
    assert "/tmp" not in text
    assert "/work" not in text


def test_a_probe_is_found_by_its_name() -> None:
    assert isinstance(build(ProbeMonitorConfig(path="smollm2-probe")), probe.ProbeMonitor)
