"""Events on a terminal, printed as they come: the trace, what was done about it, the answer."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from safethink.defenses.effects import Intervention
from safethink.inspection import INJECTED_STYLE, interventions, visible
from safethink.runtime.result import Result
from safethink.runtime.streaming import Event


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
    """What happened, in one line that stands out."""
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
    if result.interventions:
        console.print(interventions(result))
    usage = result.usage
    took = f"{usage.sampled} tokens, {usage.dropped} of them dropped; {usage.forced} injected; longest wait {longest}"
    console.print(Text(took, style="dim"))
