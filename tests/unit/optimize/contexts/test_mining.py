# pyright: standard
"""Mined targets are steps of the same reasoner, family by family: what a guarded run would have accepted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.resources import files

import pytest

from optimize.config import ContextsConfig
from optimize.contexts.context import Context
from optimize.contexts.mining import mine
from safethink.config import LimitsConfig, SamplingConfig, ThoughtConfig
from safethink.defenses.effects import Defense, Task, Until, Verdict
from safethink.defenses.moves import extend
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens
from tests.support.published_families import NAMED, PUBLISHED, steer

PROMPT = Prompt.from_text("Add 3 and 4.", id="p")
TAGGED = "First mix.\n\n<think>So stop.\n\nHmm.</think>\n\nIt is 7."
WRITTEN = {
    "gpt-oss": "Hmm. Let me see.\n\n<|end|><|start|>assistant<|channel|>analysis<|message|>So stop."
    "<|end|><|start|>assistant<|channel|>commentary<|message|>Hmm."
    "<|end|><|start|>assistant<|channel|>final<|message|>It is 7.<|return|>",
    "begin-of-thought": "Hmm.\n\nSo stop.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nIt is 7.<|im_end|>",
    "llava-cot": " So.</SUMMARY>\n\n<REASONING> Hmm. </REASONING>\n\n<CONCLUSION> It is 7. </CONCLUSION><|eot_id|>",
}

SHIPPED_BY_TRL = {
    "qwen3": "qwen3",
    "gpt-oss": "gptoss",
    "deepseek-r1-distill-qwen": "deepseek_r1_distill",
    "llava-cot": "llama3",
    "llamav-o1": "llama3_2",
}
"""Chat templates as they were published, by family: those of our own are minimal."""


@dataclass
class Stepwise:
    """A defense that takes every step as it comes and remembers where each began."""

    steps: list[tuple[Tokens, Tokens]] = field(default_factory=list)

    def __call__(self, task: Task) -> Defense:
        trace, stop = task.start, "step"
        while stop == "step":
            step = yield from extend(trace, Until.STEP)
            self.steps.append((trace, step.tokens))
            trace, stop = trace + step.tokens, step.stop
        return Verdict(trace, Tokens(), closed=stop == "thought")


def guarded_family(name: str, max_step_tokens: int, template: str = "") -> SafeThink:
    """A random model of the family's class that writes two steps or more, closes and answers."""
    published = replace(PUBLISHED[name], template=template or PUBLISHED[name].template)
    model = published.model()
    guarded = SafeThink(
        model,
        published.tokenizer(),
        monitor=lambda _prompt, _trace: 1.0,
        thought=ThoughtConfig(family=published.family if name in NAMED else "auto"),
        sampling=SamplingConfig(temperature=0),
        limits=LimitsConfig(max_step_tokens=max_step_tokens, max_trace_tokens=200),
    )
    steer(model, dict(enumerate(script(name, guarded), len(open_prompt(guarded.thought, PROMPT)))))
    return guarded


def script(name: str, guarded: SafeThink) -> list[int]:
    thought = guarded.thought
    text, template = thought.encoder.text, thought.encoder.template
    if thought.turns:
        end = template("<|eot_id|>")
        turns = [ids for turn in thought.turns for ids in (*text("Hmm.\n\nSo stop."), *end, *turn[1:])]
        return [*turns, *text("It is 7."), *end]
    return [*template(WRITTEN.get(name, TAGGED) + ("" if name in WRITTEN else PUBLISHED[name].eos))]


@pytest.mark.slow
@pytest.mark.parametrize("max_step_tokens", [4, 200])
@pytest.mark.parametrize("name", PUBLISHED)
def test_mined_targets_are_the_steps_of_a_guarded_run(name: str, max_step_tokens: int) -> None:
    assert_mined_are_run(guarded_family(name, max_step_tokens))


@pytest.mark.slow
@pytest.mark.parametrize("max_step_tokens", [4, 200])
@pytest.mark.parametrize("name", SHIPPED_BY_TRL)
def test_they_are_on_the_chat_templates_that_were_published(name: str, max_step_tokens: int) -> None:
    template = files("trl").joinpath("chat_templates", f"{SHIPPED_BY_TRL[name]}.jinja").read_text(encoding="utf-8")
    assert_mined_are_run(guarded_family(name, max_step_tokens, template))


def assert_mined_are_run(guarded: SafeThink) -> None:
    """Run the reasoner step by step, and mine at each step."""
    defense = Stepwise()
    guarded.variant(defense=defense)(PROMPT)
    assert len(defense.steps) > 1
    prompt_ids = open_prompt(guarded.thought, PROMPT)
    states = [
        Context(prompt=PROMPT, prompt_ids=prompt_ids, trace_ids=trace.ids, step_ids=(), depth=depth)
        for depth, (trace, _) in enumerate(defense.steps)
    ]
    mined = mine(guarded, states, ContextsConfig(best_of=1, target_tokens=1000), threshold=0.0)
    # What the template puts behind a turn is injected, and no target.
    assert [state.target_ids for state in mined] == [step.own() for _, step in defense.steps]
    for state in mined:
        assert not guarded.thought.is_between_messages(state.trace_ids + state.target_ids)


@pytest.mark.slow
@pytest.mark.parametrize("target_tokens", range(1, 16))
def test_a_target_that_is_cut_short_ends_in_no_header(target_tokens: int) -> None:
    guarded = guarded_family("gpt-oss", 200)
    state = Context(prompt=PROMPT, prompt_ids=open_prompt(guarded.thought, PROMPT), trace_ids=(), step_ids=(), depth=0)
    first = mine(guarded, [state], ContextsConfig(best_of=1, target_tokens=1000), threshold=0.0)[0].target_ids
    later = state.replace(trace_ids=first)
    (mined,) = mine(guarded, [later], ContextsConfig(best_of=1, target_tokens=target_tokens), threshold=0.0)
    assert not guarded.thought.is_between_messages(later.trace_ids + mined.target_ids)
