"""Servers that are busy, slow, gone or talk nonsense: what is tried again, who is asked next, and what is said."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from safethink.config import ServerConfig
from safethink.errors import ConfigError, ServerError
from safethink.servers.completions import Completions
from tests.support import tiny_reasoner, vllm_double
from tests.support.vllm_double import Fault, VllmDouble

TOKENIZER = tiny_reasoner.tokenizer()
IDS = tuple(TOKENIZER.encode("hmm, let me see"))
BODY = {"max_tokens": 2, "temperature": 0.0}


@pytest.fixture(scope="module")
def model():
    reasoner = tiny_reasoner.model()
    reasoner.generation_config.eos_token_id = TOKENIZER.eos_token_id
    return reasoner


@pytest.fixture
def double(model) -> Iterator[VllmDouble]:
    with VllmDouble(model, TOKENIZER) as served:
        yield served


def connect(*doubles: VllmDouble, **settings) -> Completions:
    return Completions(ServerConfig(urls=[double.url for double in doubles], **settings), TOKENIZER)


def ask(completions: Completions, rows: int = 1) -> list[str]:
    asked = (completions.complete(IDS, BODY, row) for row in range(rows))
    return [choice.text for choice in completions.replicas.gather(asked)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        vllm_double.status(429, retry_after="0.01"),
        vllm_double.status(500),
        vllm_double.status(503),
        vllm_double.hangs_up,
    ],
)
def test_what_passes_is_tried_again(double, fault: Fault) -> None:
    completions = connect(double, max_retries=2)
    expected = ask(completions)
    double.faults.append(fault)
    before = len(double.requests)
    assert ask(completions) == expected
    assert len(double.requests) == before + 2


@pytest.mark.slow
def test_the_server_says_how_long_to_wait(double) -> None:
    completions = connect(double, max_retries=1)
    double.faults.append(vllm_double.status(429, retry_after="1.2"))
    started_s = time.monotonic()
    ask(completions)
    assert time.monotonic() - started_s >= 1.2


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (vllm_double.status(500, "out of memory"), r"no answer from the server: http://\S+ says 500: 'out of memory'"),
        (vllm_double.status(400, "too long"), r"the server at http://\S+ says 400: 'too long'"),
        (vllm_double.status(401, "no key"), r"says 401: 'no key'"),
        (vllm_double.hangs_up, r"http://\S+ cannot be reached: "),
        (vllm_double.says("<html>Welcome</html>"), r"answers what is no JSON: '<html>Welcome</html>'"),
        (vllm_double.garbled, r"answers what is no JSON"),
        (
            vllm_double.returns({"object": "error"}),
            r"answers nonsense: choices: Field required, in .*'object': 'error'",
        ),
        (vllm_double.returns({"choices": []}), r"answers nonsense: choices: "),
        (vllm_double.returns([1, 2]), r"answers nonsense: "),
        (
            vllm_double.returns({"model": "gpt", "choices": [{"text": "a", "finish_reason": "stop"}]}),
            r"answers for the model 'gpt', not for 'double'",
        ),
        (
            vllm_double.returns({"model": "double", "choices": [{"text": "a", "finish_reason": "abort"}]}),
            r"its finish_reason is 'abort'",
        ),
    ],
)
def test_what_stays_wrong_is_one_clear_line(double, fault: Fault, complaint: str) -> None:
    completions = connect(double, max_retries=0)
    double.faults.append(fault)
    with pytest.raises(ServerError, match=complaint) as caught:
        ask(completions)
    assert "\n" not in str(caught.value)


def test_a_server_that_takes_too_long_is_given_up(double) -> None:
    completions = connect(double, max_retries=0)
    slower = connect(double, max_retries=0, timeout_s=0.3)
    double.faults.append(vllm_double.slow(1.0))
    with pytest.raises(ServerError, match="took too long"):
        ask(slower)
    assert ask(completions)


def test_nobody_at_home_is_said_when_the_run_is_built() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerError, match=rf"http://127.0.0.1:{port}/v1 cannot be reached"):
        Completions(ServerConfig(urls=[f"http://127.0.0.1:{port}/v1"], max_retries=0), TOKENIZER)


def test_a_model_that_is_not_served_is_refused_when_the_run_is_built(double) -> None:
    with pytest.raises(ServerError, match=r"says 404: 'The model `other` does not exist\.'"):
        connect(double, model="other", max_retries=0)


def test_a_key_comes_from_the_environment_alone(double, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="'MY_KEY', which api_key_env names, is not set"):
        connect(double, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret")
    assert ask(connect(double, api_key_env="MY_KEY"))
    assert double.keys[-1] == "Bearer secret"


def test_a_missing_client_says_how_to_install_it(double, monkeypatch) -> None:
    monkeypatch.setattr("safethink.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs openai: pip install 'safethink\[serve\]'"):
        connect(double)


def test_no_more_requests_are_in_flight_than_allowed(double) -> None:
    completions = connect(double, max_concurrency=2, max_retries=0)
    lock, seen, now = threading.Lock(), [0], [0]

    def counted():
        with lock:
            now[0] += 1
            seen[0] = max(seen[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return vllm_double.returns({"choices": [{"text": "a", "finish_reason": "stop"}]})()

    double.faults.extend([counted] * 8)
    assert ask(completions, rows=8) == ["a"] * 8
    assert seen[0] == 2


@pytest.mark.slow
def test_a_row_stays_with_its_replica_and_moves_on_when_that_one_dies(model) -> None:
    with VllmDouble(model, TOKENIZER) as one, VllmDouble(model, TOKENIZER) as other:
        completions = connect(one, other, max_retries=0)
        expected = ask(completions, rows=16)
        shares = [len(one.requests), len(other.requests)]
        assert min(shares) >= 4
        assert ask(completions, rows=16) == expected
        # The first request of all asks one of them for the form of prompts.
        assert [len(one.requests) - shares[0], len(other.requests) - shares[1]] in (
            [shares[0] - 1, shares[1]],
            [shares[0], shares[1] - 1],
        )
        one.stop()
        assert ask(completions, rows=16) == expected
        before = len(other.requests)
        assert ask(completions, rows=16) == expected
        assert len(other.requests) == before + 16
        one.start()


def test_when_every_replica_is_gone_each_is_named(model) -> None:
    with VllmDouble(model, TOKENIZER) as one, VllmDouble(model, TOKENIZER) as other:
        completions = connect(one, other, max_retries=0)
        one.faults.append(vllm_double.status(500))
        other.faults.append(vllm_double.status(503))
        with pytest.raises(ServerError, match=r"no answer .*http://\S+ says 50[03].*; http://\S+ says 50[03]"):
            ask(completions)


def test_an_error_ends_the_other_requests_at_once(double) -> None:
    completions = connect(double, max_retries=0)
    double.faults.extend([vllm_double.status(400), *[vllm_double.slow(5)] * 3])
    started_s = time.monotonic()
    with pytest.raises(ServerError, match="says 400"):
        ask(completions, rows=4)
    assert time.monotonic() - started_s < 3
