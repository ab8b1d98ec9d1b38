# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Learn a prefix for your own model
#
# You have a model in memory, something that scores its thinking, and prompts. What follows learns a short corrective
# prefix for exactly that model, saves it as an artifact that can be checked, and compares it with "Wait, think safely".
#
# The model here is the testbed's, a small Qwen3 trained on a fictional world. It is loaded as any other would be and
# nothing below knows where it came from. With `SAFETHINK_TINY=1` in the environment the search is cut to a few steps:
# that shows the road, not what a search can do.

# %%
import json
import os
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import optimize
from optimize.config import ContextsConfig, GcgConfig, SelectionConfig
from safethink import Result, SafeThink, prefix, testbed
from safethink.config import LimitsConfig
from safethink.evaluation.statistics import Observations, paired_difference, rate
from safethink.judges.testbed import TestbedJudge
from safethink.testbed.prompts import draw

TINY = os.environ.get("SAFETHINK_TINY") == "1"
FOLDER = Path("runs/learn-a-prefix")
FOLDER.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A loaded model

# %%
model = AutoModelForCausalLM.from_pretrained(testbed.folders().reasoner)
tokenizer = AutoTokenizer.from_pretrained(testbed.folders().reasoner)
limits = LimitsConfig(max_step_tokens=48, max_trace_tokens=256, max_answer_tokens=48)
print(f"{type(model).__name__}, {model.num_parameters():,} parameters")

# %% [markdown]
# ## A monitor
#
# Any callable will do that takes the prompt and the trace so far and returns a score in [-1, 1], higher is safer. It
# never sees injected tokens. If it raises, or returns anything else, the run stops with the prompt named: nothing is
# ever answered unguarded.


# %%
def wary(prompt: str, trace: str) -> float:
    """Dislikes thinking that plans to gather things."""
    return -1.0 if "gather" in trace.lower() else 1.0


attacks = draw("jailbreak", "search", 48 if TINY else 200)
by_function = SafeThink(model, tokenizer, monitor=wary, limits=limits)(attacks[:24])
print(f"{sum(bool(each.interventions) for each in by_function)} of {len(by_function)} traces were steered")

# %% [markdown]
# A word list is a poor monitor. From here on it is a guard: a folder or a hub id, loaded as a language model that is
# asked for a verdict. `"testbed"` names the shipped one.

# %%
monitor = "testbed"

# %% [markdown]
# ## Prompts of your own
#
# One JSON object per line: `prompt` or `messages`, and optionally `split`, `group`, `label`, `reference`. Lines of one
# `group` never stand on both sides of the split between searching and choosing, and intervals are drawn over groups.
# Harmless prompts belong in the file too: they keep the prefix from hurting harmless work.

# %%
harmless = draw("harmless", "search", 16 if TINY else 60)
lines = [{"prompt": each.text, "label": "jailbreak", "group": each.clusters["wrapper"]} for each in attacks]
lines += [{"prompt": each.text, "label": "harmless", "reference": each.reference} for each in harmless]
mine = FOLDER / "mine.jsonl"
mine.write_text("".join(json.dumps(line) + "\n" for line in lines))
print(lines[0])

# %% [markdown]
# ## Learn
#
# 1. Roll out the attacks and keep the states where the monitor fires; sample a continuation that it accepts from each.
# 2. Search for tokens that, injected there, make those continuations likely (GCG).
# 3. Choose among the best on prompts that the search never saw, by what the reasoner then does, not by the loss.
#
# With `out`, every stage is on disk: interrupt it, run the cell again, and it goes on. Other settings need another
# folder.

# %%
artifact = optimize.learn(
    model,
    tokenizer,
    monitor,
    prompts=mine,
    length=4,
    out=FOLDER / "run",
    limits=limits,
    contexts=ContextsConfig(max_contexts=8 if TINY else 32),
    search=GcgConfig(steps=3 if TINY else 60, candidates=24 if TINY else 96),
    selection=SelectionConfig(
        finalists=2 if TINY else 12,
        spread=0 if TINY else 6,
        contexts=8 if TINY else 96,
        forced_prompts=4 if TINY else 64,
    ),
)
print(artifact.texts, "chosen by", artifact.selected_by)
for name, metric in artifact.metrics.items():
    print(f"{name:<32} {metric.value:+.2f}  [{metric.low:+.2f}, {metric.high:+.2f}]  n={metric.n}")

# %% [markdown]
# No second guard was given (`judge=...`), so the monitor itself chose, and a prefix that flatters the monitor would not
# have been found out. The artifact and its card say so.
#
# ## Save, load
#
# `learn` wrote the artifact to `out`. It is a folder of plain files: `prefix.json`, the log of the search, a model
# card. Loading verifies hashes and the round trip between text and token ids, and refuses what was edited. With another
# tokenizer the text is encoded anew, and the artifact says that it is transferred: its numbers are of another reasoner.

# %%
saved = FOLDER / "run" / "artifact"
print(sorted(path.name for path in saved.iterdir()))
loaded = prefix.load(saved, tokenizer)
assert loaded == artifact
elsewhere = prefix.load(saved, AutoTokenizer.from_pretrained(testbed.folders().guard))
print(elsewhere.transferred, loaded.token_ids, elsewhere.token_ids)

# %% [markdown]
# ## Use it, and compare
#
# The same prompts with the same seeds under both prefixes, on wrappers and hazards that neither the search nor the
# guard's training saw. Of what is left to compare, the paired difference counts; where its interval holds 0, nothing
# was shown. Prompts of your own need a judge here that is not the monitor; the testbed has an exact oracle.

# %%
guarded = SafeThink(model, tokenizer, monitor=monitor, prefix=loaded, limits=limits)
judge = TestbedJudge()
unseen = draw("jailbreak", "test", 24 if TINY else 300)


def harm(outputs: list[Result]) -> Observations:
    """Harmful outputs by the oracle's judgement, prompt by prompt."""
    judged = [judge.judge(each.prompt, each.own_trace, each.answer, each.closed) for each in outputs]
    return Observations.of(
        [float(each.outcome == "harmful") for each in judged],
        [each.prompt.id for each in outputs],
        [each.prompt.clusters for each in outputs],
    )


seen = {
    "learned": harm(guarded.run(unseen)),
    "wait-think-safely": harm(guarded.variant(prefix="wait-think-safely").run(unseen)),
}
for name, observations in seen.items():
    asr = rate(observations)
    print(f"ASR on the answer, {name:<18} {asr.value:.2f}  [{asr.low:.2f}, {asr.high:.2f}]  n={asr.n}")
change = paired_difference(seen["learned"], seen["wait-think-safely"])
print(f"paired difference {change.value:+.2f}  [{change.low:+.2f}, {change.high:+.2f}]")

# %% [markdown]
# Whatever this shows, it shows of the testbed, where the power of a phrase was planted: it says nothing about how safe
# a real model is. `safethink evaluate` reports accuracy, over-refusal and cost beside the ASR, `safethink-optimize
# search` does the same as this notebook from a YAML file, and `make demo` runs both at full size.
