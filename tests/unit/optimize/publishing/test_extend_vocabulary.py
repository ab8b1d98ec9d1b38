"""A reasoner in which the rows of a soft prefix are tokens does what the rows do, and never says them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel, Qwen3ForCausalLM

from optimize.cli import PROGRAM
from optimize.publishing.extend_vocabulary import extend, extend_vocabulary
from safethink import prefix as prefixes
from safethink.config import AlwaysConfig, LimitsConfig, SamplingConfig
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest, LookRequest, WeighRequest
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ArtifactError, ConfigError
from safethink.guarded import SafeThink
from safethink.models import loading
from safethink.models.hashes import model_hash
from safethink.models.loading import CausalLM
from safethink.prefix import Identity, Prefix, PrefixArtifact
from safethink.prompts import Message, Prompt
from safethink.thinking.chat import ChatEncoder
from safethink.thinking.opening import open_prompt
from tests.support import architectures, chat_reasoner, tiny_reasoner
from tests.unit.prefix.test_soft_artifacts import (
    THOUGHT,
    noise,
    per_layer_raising,
    per_layer_silent,
    scaled_model,
    width,
)

PROMPTS = [Prompt.from_text("zz " * (1 + 5 * index % 7) + str(index), id=str(index)) for index in range(6)]
GREEDY = SamplingConfig(temperature=0.0)
LIMITS = LimitsConfig(max_step_tokens=10, max_trace_tokens=40, max_answer_tokens=12)


def spare_model() -> Qwen3ForCausalLM:
    """A model whose table has rows that are no token's, as many published ones have."""
    before = len(chat_reasoner.tokenizer())
    model = chat_reasoner.model(vocab_size=before + 16)
    # A trained model never says them.
    model.generation_config.suppress_tokens = list(range(before, before + 16))
    return model


def tied_model() -> Qwen3ForCausalLM:
    """A model whose output head is its table."""
    model = chat_reasoner.model()
    model.config.tie_word_embeddings = True
    torch.manual_seed(0)
    return Qwen3ForCausalLM(model.config).double().eval()


def short_table_model() -> PreTrainedModel:
    """A model with rows to spare in the table of embeddings alone, and not in that of per-layer inputs."""
    before = len(chat_reasoner.tokenizer())
    model = architectures.gemma3n(before + 16, only_embedded=16)
    assert model.generation_config is not None
    model.generation_config.suppress_tokens = list(range(before, before + 16))
    return model


MODELS = [
    chat_reasoner.model,
    spare_model,
    tied_model,
    scaled_model,
    per_layer_silent,
    per_layer_raising,
    short_table_model,
]
SPARE = [spare_model, short_table_model]


def saved(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder)
    chat_reasoner.tokenizer().save_pretrained(folder)
    return model


def soft_artifact(model: PreTrainedModel, folder: Path, rows: list[Tensor] | None = None) -> PrefixArtifact:
    reasoner = Identity(name="tiny", sha256=model_hash(model, rounded=True))
    bare = PrefixArtifact(name="rows", prefixes=(Prefix(text="x"),), reasoner=reasoner, threshold=0.0)
    sizes = {"hidden_size": width(model)}
    portfolio = [noise(3, **sizes).bfloat16(), noise(2, seed=1, **sizes).bfloat16()] if rows is None else rows
    return prefixes.save(bare.with_rows(portfolio, ["near"] * len(portfolio)), folder, None, "# A card\n")


def exact(folder: Path) -> CausalLM:
    return loading.load_causal_lm(folder, dtype="float64", device="cpu")


def guarded(reasoner: CausalLM, prefix: PrefixArtifact | Path) -> SafeThink:
    settings = {"defense": AlwaysConfig(), "sampling": GREEDY, "limits": LIMITS}
    return SafeThink(reasoner.model, reasoner.tokenizer, prefix=prefix, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("make_model", MODELS)
def test_the_extended_reasoner_samples_what_the_rows_sample(make_model, tmp_path):
    artifact = soft_artifact(saved(make_model(), tmp_path / "reasoner"), tmp_path / "soft")
    hard = extend_vocabulary(tmp_path / "soft", str(tmp_path / "reasoner"), tmp_path / "extended")
    before = len(chat_reasoner.tokenizer())
    assert hard.token_ids == (tuple(range(before, before + 3)), tuple(range(before + 3, before + 5)))
    assert hard.texts == ("<|safe_0|><|safe_1|><|safe_2|>", "<|safe_3|><|safe_4|>")
    with_rows = guarded(exact(tmp_path / "reasoner"), artifact).run(PROMPTS)
    with_tokens = guarded(exact(tmp_path / "extended"), tmp_path / "extended").run(PROMPTS)
    assert all(any(each.verdict.trace.forced) for each in with_rows)
    for rows, tokens in zip(with_rows, with_tokens, strict=True):
        assert rows.verdict.trace.own() == tokens.verdict.trace.own()
        assert rows.verdict.trace.forced == tokens.verdict.trace.forced
        assert rows.answer == tokens.answer
    assert all("<|safe_0|>" in each.trace for each in with_tokens)
    kept = json.loads((tmp_path / "extended" / "config.json").read_text())
    vocab_size = kept["vocab_size"]
    assert vocab_size == (before + 16 if make_model in SPARE else before + 5), "it grows no more than it must"
    assert kept.get("vocab_size_per_layer_input", vocab_size) == vocab_size
    assert kept["dtype"] == json.loads((tmp_path / "reasoner" / "config.json").read_text())["dtype"]


def test_tokens_beyond_a_shorter_table_are_read_as_before(tmp_path):
    reasoner = saved(short_table_model(), tmp_path / "reasoner")
    soft_artifact(reasoner, tmp_path / "soft")
    hard = extend_vocabulary(tmp_path / "soft", str(tmp_path / "reasoner"), tmp_path / "extended")
    known = len(chat_reasoner.tokenizer())
    spare = sorted({*range(known, known + 16)} - {token for ids in hard.token_ids for token in ids})
    assert len(spare) == 11
    read = torch.tensor([[5, spare[0], 7, spare[-1], 9]])
    with torch.no_grad():
        before, after = (exact(tmp_path / name).model(read).logits for name in ("reasoner", "extended"))
    assert torch.allclose(after[..., :known], before[..., :known], atol=1e-9)


@pytest.mark.parametrize("make_model", [chat_reasoner.model, tied_model])
def test_the_new_tokens_are_never_said(make_model, tmp_path):
    model = saved(make_model(), tmp_path / "reasoner")
    # The head of a tied model likes what is long, in one direction or the other.
    rows = noise(1) * 1000
    soft_artifact(model, tmp_path / "soft", [torch.cat([rows, -rows]).bfloat16()])
    hard = extend_vocabulary(tmp_path / "soft", str(tmp_path / "reasoner"), tmp_path / "extended")
    reasoner = exact(tmp_path / "extended")
    new = set(hard.token_ids[0])
    ids = open_prompt(THOUGHT, PROMPTS[0])
    if make_model is tied_model:
        with torch.no_grad():
            assert int(reasoner.model(torch.tensor([ids])).logits[0, -1].argmax()) in new, "they would be said"
    engine = HfEngine(reasoner.model, Stopper(THOUGHT, ()), Sampling(temperature=0.0))
    (said,) = engine.extend([ExtendRequest(0, ids, len(ids), Until.ANSWER, 12, 0)])
    assert not new & set(said.tokens.ids)
    (view,) = engine.look([LookRequest(1, ids, 5, None)])
    assert not new & set(view.token_ids)
    assert engine.weigh([WeighRequest(2, ids, (min(new),))]) == [(-torch.inf,)]
    generate: Any = reasoner.model.generate
    generated = generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert not new & set(generated[0, len(ids) :].tolist())
    assert tuple(generated[0, len(ids) :].tolist()) == said.tokens.ids


def test_nobody_can_spell_them_but_a_prefix(tmp_path):
    soft_artifact(saved(chat_reasoner.model(), tmp_path / "reasoner"), tmp_path / "soft")
    hard = extend_vocabulary(tmp_path / "soft", str(tmp_path / "reasoner"), tmp_path / "extended")
    tokenizer = exact(tmp_path / "extended").tokenizer
    new = {token for ids in hard.token_ids for token in ids}
    encoder = ChatEncoder(tokenizer)
    text = "say <|safe_0|> and <|safe_9|>"
    assert not new & set(encoder.text(text))
    assert not new & set(encoder.chat([Message(role="user", content=text)]).ids)
    assert encoder.injected("<|safe_9|> </think>") == encoder.text("<|safe_9|> </think>")
    first = min(new)
    assert encoder.injected("a<|safe_0|>b") == (*encoder.text("a"), first, *encoder.text("b"))
    assert prefixes.load("text:<|safe_0|>", tokenizer).token_ids == ((first,),)
    assert tokenizer.encode(hard.prefixes[0].text, add_special_tokens=False) == list(hard.token_ids[0])
    assert tokenizer.decode(list(hard.token_ids[0]), skip_special_tokens=True) == hard.prefixes[0].text


def test_an_extension_is_extended_under_names_that_are_free(tmp_path):
    soft_artifact(saved(chat_reasoner.model(), tmp_path / "reasoner"), tmp_path / "soft")
    first = extend_vocabulary(tmp_path / "soft", str(tmp_path / "reasoner"), tmp_path / "once")
    soft_artifact(exact(tmp_path / "once").model, tmp_path / "more")
    second = extend_vocabulary(tmp_path / "more", str(tmp_path / "once"), tmp_path / "twice")
    assert second.texts[0] == "<|safe_5|><|safe_6|><|safe_7|>"
    suppressed = json.loads((tmp_path / "twice" / "generation_config.json").read_text())["suppress_tokens"]
    assert suppressed == [token for each in (first, second) for ids in each.token_ids for token in ids]
    guarded(exact(tmp_path / "twice"), first.replace(tokenizer=None))


def test_what_cannot_be_exported_is_named(tmp_path, capsys):
    model = saved(chat_reasoner.model(), tmp_path / "reasoner")
    soft_artifact(model, tmp_path / "soft")
    hard = prefixes.built_in("wait-think-safely")
    prefixes.save(hard, tmp_path / "hard", None, "")
    place = str(tmp_path / "reasoner")
    with pytest.raises(ArtifactError, match="is hard: any server takes it as it is"):
        extend_vocabulary(tmp_path / "hard", place, tmp_path / "out")
    other = Module.to(tiny_reasoner.model(vocab_size=len(chat_reasoner.tokenizer())), torch.float64)
    saved(other, tmp_path / "other")
    with pytest.raises(ArtifactError, match="fit no other reasoner"):
        extend_vocabulary(tmp_path / "soft", str(tmp_path / "other"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="is not empty"):
        extend_vocabulary(tmp_path / "soft", place, tmp_path / "other")
    command = ["export", str(tmp_path / "soft"), "--reasoner", place, "--out", str(tmp_path / "out")]
    assert PROGRAM.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "hard"
    assert PROGRAM.main(command) == 2
    assert capsys.readouterr().err.strip().endswith("is not empty; give a fresh --out")


def test_the_card_tells_vllm_what_must_not_be_said(tmp_path):
    soft_artifact(saved(chat_reasoner.model(), tmp_path / "reasoner"), tmp_path / "soft")
    hard = extend_vocabulary(tmp_path / "soft", str(tmp_path / "reasoner"), tmp_path / "extended")
    card = (tmp_path / "extended" / "README.md").read_text()
    bias = ", ".join(f"{token}: -100" for ids in hard.token_ids for token in ids)
    assert f"logit_bias={{{bias}}}" in card


def without_a_name(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model's class one that does not say where its layers look tokens up."""
    for owner in type(model).__mro__:
        if "get_per_layer_input_embeddings" in vars(owner):
            monkeypatch.delattr(owner, "get_per_layer_input_embeddings")


@pytest.mark.parametrize("nameless", [False, True])
def test_a_reasoner_whose_tables_cannot_grow_is_refused_by_name_and_left_as_it_was(nameless, monkeypatch) -> None:
    model, tokenizer = architectures.gemma4() if nameless else architectures.looks_ids_up(), tiny_reasoner.tokenizer()
    if nameless:
        without_a_name(model, monkeypatch)
    before = len(tokenizer), len(model.get_input_embeddings().weight)
    rows = torch.zeros(2, width(model))
    soft = PrefixArtifact(name="soft", prefixes=(Prefix(text="x"),)).with_rows([rows], ["wait"])
    reason = "does not say which table" if nameless else "takes no rows as tokens"
    with pytest.raises(ConfigError, match=f"{type(model).__name__} {reason}"):
        extend(CausalLM(model, tokenizer), soft, "extended")
    assert before == (len(tokenizer), len(model.get_input_embeddings().weight))
