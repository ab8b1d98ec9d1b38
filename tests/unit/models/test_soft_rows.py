"""A table of soft rows takes none where the reasoner could not read them."""

from __future__ import annotations

import pytest
import torch

from safethink.errors import ArtifactError
from safethink.models.soft_rows import RowTable
from tests.support import architectures


def test_a_reasoner_whose_layers_look_tokens_up_takes_no_soft_rows():
    with pytest.raises(ArtifactError, match="soft rows cannot be read by this reasoner: its layers look tokens up"):
        RowTable(architectures.gemma4()).add(torch.zeros(2, 32))
    assert len(RowTable(architectures.gemma3()).add(torch.zeros(2, 32))) == 2
