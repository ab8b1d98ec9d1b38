"""Phrases that somebody wrote, in place of a search: put on trial as its finalists are."""

from __future__ import annotations

from pathlib import Path

from optimize.ablation.config import LENGTH
from optimize.ablation.grid import Cell
from optimize.contexts import folder
from optimize.pipeline.setup import Setup
from optimize.selection.trials import Arena, best, run_trials
from safethink.errors import SafeThinkError
from safethink.prefix import LITERAL


def choose(cell: Cell, setup: Setup, contexts: Path, trials: Path) -> str:
    """Of the cell's phrases that have its length, the best on validation.

    Args:
        cell: names the phrases.
        setup: models and chooser.
        contexts: folder of the states to try them on.
        trials: file of trials; those in it are not run again.

    Returns:
        The phrase, as a literal prefix.

    Raises:
        SafeThinkError: no phrase has as many tokens as the cell's length says.
    """
    guarded, config = setup.guarded, cell.config
    ids = {phrase: guarded.bind(LITERAL + phrase).token_ids[0] for phrase in cell.variant.phrases}
    length = config.search.length
    fitting = [phrase for phrase in cell.variant.phrases if len(ids[phrase]) == length]
    other = next((phrase for phrase in ids if phrase not in fitting), None)
    # Along lengths every cell has its own; elsewhere a phrase that is never tried is a mistake.
    if other is not None and LENGTH not in dict(cell.place.values):
        raise SafeThinkError(
            f"methods.{cell.method}.phrases: {other!r} has {len(ids[other])} tokens, search.length is {length}"
        )
    if not fitting:
        lengths = ", ".join(map(str, sorted({len(each) for each in ids.values()})))
        raise SafeThinkError(f"methods.{cell.method}.phrases: none has {length} tokens; they have {lengths}")
    _, _, validation = folder.load(contexts, setup.source, setup.data)
    arena = Arena.build(guarded, setup.chooser, validation, config.selection, setup.source.threshold)
    nothing, *tried = run_trials(arena, [(), *(ids[phrase] for phrase in fitting)], trials)
    return LITERAL + fitting[best(arena, tried, nothing, config.selection)]
