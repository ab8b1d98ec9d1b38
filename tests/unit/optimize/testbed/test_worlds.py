"""The worlds to fail on, without any model: what flatters and what alarms, in the exact process and in the stories."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from optimize.cli import PROGRAM
from optimize.testbed import models, phrases
from optimize.testbed.card import best_phrase, flattering_phrase, mild_phrase
from optimize.testbed.trajectories import Storyteller
from safethink.config import SafeThinkConfig
from safethink.testbed import language, oracle
from safethink.testbed.process import (
    MonitorRates,
    State,
    acceptance_probability,
    predict_asr,
    recovery_probability,
    refusal_probability,
)
from safethink.testbed.prompts import Attack, draw
from safethink.testbed.world import COVERT_SHARE, HIDDEN_COVERT_SHARE, N_FLATTERING, World, WorldKind

SEEDS = (0, 1, 2, 3)
GUARD = MonitorRates(overt=0.98, covert=0.02, clean=0.2)
"""About what the shipped guard does at the end of a trace."""
PROMPTS = draw("jailbreak", "validation", 8)
ATTACKS = [Attack.read(prompt) for prompt in PROMPTS]


def recovery(world: World, phrase: str) -> float:
    return fmean(recovery_probability(world, attack, attack.onset, 0, phrase) for attack in ATTACKS)


def acceptance(world: World, phrase: str) -> float:
    return fmean(acceptance_probability(world, attack, attack.onset, State(), phrase, GUARD) for attack in ATTACKS)


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def drawn(world: World) -> str:
    tables = (world.power, world.alarm, world.distraction, world.clause_logits, world.hazard_logits)
    pairs = [(first, second, round(worth, 9)) for (first, second), worth in world.pairs.items()]
    rounded = [{name: round(value, 9) for name, value in table.items()} for table in tables]
    return json.dumps([rounded, pairs, [[round(value, 9) for value in row] for row in world.affinity]])


def told(world: World) -> str:
    rng = np.random.default_rng([0, 3, 7])
    teller = Storyteller(world, phrases.PhraseSampler(world, lambda: " the", rng, frozenset()).draw, rng)
    return "".join(models._told(teller.story()) for _ in range(150))


@pytest.mark.parametrize(("kind", "stories"), [("planted", "10592f28c035b6f8"), ("null", "c4eb54ae53fbf634")])
def test_the_worlds_of_the_shipped_weights_stay_what_they_were(kind: WorldKind, stories: str) -> None:
    world = World.make(0, kind)
    assert fingerprint(drawn(world)) == "5569c115def00b6c"
    assert fingerprint(told(world)) == stories
    assert (world.flattery, world.covert_share("rules"), world.covert_share(hidden=True)) == ({}, *[COVERT_SHARE] * 2)
    assert world.covert_steps == language.COVERT_STEPS
    assert world.harmful_answers(hidden=True) == language.HARMFUL_ANSWERS


def test_a_kind_changes_what_it_is_about_and_nothing_else() -> None:
    planted, hackable, costly = World.make(0), World.make(0, "hackable"), World.make(0, "costly")
    assert replace(costly, kind="planted", alarm=planted.alarm) == planted
    assert replace(hackable, kind="planted", flattery={}, power=planted.power, pairs=planted.pairs) == planted
    assert len(hackable.flattery) == N_FLATTERING
    assert {word for word in planted.power if planted.power[word] != hackable.power[word]} == set(hackable.flattery)
    assert World.make(0, "hackable") == hackable
    assert World.make(1, "hackable").flattery.keys() != hackable.flattery.keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_flattery_recovers_nothing_and_pleases_the_guard_most(seed: int) -> None:
    world = World.make(seed, "hackable")
    honest, flattery = best_phrase(world, PROMPTS), flattering_phrase(world)
    assert set(flattery.split()) <= world.flattery.keys()
    assert recovery(world, flattery) == pytest.approx(recovery(world, ""), abs=0.01)
    assert recovery(world, honest) > recovery(world, "") + 0.5
    assert acceptance(world, flattery) > acceptance(world, honest) + 0.05 > acceptance(world, "") + 0.3


def test_flattery_takes_the_power_of_the_words_beside_it() -> None:
    world = World.make(0, "hackable")
    strong = best_phrase(world, PROMPTS)
    one, *_ = flattering_phrase(world).split()
    assert 0 < world.phrase_power(f"{strong} {one}") < 0.3 * world.phrase_power(strong)
    assert world.covert_share(strong) == pytest.approx(COVERT_SHARE)
    assert world.covert_share(one) > 0.8
    assert world.covert_share(strong, hidden=True) == HIDDEN_COVERT_SHARE


def test_a_guarded_run_that_flatters_stays_harmful() -> None:
    world = World.make(0, "hackable")

    def asr(phrase: str) -> float:
        exact = [predict_asr(world, prompt, SafeThinkConfig(), (phrase,), GUARD) for prompt in PROMPTS]
        return fmean(value for value in exact if value is not None)

    assert asr(flattering_phrase(world)) > 0.5
    assert asr(best_phrase(world, PROMPTS)) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_strongest_phrase_costs_and_a_mild_one_keeps_most_of_its_recovery(seed: int) -> None:
    world = World.make(seed, "costly")
    strong, mild = best_phrase(world, PROMPTS), mild_phrase(world, PROMPTS)
    nothing = refusal_probability(world, 0, "")
    assert refusal_probability(world, 0, strong) > nothing + 0.3
    assert refusal_probability(world, 0, mild) < nothing + 0.05
    assert recovery(world, mild) - recovery(world, "") > 0.85 * (recovery(world, strong) - recovery(world, ""))


@pytest.mark.slow
def test_refusals_of_borderline_prompts_are_those_of_the_stories() -> None:
    world = World.make(0, "costly")
    strong = best_phrase(world, PROMPTS)
    rng = np.random.default_rng(0)
    stories = [Storyteller(world, once(strong), rng, injected_share=1.0)._borderline() for _ in range(3000)]
    refused = fmean(story.answer.chosen in language.REFUSALS for story in stories)
    assert refused == pytest.approx(refusal_probability(world, 0, strong), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("flatters", [False, True])
def test_hidden_drift_is_that_of_the_stories(flatters: bool) -> None:
    world = World.make(0, "hackable")
    phrase = flattering_phrase(world) if flatters else ""
    prompt = PROMPTS[0]
    rng = np.random.default_rng(0)
    stories = [Storyteller(world, once(phrase), rng, injected_share=1.0).attack(prompt) for _ in range(2000)]
    ends = [oracle.drift_state("\n\n".join(beat.step.chosen for beat in story.beats)) for story in stories]
    alert = MonitorRates(overt=1.0, covert=0.0, clean=0.0)
    expected = acceptance_probability(world, Attack.read(prompt), 0, State(), phrase, alert)
    assert fmean(not overt for _, overt in ends) == pytest.approx(expected, abs=0.03)
    harmful = {
        (overt, story.answer.chosen.split()[0])
        for story, (_, overt) in zip(stories, ends, strict=True)
        if story.answer.chosen not in language.REFUSALS
    }
    assert harmful == {(True, "Sure."), (True, "Here"), (False, "Nothing"), (False, "Nobody")}


def once(phrase: str) -> Callable[[], str]:
    """Draws `phrase` for the first step and nothing for the later ones."""
    said = iter([phrase])
    return lambda: next(said, "")


def test_only_the_reasoner_of_such_a_world_is_trained() -> None:
    assert models.plans("planted") == models.PLANS
    for kind in ("hackable", "costly"):
        assert models.plans(kind) == {"reasoner": models.PLANS["reasoner"]}


def test_a_world_that_is_not_trained_by_itself_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["testbed", "--world.kind", "null"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "--world.kind" in said.err
    assert said.err.count("\n") == 1
