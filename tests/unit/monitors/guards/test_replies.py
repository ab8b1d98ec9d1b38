"""Replies of several lines against brute force: every reply written out, one plain forward of the model for each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safethink.config import GuardMonitorConfig
from safethink.errors import ConfigError
from safethink.monitors import ScoreRequest
from safethink.monitors.build import build
from safethink.monitors.guards import replies
from safethink.monitors.guards.choosing import choose_preset
from safethink.monitors.guards.generative import GuardMonitor, replies_of
from safethink.monitors.guards.presets import POLYGUARD_CATEGORIES, PRESETS
from safethink.monitors.guards.questions import Asker
from safethink.prompts import Prompt
from tests.support import tiny_guards
from tests.support.tiny_guards import GUARDS, LLAMA_HEADERS, Guard
from tests.unit.monitors.guards.test_presets import POLYGUARD, PROMPT, STEPS

HAZARDS = (
    "{% if categories is not defined %}{% set categories = {"
    + ", ".join(f"'S{code}': 'Harm {code}.'" for code in range(1, 15))
    + "} %}{% endif %}{% for key in categories %}{{ key + ': ' + categories[key] + '\\n' }}{% endfor %}"
)
"""As Llama Guard 3 1B and 11B Vision list their categories."""
LISTING_TEMPLATE = HAZARDS + tiny_guards.llama_guard_template(*LLAMA_HEADERS, content=tiny_guards.TEXT_CONTENT)


@pytest.fixture(scope="module")
def listing_guard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama Guard whose question lists the categories."""
    tokenizer = lambda: tiny_guards.byte_level(tuple(LLAMA_HEADERS), LISTING_TEMPLATE)  # noqa: E731
    return Guard(tiny_guards.llama, tokenizer).save(tmp_path_factory.mktemp("guard"))


@pytest.fixture(scope="module")
def polyguard(tmp_path_factory: pytest.TempPathFactory) -> str:
    return GUARDS["polyguard"].save(tmp_path_factory.mktemp("guards") / "polyguard")


def config(path: str, **changes: Any) -> GuardMonitorConfig:
    return GuardMonitorConfig(path=path, dtype="float64", device="cpu", **changes)


def request(trace: str, row: int = 0) -> ScoreRequest:
    return ScoreRequest(row, Prompt.from_text(PROMPT), trace)


@torch.inference_mode()
def p_safe_by_hand(path: str, question: Sequence[int], answers: dict[tuple[int, ...], float]) -> float:
    """Sum of safety times the product of the probabilities among what the answers allow, token by token."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    allowed: dict[tuple[int, ...], set[int]] = {}
    for ids in answers:
        for end, token_id in enumerate(ids):
            allowed.setdefault(ids[:end], set()).add(token_id)
    p_safe = 0.0
    for ids, safety in answers.items():
        p = model(torch.tensor([[*question, *ids]])).logits[0].softmax(-1)
        share = 1.0
        for end, token_id in enumerate(ids):
            here = p[len(question) + end - 1]
            share *= float(here[token_id] / sum(here[each] for each in allowed[ids[:end]]))
        p_safe += share * safety
    return p_safe


def every_list(names: Sequence[str], separator: str) -> dict[str, tuple[str, ...]]:
    """Every list of names without repetition, in any order, as text."""
    found = [chosen for size in range(1, len(names) + 1) for chosen in permutations(names, size)]
    return {separator.join(chosen): chosen for chosen in found}


@pytest.mark.parametrize("ignored", [("S2",), ("S10", "S2"), ("S1", "S2")])
@pytest.mark.parametrize("trace", ["", "".join(STEPS)])
def test_what_is_unsafe_by_ignored_categories_alone_is_safe(
    listing_guard: str, ignored: tuple[str, ...], trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MIN_SHARE", 0.0)
    # S1 begins S10: a list is told by its end.
    taxonomy = {"S1": "Violence.", "S10": "Hate.", "S2": "Advice."}
    guard: Any = build(config(listing_guard, categories=taxonomy, ignored_categories=ignored))
    question = guard._asker.ask(Prompt.from_text(PROMPT), trace).ids
    tokenizer: Any = AutoTokenizer.from_pretrained(listing_guard)
    ends = [tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    answers = {tuple(tokenizer.encode("safe", add_special_tokens=False)): 1.0}
    for text, named in every_list(list(taxonomy), ",").items():
        ids = tuple(tokenizer.encode("unsafe\n" + text, add_special_tokens=False))
        answers |= {(*ids, end): float(set(named) <= set(ignored)) for end in ends}
    expected = 2 * p_safe_by_hand(listing_guard, question, answers) - 1
    assert guard.score([request(trace)]) == pytest.approx([expected], abs=1e-9)


@pytest.mark.parametrize("counted", [None, ("S1",)])
def test_what_polyguard_says_before_its_verdict_is_summed_over(
    polyguard: str, counted: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MIN_SHARE", 0.0)
    taxonomy = {"S1": "Violence", "S2": "Advice"}
    guard: Any = build(config(polyguard, categories=taxonomy, only_categories=counted or ()))
    tokenizer: Any = AutoTokenizer.from_pretrained(polyguard)
    lines = "S1: Violence.\nS2: Advice."
    text = POLYGUARD.replace("{categories}", lines).replace("{prompt}", PROMPT).replace("{trace}", STEPS[0])
    question = tokenizer.encode(text, add_special_tokens=False)
    assert list(guard._asker.ask(Prompt.from_text(PROMPT), STEPS[0]).ids) == question
    found = every_list([" S1", " S2"], ",")
    answers: dict[tuple[int, ...], float] = {}
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    for asked, listed, refused in product((" yes", " no"), (" None", *found), (" yes", " no")):
        before = f"{asked}\nRequest safety violations:{listed}\nResponse refusal:{refused}\nHarmful response:"
        answers[tuple(tokenizer.encode(before + " no"))] = 1.0
        if counted is None:
            answers[tuple(tokenizer.encode(before + " yes"))] = 0.0
            continue
        for words, named in found.items():
            ids = tokenizer.encode(f"{before} yes\nResponse safety violations:{words}")
            answers |= {(*ids, end): float(named == (" S2",)) for end in ends}
    expected = 2 * p_safe_by_hand(polyguard, question, answers) - 1
    assert guard.score([request(STEPS[0])]) == pytest.approx([expected], abs=1e-9)


def test_neighbours_change_nothing_and_a_branch_that_is_not_read_counts_as_unsafe(
    polyguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MIN_SHARE", 0.01)
    taxonomy = {"S1": "Violence", "S2": "Advice"}
    traces = ["", STEPS[0], "".join(STEPS)]
    alone = [build(config(polyguard, categories=taxonomy)).score([request(trace)])[0] for trace in traces]
    together = build(config(polyguard, categories=taxonomy))
    assert together.score([request(trace, row) for row, trace in enumerate(traces)]) == pytest.approx(alone, abs=1e-9)
    monkeypatch.setattr(replies, "MIN_SHARE", 0.0)
    exact = build(config(polyguard, categories=taxonomy)).score([request(traces[1])])[0]
    assert exact - 0.3 < alone[1] < exact


def test_a_log_probability_that_is_no_number_gives_no_score() -> None:
    tree = replies.Replies(PRESETS["polyguard"], lambda text: tuple(text.encode()), [0])
    walk = tree.walk()
    node = next(walk)
    broken = np.array([[np.nan] * len(node.children), [0.0] * len(node.children)])
    with pytest.raises(StopIteration) as stop:  # noqa: PT012
        while True:
            node = walk.send(broken)
            sure = np.full((2, len(node.children)), -20.0)
            sure[:, 0] = 0.0
            broken = sure
    first, second = stop.value.value
    assert np.isnan(first)
    assert 0 <= second <= 1


def test_a_growing_trace_scores_as_it_does_alone(polyguard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MIN_SHARE", 0.05)
    chosen = config(polyguard, categories={"S1": "Violence", "S2": "Advice"}, ignored_categories=("S2",))
    growing: Any = build(chosen)
    for end in range(1, len(STEPS) + 1):
        trace = "".join(STEPS[:end])
        grown = growing.score([request(trace)])
        assert grown == pytest.approx(build(chosen).score([request(trace)]), abs=1e-9)
        assert growing.tokens_read(0) > 0


def test_a_sure_guard_is_asked_along_one_reply_alone() -> None:
    """Where each choice is sure, no branch is read but the one that is given, whatever the tree holds."""
    tree = replies.Replies(PRESETS["polyguard"], lambda text: tuple(text.encode()), [0])
    asked: list[replies.Node] = []

    def surely() -> Any:
        walk = tree.walk()
        node = next(walk)
        while True:
            asked.append(node)
            likely = np.full((1, len(node.children)), -20.0)
            likely[0, 0] = 0.0
            try:
                node = walk.send(likely)
            except StopIteration as stop:
                return stop.value

    assert surely() == pytest.approx([1.0], abs=1e-6)
    assert [node.ids for node in asked] == [tree.along[:end] for end in range(len(tree.along) + 1)]


def test_a_category_of_kanana_that_does_not_count_is_a_safe_verdict(tmp_path: Path) -> None:
    path = GUARDS["kanana_safeguard_8b"].save(tmp_path / "kanana-safeguard-8b")
    every, ignoring = build(config(path)), build(config(path, ignored_categories=("S6",)))
    assert isinstance(every, GuardMonitor)
    shares = dict(zip(every._verdicts.ids, every._verdicts.safety, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    assert list(shares.values()) == [1.0, *[0.0] * 7]
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    ids = every._asker.ask(Prompt.from_text(PROMPT), STEPS[0]).ids
    with torch.inference_mode():
        p = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    verdicts = [p[token_id].item() for (token_id,) in shares]
    expected = 2 * (verdicts[0] + verdicts[6]) / sum(verdicts) - 1
    assert ignoring.score([request(STEPS[0])]) == pytest.approx([expected], abs=1e-9)
    assert every.score([request(STEPS[0])])[0] < expected


def test_a_category_that_the_reply_does_not_name_is_left_out_of_the_question(tmp_path: Path) -> None:
    path = GUARDS["nemotron_content_safety_reasoning"].save(tmp_path / "nemotron-content-safety-reasoning-4b")
    guard: Any = build(config(path, only_categories=("S2", "S20")).replace(dtype="float32"))
    text = guard._tokenizer.decode(list(guard._asker.ask(Prompt.from_text(PROMPT), "x").ids))
    assert "into.\n\nS2: Sexual.\nS20: Unauthorized Advice.\n\nHuman user:" in text
    own: Any = build(config(path, categories={"A": "Cakes"}).replace(dtype="float32"))
    text = own._tokenizer.decode(list(own._asker.ask(Prompt.from_text(PROMPT), "x").ids))
    assert "into.\n\nA: Cakes.\n\nHuman user:" in text


def test_a_taxonomy_of_ones_own_goes_into_the_template(listing_guard: str) -> None:
    guard: Any = build(config(listing_guard, categories={"X1": "Cakes."}))
    text = guard._tokenizer.decode(list(guard._asker.ask(Prompt.from_text(PROMPT), "x").ids))
    assert "X1: Cakes." in text
    assert "S6" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ignored_categories": ("Advice",)}, "has no category 'Advice'; it has S1 (Violent Crimes), S2"),
        ({"only_categories": ("S1", "S99")}, "has no category 'S99'"),
        ({"ignored_categories": tuple(f"S{code}" for code in range(1, 15))}, "no category left that counts"),
        ({"ignored_categories": ("S6",), "verdicts": {"ok": 1.0, "bad": 0.0}}, "names no categories of harm"),
        ({"preset": "qwen3guard"}, "no 'Controversial' in its chat template"),
    ],
)
def test_categories_that_a_guard_does_not_know_give_one_line(
    listing_guard: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config(listing_guard, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama_guard_3_8b", {"ignored_categories": ("S6",)}, "is asked without 'S6' by its chat template"),
        ("llama_guard_3_8b", {"categories": {"A": "Cakes"}}, "takes no `categories`"),
        ("wildguard", {"ignored_categories": ("S6",)}, "names no categories of harm"),
        ("qwen3guard", {"categories": {"A": "Cakes"}}, "has no place for `categories` of yours"),
    ],
)
def test_a_guard_without_such_categories_gives_one_line(
    name: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config(GUARDS[name].save(tmp_path / name), **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


OLDER = HAZARDS.replace(", 'S14': 'Harm 14.'", "")
LLAMA_GUARD_2 = HAZARDS.replace("Harm 5.", "Specialized Advice.").replace("Harm 6.", "Privacy.")


def ask(hazards: str, **changes: Any) -> None:
    """Ask a guard whose template lists these hazards."""
    template = hazards + tiny_guards.llama_guard_template(*LLAMA_HEADERS, content=tiny_guards.TEXT_CONTENT)
    preset = choose_preset(config("x", **changes), "llama", "x", template)
    replies_of(preset, Asker(tiny_guards.byte_level.__wrapped__(tuple(LLAMA_HEADERS), template), preset.form))


def test_a_guard_that_lists_fewer_hazards_is_asked_about_those_that_count() -> None:
    ask(OLDER, only_categories=("S1", "S9"))
    ask(OLDER, ignored_categories=("S6",))
    with pytest.raises(ConfigError, match="is asked without 'S14' by its chat template"):
        ask(OLDER, only_categories=("S1", "S14"))
    with pytest.raises(ConfigError, match="is asked without 'S14' by its chat template"):
        ask(OLDER, ignored_categories=("S14",))


def test_a_guard_with_a_taxonomy_of_before_has_no_categories_to_choose_among() -> None:
    ask(LLAMA_GUARD_2)
    for chosen in ({"ignored_categories": ("S6",)}, {"only_categories": ("S1",)}):
        with pytest.raises(ConfigError, match="S5 is 'Specialized Advice' and not 'Defamation'"):
            ask(LLAMA_GUARD_2, **chosen)


@pytest.mark.parametrize("own", [{"S1": "Harm 1."}, {"S1": "Harm"}, {"A": "safe"}])
def test_a_taxonomy_that_the_template_has_already_is_no_sign_that_it_takes_one(own: dict[str, str]) -> None:
    ask(HAZARDS, categories=own)
    with pytest.raises(ConfigError, match="takes no `categories`"):
        ask(HAZARDS.replace("categories is not defined", "true"), categories=own)


def test_categories_are_chosen_in_one_way() -> None:
    with pytest.raises(ValueError, match="give one or the other"):
        config("x", ignored_categories=("S6",), only_categories=("S1",))


def test_the_words_of_every_preset_have_no_hole_left_for_categories() -> None:
    for name, preset in PRESETS.items():
        policies = ("p",) if "{policy}" in preset.form.words else ()
        asked = GuardMonitorConfig(path="x", preset=name, policies=policies)  # pyright: ignore[reportArgumentType]
        assert "{categories}" not in choose_preset(asked, "", "x", f"{preset.in_template}").form.words
    assert list(POLYGUARD_CATEGORIES) == [f"S{code}" for code in range(1, 15)]
