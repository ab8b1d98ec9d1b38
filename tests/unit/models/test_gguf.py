"""A GGUF file is read as transformers reads it, and no more often than it must be."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from safethink.config import ReasonerConfig
from safethink.models.loading import load

HIDDEN, VOCABULARY = 32, ["<s>", "</s>", "<unk>", "a", "b", "ab"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with nothing but a Llama of one layer and a tokenizer of six tokens in one file."""
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    for add, value in (
        (writer.add_name, "small"),
        (writer.add_context_length, 64),
        (writer.add_embedding_length, HIDDEN),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, HIDDEN),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_freq_base, 10000.0),
        (writer.add_vocab_size, len(VOCABULARY)),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, VOCABULARY),
        (writer.add_token_types, [3, 3, 3, 1, 1, 1]),
        (writer.add_token_merges, ["a b"]),
        (writer.add_bos_token_id, 0),
        (writer.add_eos_token_id, 1),
        (writer.add_unk_token_id, 2),
    ):
        add(value)
    random = np.random.default_rng(0)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {f"blk.0.{name}.weight": (HIDDEN, HIDDEN) for name in square}
    shapes |= {f"blk.0.{name}_norm.weight": (HIDDEN,) for name in ("attn", "ffn")}
    shapes |= {"output_norm.weight": (HIDDEN,), "token_embd.weight": (len(VOCABULARY), HIDDEN)}
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path


def test_weights_and_tokenizer_are_those_that_transformers_reads(folder: Path) -> None:
    loaded = load(ReasonerConfig(path=str(folder), gguf_file="small.gguf", dtype="float32", device="cpu"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file="small.gguf", dtype=torch.float32)
    weights = theirs.state_dict()
    assert loaded.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(each, weights[name]) for name, each in loaded.model.state_dict().items())
    configured = theirs.config.to_diff_dict()
    assert configured.pop("quantization_config")
    assert loaded.model.config.to_diff_dict() == configured
    assert loaded.model.generation_config.to_dict() == theirs.generation_config.to_dict()
    words = AutoTokenizer.from_pretrained(folder, gguf_file="small.gguf")
    assert loaded.tokenizer.get_vocab() == words.get_vocab()
    assert loaded.tokenizer.encode("abba") == words.encode("abba")


def test_a_file_is_parsed_for_configuration_tokenizer_and_weights_once_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bool] = []
    parse = modeling_gguf_pytorch_utils.load_gguf_checkpoint

    def counted(path: str, return_tensors: bool = False, **rest: object) -> object:
        parsed.append(return_tensors)
        return parse(path, return_tensors, **rest)

    monkeypatch.setattr(modeling_gguf_pytorch_utils, "load_gguf_checkpoint", counted)
    load(ReasonerConfig(path=str(folder), gguf_file="small.gguf", dtype="float32", device="cpu"))
    assert parsed == [False, False, True]
