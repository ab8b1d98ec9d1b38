# pyright: standard
"""The reasoner's hidden states, where each step ends or at every token: those that a guarded run hands a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.monitors.steps import LabelledSplit, Step
from optimize.monitors.traces import TokenTraces
from safethink.engines import Engine, StateEngine, StateRequest, TokenStateEngine
from safethink.errors import ConfigError
from safethink.progress import track


@dataclass(frozen=True, slots=True)
class StepStates:
    """Hidden states at one layer, of every partial trace.

    Attributes:
        ends: at its last token.
        prompts: at the last token of the opened prompt that it stands behind.
    """

    ends: Float[Tensor, "steps hidden"]
    prompts: Float[Tensor, "steps hidden"]


def read(split: LabelledSplit, engine: Engine, layers: Sequence[int], batch_size: int) -> dict[int, StepStates]:
    """Read the states at the end of every partial trace and of its prompt, in the order of `split.steps`.

    Args:
        split: the partial traces.
        engine: the reasoner's.
        layers: which hidden states, as transformers counts them.
        batch_size: the most traces side by side.

    Returns:
        The states of each layer, on the CPU, in single precision.

    Raises:
        ConfigError: the engine shows no hidden states, or the reasoner has no such layer.
    """
    if not isinstance(engine, StateEngine):
        raise ConfigError(f"a probe reads the reasoner's hidden states, and {type(engine).__name__} shows none")
    found: dict[int, list[StepStates]] = {layer: [] for layer in layers}
    with track(f"reading the states of {split.name} traces", len(split.traces)) as advance:
        for start in range(0, len(split.traces), batch_size):
            traces = split.traces[start : start + batch_size]
            for layer, states in _read_batch(traces, engine, layers).items():
                found[layer].append(states)
            advance(len(traces))
    return {
        layer: StepStates(torch.cat([part.ends for part in parts]), torch.cat([part.prompts for part in parts]))
        for layer, parts in found.items()
    }


def read_tokens(split: LabelledSplit, engine: Engine, layer: int, batch_size: int) -> TokenTraces:
    """Read the states of all tokens of all traces at one layer, each trace once.

    Returns:
        The states on the CPU, in the reasoner's own precision: there are many.

    Raises:
        ConfigError: the engine shows only the last token's state.
    """
    if not isinstance(engine, TokenStateEngine):
        raise ConfigError(f"monitor.poolings: {type(engine).__name__} shows the last token's hidden state alone")
    found: list[Float[Tensor, "tokens hidden"]] = []
    with track(f"reading all tokens of {split.name} traces", len(split.traces)) as advance:
        for start in range(0, len(split.traces), batch_size):
            last = [trace[-1] for trace in split.traces[start : start + batch_size]]
            asked = [StateRequest(row, step.ids, step.num_tokens) for row, step in enumerate(last)]
            found += [states.cpu() for states in engine.token_states(asked, layer)]
            for row in range(len(last)):
                engine.release(row)
            advance(len(last))
    return TokenTraces(torch.cat(found), tuple(tuple(step.num_tokens for step in trace) for trace in split.traces))


def _read_batch(
    traces: Sequence[tuple[Step, ...]], engine: StateEngine, layers: Sequence[int]
) -> dict[int, StepStates]:
    """Read some traces side by side, step by step, so that the engine goes on from what it has read."""
    order: list[tuple[int, int]] = []
    found: dict[int, list[Float[Tensor, "rows hidden"]]] = {layer: [] for layer in layers}
    for depth in range(max(map(len, traces))):
        rows = [row for row, trace in enumerate(traces) if depth < len(trace)]
        requests = [StateRequest(row, traces[row][depth].ids) for row in rows]
        for layer in layers:
            found[layer].append(_states(engine, requests, layer))
        order += [(row, depth) for row in rows]
    # Behind the traces: a rollback to the prompt reads one token anew, and changes nothing of what was read.
    opened = [StateRequest(row, trace[0].ids[: trace[0].trace_start]) for row, trace in enumerate(traces)]
    prompts = {layer: _states(engine, opened, layer) for layer in layers}
    for row in range(len(traces)):
        engine.release(row)
    # From step after step to trace after trace.
    places = torch.tensor(sorted(range(len(order)), key=order.__getitem__))
    behind = torch.tensor([row for row, trace in enumerate(traces) for _ in trace])
    return {layer: StepStates(torch.cat(parts)[places], prompts[layer][behind]) for layer, parts in found.items()}


def _states(engine: StateEngine, requests: Sequence[StateRequest], layer: int) -> Float[Tensor, "rows hidden"]:
    try:
        return engine.states(requests, layer).to("cpu", torch.float32)
    except IndexError as error:
        raise ConfigError(f"monitor.layers: the reasoner has no hidden state {layer}") from error
