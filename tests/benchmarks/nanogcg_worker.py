"""`python nanogcg_worker.py FOLDER`, in nanoGCG's environment: steps of its GCG on the model and tokenizer in FOLDER.

A file for itself: nothing of the project is installed where it runs.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import time
from itertools import pairwise

import torch
from nanogcg.gcg import GCG, GCGConfig
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


class Watched(GCG):
    """Notes when each step begins, in seconds of this process's one thread."""

    def compute_token_gradient(self, optim_ids):
        self.begun.append(time.process_time())
        return super().compute_token_gradient(optim_ids)


def main(folder: str) -> None:
    """Answer requests, one JSON line each, until there are no more."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for line in sys.stdin:
        print(json.dumps(respond(model, tokenizer, **json.loads(line))), flush=True)


def respond(model, tokenizer, context: str, init: str, target: str, width: int, steps: int, candidates) -> dict:
    """How long each step takes, and what the candidates cost.

    Its retokenisation filter is left out, which works candidate by candidate: the steps are of equal width.
    """
    config = GCGConfig(
        num_steps=steps + 1, optim_str_init=init, search_width=width, filter_ids=False, seed=0, verbosity="ERROR"
    )
    gcg = Watched(model, tokenizer, config)
    gcg.begun = []
    gcg.run(context + " {optim_str}", target)
    embeds = [model.get_input_embeddings()(torch.tensor(candidates)), gcg.after_embeds, gcg.target_embeds]
    whole = torch.cat([each.expand(len(candidates), -1, -1) for each in embeds], dim=1)
    losses = gcg._compute_candidates_loss_original(len(candidates), whole)
    begun = gcg.begun
    return {"seconds": [end - start for start, end in pairwise(begun)], "losses": losses.tolist()}


if __name__ == "__main__":
    main(sys.argv[1])
