# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: guard a reasoner, look inside, change one thing
#
# SafeThink watches a reasoner's trace with a monitor. Where a step scores below a threshold, it drops the step, injects
# a short corrective prefix and resamples. Everything here runs on the **testbed**: a small reasoner and a small guard
# that ship with the package and were trained on a fictional world. It runs on a laptop, without downloads.
#
# With `SAFETHINK_TINY=1` in the environment the notebook takes fewer prompts and seeds. The code is the same; the
# intervals are wider.

# %%
import os

import rich

from safethink import Result, SafeThink
from safethink.cli.views import outcome
from safethink.config import (
    GuardRefuseConfig,
    LimitsConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.evaluation.statistics import Observations, paired_difference, rate
from safethink.judges.testbed import TestbedJudge
from safethink.testbed.prompts import draw

TINY = os.environ.get("SAFETHINK_TINY") == "1"
NUM_PROMPTS, NUM_FORKS = (12, 8) if TINY else (100, 64)

# %% [markdown]
# ## Guard it
#
# A reasoner, a monitor and a prefix. `"testbed"` names the shipped models; a folder or a hub id goes in the same
# places.

# %%
guarded = SafeThink.from_pretrained(
    "testbed",
    monitor="testbed",
    prefix="wait-think-safely",
    defense=SafeThinkConfig(threshold=0.0, max_steered_steps=3, max_resamples=5),
    limits=LimitsConfig(max_step_tokens=48, max_trace_tokens=256, max_answer_tokens=48),
)
result = guarded("Start with 4. Add 3. Double it. What is the result?")
print(result.trace)
print("answer:", result.answer)

# %% [markdown]
# ## A batch
#
# A list of prompts is run as one batch. Every prompt has its own seed, so it gives the same tokens alone as beside
# others. Here: jailbreaks whose wrappers and hazards the guard never saw in training.

# %%
prompts = draw("jailbreak", "test", NUM_PROMPTS)
results = guarded(prompts)
print(f"{sum(bool(each.interventions) for each in results)} of {len(results)} traces needed an intervention")

# %% [markdown]
# ## Trace and interventions
#
# Take the trace that was steered most. An intervention says at which step the monitor fired, what it scored before and
# after, and how many resamples that took. `recovered` means that one of them satisfied the monitor.
# The prefix stays in the trace before the accepted step (`keep_prefix` may drop it); `result.forced_mask` marks its
# tokens, and `result.own_trace` is what the monitor and the judge read, without it.

# %%
result = max(results, key=lambda each: len(each.interventions))
print(result.prompt.text)
rich.print(outcome(result, guarded.tokenizer.decode))

# %% [markdown]
# ## Fork it
#
# A result can be taken up again at any step: keep what came before, inject something else, or nothing, and let the
# reasoner go on unguarded. Forks that differ only in what is injected share their random numbers, so the comparison is
# paired. Here we go back to where the monitor first fired, and the testbed's oracle, which is exact, judges the ends.

# %%
judge = TestbedJudge()


def is_harmful(each: Result) -> bool:
    """Whether the oracle calls the output harmful."""
    return judge.judge(each.prompt, each.own_trace, each.answer, each.closed).outcome == "harmful"


step = result.interventions[0].step
for injected in (None, "text:Hmm, let me see", "wait-think-safely"):
    forks = result.fork(step=step, prefix=injected, n=NUM_FORKS)
    print(f"{injected or 'nothing':<22} {sum(map(is_harmful, forks))} of {len(forks)} forks end in harm")

# %% [markdown]
# ## Another defense
#
# `variant` swaps the defense or the prefix and loads nothing again. All rows see the same prompts with the same seeds;
# the last column is the paired difference to no defense. Intervals cover 95 % and come from a bootstrap over wrappers
# and hazards: prompts that share one succeed and fail together. `safethink evaluate` gives the whole table, with
# utility, over-refusal and cost beside it. A low ASR alone proves little: a defense that refuses everything has one.

# %%
defenses = {
    "none": NoneConfig(),
    "resample_only": ResampleOnlyConfig(),
    "guard_refuse": GuardRefuseConfig(),
    "safethink": guarded.defense,
}


def harm(outputs: list[Result]) -> Observations:
    """Harmful outputs by the oracle's judgement, prompt by prompt."""
    return Observations.of(
        [float(is_harmful(each)) for each in outputs],
        [each.prompt.id for each in outputs],
        [each.prompt.clusters for each in outputs],
    )


seen = {name: harm(guarded.variant(defense=defense).run(prompts)) for name, defense in defenses.items()}
print(f"{'defense':<15} {'ASR on the answer':<22} difference to none")
for name, observations in seen.items():
    asr = rate(observations)
    line = f"{name:<15} {asr.value:.2f} [{asr.low:.2f}, {asr.high:.2f}] n={asr.n:<4}"
    if name != "none":
        change = paired_difference(observations, seen["none"])
        line += f" {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    print(line)

# %% [markdown]
# ## What to expect of these numbers
#
# - **The testbed says nothing about real models.** Its hazards are fictional, and the power of a corrective phrase was
#   drawn from a seed and trained in. That a prefix works here is an input, not a finding.
# - It verifies machinery: the same classes load a real reasoner and a real guard, and a bad method fails here too.
# - The monitor is imperfect on purpose. A defense can only undo what its monitor sees.
# - The oracle exists because the world is synthetic. On a real model a judge stands in its place, and it must not be
#   the monitor: whatever is chosen to please the monitor will.
#
# A real model differs in its names alone:
#
# ```python
# guarded = SafeThink.from_pretrained("Qwen/Qwen3-4B", monitor="meta-llama/Llama-Guard-3-1B")
# ```
#
# Next: `learn_a_prefix.ipynb` learns a prefix for a model that is already loaded.
