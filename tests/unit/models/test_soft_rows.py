"""A table of soft rows takes none where the reasoner could not read them, which is found out by trying."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from safethink.errors import ArtifactError
from safethink.models.soft_rows import RowTable, refusal_of_rows
from tests.support import architectures, tiny_reasoner, tiny_sentencepiece

ELSEWHERE = [(architectures.gemma4, "RuntimeError"), (architectures.gemma3n, "look tokens up for themselves")]


@pytest.mark.parametrize(("make", "why"), ELSEWHERE, ids=["raises", "silent"])
def test_a_reasoner_whose_layers_look_tokens_up_takes_no_soft_rows(make, why: str) -> None:
    model = make()
    named = rf"soft rows cannot be read by this reasoner .{type(model).__name__}.: .*{why}"
    with pytest.raises(ArtifactError, match=named):
        RowTable(model).add(torch.zeros(2, 32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        architectures.gemma3,
        architectures.glm4_moe,
        architectures.smollm3,
        tiny_reasoner.model,
        lambda: tiny_sentencepiece.model("first"),
    ],
    ids=["scaled embeddings", "experts", "no positions", "tied head", "own head"],
)
def test_every_other_reasoner_reads_rows_as_the_tokens_that_they_are_the_embeddings_of(make, dtype) -> None:
    model: PreTrainedModel = make().to(dtype)
    assert not refusal_of_rows(model)
    table, ids = RowTable(model), [5, 9, 7]
    soft = torch.tensor([table.add(table.rows(ids))])
    with torch.inference_mode():
        assert torch.equal(model(**table.inputs(soft)).logits, model(torch.tensor([ids])).logits)


class Aside(nn.Module):
    """A layer that remembers which tokens were embedded, as any class may that nobody has listed."""

    def __init__(self, model: PreTrainedModel, strength: float) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        assert head is not None
        self.head, self.strength = head, strength
        self.seen: torch.Tensor | None = None
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, model: nn.Module, args: tuple[object, ...], read: dict[str, torch.Tensor]) -> None:
        self.seen = read.get("input_ids")

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden)
        return logits if self.seen is None else logits + self.strength * logits.std() * self.seen[..., None].cos()


def test_it_is_found_out_by_what_a_model_does_and_not_by_its_name() -> None:
    for strength, refused in ((1.0, True), (0.1, True), (0.0, False)):
        model = tiny_reasoner.model()
        model.set_output_embeddings(Aside(model, strength))
        assert bool(refusal_of_rows(model)) is refused
