"""What a server says is believed only where it makes sense."""

from __future__ import annotations

import math

import pytest

from safethink.config import ServerConfig
from safethink.errors import ServerError
from safethink.servers.completions import Completions, Logprobs
from tests.support import tiny_reasoner, vllm_double
from tests.support.vllm_double import VllmDouble

TOKENIZER = tiny_reasoner.tokenizer()


@pytest.mark.parametrize("broken", [math.nan, math.inf, 0.7])
def test_what_is_no_log_probability_is_refused(broken: float) -> None:
    for listed in ({"token_logprobs": [broken]}, {"top_logprobs": [{"a": -0.5, "b": broken}]}):
        with pytest.raises(ValueError, match="no log-probability"):
            Logprobs.model_validate(listed)


def test_an_impossible_token_has_one_and_a_rounded_certain_one_too() -> None:
    assert Logprobs.model_validate({"token_logprobs": [-math.inf, 0.0, 1e-6, None]}).token_logprobs is not None


def test_the_server_that_says_it_is_named() -> None:
    choice = {"text": "a", "finish_reason": "length", "logprobs": {"top_logprobs": [{"a": 3.0}]}}
    with VllmDouble(tiny_reasoner.model(), TOKENIZER) as double:
        completions = Completions(ServerConfig(urls=[double.url], max_retries=0), TOKENIZER)
        double.faults.append(vllm_double.returns({"model": "double", "choices": [choice]}))
        asked = completions.complete(tuple(TOKENIZER.encode("hmm")), {"max_tokens": 1, "logprobs": 1}, 0)
        with pytest.raises(ServerError, match=rf"{double.url} answers nonsense: .*top_logprobs.*no log-probability"):
            completions.replicas.gather([asked])
