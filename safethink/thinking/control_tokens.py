# pyright: standard
"""Control tokens of a vocabulary, and a tokenizer that cannot produce them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypedDict, cast

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safethink.errors import ConfigError

_SENTENCEPIECE_BLANK = "\u2581"
_NO_TEXT = "\U0010fffe"
"""A character that is none."""
_HTML_TAG = re.compile(
    "</?(html|body|div|span|p|h[1-6]|table|caption|thead|tbody|tfoot|tr|th|td|ul|ol|li|blockquote|footer|iframe|img|a"
    "|strong|em|b|i|u|s|sub|sup|code|pre)>"
)
_TAG = re.compile("</?[a-z0-9]+>")


class AddedTokenState(TypedDict):
    """An added token, as `tokenizer.json` holds it."""

    id: int
    content: str
    special: bool
    lstrip: bool
    rstrip: bool


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> list[AddedTokenState]:
    """The added tokens that may control something."""
    named = {*tokenizer.all_special_tokens, *_TAG.findall(str(tokenizer.chat_template))}
    return [token for token in _state(tokenizer)["added_tokens"] if _is_control(token) or token["content"] in named]


def _is_control(token: AddedTokenState) -> bool:
    """Whether an added token may control something.

    Runs of blanks and the tags of HTML are added tokens in some vocabularies, such as Gemma's, so that they are short.
    They control nothing, unless the tokenizer or its chat template calls them by name, and a text that holds them is
    encoded by them. Any other is taken to control: `<think>` is not marked special in Qwen's vocabulary.
    """
    text = token["content"].replace(_SENTENCEPIECE_BLANK, " ")
    return bool(token["special"] or (text.strip() and not _HTML_TAG.fullmatch(text)))


def any_of(control: list[AddedTokenState]) -> re.Pattern[str]:
    """Match any control token, the longest first, with the blanks that it swallows."""

    def pattern(token: AddedTokenState) -> str:
        return r"\s*" * token["lstrip"] + re.escape(token["content"]) + r"\s*" * token["rstrip"]

    longest_first = sorted(control, key=lambda token: len(token["content"]), reverse=True)
    return re.compile("|".join(map(pattern, longest_first)) or r"(?!)")


def without(control: list[AddedTokenState], tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """Build the backend of a tokenizer again, unable to produce a control token.

    Raises:
        ConfigError: an added token that is none would have another id there.
    """
    state = _state(tokenizer)
    model = dict(state["model"])
    names = {token["content"] for token in control} - {model.get("unk_token")}
    control_ids = {token["id"] for token in control}
    kept = [token for token in state["added_tokens"] if token["id"] not in control_ids]
    if isinstance(model.get("vocab"), dict):
        # Some models match a whole word against the vocabulary; a control token must not be there to be found.
        pieces = {name: index for name, index in model["vocab"].items() if name not in names}
        # An added token that the vocabulary is without gets the next free id, and there are more of those now.
        model["vocab"] = pieces | {token["content"]: token["id"] for token in kept}
    if isinstance(model.get("vocab"), list):
        # A unigram model's pieces go by their places, so one that must not be found gets a name that no text has.
        unknown = model.get("unk_id")
        model["vocab"] = [
            [f"{_NO_TEXT}{index}" if name in names and index != unknown else name, score]
            for index, (name, score) in enumerate(model["vocab"])
        ]
    if "merges" in model:
        # Nor may merges put one together.
        model["merges"] = [merge for merge in model["merges"] if names.isdisjoint(_merged(merge))]
    changes = {"model": model, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    plain = Tokenizer.from_str(json.dumps(state | changes))
    for token in kept:
        if plain.token_to_id(token["content"]) != token["id"]:
            raise ConfigError(f"the tokenizer's added token {token['content']!r} cannot be told from control tokens")
    return plain


def further_on(plain: Tokenizer) -> Tokenizer:
    """The tokenizer for what stands behind a control token; `plain` itself where that is encoded as at the start.

    SentencePiece's Metaspace under its scheme `first` puts a blank in front of the first text of all, and of no other.
    """
    if not any(stage.prepend_scheme == "first" for stage in _metaspaces(plain)):
        return plain
    further = Tokenizer.from_str(plain.to_str())
    for stage in _metaspaces(further):
        if stage.prepend_scheme == "first":
            stage.prepend_scheme = "never"
    return further


def _metaspaces(backend: Tokenizer) -> list[pre_tokenizers.Metaspace]:
    whole = backend.pre_tokenizer
    # A sequence has no `__iter__`, but is read by index until it ends.
    stages = list(cast("Iterable[object]", whole)) if isinstance(whole, pre_tokenizers.Sequence) else [whole]
    return [stage for stage in stages if isinstance(stage, pre_tokenizers.Metaspace)]


def _merged(merge: str | list[str]) -> tuple[str, str, str]:
    """Both parts of a merge, and its result; older files write it as one string."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second, first + second


def _state(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())
