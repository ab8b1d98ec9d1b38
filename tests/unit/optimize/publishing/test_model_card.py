"""The card says what the artifact is, how to use it, what was measured, and what was not."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from optimize.publishing import snippets
from optimize.publishing.model_card import card
from safethink.config import RunConfig, ThoughtConfig
from safethink.prefix import Prefix, PrefixArtifact
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from tests.support import chat_reasoner, published


def with_config(artifact: PrefixArtifact, **changes: Any) -> PrefixArtifact:
    return artifact.replace(config=artifact.config | changes)


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", text, flags=re.DOTALL)


def test_the_hub_reads_its_metadata() -> None:
    data = ModelCard(card(published.artifact())).data.to_dict()
    assert (data["license"], data["library_name"], data["base_model"]) == (
        "apache-2.0",
        "safethink",
        "ada/tiny-reasoner",
    )
    assert "corrective-prefix" in data["tags"]


def test_a_reasoner_that_is_not_on_the_hub_is_no_base_model() -> None:
    made = published.artifact()
    assert made.reasoner is not None
    testbed = made.replace(reasoner=made.reasoner.replace(name="testbed"))
    said = card(testbed)
    assert "base_model" not in ModelCard(said).data.to_dict()
    assert "say nothing about how safe a real model is" in said


def test_a_folder_of_a_reasoner_is_not_taken_for_a_model_on_the_hub() -> None:
    made = published.artifact()
    assert made.reasoner is not None
    said = card(made.replace(reasoner=made.reasoner.replace(name="gpt2", revision=None)))
    assert "LLM('PATH/TO/gpt2'" in said
    assert "`gpt2` was a folder where this was learned" in said
    assert "was a folder" not in card(made)


def test_every_number_stands_with_its_interval() -> None:
    made = published.artifact()
    said = card(made)
    test, validation = said.index("On `test`"), said.index("On validation")
    for name, metric in made.metrics.items():
        row = f"| `{name}` | {metric.value:.3f} | {metric.low:.3f} to {metric.high:.3f} | 300 | 6 |"
        place = said.index(row)
        assert (test < place < validation) == name.endswith("_test")
    assert "Not yet evaluated on `test`." in card(made.replace(metrics={}))


def test_it_says_how_it_was_found_and_where_it_was_not_tried() -> None:
    said = card(published.artifact())
    assert "method: `gcg`" in said
    assert yaml.safe_load(code(said, "yaml")[1]) == {"search": {"kind": "gcg", "length": 4, "steps": 60}}
    assert "seeds: search 3" in said
    untested = said.split("## Not tested on")[1]
    assert all(word in untested for word in ("ada/tiny-reasoner", "ada/tiny-guard", "0.25", "attackers", "languages"))
    assert "No search stands behind it." in card(published.artifact().replace(config={}))


def test_its_yaml_is_a_run() -> None:
    config = RunConfig.model_validate(yaml.safe_load(code(card(published.artifact()), "yaml")[0]))
    assert (config.reasoner.path, config.reasoner.revision) == ("ada/tiny-reasoner", "c0ffee")
    assert (config.defense.model_dump()["threshold"], config.prefix) == (0.25, snippets.PLACE)


def test_a_text_with_backticks_stays_code() -> None:
    made = published.artifact().replace(prefixes=(Prefix(text="a `b`", token_ids=(1,)),))
    assert "- `` a `b` `` (token ids [1])" in card(made)


def test_a_soft_prefix_has_no_ids_to_send() -> None:
    rows = [torch.ones(2, 4), torch.zeros(1, 4)]
    soft = published.artifact().with_rows(rows, ("Wait", "Hmm"))
    said = card(soft)
    assert "- 2 embedding rows, near `Wait`\n" in said
    assert "vllm" not in " ".join(code(said, "python"))
    assert str(soft.token_ids[0][0]) not in said


class FakeVllm(ModuleType):
    """As much of vLLM as the card uses, with a tiny reasoner behind it; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__("vllm")
        self.sent: list[tuple[list[int], dict[str, Any]]] = []
        self.loaded: list[tuple[str, str | None]] = []
        self.SamplingParams = dict
        self.LLM = self.load

    def load(self, model: str, revision: str | None = None) -> FakeVllm:
        self.loaded.append((model, revision))
        return self

    def get_tokenizer(self) -> Any:
        return chat_reasoner.tokenizer()

    def generate(self, prompt: dict[str, list[int]], params: dict[str, Any]) -> list[SimpleNamespace]:
        self.sent.append((prompt["prompt_token_ids"], params))
        new = chat_reasoner.generate(chat_reasoner.model(), prompt["prompt_token_ids"], 3)
        return [SimpleNamespace(outputs=[SimpleNamespace(text=chat_reasoner.decode(new), token_ids=new)])]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    fake = FakeVllm()
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


@pytest.mark.parametrize("is_text_only", [False, True])
@pytest.mark.parametrize("open_tag", ["<think>", "<reason>"])
def test_ten_lines_send_the_very_ids_that_safethink_would(
    vllm: FakeVllm, capsys: pytest.CaptureFixture[str], is_text_only: bool, open_tag: str
) -> None:
    thought = ThoughtConfig(open_tag=open_tag)
    made = with_config(published.artifact(), run={"thought": thought.model_dump(), "sampling": {"temperature": 0.6}})
    if is_text_only:
        made = made.replace(prefixes=(Prefix(text=published.TEXTS[0]),))
    snippet = code(card(made), "python")[1]
    assert len(snippet.splitlines()) == 10
    assert "safethink" not in snippet
    exec(snippet, {})
    here = Thought(thought, chat_reasoner.tokenizer())
    opened = open_prompt(here, Prompt.from_text("Your prompt.", id="p"))
    ((ids, params),) = vllm.sent
    assert tuple(ids) == opened + chat_reasoner.encode(published.TEXTS[0]) + here.separator_ids
    assert params == {"temperature": 0.6, "max_tokens": 4096}
    assert vllm.loaded == [("ada/tiny-reasoner", "c0ffee")]
    assert capsys.readouterr().out.strip("\n")


def test_it_is_sampled_as_it_was_measured() -> None:
    assert "SamplingParams(temperature=0.6, top_p=0.95, max_tokens=4096)" in snippets.vllm(published.artifact())


def test_it_says_what_became_of_the_prefix_where_recovery_was_measured() -> None:
    made = published.artifact()
    defense = {"kind": "safethink", "keep_prefix": False, "max_resamples": 4}
    old = with_config(made, run={"defense": defense})
    assert "**the defense that it was learned for drops it there**" in card(old)
    new = old.replace(metrics=old.metrics | {"recovery_guarded": old.metrics["recovery_rate"]})
    assert "is dropped once the step behind it is accepted, as in the defense" in card(new)
    assert "at most 4 resamples" in card(new)
    kept = with_config(new, run={"defense": defense | {"keep_prefix": True}})
    assert "the prefix stays in the trace, as in the defense" in card(kept)
