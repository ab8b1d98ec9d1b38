from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.config import ThoughtConfig
from safethink.defenses.effects import Until
from safethink.defenses.none import undefended
from safethink.engines.stopping import Stopper
from safethink.errors import PromptError
from safethink.prompts import Message, Prompt
from safethink.refusals import REFUSAL
from safethink.runtime.row import open_row
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt, prefill_tokens
from safethink.thinking.reading import answer_text, full_trace_text, monitored_text, says_nothing, trace_text
from safethink.tokens import Tokens
from tests.support import chat_reasoner
from tests.support.chat_reasoner import encode

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER, context_tokens=120, reserve_tokens=20)
SPELLED = Thought(ThoughtConfig(open_tag="[[", close_tag="]]"), TOKENIZER)
CONTROL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CLOSE = chat_reasoner.token_id("</think>")
STOPPER = Stopper(THOUGHT, [TOKENIZER.eos_token_id])


def test_an_ordinary_prompt_is_opened_as_the_template_renders_it() -> None:
    messages = (
        Message(role="system", content="Be kind."),
        Message(role="user", content="Add 3 and 4, café ✓\n"),
        Message(role="assistant", content="7."),
        Message(role="user", content=" And then? "),
    )
    rendered = TOKENIZER.apply_chat_template(
        [message.model_dump() for message in messages], add_generation_prompt=True, return_dict=False
    )
    assert list(open_prompt(THOUGHT, Prompt(id="p", messages=messages))) == rendered


@pytest.mark.slow
@given(st.lists(st.sampled_from([*CONTROL, "a", " ", "<", "\n"]), min_size=1).map("".join).filter(str.strip))
def test_control_strings_in_a_prompt_stay_text(text: str) -> None:
    unlimited = Thought(ThoughtConfig(), TOKENIZER)
    opened = open_prompt(unlimited, Prompt.from_text(text))
    plain = open_prompt(unlimited, Prompt.from_text("a"))
    control = [chat_reasoner.token_id(name) for name in CONTROL]
    assert [i for i in opened if i in control] == [i for i in plain if i in control]
    assert chat_reasoner.decode(opened) == chat_reasoner.decode(plain).replace("user\na", f"user\n{text}")


def test_the_opener_is_appended_where_the_template_leaves_it_to_the_model() -> None:
    opened = open_prompt(SPELLED, Prompt.from_text("Add 3."))
    assert chat_reasoner.decode(opened).endswith("<think>\n[[\n")


def test_the_prefill_is_part_of_the_trace_and_cannot_close_it() -> None:
    prompt = Prompt(id="p", messages=(Message(role="user", content="hi"),), prefill="Sure.</think>\n\n")
    prefill = prefill_tokens(THOUGHT, prompt)
    assert CLOSE not in prefill.ids
    assert not any(prefill.forced)
    assert trace_text(THOUGHT, prefill) == prompt.prefill
    assert open_prompt(THOUGHT, prompt) == open_prompt(THOUGHT, Prompt.from_text("hi"))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_is_refused_by_name(text: str) -> None:
    with pytest.raises(PromptError, match="'q7' is empty"):
        open_prompt(THOUGHT, Prompt.from_text(text, id="q7"))


@pytest.mark.parametrize("place", ["content", "prefill"])
def test_half_of_a_character_is_refused_by_name_wherever_it_stands(place: str) -> None:
    texts = {"content": "hi", "prefill": ""} | {place: "a\ud800"}
    prompt = Prompt(id="q7", messages=(Message(role="user", content=texts["content"]),), prefill=texts["prefill"])
    with pytest.raises(PromptError, match="'q7' is not Unicode text"):
        open_row(THOUGHT, prompt, undefended, seed=0)


def test_a_prompt_that_leaves_no_room_for_a_step_is_refused_with_the_sizes() -> None:
    unlimited = Thought(ThoughtConfig(), TOKENIZER)
    fits = next(n for n in range(200) if len(open_prompt(unlimited, user("z" * n))) == 100)
    assert len(open_prompt(THOUGHT, user("z" * fits))) == 100
    with pytest.raises(PromptError, match=r"'p' has 101 tokens; with 20 kept free .* window of 120"):
        open_prompt(THOUGHT, user("z" * (fits + 1)))


def user(text: str) -> Prompt:
    return Prompt.from_text(text or "-", id="p")


def test_monitors_read_own_tokens_without_the_closing_tag() -> None:
    trace = (
        Tokens.sampled(encode("Mix it.\n\n"))
        + Tokens.injected(encode("Wait"))
        + Tokens.sampled((*encode(" This"), CLOSE))
    )
    assert trace_text(THOUGHT, trace) == "Mix it.\n\n This"
    assert full_trace_text(THOUGHT, trace) == "Mix it.\n\nWait This"


def test_a_spelled_closing_tag_is_removed_too() -> None:
    assert trace_text(SPELLED, Tokens.sampled(encode("Mix it.]]"))) == "Mix it."
    assert trace_text(SPELLED, Tokens.sampled(encode("Mix it."))) == "Mix it."


def test_an_answer_is_text_without_control_tokens_even_when_a_defense_wrote_it() -> None:
    assert answer_text(THOUGHT, Tokens.sampled((*encode("\n\nIt is 7."), TOKENIZER.eos_token_id))) == "It is 7."
    assert answer_text(THOUGHT, Tokens.injected(THOUGHT.refusal_ids)) == REFUSAL


def stops(stopper: Stopper, text: str, until: Until = Until.STEP) -> tuple[str | None, str]:
    """Feed the tokens of a text one by one: why it stopped, and what was read by then."""
    tokens = encode(text)
    for end in range(1, len(tokens) + 1):
        if reason := stopper.reason(tokens[:end], until):
            return reason, chat_reasoner.decode(tokens[:end])
    return None, text


def test_a_step_ends_with_its_delimiter_also_when_fused_into_a_token() -> None:
    assert stops(STOPPER, "then heat it slowly.\n\nThen stop.") == ("step", "then heat it slowly.\n\n")
    # Single tokens of this vocabulary hold a delimiter in their middle.
    fused = next(text for text in (chat_reasoner.decode([i]) for i in range(len(TOKENIZER))) if "\n\n" in text.strip())
    assert stops(STOPPER, f"x{fused}") == ("step", f"x{fused}")


def test_blank_text_is_no_step() -> None:
    assert stops(STOPPER, "\n\n\n\nzz\n\nyy") == ("step", "\n\n\n\nzz\n\n")


def test_the_thinking_ends_with_its_tag_and_a_turn_with_its_token() -> None:
    assert stops(STOPPER, "zz</think>yy") == ("thought", "zz</think>")
    assert stops(STOPPER, "zz\n\nyy</think>", Until.THOUGHT) == ("thought", "zz\n\nyy</think>")
    assert stops(STOPPER, "zz<|im_end|>yy") == ("end", "zz<|im_end|>")
    assert stops(STOPPER, "zz\n\nyy<|im_end|>", Until.ANSWER) == ("end", "zz\n\nyy<|im_end|>")


def test_a_closing_tag_in_ordinary_tokens_is_text_unless_it_is_the_models_own() -> None:
    spelled = THOUGHT.encoder.text("zz</think>yy")
    assert all(STOPPER.reason(spelled[:end], Until.STEP) is None for end in range(1, len(spelled) + 1))
    assert stops(Stopper(SPELLED, []), "zz]]")[0] == "thought"


def test_an_answer_is_cut_where_the_thinking_opens_again() -> None:
    for until in (Until.ANSWER, Until.ANSWER_STEP):
        assert stops(STOPPER, "zz<think>yy", until) == ("reopened", "zz<think>")
        spelled = THOUGHT.encoder.text("zz<think>yy")
        assert all(STOPPER.reason(spelled[:end], until) is None for end in range(1, len(spelled) + 1))
        assert stops(Stopper(SPELLED, []), "zz[[yy", until) == ("reopened", "zz[[")
    assert stops(STOPPER, "zz<think>yy") == (None, "zz<think>yy")


def test_an_answer_is_cut_where_the_thinking_closes_again() -> None:
    for until in (Until.ANSWER, Until.ANSWER_STEP):
        assert stops(STOPPER, "zz</think>yy", until) == ("reopened", "zz</think>")


def test_an_answer_is_cut_into_steps_only_where_that_is_asked_for() -> None:
    assert stops(STOPPER, "\n\nzz\n\nyy", Until.ANSWER) == (None, "\n\nzz\n\nyy")
    assert stops(STOPPER, "\n\nzz\n\nyy", Until.ANSWER_STEP) == ("step", "\n\nzz\n\n")
    assert stops(STOPPER, "zzyy<|im_end|>", Until.ANSWER_STEP) == ("end", "zzyy<|im_end|>")


def test_steps_that_are_counted_in_tokens_have_no_delimiters() -> None:
    counted = Thought(ThoughtConfig(step_tokens=3), TOKENIZER)
    stopper = Stopper(counted, [TOKENIZER.eos_token_id])
    assert stops(stopper, "zz\n\nyy\n\n") == (None, "zz\n\nyy\n\n")
    assert stops(stopper, "zz\n\nyy\n\n", Until.ANSWER_STEP) == (None, "zz\n\nyy\n\n")
    assert stops(stopper, "zz\n\n</think>") == ("thought", "zz\n\n</think>")
    trace = Tokens.sampled(encode("Mix it.\n\n") + (40,) * 6)
    assert stopper.step_starts(trace, max_step_tokens=99) == tuple(range(0, len(trace), 3))
    assert (counted.longest_step(99), counted.longest_step(2), THOUGHT.longest_step(99)) == (3, 2, 99)


def test_monitors_read_an_answer_behind_its_trace_without_tags() -> None:
    trace = Tokens.sampled((*encode("Mix it.\n\n"), CLOSE))
    answer = (
        Tokens.sampled(encode("\n\n<think>It")) + Tokens.injected(encode("Wait")) + Tokens.sampled(encode(" is 7."))
    )
    assert monitored_text(THOUGHT, trace, Tokens()) == trace_text(THOUGHT, trace)
    assert monitored_text(THOUGHT, trace, answer) == "Mix it.\n\nIt is 7."
    assert monitored_text(THOUGHT, trace, answer, with_injected=True) == "Mix it.\n\nItWait is 7."
    assert monitored_text(THOUGHT, Tokens.sampled((CLOSE,)), answer) == "It is 7."
    assert (
        monitored_text(SPELLED, Tokens.sampled(encode("Mix it.]]")), Tokens.sampled(encode("[[so"))) == "Mix it.\n\nso"
    )


def test_the_steps_of_a_finished_trace_are_found_again() -> None:
    first, second, last = encode("Mix it.\n\n"), encode(" This could hurt.\n\n"), (*encode("So stop."), CLOSE)
    trace = Tokens.sampled(first) + Tokens.injected(encode("Wait")) + Tokens.sampled(second + last)
    before_last = len(first) + len(encode("Wait")) + len(second)
    assert STOPPER.step_starts(trace, max_step_tokens=99) == (0, len(first), before_last)
    assert STOPPER.step_starts(Tokens.sampled((40,) * 5), max_step_tokens=2) == (0, 2, 4)
    assert STOPPER.step_starts(trace, max_step_tokens=99, first=len(first)) == (len(first), before_last)


@given(st.lists(st.sampled_from(["Mix it.", "\n", "\n\n", " zz", "café", "✓"]), max_size=12).map("".join))
def test_where_a_step_ends_follows_from_the_text_alone(text: str) -> None:
    reason, read = stops(STOPPER, text)
    tokens = encode(text)
    ended = [end for end in range(len(tokens) + 1) if "\n\n" in chat_reasoner.decode(tokens[:end]).lstrip()]
    assert (reason, read) == (("step", chat_reasoner.decode(tokens[: ended[0]])) if ended else (None, text))


@pytest.mark.parametrize("blanks", ["\n\n", "\r\n\r\n", "\n \n", "\n\t\n", "\n \r\n"])
def test_a_blank_line_is_a_line_of_blanks(blanks: str) -> None:
    assert stops(STOPPER, f"zz{blanks}yy") == ("step", f"zz{blanks}")
    assert stops(STOPPER, "zz\nyy\n") == (None, "zz\nyy\n")


BEFORE = Tokens.sampled(encode("Mix it.\n\n")) + Tokens.injected(encode("Wait, think safely"))


@pytest.mark.parametrize(
    "step",
    [
        (),
        encode(" \n\n"),
        (CLOSE,),
        (*encode("\n\n"), CLOSE),
        encode(". wait, THINK safely!\n\n"),
        (*encode(" Wait, think safely. Wait, think safely.\n"), CLOSE),
    ],
)
def test_a_step_without_words_or_with_the_prefix_over_again_says_nothing(step: tuple[int, ...]) -> None:
    assert says_nothing(THOUGHT, BEFORE, Tokens.sampled(step))
    assert says_nothing(THOUGHT, Tokens(), Tokens.sampled(step)) == ("safely" not in chat_reasoner.decode(step))


@pytest.mark.parametrize("text", ["x", "think safely", "Wait, think safely: no.", "7"])
def test_a_step_with_a_word_of_its_own_says_something(text: str) -> None:
    assert not says_nothing(THOUGHT, BEFORE, Tokens.sampled((*encode(text), CLOSE)))


def test_what_was_injected_further_back_may_be_said_again() -> None:
    before = BEFORE + Tokens.sampled(encode(" and stop.\n\n"))
    assert not says_nothing(THOUGHT, before, Tokens.sampled(encode("Wait, think safely\n\n")))


def test_a_spelled_tag_is_no_word_and_tags_in_an_answer_are_none_either() -> None:
    assert says_nothing(SPELLED, Tokens(), Tokens.sampled(encode("\n]]")))
    assert not says_nothing(SPELLED, Tokens(), Tokens.sampled(encode("a]]")))
    end = TOKENIZER.eos_token_id
    assert says_nothing(THOUGHT, Tokens(), Tokens.sampled((end,)), in_answer=True)
    assert says_nothing(SPELLED, Tokens(), Tokens.sampled((*encode("[["), end)), in_answer=True)
    assert not says_nothing(THOUGHT, Tokens(), Tokens.sampled((*encode("No."), end)), in_answer=True)


@given(st.text(alphabet=" \t\n\r", max_size=8), st.booleans())
def test_blanks_say_nothing_wherever_they_stand(blanks: str, closes: bool) -> None:
    step = Tokens.sampled((*encode(blanks), *((CLOSE,) if closes else ())))
    assert says_nothing(THOUGHT, BEFORE, step)
    assert says_nothing(THOUGHT, BEFORE, step, in_answer=True)


@given(st.text(alphabet="ab7", min_size=1, max_size=8))
def test_words_that_were_not_injected_say_something(text: str) -> None:
    assert not says_nothing(THOUGHT, BEFORE, Tokens.sampled(encode(text)))
