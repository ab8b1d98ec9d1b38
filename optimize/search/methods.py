"""The search method of a configuration; imported when asked for, since some need libraries that others do not."""

from __future__ import annotations

from optimize.config import GcgConfig, MethodConfig, RandomConfig, UnigramConfig
from optimize.search.archive import Archive
from optimize.search.method import Alphabet, Ids, Method, Searchable
from safethink.errors import ConfigError


def build(config: MethodConfig, objective: Searchable, vocabulary: Alphabet, start: Ids, archive: Archive) -> Method:
    """Build the method that `config.kind` names.

    Args:
        config: its settings.
        objective: what it may ask for gradients.
        vocabulary: what prefixes are made of.
        start: what the first start begins with, from `starts.start_ids`; empty for random tokens.
        archive: the journal's: what was tried so far.

    Raises:
        ConfigError: there is no such method.
    """
    match config:
        case GcgConfig():
            from optimize.search.gcg import Gcg

            return Gcg(config, objective, vocabulary, start, archive)
        case RandomConfig():
            from optimize.search.random import Random

            return Random(config, vocabulary, archive)
        case UnigramConfig():
            from optimize.search.unigram import Unigram

            return Unigram(config, objective, vocabulary, archive)
        case _:
            raise ConfigError(f"search.kind: {config.kind!r} is no discrete search")
