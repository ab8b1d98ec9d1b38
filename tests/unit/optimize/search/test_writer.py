"""The writer: its thinking closed, its list begun, its tokens counted, its draws those of the seed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from optimize.config import ReflectConfig, WriterConfig
from optimize.contexts import Context
from optimize.pipeline.searches import failed_traces
from optimize.search.writer import ChatWriter, Writer
from safethink import SafeThink
from safethink.config import NoneConfig, SamplingConfig
from safethink.defenses.effects import Extension
from safethink.engines import ExtendRequest
from safethink.errors import PromptError
from safethink.prompts import Prompt
from tests.support import tiny_reasoner

CONFIG = ReflectConfig(list_tokens=12)
OPENING = "1. wait\n2."


@pytest.fixture
def guarded() -> SafeThink:
    return SafeThink(tiny_reasoner.model(), tiny_reasoner.tokenizer(), prefix=None, defense=NoneConfig())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ExtendRequest]:
    """What engines are asked for."""
    asked: list[ExtendRequest] = []

    class Recorded:
        def __init__(self, engine) -> None:
            self._engine = engine

        def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
            asked.extend(requests)
            return self._engine.extend(requests)

        def release(self, row: int) -> None:
            self._engine.release(row)

    init = ChatWriter.__init__

    def recording(self: ChatWriter, model: SafeThink, max_tokens: int) -> None:
        model.engine = Recorded(model.engine)
        init(self, model, max_tokens)

    monkeypatch.setattr(ChatWriter, "__init__", recording)
    return asked


def test_the_reasoner_goes_on_with_the_list_behind_its_closed_thinking(
    guarded: SafeThink, asked: list[ExtendRequest]
) -> None:
    writer = ChatWriter.of(guarded, CONFIG)
    assert isinstance(writer, Writer)
    lists = writer.write("stop here.", OPENING, 3, seed=5)
    read = guarded.thought.decode(asked[0].ids)
    assert read.startswith("<|im_start|>user\nstop here.<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert read.partition("</think>")[2].strip() == OPENING
    assert len(lists) == len(asked) == 3
    assert len({request.ids for request in asked}) == 1


def test_a_request_counts_once_and_every_token_written_counts(guarded: SafeThink, asked: list[ExtendRequest]) -> None:
    writer = ChatWriter.of(guarded, CONFIG)
    for num_lists in (1, 4):
        before = writer.tokens
        lists = writer.write("stop here.", OPENING, num_lists, seed=5)
        read = len(asked[-1].ids)
        assert read < writer.tokens - before <= read + 12 * num_lists
        if all(each.is_cut for each in lists):
            assert writer.tokens - before == read + 12 * num_lists


def test_lists_differ_and_are_those_of_the_seed(guarded: SafeThink) -> None:
    first, second = (ChatWriter.of(guarded, CONFIG) for _ in range(2))
    lists = first.write("stop here.", OPENING, 4, seed=5)
    first.write("think again.", OPENING, 2, seed=6)
    assert first.write("stop here.", OPENING, 4, seed=5) == lists == second.write("stop here.", OPENING, 4, seed=5)
    assert first.write("stop here.", OPENING, 2, seed=5) == lists[:2]
    assert len(set(lists)) > 1
    assert first.write("stop here.", OPENING, 4, seed=6) != lists
    greedy = ChatWriter.of(guarded, CONFIG.replace(sampling=SamplingConfig(temperature=0.0)))
    assert len(set(greedy.write("stop here.", OPENING, 4, seed=5))) == 1


def test_a_request_that_leaves_no_room_is_refused(guarded: SafeThink) -> None:
    with pytest.raises(PromptError, match="context window of 256"):
        ChatWriter.of(guarded, CONFIG).write("x. " * 300, OPENING, 1, seed=0)


def test_another_model_writes_where_one_is_named(guarded: SafeThink, asked: list[ExtendRequest]) -> None:
    own = ChatWriter.of(guarded, CONFIG).write("stop here.", OPENING, 2, seed=5)
    other = ChatWriter.of(guarded, CONFIG.replace(writer=WriterConfig(path="testbed")))
    assert other.write("stop here.", OPENING, 2, seed=5) != own
    assert asked[0].ids != asked[-1].ids


def test_failed_traces_are_their_last_tokens_on_one_line_without_the_prompt(guarded: SafeThink) -> None:
    encode = guarded.thought.encoder.inside
    context = Context(
        prompt=Prompt.from_text("hmm"),
        prompt_ids=encode("hmm"),
        trace_ids=encode("first mix the two parts.\n\n"),
        step_ids=encode("then heat it\nslowly.\n\n"),
        depth=1,
    )
    whole = "first mix the two parts. then heat it slowly."
    assert failed_traces(guarded.thought, [context], 1000) == (whole,)
    (end,) = failed_traces(guarded.thought, [context], len(context.step_ids))
    assert end == "then heat it slowly."
