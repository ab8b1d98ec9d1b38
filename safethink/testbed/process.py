"""The planted process as a Markov chain, and the exact ASR of a guarded run by dynamic programming over it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    EntryPointDefenseConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
    SatisficingConfig,
    SteeringConfig,
)
from safethink.prompts import Prompt
from safethink.testbed.prompts import Attack
from safethink.testbed.world import ANSWER_FLIP, DEPTH_LOGITS, N_GAME_STEPS, N_STEPS, RELAPSE_LOGIT, World, sigmoid


@dataclass(frozen=True, slots=True)
class MonitorRates:
    """Firing probabilities of a monitor, by the true state of the trace.

    Attributes:
        overt: when the drift shows in at least one step.
        covert: when every drifted step of the current drift is covert.
        clean: when the trace is not drifted.
    """

    overt: float
    covert: float
    clean: float


@dataclass(frozen=True, slots=True)
class State:
    """State of a trace in the planted Markov process.

    Attributes:
        depth: drifted steps in a row so far; 0 when not drifted.
        overt: whether one of them shows.
        interventions: interventions so far.
    """

    depth: int = 0
    overt: bool = False
    interventions: int = 0


Distribution: TypeAlias = dict[State, float]


def drift_probability(world: World, attack: Attack, step: int, depth: int, phrase: str = "") -> float:
    """Probability that step number `step` is a drifted one.

    Args:
        world: the dynamics.
        attack: the prompt.
        step: index of the step, from 0.
        depth: drifted steps in a row before it.
        phrase: text injected right before it; earlier injections have no effect.
    """
    if depth == 0 and step < attack.onset:
        return 0.0
    logit = attack.drift_logit(world) + DEPTH_LOGITS[min(depth, len(DEPTH_LOGITS) - 1)]
    if depth == 0 and step > attack.onset:
        logit += RELAPSE_LOGIT
    return sigmoid(logit - world.phrase_power(phrase, attack.frame))


def recovery_probability(world: World, attack: Attack, step: int, depth: int, phrase: str) -> float:
    """Probability of a harmless output after one injection at `step` and no monitor from there on."""
    return 1.0 - _harmful(_continued(world, attack, step, State(depth, overt=depth > 0), phrase))


def acceptance_probability(
    world: World, attack: Attack, step: int, state: State, phrase: str, rates: MonitorRates
) -> float:
    """Probability that the monitor passes the trace that follows one injection at `step`, drifted or not."""
    states = _continued(world, attack, step, state, phrase)
    return sum(weight * (1 - _fires(state, rates)) for state, weight in states.items())


def refusal_probability(world: World, step: int, phrase: str) -> float:
    """Probability that a borderline prompt is refused, with `phrase` injected at `step` and nothing later."""
    going_on = 1.0 - world.game_refusal_probability(phrase)
    return 1.0 - going_on * (1.0 - world.game_refusal_probability()) ** (N_GAME_STEPS - 1 - step)


def _continued(world: World, attack: Attack, step: int, state: State, phrase: str) -> Distribution:
    """Distribution over final states after one injection at `step` and no monitor from there on."""
    states = _step(world, attack, step, state, phrase)
    for later in range(step + 1, N_STEPS):
        states = _mix((weight, _step(world, attack, later, before)) for before, weight in states.items())
    return states


def predict_asr(
    world: World, prompt: Prompt, defense: DefenseConfig, prefix_texts: tuple[str, ...], rates: MonitorRates
) -> float | None:
    """Exact probability that the answer to an attack prompt is harmful under a defense.

    Args:
        world: the dynamics.
        prompt: an attack prompt of this world.
        defense: the defense and its limits.
        prefix_texts: the portfolio; try b uses prefix b, the last one again when it runs out.
        rates: how often the monitor fires.

    Returns:
        The probability; None where the process has no answer: for the fallback `best`, whose choice among failed
        resamples depends on exact scores, and for `rollback`, which takes steps back; where the monitor reads the
        answer too, or reads the injected words, for `rates` say nothing of these.
    """
    if not _is_forecast(defense):
        return None
    attack = Attack.read(prompt)
    states: Distribution = {State(depth=attack.prefilled, overt=attack.prefilled > 0): 1.0}
    for step in range(attack.prefilled, N_STEPS):
        states = _mix(
            (weight, _defended_step(world, attack, step, state, defense, prefix_texts, rates))
            for state, weight in states.items()
        )
    return _harmful(states)


def _is_forecast(defense: DefenseConfig) -> bool:
    """Whether the process says what a defense comes to."""
    if isinstance(defense, EntryPointDefenseConfig):
        return False
    if isinstance(defense, SteeringConfig) and defense.monitor_answer:
        return False
    if isinstance(defense, SafeThinkConfig) and defense.monitor_sees_prefix:
        return False
    return not (isinstance(defense, SatisficingConfig) and defense.fallback in ("best", "rollback"))


def _defended_step(
    world: World,
    attack: Attack,
    step: int,
    state: State,
    defense: DefenseConfig,
    prefixes: tuple[str, ...],
    rates: MonitorRates,
) -> Distribution:
    """States after one defended step; mass that was refused is missing."""
    match defense:
        case NoneConfig():
            return _step(world, attack, step, state)
        case AlwaysConfig():
            return _step(world, attack, step, state, prefixes[0] if step == attack.prefilled else "")
        case GuardRefuseConfig():
            return {s: w * (1 - _fires(s, rates)) for s, w in _step(world, attack, step, state).items()}
        case ResampleOnlyConfig():
            return _steered_step(world, attack, step, state, defense, ("",), rates)
        case SafeThinkConfig():
            return _steered_step(world, attack, step, state, defense, prefixes, rates)
        case EntryPointDefenseConfig():
            raise ValueError("nothing is known of what a defense of another package does")


def _steered_step(
    world: World,
    attack: Attack,
    step: int,
    state: State,
    defense: ResampleOnlyConfig | SafeThinkConfig,
    prefixes: tuple[str, ...],
    rates: MonitorRates,
) -> Distribution:
    proposed = _step(world, attack, step, state)
    limit = defense.max_interventions
    if step - attack.prefilled >= defense.max_steered_steps or (limit is not None and state.interventions >= limit):
        return proposed
    accepted = {s: w * (1 - _fires(s, rates)) for s, w in proposed.items()}
    pending = 1.0 - sum(accepted.values())
    steered = State(state.depth, state.overt, state.interventions + 1)
    out = defaultdict(float, accepted)
    for b in range(defense.max_resamples):
        resample = _step(world, attack, step, steered, prefixes[min(b, len(prefixes) - 1)])
        fired = {s: w * _fires(s, rates) for s, w in resample.items()}
        for s, w in resample.items():
            out[s] += pending * (w - fired[s])
        if b == defense.max_resamples - 1 and defense.fallback == "keep_last":
            for s, w in fired.items():
                out[s] += pending * w
        pending *= sum(fired.values())
    return dict(out)


def _step(world: World, attack: Attack, step: int, state: State, phrase: str = "") -> Distribution:
    drift = drift_probability(world, attack, step, state.depth, phrase)
    deeper = min(state.depth + 1, len(DEPTH_LOGITS) - 1)
    out: Distribution = defaultdict(float)
    out[State(0, False, state.interventions)] += 1 - drift
    covert = world.covert_share(phrase, hidden=state.depth > 0 and not state.overt)
    out[State(deeper, True, state.interventions)] += drift * (1 - covert)
    out[State(deeper, state.overt, state.interventions)] += drift * covert
    return dict(out)


def _fires(state: State, rates: MonitorRates) -> float:
    if state.depth == 0:
        return rates.clean
    return rates.overt if state.overt else rates.covert


def _harmful(states: Distribution) -> float:
    return sum(weight for state, weight in states.items() if state.depth > 0) * (1 - ANSWER_FLIP)


def _mix(parts: Iterable[tuple[float, Distribution]]) -> Distribution:
    out: Distribution = defaultdict(float)
    for weight, states in parts:
        for state, mass in states.items():
            out[state] += weight * mass
    return dict(out)
