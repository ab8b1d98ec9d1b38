# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How long should a prefix be?
#
# A longer prefix can say more, and costs more: tokens at every intervention, and more places for a search to go wrong.
# How long is long enough depends on the reasoner, so it has to be measured, and measured fairly: every length and every
# method gets the same budget of forwarded tokens, several seeds, the same prompts, and a control.
#
# An *ablation* is a grid over any keys of a configuration. Each cell learns or takes a prefix, and is measured like all
# the others. With `SAFETHINK_TINY=1` in the environment the grid is cut to a few small cells: that shows the road, not
# what a length is worth.

# %%
import os
from pathlib import Path

from IPython.display import HTML, display
from rich.console import Console

from optimize.ablation import figures, report_columns
from optimize.ablation.config import AblationConfig
from optimize.ablation.plan import plan
from optimize.ablation.report import table
from optimize.ablation.run import ablate
from safethink.config import yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import ConfigError
from safethink.evaluation.figures import plotly_js, to_html

TINY = os.environ.get("SAFETHINK_TINY") == "1"
OUT = Path("runs/length-ablation")

# %% [markdown]
# ## The grid
#
# The shipped grid has eight methods, five lengths and three seeds, and takes some twenty minutes on two cores. Here are
# three of its methods: random tokens as the control, what people would write, and GCG, where each length starts from
# the artifact of the next shorter one. The lengths and the seeds are cut as well.

# %%
shipped = yaml_config.load(AblationConfig, shipped_config("ablate/testbed-length"))
config = yaml_config.override(
    shipped,
    {
        "methods": {name: shipped.methods[name].model_dump() for name in ("random", "hand_written", "gcg")},
        "controls": ["random"],
        "axes": {"search.length": [1, 2] if TINY else [1, 2, 4, 8]},
        "seeds": [0] if TINY else [0, 1, 2],
    },
    "the notebook",
)
if TINY:
    small = {"prompts": 16, "harmless_prompts": 2, "max_contexts": 3, "best_of": 4}
    few = {"finalists": 2, "spread": 0, "contexts": 6, "samples": 1, "forced_prompts": 2}
    config = yaml_config.override(
        config,
        {
            **{f"base.contexts.{key}": value for key, value in small.items()},
            **{f"base.selection.{key}": value for key, value in few.items()},
            "base.search.budget_tokens": 3000,
            "validation": {"jailbreak": 16, "harmless": 4, "borderline": 4, "recovery_samples": 1},
            "test": {"jailbreak": 8, "harmless": 4, "borderline": 0, "samples": 1, "recovery_samples": 1},
        },
        "the notebook",
    )
print(plan(config).model_dump_json(indent=2))

# %% [markdown]
# An axis is any key. A wrong one is named before anything runs:

# %%
try:
    plan(yaml_config.override(config, {"axes": {"search.lenght": [1, 2]}}, "the notebook"))
except ConfigError as error:
    print(error)

# %% [markdown]
# ## Run it
#
# Two processes take cell after cell. Contexts, and all that needs no prefix, are made once and shared. Every cell is a
# folder: interrupt this, run it again, and only what is missing is done. A grid may also grow: add a length, and the
# cells that are there stay.

# %%
ablation = ablate(config, OUT)
assert not ablation.failures, ablation.failures
print(f"{len(ablation.cells)} cells, {len(ablation.points)} points")

# %% [markdown]
# ## Read it
#
# Each line of the table is one method at one length, over all its seeds. *Recovery* is the share of drifted traces that
# one injection puts right; *lift* is what of it the prefix itself is worth, against rolling back and sampling anew with
# nothing injected. The forced columns say what the prefix costs where it is not needed. ASR, accuracy and readability
# (NLL per token) are those of the seed that validation chose, on `test`.

# %%
Console(width=104).print(table(ablation))

# %% [markdown]
# The interval of a point covers other prompts and, as far as so few seeds can tell, other seeds of the search.

# %%
recovery = next(each for each in report_columns.VALIDATION if each.name == "recovery_rate")
chart = to_html(figures.curve(ablation, recovery, config.controls), "recovery")
display(HTML(f"<script>{plotly_js()}</script>{chart}"))

# %% [markdown]
# Is a search worth its while at all? The difference to random tokens of the same length and budget is paired: the same
# prompts, the same seeds. Where its interval holds 0, nothing was shown.

# %%
for point in ablation.points:
    for control, numbers in point.against.items():
        change = numbers["recovery_rate"]
        print(
            f"{point.method:<13} {point.label:<9} {change.value:+.2f} against {control}"
            f"  [{change.low:+.2f}, {change.high:+.2f}]  n={change.n}"
        )

# %% [markdown]
# `report.html` has all numbers, figures and prefixes in one file that opens offline; `ablation.json` has them for
# whatever comes next. The best seed's artifact carries its record on `test` and can be published as it is.

# %%
best = max((point for point in ablation.points if point.tokens), key=lambda point: point.metrics["recovery_rate"].value)
print(best.method, best.label, best.texts, "->", OUT / "cells" / best.best / "artifact")
print(OUT / "report.html")

# %% [markdown]
# It is the best of several points on validation, so expect less of it elsewhere; that is what the column on `test` is
# for. And whatever this shows, it shows of the testbed, where the power of words was planted: it says nothing about how
# safe a real model is. The other shipped ablations vary the threshold, the limits of the loop and the strength of the
# monitor: `safethink-optimize ablate testbed-threshold --out runs/threshold`.
