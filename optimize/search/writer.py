"""Writers of phrases: a language model that is asked in its chat template and goes on with a list begun for it."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from optimize.config import ReflectConfig
from safethink.config import LimitsConfig, NoneConfig
from safethink.defenses.effects import Until
from safethink.engines import ExtendRequest
from safethink.engines.build import load
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.thinking.opening import open_prompt


class WrittenList(NamedTuple):
    """A list that was written.

    Attributes:
        text: what follows the beginning.
        is_cut: whether a limit ended it, so that its last line may be half of one.
    """

    text: str
    is_cut: bool


@runtime_checkable
class Writer(Protocol):
    """Source of phrases in words."""

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, read and written."""
        ...

    def write(self, request: str, opening: str, num_lists: int, seed: int) -> list[WrittenList]:
        """Sample what follows.

        Args:
            request: what the user asks.
            opening: how the reply begins.
            num_lists: how many replies.
            seed: together with a reply's number, the only source of randomness.
        """
        ...


class ChatWriter:
    """Writes with a chat model; the thinking of one that thinks is closed at once, so that all it writes is the list.

    Small models seldom do as they are asked, but go on with what has been begun: so the reply begins as a list.

    Args:
        model: the model, sampled as it should write; no defense runs.
        max_tokens: of a list.

    Attributes:
        tokens: tokens forwarded so far: a request with its beginning once, since all its replies share them, and every
            token written.
    """

    def __init__(self, model: SafeThink, max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens
        self.tokens = 0

    @classmethod
    def of(cls, guarded: SafeThink, config: ReflectConfig) -> ChatWriter:
        """The writer that a section names, which is loaded; or the guarded reasoner, on an engine of its own.

        Raises:
            SafeThinkError: the writer cannot be found, or it cannot be told how it thinks.
        """
        if config.writer is None:
            model, tokenizer = guarded.model, guarded.tokenizer
            thought, args = guarded.thought.settings, guarded.thought.template_args
        else:
            loaded = load(config.writer)
            model, tokenizer = loaded.model, loaded.tokenizer
            thought, args = config.writer.thought, config.writer.template_args
        sampled = SafeThink(
            model,
            tokenizer,
            prefix=None,
            defense=NoneConfig(),
            thought=thought,
            sampling=config.sampling,
            limits=LimitsConfig(max_step_tokens=config.list_tokens),
            template_args=args,
        )
        return cls(sampled, config.list_tokens)

    def write(self, request: str, opening: str, num_lists: int, seed: int) -> list[WrittenList]:
        """Sample what follows.

        Raises:
            PromptError: the request leaves no room in the context window.
        """
        thought, engine = self._model.thought, self._model.engine
        prompt = open_prompt(thought, Prompt.from_text(request))
        closed, lead = (thought.close_ids, thought.family.answer_break) if thought.family.thinks else ((), "")
        ids = prompt + closed + thought.encoder.inside(lead + opening)
        seeds = [stable_seed("reflect", seed, row) for row in range(num_lists)]
        extensions = engine.extend(
            [
                ExtendRequest(row, ids, len(ids), Until.ANSWER, self._max_tokens, row_seed, len(prompt))
                for row, row_seed in enumerate(seeds)
            ]
        )
        for row in range(num_lists):
            engine.release(row)
        self.tokens += len(ids) + sum(len(extension.tokens) for extension in extensions)
        return [
            WrittenList(thought.decode(extension.tokens.ids, plain=True), extension.stop == "length")
            for extension in extensions
        ]
