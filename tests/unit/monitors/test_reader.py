"""Conversations that grow are read once, whatever the guard keeps of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from safethink.monitors.reader import Conversation, ConversationReader
from tests.support.architectures import VOCABULARY, qwen3
from tests.support.hybrid_architectures import granite_hybrid, qwen3_5
from tests.support.in_double import InDouble

CLOSING = (250, 251, 252, 253, 254)
"""What a guard's template puts behind the trace."""
ROWS, ROUNDS, GROWTH = 3, 4, 7


def growing(row: int, turn: int) -> tuple[int, ...]:
    return tuple((37 * row + 11 * place) % (VOCABULARY - 60) + 3 for place in range(20 + 5 * row + GROWTH * turn))


@pytest.mark.parametrize("make_model", [qwen3, qwen3_5, granite_hybrid])
def test_every_token_is_read_about_once(make_model: Callable[[], PreTrainedModel]) -> None:
    with InDouble(), torch.inference_mode():
        model = make_model()
        reader = ConversationReader(model, batch_size=8)
        for turn in range(ROUNDS):
            traces = [growing(row, turn) for row in range(ROWS)]
            readings = [Conversation(row, ids + CLOSING, len(ids)) for row, ids in enumerate(traces)]
            before = reader.num_forwarded
            for indices, read in reader.read(readings):
                for place, index in enumerate(indices):
                    expected = model(torch.tensor([readings[index].ids])).logits[0, -1]
                    torch.testing.assert_close(read.logits[place, -1], expected, atol=1e-9, rtol=1e-9)
            # What was added to each trace, and what is put behind it.
            if turn:
                assert reader.num_forwarded - before == ROWS * (GROWTH + len(CLOSING))
