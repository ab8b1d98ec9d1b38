# pyright: standard
"""The rows of the table, ready to run: every prefix loaded, verified and turned into token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

import numpy as np
from transformers import PreTrainedTokenizerBase

from safethink import defenses, prefix
from safethink.config import DefenseConfig, EvalConfig, ResampleOnlyConfig, SafeThinkConfig
from safethink.defenses import Rule
from safethink.engines import Engine
from safethink.errors import ConfigError
from safethink.prefix import Prefix, PrefixArtifact
from safethink.runtime.scheduler import refuse_unfit
from safethink.seeds import stable_seed
from safethink.thinking.chat import ChatEncoder

RANDOM: Final = "random"
MAX_DRAWS: Final = 10_000
"""Random strings tried before giving up on one that round-trips."""


@dataclass(frozen=True)
class TableRow:
    """A row of the table.

    Attributes:
        name: its name.
        defense: the defense and its limits.
        rule: the same, ready to begin on any number of prompts.
        portfolio: what it injects; empty for a defense that injects nothing.
        on_trial: whether that is the prefix on trial.
        transferred: whether that was learned on another reasoner.
    """

    name: str
    defense: DefenseConfig
    rule: Rule
    portfolio: tuple[Prefix, ...] = ()
    on_trial: bool = False
    transferred: bool = False

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """The portfolio as token ids."""
        return tuple(each.token_ids for each in self.portfolio)

    @property
    def texts(self) -> tuple[str, ...]:
        """The portfolio in words."""
        return tuple(each.shown for each in self.portfolio)

    @property
    def is_soft(self) -> bool:
        """Whether it injects embedding rows, which are no words."""
        return any(each.is_soft for each in self.portfolio)

    @property
    def fingerprint(self) -> str:
        """Short hash of what is injected; empty where nothing is."""
        return blake2b(repr(self.token_ids).encode(), digest_size=6).hexdigest() if self.portfolio else ""

    @property
    def steers(self) -> bool:
        """Whether the defense rolls back and resamples, with or without a prefix."""
        return isinstance(self.defense, ResampleOnlyConfig | SafeThinkConfig)

    @property
    def drops_prefix(self) -> bool:
        """Whether what it injects leaves the trace once the step behind it is accepted."""
        return defenses.drops_prefix(self.defense)


def load(
    config: EvalConfig, on_trial: PrefixArtifact, tokenizer: PreTrainedTokenizerBase, engine: Engine
) -> tuple[TableRow, ...]:
    """Load the prefixes of all rows.

    Args:
        config: the evaluation.
        on_trial: the prefix on trial, bound to the reasoner.
        tokenizer: the reasoner's.
        engine: the reasoner's.

    Raises:
        MissingFileError: a prefix that is not there.
        ArtifactError: a prefix that does not fit the reasoner.
        ConfigError: `random:K` with a K that is no number above 0, or a defense that the engine does not serve.
    """
    bare = [TableRow(row.name, row.defense, defenses.build(row.defense)) for row in config.rows]
    for row in bare:
        refuse_unfit(engine, row.rule)
    return tuple(
        _with_portfolio(row, config.run.seed, spec.prefix, on_trial, tokenizer, engine)
        if row.rule.needs.prefix
        else row
        for row, spec in zip(bare, config.rows, strict=True)
    )


def _with_portfolio(
    row: TableRow,
    seed: int,
    spec: str | None,
    on_trial: PrefixArtifact,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
) -> TableRow:
    """The row with what it injects: the prefix on trial, random tokens, or an artifact."""
    if spec is None:
        return replace(row, portfolio=on_trial.prefixes, on_trial=True, transferred=on_trial.transferred)
    if spec == RANDOM or spec.startswith(RANDOM + ":"):
        lengths = _random_lengths(spec, on_trial)
        draws = (random_prefix(tokenizer, length, stable_seed(seed, row.name, i)) for i, length in enumerate(lengths))
        return replace(row, portfolio=tuple(draws))
    artifact = prefix.load(spec, tokenizer, engine)
    return replace(row, portfolio=artifact.prefixes, transferred=artifact.transferred)


def _random_lengths(spec: str, on_trial: PrefixArtifact) -> tuple[int, ...]:
    if spec == RANDOM:
        return tuple(len(ids) for ids in on_trial.token_ids)
    number = spec.removeprefix(RANDOM + ":")
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"rows: prefix {spec!r} is not `random:` and a number of tokens above 0")
    return (int(number),)


def random_prefix(tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> Prefix:
    """Draw a prefix of `length` random tokens: no control tokens, no line breaks, and its text encodes to its ids.

    Raises:
        ConfigError: the tokenizer has no such string.
    """
    candidates, encoder = np.asarray(list(_plain_ids(tokenizer))), ChatEncoder(tokenizer)
    rng = np.random.default_rng(seed)
    for _ in range(MAX_DRAWS if len(candidates) else 0):
        ids = tuple(rng.choice(candidates, length).tolist())
        text = encoder.said(ids)
        if text and prefix.round_trips(drawn := Prefix(text=text, token_ids=ids), tokenizer, encoder):
            return drawn
    raise ConfigError(f"found no {length} random tokens whose text encodes to them again")


def _plain_ids(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Ids of ordinary tokens that are whole printable text."""
    reserved = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token_id in sorted(set(tokenizer.get_vocab().values()) - reserved):
        text = _decode(tokenizer, (token_id,))
        if text.isprintable() and "\ufffd" not in text:
            yield token_id


def _decode(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    text = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one sequence decodes to one string"
    return text
