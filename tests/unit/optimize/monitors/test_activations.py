"""Hidden states that a probe is trained on: where each step ends and where its prompt does; what the latter tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimize.monitors import activations, responses
from optimize.monitors.activations import StepStates
from optimize.monitors.config import ProbeTrainingConfig, TrainMonitorConfig
from optimize.monitors.probe import prompt_alone
from optimize.monitors.steps import LabelledSplit
from safethink.config import LimitsConfig, NoneConfig
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from tests.support import chat_reasoner

TEXTS = ("First mix the two parts.\n\nThen heat it slowly.\n\n", "No.\n\n", "One.\n\nTwo.\n\nThree.\n\n")


@pytest.fixture(scope="module")
def reasoner() -> SafeThink:
    return SafeThink(chat_reasoner.model(), chat_reasoner.tokenizer(), prefix=None, defense=NoneConfig())


@pytest.fixture(scope="module")
def split(reasoner: SafeThink) -> LabelledSplit:
    """Every other response is unsafe."""
    found = [
        responses.Response(Prompt.from_text(f"ask {n}", id=f"p{n}").replace(kind="harmful"), text, unsafe=bool(n % 2))
        for n, text in enumerate(TEXTS * 4)
    ]
    return responses.added(LabelledSplit("test", (), 0.0), found, reasoner.thought, LimitsConfig())


@pytest.mark.slow
def test_states_are_those_of_a_plain_forward_at_both_ends(reasoner: SafeThink, split: LabelledSplit) -> None:
    layers = (1, 2)
    read = activations.read(split, reasoner.engine, layers, batch_size=5)
    assert len({step.depth for step in split.steps}) == 3
    for place, step in enumerate(split.steps):
        with torch.no_grad():
            hidden = reasoner.model(torch.tensor([step.ids]), output_hidden_states=True).hidden_states
        for layer in layers:
            torch.testing.assert_close(read[layer].ends[place], hidden[layer][0, -1].float(), atol=1e-5, rtol=1e-4)
            at_prompt = hidden[layer][0, step.trace_start - 1].float()
            torch.testing.assert_close(read[layer].prompts[place], at_prompt, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("telling", [True, False])
def test_a_head_on_prompts_tells_what_prompts_tell_and_no_more(
    split: LabelledSplit, telling: bool, tmp_path: Path
) -> None:
    """The ends of the traces give every label away; layer 1 is noise, so layer 2 is chosen."""
    config = TrainMonitorConfig.model_validate({"run": {"reasoner": {"path": "r"}}, "prompts": "p.jsonl"})
    training = ProbeTrainingConfig(layers=(1, 2), learning_rate=0.1, max_epochs=60)
    signs = torch.tensor(split.safe_probabilities)[:, None] * 2 - 1
    noise = torch.randn(len(split.steps), 3, generator=torch.Generator().manual_seed(0))
    prompts = torch.cat([signs * 3, noise], dim=1) if telling else torch.ones(len(split.steps), 4)
    states = {1: StepStates(noise, noise), 2: StepStates(signs.repeat(1, 4), prompts)}
    found = prompt_alone(
        config,
        training,
        dict.fromkeys(("search", "validation", "test"), split),
        dict.fromkeys(("search", "validation", "test"), states if telling else {1: states[2], 2: states[2]}),
        tmp_path,
    )
    assert set(found) == {"prompt_alone_f1", "prompt_alone_auc"}, "all prompts are harmful"
    assert found["prompt_alone_auc"].value == pytest.approx(1.0 if telling else 0.5)
    assert found["prompt_alone_auc"].n == len(split.steps)
    assert list(tmp_path.iterdir()) == []
