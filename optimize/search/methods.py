"""The search method of a configuration; imported when asked for, since some need libraries that others do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from optimize.config import (
    BeamConfig,
    EntryPointMethodConfig,
    EvolutionConfig,
    GcgConfig,
    MethodConfig,
    RandomConfig,
    ReflectConfig,
    RelaxedConfig,
    SearchSection,
    UnigramConfig,
)
from optimize.search.method import Alphabet, Archive, Ids, Method, Searchable, Wording
from optimize.search.proposals import Proposer
from optimize.search.relaxed import Embeddings
from optimize.search.writer import Writer
from safethink.config.plugins import PluginKind
from safethink.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReasonerAccess:
    """Lazy resources of the reasoner that some methods use beside the objective; made where one does.

    Attributes:
        proposer: says what the reasoner would say.
        embeddings: what rows are projected to.
        targets: what should follow a prefix, context by context.
        writer: writes phrases in words; None where the section names none.
        traces: the failed traces, context by context, as text; empty where there is no writer.
    """

    proposer: Callable[[], Proposer]
    embeddings: Callable[[], Embeddings]
    targets: tuple[Ids, ...] = ()
    writer: Callable[[], Writer] | None = None
    traces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MethodInputs:
    """Inputs that a search method of another package is built from; its options follow as keyword arguments.

    Attributes:
        config: how long, how many, how often.
        objective: what it may ask for gradients; it never scores.
        vocabulary: what prefixes are made of.
        start: what the first start begins with; empty for random tokens.
        archive: what was tried so far.
        aids: what else it may ask of the reasoner; None where there is none.
    """

    config: SearchSection
    objective: Searchable
    vocabulary: Alphabet
    start: Ids
    archive: Archive
    aids: ReasonerAccess | None = None


def _is_method(found: object) -> TypeGuard[Method]:
    return isinstance(found, Method) and not isinstance(found, type)


PLUGINS = PluginKind(
    "search method", "safethink.search_methods", _is_method, "`propose`, `observe`, `state_dict`, `load_state_dict`"
)
"""Search methods of other packages."""


def build(
    config: MethodConfig,
    objective: Searchable,
    vocabulary: Alphabet,
    start: Ids,
    archive: Archive,
    aids: ReasonerAccess | None = None,
) -> Method:
    """Build the method that `config.kind` names.

    Args:
        config: its settings.
        objective: what it may ask for gradients.
        vocabulary: what prefixes are made of.
        start: what the first start begins with, from `starts.start_ids`; empty for random tokens.
        archive: the journal's: what was tried so far.
        aids: what else it may ask of the reasoner; None where the method asks nothing.

    Raises:
        ConfigError: there is no such method, or another package's does not load.
    """
    match config:
        case GcgConfig():
            from optimize.search.gcg import Gcg

            return Gcg(config, objective, vocabulary, start, archive, aids.targets if aids else ())
        case EvolutionConfig():
            from optimize.search.evolution import Composed, Evolution

            assert isinstance(objective, Composed), "evolution asks what readability counts for"
            assert aids, "it asks what the reasoner would say"
            return Evolution(config, objective, vocabulary, start, archive, aids.proposer())
        case BeamConfig():
            from optimize.search.beam import Beam

            assert aids, "beams are what the reasoner says"
            return Beam(config, vocabulary, start, archive, aids.proposer())
        case RelaxedConfig():
            from optimize.search.relaxed import Relaxable, Relaxed

            assert isinstance(objective, Relaxable), "PEZ asks for gradients of embedding rows"
            assert aids, "it projects rows to embeddings"
            return Relaxed(config, objective, vocabulary, start, archive, aids.embeddings())
        case ReflectConfig():
            from optimize.search.reflect import Reflect

            assert isinstance(vocabulary, Wording), "phrases in words are read"
            assert aids is not None, "it reads traces"
            assert aids.writer is not None, "somebody writes them"
            return Reflect(config, vocabulary, start, archive, aids.traces, aids.writer())
        case RandomConfig():
            from optimize.search.random import Random

            return Random(config, vocabulary, archive)
        case UnigramConfig():
            from optimize.search.unigram import Unigram

            return Unigram(config, objective, vocabulary, archive)
        case EntryPointMethodConfig():
            given = MethodInputs(config, objective, vocabulary, start, archive, aids)
            return PLUGINS.make(config.name, config.options, given)
        case _:
            raise ConfigError(f"search.kind: {config.kind!r} is no discrete search")
