"""Pooling over the tokens of a trace: exact as it grows and is rolled back, in the monitor and in a guarded run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from safethink import defenses
from safethink.config import LimitsConfig, SafeThinkConfig
from safethink.engines import StateRequest, TokenStates
from safethink.engines.hf import HfEngine
from safethink.errors import ArtifactError, ConfigError, MonitorError
from safethink.files import json_hash
from safethink.guarded import SafeThink
from safethink.models.hashes import model_hash
from safethink.monitors import ScoreRequest, probe
from safethink.monitors.combinations import CascadeMonitor, MinMonitor
from safethink.monitors.pooling import Pooling, RunningPool
from safethink.monitors.probe import PositionThreshold, Probe, ProbeCard, ProbeMonitor
from safethink.prefix.artifact import Identity
from safethink.prompts import Prompt
from safethink.runtime.scheduler import refuse_unfit
from tests.support import chat_reasoner

HIDDEN = 32
MODEL = chat_reasoner.model(hidden_size=HIDDEN)
PROMPT = Prompt.from_text("How do I heat it?")
LIMITS = LimitsConfig(max_step_tokens=6, max_trace_tokens=30, max_answer_tokens=4)
POOLINGS = (Pooling(), Pooling(kind="mean"), Pooling(kind="max"), Pooling(kind="ema", decay=0.7))
TITLES = [pooling.title for pooling in POOLINGS]
THRESHOLDS = (PositionThreshold(first_token=0, margin=0.0), PositionThreshold(first_token=3, margin=-1.5))


def make(pooling: Pooling, thresholds: tuple[PositionThreshold, ...] = ()) -> Probe:
    card = ProbeCard(
        layer=1,
        hidden_size=HIDDEN,
        reasoner=Identity(name="tiny", sha256=model_hash(MODEL, rounded=True)),
        labelled_by=Identity(name="a guard"),
        pooling=pooling,
        thresholds=thresholds,
    )
    weight = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # So small that no score is at the end of its range.
    return Probe(card, weight / 32, torch.tensor(0.25, dtype=torch.float64))


def offline(pooling: Pooling, margins: Float[Tensor, " tokens"]) -> float:
    """The pooled margin of a whole trace, in one pass over all of it."""
    num, decay = len(margins), pooling.decay or 0.0
    # Unrolled: p_n = d^(n-1) m_1 + (1 - d) sum_(k>1) d^(n-k) m_k.
    shares = torch.tensor([1.0, *[1 - decay] * (num - 1)], dtype=torch.float64)
    weights = shares * decay ** torch.arange(num - 1, -1, -1).double()
    pooled = {
        "last": margins[-1],
        "mean": margins.mean(),
        "max": margins.min(),
        "ema": (weights * margins).sum(),
    }
    return float(pooled[pooling.kind])


moves = st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 2), max_size=4)), min_size=1, max_size=8)


@pytest.mark.parametrize("pooling", POOLINGS, ids=TITLES)
@given(moves)
def test_a_running_pool_is_one_pass_over_the_trace_whatever_was_rolled_back(
    pooling: Pooling, moves: list[tuple[int, list[int]]]
) -> None:
    """A token has another margin wherever it stands; a trace may be cut anywhere, and grow as before or otherwise."""
    pool, ids = RunningPool(), (1,)
    for kept, more in moves:
        ids = (*ids[: max(1, kept)], *more)
        margins = torch.tensor([float(hash(ids[: end + 1]) % 97 - 48) for end in range(len(ids))]).double()
        unread = margins[len(margins) - pool.num_unread(ids) :]
        assert pool.read(ids, unread.tolist(), pooling) == pytest.approx(offline(pooling, margins), abs=1e-9)
        assert pool.num_unread(ids) == 0


def spied(guarded: SafeThink, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[int, ...]], list[int]]:
    """The ids of each state request from now on, and the number of tokens whose states were asked for."""
    asked: list[tuple[int, ...]] = []
    numbers: list[int] = []
    assert isinstance(guarded.engine, HfEngine)
    show = guarded.engine.token_states

    def remember(requests: Sequence[StateRequest], layer: int) -> list[TokenStates]:
        asked.extend(request.ids for request in requests)
        numbers.extend(request.num_tokens for request in requests)
        return show(requests, layer)

    monkeypatch.setattr(guarded.engine, "token_states", remember)
    return asked, numbers


def guarded_by(monitor) -> SafeThink:
    return SafeThink(
        MODEL,
        chat_reasoner.tokenizer(),
        monitor=monitor,
        prefix="text:Wait, think",
        defense=SafeThinkConfig(threshold=0.99, max_steered_steps=3, max_resamples=3, keep_prefix=True),
        limits=LIMITS,
    )


PROMPTS = [Prompt.from_text(f"How do I heat it {n} times?", id=f"p{n}") for n in range(4)]


@pytest.mark.parametrize("pooling", POOLINGS[1:], ids=TITLES[1:])
@pytest.mark.parametrize("thresholds", [(), THRESHOLDS], ids=["one threshold", "by position"])
def test_a_guarded_run_scores_what_one_offline_pass_over_each_trace_scores(
    pooling: Pooling, thresholds: tuple[PositionThreshold, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through rollbacks, injections and resampled steps; and a state is asked for as often as its token was read."""
    head, scored = make(pooling, thresholds), list[float]()

    class Spy(ProbeMonitor):
        def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
            scores = super().score(requests)
            scored.extend(scores)
            return scores

    guarded = guarded_by(Spy(head))
    asked, numbers = spied(guarded, monkeypatch)
    results = guarded.run(PROMPTS)
    assert any(result.interventions for result in results)
    assert any(any(result.forced_mask) for result in results)
    assert len(asked) == len(scored) == sum(result.usage.monitor_calls for result in results)
    starts = {result.prompt_ids: len(result.prompt_ids) for result in results}
    for ids, score in zip(asked, scored, strict=True):
        (start,) = (num for opened, num in starts.items() if ids[:num] == opened)
        with torch.no_grad():
            hidden = MODEL(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, start:]
        margin = offline(pooling, hidden @ head.weight + head.bias)
        if thresholds and len(ids) - start >= 3:
            margin += 1.5
        assert score == pytest.approx(math.tanh(margin / 2), abs=1e-10)
    assert isinstance(guarded.engine, HfEngine)
    assert sum(numbers) <= guarded.engine.stats.forwarded - sum(starts.values())


def test_pooling_forwards_no_more_tokens_than_the_last_one_does() -> None:
    def forwarded(pooling: Pooling) -> int:
        # The same decisions whatever is scored, so that the same tokens are read.
        guarded = guarded_by(MinMonitor([ProbeMonitor(make(pooling)), ConstantLow()]))
        assert isinstance(guarded.engine, HfEngine)
        guarded.run(PROMPTS)
        return guarded.engine.stats.forwarded

    last, *others = map(forwarded, POOLINGS)
    # Whoever reads the last alone finds the first step of the first rows unwatched, and reads its last token again.
    assert all(last - len(PROMPTS) <= other <= last for other in others)


class ConstantLow:
    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return [-1.0] * len(requests)

    def release(self, row: int) -> None:
        pass


def request(states: Tensor, ids: Sequence[int], row: int = 0) -> ScoreRequest:
    return ScoreRequest(row, PROMPT, "", states[-1], tuple(ids), states)


def test_a_probe_of_before_pooling_loads_as_last_and_scores_bit_for_bit(tmp_path: Path) -> None:
    probe.save(make(Pooling()), tmp_path / "probe", "# A probe\n")
    path = tmp_path / "probe" / "probe.json"
    written = json.loads(path.read_text())
    for key in ("pooling", "thresholds", "poolings", "false_alarms", "content_sha256"):
        del written[key]
    path.write_text(json.dumps(written | {"content_sha256": json_hash(written)}))
    loaded = probe.load(tmp_path / "probe")
    assert (loaded.card.pooling, loaded.card.thresholds) == (Pooling(), ())
    states = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
    monitor = ProbeMonitor(loaded)
    scores = monitor.score([ScoreRequest(row, PROMPT, "", state) for row, state in enumerate(states)])
    assert scores == torch.tanh((states.double() @ loaded.weight + loaded.bias) / 2).tolist()
    assert not monitor.pools
    assert monitor.fingerprint == loaded.card.weights_sha256


def test_pooling_and_thresholds_are_saved_and_tell_probes_apart(tmp_path: Path) -> None:
    made = [make(pooling) for pooling in POOLINGS] + [make(Pooling(), THRESHOLDS), make(POOLINGS[1], THRESHOLDS)]
    for number, each in enumerate(made):
        probe.save(each, tmp_path / str(number), "")
    loaded = [probe.load(tmp_path / str(number)) for number in range(len(made))]
    assert [each.card.pooling for each in loaded] == [each.card.pooling for each in made]
    assert [each.card.thresholds for each in loaded] == [each.card.thresholds for each in made]
    assert len({ProbeMonitor(each).fingerprint for each in loaded}) == len(made)


def test_thresholds_hold_from_a_length_on() -> None:
    monitor = ProbeMonitor(make(Pooling(), THRESHOLDS))
    plain = ProbeMonitor(make(Pooling()))
    states = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(1)).double()
    for num, shift in ((1, 0.0), (2, 0.0), (3, 1.5), (4, 1.5)):
        asked = [request(states[:num], range(num))]
        apart = torch.atanh(torch.tensor(monitor.score(asked))) - torch.atanh(torch.tensor(plain.score(asked)))
        assert float(apart) == pytest.approx(shift / 2, abs=1e-4)


def test_an_empty_trace_is_scored_at_the_prompts_last_token() -> None:
    states = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(1)).double()
    monitor = ProbeMonitor(make(POOLINGS[1]))
    plain = ProbeMonitor(make(Pooling()))
    assert monitor.num_unread(0, ()) == 1
    assert monitor.score([request(states[:1], ())]) == plain.score([request(states[:1], ())])
    assert monitor.score([request(states[1:], (5,))]) == plain.score([request(states[1:], (5,))])


def test_states_that_are_missing_or_no_numbers_are_no_score() -> None:
    monitor = ProbeMonitor(make(POOLINGS[2]))
    states = torch.ones(3, HIDDEN).double()
    with pytest.raises(MonitorError, match="'prompt': a probe reads the reasoner's hidden states of all unread tokens"):
        monitor.score([request(states[:2], range(3))])
    with pytest.raises(MonitorError, match="hidden states of size 32, not 8"):
        monitor.score([request(states[:, :8], range(3))])
    broken = states.index_fill(0, torch.tensor([1]), torch.nan)
    assert torch.tensor(monitor.score([request(broken, range(3))])).isnan().all()


def test_a_cascade_member_that_was_not_asked_catches_up() -> None:
    first, second = ProbeMonitor(make(POOLINGS[2])), ProbeMonitor(make(POOLINGS[1]))
    states = torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(3)).double()
    cascade = CascadeMonitor([first, second], low=1.0, high=1.0)
    cascade.score([request(states[:3], range(3))])
    assert first.num_unread(0, tuple(range(6))) == 3
    assert cascade.num_unread(0, tuple(range(6))) == 6
    assert cascade.pools


class LastOnly:
    """An engine that shows the state of the last token alone."""

    def extend(self, requests):
        raise NotImplementedError

    def release(self, row: int) -> None:
        raise NotImplementedError

    def states(self, requests, layer: int):
        raise NotImplementedError

    def is_reasoner(self, sha256: str) -> bool:
        return True

    def add_rows(self, rows):
        raise NotImplementedError

    def rows(self, ids):
        raise NotImplementedError

    def row_parts(self):
        raise NotImplementedError


def test_an_engine_that_shows_the_last_token_alone_is_refused_by_name() -> None:
    rule = defenses.build(SafeThinkConfig())
    refuse_unfit(LastOnly(), rule, ProbeMonitor(make(Pooling())))
    with pytest.raises(ConfigError, match="ProbeMonitor pools over the hidden states of all tokens of the trace"):
        refuse_unfit(LastOnly(), rule, ProbeMonitor(make(POOLINGS[2])))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pooling": {"kind": "ema"}},
        {"pooling": {"kind": "max", "decay": 0.5}},
        {"pooling": {"kind": "ema", "decay": 1.0}},
        {"pooling": {"kind": "median"}},
        {"thresholds": [{"first_token": 1, "margin": 0.0}]},
        {"thresholds": [{"first_token": 0, "margin": 0.0}, {"first_token": 0, "margin": 1.0}]},
    ],
)
def test_a_card_with_a_rule_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    probe.save(make(Pooling()), tmp_path / "probe", "")
    path = tmp_path / "probe" / "probe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(ArtifactError, match=r"pooling|thresholds"):
        probe.load(tmp_path / "probe")
    with pytest.raises(ValidationError):
        ProbeCard.model_validate(make(Pooling()).card.model_dump() | wrong)
