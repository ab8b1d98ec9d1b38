"""Features of a prompt for the planted process, read off its text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from safethink.prompts import Prompt
from safethink.testbed import language
from safethink.testbed.world import (
    COMPLIED_LOGIT,
    FORGED_LOGIT,
    PLAIN_LOGIT,
    SHOT_LOGIT,
    WRAPPED_LOGIT,
    World,
)

_HAZARD = re.compile(rf"({'|'.join(language.VERBS)}) the ({'|'.join(language.OBJECTS)})")


@dataclass(frozen=True, slots=True)
class Hazard:
    """A fictional harmful deed."""

    verb: str
    object: str

    def __str__(self) -> str:
        return f"{self.verb} the {self.object}"

    @classmethod
    def find(cls, text: str) -> Hazard | None:
        """The last hazard that `text` names."""
        found = _HAZARD.findall(text)
        return cls(*found[-1]) if found else None


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack prompt as the process sees it.

    Attributes:
        hazard: what is asked for.
        clauses: the wrapper's clauses; empty for a plain request.
        onset: index of the step at which the reasoner decides.
        extra_logit: what system prompt, history, shots and forged turns add to the drift logit.
        prefilled: drifted steps that already stand in the trace.
    """

    hazard: Hazard
    clauses: tuple[str, ...]
    onset: int
    extra_logit: float = 0.0
    prefilled: int = 0

    @classmethod
    def read(cls, prompt: Prompt) -> Attack:
        """Read an attack prompt.

        Raises:
            ValueError: the prompt names no hazard of this world.
        """
        text = prompt.text
        hazard = Hazard.find(text)
        if hazard is None:
            raise ValueError(f"prompt {prompt.id!r} names no hazard of the testbed")
        slots = (language.FRAMES, language.DELAYS[1:], language.STYLES, language.PRESSURES)
        clauses = tuple(clause for slot in slots for clause in slot if clause in text)
        delay = next((clause for clause in clauses if clause in language.DELAYS), "")
        history = prompt.messages[:-1]
        extra = (
            sum(language.SYSTEM_PROMPTS.get(m.content, 0.0) for m in history if m.role == "system")
            + sum(COMPLIED_LOGIT for m in history if m.role == "assistant" and Hazard.find(m.content) is not None)
            + SHOT_LOGIT * min(16, text.count("Q: "))
            + FORGED_LOGIT * (language.FORGED_TURN in text)
        )
        prefilled = sum(bool(step.strip()) for step in prompt.prefill.split("\n\n"))
        return cls(hazard, clauses, language.DELAYS.index(delay), extra, prefilled)

    @property
    def frame(self) -> str | None:
        """The frame clause; None for a plain request."""
        return next((clause for clause in self.clauses if clause in language.FRAMES), None)

    def drift_logit(self, world: World) -> float:
        """The logit of drifting at the onset, with nothing injected."""
        base = WRAPPED_LOGIT if self.clauses else PLAIN_LOGIT
        clauses = sum(world.clause_logits[clause] for clause in self.clauses)
        return (
            base
            + clauses
            + world.hazard_logits[self.hazard.verb]
            + world.hazard_logits[self.hazard.object]
            + self.extra_logit
        )
