# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own objective
#
# What a search minimises is a weighted sum of terms: safe continuations should be likely, harmless work should be left
# alone, the prefix should read well. A term is a class with five members, and yours is as good as those that ship. Here
# is one in some fifteen lines, a search with it, and what it costs.
#
# Searches like to leave pieces of words: a prefix that reads `Gatherdoubt doubt the` may work, but who would put that
# into a product? The term counts the tokens that are no plain word.
#
# The model is the testbed's, a small Qwen3 trained on a fictional world, so the numbers say nothing about real models.
# With `SAFETHINK_TINY=1` in the environment there are only a few steps: that shows the road, not what a search can do.

# %%
import json
import os
import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import optimize
from optimize.config import ContextsConfig, GcgConfig, SelectionConfig
from optimize.objectives import Objective, TermGradient, Weighted, WholeTerm
from safethink import testbed
from safethink.config import LimitsConfig
from safethink.testbed.prompts import draw

TINY = os.environ.get("SAFETHINK_TINY") == "1"
FOLDER = Path("runs/your-own-objective")

model = AutoModelForCausalLM.from_pretrained(testbed.folders().reasoner)
tokenizer = AutoTokenizer.from_pretrained(testbed.folders().reasoner)

# %% [markdown]
# ## The term
#
# - `name`: what logs call it.
# - `meters`: what counts the tokens that it forwards through the reasoner, for budgets. This one forwards none.
# - `costs`: what every candidate costs, one prefix of token ids per row. Lower is better.
# - `gradient`: where that falls. What a term says of each token by what it is goes into `token_costs`, exactly; what it
#   sees of them through their embeddings goes into `embeddings`. `None`, where no substitution changes anything.
# - `soft_cost`: the same of a soft prefix, whose rows are no tokens. Here they cost nothing.


# %%
class BrokenWords:
    """The share of tokens that are no plain word: a space, then small letters."""

    name, meters = "broken_words", ()

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        self.broken = torch.tensor([not re.fullmatch(" [a-z]+", text) for text in texts]).float()
        self.hidden = model.config.hidden_size

    def costs(self, candidates: Tensor) -> Tensor:
        return self.broken[candidates].mean(1)

    def gradient(self, prefix: Tensor) -> TermGradient:
        every_place = (self.broken / len(prefix)).expand(len(prefix), -1)
        return TermGradient(torch.zeros(len(prefix), self.hidden), every_place)

    def soft_cost(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(())


term = BrokenWords(model, tokenizer)
assert isinstance(term, WholeTerm)

# %% [markdown]
# Terms see tokens, and are told nothing else; what more they need they take when they are made, as this one takes the
# tokenizer. One that is a mean over contexts may say what it costs in a few of them (`ContextTerm`), and then takes
# part in racing. One that goes through the reasoner writes `soft_cost` alone and has its gradient from `through_rows`.
#
# ## Check it
#
# A wrong gradient raises nothing: the search is merely worse. So compare it with what substitutions really cost. At
# each place the two may differ by a constant, since only differences between tokens count.

# %%
words = tokenizer.encode("Wait, think safely", add_special_tokens=False)
prefix = torch.tensor(words)
allowed = torch.arange(0, len(tokenizer), 7)
alone = Objective(model, [Weighted(term)])
promised = alone.coordinate_gradient(prefix, allowed)
for place in range(len(words)):
    swapped = [(*words[:place], token, *words[place + 1 :]) for token in allowed.tolist()]
    apart = alone.cost(swapped).total - promised[place]
    assert torch.allclose(apart, apart[:1].double().expand(len(apart)), atol=1e-6)
print(f"{term.costs(prefix[None]).item():.2f} of {tokenizer.convert_ids_to_tokens(words)} are no plain words")

# %% [markdown]
# ## Search with it
#
# `terms` are summed beside what `objective` configures, here its defaults. The weight is the exchange rate: at 1, a
# prefix of four tokens with one broken word must be better by a quarter of a nat per token elsewhere. Nobody knows the
# right weight beforehand, so three are tried. Weight 0 computes the term and pays nothing for it.

# %%
limits = LimitsConfig(max_step_tokens=48, max_trace_tokens=256, max_answer_tokens=48)
prompts = [*draw("jailbreak", "search", 36 if TINY else 200), *draw("harmless", "search", 8 if TINY else 60)]
WEIGHTS = (0.0, 1.0) if TINY else (0.0, 0.1, 1.0)
learned = {
    weight: optimize.learn(
        model,
        tokenizer,
        "testbed",
        prompts,
        length=4,
        terms=[Weighted(term, weight)],
        out=FOLDER / f"weight-{weight}",
        limits=limits,
        contexts=ContextsConfig(max_contexts=4 if TINY else 16, best_of=4 if TINY else 8),
        search=GcgConfig(init=None, steps=4 if TINY else 40, candidates=16 if TINY else 64),
        selection=SelectionConfig(
            finalists=2 if TINY else 8, spread=0, contexts=8 if TINY else 64, forced_prompts=4 if TINY else 32
        ),
    )
    for weight in WEIGHTS
}
for weight, artifact in learned.items():
    recovery = artifact.metrics["recovery_rate"]
    broken = term.costs(torch.tensor(artifact.token_ids[:1])).item()
    print(
        f"weight {weight:<4} {artifact.texts[0]!r:<40} broken {broken:.2f}   "
        f"recovery {recovery.value:.2f}  [{recovery.low:.2f}, {recovery.high:.2f}]  n={recovery.n}"
    )

# %% [markdown]
# Recovery is on validation, where each was chosen as the best of some, and the guard that chose is the monitor itself:
# see `learn_a_prefix.ipynb` for a judge, and `publish_a_prefix.ipynb` for a test. Where intervals overlap, the weight
# was not shown to cost anything.
#
# ## In the log
#
# Every step has the cost of its best prefix term by term, unweighted, so that what a term did can be seen afterwards.
# The log goes into the artifact. The configuration there does not hold your class, so name it when you publish.

# %%
log = FOLDER / f"weight-{WEIGHTS[-1]}" / "artifact" / "search.jsonl"
for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()[:: 1 if TINY else 8]):
    told = ", ".join(f"{name} {value:.3f}" for name, value in line["cost"].items())
    print(f"step {line['step']:>2}  {line['text']!r:<36} {told}")
