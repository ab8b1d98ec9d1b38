"""A table of soft rows gives each part of a row to whom it belongs, and takes none that a reasoner could not read."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers import PreTrainedModel

from safethink.errors import ArtifactError
from safethink.models.input_rows import RowLayout
from safethink.models.soft_rows import RowTable
from tests.support import architectures, tiny_reasoner, tiny_sentencepiece

IDS = [5, 9, 7, 60, 211]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        architectures.gemma3,
        architectures.gemma3n,
        architectures.gemma4,
        architectures.glm4_moe,
        architectures.smollm3,
        tiny_reasoner.model,
        lambda: tiny_sentencepiece.model("first"),
    ],
    ids=["scaled", "per layer, silent", "per layer, raises", "experts", "no positions", "tied head", "own head"],
)
def test_a_reasoner_reads_rows_as_the_tokens_that_they_are_the_rows_of(make, dtype) -> None:
    model: PreTrainedModel = make().to(dtype)
    table = RowTable(model)
    soft = torch.tensor([table.add(table.rows(IDS))])
    mixed = torch.cat([torch.tensor([IDS[:2]]), soft[:, 2:]], dim=1)
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits
        assert torch.equal(model(**table.inputs(soft)).logits, expected)
        assert torch.equal(model(**table.inputs(mixed)).logits, expected)


@pytest.mark.parametrize("make", architectures.PER_LAYER)
def test_both_parts_of_a_row_count(make) -> None:
    model = make()
    table = RowTable(model)
    assert table.row_parts() == (32, 4 * 8)
    rows = table.rows(IDS)
    assert torch.equal(rows[:, :32], model.get_input_embeddings()(torch.tensor(IDS)))
    assert torch.equal(rows[:, 32:], model.get_per_layer_input_embeddings()(torch.tensor(IDS)))
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits
        for part in (slice(32), slice(32, None)):
            moved = rows.clone()
            moved[0, part] *= 1.1
            read = model(**table.inputs(torch.tensor([table.add(moved)]))).logits
            assert (read - expected).abs().max() > 1e-3 * expected.std()


@pytest.mark.parametrize("make", architectures.PER_LAYER)
def test_rows_of_embeddings_alone_are_refused_where_layers_read_more(make) -> None:
    with pytest.raises(ArtifactError, match="have 32 numbers, this reasoner's embeddings and per-layer inputs 64"):
        RowTable(make()).add(torch.zeros(2, 32))


def test_it_is_found_out_by_what_a_model_does_and_not_by_its_name() -> None:
    for strength, refused in ((1.0, True), (0.1, True), (0.0, False)):
        model = architectures.looks_ids_up(strength)
        assert bool(RowLayout.of(model).refusal) is refused
    named = "soft rows cannot be read by this reasoner .LlamaForCausalLM.: its layers look tokens up for themselves"
    with pytest.raises(ArtifactError, match=named):
        RowTable(architectures.looks_ids_up()).add(torch.zeros(2, 32))


@pytest.mark.parametrize("make", architectures.PER_LAYER)
def test_a_class_that_does_not_pass_per_layer_inputs_on_is_refused(make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    forward = model.forward

    def without(*args: object, per_layer_inputs: object = None, **read: object) -> object:
        return forward(*args, **read)

    monkeypatch.setattr(model, "forward", without)
    assert RowLayout.of(model).refusal
    assert RowLayout.of(model).parts == (32,)


def test_trying_leaves_a_model_in_its_mode_and_holds_on_to_none() -> None:
    model = architectures.gemma4().train()
    assert RowLayout.of(model) is RowLayout.of(model)
    assert model.training
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
