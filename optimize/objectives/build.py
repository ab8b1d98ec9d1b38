"""The objective that a configuration describes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from optimize.config import ObjectiveConfig
from optimize.contexts import ContextSet
from optimize.objectives import plugins
from optimize.objectives.benign import BenignDivergence, BenignLikelihood
from optimize.objectives.cached_scorer import CachedScorer
from optimize.objectives.continuation import SafeContinuation, Unlikelihood
from optimize.objectives.objective import Objective
from optimize.objectives.protocols import Weighted
from optimize.objectives.readability import Length, Readability
from optimize.objectives.reward import ExpectedReward
from optimize.objectives.sampler import Sampler
from optimize.parallel.cluster import Cluster
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.monitors import layer_read_by


def build(
    guarded: SafeThink,
    contexts: ContextSet,
    config: ObjectiveConfig,
    threshold: float = 0.0,
    seed: int = 0,
    cluster: Cluster | None = None,
    own: Sequence[Weighted] = (),
) -> Objective:
    """The objective over a set of contexts with targets.

    Args:
        guarded: the reasoner with its monitor.
        contexts: where prefixes are injected and what they should lead to.
        config: what counts for how much.
        threshold: the monitor passes what it scores from it on.
        seed: of what is sampled.
        cluster: processes that share the contexts.
        own: terms handed over in Python.

    Raises:
        ConfigError: no term is left, two have the same name, or one of another package does not load.
    """
    weighted = [*terms(guarded, contexts, config, threshold, seed, cluster), *own]
    if not weighted:
        raise ConfigError("objective: every weight is 0, or only those on harmless contexts are not and there are none")
    return Objective(guarded.model, weighted, config.racing)


def terms(
    guarded: SafeThink,
    contexts: ContextSet,
    config: ObjectiveConfig,
    threshold: float = 0.0,
    seed: int = 0,
    cluster: Cluster | None = None,
) -> list[Weighted]:
    """The terms of `build`, to be put together with others.

    Terms of weight 0 are left out, and so are those on harmless contexts where there are none.

    Raises:
        ConfigError: a term of another package does not load, or the monitor cannot be rewarded by.
    """
    read = partial(CachedScorer.of, guarded, config=config, cluster=cluster)
    found: list[Weighted] = []
    if config.continuation_weight or config.nll_weight:
        safe = read(contexts.unsafe)
        found += [
            Weighted(SafeContinuation(safe), config.continuation_weight),
            Weighted(Readability(safe), config.nll_weight),
        ]
    if config.reward_weight:
        _refuse_reader_of_states(guarded)
        sampler = Sampler(guarded, config.reward.continuation_tokens, seed)
        some = contexts.unsafe[: config.reward.contexts]
        reward = ExpectedReward(sampler, read, some, threshold, config.reward)
        found.append(Weighted(reward, config.reward_weight))
    if config.unlikelihood_weight:
        unsafe = read(contexts.unsafe, [context.step_ids[: len(context.target_ids)] for context in contexts.unsafe])
        found.append(Weighted(Unlikelihood(unsafe, config.unlikelihood_clip), config.unlikelihood_weight))
    if contexts.harmless and (config.benign_weight or config.benign_kl_weight):
        harmless = read(contexts.harmless)
        found += [
            Weighted(BenignLikelihood(harmless), config.benign_weight),
            Weighted(BenignDivergence(harmless), config.benign_kl_weight),
        ]
    found.append(Weighted(Length(), config.length_weight))
    given = plugins.TermInputs(guarded, contexts, read, threshold, seed)
    found += [Weighted(plugins.build(each, given), each.weight) for each in config.terms if each.weight]
    return [weighted for weighted in found if weighted.weight]


def _refuse_reader_of_states(guarded: SafeThink) -> None:
    """A reward that depends on hidden states behind the prefix would teach it to flatter the monitor.

    Raises:
        ConfigError: the monitor reads hidden states.
    """
    if layer_read_by(guarded.monitor) is not None:
        raise ConfigError(
            f"objective.reward_weight: {type(guarded.monitor).__name__} reads the reasoner's hidden states and with "
            "them injected tokens, so a prefix would learn to flatter it; take a monitor of text, or no reward"
        )
