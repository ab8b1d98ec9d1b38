"""One step of GCG, gradient and candidates, against nanoGCG and against full-sequence scoring.

nanoGCG 0.3.0 runs in an environment of its own (`make_nanogcg_env`), on the same weights, with its cache on. Full
sequences with all logits are how PyRIT, RPO and llm-attacks score. Nobody writes candidates down and reads them again
here, so that all steps are of equal width. Times are those of one thread, and the two sides take turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from optimize.scoring import Example, Scorer, frozen
from optimize.search.edits import promising
from tests.benchmarks import make_nanogcg_env
from tests.benchmarks.frame import BenchRow
from tests.benchmarks.worker import Worker

TARGETS = {28: 2.0, 226: 1.8, 666: 1.8}
"""Tokens of context, and how many times faster a step should be than nanoGCG's."""
FULL_SEQUENCE_TARGET = 12.0
LENGTH, TARGET_TOKENS, WIDTH, TOP_K, VOCABULARY = 20, 18, 64, 256, 2000
RUNS, STEPS = 10, 3
FULL_SEQUENCE_RUNS = 5
TOLERANCE_NATS = 1e-5
LOG = Path("runs/bench/nanogcg.log")


def rows() -> Iterator[BenchRow]:
    """How many times faster a step is; each ratio is the lowest of its runs."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with TemporaryDirectory() as scratch:
        model = _save_model(Path(scratch))
        script = Path(__file__).with_name("nanogcg_worker.py")
        with Worker([make_nanogcg_env.interpreter(), script, scratch], LOG) as nanogcg:
            for tokens, target in TARGETS.items():
                yield _over_nanogcg(model, nanogcg, tokens, target)
        yield _over_full_sequences(model, max(TARGETS))


def _over_nanogcg(model: PreTrainedModel, nanogcg: Worker, context_tokens: int, target: float) -> BenchRow:
    example, start, candidates = _task(context_tokens)
    scorer = Scorer(model, [example])
    words = {"context": _words(example.context), "init": _words(start.tolist()), "target": _words(example.target)}
    ask = partial(nanogcg.ask, do="steps", **words, width=WIDTH, steps=STEPS, candidates=candidates.tolist())
    ratios: list[float] = []
    answer = ask()  # Warms up.
    for _ in range(RUNS):
        answer = ask()
        ours = [_seconds(partial(_step, scorer, start)) for _ in range(STEPS)]
        ratios.append(median(answer["seconds"]) / median(ours))
    gap = (scorer.continuations(candidates)[:, 0] - torch.tensor(answer["losses"])).abs().max().item()
    return _row(f"step_over_nanogcg_{context_tokens}", ratios, target, gap)


def _over_full_sequences(model: PreTrainedModel, context_tokens: int) -> BenchRow:
    example, start, candidates = _task(context_tokens)
    scorer = Scorer(model, [example])
    ratios: list[float] = []
    for _ in range(FULL_SEQUENCE_RUNS):
        slow = _seconds(partial(_full_step, model, example, start, candidates))
        ratios.append(slow / median(_seconds(partial(_step, scorer, start)) for _ in range(STEPS)))
    gap = (scorer.continuations(candidates)[:, 0] - _full_losses(model, example, candidates)).abs().max().item()
    return _row(f"step_over_full_sequences_{context_tokens}", ratios, FULL_SEQUENCE_TARGET, gap)


def _step(scorer: Scorer, prefix: Int[Tensor, "length"]) -> None:
    """Gradient, promising edits, and the losses of as many of them as nanoGCG scores."""
    table = next(scorer.model.get_input_embeddings().parameters()).detach()
    promise = scorer.gradient(prefix) @ table.T
    edits = promising(promise, prefix[:, None] == torch.arange(VOCABULARY), torch.arange(VOCABULARY), TOP_K)
    candidates = prefix.repeat(WIDTH, 1)
    for row, index in enumerate(torch.randperm(len(edits))[:WIDTH].tolist()):
        place, token = edits[index]
        candidates[row, place] = token
    scorer.continuations(candidates).argmin().item()


def _full_step(
    model: PreTrainedModel,
    example: Example,
    prefix: Int[Tensor, "length"],
    candidates: Int[Tensor, "candidates length"],
) -> None:
    """The same over whole sequences, through one-hot rows, with logits everywhere."""
    table = next(model.get_input_embeddings().parameters())
    with frozen(model):
        one_hot = functional.one_hot(prefix, VOCABULARY).to(table.dtype).requires_grad_()
        around = [table[torch.tensor(ids)] for ids in (example.context, example.target)]
        logits = model(inputs_embeds=torch.cat([around[0], one_hot @ table, around[1]])[None]).logits
        loss = functional.cross_entropy(logits[0, -TARGET_TOKENS - 1 : -1], torch.tensor(example.target))
        (gradient,) = torch.autograd.grad(loss, one_hot)
    (-gradient).topk(TOP_K, dim=1)
    _full_losses(model, example, candidates).argmin().item()


@torch.no_grad()
def _full_losses(
    model: PreTrainedModel, example: Example, candidates: Int[Tensor, "candidates length"]
) -> Float[Tensor, "candidates"]:
    context, target = (torch.tensor(ids).expand(len(candidates), -1) for ids in (example.context, example.target))
    logits = model(torch.cat([context, candidates, target], dim=1)).logits[:, -TARGET_TOKENS - 1 : -1]
    return functional.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)


def _row(name: str, ratios: list[float], target: float, gap: float) -> BenchRow:
    note = f"lowest of {len(ratios)} runs; median {median(ratios):.2f}; losses differ by {gap:.1g} nats at most"
    return BenchRow(name, min(ratios), min(ratios), max(ratios), target, exact=gap <= TOLERANCE_NATS, note=note)


def _task(context_tokens: int) -> tuple[Example, Int[Tensor, "length"], Int[Tensor, "candidates length"]]:
    """A context and a target of random words, a prefix to start from, and candidates."""
    generator = torch.Generator().manual_seed(context_tokens)
    drawn = torch.randint(1, VOCABULARY, (context_tokens + TARGET_TOKENS + LENGTH,), generator=generator)
    context, target, start = drawn.split([context_tokens, TARGET_TOKENS, LENGTH])
    candidates = torch.randint(1, VOCABULARY, (WIDTH, LENGTH), generator=generator)
    return Example(tuple(context.tolist()), tuple(target.tolist())), start, candidates


def _words(ids: list[int] | tuple[int, ...]) -> str:
    return " ".join(f"w{token}" for token in ids)


def _seconds(run: Callable[[], object]) -> float:
    """Seconds of this process's one thread: what a step takes on a machine that is not busy with others."""
    started = time.process_time()
    run()
    return time.process_time() - started


def _save_model(folder: Path) -> LlamaForCausalLM:
    """A random Llama whose tokens are words, written down as both versions of transformers read it."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.1)).eval()
    model.save_pretrained(folder)
    legacy = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(sizes | legacy))
    (folder / "generation_config.json").unlink(missing_ok=True)
    words = Tokenizer(WordLevel({f"w{token}": token for token in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w0")
    tokenizer.save_pretrained(folder)
    return model
