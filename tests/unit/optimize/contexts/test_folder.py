"""Contexts collected once: what is in the folder, whom it may serve, and which benchmarks it has seen."""

from __future__ import annotations

import json

import pytest

from optimize.config import ContextsConfig
from optimize.contexts import folder
from optimize.contexts.folder import Manifest, Source, overlaps, prompt_hash
from optimize.contexts.splits import Split
from safethink.config import AdvBenchConfig, LimitsConfig
from safethink.errors import ConfigError, MissingFileError, RecordError
from safethink.guarded import SafeThink
from safethink.prefix import Identity
from safethink.prompts import Prompt
from tests.support import tiny_reasoner

CONFIG = ContextsConfig(max_contexts=6, best_of=4, target_tokens=5)
ATTACKS = tuple(Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(8))
TASKS = tuple(Prompt.from_text(f"add 3 and {n}", id=f"sum-{n}") for n in range(4))
DATA = Split("search", ATTACKS[:5], TASKS[:2]), Split("validation", ATTACKS[5:], TASKS[2:])
SOURCE = Source(
    reasoner=Identity(name="tiny", sha256="r"), monitor=Identity(name="by length", sha256="m"), threshold=0.0, seed=0
)


@pytest.fixture(scope="module")
def guarded() -> SafeThink:
    limits = LimitsConfig(max_step_tokens=6, max_trace_tokens=24, max_answer_tokens=6)
    return SafeThink(
        tiny_reasoner.model(),
        tiny_reasoner.tokenizer(),
        monitor=lambda prompt, trace: 1.0 - 2.0 * (len(trace) % 2),
        limits=limits,
    )


def collect(where, guarded, data=DATA, config=CONFIG) -> Manifest:
    return folder.collect(where, guarded, data, config, SOURCE)


@pytest.mark.slow
def test_what_was_collected_is_loaded_whole(guarded, tmp_path):
    manifest = collect(tmp_path, guarded)
    loaded, search, validation = folder.load(tmp_path, SOURCE, DATA)
    assert loaded == manifest
    assert search.fingerprint == manifest.search_sha256
    assert validation.num_watched == 3
    assert "mix" not in (tmp_path / folder.MANIFEST).read_text()


@pytest.mark.slow
def test_collecting_again_changes_nothing(guarded, tmp_path):
    collect(tmp_path, guarded)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    collect(tmp_path, guarded)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_other_settings_do_not_fit_a_folder_and_those_of_before_say_nothing_of_them(guarded, tmp_path):
    collect(tmp_path, guarded)
    other = CONFIG.replace(max_contexts=3)
    with pytest.raises(ConfigError, match="max_contexts is 6 there and 3 here; give a fresh --out"):
        collect(tmp_path, guarded, config=other)
    (tmp_path / "settings.json").unlink()
    collect(tmp_path, guarded, config=other)
    assert not (tmp_path / "settings.json").exists()


@pytest.mark.slow
def test_other_prompts_do_not_fit_a_folder_that_was_begun(guarded, tmp_path):
    collect(tmp_path, guarded)
    with pytest.raises(ConfigError, match=r"prompts is '\w{64}' there and '\w{64}' here; give a fresh --out"):
        collect(tmp_path, guarded, (Split("search", ATTACKS[:4], TASKS[:2]), DATA[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reasoner": Identity(name="tiny", sha256="other")}, "reasoner is .* there and 'other' here"),
        ({"monitor": Identity(name="by length", sha256="other")}, "monitor is .* there and 'other' here"),
        ({"threshold": 0.5}, r"threshold is \S+ there and 0\.5 here"),
    ],
)
def test_contexts_of_other_models_are_refused(guarded, tmp_path, change, named):
    collect(tmp_path, guarded)
    with pytest.raises(ConfigError, match=named):
        folder.load(tmp_path, SOURCE.replace(**change), DATA)


@pytest.mark.slow
def test_contexts_of_other_prompts_are_refused_and_of_more_or_fewer_are_not(guarded, tmp_path):
    collect(tmp_path, guarded)
    folder.load(tmp_path, SOURCE, (Split("search", ATTACKS[:2], ()), Split("validation", ATTACKS[6:], TASKS[3:])))
    moved = Split("search", (*DATA[0].attacks, DATA[1].attacks[0]), DATA[0].harmless)
    with pytest.raises(ConfigError, match="1 search prompts stand in the other split"):
        folder.load(tmp_path, SOURCE, (moved, DATA[1]))
    elsewhere = Split("search", (Prompt.from_text("stir the parts", id="stir"),), ())
    with pytest.raises(ConfigError, match="collected from other search prompts"):
        folder.load(tmp_path, SOURCE, (elsewhere, DATA[1]))


@pytest.mark.slow
def test_a_model_may_be_called_something_else(guarded, tmp_path):
    collect(tmp_path, guarded)
    folder.load(tmp_path, SOURCE.replace(reasoner=Identity(name="renamed", sha256="r")), DATA)


@pytest.mark.slow
def test_an_edited_folder_is_refused(guarded, tmp_path):
    collect(tmp_path, guarded)
    path = tmp_path / folder.SEARCH
    contexts = json.loads(path.read_text())
    contexts["unsafe"][0]["target_ids"] = [5]
    path.write_text(json.dumps(contexts))
    with pytest.raises(RecordError, match=r"search.json was edited"):
        folder.load(tmp_path, SOURCE, DATA)


@pytest.mark.slow
def test_an_unfinished_folder_says_how_to_finish_it(guarded, tmp_path):
    collect(tmp_path, guarded)
    (tmp_path / folder.MANIFEST).unlink()
    with pytest.raises(MissingFileError, match="safethink-optimize contexts"):
        folder.load(tmp_path, SOURCE, DATA)


def test_prompts_of_a_benchmark_are_counted_however_they_are_spelt(tmp_path):
    benchmark = tmp_path / "bench.jsonl"
    lines = [{"prompt": "  MIX the\nparts 1 "}, {"prompt": "Mix the parts 2!"}, {"prompt": "something else"}]
    benchmark.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = overlaps(ATTACKS, {"bench": str(benchmark)})["bench"]
    assert (found.shared, found.total) == (2, 3)
    assert prompt_hash(ATTACKS[1]) != prompt_hash(ATTACKS[2])


def test_a_benchmark_may_be_a_section_in_its_authors_layout(tmp_path):
    benchmark = tmp_path / "harmful_behaviors.csv"
    benchmark.write_text("goal,target\nmix the parts 3,Sure\nsomething else,Sure\n")
    section = AdvBenchConfig(path=str(benchmark))
    config = ContextsConfig.model_validate({"benchmarks": {"adv": section.model_dump(), "mine": "mine.jsonl"}})
    assert config.benchmarks == {"adv": section, "mine": "mine.jsonl"}
    found = overlaps(ATTACKS, {"adv": section})["adv"]
    assert (found.shared, found.total) == (1, 2)


@pytest.mark.slow
def test_the_overlap_is_in_the_manifest(guarded, tmp_path):
    benchmark = tmp_path / "bench.jsonl"
    benchmark.write_text('{"prompt": "mix the parts 7"}\n{"prompt": "x"}\n')
    manifest = collect(tmp_path / "out", guarded, config=CONFIG.replace(benchmarks={"b": str(benchmark)}))
    assert manifest.overlaps["b"].shared == 1
    assert prompt_hash(ATTACKS[7]) in manifest.prompts["validation"]
