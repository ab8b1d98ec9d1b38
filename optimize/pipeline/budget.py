"""Budget of a search from the command line, as tokens: as written, as the run's folder has it, or by a probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optimize.config import PhrasesConfig, SearchConfig
from optimize.config.budget import Budget, TimeBudget, TokenBudget, in_words
from optimize.pipeline.learning import CONFIG, begun_with
from optimize.pipeline.probe import Trial
from safethink.errors import ConfigError

DIGITS = 3
"""Digits of a number of tokens that a time comes to: it is rounded as it is told, and stored so."""
EXCLUDED = "for the search alone: collecting contexts and the final choice come on top"


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A configuration whose search has its budget in tokens.

    Attributes:
        config: the configuration.
        told: what a time came to, in one line; empty where no time was given.
    """

    config: SearchConfig
    told: str = ""


def resolve(config: SearchConfig, out: Path, budget: Budget | None, trial: Callable[[], Trial]) -> Budgeted:
    """Put a budget in the place of `search.budget_tokens`.

    A time becomes tokens once, when a folder is begun, so that a search stays deterministic: on resuming, the stored
    number counts.

    Args:
        config: what was asked for beside it.
        out: the run's folder.
        budget: a time or tokens; None leaves the configuration as it is.
        trial: tries the search; asked only where a time must be turned into tokens.

    Raises:
        ConfigError: the folder was begun without a budget, or the speed of the search is not known.
    """
    match budget:
        case None:
            return Budgeted(config)
        case TokenBudget(tokens):
            return Budgeted(_with_tokens(config, tokens))
        case TimeBudget():
            begun = begun_with(out)
            return _by_trial(config, budget, trial()) if begun is None else _stored(config, out, budget, begun)


def _stored(config: SearchConfig, out: Path, budget: TimeBudget, begun: SearchConfig) -> Budgeted:
    tokens = begun.search.budget_tokens
    if tokens is None:
        raise ConfigError(f"--budget {budget}: {out / CONFIG} was begun without a budget; use another --out")
    told = f"--budget {budget}: {out} was begun with {tokens:,} forwarded tokens, which stay; nothing is tried anew"
    return Budgeted(_with_tokens(config, tokens), told)


def _by_trial(config: SearchConfig, budget: TimeBudget, trial: Trial) -> Budgeted:
    tokens_per_s = _tokens_per_s(config, trial)
    if tokens_per_s is None:
        raise ConfigError(
            f"--budget {budget}: the search's speed is not known, so give a number of tokens ({trial.source})"
        )
    tokens, speed = rounded(budget.seconds * tokens_per_s), rounded(tokens_per_s)
    source = "on this machine" if trial.pace is not None else f"({trial.source})"
    told = f"{in_words(budget.seconds)} are about {tokens:,} forwarded tokens at {speed:,} tokens a second {source}"
    told += f", {EXCLUDED}"
    if trial.pace is not None and (steps_s := trial.pace.seconds(config.search.steps)) < budget.seconds:
        told += f"; search.steps = {config.search.steps} ends it sooner, after about {in_words(round(steps_s))}"
    return Budgeted(_with_tokens(config, tokens), told)


def _tokens_per_s(config: SearchConfig, trial: Trial) -> float | None:
    """Tokens of a budget that a second pays for: scored ones, and of phrases what their trials decode."""
    if trial.pace is not None:
        return trial.pace.tokens_per_s
    return trial.decoding.decoded_per_s if isinstance(config.search, PhrasesConfig) else trial.decoding.read_per_s


def rounded(value: float) -> int:
    """A number to three digits, at least 1."""
    whole = max(1, round(value))
    return round(whole, min(0, DIGITS - len(str(whole))))


def _with_tokens(config: SearchConfig, tokens: int) -> SearchConfig:
    return config.replace(search=config.search.replace(budget_tokens=tokens))
