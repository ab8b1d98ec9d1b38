"""LoRA adapters as reasoners: merged into the base that they name or are given; what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils

from safethink.config import ReasonerConfig, RunConfig, yaml_config
from safethink.errors import ConfigError, MissingFileError
from safethink.models.adapters import quiet_peft
from safethink.models.checkpoint import Checkpoint, shown_dequantising
from safethink.models.hashes import model_hash
from safethink.models.loading import complete, load
from safethink.models.placement import footprint
from tests.support import stub_hub, tiny_reasoner
from tests.support.stub_hub import Repository, StubHub

IDS = torch.tensor([[5, 6, 7, 8]])
OTHER_TEMPLATE = tiny_reasoner.CHAT_TEMPLATE.replace("assistant", "thinker")


def saved_base(folder: Path, layers: int = 2, hidden_size: int = 32) -> str:
    tiny_reasoner.model(layers=layers, hidden_size=hidden_size).save_pretrained(folder)
    tiny_reasoner.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return saved_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: str) -> str:
    """An adapter without a tokenizer, whose update is no zero."""
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    with quiet_peft():
        adapted = get_peft_model(load(ReasonerConfig(path=base)).model, lora)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return str(tmp_path / "adapter")


def edit(adapter: str, **settings: object) -> None:
    path = Path(adapter, "adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def logits(config: ReasonerConfig) -> torch.Tensor:
    with torch.inference_mode():
        return load(config).model(IDS).logits


def test_the_update_is_merged_into_the_base_that_it_names(adapter: str, base: str) -> None:
    merged = load(ReasonerConfig(path=adapter)).model
    plain = load(ReasonerConfig(path=base)).model
    weights = load_file(Path(adapter, "adapter_model.safetensors"))
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    settings = json.loads(Path(adapter, "adapter_config.json").read_text())
    update = weights[f"{stem}.lora_B.weight"] @ weights[f"{stem}.lora_A.weight"] * settings["lora_alpha"] / 2
    before, after = (model.get_submodule("model.layers.1.self_attn.q_proj").weight for model in (plain, merged))
    torch.testing.assert_close(after, before + update)
    assert sorted(merged.state_dict()) == sorted(plain.state_dict())


def test_its_hash_is_of_base_and_update_together(adapter: str, base: str, tmp_path: Path) -> None:
    merged = model_hash(load(ReasonerConfig(path=adapter)).model)
    assert merged != model_hash(load(ReasonerConfig(path=base)).model)
    tiny_reasoner.model(seed=1).save_pretrained(tmp_path / "other")
    tiny_reasoner.tokenizer().save_pretrained(tmp_path / "other")
    assert merged != model_hash(load(ReasonerConfig(path=adapter, base=str(tmp_path / "other"))).model)


def test_a_base_of_another_place_is_taken_where_it_is_said(adapter: str, base: str) -> None:
    expected = logits(ReasonerConfig(path=adapter))
    edit(adapter, base_model_name_or_path="owner/somewhere-else")
    torch.testing.assert_close(logits(ReasonerConfig(path=adapter, base=base)), expected)


def test_the_tokenizer_is_the_bases_and_the_template_the_adapters(adapter: str, base: str) -> None:
    Path(adapter, "chat_template.jinja").write_text(OTHER_TEMPLATE)
    tokenizer = Checkpoint(adapter).tokenizer()
    assert tokenizer.get_vocab() == tiny_reasoner.tokenizer().get_vocab()
    assert tokenizer.chat_template == OTHER_TEMPLATE


def test_a_tokenizer_in_the_adapters_folder_is_taken(adapter: str) -> None:
    own = tiny_reasoner.tokenizer()
    own.save_pretrained(adapter)
    Path(adapter, "chat_template.jinja").write_text(OTHER_TEMPLATE)
    assert Checkpoint(adapter).tokenizer().chat_template == OTHER_TEMPLATE


def test_the_family_is_told_and_the_memory_estimated_through_it(adapter: str, base: str) -> None:
    run = complete(RunConfig(reasoner=ReasonerConfig(path=adapter)))
    assert run.thought.family == complete(RunConfig(reasoner=ReasonerConfig(path=base))).thought.family
    assert footprint(ReasonerConfig(path=adapter)) == footprint(ReasonerConfig(path=base))


def test_keys_that_are_left_out_are_not_written_down() -> None:
    written = yaml_config.dump(RunConfig(reasoner=ReasonerConfig(path="testbed")))
    assert "gguf_file" not in written
    assert "base:" not in written


def test_an_adapter_in_the_place_of_a_base_is_named(adapter: str) -> None:
    named = rf"no base model \(reasoner.base\) of the adapter '{adapter}' at '{adapter}': it is an adapter, not a whole"
    with pytest.raises(MissingFileError, match=named):
        load(ReasonerConfig(path=adapter, base=adapter))
    with pytest.raises(MissingFileError, match="at 'smollm2-reasoner': it is an adapter, not a whole model"):
        load(ReasonerConfig(path=adapter, base="smollm2-reasoner"))
    edit(adapter, base_model_name_or_path=adapter)
    with pytest.raises(MissingFileError, match="it is an adapter, not a whole model"):
        load(ReasonerConfig(path=adapter))


def test_a_base_for_what_is_no_adapter_is_refused(base: str) -> None:
    with pytest.raises(ConfigError, match=r"reasoner.base is for an adapter, and .* has no adapter_config.json"):
        load(ReasonerConfig(path=base, base=base))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model_name_or_path": None}, "names no base model: set reasoner.base"),
        ({"base_model_name_or_path": "/not/here"}, "was trained on '/not/here', which is not here: set reasoner.base"),
        (
            {"base_model_name_or_path": "owner/nothing"},
            r"no base model \(reasoner.base\) of .* at 'owner/nothing'",
        ),
    ],
)
def test_a_base_that_is_missing_is_named(adapter: str, settings: dict[str, object], message: str) -> None:
    edit(adapter, **settings)
    with pytest.raises(MissingFileError, match=message):
        load(ReasonerConfig(path=adapter))


@pytest.mark.parametrize(
    ("layers", "hidden_size", "message"),
    [(1, 32, r"layers.1.self_attn.*: the base has no such layer"), (3, 32, r"layers.2.*: the adapter has no weights"),
     (2, 64, "size mismatch for .*lora_A")],
)  # fmt: skip
def test_a_base_of_another_shape_is_refused(
    adapter: str, tmp_path: Path, layers: int, hidden_size: int, message: str
) -> None:
    other = saved_base(tmp_path / "other", layers, hidden_size)
    with pytest.raises(ConfigError, match=rf"the adapter .* does not fit its base .*: .*{message}"):
        load(ReasonerConfig(path=adapter, base=other))


def test_a_target_that_the_base_does_not_have_is_refused(adapter: str) -> None:
    edit(adapter, target_modules=["w_pack"])
    with pytest.raises(ConfigError, match=r"does not fit its base .*w_pack"):
        load(ReasonerConfig(path=adapter))


def test_weights_for_a_part_of_the_layers_are_refused(adapter: str) -> None:
    path = Path(adapter, "adapter_model.safetensors")
    save_file({name: weight for name, weight in load_file(path).items() if "layers.1" not in name}, path)
    with pytest.raises(ConfigError, match=r"layers.1.*: the adapter has no weights for it"):
        load(ReasonerConfig(path=adapter))


def test_an_update_that_is_no_number_is_refused(adapter: str) -> None:
    path = Path(adapter, "adapter_model.safetensors")
    save_file({name: torch.full_like(weight, torch.nan) for name, weight in load_file(path).items()}, path)
    with pytest.raises(ConfigError, match=r"does not fit its base .*: NaNs detected"):
        load(ReasonerConfig(path=adapter))


def test_an_adapter_that_is_no_update_of_weights_is_refused(base: str, tmp_path: Path) -> None:
    with quiet_peft():
        prompted = get_peft_model(
            load(ReasonerConfig(path=base)).model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        )
    prompted.save_pretrained(str(tmp_path / "prompted"))
    with pytest.raises(ConfigError, match=r"is of the kind .*PROMPT_TUNING, which is not merged"):
        load(ReasonerConfig(path=str(tmp_path / "prompted")))


def test_an_adapter_without_weights_is_refused(adapter: str) -> None:
    Path(adapter, "adapter_model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="has no weights"):
        load(ReasonerConfig(path=adapter))


def test_a_configuration_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(MissingFileError, match=r"adapter_config.json is not JSON"):
        load(ReasonerConfig(path=str(tmp_path)))


def test_a_gguf_file_needs_its_extra(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safethink.errors.find_spec", lambda name: None)
    Path(base, "model.gguf").touch()
    with pytest.raises(ConfigError, match=r"needs gguf: pip install 'safethink\[gguf\]'"):
        load(ReasonerConfig(path=base, gguf_file="model.gguf"))


def test_a_gguf_file_is_said_to_be_dequantised(
    base: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    monkeypatch.setattr("safethink.models.checkpoint.require", lambda *names: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **options: model)
    assert Checkpoint(base, gguf_file="small.Q4_1.gguf").model() is model
    assert "the weights of small.Q4_1.gguf are dequantised to bfloat16" in caplog.text


def test_dequantising_is_shown_as_all_long_work_is(capfd: pytest.CaptureFixture[str]) -> None:
    reader: Any = modeling_gguf_pytorch_utils
    with shown_dequantising("small.Q4_1.gguf"):
        read = list(reader.tqdm([1, 2], desc="Converting and de-quantizing GGUF tensors..."))
    assert read == [1, 2]
    assert capfd.readouterr().err == "dequantising small.Q4_1.gguf: 2/2 (0 s)\n"


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path, adapter: str, base: str) -> None:
    with pytest.raises(MissingFileError, match=r"it has no model\.gguf"):
        load(ReasonerConfig(path=str(tmp_path), gguf_file="model.gguf"))
    with pytest.raises(MissingFileError, match=rf"no base model .* in the folder '{base}': it has no model\.gguf"):
        load(ReasonerConfig(path=adapter, base=base, gguf_file="model.gguf"))


def test_a_folder_with_a_gguf_file_alone_says_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(MissingFileError, match=r"no config.json; for the weights of model.gguf set reasoner.gguf_file"):
        load(ReasonerConfig(path=str(tmp_path)))


def test_a_gguf_file_is_not_rounded_again() -> None:
    with pytest.raises(ValueError, match="a GGUF file is dequantised"):
        ReasonerConfig(path="testbed", gguf_file="model.gguf", quantization="8bit")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    """A hub that transformers and peft reach in place of the real one."""
    with stub_hub.reached(monkeypatch, tmp_path / "cache") as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def put(served: StubHub, repo_id: str, folder: str) -> str:
    """Publish a folder; returns the commit."""
    repository = served.repositories.setdefault(repo_id, Repository(False, []))
    return repository.commit("publish", {file.name: file.read_bytes() for file in Path(folder).iterdir()}).oid


def test_what_the_hub_does_not_have_is_said_to_be_nowhere(online: StubHub) -> None:
    with pytest.raises(MissingFileError, match=r"no such folder, and no such repository on the hub, or no right to it"):
        load(ReasonerConfig(path="ada/nothing"))
    put_without_model = Repository(False, [])
    put_without_model.commit("publish", {"README.md": b"empty"})
    online.repositories["ada/empty"] = put_without_model
    with pytest.raises(MissingFileError, match=r"no model at 'ada/empty': (?!no such folder).*config.json"):
        load(ReasonerConfig(path="ada/empty"))


def test_on_the_hub_an_adapter_finds_its_base_at_the_commit_that_it_names(
    online: StubHub, adapter: str, base: str, tmp_path: Path
) -> None:
    expected = logits(ReasonerConfig(path=adapter))
    commit = put(online, "ada/base", base)
    tiny_reasoner.model(seed=1).save_pretrained(tmp_path / "later")
    put(online, "ada/base", str(tmp_path / "later"))
    edit(adapter, base_model_name_or_path="ada/base", revision=commit)
    pinned = put(online, "ada/adapter", adapter)
    put(online, "ada/adapter", base)
    torch.testing.assert_close(logits(ReasonerConfig(path="ada/adapter", revision=pinned)), expected)
