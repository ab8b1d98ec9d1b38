"""A result on a terminal: tokens coloured by origin, the interventions, and what the monitor was fed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from safethink.config.family import Family
from safethink.defenses.effects import Intervention
from safethink.runtime.result import Event, Result
from safethink.thinking.template_args import TemplateArg
from safethink.tokens import Tokens, num_shared

if TYPE_CHECKING:
    from safethink.monitors.combinations import Recorded
    from safethink.thinking.format import Thought


Decode = Callable[[Sequence[int]], str]
"""Token ids to text."""

SAMPLED_STYLES = ("", "on grey15")
"""Taken in turn, so that neighbouring tokens can be told apart."""
INJECTED_STYLE = "bold magenta"
OPEN_MARK, CLOSE_MARK = "⟦", "⟧"
"""Around injected tokens, for terminals and files without colour."""
_MAX_CHARACTER_BYTES = 4
"""The longest character in UTF-8."""
_MAX_WINDOW_TOKENS = 16
"""The most tokens without a text of their own that are decoded along."""
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


def outcome(result: Result, decode: Decode, whole: bool = False) -> RenderableType:
    """The trace with what was injected, the answer, and the interventions.

    Args:
        result: what came out.
        decode: token ids to text.
        whole: whether the blanks around trace and answer are shown too.
    """
    end = "" if result.closed else " (the thinking never closed)"
    trace, answer = (coloured(tokens, decode) for tokens in (result.verdict.trace, result.verdict.answer))
    if not len(result.verdict.trace):
        trace = Text("nothing", style="dim")
    return Group(
        Panel(trace if whole else _stripped(trace), title=f"trace{end}", title_align="left"),
        Panel(answer if whole else _stripped(answer), title="answer", title_align="left"),
        interventions(result) if result.interventions else _undisturbed(result),
    )


def _undisturbed(result: Result) -> Text:
    """Says how close a run without interventions came to one."""
    scores = (*result.verdict.step_scores, *result.verdict.answer_scores)
    lowest = f"lowest score {min(scores):+.2f}" if scores else "nothing was scored"
    return Text(f"no intervention; {lowest}", style="dim")


def _stripped(text: Text) -> Text:
    start = len(text.plain) - len(text.plain.lstrip())
    out = text[start:]
    out.rstrip()
    return out


def inspection(result: Result, thought: Thought, readings: Sequence[Recorded]) -> RenderableType:
    """All there is to see: the family, the prompt as the reasoner read it, the outcome, what the monitor was fed."""
    decode = thought.decode
    legend = Text.assemble(
        "sampled by the reasoner  ", (f"{OPEN_MARK}injected by the defense{CLOSE_MARK}", INJECTED_STYLE)
    )
    prompt = Panel(Text(visible(decode(result.prompt_ids)), style="dim"), title="prompt", title_align="left")
    return Group(
        written_down(thought.family, thought.template_args),
        legend,
        prompt,
        outcome(result, decode, whole=True),
        fed(readings),
    )


def written_down(family: Family, template_args: Mapping[str, TemplateArg] = MappingProxyType({})) -> RenderableType:
    """Table of a family's thinking format: its tags, the step delimiters, and the place of injection."""
    how = Table.grid(padding=(0, 2))
    if not family.thinks:
        how.add_row("thinks", Text("not at all: the answer is watched from its first step"))
    else:
        for what, tag in (("opens with", family.open_tag), ("closes with", family.close_tag)):
            how.add_row(what, Text(_quoted(tag) if tag else "nothing of its own"))
    ends = [_quoted(delimiter) for delimiter in family.step_delimiter]
    ends += ["the end of a sentence"] * family.sentences + ["a question put to it"] * bool(family.stage_turns)
    how.add_row("a step ends with", Text(" or ".join(ends)))
    how.add_row("injects", Text(f"PREFIX{_quoted(family.prefix_separator)[1:-1]} after the last accepted step"))
    if family.sampling is not None:
        fields = {name: value for name, value in asdict(family.sampling).items() if name != "source"}
        values = ", ".join(f"{name} {value:g}" for name, value in fields.items())
        how.add_row("published sampling", Text(f"{values} ({family.sampling.source})"))
    if template_args:
        values = ", ".join(f"{name} {value!r}" for name, value in template_args.items())
        how.add_row("template arguments", Text(values))
    return Panel(how, title=f"family {family.name}", title_align="left")


def coloured(tokens: Tokens, decode: Decode) -> Text:
    """Tokens as text, coloured by who put them there."""
    text = Text()
    place = 0
    for forced, pieces in groupby(_pieces(tokens, decode), key=lambda piece: piece[1]):
        text.append(OPEN_MARK if forced else "", style=INJECTED_STYLE)
        for piece, _ in pieces:
            text.append(visible(piece), style=INJECTED_STYLE if forced else SAMPLED_STYLES[place % 2])
            place += 1
        text.append(CLOSE_MARK if forced else "", style=INJECTED_STYLE)
    return text


def interventions(result: Result) -> Table:
    """One line per intervention."""
    table = Table("step", "score before", "score after", "resamples", "prefix", "outcome", title="interventions")
    for note in result.interventions:
        step = str(note.step) if note.where == "trace" else f"{note.step} of the answer"
        after = "-" if note.score_after is None else f"{note.score_after:+.2f}"
        prefix = Text("-") if note.prefix is None else Text(result.prefixes[note.prefix], style=INJECTED_STYLE)
        outcome = f"{note.outcome} (-{note.dropped_steps})" if note.dropped_steps else note.outcome
        table.add_row(step, f"{note.score_before:+.2f}", after, str(note.resamples), prefix, outcome)
    return table


def fed(readings: Sequence[Recorded]) -> Table:
    """Table of the monitor's inputs: for each reading, the part in which it differs from the one before."""
    table = Table("score", "same as before", "and then", title="what the monitor read", show_lines=True)
    before = ""
    for reading in readings:
        shared = num_shared(before, reading.trace)
        style = "red" if reading.score < 0 else "green"
        new = reading.trace[shared:].strip()
        table.add_row(Text(f"{reading.score:+.2f}", style=style), f"{shared} characters", Text(visible(new)))
        before = reading.trace
    return table


def visible(text: str) -> str:
    """Control characters as pictures, so that what a model wrote cannot steer the terminal."""
    return text.translate(_PICTURES)


def _quoted(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


def _pieces(tokens: Tokens, decode: Decode) -> Iterator[tuple[str, bool]]:
    """Each token's own text and whether it was injected; bytes of one character stay together.

    Decodes a window in place of the whole trace, so the time is linear in its length. The window begins at a token that
    has a text of its own, since a decoder may strip the blank at the beginning of what it reads. Bytes that become no
    character in as many tokens as the longest has bytes become none.
    """
    begin = done = 0
    for stop, forced in enumerate(tokens.forced, start=1):
        text = decode(tokens.ids[begin:stop])
        whole = stop == len(tokens) or stop - done >= _MAX_CHARACTER_BYTES
        if text.endswith("\N{REPLACEMENT CHARACTER}") and not whole:
            continue
        piece = text[len(decode(tokens.ids[begin:done])) :]
        yield piece, forced
        begin, done = done if piece or done - begin >= _MAX_WINDOW_TOKENS else begin, stop


def play(events: Iterable[Event], console: Console) -> None:
    """Print each event when it comes, and at the end the interventions and what the answer took."""
    part, longest = "", 0
    for event in events:
        if event.kind == "intervention":
            assert event.intervention is not None, "an intervention's event has it"
            console.print(_line(event.intervention))
        elif event.kind == "done":
            assert event.result is not None, "the last event has the result"
            _finish(event.result, max(longest, event.wait_tokens), console)
        elif event.text:
            if event.kind != part:
                part = event.kind
                console.print(Text(f"{chr(10) if part == 'answer' else ''}── {part} ──", style="dim"))
            forced = all(event.tokens.forced) and len(event.tokens) > 0
            console.print(Text(visible(event.text), style=INJECTED_STYLE if forced else ""), end="", soft_wrap=True)
            longest = max(longest, event.wait_tokens)


def _line(note: Intervention) -> Text:
    """An intervention as one highlighted line."""
    where = "" if note.where == "trace" else " of the answer"
    more = f" and {note.dropped_steps} before it" if note.dropped_steps else ""
    said = (
        f"\n⟲ step {note.step}{where} dropped{more} ({note.score_before:+.2f}), {note.outcome} after {note.resamples}"
    )
    return Text(said, style="yellow")


def _finish(result: Result, longest: int, console: Console) -> None:
    console.print()
    if not result.closed:
        console.print(Text("(the thinking never closed)", style="dim"))
    console.print(interventions(result) if result.interventions else _undisturbed(result))
    usage = result.usage
    took = f"{usage.sampled} tokens, {usage.dropped} of them dropped; {usage.forced} injected; longest wait {longest}"
    console.print(Text(took, style="dim"))
