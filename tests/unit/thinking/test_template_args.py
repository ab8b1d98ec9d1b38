"""Arguments of a chat template: by its own names, and none that it does not read."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import trl
from hypothesis import given
from hypothesis import strategies as st

from optimize.publishing import snippets
from safethink.config import ReasonerConfig, RunConfig, ThoughtConfig, yaml_config
from safethink.errors import ConfigError, PromptError
from safethink.prompts import Message, Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt, refuse_contradiction
from safethink.thinking.template_args import TemplateArg, dated, names_read, rendering_args
from tests.support.published_families import byte_level

TEMPLATES = Path(trl.__file__).with_name("chat_templates")
SWITCHED = (
    # As DeepSeek-V3.1 calls it and closes it.
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{% for m in messages %}{{ '<｜User｜>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{{ '<think>' if thinking else '</think>' }}{% endif %}"
)
CONTROL = (("<think>", False), ("</think>", False), ("<eos>", True))


def thought_of(source: str, family: str = "auto", model_type: str | None = None, **args: TemplateArg) -> Thought:
    made = byte_level(source, CONTROL, "<eos>")
    return Thought.today(ThoughtConfig(family=family), made, model_type=model_type, template_args=args)


def opened(thought: Thought) -> str:
    return thought.decode(open_prompt(thought, Prompt.from_text("Add.")))


def of_trl(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def test_a_switch_is_turned_on_by_the_name_that_the_template_gives_it() -> None:
    thought = thought_of(SWITCHED, model_type="deepseek_v3")
    assert thought.family.name == "deepseek-v3.1"
    assert opened(thought) == "<｜User｜>Add.<｜Assistant｜><think>"
    assert opened(thought_of(SWITCHED, family="plain")) == "<｜User｜>Add.<｜Assistant｜></think>"


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("gptoss", {"reasoning_effort": "high"}, "Reasoning: high"),
        ("gptoss", {"strftime_now": "2001-02-03"}, "Current date: 2001-02-03"),
        ("muse_glimmer", {"reasoning_strength": "low"}, "Reasoning strength: low."),
        ("qwen3_8", {"reasoning_effort": "low"}, "Reasoning effort is set to low"),
    ],
)
def test_what_the_user_hands_to_a_real_template_is_read_by_it(
    name: str, args: dict[str, TemplateArg], said: str
) -> None:
    assert said in opened(thought_of(of_trl(name), **args))


def test_a_name_that_the_template_does_not_read_is_refused_with_those_that_it_reads() -> None:
    with pytest.raises(ConfigError, match=r"template_args: the chat template reads no 'reasoning_efort', did you mean"):
        opened(thought_of(of_trl("qwen3_8"), reasoning_efort="low"))
    with pytest.raises(ConfigError, match="reads no 'enable_thinking'; it reads none"):
        opened(thought_of("{% for m in messages %}{{ m.content }}<think></think>{% endfor %}", enable_thinking=True))
    with pytest.raises(ConfigError, match="reads no 'messages'"):
        rendering_args(of_trl("qwen3"), {"messages": "Add."}, thinks=True)


def test_a_switch_that_the_user_turns_off_is_refused_with_what_to_set() -> None:
    thought = thought_of(SWITCHED, model_type="deepseek_v3", thinking=False)
    with pytest.raises(ConfigError, match=r"closes the thinking before it begins \(</think>\).*thought.family: plain"):
        refuse_contradiction(thought)
    thought = thought_of(of_trl("qwen3"), model_type="qwen3", enable_thinking=False)
    with pytest.raises(ConfigError, match="closes the thinking before it begins"):
        refuse_contradiction(thought)


OBEYS = (
    # As Nemotron Nano v2 does, which takes a switch in the user's words and leaves it out.
    "{% set ns = namespace(on=true) %}{% for m in messages %}"
    "{% if '/no_think' in m.content %}{% set ns.on = false %}{% endif %}"
    "{{ '[' + m.role + ']' + m.content | replace('/no_think', '') | trim }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]<think>' + ('\\n' if ns.on else '</think>') }}{% endif %}"
)


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_prompt_that_turns_the_thinking_off_is_refused_by_its_own_name(role: str) -> None:
    thought = thought_of(OBEYS)
    refuse_contradiction(thought)
    said = (("system", "Be brief."), ("user", "Brew it."))
    messages = tuple(
        Message.model_validate({"role": each, "content": f"{text} /no_think" if each == role else text})
        for each, text in said
    )
    with pytest.raises(PromptError, match="prompt 'p' turns the thinking off"):
        open_prompt(thought, Prompt(id="p", messages=messages))
    assert opened(thought).endswith("[assistant]<think>\n")


def test_a_template_that_wants_other_turns_is_judged_by_them() -> None:
    source = "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}" + SWITCHED
    thought = thought_of(source, family="deepseek-v3.1")
    refuse_contradiction(thought)
    said = (Message(role="system", content="Be brief."), Message(role="user", content="Add."))
    assert thought.decode(open_prompt(thought, Prompt(id="p", messages=said))).endswith("<think>")


def test_a_run_goes_on_on_the_day_on_which_it_was_begun() -> None:
    begun = ReasonerConfig(path="x", template_args={"strftime_now": "2001-02-03"})
    again = ReasonerConfig(path="x", template_args={"reasoning_effort": "low"})
    assert again.on_the_day_of(begun).template_args == {"strftime_now": "2001-02-03", "reasoning_effort": "low"}
    another = ReasonerConfig(path="x", template_args={"strftime_now": "2001-02-04"})
    assert another.on_the_day_of(begun) == another
    assert again.on_the_day_of(ReasonerConfig(path="x")) == again


@pytest.mark.parametrize("written", ["2026-11-29", "'2026-11-29'", "2026-13-40"])
def test_a_date_in_yaml_is_a_text(written: str) -> None:
    assert yaml_config.read(f"day: {written}") == {"day": written.strip("'")}


def test_an_argument_of_another_kind_is_refused_once() -> None:
    with pytest.raises(ConfigError, match="template_args: tools takes a text, a number, true, false or null") as wrong:
        yaml_config.validate(ReasonerConfig, {"path": "x", "template_args": {"tools": [1]}}, "run.yaml")
    assert "mistakes" not in str(wrong.value)


def test_a_name_that_the_template_sets_itself_is_no_argument_unless_it_asks_for_one() -> None:
    source = (
        "{% for m in messages %}{% set own = m.content %}{{ own }}{% endfor %}"
        "{% if a is not defined %}{% set a = 1 %}{% endif %}{% set b = b | default(2) %}{{ a }}{{ b }}{{ c }}"
    )
    assert names_read(source) == {"a", "b", "c"}
    with pytest.raises(ConfigError, match="reads no 'tool_call'"):
        opened(thought_of(of_trl("gptoss"), tool_call="x"))


def test_a_day_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="strftime_now is 'tomorrow', and not a date such as 2026-11-29"):
        opened(thought_of(of_trl("gptoss"), strftime_now="tomorrow"))


@pytest.mark.parametrize("asked", ["%Y-%m-%d", "%d %b %Y", "%B %d, %Y", "%A", "day %j", "%-d %B", "%e %F"])
def test_a_day_reads_as_strftime_writes_it_and_changes_nothing_else(asked: str) -> None:
    source = "\n{% for m in messages %}{{ m.content }}{{ strftime_now('" + asked + "') }}{% endfor %}"
    source += "{{ '<think></think>' if false }}"
    today = opened(thought_of(source, strftime_now=date.today().isoformat()))
    made = byte_level(source, CONTROL, "<eos>")
    rendered = made.apply_chat_template([{"role": "user", "content": "Add."}], tokenize=False)
    assert today.removesuffix("<think>\n") == rendered
    assert date(2001, 2, 3).strftime(asked) in opened(thought_of(source, strftime_now="2001-02-03"))


def test_the_day_is_settled_where_the_template_writes_it_down_and_nowhere_else() -> None:
    assert dated(of_trl("gptoss"), {}, date(2001, 2, 3)) == {"strftime_now": "2001-02-03"}
    assert dated(of_trl("gptoss"), {"strftime_now": "1999-01-01"}, date(2001, 2, 3)) == {"strftime_now": "1999-01-01"}
    assert dated(of_trl("qwen3"), {}, date(2001, 2, 3)) == {}


def test_a_run_is_recorded_with_its_arguments_and_as_before_without() -> None:
    run = RunConfig(reasoner=ReasonerConfig(path="x", template_args={"reasoning_effort": "high"}))
    complete = thought_of(of_trl("gptoss"), strftime_now="2001-02-03", **run.reasoner.template_args).complete(run)
    assert complete.reasoner.template_args == {"reasoning_effort": "high", "strftime_now": "2001-02-03"}
    assert RunConfig.model_validate(complete.model_dump(mode="json")) == complete
    without = thought_of(of_trl("qwen3"), model_type="qwen3").complete(RunConfig(reasoner=ReasonerConfig(path="x")))
    assert "template_args" not in without.reasoner.model_dump()


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | st.booleans() | st.integers() | st.text(), max_size=3)
)
def test_a_template_reads_what_it_is_given(args: dict[str, TemplateArg]) -> None:
    source = "{{ a }}{% if b is defined %}{{ b }}{% endif %}{% set d = 1 %}{{ d }}{{ c }}{{ bos_token }}{{ range(2) }}"
    assert names_read(source) == {"a", "b", "c"}
    assert rendering_args(source, args, thinks=True) == args


def test_an_artifacts_card_turns_the_thinking_on_by_every_name_and_hands_on_what_its_run_was_handed() -> None:
    args = snippets._template_args({"reasoner": {"template_args": {"reasoning_effort": "low", "strftime_now": "x"}}})
    assert args == "enable_thinking=True, thinking=True, reasoning_effort='low'"


def test_a_broken_template_reads_nothing() -> None:
    assert names_read("{% if %}") == frozenset()
