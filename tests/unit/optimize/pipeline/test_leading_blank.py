"""Learning on tokenizers that put a blank in front of a text: every method finds a prefix, and its artifact runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import optimize
from optimize.config import (
    BeamConfig,
    ContextsConfig,
    EvolutionConfig,
    GcgConfig,
    MethodConfig,
    PhrasesConfig,
    RandomConfig,
    RelaxedConfig,
    SelectionConfig,
    SoftConfig,
    UnigramConfig,
)
from safethink import prefix as prefixes
from safethink.config import AlwaysConfig, LimitsConfig
from safethink.errors import ArtifactError
from safethink.guarded import SafeThink
from safethink.prefix import Prefix, PrefixArtifact
from safethink.prompts import Prompt
from safethink.thinking.chat import ChatEncoder
from tests.support import tiny_sentencepiece

ATTACKS = [Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(12)]
LIMITS = LimitsConfig(max_step_tokens=4, max_trace_tokens=12, max_answer_tokens=4)
FEW = {"steps": 3, "candidates": 8}
METHODS = [
    GcgConfig(length=3, top_k=8, init="wait", **FEW),
    EvolutionConfig(length=4, min_length=2, init="wait", **FEW),
    BeamConfig(length=2, beams=2, branches=4, init=None, **FEW),
    RelaxedConfig(length=2, init=None, **FEW),
    RandomConfig(length=2, **FEW),
    UnigramConfig(length=2, **FEW),
    PhrasesConfig(length=8, pool=("wait, think", " think again", "be careful and kind."), steps=3),
    SoftConfig(length=2, init=None, steps=3, harden=True),
]


def by_length(prompt: str, trace: str) -> float:
    """Fires on every other length of a trace."""
    return 1.0 - 2.0 * (len(trace) % 2)


def learn(search: MethodConfig, rule: tiny_sentencepiece.Rule, out: Path) -> PrefixArtifact:
    return optimize.learn(
        tiny_sentencepiece.model(rule),
        tiny_sentencepiece.tokenizer(rule),
        by_length,
        ATTACKS,
        out=out,
        contexts=ContextsConfig(max_contexts=3, best_of=3, target_tokens=4),
        search=search,
        selection=SelectionConfig(finalists=2, spread=1, contexts=2, samples=1, forced_prompts=0),
        limits=LIMITS,
    )


CASES: list[tuple[MethodConfig, tiny_sentencepiece.Rule]]
CASES = [*((method, "first") for method in METHODS), (METHODS[0], "normalizer"), (METHODS[0], "always")]


@pytest.mark.slow
@pytest.mark.parametrize(("search", "rule"), CASES, ids=lambda each: getattr(each, "kind", each))
def test_every_method_learns_a_prefix_that_loads_and_runs(
    search: MethodConfig, rule: tiny_sentencepiece.Rule, tmp_path: Path
) -> None:
    learned = learn(search, rule, tmp_path)
    tokenizer = tiny_sentencepiece.tokenizer(rule)
    loaded = prefixes.load(tmp_path / "artifact", tokenizer)
    assert loaded.token_ids == learned.token_ids
    guarded = SafeThink(
        tiny_sentencepiece.model(rule),
        tokenizer,
        monitor=by_length,
        prefix=loaded,
        limits=LIMITS,
        defense=AlwaysConfig(),
    )
    (result,) = guarded.run(ATTACKS[:1])
    trace = result.verdict.trace
    injected = [token for token, forced in zip(trace.ids, trace.forced, strict=True) if forced]
    assert tuple(injected) == guarded.thought.injection(loaded.token_ids[0])
    # Not in the whole trace: a word of single bytes beside bytes that are no text decodes to none either.
    assert ChatEncoder(tokenizer).said(loaded.token_ids[0]) == loaded.prefixes[0].text


def test_words_are_injected_as_on_a_new_line_and_blanks_as_they_are_written() -> None:
    tokenizer = tiny_sentencepiece.tokenizer("first")
    encoder = ChatEncoder(tokenizer)
    for text, pieces in (("wait", ["w", "ait"]), (" wait", ["▁wait"]), ("  wait", ["▁", "▁wait"])):
        (bound,) = prefixes.load(f"text:{text}", tokenizer).prefixes
        assert tokenizer.convert_ids_to_tokens(list(bound.token_ids)) == pieces
        assert encoder.said(bound.token_ids) == text
    assert tokenizer.convert_ids_to_tokens(list(encoder.inside("\n"))) == ["<0x0A>"]


def test_ids_of_the_text_alone_still_load_and_no_other_ones_do() -> None:
    tokenizer = tiny_sentencepiece.tokenizer("first")
    alone = tuple(tokenizer.encode("wait, think", add_special_tokens=False))
    written = PrefixArtifact(name="written", prefixes=(Prefix(text="wait, think", token_ids=alone),))
    assert prefixes.bind(written, tokenizer).token_ids == (alone,)
    other = written.replace(prefixes=(Prefix(text="wait, think", token_ids=alone[1:]),))
    with pytest.raises(ArtifactError, match="encodes to"):
        prefixes.bind(other, tokenizer)
