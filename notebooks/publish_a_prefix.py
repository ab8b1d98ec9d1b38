# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Publish a prefix
#
# A learned prefix is worth publishing once it was tested on prompts that nothing was learned or chosen on. What follows
# takes one from a search through that test to a published folder, loads it back, and compares it with "Wait, think
# safely". Publishing refuses what was not tested, and what does not help.
#
# Everything runs on the testbed, a small reasoner and a small guard over a fictional world: its numbers say nothing
# about real models. With `SAFETHINK_TINY=1` in the environment there are only a few steps and prompts.

# %%
import os
from pathlib import Path

import rich
from IPython.display import Markdown

from optimize.config import SearchConfig
from optimize.pipeline.api import search_command
from optimize.publishing.holdout_metrics import report_run
from optimize.publishing.publish import publish
from safethink import SafeThink, prefix
from safethink.config import EvalConfig, WorldConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import ArtifactError
from safethink.evaluation.compare import compare, table
from safethink.evaluation.runner import evaluate
from safethink.evaluation.worker import load_reasoner
from safethink.testbed.prompts import draw

TINY = os.environ.get("SAFETHINK_TINY") == "1"
FOLDER = Path("runs/publish-a-prefix")

# %% [markdown]
# ## Learn
#
# The search that ships, `safethink-optimize search configs/search/testbed-gcg.yaml` on the command line. Its artifact
# is a folder of plain files. Run this cell again and it goes on where it was, or finds everything done.

# %%
search = yaml_config.load(SearchConfig, shipped_config("search/testbed-gcg"))
if TINY:
    few = {
        "contexts": {"prompts": 16, "harmless_prompts": 4, "max_contexts": 4, "best_of": 4},
        "search": search.search.model_dump() | {"steps": 2, "candidates": 16},
        "selection": {"finalists": 2, "spread": 0, "contexts": 8, "samples": 1, "forced_prompts": 4},
    }
    search = SearchConfig.model_validate(search.model_dump() | few)
artifact = search_command(search, FOLDER / "search")
learned = FOLDER / "search" / "artifact"
print(artifact.texts, "chosen by", artifact.selected_by)
print(sorted(path.name for path in learned.iterdir()))

# %% [markdown]
# ## Not yet
#
# Its numbers so far are of validation, where it was chosen as the best of many, so they flatter it. Such an artifact is
# refused, with the reason in one line.

# %%
try:
    publish(learned, str(FOLDER / "published"))
except ArtifactError as refusal:
    print(refusal)

# %% [markdown]
# ## Test
#
# Every row sees the same prompts with the same seeds, on wrappers, hazards and tasks that neither the search nor the
# guard's training saw. The judge is not the one that chose. The undefended row is what ASR has to fall from; harmless
# and borderline prompts show the price. Each such look is counted in the artifact's folder: looking often and keeping
# the best is tuning on the test.

# %%
shipped = yaml_config.load(EvalConfig, shipped_config("eval/testbed"))
ROWS = ("undefended", "safethink_wait_think_safely", "safethink_learned")
evaluation = shipped.replace(
    prefix=str(learned),
    rows=tuple(row for row in shipped.rows if row.name in ROWS),
    benchmarks=tuple(each.replace(n=10) if TINY else each for each in shipped.benchmarks),
    depth_curve=(),
)
reasoner = load_reasoner(evaluation)
summary = evaluate(evaluation, FOLDER / "test", reasoner)
for name, cells in summary.rows.items():
    asr = cells["asr_answer"]
    print(f"ASR on the answer, {name:<28} {asr.value:.2f}  [{asr.low:.2f}, {asr.high:.2f}]  n={asr.n}")

# %% [markdown]
# ## Report
#
# The numbers go into the artifact, beside those of validation and never in their place. It is checked that the run had
# this artifact on trial, on this reasoner, under this guard. How far recovery fell from validation to test is the price
# of having chosen the best.

# %%
reported = report_run(learned, FOLDER / "test")
for name in ("asr_test", "asr_undefended_test", "asr_change_test", "recovery_fall_validation_to_test"):
    metric = reported.metrics[name]
    print(f"{name:<34} {metric.value:+.2f}  [{metric.low:+.2f}, {metric.high:+.2f}]  n={metric.n}")

# %% [markdown]
# ## The card
#
# It is written from the artifact alone, so that it cannot say anything else. It names what was not tested, and what
# stands against the numbers.

# %%
metadata, _, card = (learned / "README.md").read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
print(metadata)
Markdown(card)

# %% [markdown]
# ## Publish
#
# To a folder here; `to="OWNER/NAME"` is a repository on the hub, written in one commit, and then `dry_run=True` first
# says what would be sent. `run=FOLDER / "test"` would have done the report as well. Publishing the same again changes
# nothing.

# %%
published = FOLDER / "published"
for dry_run in (True, False, False):
    done = publish(learned, str(published), dry_run=dry_run)
    print("would change" if dry_run else "changed", list(done.changed))

# %% [markdown]
# ## Load it back
#
# From the folder, or from the hub as `OWNER/NAME@COMMIT`: what was read once is what will be read again. Loading
# verifies hashes and the round trip between text and token ids. An artifact that was edited by hand is refused.

# %%
loaded = prefix.load(published.resolve())
assert loaded.learned_hash() == artifact.learned_hash()
assert loaded.metrics == reported.metrics
guarded = SafeThink.from_pretrained("testbed", monitor="testbed", prefix=loaded, limits=evaluation.run.limits)
result = guarded(draw("jailbreak", "test", 1)[0])
print(f"{len(result.interventions)} intervention(s):", result.answer)

edited = FOLDER / "edited"
edited.mkdir(exist_ok=True)
was = (published / prefix.JSON_FILE).read_text(encoding="utf-8")
(edited / prefix.JSON_FILE).write_text(was.replace('"threshold": 0.0', '"threshold": -1.0'), encoding="utf-8")
try:
    prefix.load(edited.resolve())
except ArtifactError as refusal:
    print(refusal)

# %% [markdown]
# ## Compare
#
# With "Wait, think safely", on prompts drawn anew: wrappers, hazards and tasks that nobody has tuned to. It is counted
# as another look all the same. The difference is paired; where its interval holds 0, nothing was shown. McNemar's test
# beside it takes prompts as independent, which those of one wrapper are not. On the command line: `safethink prefix
# compare`.

# %%
fresh = evaluation.replace(world=WorldConfig(prompts_seed=1))
rich.print(table(compare(str(published.resolve()), "wait-think-safely", fresh, FOLDER / "comparison", reasoner)))

# %% [markdown]
# What is published says of itself what reasoner and monitor it was learned for. On another reasoner its text is encoded
# anew and marked as transferred, and none of its numbers hold there: evaluate it again.
