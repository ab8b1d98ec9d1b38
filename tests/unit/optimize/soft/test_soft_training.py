"""Training rows: they fall, resume and stop as a search does, and leave the reasoner as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import optimize
from optimize.config import SoftConfig
from optimize.pipeline import rounds
from optimize.search.journal import Journal, untimed
from optimize.search.method import Archive
from optimize.selection.trials import Arena
from optimize.soft import training
from optimize.soft.module import TokenEmbeddings
from optimize.soft.training import train
from safethink import prefix as prefixes
from safethink.config import ThoughtConfig
from safethink.engines.hf import HfEngine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.models.hashes import model_hash
from safethink.thinking.format import Thought
from tests.support import architectures, tiny_reasoner
from tests.support.toy_search import Killed
from tests.unit.optimize.pipeline.test_learn import ATTACKS, SECTIONS, TASKS, by_length, contents, small_model

CONFIG = SoftConfig(length=3, steps=12, learning_rate=0.2)
TOKENS_PER_STEP = 10


class Bowl:
    """What rows cost is how far they are from rows that nobody told the training."""

    def __init__(self, hidden_size: int = 32, calls: int | None = None, worth: float = 1.0) -> None:
        self.tokens = 0
        self.moved_to: list[Tensor] = []
        self._aim = torch.randn(hidden_size, generator=torch.Generator().manual_seed(1))
        self._left, self._worth, self._drawn = calls, worth, 0

    def soft_loss(self, rows: Tensor) -> Tensor:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Killed
        self.tokens += TOKENS_PER_STEP
        return self._worth * (rows - self._aim - 0.01 * self._drawn).square().mean()

    def move_to(self, prefix: Tensor) -> None:
        self._drawn += 1

    def state_dict(self) -> dict[str, object]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self._drawn = int(str(state["drawn"]))
        self.tokens += 7  # What was drawn is read once more.


class Words:
    allowed = tuple(range(10, 200))

    def survive(self, candidates):
        return [True] * len(candidates)

    def text(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture
def engine() -> HfEngine:
    thought = Thought(ThoughtConfig(), tiny_reasoner.tokenizer())
    return HfEngine(tiny_reasoner.model(), Stopper(thought, ()), Sampling())


def run(folder: Path, engine: HfEngine, config: SoftConfig = CONFIG, objective=None, start=(), others=()) -> Archive:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, "bowl")
    return train(objective or Bowl(), engine, Words(), config, start, journal, seed=0, others=others)


def lines(folder: Path) -> list[dict]:
    return untimed(folder / "search.jsonl")


def test_rows_fall_from_the_start_and_every_step_is_written_down(engine, tmp_path, capsys):
    archive = run(tmp_path, engine, start=(20, 30))
    log = lines(tmp_path)
    totals = [line["cost"]["total"] for line in log]
    assert [line["step"] for line in log] == list(range(12))
    assert [line["tokens"] for line in log] == [TOKENS_PER_STEP * step for step in range(1, 13)]
    assert totals == sorted(totals, reverse=True)
    assert log[0]["nearest_ids"][:2] == [20, 30], "the first rows are the start's embeddings"
    assert log[0]["text"].startswith("20 30 ")
    assert 0 < totals[-1] < totals[0]
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.jsonl", "search.safetensors"]
    # The best and the last are the same here; of the others every second one.
    assert len(archive) == 6
    best = archive.ranked(3)[0]
    assert archive.costs[best] == totals[-1]
    rows = engine.rows(best)
    assert torch.equal(rows.bfloat16().float(), rows), "rounded as they are published"
    torch.testing.assert_close(Bowl().soft_loss(rows), torch.tensor(totals[-1]), rtol=0.3, atol=0)


@given(st.integers(1, 100_000))
def test_however_long_it_takes_rows_are_kept_evenly_and_none_is_missed(num_steps):
    kept = num_steps // training.spacing(num_steps)
    assert kept <= training.NUM_SPREAD
    assert kept >= min(num_steps, training.NUM_SPREAD // 2)
    assert training.spacing(num_steps + 1) % training.spacing(num_steps) == 0


def test_lightning_clips_the_gradient(engine, tmp_path):
    # Were AdamW given gradients beyond float32, their squares would overflow, and the rows would not move.
    run(tmp_path, engine, objective=Bowl(worth=1e30))
    assert lines(tmp_path)[-1]["cost"]["total"] < 0.99 * lines(tmp_path)[0]["cost"]["total"]


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1, 7, 11])
def test_a_training_killed_at_any_step_goes_on_to_the_same_result(engine, tmp_path, calls):
    whole = run(tmp_path / "whole", engine)
    with pytest.raises(Killed):
        run(tmp_path / "killed", engine, objective=Bowl(calls=calls))
    assert len(lines(tmp_path / "killed")) == calls
    again = run(tmp_path / "killed", engine)
    assert again == whole
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert run(tmp_path / "killed", engine, objective=Bowl(calls=0)) == whole, "nothing is left to do"


@pytest.fixture(params=architectures.PER_LAYER, ids=lambda make: make.__name__)
def per_layer(request: pytest.FixtureRequest) -> HfEngine:
    thought = Thought(ThoughtConfig(), tiny_reasoner.tokenizer())
    return HfEngine(request.param(), Stopper(thought, ()), Sampling())


def test_rows_with_per_layer_inputs_are_trained_and_resumed(per_layer, tmp_path):
    whole = run(tmp_path / "whole", per_layer, objective=Bowl(64), start=(20, 30))
    totals = [line["cost"]["total"] for line in lines(tmp_path / "whole")]
    assert totals == sorted(totals, reverse=True)
    assert lines(tmp_path / "whole")[0]["nearest_ids"][:2] == [20, 30]
    # Steps of one size, as the numbers of each part are large: both have moved about as far, for their size.
    units = TokenEmbeddings(per_layer, Words.allowed).units
    assert units[0] == 1 != units[-1]
    first, last = per_layer.rows((20, 30)), per_layer.rows(whole.ranked()[0])[:2]
    moved = [part.abs().mean().item() for part in ((last - first) / units).split(per_layer.row_parts(), dim=1)]
    assert 0.5 < moved[0] / moved[1] < 2
    with pytest.raises(Killed):
        run(tmp_path / "killed", per_layer, objective=Bowl(64, calls=7), start=(20, 30))
    assert run(tmp_path / "killed", per_layer, objective=Bowl(64), start=(20, 30)) == whole
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


def test_it_ends_when_its_budget_is_spent_or_nothing_gets_better(engine, tmp_path):
    run(tmp_path / "tokens", engine, CONFIG.replace(budget_tokens=4 * TOKENS_PER_STEP))
    assert len(lines(tmp_path / "tokens")) == 4
    fast = CONFIG.replace(learning_rate=200.0, stop_after_steps=3)
    run(tmp_path / "patience", engine, fast)
    assert len(lines(tmp_path / "patience")) == 4


def test_the_norm_penalty_keeps_rows_as_short_as_embeddings(engine, tmp_path):
    surroundings = TokenEmbeddings(engine, Words.allowed)
    rows = engine.rows((20, 30))
    long = rows / rows.norm(dim=1, keepdim=True) * surroundings.typical_norms[0] * 3
    assert surroundings.excess(long).item() == pytest.approx(4.0, rel=1e-5)
    assert surroundings.excess(long / 4).item() == 0
    assert surroundings.nearest(long) == surroundings.nearest(long / 100) == (20, 30)
    for name, weight in (("free", 0.0), ("held", 100.0)):
        run(tmp_path / name, engine, CONFIG.replace(learning_rate=2.0, norm_weight=weight))
    free, held = (lines(tmp_path / name)[-1] for name in ("free", "held"))
    assert held["mean_norm"] < 0.8 * free["mean_norm"]
    assert free["cost"]["norm_penalty"] == 0
    assert held["cost"]["total"] == held["cost"]["objective"] + held["cost"]["norm_penalty"]


def test_it_goes_on_from_rows(engine, tmp_path):
    shorter = run(tmp_path / "two", engine, CONFIG.replace(length=2))
    best = shorter.ranked()[0]
    archive = run(tmp_path / "three", engine, start=best, others=[best])
    assert best in archive
    expected = Bowl().soft_loss(engine.rows(best)).item()
    assert archive.costs[best] == pytest.approx(expected, rel=0.3)
    first, last = lines(tmp_path / "three")[0], lines(tmp_path / "two")[-1]
    assert first["nearest_ids"][:2] == last["nearest_ids"]


def test_tensorboard_gets_the_terms_when_asked(engine, tmp_path):
    run(tmp_path, engine, CONFIG.replace(logger="tensorboard", steps=3))
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_logger_that_is_not_installed_is_named(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("safethink.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs wandb: pip install 'safethink\[loggers\]'"):
        run(tmp_path, engine, CONFIG.replace(logger="wandb"))


# The whole road

SOFT = SoftConfig(length=3, steps=5, init="wait, think", learning_rate=0.05)


def learn(out: Path, model=None, **changes) -> prefixes.PrefixArtifact:
    settings = SECTIONS | {"search": SOFT, "out": out} | changes
    reasoner = model or small_model()
    return optimize.learn(reasoner, tiny_reasoner.tokenizer(), by_length, [*ATTACKS, *TASKS], **settings)


def killed_once(folder: Path, monkeypatch, owner, method: str, calls: int, search: SoftConfig) -> None:
    """Learn, killed in the call of `method` after so many, and once more."""
    original, left = getattr(owner, method), calls

    def mortal(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, mortal)
        with pytest.raises(Killed):
            learn(folder, search=search)
    learn(folder, search=search)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("soft")
    learn(folder)
    return folder


def test_a_soft_artifact_is_learned_and_guards(run_folder):
    artifact = prefixes.load(run_folder / "artifact")
    assert artifact.kind == "soft"
    (rows,) = artifact.soft_rows
    assert rows.shape == (3, 16)
    assert rows.dtype == torch.bfloat16
    assert {"recovery_rate", "lift", "target_found"} <= set(artifact.metrics)
    assert "survival" not in artifact.metrics
    card = (run_folder / "artifact" / "README.md").read_text()
    assert "3 embedding rows, near `" in card
    guarded = SafeThink(
        small_model(), tiny_reasoner.tokenizer(), monitor=by_length, prefix=artifact, limits=SECTIONS["limits"]
    )
    notes = [note for result in guarded.run(ATTACKS[:6]) for note in result.interventions]
    assert notes
    assert guarded.prefix.soft_rows


@pytest.mark.slow
@pytest.mark.parametrize("make", architectures.PER_LAYER)
def test_a_soft_artifact_is_learned_where_layers_read_inputs_of_their_own(make, tmp_path):
    tokenizer = tiny_reasoner.tokenizer()
    artifact = learn(tmp_path, make(len(tokenizer)).float(), search=SOFT)
    assert artifact.kind == "soft"
    assert artifact.soft_rows[0].shape == (3, 64)


@pytest.mark.slow
def test_the_reasoner_is_left_as_it_was(tmp_path):
    model = small_model().train()
    before = model_hash(model), [parameter.requires_grad for parameter in model.parameters()]
    learn(tmp_path, model)
    assert (model_hash(model), [parameter.requires_grad for parameter in model.parameters()]) == before
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "method", "calls"),
    [(Journal, "commit", 2), (rounds, "_measure", 0), (Arena, "try_out", 3), (prefixes, "save", 0)],
)
def test_a_run_killed_anywhere_continues_to_the_same_result(run_folder, tmp_path, monkeypatch, owner, method, calls):
    killed_once(tmp_path, monkeypatch, owner, method, calls, SOFT)
    assert contents(tmp_path) == contents(run_folder)


@pytest.mark.slow
def test_it_starts_from_an_artifact_and_a_hard_search_does_not(run_folder, tmp_path):
    place = str(run_folder / "artifact")
    longer = learn(tmp_path / "longer", search=SOFT.replace(init=place, length=4))
    assert len(longer.token_ids[0]) == 4
    assert "recovery_gain_over_init" in longer.metrics
    with pytest.raises(ConfigError, match=r"has 3 tokens, search\.length is 2"):
        learn(tmp_path / "shorter", search=SOFT.replace(init=place, length=2))
    with pytest.raises(ConfigError, match=r"is a soft prefix, from which only search\.kind soft starts"):
        learn(tmp_path / "hard", search=SECTIONS["search"].replace(init=place))


@pytest.mark.slow
def test_rounds_start_from_the_rows_of_the_last_one(tmp_path):
    contexts = SECTIONS["contexts"].replace(refresh_every_steps=3)
    artifact = learn(tmp_path, contexts=contexts)
    assert artifact.kind == "soft"
    log = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    assert [(line["round"], line["step"]) for line in log] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


# To a hard prefix

HARDENED = SOFT.replace(harden=True)


@pytest.fixture(scope="module")
def hardened(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    learn(folder, search=HARDENED)
    return folder


def test_a_hard_prefix_is_made_from_the_rows_and_says_what_it_lost(hardened):
    artifact = prefixes.load(hardened / "artifact", tiny_reasoner.tokenizer())
    assert artifact.kind == "hard"
    assert len(artifact.token_ids[0]) == 3
    assert {"discretisation_gap", "recovery_rate", "survival"} <= set(artifact.metrics)
    assert "| `discretisation_gap` |" in (hardened / "artifact" / "README.md").read_text()
    written = json.loads((hardened / "rounds" / "hard" / "hardened.json").read_text())
    assert written["discretisation_gap"] == written["hard_cost"] - written["soft_cost"]
    assert written["hard_cost"] <= (written["nearest_cost"] or written["hard_cost"])
    tried = [json.loads(line) for line in (hardened / "selection.jsonl").read_text().splitlines()]
    recovered = {tuple(each["prefix_ids"]): sum(each["recovered"]) / len(each["recovered"]) for each in tried}
    lost = recovered[tuple(written["soft_ids"])] - recovered[artifact.token_ids[0]]
    assert artifact.metrics["discretisation_gap"].value == pytest.approx(lost)
    stages = [json.loads(line)["round"] for line in (hardened / "search.jsonl").read_text().splitlines()]
    assert stages[:5] == [0] * 5
    assert set(stages[5:]) == {"hard"}


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "method", "calls"), [(Journal, "commit", 5), (Arena, "try_out", 2)])
def test_hardening_killed_anywhere_continues_to_the_same_result(hardened, tmp_path, monkeypatch, owner, method, calls):
    killed_once(tmp_path, monkeypatch, owner, method, calls, HARDENED)
    assert contents(tmp_path) == contents(hardened)
