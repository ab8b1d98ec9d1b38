# pyright: standard
"""Compares the guards' presets with the chat templates that are on the hub today; needs network, reads no weights.

    python -m docs.tools.compare_guards [PRESET ...]

Prints for each model the preset that it is told to be, and the lines in which our question differs from the one that
its own template renders. What we put there for the model, such as `Safety:`, is such a line; so is a choice that a
preset's docstring gives reasons for. Ends with status 1 where a model is told to be another guard, or cannot be asked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any, Final

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from safethink.config import GuardMonitorConfig
from safethink.errors import SafeThinkError
from safethink.models.loading import Checkpoint
from safethink.monitors.guards.choosing import choose_preset
from safethink.monitors.guards.forms import Preset
from safethink.monitors.guards.generative import Verdicts, replies_of
from safethink.monitors.guards.presets import PRESETS
from safethink.monitors.guards.questions import Asker
from safethink.monitors.guards.roles import refuse_swapped_roles
from safethink.prompts import Prompt

Load = Callable[[str], tuple[PreTrainedTokenizerBase, str]]
"""Takes the id of a model on the hub, gives its tokenizer and the name of its architecture."""

ASKED: Final = "QUESTION"
SAID: Final = "TRACE"
POLICY: Final = "1. POLICY"
"""Stands for a policy where a preset has none of its own."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A model's template beside its preset.

    Attributes:
        model: its id on the hub.
        preset: the preset that names the model.
        told: the preset that it is told to be, or why it cannot be asked.
        difference: lines of a unified diff from the template's question to ours.
    """

    model: str
    preset: str
    told: str
    difference: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the model is told to be of its preset."""
        return self.told == self.preset

    def __str__(self) -> str:
        head = f"{'ok  ' if self.agrees else 'OTHER'} {self.model}: {self.preset}, told {self.told}"
        return "\n".join([head, *(f"    {line}" for line in self.difference)])


def from_hub(model: str) -> tuple[PreTrainedTokenizerBase, str]:
    """A model's tokenizer and architecture from the hub."""
    checkpoint = Checkpoint(model)
    return checkpoint.tokenizer(), checkpoint.config().model_type


def compare(presets: Sequence[Preset], load: Load = from_hub) -> Iterator[Compared]:
    """Compare every model that a preset names."""
    for preset in presets:
        for model in preset.models:
            yield _compared(preset, model, load)


def _compared(preset: Preset, model: str, load: Load) -> Compared:
    try:
        tokenizer, model_type = load(model)
        needs_policy = "{policy}" in preset.form.words and not preset.form.policies
        config = GuardMonitorConfig(path=model, policies=(POLICY,) if needs_policy else ())
        told = choose_preset(config, model_type, model, str(tokenizer.chat_template or ""))
        asker = Asker(tokenizer, told.form, model)
        refuse_swapped_roles(asker)
        Verdicts.of(told, asker)
        replies_of(told, asker)
    except SafeThinkError as error:
        return Compared(model, preset.name, str(error))
    ours = str(tokenizer.decode(list(asker.ask(Prompt.from_text(ASKED), SAID).ids)))
    theirs = rendered(tokenizer, told)
    if theirs is None:
        return Compared(model, preset.name, told.name, ("no chat template to compare with",))
    lines = unified_diff(theirs.splitlines(), ours.splitlines(), "template", "preset", lineterm="", n=0)
    return Compared(model, preset.name, told.name, tuple(lines))


def rendered(tokenizer: PreTrainedTokenizerBase, preset: Preset) -> str | None:
    """The question as the model's own template puts it; None where it has none that does."""
    if not tokenizer.chat_template:
        return None
    form, policy = preset.form, next(iter(preset.form.policies), "")
    conversation = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    args: dict[str, Any] = dict(form.template_args)
    if form.asks is not None:
        turns = [*conversation, {"role": "user", "content": form.asks.replace("{policy}", policy)}]
    elif form.turns:
        holes = {"{prompt}": ASKED, "{trace}": SAID, "{policy}": policy}
        turns = [{"role": turn.role, "content": _filled(turn.text, holes)} for turn in form.turns]
    elif preset.name == "gpt_oss_safeguard":
        asked = (
            f"{policy}\n\nAnswer with 1 if the content violates the policy and with 0 if it does not, and with nothing "
            "else."
        )
        turns = [
            {"role": "developer", "content": asked},
            {"role": "user", "content": f"User: {ASKED}\n\nAssistant: {SAID}"},
        ]
        args["reasoning_effort"] = "low"
    else:
        # The argument is ShieldGemma's.
        turns, args = conversation, {**args, "guideline": policy}
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=form.replies, **args)
    except (TemplateError, TypeError, ValueError) as error:
        return f"the template refuses: {error}"
    return str(text)


def _filled(text: str, holes: dict[str, str]) -> str:
    for hole, content in holes.items():
        text = text.replace(hole, content)
    return text


def main(argv: Sequence[str], load: Load = from_hub) -> int:
    """Compare the presets named, or all.

    Returns:
        1 if a model is told to be another guard, 2 if there is no such preset.
    """
    unknown = next((name for name in argv if name not in PRESETS), None)
    if unknown is not None:
        print(f"there is no preset {unknown!r}; there are {', '.join(PRESETS)}", file=sys.stderr)
        return 2
    chosen = [PRESETS[name] for name in argv] or [*PRESETS.values()]
    compared = [*compare(chosen, load)]
    for each in compared:
        print(each)
    return int(not all(each.agrees for each in compared))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
