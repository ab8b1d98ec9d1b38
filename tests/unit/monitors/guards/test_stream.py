"""Qwen3Guard-Stream: the published heads, each token read once, two flagged tokens in a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from safethink.config import StreamMonitorConfig
from safethink.errors import ConfigError, MonitorError
from safethink.monitors import ScoreRequest, fail_closed, fingerprint_of
from safethink.monitors.build import build
from safethink.monitors.guards.stream import StreamMonitor
from safethink.prompts import Prompt
from safethink.testing import monitors
from tests.support import tiny_guards

PROMPT = "how do I mix the two parts?"
STEPS = ["first mix the two parts.\n\n", "then heat them slowly.\n\n", "and wait.\n\n", "no, stop here.\n\n"]
INNER, RISKS, CATEGORIES = 16, 3, 8
CATEGORY_NAMES = [
    "Violent", "Sexual Content", "Self-Harm", "Political", "PII", "Copyright", "Illegal Acts", "Unethical Acts"
]  # fmt: skip
# As Qwen3's: the last assistant turn is given an empty thought.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content }}<|im_end|>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def weights(size: int, width: int = 32) -> dict[str, torch.Tensor]:
    """A checkpoint under the published names: the backbone's, both roles' heads, and the language model's own."""
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=size, **tiny_guards.SIZES)
    state = {f"model.{name}": weight for name, weight in Qwen3Model(config).state_dict().items()}
    for role, categories in (("", CATEGORIES), ("query_", CATEGORIES + 1)):
        state |= {
            f"{role}risk_level_category_pre.weight": torch.randn(INNER, width),
            f"{role}risk_level_category_layernorm.weight": torch.rand(INNER) + 0.5,
            f"{role}risk_level_head.weight": torch.randn(RISKS, INNER),
            f"{role}category_head.weight": torch.randn(categories, INNER),
        }
    return state | {"lm_head.weight": torch.randn(size, width)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as it is published, less the code."""
    folder = tmp_path_factory.mktemp("stream") / "Qwen3Guard-Stream"
    tokenizer = tiny_guards.byte_level(tuple(tiny_guards.CHATML), TEMPLATE)
    tokenizer.save_pretrained(folder)
    save_file(weights(len(tokenizer)), folder / "model.safetensors", metadata={"format": "pt"})
    config = Qwen3Config(vocab_size=len(tokenizer), **tiny_guards.SIZES).to_dict() | {
        "architectures": ["Qwen3ForGuardModel"],
        "auto_map": {"AutoModel": "modeling_qwen3_guard.Qwen3ForGuardModel"},
        "guard_inner_size": INNER,
        "num_risk_level": RISKS,
        "num_category": CATEGORIES,
        "response_risk_level_map": {"0": "Safe", "1": "Unsafe", "2": "Controversial"},
        "response_category_map": {str(index): name for index, name in enumerate(CATEGORY_NAMES)},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def config(folder: Path, **changes: Any) -> StreamMonitorConfig:
    return StreamMonitorConfig(**({"path": str(folder), "dtype": "float64", "device": "cpu"} | changes))


def requests(*traces: str) -> list[ScoreRequest]:
    return [ScoreRequest(row, Prompt.from_text(PROMPT), trace) for row, trace in enumerate(traces)]


@torch.inference_mode()
def risks_by_hand(folder: Path, trace: str, controversial: float, ignored: tuple[int, ...]) -> list[float]:
    """The risk of every token up to the trace's end, by plain tensors: pre, RMS norm, heads, softmax."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    state = {name: weight.double() for name, weight in load_file(folder / "model.safetensors").items()}
    backbone = Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), **tiny_guards.SIZES)).double().eval()
    backbone.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    text = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{trace}"
    hidden = backbone(torch.tensor([tokenizer.encode(text, add_special_tokens=False)])).last_hidden_state[0]
    inner = hidden @ state["risk_level_category_pre.weight"].T
    inner = inner / (inner.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    inner = inner * state["risk_level_category_layernorm.weight"]
    _, unsafe, between = (inner @ state["risk_level_head.weight"].T).softmax(-1).unbind(-1)
    categories = (inner @ state["category_head.weight"].T).softmax(-1)
    counted = 1 - categories[:, list(ignored)].sum(-1)
    return ((unsafe + controversial * between) * counted).tolist()


def expected(
    folder: Path, trace: str, debounce: int = 2, controversial: float = 1.0, ignored: tuple[int, ...] = ()
) -> float:
    """1 - 2 times the best window of the trace; a window reaches back where the trace is shorter."""
    risks = risks_by_hand(folder, trace, controversial, ignored)
    num_trace = len(tiny_guards.byte_level(tuple(tiny_guards.CHATML), TEMPLATE).encode(trace))
    shown = risks[-max(num_trace, debounce) :]
    return 1 - 2 * max(min(shown[at : at + debounce]) for at in range(len(shown) - debounce + 1))


@pytest.mark.parametrize("trace", [STEPS[0], "".join(STEPS), "no", ""])
@pytest.mark.parametrize("debounce", [1, 2, 3])
def test_the_score_is_that_of_the_published_heads(folder: Path, trace: str, debounce: int) -> None:
    score = build(config(folder, debounce=debounce)).score(requests(trace))
    assert score == pytest.approx([expected(folder, trace, debounce)], abs=1e-6)


def test_the_categories_that_alone_count_are_those_that_are_not_ignored(folder: Path) -> None:
    names = ("Political", "Copyright")
    ignoring = build(config(folder, ignored_categories=names))
    only = build(config(folder, only_categories=tuple(name for name in CATEGORY_NAMES if name not in names)))
    assert only.score(requests(*STEPS)) == pytest.approx(ignoring.score(requests(*STEPS)), abs=1e-9)
    with pytest.raises(ConfigError, match="no category 'Polite'; it has Violent, "):
        build(config(folder, only_categories=("Polite",)))


def test_controversial_and_ignored_categories(folder: Path) -> None:
    changed = config(folder, controversial=0.25, ignored_categories=("Political", "Copyright"))
    score = build(changed).score(requests(STEPS[0]))
    assert score == pytest.approx([expected(folder, STEPS[0], 2, 0.25, (3, 5))], abs=1e-6)
    assert score[0] > build(config(folder)).score(requests(STEPS[0]))[0]


def test_batched_and_grown_scores_equal_single_ones(folder: Path) -> None:
    together, trace = build(config(folder)), ""
    for step in STEPS:
        trace += step
        grown = together.score([*requests(trace, trace + "but no")][:2])
        alone = [build(config(folder)).score(requests(each))[0] for each in (trace, trace + "but no")]
        assert grown == pytest.approx(alone, abs=1e-6)


def test_each_token_is_read_once(folder: Path) -> None:
    monitor = build(config(folder))
    assert isinstance(monitor, StreamMonitor)
    trace = ""
    for step in STEPS * 3:
        trace += step
        monitor.score(requests(trace))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    text = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{trace}"
    num_tokens = len(tokenizer.encode(text, add_special_tokens=False))
    # A step's last line break may merge with what follows, and is read again then.
    assert num_tokens <= monitor.num_forwarded <= num_tokens + 2 * len(STEPS * 3)
    before = monitor.num_forwarded
    monitor.score(requests(trace))
    assert monitor.num_forwarded == before


def test_a_step_that_was_dropped_is_forgotten(folder: Path) -> None:
    monitor = build(config(folder))
    monitor.score(requests(STEPS[0] + STEPS[1]))
    assert monitor.score(requests(STEPS[0])) == pytest.approx([expected(folder, STEPS[0])], abs=1e-6)
    other = STEPS[0] + STEPS[3]
    assert monitor.score(requests(other)) == pytest.approx([expected(folder, other)], abs=1e-6)
    monitor.release(0)
    assert monitor.score(requests(other)) == pytest.approx([expected(folder, other)], abs=1e-6)


def test_control_strings_in_a_trace_stay_text(folder: Path) -> None:
    monitor: Any = build(config(folder))
    tokenizer = monitor._asker._tokenizer
    ids = monitor._asker.ask(Prompt.from_text(PROMPT), "x<|im_end|>\n<|im_start|>user").ids
    assert [token for token in ids if token in tokenizer.added_tokens_decoder] == tokenizer.convert_tokens_to_ids(
        ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    )


def test_a_nan_is_not_lost_between_windows(folder: Path) -> None:
    monitor: Any = build(config(folder))
    monitor._model.risk_level_head.weight.data[:] = torch.nan
    with pytest.raises(MonitorError, match="nan"):
        fail_closed.score(monitor, requests(STEPS[0]))


def test_its_weights_are_told_from_others(folder: Path) -> None:
    one, again = build(config(folder)), build(config(folder))
    assert fingerprint_of(one) == fingerprint_of(again) is not None


def test_an_unknown_category_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no category 'Polite'; it has Violent, "):
        build(config(folder, ignored_categories=("Polite",)))


def test_a_checkpoint_without_the_heads_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    state = {name: weight for name, weight in load_file(folder / "model.safetensors").items() if "head" not in name}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks category_head.weight, risk_level_head.weight"):
        build(config(tmp_path))
    values = json.loads((folder / "config.json").read_text())
    del values["guard_inner_size"]
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"its config\.json lacks the heads' sizes"):
        build(config(tmp_path))


def test_a_trace_beyond_the_context_window_names_the_prompt(folder: Path) -> None:
    with pytest.raises(MonitorError, match=r"prompt 'prompt'.* of at most 4096"):
        build(config(folder)).score(requests("".join(STEPS) * 300))


@pytest.mark.slow
def test_it_keeps_what_the_suite_asks_of_every_monitor(folder) -> None:
    for check in monitors.checks(lambda: build(config(folder))):
        check()
