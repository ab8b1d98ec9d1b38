"""Evolution, beams, reflection and PEZ on the shipped reasoner: a few steps, killed in between, to an artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimize.config import (
    BeamConfig,
    ContextsConfig,
    EvolutionConfig,
    MethodConfig,
    RandomConfig,
    ReflectConfig,
    RelaxedConfig,
    SearchConfig,
    SelectionConfig,
)
from optimize.contexts import folder
from optimize.pipeline import learning, setup
from optimize.pipeline.setup import Setup
from optimize.search.journal import LOG, Journal, untimed
from safethink import prefix
from safethink.config import GuardMonitorConfig, LimitsConfig, ReasonerConfig, RunConfig, SamplingConfig
from tests.support.toy_search import Killed

pytestmark = pytest.mark.slow

RUN = RunConfig(
    reasoner=ReasonerConfig(path="testbed"),
    monitor=GuardMonitorConfig(path="testbed"),
    limits=LimitsConfig(max_step_tokens=48, max_trace_tokens=128, max_answer_tokens=32),
)
CONTEXTS = ContextsConfig(prompts=24, harmless_prompts=4, max_contexts=4, best_of=4, target_tokens=12)
SELECTION = SelectionConfig(finalists=2, spread=1, contexts=4, samples=1, forced_prompts=2)
METHODS: dict[str, MethodConfig] = {
    "evolution": EvolutionConfig(length=4, min_length=2, steps=4, candidates=16, population=4, top_k=16, init=None),
    "beam": BeamConfig(length=3, steps=4, candidates=16, beams=4, branches=4, init=None),
    # As hot as it takes for a reasoner that understands no request.
    "reflect": ReflectConfig(
        length=16, steps=4, lists=16, list_tokens=24, init=None, sampling=SamplingConfig(temperature=2.0)
    ),
    "relaxed": RelaxedConfig(length=3, steps=12, learning_rate=0.2, init=None),
    "random": RandomConfig(length=3, steps=4, candidates=16, init=None),
}


def config(method: str, contexts: Path | None = None) -> SearchConfig:
    where = CONTEXTS.replace(path=None if contexts is None else str(contexts))
    return SearchConfig(run=RUN, contexts=where, search=METHODS[method], selection=SELECTION, name=method)


@pytest.fixture(scope="module")
def loaded() -> Setup:
    return setup.load(config("random"))


@pytest.fixture(scope="module")
def contexts(loaded: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "contexts"
    folder.collect(path, loaded.guarded, loaded.data, CONTEXTS, loaded.source)
    return path


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["evolution", "beam", "reflect", "relaxed"])
def test_a_method_learns_a_prefix_and_resumes(
    method: str, loaded: Setup, contexts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, commit, left = tmp_path / "killed", Journal.commit, 2

    def mortal(*args: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        commit(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", mortal)
        with pytest.raises(Killed):
            learning.run(config(method, contexts), loaded, out)
    assert len(lines(out)) == 2
    artifact = learning.run(config(method, contexts), loaded, out)
    whole = learning.run(config(method, contexts), loaded, tmp_path / "whole")
    assert untimed(out / LOG) == untimed(tmp_path / "whole" / LOG)
    assert artifact == whole == prefix.load(out / "artifact", loaded.guarded.tokenizer)
    section = METHODS[method]
    assert all(section.shortest <= len(ids) <= section.length for ids in artifact.token_ids)
    costs = [line["best_cost"]["total"] for line in lines(out) if "best_cost" in line]
    assert min(costs) < costs[0]


def test_beams_read_better_than_random_prefixes(loaded: Setup, contexts: Path, tmp_path: Path) -> None:
    def least_nll(method: str) -> float:
        learning.run(config(method, contexts), loaded, tmp_path / method)
        found = (line["best_cost"]["nll"] for line in lines(tmp_path / method) if len(line.get("best_ids", ())) == 3)
        return min(found)

    assert least_nll("beam") < least_nll("random") - 1
