"""`python nanogcg_worker.py FOLDER`, in nanoGCG's environment: its GCG on the model and tokenizer in FOLDER.

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
    """Notes when each step begins, and what it came to: in seconds of this process's one thread.

    Attributes:
        begun: when each gradient was asked for.
        curve: forwarded tokens, seconds and the least loss so far, behind every step; gradients count twice.
    """

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.begun, self.curve = [], []
        self._tokens, self._least, self._started = 0, float("inf"), time.process_time()

    def compute_token_gradient(self, optim_ids):
        self.begun.append(time.process_time())
        self._tokens += 2 * (optim_ids.shape[1] + self._num_behind)
        return super().compute_token_gradient(optim_ids)

    def _compute_candidates_loss_original(self, search_batch_size, input_embeds):
        losses = super()._compute_candidates_loss_original(search_batch_size, input_embeds)
        # Where it caches what is in front, it reads the rest alone.
        self._tokens += input_embeds.shape[0] * input_embeds.shape[1]
        self._least = min(self._least, losses.min().item())
        self.curve.append((self._tokens, time.process_time() - self._started, self._least))
        return losses

    @property
    def _num_behind(self) -> int:
        return self.after_embeds.shape[1] + self.target_embeds.shape[1]


def main(folder: str) -> None:
    """Answer requests, one JSON line each, until there are no more."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    answers = {"steps": time_steps, "search": search}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answers[request.pop("do")](model, tokenizer, **request)), flush=True)


def time_steps(model, tokenizer, context: str, init: str, target: str, width: int, steps: int, candidates) -> dict:
    """How long each step takes, and what the candidates cost.

    Its retokenisation filter is left out, which works candidate by candidate: the steps are of equal width.
    """
    config = GCGConfig(
        num_steps=steps + 1, optim_str_init=init, search_width=width, filter_ids=False, seed=0, verbosity="ERROR"
    )
    gcg = Watched(model, tokenizer, config)
    gcg.run(context + " {optim_str}", target)
    embeds = [model.get_input_embeddings()(torch.tensor(candidates)), gcg.after_embeds, gcg.target_embeds]
    whole = torch.cat([each.expand(len(candidates), -1, -1) for each in embeds], dim=1)
    losses = GCG._compute_candidates_loss_original(gcg, len(candidates), whole)
    return {"seconds": [end - start for start, end in pairwise(gcg.begun)], "losses": losses.tolist()}


def search(model, tokenizer, context: str, separator: str, init: str, target: str, width: int, steps: int, seed: int):
    """How its best loss falls, from its start on, with its own settings but for the width; and what it found."""
    config = GCGConfig(num_steps=steps, optim_str_init=init, search_width=width, seed=seed, verbosity="ERROR")
    gcg = Watched(model, tokenizer, config)
    found = gcg.run(context + "{optim_str}" + separator, target)
    return {"curve": gcg.curve, "text": found.best_string}


if __name__ == "__main__":
    main(sys.argv[1])
