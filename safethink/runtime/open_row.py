"""Opens rows: one prompt and sample under one defense, ready for the scheduler.

The only place that builds a defense's task, puts it over the turns and messages of the reasoner's thinking, and gives
it its seed. A guarded run, an evaluation, a branch, a mined continuation and a drawn reward all begin here, so
that a step is the same step in each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from safethink.defenses.effects import Defense, Task
from safethink.prompts import Prompt
from safethink.runtime.row import Row
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt, prefill_tokens
from safethink.thinking.turns import over_turns
from safethink.tokens import Tokens


def open_row(
    thought: Thought,
    prompt: Prompt,
    defense: Callable[[Task], Defense],
    *,
    seed: int,
    sample: int = 0,
    prompt_ids: tuple[int, ...] | None = None,
    trace: Tokens | None = None,
    injected: tuple[int, ...] = (),
    prefixes: tuple[tuple[int, ...], ...] = (),
    streamed: bool = False,
    label: object = None,
) -> Row:
    """Open one prompt and sample under a defense.

    Args:
        thought: the format of the reasoner's thinking.
        prompt: the prompt.
        defense: takes the task and gives a defense that has not begun.
        seed: seeds the row's random numbers, together with its prompt and sample.
        sample: which sample of the prompt.
        prompt_ids: the prompt as it was opened before; None renders the chat template.
        trace: the trace so far; None for what the prompt prefills.
        injected: a prefix to inject right behind the trace, with its separator; empty for none.
        prefixes: the portfolio that the defense may inject.
        streamed: whether somebody reads along.
        label: for the caller to know the row by.

    Raises:
        PromptError: if the prompt is empty or too long.
    """
    start = prefill_tokens(thought, prompt) if trace is None else trace
    task = Task(
        start=start,
        prefixes=prefixes,
        separator=thought.separator_ids,
        close=thought.close_ids,
        refusal=thought.refusal_ids,
        streamed=streamed,
    )
    if injected:
        task = replace(task, start=start + task.injection(injected))
    return Row(
        prompt=prompt,
        prompt_ids=open_prompt(thought, prompt) if prompt_ids is None else prompt_ids,
        defense=over_turns(defense(task), thought),
        sample=sample,
        seed=seed,
        label=label,
    )
