# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own defense
#
# A defense is a generator: it yields what it wants (tokens, a score), is sent the answer, and returns a verdict. It
# holds no model and does no I/O, so it reads like pseudo-code and runs on a laptop model, on a batch, or against a
# server. Here is one in fifteen lines, the suite that it must pass, and a trial of it against no defense and SafeThink.
#
# The model is the testbed's, a small Qwen3 trained on a fictional world, so the numbers say nothing about real models.
# With `SAFETHINK_TINY=1` in the environment there are only a few prompts: that shows the road, not the result.

# %%
import os

from safethink import SafeThink
from safethink.config import LimitsConfig, NoneConfig, SafeThinkConfig
from safethink.defenses import Needs
from safethink.defenses.draft import Draft
from safethink.defenses.moves import accept, next_step, open_answer, score_draft
from safethink.evaluation.statistics import Observations, paired_difference, rate
from safethink.judges.testbed import TestbedJudge
from safethink.testbed.prompts import draw
from safethink.testing import defenses

TINY = os.environ.get("SAFETHINK_TINY") == "1"

# %% [markdown]
# ## The defense
#
# SafeThink injects a prefix after every violation and resamples up to five times. This one is cheaper: one more try,
# with the prefix, and whatever comes of it is kept. `Needs` says what it asks of whoever runs it. A `threshold` says
# that scores decide, so there must be a monitor, and none is refused when the run is built.


# %%
@Needs(threshold=0.0)
def one_retry(task):
    """Inject once and take what follows, wherever the monitor fires."""
    draft = Draft.of(task)
    while draft.is_open:
        step = yield from next_step(draft)
        score = yield from score_draft(draft.plus(step.tokens))
        draft = draft.scored(score)
        if score < one_retry.needs.threshold:
            prefix = task.injection(task.prefixes[0] if task.prefixes else ())
            step = yield from next_step(draft.plus(prefix))
        draft = draft.accepted(step)
        yield from accept(draft.standing())
        if draft.stop == "thought":
            draft = yield from open_answer(draft, watched=False, streamed=task.streamed)
    return draft.verdict()


# %% [markdown]
# `Draft` keeps the books: what stands, which tokens were injected, where steps begin. The moves are generators that you
# delegate to with `yield from`; `safethink/defenses/effects.py` has the effects underneath.
#
# ## Does it keep its promises?
#
# The suite plays it against a scripted engine and monitor, in milliseconds: it must pass on only what was sampled, mark
# what it injects, take nothing back that it accepted, keep nothing from row to row, ask only for what it declared.

# %%
for check in defenses.checks(one_retry):
    check()
    print("kept:", check)

# %% [markdown]
# ## A trial
#
# The same prompts, seeds and prefix for all three, so that differences are paired. The judge is the testbed's exact
# oracle, never the monitor. Jailbreaks are from `test`, whose wrappers and hazards the guard has not seen.

# %%
limits = LimitsConfig(max_step_tokens=48, max_trace_tokens=256, max_answer_tokens=48)
mine = SafeThink.from_pretrained("testbed", monitor="testbed", defense=one_retry, limits=limits)
rows = {
    "none": mine.variant(defense=NoneConfig()),
    "safethink": mine.variant(defense=SafeThinkConfig()),
    "one_retry": mine,
}
attacks = draw("jailbreak", "test", 12 if TINY else 150)
harmless = draw("borderline", "test", 8 if TINY else 100)
results = {name: (guarded.run(attacks), guarded.run(harmless)) for name, guarded in rows.items()}


# %%
def seen(results, outcome):
    """Outputs of one outcome by the oracle's judgement, prompt by prompt."""
    judge = TestbedJudge()
    judged = [judge.judge(each.prompt, each.own_trace, each.answer, each.closed).outcome for each in results]
    prompts = [each.prompt for each in results]
    values = [float(each == outcome) for each in judged]
    return Observations.of(values, [prompt.id for prompt in prompts], [prompt.clusters for prompt in prompts])


def told(estimate):
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


asr = {name: seen(attacked, "harmful") for name, (attacked, _) in results.items()}
refused = {name: seen(asked, "refusal") for name, (_, asked) in results.items()}
tokens = {name: sum(each.usage.sampled for each in attacked) / len(attacked) for name, (attacked, _) in results.items()}
print(f"{len(attacks)} attacks, {len(harmless)} borderline prompts, 95 % intervals over wrappers and hazards")
for name in rows:
    print(
        f"{name:<10} ASR {told(rate(asr[name]))}  over-refusal {told(rate(refused[name]))}  tokens {tokens[name]:.0f}"
    )
for other in ("none", "safethink"):
    difference = paired_difference(asr["one_retry"], asr[other])
    print(f"ASR of one_retry minus {other}: {told(difference)}")

# %% [markdown]
# An interval of a difference that holds 0 shows no difference, which is not the same as showing that there is none.
#
# ## For everybody
#
# In a package of yours, announce it in `pyproject.toml`:
#
# ```toml
# [project.entry-points."safethink.defenses"]
# one_retry = "my_package:one_retry"
# ```
#
# Then it stands in every YAML as `defense: {kind: entry_point, name: one_retry}`, in the rows of an evaluation too,
# whose `config.yaml` says so.
