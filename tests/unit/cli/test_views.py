"""What is shown is what was there: every token once, injected ones marked, nothing that steers the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from safethink.cli.views import CLOSE_MARK, INJECTED_STYLE, OPEN_MARK, coloured, fed, visible, written_down
from safethink.config import families
from safethink.monitors import ScoreRequest
from safethink.monitors.combinations import Recorded, RecordingMonitor
from safethink.monitors.function import ConstantMonitor
from safethink.prompts import Prompt
from safethink.tokens import Tokens


def decode(ids: Sequence[int]) -> str:
    """Every id is a byte, so that characters are cut by tokens."""
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.lists(st.tuples(st.text("aé✓\n", min_size=1, max_size=4), st.booleans()), max_size=6))
def test_coloured_tokens_are_the_text_with_the_injected_parts_marked(parts: list[tuple[str, bool]]) -> None:
    tokens = Tokens()
    for text, forced in parts:
        ids = tuple(text.encode())
        tokens += Tokens.injected(ids) if forced else Tokens.sampled(ids)
    shown = coloured(tokens, decode)
    assert shown.plain.replace(OPEN_MARK, "").replace(CLOSE_MARK, "") == "".join(text for text, _ in parts)
    injected = "".join(shown.plain[span.start : span.end] for span in shown.spans if span.style == INJECTED_STYLE)
    expected = "".join(text for text, forced in parts if forced)
    assert injected.replace(OPEN_MARK, "").replace(CLOSE_MARK, "") == expected


def test_a_character_cut_at_the_end_is_still_shown() -> None:
    assert coloured(Tokens.sampled((0x61, 0xC3)), decode).plain == "a\N{REPLACEMENT CHARACTER}"


def stripped(ids: Sequence[int]) -> str:
    """A decoder that swallows a blank at the beginning, and shows nothing of a zero byte."""
    return decode([token for token in ids if token]).removeprefix(" ")


@pytest.mark.parametrize("read", [decode, stripped])
@given(ids=st.lists(st.sampled_from([*b"\0 a", *"é✓".encode(), 0xFF]), max_size=12).map(tuple))
def test_a_token_is_shown_as_what_it_adds_to_the_text_before_it(
    read: Callable[[Sequence[int]], str], ids: tuple[int, ...]
) -> None:
    pieces, done, pending = [], "", 0
    for stop in range(1, len(ids) + 1):
        text, pending = read(ids[:stop]), pending + 1
        # No character has more bytes than four.
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or stop == len(ids) or pending == 4:
            pieces.append(text[len(done) :])
            done, pending = text, 0
    shown = coloured(Tokens.sampled(ids), read)
    assert shown.plain == visible("".join(pieces))
    assert [shown.plain[span.start : span.end] for span in shown.spans] == [
        visible(piece) for piece in pieces[1::2] if piece
    ]


def test_colouring_a_trace_reads_every_token_a_few_times_only() -> None:
    num_read = 0

    def counting(ids: Sequence[int]) -> str:
        nonlocal num_read
        num_read += len(ids)
        return decode(ids)

    ids = tuple(("ab✓ " * 200).encode())
    coloured(Tokens.sampled(ids), counting)
    assert num_read < 10 * len(ids)


def test_control_characters_become_pictures() -> None:
    assert visible("a\x1b[31mb\x07\x7f\n\tc") == "a␛[31mb␇␡\n\tc"


def test_a_recording_monitor_says_what_the_monitor_says_and_remembers() -> None:
    recorder = RecordingMonitor(ConstantMonitor(0.5))
    requests = [ScoreRequest(0, Prompt.from_text("p"), trace) for trace in ("a", "ab")]
    assert recorder.score(requests) == [0.5, 0.5]
    recorder.release(0)
    assert recorder.readings == [Recorded("a", 0.5), Recorded("ab", 0.5)]


def test_readings_are_shown_by_what_is_new_in_them() -> None:
    page = StringIO()
    readings = [Recorded("first step.\n\n", 0.9), Recorded("first step.\n\nthen harm.\n\n", -0.7)]
    Console(file=page, width=100).print(fed(readings))
    said = page.getvalue()
    assert "-0.70" in said
    assert said.count("first step.") == 1
    assert "13 characters" in said


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "gpt-oss",
            ["family gpt-oss", '"<|channel|>analysis<|message|>"', '"<|channel|>final<|message|>"'],
        ),
        ("llamav-o1", ["nothing of its own", "a question put to it", "PREFIX\\n after the last accepted step"]),
        ("llava-cot", ['"\\n\\n" or "</SUMMARY>" or "</CAPTION>" or "</REASONING>"', "top_p 0.9"]),
    ],
)
def test_the_family_and_the_place_of_injection_are_shown(name: str, parts: list[str]) -> None:
    console = Console(file=StringIO(), width=120)
    console.print(written_down(families.named(name)))
    assert isinstance(console.file, StringIO)
    assert [part for part in parts if part not in console.file.getvalue()] == []


def test_a_model_that_does_not_think_and_the_arguments_of_its_template_are_shown() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(written_down(families.PLAIN, {"reasoning_effort": "low", "strftime_now": "2001-02-03"}))
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    for part in ("family plain", "not at all", "reasoning_effort 'low', strftime_now '2001-02-03'"):
        assert part in shown


@pytest.mark.parametrize("piece", [b"a", b"\xc3", b"\xe2\x9c", b"\xff"])
def test_what_is_decoded_grows_with_the_trace_and_not_with_its_square(piece: bytes) -> None:
    num_decoded = 0

    def counting(ids: Sequence[int]) -> str:
        nonlocal num_decoded
        num_decoded += len(ids)
        return bytes(ids).decode("utf-8", errors="replace")

    ids = tuple(piece * 2000)
    coloured(Tokens.sampled(ids), counting)
    assert num_decoded <= 16 * len(ids)
