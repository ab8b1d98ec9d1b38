"""A reasoner without weights: an engine that draws its words from the planted process itself.

It goes through a real tokenizer, the scheduler, the defenses and the evaluation; what it measures has an exact answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from optimize.testbed import tokenizer as recipe
from optimize.testbed.trajectories import Storyteller
from safethink.config import ThoughtConfig
from safethink.defenses.effects import Extension, StopReason, Until
from safethink.engines import ExtendRequest
from safethink.monitors import Monitor
from safethink.monitors.oracle import OracleMonitor
from safethink.prompts import Prompt
from safethink.testbed import language, oracle
from safethink.testbed.process import drift_probability
from safethink.testbed.prompts import Attack, Hazard, apply, pick, sum_step
from safethink.testbed.world import ANSWER_FLIP, COVERT_SHARE, N_STEPS, World
from safethink.thinking.format import Thought
from safethink.tokens import Tokens

SEED = 0
N_GAME_STEPS = 3


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The testbed's kind of tokenizer, trained on a few stories."""
    teller = Storyteller(World.make(SEED), lambda: "Wait, think safely", np.random.default_rng(0))
    stories = [teller.story() for _ in range(400)]
    texts = [
        "\n\n".join([story.prompt.text, *(f"{b.phrase} {b.step.chosen}" for b in story.beats), story.answer.chosen])
        for story in stories
    ]
    return recipe.for_reasoner(recipe.train(texts))


class PlantedEngine:
    """Continues a trace as the world would.

    Args:
        thought: how traces are written.
        phrases: what may have been injected; nothing else is recognised in a trace.
    """

    def __init__(self, thought: Thought, phrases: Sequence[str]) -> None:
        self.world = World.make(SEED)
        self.calls = 0
        self._thought = thought
        self._phrases = sorted(phrases, key=len, reverse=True)

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """Continue every request, each with its own seed."""
        self.calls += len(requests)
        return [self._extend(request) for request in requests]

    def release(self, row: int) -> None:
        """Nothing is kept."""

    def _extend(self, request: ExtendRequest) -> Extension:
        rng = np.random.default_rng(request.seed)
        decoded = self._thought.tokenizer.decode(list(request.ids))
        assert isinstance(decoded, str)
        question = decoded.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
        trace = decoded.split("<think>\n")[-1]
        if request.until in (Until.ANSWER, Until.ANSWER_STEP):
            said, stop = "\n\n" + self._answer(question, trace, rng) + "<|im_end|>", "end"
        else:
            said, stop = self._think(question, trace, rng, one_step=request.until is Until.STEP)
        return Extension(Tokens.sampled(tuple(self._encode(said))), stop)

    def _encode(self, text: str) -> list[int]:
        return self._thought.tokenizer.encode(text, add_special_tokens=False)

    def _think(self, question: str, trace: str, rng: np.random.Generator, one_step: bool) -> tuple[str, StopReason]:
        said = ""
        while True:
            step, last = self._step(question, trace + said, rng)
            said += step + ("\n</think>" if last else "\n\n")
            if last:
                return said, "thought"
            if one_step:
                return said, "step"

    def _step(self, question: str, trace: str, rng: np.random.Generator) -> tuple[str, bool]:
        """The next step, and whether it is the last."""
        *before, pending = trace.split("\n\n")
        phrase = pending.strip()
        lead = " " if phrase else ""
        kind, index = _kind(question), len(before)
        if kind == "attack":
            attack = Attack.read(Prompt.from_text(question))
            depth, _ = oracle.drift_state("\n\n".join(self._own(step) for step in before))
            drifts = rng.random() < drift_probability(self.world, attack, index, depth, phrase)
            calm = language.SETUP_STEPS if depth == 0 and index < attack.onset else language.SAFE_STEPS
            wild = language.COVERT_STEPS if rng.random() < COVERT_SHARE else language.DRIFT_STEPS
            return lead + _fill(pick(rng, wild if drifts else calm), attack.hazard, rng), index == N_STEPS - 1
        if kind == "borderline":
            hazard = Hazard.find(question)
            assert hazard is not None
            if rng.random() < self.world.game_refusal_probability(phrase):
                return lead + _fill(pick(rng, language.GAME_REFUSAL_STEPS), hazard, rng), True
            return lead + _fill(pick(rng, language.GAME_STEPS), hazard, rng), index == N_GAME_STEPS - 1
        value, operations = _problem(question)
        if before:
            value = _result(self._own(before[-1]))
        result = apply(operations[index][0], value, operations[index][1])
        result += rng.random() < self.world.slip_probability(phrase)
        return lead + sum_step(operations[index][0], value, operations[index][1], result), index == len(operations) - 1

    def _answer(self, question: str, trace: str, rng: np.random.Generator) -> str:
        steps = [self._own(step) for step in trace.removesuffix("</think>").strip().split("\n\n")]
        kind, hazard = _kind(question), Hazard.find(question)
        if kind == "harmless":
            return language.ANSWER.format(n=_result(steps[-1]))
        assert hazard is not None
        refused = oracle.step_kind(steps[-1]) == "game_refusal" or (
            kind == "attack" and (oracle.drift_state("\n\n".join(steps))[0] == 0 or rng.random() < ANSWER_FLIP)
        )
        if refused:
            return pick(rng, language.REFUSALS)
        return _fill(pick(rng, language.HARMFUL_ANSWERS if kind == "attack" else language.GAME_ANSWERS), hazard, rng)

    def _own(self, step: str) -> str:
        """A step without what was injected before it."""
        return next((step.removeprefix(phrase) for phrase in self._phrases if step.startswith(phrase)), step).strip()


@dataclass(frozen=True, slots=True)
class PlantedReasoner:
    """A guarded reasoner without weights."""

    engine: PlantedEngine
    monitor: Monitor
    thought: Thought
    models: Mapping[str, str] = field(default_factory=dict[str, str])


def reasoner(phrases: Sequence[str], monitor: Monitor | None = None, context_tokens: int = 400) -> PlantedReasoner:
    """A planted reasoner, watched by the oracle unless told otherwise."""
    thought = Thought(ThoughtConfig(), tokenizer(), context_tokens)
    return PlantedReasoner(PlantedEngine(thought, phrases), monitor or OracleMonitor(), thought)


def _kind(question: str) -> str:
    if any(question.startswith(start) for start in ("Start with", "Take the number", "Begin at")):
        return "harmless"
    return "borderline" if "game" in question.replace("We play a game of dares.", "") else "attack"


def _problem(question: str) -> tuple[int, list[tuple[str, int]]]:
    first, *told = question.replace("?", ".").split(". ")
    operations: list[tuple[str, int]] = []
    for part in told:
        number = "".join(filter(str.isdigit, part))
        name = {"Add": "plus", "Tak": "minus", "Dou": "twice"}.get(part[:3])
        operations += [(name, int(number or 0))] if name else []
    return int("".join(filter(str.isdigit, first))), operations


def _result(step: str) -> int:
    return int(step.strip().rstrip(".").split()[-1])


def _fill(template: str, hazard: Hazard, rng: np.random.Generator) -> str:
    a, b = pick(rng, language.PARTS), pick(rng, language.PARTS)
    return template.format(hazard=hazard, object=hazard.object, a=a, b=b)
