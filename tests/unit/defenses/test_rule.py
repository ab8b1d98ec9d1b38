"""The door: any generator function is a defense, and is held to what it declares."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safethink import defenses
from safethink.config import AlwaysConfig, GuardRefuseConfig, NoneConfig, ResampleOnlyConfig, SafeThinkConfig
from safethink.defenses import Needs
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Extend, Task, Until, Verdict
from safethink.defenses.moves import Move, answer, extend, look, score, weigh
from safethink.defenses.none import undefended
from safethink.errors import ConfigError, DefenseError
from safethink.guarded import SafeThink
from safethink.monitors.function import ConstantMonitor
from safethink.testing.defenses import asks_only_for_what_it_declares
from safethink.tokens import Tokens
from tests.support import chat_reasoner

WORDS = chat_reasoner.encode("Wait")


def plain(task: Task) -> Defense:
    """Think and answer."""
    step = yield from extend(task.start, Until.THOUGHT)
    return (yield from answer(Draft(task.start + step.tokens, stop=step.stop)))


@Needs(scores=False, token_level=False, prefix=False)
def modest(task: Task) -> Defense:
    """Needs nothing."""
    assert task.prefixes == ()
    return (yield from plain(task))


def guarded(defense: defenses.DefenseLike, monitor: ConstantMonitor | None = None) -> SafeThink:
    return SafeThink(chat_reasoner.model(), chat_reasoner.tokenizer(), monitor=monitor, defense=defense)


@pytest.mark.slow
def test_any_generator_function_is_a_defense() -> None:
    built_in = guarded(NoneConfig())("Add 3.")
    assert guarded(plain, ConstantMonitor())("Add 3.").verdict == built_in.verdict
    assert guarded(modest)("Add 3.").verdict == built_in.verdict


@pytest.mark.slow
def test_a_variant_takes_one_and_keeps_it_with_another_prefix() -> None:
    own = guarded(SafeThinkConfig(), ConstantMonitor()).variant(defense=modest)
    assert own.variant(prefix="wait-think-safely").rule.name == "modest"
    assert own("Add 3.").verdict == guarded(NoneConfig())("Add 3.").verdict


def test_one_that_declares_nothing_is_taken_to_score_and_to_inject() -> None:
    assert defenses.build(plain).needs == Needs(scores=True, prefix=True, token_level=False, threshold=None)
    with pytest.raises(ConfigError, match="defense 'plain' needs a monitor, and none was given"):
        guarded(plain)


def test_needs_may_stand_on_an_instance() -> None:
    class Careful:
        needs = Needs(threshold=0.25)

        def __call__(self, task: Task) -> Defense:
            return plain(task)

    assert defenses.build(Careful()).needs == Needs(threshold=0.25)
    assert defenses.build(Careful()).name == "Careful"


@pytest.mark.parametrize("threshold", [1.5, -2.0, float("nan")])
def test_a_threshold_is_a_score(threshold: float) -> None:
    with pytest.raises(ValueError, match="a threshold is a score"):
        Needs(threshold=threshold)
    with pytest.raises(ValueError, match="needs scores"):
        Needs(scores=False, threshold=0.0)


def test_what_is_not_called_with_a_task_is_refused_when_the_run_is_built() -> None:
    def greedy(task: Task, strength: float) -> Defense:
        return plain(task)

    with pytest.raises(ConfigError, match=r"'greedy' is not called with a task alone: missing .* 'strength'"):
        guarded(greedy, ConstantMonitor())
    odd = plain
    with pytest.raises(ConfigError, match="has `needs` that are no Needs, but a str"):
        defenses.build(type("Odd", (), {"__call__": lambda self, task: odd(task), "needs": "everything"})())


@Needs(scores=False)
def scores_anyway(task: Task) -> Move[Verdict]:
    yield from score(task.start)
    return Verdict(Tokens(), Tokens(), closed=False)


def looks_anyway(task: Task) -> Defense:
    yield from look(task.start, 1)
    return Verdict(Tokens(), Tokens(), closed=False)


def weighs_anyway(task: Task) -> Defense:
    yield from weigh(task.start, WORDS)
    return Verdict(Tokens(), Tokens(), closed=False)


def raises(task: Task) -> Defense:
    yield Extend(task.start, Until.STEP)
    raise ZeroDivisionError("nothing to divide")


def no_effect(task: Task):
    yield "think"
    return Verdict(Tokens(), Tokens(), closed=False)


def no_verdict(task: Task):
    yield Extend(task.start, Until.THOUGHT)


def no_generator(task: Task):
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "said"),
    [
        (scores_anyway, r"'scores_anyway' asks for a Score and did not declare it: Needs\(scores=True\)"),
        (looks_anyway, r"'looks_anyway' asks for a Look and did not declare it: Needs\(token_level=True\)"),
        (weighs_anyway, r"'weighs_anyway' asks for a Weigh and did not declare it"),
        (raises, "'raises' failed: ZeroDivisionError: nothing to divide"),
        (no_effect, "'no_effect' yields a str, which is no effect"),
        (no_verdict, "'no_verdict' returned a NoneType, which is no Verdict"),
        (no_generator, "'no_generator' gave a NoneType, and a defense is a generator"),
    ],
)
def test_one_that_breaks_its_word_is_named(defense: Callable[[Task], Defense], said: str) -> None:
    with pytest.raises(DefenseError, match=said) as caught:
        guarded(defense, ConstantMonitor())("Add 3.")
    assert "\n" not in str(caught.value)


def test_one_that_is_started_alone_is_held_to_its_word_too() -> None:
    with pytest.raises(DefenseError, match="'scores_anyway' asks for a Score and did not declare it"):
        next(defenses.start(scores_anyway, Task()))


def test_a_rule_is_built_already() -> None:
    rule = defenses.build(modest)
    assert defenses.build(rule) is rule


def test_one_that_declares_its_needs_is_still_called_with_options_of_its_own() -> None:
    @Needs(threshold=0.0)
    def patient(task: Task, until: Until = Until.STEP) -> Defense:
        yield Extend(task.start, until)
        return Verdict(Tokens(), Tokens(), closed=False)

    assert next(patient(Task(), until=Until.THOUGHT)) == Extend(Tokens(), Until.THOUGHT)
    assert defenses.build(patient).needs == Needs(threshold=0.0)


def test_what_is_closed_early_is_closed_within() -> None:
    closed: list[str] = []

    def waits(task: Task) -> Defense:
        try:
            return (yield from undefended(task))
        finally:
            closed.append("waits")

    running = defenses.start(waits, Task())
    assert isinstance(next(running), Extend)
    running.close()
    assert closed == ["waits"]


def test_built_in_defenses_declare_what_they_ask_for() -> None:
    for config in (NoneConfig(), AlwaysConfig(), GuardRefuseConfig(), ResampleOnlyConfig(), SafeThinkConfig()):
        rule = defenses.build(config)
        assert rule.needs.scores == (config.kind not in ("none", "always"))
        assert rule.needs.prefix == (config.kind in ("always", "safethink"))
        assert rule.needs.threshold == getattr(config, "threshold", None)
        assert not rule.needs.token_level
        asks_only_for_what_it_declares(rule)
    assert defenses.build(SafeThinkConfig(threshold=0.5)).needs == Needs(threshold=0.5)
    assert defenses.build(NoneConfig()).needs == Needs(scores=False, prefix=False)
