# pyright: standard
"""Builds and trains the testbed's three models from one seed: two reasoners and a guard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from optimize.testbed import phrases, tokenizer
from optimize.testbed.corpus import Encode, Example, GuardCorpus, ReasonerCorpus
from optimize.testbed.phrases import PhraseSampler
from optimize.testbed.training import TrainingPlan, build_model, fit
from optimize.testbed.trajectories import Story, Storyteller
from safethink.progress import track
from safethink.prompts import Message, Prompt
from safethink.testbed.prompts import catalogues
from safethink.testbed.world import World, WorldKind, words
from safethink.thinking.chat import ChatEncoder

Name = Literal["reasoner", "reasoner_null", "guard"]

N_TOKENIZER_STORIES: Final = 6000
LONG_BATCH: Final = 5
LONG_SHOTS: Final = (16, 30)
PLANS: Final[dict[Name, TrainingPlan]] = {
    "reasoner": TrainingPlan(steps=1600),
    "reasoner_null": TrainingPlan(steps=900),
    "guard": TrainingPlan(steps=700, batch_size=48),
}
SIZES: Final[dict[Name, tuple[int, int]]] = {"reasoner": (96, 4), "reasoner_null": (96, 4), "guard": (64, 3)}
"""Hidden size and layers."""


def plans(kind: WorldKind) -> dict[Name, TrainingPlan]:
    """Training plans for a world: everything that ships for `planted`, else its reasoner alone."""
    return PLANS if kind == "planted" else {"reasoner": PLANS["reasoner"]}


@dataclass(frozen=True)
class Trainee:
    """A model in training, and where its examples come from."""

    name: Name
    plan: TrainingPlan
    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    batch: Callable[[int], Sequence[Example]]

    def train(self, folder: Path) -> float:
        """Train, save in bfloat16 under `folder`, and return the seconds taken.

        A checkpoint in `folder` lets a killed training go on where it was.
        """
        with track(f"training {self.name}", self.plan.steps) as advance:
            seconds = fit(self.model, self.plan, self.batch, lambda: advance(1), folder / "checkpoint.pt")
        self.model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.model.bfloat16().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return seconds


def train_tokenizer(seed: int) -> Tokenizer:
    """Learn the merges all three models share."""
    rng = np.random.default_rng([seed, 2])
    teller = Storyteller(World.make(seed), lambda: phrases.any_phrase(rng), rng)
    return tokenizer.train(_told(teller.story()) for _ in range(N_TOKENIZER_STORIES))


def prepare(name: Name, trained: Tokenizer, seed: int, kind: WorldKind = "planted") -> Trainee:
    """A fresh model of a world and its corpus; the tokenizer is the same in all worlds of a seed."""
    torch.manual_seed(seed)
    own = tokenizer.for_guard(trained) if name == "guard" else tokenizer.for_reasoner(trained)
    model = build_model(own, *SIZES[name])
    corpus = _guard_batches if name == "guard" else _reasoner_batches
    world = World.make(seed, "null" if name == "reasoner_null" else kind)
    plan = plans(kind)[name]
    return Trainee(name, plan, model, own, corpus(own, world, plan))


def _reasoner_batches(
    own: PreTrainedTokenizerFast, world: World, plan: TrainingPlan
) -> Callable[[int], Sequence[Example]]:
    control = dict(zip(("turn_start", "turn_end", "think", "close"), _control_ids(own), strict=True))
    corpus = ReasonerCorpus(encode=_encoder(ChatEncoder(own)), **control)
    pieces = _token_texts(own)

    def batch(step: int) -> Sequence[Example]:
        rng = np.random.default_rng([world.seed, 3, step])
        teller = Storyteller(world, _sampler(world, pieces, rng).draw, rng)
        if step % plan.long_every == plan.long_every - 1:
            return [corpus.example(teller.many_shot_story(int(rng.integers(*LONG_SHOTS)))) for _ in range(LONG_BATCH)]
        return [corpus.example(teller.story()) for _ in range(plan.batch_size)]

    return batch


def _guard_batches(
    own: PreTrainedTokenizerFast, world: World, plan: TrainingPlan
) -> Callable[[int], Sequence[Example]]:
    chats = ChatEncoder(own)
    known = catalogues(0)["search"]

    def render(prompt: Prompt, trace: str) -> list[int]:
        return list(chats.chat([*prompt.messages, Message(role="assistant", content=trace)]).ids)

    def batch(step: int) -> Sequence[Example]:
        rng = np.random.default_rng([world.seed, 4, step])
        teller = Storyteller(
            world, lambda: phrases.any_phrase(rng), rng, known.wrappers, known.hazards, injected_share=0.4
        )
        corpus = GuardCorpus(_encoder(chats), render, own.get_vocab()[str(own.eos_token)], rng)
        return [corpus.example(teller.story()) for _ in range(plan.batch_size)]

    return batch


def _sampler(world: World, pieces: tuple[str, ...], rng: np.random.Generator) -> PhraseSampler:
    return PhraseSampler(world, lambda: pieces[int(rng.integers(len(pieces)))], rng, _held_out_words(world.seed))


@lru_cache(maxsize=1)
def _held_out_words(seed: int) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(words(phrase)) for phrase in phrases.held_out(seed))


def _control_ids(own: PreTrainedTokenizerFast) -> list[int]:
    return [own.get_vocab()[token] for token in ("<|im_start|>", "<|im_end|>", "<think>", "</think>")]


def _token_texts(own: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """The text of every token that a phrase might hold: no control tokens, no line breaks, no broken UTF-8."""
    control = set(own.added_tokens_decoder)
    texts = (str(own.decode([token])) for token in range(len(own)) if token not in control)
    return tuple(text for text in texts if "\n" not in text and "\ufffd" not in text)


def _encoder(chats: ChatEncoder) -> Encode:
    cached = lru_cache(maxsize=200_000)(chats.text)
    return lambda text: list(cached(text)) if text else []


def _told(story: Story) -> str:
    """A story as plain text, for the tokenizer to learn from."""
    turns = "".join(f"{message.role}\n{message.content}\n" for message in story.prompt.messages)
    steps = (f"{beat.phrase} {beat.step.chosen}" if beat.phrase else beat.step.chosen for beat in story.beats)
    return f"{turns}assistant\n{story.prompt.prefill}" + "\n\n".join([*steps, story.answer.chosen])


def count_parameters(folder: Path) -> int:
    """Number of parameters of a saved model."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
