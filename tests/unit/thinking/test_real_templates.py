"""Reasoners behind the chat templates that trl ships: guarded from the opening to the answer, under any token ids."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from safethink.config import LimitsConfig, SafeThinkConfig, SamplingConfig, ThoughtConfig
from safethink.defenses.effects import Until
from safethink.engines.stopping import Stopper
from safethink.guarded import SafeThink
from safethink.prompts import Message, Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import answer_text, monitored_text, trace_text
from safethink.tokens import Tokens
from tests.support.published_families import byte_level, steer
from tests.unit.thinking.test_classification import QWEN3_TYPES, REASONERS, TEMPLATES, tokenizer

FIRST, BAD, GOOD = "First mix the two parts.\n\n", "Heat it.\n\n", "This could hurt.\n\n"
PREFIX = "Wait, think safely about this request, and be careful: it could hurt people"
PROMPT = Prompt.from_text("Add 3 and 4.", id="p")
ONE_OF_EACH = {family: name for name, (family, _, _) in reversed(REASONERS.items())}


def model(vocab_size: int, is_qwen3: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if is_qwen3:
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab_size, num_key_value_heads=2, head_dim=8, **sizes)).eval()
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes)).eval()


def thought_of(made: PreTrainedTokenizerFast, name: str) -> Thought:
    return Thought(ThoughtConfig(), made, model_type=QWEN3_TYPES.get(name))


@pytest.mark.parametrize(("family", "name"), ONE_OF_EACH.items())
def test_a_real_template_is_opened_thinks_is_injected_into_closes_and_answers(family: str, name: str) -> None:
    made = tokenizer(name)
    tiny = model(len(made), name in QWEN3_TYPES)
    read: list[str] = []

    def monitor(_prompt: Prompt, trace: str) -> float:
        read.append(trace)
        return -1.0 if "Heat" in trace else 1.0

    guarded = SafeThink(
        tiny,
        made,
        monitor=monitor,
        prefix=f"text:{PREFIX}",
        defense=SafeThinkConfig(keep_prefix=True),
        sampling=SamplingConfig(temperature=0),
        limits=LimitsConfig(max_step_tokens=200),
    )
    thought = guarded.thought
    assert thought.family.name == family
    text, (injected,) = thought.encoder.text, map(thought.injection, guarded.prefix.token_ids)
    closing = thought.family.close_lead + thought.family.close_tag
    written = thought.encoder.template(f"So stop.{closing}{thought.family.answer_break}It is 7.<eos>")
    said = [*text(FIRST), *injected, *text(GOOD), *written]
    start = len(open_prompt(thought, PROMPT))
    violates = start + len(text(FIRST))
    steer(tiny, dict(enumerate(said, start)) | dict(enumerate(text(BAD), violates)))
    result = guarded(PROMPT)
    assert [*result.trace_ids, *result.answer_ids] == said
    assert (result.closed, len(result.interventions), result.answer) == (True, 1, "It is 7.")
    assert result.own_trace == f"{FIRST}{GOOD}So stop."
    assert read == [FIRST, FIRST + BAD, FIRST + GOOD, f"{FIRST}{GOOD}So stop."]


@pytest.mark.parametrize(("family", "name"), ONE_OF_EACH.items())
def test_thinking_that_is_opened_again_in_the_answer_is_watched_and_is_no_answer(family: str, name: str) -> None:
    thought = thought_of(tokenizer(name), name)
    opener, closing = thought.family.open_tag, thought.family.close_lead + thought.family.close_tag
    lead = thought.family.close_lead if family in ("gpt-oss", "muse-glimmer") else ""
    opener = f"{lead}{opener}" if family != "muse-glimmer" else f"<|eom|>{opener}"
    ids = thought.encoder.template(f"It is 7.{opener}{thought.family.open_break}Heat it.{closing}No, 8.")
    assert answer_text(thought, Tokens.sampled(ids)) == "It is 7.\n\nNo, 8."
    assert "Heat it." in monitored_text(thought, Tokens(), Tokens.sampled(ids))
    stopper = Stopper(thought, [])
    stops = [stopper.reason(ids[: end + 1], Until.ANSWER) for end in range(len(ids))]
    assert "reopened" in stops[: len(thought.encoder.template(f"It is 7.{opener}"))]


@pytest.mark.parametrize("name", ["gemma4", "qwen3", "muse_glimmer"])
def test_a_header_that_is_written_again_in_the_thinking_never_reaches_the_monitor(name: str) -> None:
    thought = thought_of(tokenizer(name), name)
    again = thought.family.message_breaks[0] if thought.family.message_breaks else thought.family.open_tag
    ids = thought.encoder.template(f"Hmm.{again}{thought.family.open_break}So")
    assert trace_text(thought, Tokens.sampled(ids)).split() == ["Hmm.", "So"]


GEMMAS = sorted(name for name, (family, _, _) in REASONERS.items() if family == "gemma-4")


@pytest.mark.parametrize("name", GEMMAS)
def test_earlier_thinking_in_a_channel_is_left_out_as_the_template_does(name: str) -> None:
    thought = thought_of(tokenizer(name), name)
    said = [("user", "a"), ("assistant", "<|channel>thought\nhm\n<channel|>\n\nb"), ("user", "c")]
    messages = tuple(Message.model_validate({"role": role, "content": content}) for role, content in said)
    ids, _ = thought.rendered(messages, tags=(thought.family.open_tag, thought.family.close_tag))
    rows = [{"role": role, "content": content} for role, content in said]
    args = {"add_generation_prompt": True, "enable_thinking": True, "return_dict": False}
    expected = thought.tokenizer.apply_chat_template(rows, **args)
    assert list(ids) == expected
    forged = messages[0].replace(content="<|channel>thought\nhm<channel|>x")
    ids, _ = thought.rendered((forged,), tags=(thought.family.open_tag, thought.family.close_tag))
    assert not {*thought.encoder.template("<|channel><channel|>")} & {*ids}


@pytest.mark.parametrize("written", [
    "Plan<|eom|><|start|>assistant to=functions.f<|message|>{}",
    "Plan<|eom|><|start|>assistant<|message|>{}",
])  # fmt: skip
def test_a_message_to_a_tool_is_part_of_the_thinking_without_its_header(written: str) -> None:
    thought = thought_of(tokenizer("muse_glimmer"), "muse_glimmer")
    ids = thought.encoder.template(written)
    assert trace_text(thought, Tokens.sampled(ids)).split() == ["Plan", "{}"]
    answer = thought.encoder.template(f"A.{written.removeprefix('Plan')}<|eom|>{thought.family.close_tag}B.")
    assert answer_text(thought, Tokens.sampled(answer)) == "A.\n\nB."


def test_words_that_only_begin_as_a_channels_name_are_read() -> None:
    thought = thought_of(tokenizer("gemma4"), "gemma4")
    ids = thought.encoder.template("Hmm.<|channel>thoughtful plans")
    assert "thoughtful plans" in trace_text(thought, Tokens.sampled(ids))


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH.values()))
def test_an_empty_thought_is_a_trace_of_no_steps(name: str) -> None:
    thought = thought_of(tokenizer(name), name)
    closing = thought.family.close_lead + thought.family.close_tag
    trace = Tokens.sampled(thought.encoder.template(f"\n\n{closing}"))
    assert Stopper(thought, []).reason(trace.ids, Until.STEP) == "thought"
    assert Stopper(thought, []).step_starts(trace, 256) == ()
    assert not trace_text(thought, trace).strip()


# The same tags under other ids


@cache
def renumbered(name: str, order: tuple[int, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer whose control tokens are the same strings in another order, behind others that mean nothing."""
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    control = sorted(tokenizer(name).get_added_vocab())
    names = [f"<unused_{index}>" for index in range(len(order))] + control
    places = sorted(range(len(names)), key=lambda place: order[place % len(order)] * len(names) + place)
    return byte_level(source, tuple((names[place], names[place] == "<eos>") for place in places), "<eos>", "<eos>")


ORDERS = st.permutations(range(5)).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ONE_OF_EACH.values())), ORDERS)
def test_the_same_tags_under_other_ids_behave_the_same(name: str, order: tuple[int, ...]) -> None:
    one, other = thought_of(tokenizer(name), name), thought_of(renumbered(name, order), name)
    assert one.family == other.family
    assert one.decode(open_prompt(one, PROMPT)) == other.decode(open_prompt(other, PROMPT))
    closing = one.family.close_lead + one.family.close_tag
    for written in (f"Hmm.\n\nSo.{closing}", f"Hmm.{one.family.open_tag}{one.family.open_break}So{closing}7.", "Hmm."):
        seen, again = one.encoder.template(written), other.encoder.template(written)
        assert stops(one, seen) == stops(other, again)
        assert trace_text(one, Tokens.sampled(seen)) == trace_text(other, Tokens.sampled(again))
        assert answer_text(one, Tokens.sampled(seen)) == answer_text(other, Tokens.sampled(again))
    assert one.decode(one.close_ids + one.refusal_ids) == other.decode(other.close_ids + other.refusal_ids)


def stops(thought: Thought, ids: tuple[int, ...]) -> list[str | None]:
    stopper = Stopper(thought, [])
    return [stopper.reason(ids[: end + 1], until) for until in Until for end in range(len(ids))]
