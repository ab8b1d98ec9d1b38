# pyright: standard
"""Input rows: what a model's layers read at one position, as one row of numbers.

    most models                  embedding of the token
    with per-layer inputs        embedding of the token | its input to layer 1 | ... | its input to layer L

Gemma 3n and Gemma 4 E2B and E4B look each token up twice: in the table of embeddings, and in one that has an input for
every layer. A row that is to stand in the place of a token there has both parts, each as its own table puts it out,
scaling included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

PROBED_TOKENS = 6
"""Tokens that are read in several ways, to see whether a model reads rows."""
NUDGE = 2**-6
"""Share by which rows are moved away from tokens, each part by its own size; bfloat16 still tells them apart."""
SAME, NEAR = 1e-4, 1.0
"""Standard deviations of the logits within which two ways of reading come to the same, and near each other."""
LOOKS_UP = "get_per_layer_inputs"
"""Method by which transformers' classes look per-layer inputs up."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The parts of a row, and how the model is given them.

    Attributes:
        hidden: numbers of the embedding.
        num_layers: layers that read an input of their own beside it; 0 where none does.
        per_layer: numbers of each of these inputs.
        refusal: reason why the model reads no rows that are no token's; empty where it does.
    """

    hidden: int
    num_layers: int = 0
    per_layer: int = 0
    refusal: str = ""

    @classmethod
    def of(cls, model: PreTrainedModel) -> RowLayout:
        """The layout of what a model reads; found by trying, once for each model."""
        if model not in _found:
            _found[model] = _find(model)
        return _found[model]

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a row, each of which has a scale of its own."""
        return (self.hidden, self.num_layers * self.per_layer) if self.num_layers else (self.hidden,)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(self.parts)

    def look_up(self, model: PreTrainedModel, ids: Int[Tensor, "*ids"]) -> Float[Tensor, "*ids width"]:
        """Rows of token ids."""
        # Through the modules, not their weights: some models scale what they look up.
        embeddings: Tensor = model.get_input_embeddings()(ids)
        if not self.num_layers:
            return embeddings
        looked_up: Tensor = getattr(_per_layer_module(model), LOOKS_UP)(ids)
        return torch.cat([embeddings, looked_up.flatten(-2).to(embeddings)], dim=-1)

    def inputs(self, rows: Float[Tensor, "batch tokens width"]) -> dict[str, Tensor]:
        """Rows under the names that the model's forward knows their parts by."""
        if not self.num_layers:
            return {"inputs_embeds": rows}
        embeddings, per_layer = rows.split(self.parts, dim=-1)
        shaped = per_layer.unflatten(-1, (self.num_layers, self.per_layer))
        return {"inputs_embeds": embeddings, "per_layer_inputs": shaped}


_found: WeakKeyDictionary[PreTrainedModel, RowLayout] = WeakKeyDictionary()
"""Cache of the layout of each model, so that nobody need try again."""


def _per_layer_module(model: PreTrainedModel) -> Module | None:
    """The part of a model that looks per-layer inputs up; None where there is none."""
    return next((module for module in model.modules() if hasattr(module, LOOKS_UP)), None)


@torch.no_grad()
def _find(model: PreTrainedModel) -> RowLayout:
    """The first layout that passes, that with per-layer inputs first; or the plain one, and why it does not.

    A few tokens are read as ids, as their own rows, which must come to the same, and as rows that are near those and
    no token's, which must come near it. Without per-layer inputs, layers that look tokens up for themselves leave that
    part out (Gemma 3n), or search their table for a token that has such an embedding (Gemma 4).
    """
    training, weight = model.training, next(model.get_input_embeddings().parameters())
    # Spread over the vocabulary, whose first ones are often control tokens.
    ids = (torch.arange(1, PROBED_TOKENS + 1, device=weight.device) * len(weight) // (PROBED_TOKENS + 1))[None]
    model.eval()
    try:
        plain = RowLayout(model.get_input_embeddings()(ids).shape[-1])
        refusal = ""
        for layout in (*_with_per_layer_inputs(model, plain, ids), plain):
            refusal = _refusal(model, layout, ids)
            if not refusal:
                return layout
        return replace(plain, refusal=refusal)
    finally:
        model.train(training)


def _with_per_layer_inputs(
    model: PreTrainedModel, plain: RowLayout, ids: Int[Tensor, "1 tokens"]
) -> Iterator[RowLayout]:
    """The layout that holds them too, if the model looks any up."""
    module = _per_layer_module(model)
    if module is None:
        return
    try:
        *_, num_layers, per_layer = getattr(module, LOOKS_UP)(ids).shape
    # Classes have the method where a configuration has no such table, and then raise what they like.
    except Exception:
        return
    yield replace(plain, num_layers=num_layers, per_layer=per_layer)


def _refusal(model: PreTrainedModel, layout: RowLayout, ids: Int[Tensor, "1 tokens"]) -> str:
    """The reason why a model cannot read rows of a layout in the place of tokens; empty where it can."""
    try:
        rows = layout.look_up(model, ids)
        by_ids, by_rows, nearby = (
            model(**read, use_cache=False).logits.double()
            for read in ({"input_ids": ids}, layout.inputs(rows), layout.inputs(rows * (1 + NUDGE)))
        )
    # Whatever a model raises at rows is its own; that it does is the answer.
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"it fails at rows that are no token's ({type(error).__name__})"
    spread = by_ids.std().item()
    if not torch.allclose(by_rows, by_ids, rtol=0.0, atol=SAME * spread):
        return "its layers look tokens up for themselves, and read the embeddings of tokens otherwise than the tokens"
    if not torch.allclose(nearby, by_ids, rtol=0.0, atol=NEAR * spread):
        return "its layers look tokens up for themselves, and read rows near those of tokens in another way"
    return ""
