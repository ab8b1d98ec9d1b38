"""Soft rows read in place of tokens, and the artifacts that hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from safethink.config import AlwaysConfig, LimitsConfig, SafeThinkConfig, ThoughtConfig
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest
from safethink.engines.build import end_ids
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling, sample_tokens, uniforms
from safethink.engines.stopping import Stopper
from safethink.errors import ArtifactError
from safethink.files import json_hash
from safethink.guarded import SafeThink
from safethink.models.hashes import model_hash
from safethink.models.soft_rows import row_ids
from safethink.prefix import Identity, Prefix, PrefixArtifact, built_in, load, save
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import full_trace_text, trace_text
from safethink.tokens import Tokens, is_soft
from tests.support import architectures, chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER)
SAMPLED = Sampling()
LIMITS = LimitsConfig(max_step_tokens=10, max_trace_tokens=40, max_answer_tokens=12)
NUM_TOKENS = 10


def engine(model: PreTrainedModel) -> HfEngine:
    return HfEngine(model, Stopper(THOUGHT, end_ids(model, TOKENIZER)), SAMPLED)


def per_layer_silent() -> PreTrainedModel:
    return architectures.gemma3n(len(TOKENIZER))


def per_layer_raising() -> PreTrainedModel:
    return architectures.gemma4(len(TOKENIZER))


def noise(num_rows: int, seed: int = 0, hidden_size: int = 32) -> Tensor:
    return torch.randn(num_rows, hidden_size, generator=torch.Generator().manual_seed(seed)) * 0.3


def scaled_model() -> Gemma3ForCausalLM:
    """A model whose embedding module scales what it looks up."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(TOKENIZER), "sliding_window": 8}
    config = Gemma3TextConfig(**sizes, **heads, initializer_range=0.3, eos_token_id=TOKENIZER.eos_token_id)
    return Gemma3ForCausalLM(config).double().eval()


def request(row: int, ids: tuple[int, ...], until: Until = Until.ANSWER) -> ExtendRequest:
    return ExtendRequest(row, ids, len(ids), until, NUM_TOKENS, 100 + row)


def opened(row: int) -> tuple[int, ...]:
    return open_prompt(THOUGHT, Prompt.from_text("zz " * (1 + 5 * row % 7) + str(row)))


def plain(
    model: PreTrainedModel, before: tuple[int, ...], rows: Tensor, after: tuple[int, ...], seed: int
) -> list[int]:
    """Sampling by one whole forward of embeddings per token: no cache, batch or padding."""
    sampled: list[int] = []
    start = len(before) + len(rows) + len(after)
    random = uniforms(seed, start, NUM_TOKENS)
    for position in range(NUM_TOKENS):
        later = torch.tensor([*after, *sampled], dtype=torch.long)
        with torch.inference_mode():
            logits = model(**plain_inputs(model, torch.tensor(before), rows.double(), later)).logits[:, -1]
        sampled.append(int(sample_tokens(logits, random[position, None], SAMPLED)))
        if sampled[-1] in end_ids(model, TOKENIZER):
            break
    return sampled


def plain_inputs(model: PreTrainedModel, before: Tensor, rows: Tensor, after: Tensor) -> dict[str, Tensor]:
    """What stands for each token in the layers, in the order of transformers' own arguments."""
    embed, hidden = model.get_input_embeddings(), model.config.hidden_size
    read = {"inputs_embeds": torch.cat([embed(before), rows[:, :hidden], embed(after)])[None]}
    if rows.shape[1] == hidden:
        return read
    text: Any = model.base_model
    known = [text.get_per_layer_inputs(ids) for ids in (before, after)]
    per_layer = rows[:, hidden:].view(len(rows), *known[0].shape[1:])
    return read | {"per_layer_inputs": torch.cat([known[0], per_layer, known[1]])[None]}


def width(model: PreTrainedModel) -> int:
    return sum(engine(model).row_parts())


MODELS = [chat_reasoner.model, scaled_model, per_layer_silent, per_layer_raising]


@pytest.mark.slow
@pytest.mark.parametrize("make_model", MODELS)
def test_soft_rows_are_read_as_a_plain_forward_of_embeddings_reads_them(make_model) -> None:
    model = make_model()
    reading = engine(model)
    tail = THOUGHT.encoder.text(" so")
    prompts = [opened(row) for row in range(6)]
    rows = [noise(row % 3 + 1, row, width(model)) for row in range(5)]
    # Rows with soft prefixes of several lengths, one without any, side by side.
    asked = [(*ids, *reading.add_rows(soft), *tail) for ids, soft in zip(prompts, rows, strict=False)] + [prompts[5]]
    together = reading.extend([request(row, ids) for row, ids in enumerate(asked)])
    for row, soft in enumerate([*rows, noise(0, 0, width(model))]):
        expected = plain(model, prompts[row], soft, tail if row < 5 else (), 100 + row)
        assert list(together[row].tokens.ids) == expected
        assert engine_alone(model, soft, asked[row], row) == expected


def engine_alone(model: PreTrainedModel, soft: Tensor, ids: tuple[int, ...], row: int) -> list[int]:
    alone = engine(model)
    alone.add_rows(soft)
    return list(alone.extend([request(row, ids)])[0].tokens.ids)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("make_model", MODELS)
def test_the_rows_of_a_text_are_that_text_alone_and_beside_others(make_model, sampling: Sampling) -> None:
    model = make_model()
    text = THOUGHT.encoder.text("Wait, think safely")

    def fresh() -> HfEngine:
        return HfEngine(model, Stopper(THOUGHT, end_ids(model, TOKENIZER)), sampling)

    reading = fresh()
    soft = reading.add_rows(reading.rows(text).clone())
    prompts = [opened(row) for row in range(16)]
    hard = fresh().extend([request(row, ids + text) for row, ids in enumerate(prompts)])
    assert reading.extend([request(row, ids + soft) for row, ids in enumerate(prompts)]) == hard
    for row in (0, 5, 11):
        alone = fresh()
        alone.add_rows(reading.rows(soft))
        assert alone.extend([request(row, prompts[row] + soft)]) == [hard[row]]


def test_what_was_read_of_soft_rows_is_kept_and_rolled_back() -> None:
    model = chat_reasoner.model()
    warm = HfEngine(model, Stopper(THOUGHT, ()), SAMPLED)
    ids, soft = opened(1), warm.add_rows(noise(4))
    warm.extend([request(0, ids + soft, Until.STEP)])
    before = warm.stats.forwarded
    (more,) = warm.extend([request(0, ids + soft[:2], Until.STEP)])
    # Back to two rows: only the last of them is read again.
    assert warm.stats.forwarded - before == 1 + len(more.tokens)
    cold = HfEngine(model, Stopper(THOUGHT, ()), SAMPLED)
    cold.add_rows(noise(4))
    assert cold.extend([request(0, ids + soft[:2], Until.STEP)]) == [more]
    (other,) = warm.extend([request(0, ids + warm.add_rows(noise(4, seed=1)), Until.STEP)])
    assert other != more


def test_ids_are_of_the_values_alone() -> None:
    rows = noise(3).bfloat16()
    ids = row_ids(rows)
    assert all(map(is_soft, ids))
    assert row_ids(rows.double()) == row_ids(rows.float()) == ids
    assert row_ids(rows.flip(0)) == ids[::-1]
    assert len(set(row_ids(torch.cat([rows, noise(3, seed=1).bfloat16(), rows])))) == 6
    reading = engine(chat_reasoner.model())
    assert reading.add_rows(rows) == reading.add_rows(rows.float()) == ids


def test_rows_that_cannot_be_read_are_refused() -> None:
    reading = engine(chat_reasoner.model())
    with pytest.raises(ArtifactError, match="soft rows have 16 numbers, this reasoner's embeddings 32"):
        reading.add_rows(noise(2, hidden_size=16))
    broken = noise(2)
    broken[1, 3] = torch.inf
    with pytest.raises(ArtifactError, match="not finite"):
        reading.add_rows(broken)
    with pytest.raises(ArtifactError, match=r"⟨soft [0-9a-f]{4}⟩ is not known to this reasoner"):
        reading.extend([request(0, opened(0) + row_ids(noise(1)))])


def test_text_shows_a_placeholder_for_each_row() -> None:
    hard, soft = THOUGHT.encoder.text("Wait, "), row_ids(noise(2))
    words = THOUGHT.encoder.text("think safely")
    shown = THOUGHT.decode((*hard, *soft, *words))
    assert shown.startswith("Wait, ⟨soft ")
    assert shown.endswith("⟩think safely")
    assert shown.count("⟨soft ") == 2
    tokens = Tokens.sampled(hard) + Tokens.injected(soft) + Tokens.sampled(words)
    assert full_trace_text(THOUGHT, tokens) == shown
    assert trace_text(THOUGHT, tokens) == "Wait, think safely"
    stopper = Stopper(THOUGHT, ())
    assert stopper.step_starts(tokens, len(words)) == stopper.step_starts(
        Tokens.sampled(hard) + Tokens.injected((1, 2)) + Tokens.sampled(words), len(words)
    )


# Artifacts


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return chat_reasoner.model()


@pytest.fixture
def artifact(model: PreTrainedModel) -> PrefixArtifact:
    reasoner = Identity(name="tiny", sha256=model_hash(model, rounded=True))
    unlearned = PrefixArtifact(name="rows", prefixes=(Prefix(text="x"),), reasoner=reasoner, threshold=0.0)
    return unlearned.with_rows([noise(3), noise(2, seed=1).bfloat16()], ["Wait, think", "Hmm"])


@pytest.fixture
def folder(artifact: PrefixArtifact, tmp_path: Path) -> Path:
    save(artifact, tmp_path / "rows", None, "# A card\n")
    return tmp_path / "rows"


def test_what_is_saved_is_loaded(artifact: PrefixArtifact, folder: Path) -> None:
    loaded = load(folder)
    assert loaded.replace(content_sha256=None) == artifact
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "prefix.json",
        "prefix.safetensors",
        "search.jsonl",
    ]
    first, second = loaded.soft_rows
    assert torch.equal(first, noise(3))
    assert torch.equal(second, noise(2, seed=1).bfloat16())
    assert second.dtype == torch.bfloat16
    assert loaded.token_ids == (row_ids(first), row_ids(second))
    assert loaded.texts == ("⟨soft: 3 rows, near 'Wait, think'⟩", "⟨soft: 2 rows, near 'Hmm'⟩")
    assert save(loaded, folder, None, "") == loaded


@pytest.mark.parametrize("make_model", [per_layer_silent, per_layer_raising])
def test_rows_with_per_layer_inputs_are_kept_and_bound(make_model, tmp_path: Path) -> None:
    model = make_model()
    rows = noise(3, hidden_size=width(model)).bfloat16()
    reasoner = Identity(name="tiny", sha256=model_hash(model, rounded=True))
    bare = PrefixArtifact(name="rows", prefixes=(Prefix(text="x"),), reasoner=reasoner, threshold=0.0)
    save(bare.with_rows([rows], ["Wait"]), tmp_path / "rows", None, "# A card\n")
    loaded = load(tmp_path / "rows")
    assert torch.equal(loaded.soft_rows[0], rows)
    assert loaded.rows is not None
    assert loaded.rows.hidden_size == 32 + 4 * 8
    settings = {"defense": AlwaysConfig(), "limits": LIMITS, "monitor": lambda prompt, trace: 1.0}
    begun = SafeThink(model, TOKENIZER, prefix=tmp_path / "rows", **settings)("How?")
    assert begun.trace_ids[:3] == row_ids(rows)
    assert len(begun.trace_ids) > 3


def test_a_hard_prefix_saved_over_a_soft_one_leaves_no_rows(folder: Path) -> None:
    save(built_in("wait-think-safely"), folder, None, "")
    assert not (folder / "prefix.safetensors").exists()
    assert load(folder).kind == "hard"


def edit_rows(folder: Path, change: Callable[[dict[str, Tensor]], None], rehash: bool = True) -> None:
    path = folder / "prefix.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    if rehash:
        content = json.loads((folder / "prefix.json").read_text())
        content["rows"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        rewrite(folder, content)


def rewrite(folder: Path, content: dict) -> None:
    del content["content_sha256"]
    (folder / "prefix.json").write_text(json.dumps(content | {"content_sha256": json_hash(content)}))


def poison(tensors: dict[str, Tensor]) -> None:
    tensors["prefix.0"][0, 0] = torch.nan


def nudge(tensors: dict[str, Tensor]) -> None:
    tensors["prefix.0"][0, 0] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, "not finite"),
        (nudge, "not those that its token ids stand for"),
        (lambda tensors: tensors.update({"prefix.1": torch.zeros(2, 3, 4)}), r"prefix.1 is \(2, 3, 4\)"),
        (
            lambda tensors: tensors.update({"prefix.1": torch.zeros(2, 32, dtype=torch.long)}),
            "of torch.int64, not rows",
        ),
        (lambda tensors: tensors.update({"prefix.1": noise(2, 1, 16)}), "not those that its token ids stand for"),
        (lambda tensors: tensors.update({"other": tensors.pop("prefix.1")}), "it holds other, prefix.0, not"),
    ],
)
def test_damaged_rows_are_named_in_one_line(folder: Path, change, message: str) -> None:
    edit_rows(folder, change)
    with pytest.raises(ArtifactError, match=rf"the rows of soft prefix 'rows'.*{message}") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_edited_rows_are_noticed(folder: Path) -> None:
    edit_rows(folder, nudge, rehash=False)
    with pytest.raises(ArtifactError, match="were edited"):
        load(folder)
    (folder / "prefix.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"incomplete: .* has no prefix\.safetensors"):
        load(folder)


def test_a_kind_without_its_rows_is_refused(folder: Path) -> None:
    content = json.loads((folder / "prefix.json").read_text())
    rewrite(folder, content | {"rows": None})
    with pytest.raises(ArtifactError, match="a soft prefix without rows"):
        load(folder)
    rewrite(folder, json.loads((folder / "prefix.json").read_text()) | {"kind": "hard", "rows": content["rows"]})
    with pytest.raises(ArtifactError, match="a hard prefix with rows"):
        load(folder)


def test_rows_bind_to_their_own_reasoner_alone(model: PreTrainedModel, folder: Path) -> None:
    guarded = SafeThink(model, TOKENIZER, monitor=lambda prompt, trace: 1.0, prefix=folder, limits=LIMITS)
    assert guarded.prefix.token_ids == load(folder).token_ids
    assert not guarded.prefix.transferred
    other = SafeThink(chat_reasoner.model(num_layers=1), TOKENIZER, monitor=lambda prompt, trace: 1.0, limits=LIMITS)
    with pytest.raises(ArtifactError, match="soft prefix 'rows' was learned on 'tiny', and its rows fit no other"):
        other.bind(folder)
    with pytest.raises(ArtifactError, match="only the reasoner's own weights can read"):
        load(folder, TOKENIZER)
    nameless = load(folder).replace(reasoner=None)
    with pytest.raises(ArtifactError, match="a reasoner that it does not name"):
        other.bind(nameless)


def test_rows_bind_in_another_precision(folder: Path) -> None:
    half = chat_reasoner.model(dtype=torch.bfloat16)
    guarded = SafeThink(half, TOKENIZER, monitor=lambda prompt, trace: 1.0, prefix=folder, limits=LIMITS)
    assert guarded.prefix.kind == "soft"


@pytest.mark.slow
def test_a_soft_prefix_steers_and_no_monitor_sees_it(model: PreTrainedModel, artifact: PrefixArtifact) -> None:
    read: list[str] = []

    def disapproving(prompt: str, trace: str) -> float:
        read.append(trace)
        return -1.0

    kept = SafeThinkConfig(keep_prefix=True)
    guarded = SafeThink(model, TOKENIZER, monitor=disapproving, prefix=artifact, defense=kept, limits=LIMITS)
    result = guarded("How?")
    assert result.interventions
    assert "⟨soft " in result.trace
    assert result.to_json()["interventions"][0]["prefix"].startswith("⟨soft: ")
    assert read
    assert not any("soft" in trace for trace in read)
    forked = result.fork(step=0, prefix=artifact, n=2)
    assert all(each.trace_ids[:3] == artifact.token_ids[0] for each in forked)
    begun = guarded.variant(defense=AlwaysConfig())("How?")
    assert begun.trace_ids[:3] == artifact.token_ids[0]
