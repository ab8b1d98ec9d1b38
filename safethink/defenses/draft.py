"""A verdict in the making: what a defense has accepted so far, step by step, in the trace and then in the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safethink.defenses.effects import Accept, Extension, Intervention, Part, StopReason, Task, Verdict
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Draft:
    """An output that grows step by step: first its trace, then its answer.

    Attributes:
        trace: the trace so far, closing tag included once the thinking closed.
        answer: the answer so far; None while the reasoner thinks.
        starts: where each accepted step of the growing part begins, tokens injected before it included.
        first_step: index of the first of them.
        stop: why the last accepted step ended.
        unthought: whether the thinking closed with nothing but blanks in it.
        refused: whether the defense refused.
        interventions: every intervention so far.
        step_scores: the first score of each step of the trace.
        answer_scores: the first score of each step of the answer.
    """

    trace: Tokens
    answer: Tokens | None = None
    starts: tuple[int, ...] = ()
    first_step: int = 0
    stop: StopReason = "step"
    unthought: bool = False
    refused: bool = False
    interventions: tuple[Intervention, ...] = ()
    step_scores: tuple[float, ...] = ()
    answer_scores: tuple[float, ...] = ()

    @classmethod
    def of(cls, task: Task) -> Draft:
        """The draft that a defense begins with."""
        return cls(task.start, first_step=task.first_step)

    @property
    def where(self) -> Part:
        """The part that grows."""
        return "trace" if self.answer is None else "answer"

    @property
    def growing(self) -> Tokens:
        """The tokens of the part that grows."""
        return self.trace if self.answer is None else self.answer

    @property
    def index(self) -> int:
        """Index of the next step of the part that grows."""
        return self.first_step + len(self.starts)

    @property
    def is_open(self) -> bool:
        """Whether the part that grows has a next step."""
        return self.stop in ("step", "reopened")

    @property
    def interventions_here(self) -> tuple[Intervention, ...]:
        """The interventions in the part that grows."""
        return tuple(each for each in self.interventions if each.where == self.where)

    def plus(self, tokens: Tokens) -> Draft:
        """With `tokens` behind the part that grows; they are no step yet."""
        if self.answer is None:
            return replace(self, trace=self.trace + tokens)
        return replace(self, answer=self.answer + tokens)

    def accepted(self, step: Extension, injected: Tokens = Tokens()) -> Draft:  # noqa: B008 (it is frozen)
        """With one more step, and what stays injected before it."""
        starts = (*self.starts, len(self.growing))
        grown = self.plus(injected + step.tokens)
        return replace(grown, starts=starts, stop=step.stop, unthought=step.unthought)

    def without_last(self, num_steps: int) -> Draft:
        """Without the last accepted steps of the part that grows, and what was injected before them."""
        if not num_steps:
            return self
        kept = self.growing[: self.starts[-num_steps]]
        cut = replace(self, trace=kept) if self.answer is None else replace(self, answer=kept)
        return replace(cut, starts=self.starts[:-num_steps])

    def scored(self, value: float) -> Draft:
        """With the first score of the next step."""
        if self.answer is None:
            return replace(self, step_scores=(*self.step_scores, value))
        return replace(self, answer_scores=(*self.answer_scores, value))

    def noted(self, intervention: Intervention) -> Draft:
        """With one more intervention."""
        return replace(self, interventions=(*self.interventions, intervention))

    def answering(self) -> Draft:
        """With what stands left alone from here on, and the answer growing behind it."""
        return replace(self, answer=self.answer or Tokens(), starts=(), first_step=0, stop="step")

    def refusing(self, task: Task) -> Draft:
        """Closed behind what stands, with the refusal in the reasoner's place."""
        if self.answer is None:
            closed = replace(self, trace=self.trace + Tokens.injected(task.close), answer=Tokens())
            return closed.refusing(task)
        return replace(self, answer=self.answer + Tokens.injected(task.refusal), stop="end", refused=True)

    def standing(self) -> Accept:
        """All of it, as what will not be taken back."""
        return Accept(self.trace, self.answer or Tokens(), self.interventions)

    def verdict(self) -> Verdict:
        """The output as it is; thinking that never closed has no answer."""
        return Verdict(
            trace=self.trace,
            answer=self.answer or Tokens(),
            closed=self.answer is not None,
            refused=self.refused,
            interventions=self.interventions,
            step_scores=self.step_scores,
            answer_scores=self.answer_scores,
        )
