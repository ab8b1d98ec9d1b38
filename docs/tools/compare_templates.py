# pyright: standard
"""Compares the table of families with the chat templates that are on the hub today; needs network, reads no weights.

    python -m docs.tools.compare_templates [FAMILY ...]

Run it now and then: authors change their templates. Prints for each model the family that it is told to be and what
stands behind the prompt where the model takes over, and ends with status 1 where that is not what the table says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from safethink.config import ThoughtConfig
from safethink.config.families import FAMILIES, PLAIN, named
from safethink.config.family import Family
from safethink.errors import ConfigError, SafeThinkError
from safethink.models.loading import Checkpoint
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt

Load = Callable[[str], Thought]
"""Takes the id of a model on the hub, gives the format of its thinking, still to be told."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A model's template beside its row.

    Attributes:
        model: its id on the hub.
        family: the row.
        told: the family that it is told to be, or why it is none.
        behind: what stands behind the prompt where the model takes over.
    """

    model: str
    family: str
    told: str
    behind: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the template is told to be of the row."""
        return self.told == self.family

    def __str__(self) -> str:
        return f"{'ok  ' if self.agrees else 'OTHER'} {self.model}: {self.family}, told {self.told}; {self.behind!r}"


def from_hub(model: str) -> Thought:
    """A model's tokenizer and configuration from the hub."""
    checkpoint = Checkpoint(model)
    return Thought(ThoughtConfig(), checkpoint.tokenizer(), model_type=checkpoint.config().model_type)


def compare(families: Sequence[Family], load: Load = from_hub) -> Iterator[Compared]:
    """Compare every model that a row names."""
    for family in families:
        for model in family.hub:
            yield _compared(family, model, load)


def _compared(family: Family, model: str, load: Load) -> Compared:
    try:
        thought = load(model)
        told = _told(thought, family)
        named_so = replace(thought, config=ThoughtConfig(family=told))
        opened = named_so.decode(open_prompt(named_so, Prompt.from_text("QUESTION")))
    except SafeThinkError as error:
        return Compared(model, family.name, str(error))
    return Compared(model, family.name, told, opened.rpartition("QUESTION")[2])


def _told(thought: Thought, family: Family) -> str:
    """The name of the family; that of models without thinking where it is refused for having none."""
    try:
        return thought.family.name
    except ConfigError as error:
        # Two families that look alike have to be named, and the refusal names them both.
        refused_as_plain = family.name == PLAIN.name and "does not show how it thinks" in str(error)
        if refused_as_plain or (family.name in str(error) and "set thought.family to" in str(error)):
            return family.name
        raise


def main(argv: Sequence[str], load: Load = from_hub) -> int:
    """Compare the families named, or all.

    Returns:
        1 if a template is told to be of another family.
    """
    chosen = tuple(map(named, argv)) or (*FAMILIES, PLAIN)
    compared = [*compare(chosen, load)]
    for each in compared:
        print(each)
    return int(not all(each.agrees for each in compared))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
