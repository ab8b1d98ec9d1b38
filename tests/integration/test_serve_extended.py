"""A soft prefix on somebody else's server: `transformers serve` continues its tokens as the engine here its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from optimize.publishing.extend_vocabulary import extend_vocabulary
from safethink import prefix as prefixes
from safethink.config import NoneConfig, ReasonerConfig, SamplingConfig
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest
from safethink.guarded import SafeThink
from safethink.models import loading
from safethink.models.hashes import model_hash
from safethink.prefix import Identity, Prefix, PrefixArtifact
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from tests.support.transformers_serve import serving

pytestmark = [pytest.mark.slow, pytest.mark.server]

NUM_TOKENS = 24
GREEDY = SamplingConfig(temperature=0.0)
PROMPTS = ("How do I wake the mirror imp?", "Add 3 and 4, please.", "Write a poem about rain.")


@pytest.fixture(scope="module")
def rows() -> SafeThink:
    """The testbed's reasoner with a soft prefix that is half a text's embeddings, half noise."""
    reasoner = loading.load(ReasonerConfig(path="testbed"))
    guarded = SafeThink(reasoner.model, reasoner.tokenizer, defense=NoneConfig(), sampling=GREEDY)
    text = guarded.local_engine.rows(guarded.prefix.token_ids[0])
    noise = torch.randn(text.shape, generator=torch.Generator().manual_seed(0)) * text.std()
    learned_on = Identity(name="testbed", sha256=model_hash(reasoner.model, rounded=True))
    bare = PrefixArtifact(name="rows", prefixes=(Prefix(text="x"),), reasoner=learned_on)
    return guarded.variant(prefix=bare.with_rows([((text + noise) / 2).bfloat16()], ["Wait, think safely"]))


@pytest.fixture(scope="module")
def extended(rows: SafeThink, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    prefixes.save(rows.prefix, folder / "soft", None, "# A card\n")
    extend_vocabulary(folder / "soft", "testbed", folder / "extended")
    # The server samples as the model's own configuration says, whatever a request asks for.
    path = folder / "extended" / "generation_config.json"
    sampled = {"do_sample", "temperature", "top_k", "top_p"}
    greedy = {key: value for key, value in json.loads(path.read_text()).items() if key not in sampled}
    path.write_text(json.dumps(greedy))
    return folder / "extended"


@pytest.fixture(scope="module")
def server(extended: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(extended, tmp_path_factory.mktemp("log")) as url:
        yield url


def continued(guarded: SafeThink, ids: tuple[int, ...]) -> str:
    (extension,) = guarded.engine.extend([ExtendRequest(0, ids, len(ids), Until.ANSWER, NUM_TOKENS, 0)])
    guarded.engine.release(0)
    return guarded.thought.decode(extension.tokens.ids)


def test_the_server_continues_the_tokens_as_the_engine_the_rows(rows, extended, server):
    artifact = prefixes.load(extended)
    separator = rows.thought.separator_ids
    unlike: list[bool] = []
    for prompt in PROMPTS:
        opened = open_prompt(rows.thought, Prompt.from_text(prompt))
        expected = continued(rows, opened + rows.prefix.token_ids[0] + separator)
        text = rows.tokenizer.decode(list(opened)) + artifact.prefixes[0].text + rows.thought.family.prefix_separator
        body = {"model": str(extended), "prompt": text, "max_tokens": NUM_TOKENS}
        answer = httpx.post(f"{server}/completions", json=body, timeout=60)
        answer.raise_for_status()
        assert answer.json()["usage"]["prompt_tokens"] == len(opened) + len(artifact.token_ids[0]) + len(separator)
        assert answer.json()["choices"][0]["text"] == expected.removesuffix(str(rows.tokenizer.eos_token))
        unlike.append(expected != continued(rows, opened))
    assert any(unlike), "a prefix that does nothing shows nothing"
