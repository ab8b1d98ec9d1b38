from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from safethink.config import ThoughtConfig
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ArtifactError, MissingFileError
from safethink.models.hashes import chat_template_hash, model_hash, tokenizer_hash
from safethink.prefix import (
    Identity,
    Metric,
    Prefix,
    PrefixArtifact,
    bind,
    built_in,
    list_built_in,
    load,
    round_trips,
    save,
)
from safethink.thinking.chat import ChatEncoder
from safethink.thinking.format import Thought
from tests.support import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()


def prefix(text: str) -> Prefix:
    return Prefix(text=text, token_ids=tuple(TOKENIZER.encode(text, add_special_tokens=False)))


@pytest.fixture
def artifact() -> PrefixArtifact:
    return PrefixArtifact(
        name="learned",
        prefixes=(prefix("Wait, think"), prefix("Hmm")),
        tokenizer=Identity(name="tiny", sha256=tokenizer_hash(TOKENIZER)),
        chat_template=Identity(name="tiny", sha256=chat_template_hash(TOKENIZER)),
        threshold=0.0,
        seeds={"search": 3},
        metrics={"recovery_rate": Metric(value=0.8, low=0.7, high=0.9, n=100, clusters=16)},
    )


@pytest.fixture
def folder(artifact: PrefixArtifact, tmp_path: Path) -> Path:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 0}\n')
    save(artifact, tmp_path / "learned", log, "# A card\n")
    return tmp_path / "learned"


def test_what_is_saved_is_loaded(artifact: PrefixArtifact, folder: Path) -> None:
    loaded = load(folder, TOKENIZER)
    assert loaded.replace(content_sha256=None) == artifact
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "prefix.json", "search.jsonl"]
    assert (folder / "search.jsonl").read_text() == '{"step": 0}\n'
    assert save(loaded, folder, folder / "search.jsonl", "# A card\n") == loaded


def test_the_built_in_prefix_has_the_same_form_and_gets_ids_from_the_tokenizer() -> None:
    assert "wait-think-safely" in list_built_in()
    assert built_in("wait-think-safely").texts == ("Wait, think safely",)
    (bound,) = load("wait-think-safely", TOKENIZER).prefixes
    assert bound == prefix("Wait, think safely")


def test_a_literal_prefix_needs_no_artifact() -> None:
    assert load("text:Hmm, let me see", TOKENIZER).prefixes == (prefix("Hmm, let me see"),)


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "prefix.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_half_of_a_character_is_no_prefix() -> None:
    with pytest.raises(ArtifactError, match=r"prefix 'text:a\\udcff' is not Unicode text") as caught:
        load("text:a\udcff")
    assert "\n" not in str(caught.value)


def test_edited_ids_are_noticed(folder: Path) -> None:
    edit(folder, lambda content: content["prefixes"][0]["token_ids"].reverse())
    with pytest.raises(ArtifactError, match="was edited"):
        load(folder)


def test_ids_that_are_not_the_texts_are_refused_even_when_hashed(artifact: PrefixArtifact, tmp_path: Path) -> None:
    wrong = Prefix(text="Wait, think", token_ids=(40, 41))
    save(artifact.replace(prefixes=(wrong,)), tmp_path, None, "")
    with pytest.raises(ArtifactError, match=r"'Wait, think' encodes to .*, not to \[40, 41\]"):
        load(tmp_path, TOKENIZER)


def test_a_text_that_does_not_round_trip_is_refused(artifact: PrefixArtifact) -> None:
    lossy = PreTrainedTokenizerFast(tokenizer_object=lowercasing())
    with pytest.raises(ArtifactError, match=r"does not round-trip, its ids decode to 'wait"):
        bind(PrefixArtifact(name="x", prefixes=(Prefix(text="Wait"),)), lossy)


def lowercasing():
    from tokenizers import Tokenizer, normalizers

    copy = Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str())
    copy.normalizer = normalizers.Lowercase()
    return copy


def halved():
    """The tokenizer with half of its merges: the same texts are other ids."""
    from tokenizers import Tokenizer

    state = json.loads(TOKENIZER.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][: len(state["model"]["merges"]) // 2]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))


def test_another_tokenizer_retokenises_and_flags(artifact: PrefixArtifact) -> None:
    other = halved()
    assert not bind(artifact, TOKENIZER).transferred
    bound = bind(artifact, other)
    assert bound.transferred
    assert bound.texts == artifact.texts
    assert bound.token_ids != artifact.token_ids
    assert [other.decode(list(ids)) for ids in bound.token_ids] == list(artifact.texts)
    assert bind(bound, TOKENIZER).token_ids == artifact.token_ids, "what is transferred can go home again"
    with pytest.raises(ArtifactError, match="does not round-trip"):
        bind(artifact, PreTrainedTokenizerFast(tokenizer_object=lowercasing()))


def test_another_chat_template_flags_and_keeps_the_ids(artifact: PrefixArtifact) -> None:
    other = artifact.replace(chat_template=Identity(name="other", sha256="0" * 64))
    bound = bind(other, TOKENIZER)
    assert bound.transferred
    assert bound.token_ids == artifact.token_ids


def test_another_reasoner_with_the_same_tokenizer_flags(artifact: PrefixArtifact) -> None:
    model = chat_reasoner.model()
    engine = HfEngine(model, Stopper(Thought(ThoughtConfig(), TOKENIZER), ()), Sampling())
    for sha256 in (model_hash(model), model_hash(model, rounded=True)):
        here = artifact.replace(reasoner=Identity(name="tiny", sha256=sha256))
        assert not bind(here, TOKENIZER, engine).transferred
    elsewhere = artifact.replace(reasoner=Identity(name="other", sha256="0" * 64))
    assert bind(elsewhere, TOKENIZER, engine).transferred


def test_what_is_transferred_is_neither_hashed_nor_saved(artifact: PrefixArtifact, tmp_path: Path) -> None:
    bound = bind(artifact, halved())
    assert "transferred" not in bound.model_dump()
    with pytest.raises(ArtifactError, match="'learned' is bound to another reasoner; save the artifact as it was"):
        save(bound, tmp_path / "new", None, "")
    assert not (tmp_path / "new").exists()


def test_a_prefix_cannot_contain_control_tokens() -> None:
    close = TOKENIZER.convert_tokens_to_ids("</think>")
    with pytest.raises(ArtifactError, match="encodes to"):
        bind(PrefixArtifact(name="x", prefixes=(Prefix(text="</think>", token_ids=(close,)),)), TOKENIZER)
    assert not round_trips(Prefix(text="</think>", token_ids=(close,)), TOKENIZER, ChatEncoder(TOKENIZER))
    assert round_trips(prefix("Hmm, let me see"), TOKENIZER, ChatEncoder(TOKENIZER))
    assert not round_trips(Prefix(text="Hmm", token_ids=(40,)), TOKENIZER, ChatEncoder(TOKENIZER))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(surprise=1), "surprise: Extra inputs"),
        (lambda content: content.update(schema_version=2), "schema_version: Input should be 1"),
        (lambda content: content.update(prefixes=[]), "prefixes: Tuple should have at least 1"),
        (lambda content: content.update(threshold="high"), "threshold: Input should be a valid number"),
    ],
)
def test_a_damaged_artifact_is_named_in_one_line(folder: Path, change: Callable[[dict], None], message: str) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_what_is_not_json_is_refused(folder: Path) -> None:
    (folder / "prefix.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        load(folder)


def test_a_missing_prefix_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no prefix 'wait-think': .* wait-think-safely"):
        load("wait-think")
    with pytest.raises(MissingFileError, match="did you mean 'wait-think-safely'"):
        load("wait-think-safley")
    with pytest.raises(MissingFileError, match=r"has no prefix\.json"):
        load(tmp_path)


def test_hashes_see_what_they_should_and_nothing_else() -> None:
    before = tokenizer_hash(TOKENIZER)
    TOKENIZER(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(TOKENIZER) == before
    model = chat_reasoner.model()
    hashed = model_hash(model)
    assert model_hash(chat_reasoner.model()) == hashed
    model.model.norm.weight.data[0] += 1e-6
    assert model_hash(model) != hashed


def test_a_rounded_hash_is_the_same_in_every_precision() -> None:
    model = chat_reasoner.model(dtype=torch.bfloat16)
    hashed = model_hash(model, rounded=True)
    assert model_hash(model.float(), rounded=True) == hashed
    assert model_hash(model.double(), rounded=True) == hashed
    assert model_hash(model) != hashed
    model.model.norm.weight.data[0] += 0.5
    assert model_hash(model, rounded=True) != hashed
