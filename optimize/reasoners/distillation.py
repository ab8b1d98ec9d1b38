# pyright: standard
"""Self-distillation: a base model continues the openings of its own thinking, and answers in its own words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from optimize.reasoners.config import CorpusConfig
from optimize.reasoners.corpus import Draft
from optimize.reasoners.rows import Row, correction
from safethink.models.loading import CausalLM
from safethink.progress import track
from safethink.prompts import Message
from safethink.seeds import stable_seed
from safethink.thinking.chat import ChatEncoder

TOP_K: Final = 50
MIN_WORDS: Final = 4
"""Fewer words say nothing."""
_END: Final = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class Base:
    """A base model that continues text in batches.

    Attributes:
        lm: model and tokenizer, the latter with the base's own chat template.
        config: temperature, lengths, batch size.
    """

    lm: CausalLM
    config: CorpusConfig

    def opened(self, request: str) -> tuple[int, ...]:
        """The base's own chat up to its turn."""
        chats = ChatEncoder(self.lm.tokenizer)
        return chats.chat((Message(role="user", content=request),), add_generation_prompt=True).ids

    @torch.inference_mode()
    def continued(self, prompts: Sequence[tuple[int, ...]], max_tokens: int, seed: int) -> list[str]:
        """Continue token ids of one batch; each text ends where the base ends its turn, or at `max_tokens`."""
        tokenizer = self.lm.tokenizer
        # A module's attributes are typed as tensors.
        model: Any = self.lm.model
        rows = tokenizer.pad({"input_ids": list(map(list, prompts))}, padding_side="left", return_tensors="pt")
        torch.manual_seed(seed)
        sampled = {"do_sample": True, "temperature": self.config.temperature, "top_k": TOP_K}
        new = model.generate(
            **rows.to(model.device),
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **(sampled if self.config.temperature > 0 else {"do_sample": False}),
        )[:, rows["input_ids"].shape[1] :]
        return tokenizer.batch_decode(new, skip_special_tokens=True)


def distilled(drafts: Sequence[Draft], base: Base, cache: Path, seed: int) -> list[Row]:
    """Let a base complete drafts, batch by batch; batches that the cache has are not completed again.

    Rows that stop short, or in which a correction stands, are left out.

    Args:
        drafts: what to complete.
        base: completes it.
        cache: JSONL file of what was completed, one line per draft.
        seed: draws the base's words.
    """
    size = base.config.batch_size
    done = {row.id: row for row in _read(cache)}
    with track("the base completes its own rows", len(drafts)) as advance:
        for start in range(0, len(drafts), size):
            batch = drafts[start : start + size]
            if any(draft.id not in done for draft in batch):
                rows = list(_completed(batch, base, stable_seed(seed, "distilled", start)))
                with cache.open("a", encoding="utf-8") as file:
                    file.writelines(f"{row.model_dump_json()}\n" for row in rows)
                done |= {row.id: row for row in rows}
            advance(len(batch))
    rows = [done[draft.id] for draft in drafts]
    return [row for row in rows if _is_whole(row) and correction(row) is None]


def _is_whole(row: Row) -> bool:
    """Whether nothing of a row stopped short, or right before a list."""
    return all(row.steps) and row.answer != "" and not row.answer.endswith(":")


def _completed(batch: Sequence[Draft], base: Base, seed: int) -> Iterator[Row]:
    """Complete one batch; a step or an answer that stopped short is empty."""
    steps = {draft.id: list(draft.steps) for draft in batch}
    opened = {draft.id: base.opened(draft.request) for draft in batch}
    chats = ChatEncoder(base.lm.tokenizer)
    for depth in range(max(len(draft.openings) for draft in batch)):
        asked = [draft for draft in batch if depth < len(draft.openings)]
        prompts = [
            opened[draft.id] + chats.text("\n\n".join([*steps[draft.id], draft.openings[depth]])) for draft in asked
        ]
        texts = base.continued(prompts, base.config.max_plan_tokens, stable_seed(seed, "step", depth))
        for draft, text in zip(asked, texts, strict=True):
            steps[draft.id].append(sentence(draft.openings[depth] + text))
    asked = [draft for draft in batch if draft.answer is None]
    answers = {draft.id: draft.answer or "" for draft in batch}
    if asked:
        texts = base.continued(
            [opened[draft.id] for draft in asked], base.config.max_answer_tokens, stable_seed(seed, "answer")
        )
        answers |= {draft.id: whole_sentences(text) for draft, text in zip(asked, texts, strict=True)}
    for draft in batch:
        yield Row(
            id=draft.id,
            kind=draft.kind,
            request=draft.request,
            steps=tuple(steps[draft.id]),
            answer=answers[draft.id],
        )


def sentence(text: str) -> str:
    """The first sentence of a text; of one that was cut, what stands before its last comma; empty where too short.

    A quotation that goes on is ended with it.
    """
    line = text.strip().split("\n")[0]
    end = _END.search(line)
    said = line[: end.end()] if end is not None else line.rpartition(",")[0] + "."
    if said.count('"') % 2:
        said += '"'
    return said if len(said.split()) >= MIN_WORDS + 2 else ""


def whole_sentences(text: str) -> str:
    """A text up to the end of its last whole sentence; empty where it has none."""
    ends = [end.end() for end in _END.finditer(text)]
    said = text[: ends[-1]].strip() if ends else ""
    # The number of an item of a list is no end of a sentence.
    said = re.sub(r"\n+\s*(\d+\.|[-*])\s*$", "", said)
    return said if len(said.split()) >= MIN_WORDS else ""


def _read(cache: Path) -> list[Row]:
    """Rows of a cache; the line that a killed run left half-written is dropped."""
    if not cache.is_file():
        return []
    lines = cache.read_text(encoding="utf-8").split("\n")
    # What stands behind the last line break was not finished.
    if lines[-1]:
        cache.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    return [Row.model_validate_json(line) for line in lines[:-1]]
