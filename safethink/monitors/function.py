"""Any Python callable as a monitor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safethink.errors import MonitorError
from safethink.monitors import ScoreRequest, fail_closed
from safethink.prompts import Prompt


class FunctionMonitor:
    """Scores one request after another with `score(prompt, trace)`.

    The prompt is handed over as text: the user's words where there is a single turn, else every turn with its role.
    """

    def __init__(self, score: Callable[[str, str], float]) -> None:
        """Wrap `score`, which takes the prompt and the partial trace and returns a number in [-1, 1], no verdict."""
        self._score = score

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: if the callable raises or returns no score, see `fail_closed.checked`; the prompt is named.
        """
        return [self._one(request) for request in requests]

    def release(self, row: int) -> None:
        """Nothing is cached."""

    def _one(self, request: ScoreRequest) -> float:
        try:
            value = self._score(transcript(request.prompt), request.trace)
        # Whatever a user's function raises must stop the run with the prompt named.
        except Exception as error:
            raise MonitorError(
                f"the monitor failed on prompt {request.prompt.id!r}: {type(error).__name__}: {error}"
            ) from error
        return fail_closed.checked(request, value)


def transcript(prompt: Prompt) -> str:
    """A prompt as plain text."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


@dataclass(frozen=True, slots=True)
class ConstantMonitor:
    """Scores everything with `value`, for comparisons and tests.

    Attributes:
        value: the score, in [-1, 1].
    """

    value: float = 1.0

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One `value` per request."""
        return [self.value] * len(requests)

    def release(self, row: int) -> None:
        """Nothing is cached."""
