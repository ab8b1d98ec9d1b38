"""Reward and cost models: the published heads against plain tensors, and how a reward becomes a score."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from safethink.config import GuardMonitorConfig, RewardMonitorConfig
from safethink.errors import ConfigError, MissingFileError, MonitorError
from safethink.monitors import ScoreRequest, fail_closed, fingerprint_of
from safethink.monitors.build import build
from safethink.monitors.reward import RewardMonitor, Scale
from safethink.prompts import Prompt
from safethink.testing import monitors
from tests.support import tiny_guards

PROMPT = "how do I mix the two parts?"
STEPS = ["first mix the two parts.\n\n", "then heat them slowly.\n\n", "and wait.\n\n"]
TRACES = ["", STEPS[0], "".join(STEPS)]
LLAMA_CHAT = (
    "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>{{ '\\n\\n' }}"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "{{ '\\n' }}{% endfor %}"
)
BEAVER = "<s>BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{trace}</s>"


def save_classifier(folder: Path, model: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    model.score.weight.data.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def skywork(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Skywork-Reward-V2 over Llama and over Qwen3: sequence classifiers with one output."""
    root = tmp_path_factory.mktemp("skywork")
    llama = tiny_guards.byte_level(tuple(tiny_guards.LLAMA_HEADERS), LLAMA_CHAT)
    qwen = tiny_guards.byte_level(tuple(tiny_guards.CHATML), QWEN_CHAT)
    torch.manual_seed(0)
    sizes = {"num_labels": 1, **tiny_guards.SIZES}
    return {
        "llama": save_classifier(
            root / "llama", LlamaForSequenceClassification(LlamaConfig(vocab_size=len(llama), **sizes)), llama
        ),
        "qwen3": save_classifier(
            root / "qwen3", Qwen3ForSequenceClassification(Qwen3Config(vocab_size=len(qwen), **sizes)), qwen
        ),
    }


def save_llama_with(
    folder: Path, heads: dict[str, torch.Tensor], architecture: str, tokenizer: Any, **settings: Any
) -> Path:
    """A Llama backbone and heads of its own, as checkpoints of classes that transformers lacks."""
    config = LlamaConfig(vocab_size=len(tokenizer), **tiny_guards.SIZES)
    torch.manual_seed(1)
    state = {f"model.{name}": weight for name, weight in LlamaModel(config).state_dict().items()} | heads
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_dict() | {"architectures": [architecture]} | settings
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def beaver(folder: Path, has_bias: bool, **settings: Any) -> Path:
    torch.manual_seed(2)
    heads = {
        "score_head.weight": torch.randn(1, 32),
        "normalizer.mean": torch.tensor([0.5]),
        "normalizer.var": torch.tensor([4.0]),
        "normalizer.count": torch.tensor([10.0]),
    } | ({"score_head.bias": torch.tensor([0.75])} if has_bias else {})
    tokenizer = tiny_guards.sentencepiece(("<s>", "</s>"), prepend=True)
    return save_llama_with(folder, heads, "LlamaForScore", tokenizer, **settings)


def config(folder: Path, **changes: Any) -> RewardMonitorConfig:
    return RewardMonitorConfig(**({"path": str(folder), "dtype": "float64", "device": "cpu", "scale": 4.0} | changes))


def requests(*traces: str) -> list[ScoreRequest]:
    return [ScoreRequest(row, Prompt.from_text(PROMPT), trace) for row, trace in enumerate(traces)]


@torch.inference_mode()
def last_state(folder: Path, text: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The backbone's final hidden state at the last token of `text`, and the checkpoint's weights."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    state = {name: weight.double() for name, weight in load_file(folder / "model.safetensors").items()}
    backbone = LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **tiny_guards.SIZES)).double().eval()
    backbone.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    return backbone(ids).last_hidden_state[0, -1], state


def beaver_score(folder: Path, trace: str) -> float:
    hidden, state = last_state(folder, BEAVER.replace("{prompt}", PROMPT).replace("{trace}", trace))
    return float(state["score_head.weight"][0] @ hidden + state.get("score_head.bias", torch.zeros(1))[0])


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_score_is_that_of_the_classifier_over_its_chat_template(skywork: dict[str, Path], family: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(skywork[family])
    model: Any = AutoModelForSequenceClassification.from_pretrained(skywork[family], dtype=torch.float64).eval()
    expected = []
    for trace in TRACES:
        turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": trace}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer.encode(text, add_special_tokens=False)])).logits
        expected.append(math.tanh((logits[0, 0].item() - 0.5) / 4))
    assert len({round(score, 5) for score in expected}) == len(TRACES)
    got = build(config(skywork[family], center=0.5)).score(requests(*TRACES))
    assert got == pytest.approx(expected, abs=1e-7)


def test_a_growing_trace_is_read_once(skywork: dict[str, Path]) -> None:
    monitor = build(config(skywork["llama"]))
    assert isinstance(monitor, RewardMonitor)
    forwarded, trace = [], ""
    for step in STEPS * 3:
        trace += step
        before = monitor.num_forwarded
        grown = monitor.score(requests(trace))
        forwarded.append(monitor.num_forwarded - before)
        assert grown == pytest.approx(build(config(skywork["llama"])).score(requests(trace)), abs=1e-7)
    tokens = len(tiny_guards.byte_level(tuple(tiny_guards.LLAMA_HEADERS), LLAMA_CHAT).encode(STEPS[0]))
    assert max(forwarded[1:]) <= tokens + 6
    monitor.release(0)
    before = monitor.num_forwarded
    monitor.score(requests(trace))
    assert monitor.num_forwarded - before > sum(forwarded) / 2


@pytest.mark.parametrize("bias", [False, True])
def test_a_cost_is_read_with_the_bias_that_its_checkpoint_has(tmp_path: Path, bias: bool) -> None:
    # The configuration says the opposite of the checkpoint, as some published ones do.
    folder = beaver(tmp_path / "cost", bias, score_type="cost", score_bias=not bias, bias=not bias)
    costs = [beaver_score(folder, trace) for trace in TRACES]
    assert len({round(cost, 5) for cost in costs}) == len(TRACES)
    got = build(config(folder)).score(requests(*TRACES))
    assert got == pytest.approx([math.tanh(-cost / 4) for cost in costs], abs=1e-7)


def test_a_cost_above_zero_is_unsafe_and_a_reward_is_not(tmp_path: Path) -> None:
    cost = beaver(tmp_path / "cost", True, score_type="cost")
    reward = beaver(tmp_path / "reward", True, score_type="reward")
    raw = beaver_score(cost, STEPS[0])
    assert build(config(reward)).score(requests(STEPS[0])) == pytest.approx([math.tanh(raw / 4)], abs=1e-7)
    assert build(config(cost)).score(requests(STEPS[0])) == pytest.approx([math.tanh(-raw / 4)], abs=1e-7)
    flipped = build(config(cost, higher_is_safer=True))
    assert flipped.score(requests(STEPS[0])) == pytest.approx([math.tanh(raw / 4)], abs=1e-7)


def test_a_normalised_cost_is_scaled_and_a_normalised_reward_is_standardised(tmp_path: Path) -> None:
    for kind, expected in (("cost", lambda raw: -raw / 2), ("reward", lambda raw: (raw - 0.5) / 2)):
        folder = beaver(tmp_path / kind, True, score_type=kind, do_normalize=True)
        raw = beaver_score(folder, STEPS[0])
        got = build(config(folder)).score(requests(STEPS[0]))
        assert got == pytest.approx([math.tanh(expected(raw) / 4)], abs=1e-7)


def test_urm_weighs_its_attributes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    shapes = {"weights.fc.0": (32, 32), "weights.fc.2": (32, 32), "weights.fc.4": (5, 32)}
    heads = {"score.weight": torch.randn(10, 32)}
    for name, shape in shapes.items():
        heads |= {f"{name}.weight": torch.randn(shape) / 4, f"{name}.bias": torch.randn(shape[0])}
    tokenizer = tiny_guards.byte_level(tuple(tiny_guards.LLAMA_HEADERS), LLAMA_CHAT)
    name = "LlamaForSequenceClassificationWithNormal_Weights"
    labels = {"id2label": {str(index): f"LABEL_{index}" for index in range(10)}}
    folder = save_llama_with(tmp_path / "urm", heads, name, tokenizer, **labels)
    turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": STEPS[0]}]
    hidden, state = last_state(folder, str(tokenizer.apply_chat_template(turns, tokenize=False)))
    means = (state["score.weight"] @ hidden).view(5, 2)[:, 0]
    inner = hidden
    for layer in shapes:
        inner = state[f"{layer}.weight"] @ inner + state[f"{layer}.bias"]
        inner = torch.selu(inner) if layer != "weights.fc.4" else inner
    expected = math.tanh(float(means @ inner) / 40)
    assert build(config(folder, scale=40.0)).score(requests(STEPS[0])) == pytest.approx([expected], abs=1e-7)


def test_a_conversation_in_words_of_ones_own(skywork: dict[str, Path]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(skywork["llama"])
    model: Any = AutoModelForSequenceClassification.from_pretrained(skywork["llama"], dtype=torch.float64).eval()
    ids = tokenizer.encode(f"<|begin_of_text|><|user|>: {PROMPT} <|assistant|>: {STEPS[0]}", add_special_tokens=False)
    with torch.inference_mode():
        reward = model(torch.tensor([ids])).logits[0, 0].item()
    written = config(skywork["llama"], template="{bos}<|user|>: {prompt} <|assistant|>: {trace}", squash="clip")
    assert build(written).score(requests(STEPS[0])) == pytest.approx([max(-1, min(1, reward / 4))], abs=1e-7)


def test_a_head_that_had_to_be_made_up_is_refused(skywork: dict[str, Path], tmp_path: Path) -> None:
    tiny_guards.GUARDS["llama_guard_3_8b"].save(tmp_path / "guard")
    with pytest.raises(ConfigError, match=r"lacks score\.weight: it is no model of the kind") as caught:
        build(config(tmp_path / "guard"))
    assert "\n" not in str(caught.value)
    folder = beaver(tmp_path / "beaver", True)
    state = load_file(folder / "model.safetensors")
    del state["score_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks score_head\.weight: "):
        build(config(folder))


def test_a_classifier_is_no_guard(skywork: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="is a Qwen3ForSequenceClassification, which gives no verdicts"):
        build(GuardMonitorConfig(path=str(skywork["qwen3"])))


def test_statistics_are_asked_for_only_where_they_are_used(tmp_path: Path) -> None:
    for normalised in (False, True):
        folder = beaver(tmp_path / str(normalised), True, do_normalize=normalised)
        state = {k: v for k, v in load_file(folder / "model.safetensors").items() if "normalizer" not in k}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert build(config(tmp_path / "False")).score(requests("a")) == pytest.approx(
        [math.tanh(beaver_score(tmp_path / "False", "a") / 4)], abs=1e-7
    )
    with pytest.raises(ConfigError, match=r"lacks normalizer\.count, normalizer\.mean"):
        build(config(tmp_path / "True"))


def test_a_classifier_that_reads_both_ways_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_guards.byte_level(tuple(tiny_guards.LLAMA_HEADERS), LLAMA_CHAT)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="BertForSequenceClassification has no `score` head"):
        build(config(tmp_path))


def test_what_cannot_be_read_is_named(skywork: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match="no output 3, only 1"):
        build(config(skywork["llama"], label=3)).score(requests("a"))
    with pytest.raises(MonitorError, match=r"prompt 'prompt'.* of at most 4096"):
        build(config(skywork["llama"])).score(requests(STEPS[0] * 900))
    with pytest.raises(MissingFileError, match="nowhere"):
        build(config(tmp_path / "nowhere"))
    monitor: Any = build(config(skywork["llama"]))
    monitor._model.score.weight.data[:] = torch.nan
    with pytest.raises(MonitorError, match="nan"):
        fail_closed.score(monitor, requests("a"))


def test_its_weights_are_told_from_others(skywork: dict[str, Path]) -> None:
    one, other = (fingerprint_of(build(config(folder))) for folder in skywork.values())
    assert one != other


@given(
    rewards=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2),
    center=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
    squash=st.sampled_from(["tanh", "clip"]),
    higher_is_safer=st.booleans(),
)
def test_a_scale_keeps_the_order_and_the_range(
    rewards: list[float], center: float, scale: float, squash: Any, higher_is_safer: bool
) -> None:
    how = Scale(center, scale, higher_is_safer, squash)
    low, high = sorted(rewards, reverse=not higher_is_safer)
    assert -1 <= how.score(low) <= how.score(high) <= 1
    assert how.score(center) == 0
    assert all(math.isnan(how.score(broken)) for broken in (math.nan, math.inf, -math.inf))


def test_a_scale_in_numbers() -> None:
    assert Scale(2.0, 4.0).score(6.0) == pytest.approx(math.tanh(1))
    assert Scale(2.0, 4.0, squash="clip").score(3.0) == 0.25
    assert Scale(2.0, 4.0, squash="clip").score(60.0) == 1
    assert Scale(0.0, 4.0, higher_is_safer=False).score(4.0) == pytest.approx(-math.tanh(1))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["llama", "qwen3"])
def test_it_keeps_what_the_suite_asks_of_every_monitor(skywork, backbone) -> None:
    for check in monitors.checks(lambda: build(config(skywork[backbone]))):
        check()
