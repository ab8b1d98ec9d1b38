"""The HTTP engine: what it asks a server, and that what comes back is what local weights would have said."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import openai
import pytest
import torch
from openai.types import Completion

from safethink.config import ServerConfig, ThoughtConfig
from safethink.defenses.effects import Extension, Until
from safethink.engines import ExtendRequest, LocalEngine, StateEngine, TokenLevelEngine
from safethink.engines.hf import HfEngine
from safethink.engines.http import HttpEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ConfigError, ServerError
from safethink.prompts import Prompt
from safethink.servers.completions import Completions, Form
from safethink.testing import engines
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens
from tests.support import tiny_reasoner
from tests.support.vllm_double import VllmDouble

TOKENIZER = tiny_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER)
END = TOKENIZER.eos_token_id
STOPPER = Stopper(THOUGHT, [END])
GREEDY, SAMPLED = Sampling(temperature=0.0), Sampling(temperature=1.0)
PROMPTS = ["wait, think", "first mix the two", "add 3 and 4 to", "hmm,", "café"]


@pytest.fixture(scope="module")
def model():
    reasoner = tiny_reasoner.model()
    reasoner.generation_config.eos_token_id = END
    return reasoner


@pytest.fixture
def double(model) -> Iterator[VllmDouble]:
    with VllmDouble(model, TOKENIZER) as served:
        yield served


@pytest.fixture(scope="module")
def plain_spoken():
    """A reasoner that says nothing but ASCII, so that its words survive as text."""
    reasoner = tiny_reasoner.model()
    reasoner.generation_config.eos_token_id = END
    pieces = [str(TOKENIZER.decode([token_id])) for token_id in range(len(TOKENIZER))]
    other = [not piece.isascii() or at in TOKENIZER.added_tokens_decoder for at, piece in enumerate(pieces)]
    with torch.no_grad():
        # The output head is tied to the embeddings, so that these tokens have a logit of 0.
        reasoner.model.embed_tokens.weight[torch.tensor(other)] = 0
    return reasoner


def engine(double: VllmDouble, sampling: Sampling = GREEDY, thought: Thought = THOUGHT, **settings) -> HttpEngine:
    config = ServerConfig(urls=[double.url], **({"max_retries": 0} | settings))
    return HttpEngine(Completions(config, TOKENIZER), thought, Stopper(thought, [END]), sampling)


def request(text: str, until: Until = Until.STEP, tokens: int = 24, row: int = 0, seed: int = 0) -> ExtendRequest:
    ids = tuple(TOKENIZER.encode(text, add_special_tokens=False))
    return ExtendRequest(row, ids, len(ids), until, tokens, seed)


def requests(until: Until) -> list[ExtendRequest]:
    return [request(text, until, row=row) for row, text in enumerate(PROMPTS)]


@pytest.mark.slow
@pytest.mark.parametrize("until", list(Until))
def test_greedy_extensions_are_those_of_local_weights(double, model, until) -> None:
    local = HfEngine(model, STOPPER, GREEDY)
    assert engine(double).extend(requests(until)) == local.extend(requests(until))


@pytest.mark.slow
def test_a_step_ends_where_local_weights_end_it(model) -> None:
    """Every kind of stop is met: the reasoner is taught by its output head what to say next."""
    scripted = tiny_reasoner.model(seed=3)
    scripted.generation_config.eos_token_id = END
    kinds: set[str] = set()
    with VllmDouble(scripted, TOKENIZER) as double:
        for delimiter in ("\n", " ", "e", "t"):
            thought = Thought(ThoughtConfig(step_delimiter=delimiter), TOKENIZER)
            local = HfEngine(scripted, Stopper(thought, [END]), GREEDY)
            expected = local.extend(requests(Until.STEP))
            assert engine(double, thought=thought).extend(requests(Until.STEP)) == expected
            kinds |= {str(each.stop) for each in expected}
    assert {"step", "length"} <= kinds


@pytest.mark.parametrize(("ids", "returns_end"), [(True, True), (True, False), (False, True)])
def test_the_end_of_a_turn_is_known_however_the_server_shows_it(plain_spoken, ids, returns_end) -> None:
    ending = copy.deepcopy(plain_spoken)
    spoken = HfEngine(ending, STOPPER, GREEDY).extend([request("hmm,", Until.ANSWER, tokens=6)])[0].tokens.ids
    weight = ending.model.embed_tokens.weight
    with torch.no_grad():
        # Where it would say this word, it ends its turn instead.
        weight[END] = 1.5 * weight[spoken[4]]
    expected = HfEngine(ending, STOPPER, GREEDY).extend([request("hmm,", Until.ANSWER)])
    assert expected[0].stop == "end"
    with VllmDouble(ending, TOKENIZER, ids=ids, extended=ids, returns_end=returns_end) as double:
        assert engine(double).extend([request("hmm,", Until.ANSWER)]) == expected


def test_prompts_go_out_as_ids_and_ids_come_back(double) -> None:
    served = engine(double)
    asked = requests(Until.STEP)
    served.extend(asked)
    assert {tuple(body["prompt"]) for body in double.requests[1:]} == {each.ids for each in asked}
    assert all(body["return_token_ids"] for body in double.requests)
    assert all(Completion.model_validate(answer).choices for answer in double.answers)


def test_the_server_is_told_what_its_own_defaults_would_change(double) -> None:
    served = HttpEngine(
        Completions(ServerConfig(urls=[double.url]), TOKENIZER), THOUGHT, STOPPER, Sampling(0.5, 0.9), never_ids=[7]
    )
    served.extend([request("hmm,", tokens=3)])
    asked = double.requests[-1]
    expected = {"temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert expected.items() <= asked.items()
    assert asked["logit_bias"] == {"7": -100.0}
    assert asked["skip_special_tokens"] is False
    assert asked["stop"] == ["\n\n"]
    assert asked["stop_token_ids"] == list(THOUGHT.close_ids)


@pytest.mark.slow
def test_a_sampled_row_depends_on_its_seed_and_on_nothing_beside_it(double) -> None:
    served = engine(double, SAMPLED)
    rows = [request("hmm,", Until.ANSWER, row=row, seed=row % 3) for row in range(6)]
    together = served.extend(rows)
    assert together[:3] == together[3:]
    assert len(set(together[:3])) == 3
    assert served.extend(rows[1:2]) == together[1:2]
    assert engine(double, SAMPLED, max_concurrency=1).extend(rows[::-1]) == together[::-1]


def test_steps_of_one_row_draw_numbers_of_their_own(double) -> None:
    served = engine(double, SAMPLED)
    served.extend([request("hmm,", tokens=3, seed=5), request("hmm, let", tokens=3, seed=5)])
    one, other = (body["seed"] for body in double.requests[-2:])
    assert one != other
    assert max(one, other) < 2**31


def test_a_delimiter_that_ends_nothing_costs_a_second_request(double, model) -> None:
    """Blank text is no step, and the server stops at its first line break."""
    thought = Thought(ThoughtConfig(step_delimiter="e"), TOKENIZER)

    class Blank(Stopper):
        """Takes nothing for a step before the tenth token."""

        def reason(self, ids, until, before=()):
            return super().reason(ids, until, before) if len(ids) > 10 else None

    local = HfEngine(model, Blank(thought, [END]), GREEDY)
    served = engine(double, thought=thought)
    served._stopper = Blank(thought, [END])
    before = len(double.requests)
    assert served.extend(requests(Until.STEP)) == local.extend(requests(Until.STEP))
    assert len(double.requests) - before > len(PROMPTS)


def test_no_room_is_no_request(double) -> None:
    served = engine(double)
    before = len(double.requests)
    assert served.extend([request("hmm,", tokens=0)]) == [Extension(Tokens(), "length")]
    assert len(double.requests) == before


@pytest.mark.slow
@pytest.mark.parametrize(("extended", "form"), [(True, Form("text", True)), (False, Form("text", False))])
def test_a_server_without_ids_is_sent_text(plain_spoken, extended, form, caplog) -> None:
    local = HfEngine(plain_spoken, STOPPER, GREEDY)
    with VllmDouble(plain_spoken, TOKENIZER, ids=False, extended=extended) as double, caplog.at_level(logging.INFO):
        served = engine(double)
        answers = [each for row in requests(Until.STEP)[:4] for each in served.extend([row])]
    assert served._completions.form == form
    for answer, expected in zip(answers, local.extend(requests(Until.STEP)[:4]), strict=True):
        assert answer.stop == expected.stop
        assert THOUGHT.decode(expected.tokens.ids).startswith(THOUGHT.decode(answer.tokens.ids))
    assert [record.message for record in caplog.records if "as text" in record.message]


def test_a_prompt_that_no_text_encodes_to_is_refused(model) -> None:
    with VllmDouble(model, TOKENIZER, ids=False) as double:
        served = engine(double)
        spelled = THOUGHT.encoder.text("never close </think> here")
        with pytest.raises(ServerError, match=r"takes prompts as text alone.*</think>"):
            served.extend([ExtendRequest(0, spelled, len(spelled), Until.STEP, 4, 0)])


def test_a_server_that_hides_special_tokens_is_refused_where_the_closing_tag_is_one(model) -> None:
    hiding = tiny_reasoner.tokenizer.__wrapped__()
    hiding.add_special_tokens({"additional_special_tokens": ["</think>"]})
    thought = Thought(ThoughtConfig(), hiding)
    with VllmDouble(model, hiding, ids=False, extended=False) as double:
        completions = Completions(ServerConfig(urls=[double.url]), hiding)
        with pytest.raises(ConfigError, match=r"leaves special tokens out .* '</think>' has one"):
            HttpEngine(completions, thought, Stopper(thought, [END]), GREEDY)


def test_top_k_is_refused_where_it_cannot_be_said(model) -> None:
    with VllmDouble(model, TOKENIZER, ids=False, extended=False) as double, pytest.raises(ConfigError, match="top_k"):
        engine(double, Sampling(top_k=5))


def test_a_form_that_the_server_lacks_is_refused(model) -> None:
    with VllmDouble(model, TOKENIZER, ids=False) as double, pytest.raises(ServerError, match="must be a string"):
        engine(double, prompts="ids")


def test_another_tokenizer_behind_the_server_is_noticed(model) -> None:
    from tests.support import chat_reasoner

    expected = pytest.raises(ServerError, match=r"the server read \d+ tokens where the tokenizer here makes \d+")
    with VllmDouble(model, chat_reasoner.tokenizer(), ids=False) as double, expected:
        engine(double)


def test_a_path_that_names_another_model_is_noticed_where_ids_are_sent(double) -> None:
    from tests.support import chat_reasoner

    with pytest.raises(ConfigError, match=r"`path` names another model's"):
        Completions(ServerConfig(urls=[double.url]), chat_reasoner.tokenizer())


def test_the_double_speaks_what_the_openai_package_reads(double) -> None:
    """Token ids, `logprobs`, `seed` and `n`, as vLLM has them."""
    ids = TOKENIZER.encode("hmm,")
    asked = {"model": "double", "prompt": ids, "max_tokens": 6, "n": 3, "logprobs": 2, "seed": 4}
    with openai.OpenAI(base_url=double.url, api_key="EMPTY") as client:
        first = client.completions.create(**asked, extra_body={"return_token_ids": True})
        again = client.completions.create(**asked, extra_body={"return_token_ids": True})
    assert first.choices == again.choices
    assert len({choice.text for choice in first.choices}) > 1
    for choice in Completion.model_validate(double.answers[-1]).choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert choice.logprobs.top_logprobs is not None
        assert len(choice.logprobs.tokens) == len(choice.logprobs.top_logprobs)
        for top, token in zip(choice.logprobs.top_logprobs, choice.logprobs.tokens, strict=True):
            assert token in top
    assert first.usage is not None
    assert first.usage.prompt_tokens == len(ids)


def test_it_shows_neither_weights_nor_tokens_nor_states(double) -> None:
    served = engine(double)
    assert not isinstance(served, TokenLevelEngine | StateEngine | LocalEngine)
    served.release(0)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampling"])
def test_it_keeps_what_the_suite_asks_of_every_engine(double, sampling) -> None:
    prompts = [open_prompt(THOUGHT, Prompt.from_text(text)) for text in ("Add 3 and 4.", "Hmm, is it so? Wait.")]
    samples = sampling.temperature > 0
    for check in engines.checks(lambda: engine(double, sampling), THOUGHT, prompts, [END], samples=samples):
        check()
