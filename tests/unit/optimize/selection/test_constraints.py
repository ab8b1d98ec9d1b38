"""Floors that no recovery buys off."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.selection.constraints import Constraints
from optimize.selection.trials import choose_finalist
from safethink.prefix import Metric

SHARES = st.floats(-1, 1)
LISTS = st.lists(st.tuples(st.floats(0, 1), SHARES, SHARES), min_size=1, max_size=8)


def both(*losses: float, limit: float = 0.05) -> list[Constraints]:
    return [Constraints(loss, 0.0, limit) for loss in losses]


def test_the_best_recovery_within_the_floor_is_chosen():
    assert choose_finalist([0.7, 0.95, 0.9], both(0.0, 0.2, 0.01)) == 2
    assert choose_finalist([0.9, 0.9], both(0.05, 0.0)) == 0
    assert choose_finalist([0.7, 0.95, 0.9], both(0.3, 0.2, 0.1)) == 2


def test_a_floor_that_is_hit_exactly_holds_however_it_was_added_up():
    by_means = Constraints(22 / 40 - 20 / 40, 0.0, 0.05)
    by_pairs = Constraints(sum([1] * 2 + [0] * 38) / 40, 0.0, 0.05)
    assert by_means.satisfied
    assert by_pairs.satisfied
    assert not Constraints(0.0501, 0.0, 0.05).satisfied


def test_either_floor_alone_rules_a_candidate_out():
    assert choose_finalist([0.9, 0.1], [Constraints(0.0, 0.2, 0.05), Constraints(0.0, 0.0, 0.05)]) == 1
    assert choose_finalist([0.9, 0.1], [Constraints(0.2, 0.0, 0.05), Constraints(0.0, 0.0, 0.05)]) == 1


@given(LISTS)
def test_whoever_is_chosen_is_feasible_where_anyone_is_and_best_among_those(rows):
    constraints = [Constraints(fall, rise, 0.1) for _, fall, rise in rows]
    recoveries = [recovery for recovery, *_ in rows]
    chosen = choose_finalist(recoveries, constraints)
    feasible = [recoveries[index] for index, each in enumerate(constraints) if each.satisfied]
    assert constraints[chosen].satisfied or not feasible
    assert not feasible or recoveries[chosen] == max(feasible)


@given(SHARES, SHARES, st.floats(0, 1))
def test_a_violation_is_above_zero_exactly_where_a_floor_is_missed(fall, rise, limit):
    constraints = Constraints(fall, rise, limit)
    assert constraints.satisfied == all(value <= 0 for value in constraints.violations.values())


def test_optuna_takes_the_violations_as_they_are():
    def objective(trial: optuna.Trial) -> float:
        cost = trial.suggest_float("cost", 0.0, 0.3)
        for name, violation in Constraints(cost, 0.02, 0.05).violations.items():
            trial.set_constraint(name, violation)
        return cost

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=20)
    assert study.best_value == pytest.approx(max(t.params["cost"] for t in study.trials if t.params["cost"] <= 0.05))


def test_constraints_say_by_how_much_the_floor_is_missed():
    def metric(value: float) -> Metric:
        return Metric(value=value, low=value, high=value, n=10)

    measured = {"accuracy_forced_change": metric(-0.10), "over_refusal_forced_change": metric(0.02)}
    violations = Constraints.of(measured, limit=0.05).violations
    assert violations == pytest.approx({"accuracy_forced": 0.05, "over_refusal_forced": -0.03})


def test_a_prefix_that_misses_the_floor_says_so_in_one_sentence():
    assert Constraints(0.05, 0.0, 0.05).missed is None
    assert Constraints(0.286, 0.222, 0.1).missed == (
        "No finalist stayed within the floor: it costs harmless prompts 0.286, above 0.1."
    )
