"""Logits that are no numbers stop the run with the row's name; they never become a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from safethink.config import (
    ConstantMonitorConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    LimitsConfig,
    NoneConfig,
    ReasonerConfig,
    RowConfig,
    RunConfig,
    ThoughtConfig,
)
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest, LookRequest, WeighRequest
from safethink.engines.build import end_ids
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling, can_choose, no_choice
from safethink.engines.stopping import Stopper
from safethink.errors import LogitsError
from safethink.evaluation import folder, records, runner
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from tests.support import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER)
POISON = "✓"
"""What the damaged weights cannot be shown."""
BAD, GOOD = 7, 8
GREEDY, SAMPLED = Sampling(temperature=0.0), Sampling(temperature=0.9, top_p=0.9, top_k=40)
NUCLEUS = Sampling(temperature=0.7, top_p=0.9)


@pytest.fixture(scope="module")
def damaged() -> Qwen3ForCausalLM:
    """A reasoner whose embedding of `POISON` is NaN, and whose others are whole."""
    model = chat_reasoner.model()
    embedding: Any = model.get_input_embeddings()
    embedding.weight.data[list(chat_reasoner.encode(POISON))] = torch.nan
    return model


def engine(model: Qwen3ForCausalLM, sampling: Sampling = GREEDY) -> HfEngine:
    return HfEngine(model, Stopper(THOUGHT, end_ids(model, TOKENIZER)), sampling)


def request(row: int, text: str) -> ExtendRequest:
    ids = open_prompt(THOUGHT, Prompt.from_text(text))
    return ExtendRequest(row, ids, len(ids), Until.ANSWER, 12, seed=row)


@pytest.mark.parametrize(
    ("logits", "found"),
    [([0.0, torch.nan], "NaN"), ([torch.inf, torch.nan], "NaN"), ([torch.inf, 0.0], "inf"), ([-torch.inf] * 2, "-inf")],
)
def test_the_message_says_which_number_and_which_precision(logits: list[float], found: str) -> None:
    error = no_choice(BAD, 12, torch.tensor(logits, dtype=torch.float16))
    assert f"logits are {found}" in str(error)
    assert "after 12 tokens, in float16" in str(error)
    assert error.row == BAD


def test_a_token_can_be_chosen_only_from_numbers() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[0.0, -inf, 2.0], [0.0, nan, 2.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [nan, inf, -inf]])
    assert can_choose(logits).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, NUCLEUS, Sampling()])
def test_a_row_without_logits_is_named_and_its_neighbour_goes_on_as_if_alone(
    damaged: Qwen3ForCausalLM, sampling: Sampling
) -> None:
    bad, good = request(BAD, f"add 3 {POISON}"), request(GOOD, "add 3 and 4")
    alone = engine(damaged, sampling).extend([good])
    both = engine(damaged, sampling)
    with pytest.raises(
        LogitsError, match=rf"are NaN after {len(bad.ids)} tokens, in float64: .*try another `dtype`"
    ) as caught:
        both.extend([good, bad])
    assert caught.value.row == BAD
    assert both.collect([GOOD]) == {GOOD: alone[0]}
    both.release(GOOD)
    assert both.extend([request(9, "add 3 and 4")])[0].tokens


def test_a_row_that_overflows_in_the_middle_is_named(damaged: Qwen3ForCausalLM) -> None:
    """Its prompt is sound: what is forced on it, or sampled, is what breaks it."""
    fine = request(BAD, "add 3 and 4")
    both = engine(damaged)
    both.extend([fine])
    ids = fine.ids + chat_reasoner.encode(POISON)
    with pytest.raises(LogitsError, match=f"after {len(ids)} tokens"):
        both.extend([ExtendRequest(BAD, ids, len(ids), Until.STEP, 4, seed=0)])


def test_tokens_that_are_never_chosen_hide_no_damage(damaged: Qwen3ForCausalLM) -> None:
    configured, damaged.generation_config.suppress_tokens = damaged.generation_config.suppress_tokens, [1, 2]
    try:
        with pytest.raises(LogitsError, match="NaN"):
            engine(damaged).extend([request(BAD, f"add {POISON}")])
    finally:
        damaged.generation_config.suppress_tokens = configured


def test_nobody_looks_at_or_weighs_what_is_no_number(damaged: Qwen3ForCausalLM) -> None:
    bad = request(BAD, f"add 3 {POISON}")
    with pytest.raises(LogitsError) as looked:
        engine(damaged).look([LookRequest(BAD, bad.ids, top_k=3)])
    with pytest.raises(LogitsError) as weighed:
        engine(damaged).weigh([WeighRequest(BAD, bad.ids, chat_reasoner.encode("wait"))])
    assert looked.value.row == weighed.value.row == BAD


def test_a_guarded_run_names_prompt_and_sample(damaged: Qwen3ForCausalLM) -> None:
    guarded = SafeThink(damaged, TOKENIZER, prefix=None, defense=NoneConfig())
    prompts = [Prompt.from_text("add 3 and 4", id="fine"), Prompt.from_text(f"add {POISON}", id="broken")]
    with pytest.raises(LogitsError, match=r"^prompt 'broken', sample 0: the reasoner's next-token logits are NaN"):
        guarded.run(prompts)
    assert guarded.run(prompts[:1])[0].verdict.trace, "the next run is none the worse"


def test_what_was_recorded_before_a_damaged_row_stays(damaged: Qwen3ForCausalLM, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(f'{{"id": "fine", "prompt": "add 3"}}\n{{"id": "broken", "prompt": "add {POISON}"}}\n')
    run = RunConfig(
        reasoner=ReasonerConfig(path="tiny"),
        monitor=ConstantMonitorConfig(),
        limits=LimitsConfig(max_step_tokens=4, max_trace_tokens=8, max_answer_tokens=4),
        batch_size=1,
    )
    config = EvalConfig(
        run=run,
        prefix="text:wait",
        benchmarks=(JsonlBenchmarkConfig(path=str(prompts), prompts="harmless"),),
        rows=(RowConfig(name="undefended", defense=NoneConfig()),),
        forced_samples=0,
        depth_curve=(),
        judge="refusal",
    )
    guarded = SafeThink(damaged, TOKENIZER, monitor=lambda prompt, trace: 0.0, prefix="text:wait", limits=run.limits)
    with pytest.raises(LogitsError, match="prompt 'broken', sample 0"):
        runner.evaluate(config, tmp_path / "run", guarded)
    kept = list(records.read(tmp_path / "run" / folder.RECORDS))
    assert kept
    assert {record.prompt for record in kept} == {"fine"}
