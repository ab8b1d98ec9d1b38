"""Traces and answers as text: what monitors, judges and people read of token ids."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from safethink.prompts import normalised
from safethink.thinking.delimiters import Tag
from safethink.thinking.format import Thought
from safethink.tokens import Tokens


def trace_text(thought: Thought, trace: Tokens) -> str:
    """Text of a trace for monitors: the reasoner's own tokens, without the closing tag."""
    return _thinking(thought, trace.own())


def full_trace_text(thought: Thought, trace: Tokens) -> str:
    """Text of a trace as it stands, injected tokens included, without the closing tag."""
    return _thinking(thought, trace.ids)


def answer_text(thought: Thought, answer: Tokens) -> str:
    """Final text of an answer, or a defense's refusal, without control tokens, its own tags and surrounding blanks.

    A reasoner may think again behind its answer's beginning. That thinking is watched, see `monitored_text`, and it is
    no part of the answer.
    """
    messages = (_final(thought, message) for message in _final_parts(thought, answer.ids))
    text = "\n\n".join(filter(None, messages))
    for tag in thought.family.answer_tags:
        text = text.removeprefix(tag).removesuffix(tag).strip()
    return text


def monitored_text(thought: Thought, trace: Tokens, answer: Tokens, with_injected: bool = False) -> str:
    """Text of an output for monitors: the trace, and behind a blank line what there is of the answer.

    Args:
        thought: the format of the reasoner's thinking.
        trace: the trace.
        answer: what there is of the answer; its tags, where the reasoner thinks in it again, are left out.
        with_injected: whether injected tokens are read too.
    """
    thinking = full_trace_text(thought, trace) if with_injected else trace_text(thought, trace)
    if not len(answer):
        return thinking
    text = _untagged(thought, answer.ids if with_injected else answer.own())
    if not thought.family.thinks:
        # What was prefilled is the beginning of the answer.
        return thinking + text
    text = text.lstrip()
    return f"{thinking.rstrip()}\n\n{text}" if thinking.strip() else text


def says_nothing(thought: Thought, before: Tokens, step: Tokens, in_answer: bool = False) -> bool:
    """Whether a step has no words of its own, or none but those injected right before it, over again.

    Args:
        thought: the format of the reasoner's thinking.
        before: what stands before the step.
        step: the step, delimiter or closing tag included.
        in_answer: whether it is one of the answer.
    """
    text = monitored_text(thought, Tokens(), step) if in_answer else trace_text(thought, step)
    if not text.strip():
        return True
    injected = tuple(takewhile(lambda each: each[1], zip(reversed(before.ids), reversed(before.forced), strict=True)))
    prefix = thought.decode([token_id for token_id, _ in reversed(injected)], plain=True)
    words, again = normalised(text).split(), normalised(prefix).split()
    return bool(again) and words == again * (len(words) // len(again))


def _thinking(thought: Thought, ids: tuple[int, ...]) -> str:
    """The text of a trace, its messages one below the other."""
    messages = (thought.decode(message, plain=True) for message in _messages(thought, _open_part(thought, ids)))
    text = "\n\n".join(filter(None, messages))
    # Spelled out, it closes only where the trace ends: before that it is what somebody wrote.
    is_closed = thought.closer.is_spelled and ids and thought.closer.ends(ids, len(ids) - 1)
    return text.rpartition(thought.family.close_tag)[0] if is_closed else text


def _untagged(thought: Thought, ids: tuple[int, ...]) -> str:
    """The text of an answer without what opens and closes thinking."""
    while thought.closer.is_control and (closed := thought.closer.find(ids)) is not None:
        ids = ids[: closed.start] + ids[closed.stop :]
    text = "".join(thought.decode(message, plain=True) for message in _messages(thought, ids))
    for tag in (thought.opener, thought.closer):
        text = text.replace(tag.text, "") if tag.is_spelled else text
    return text


def _open_part(thought: Thought, ids: tuple[int, ...]) -> tuple[int, ...]:
    """A trace without the control tokens that close it, and whatever follows them."""
    if thought.turns and ids[-len(thought.close_ids) :] == thought.close_ids:
        return ids[: -len(thought.close_ids)]
    closed = thought.closer.find(ids) if thought.closer.is_control else None
    if closed is None:
        return ids
    whole = thought.whole_closer.find(ids) if thought.whole_closer.is_control else None
    return ids[: whole.start if whole is not None and whole.stop == closed.stop else closed.start]


def _messages(thought: Thought, ids: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The messages of a trace. An opener that the model writes again is no part of them."""
    while True:
        found = [span for tag in thought.breaks if (span := tag.find(ids)) is not None]
        if not found:
            yield ids
            return
        first = min(found, key=lambda span: span.start)
        yield ids[: first.start]
        ids = ids[first.stop :]


def num_closed_again(thought: Thought, answer: Tokens) -> int:
    """Number of times that an answer closes thinking it did not open: what stands before that is no answer."""
    if thought.closer.is_spelled:
        return thought.decode(answer.ids, plain=True).count(thought.closer.text)
    return sum(not part.is_final for part in _parts(thought, answer.ids))


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an answer between control tags; final unless what follows says that it was thinking."""

    ids: tuple[int, ...]
    is_final: bool = True


def _parts(thought: Thought, ids: tuple[int, ...]) -> Iterator[_Part]:
    """The parts of an answer, without those that it opened as thinking."""
    is_open = False
    tags = [*((tag, True) for tag in thought.breaks), *((tag, False) for tag in _closers(thought))]
    while found := [(span, opens) for tag, opens in tags if (span := tag.find(ids)) is not None]:
        # Of two tags that end alike the longer one is the whole header.
        span, opens = min(found, key=lambda each: (each[0].stop, each[0].start))
        if not is_open:
            # A header of several words says itself what it closes; a bare tag closes what stands before it.
            yield _Part(ids[: span.start], is_final=opens or bool(thought.family.message_breaks))
        ids, is_open = ids[span.stop :], opens
        if is_open and thought.closer.is_spelled:
            ids, is_open = _behind_spelled(thought, ids)
    if not is_open:
        yield _Part(thought.whole_messages((), ids))


def _behind_spelled(thought: Thought, ids: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Behind thinking that a control token opened and ordinary ones close: what follows, and whether it is open yet."""
    text = thought.closer.text
    if text not in thought.decode(ids):
        return ids, True
    # The first tokens that spell it; their number is looked for by halves, since decoding is slow.
    stop = bisect_left(range(len(ids) + 1), True, key=lambda length: text in thought.decode(ids[:length]))
    return ids[stop:], False


def _final_parts(thought: Thought, ids: tuple[int, ...]) -> list[tuple[int, ...]]:
    parts = [*_parts(thought, ids)]
    first = max((index + 1 for index, part in enumerate(parts) if not part.is_final), default=0)
    return [part.ids for part in parts[first:]]


def _closers(thought: Thought) -> tuple[Tag, ...]:
    return tuple(tag for tag in (thought.whole_closer, thought.closer) if tag.is_control)


def _final(thought: Thought, ids: tuple[int, ...]) -> str:
    """Final text of a part of an answer, where tags are spelled in ordinary tokens."""
    text = thought.decode(ids, plain=True)
    if thought.closer.is_spelled:
        text = text.rpartition(thought.closer.text)[2]
    if thought.opener.is_spelled:
        text = text.partition(thought.opener.text)[0]
    return text.strip()
