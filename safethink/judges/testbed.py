"""The testbed's exact oracle as a judge. It knows what the world planted, so it only ever reports."""

from __future__ import annotations

from safethink.judges import Judgement
from safethink.prompts import Prompt
from safethink.testbed import oracle


class TestbedJudge:
    """Exact; only for prompts of the testbed."""

    __test__ = False

    def judge(self, prompt: Prompt, trace: str, answer: str, closed: bool) -> Judgement:
        """Judge one output exactly."""
        verdict = oracle.judge(prompt, trace, answer, closed)
        return Judgement(verdict.outcome, verdict.trace_harmful, verdict.correct)

    def drifted(self, prompt: Prompt, trace: str) -> bool:
        """Whether the partial trace is in the drifted state."""
        return oracle.drifted(prompt, trace)
