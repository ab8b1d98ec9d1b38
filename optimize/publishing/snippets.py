"""Code for an artifact's card: its use with safethink, and with bare vLLM."""

from __future__ import annotations

from typing import Any, Final

import yaml

from safethink.config import LimitsConfig, SamplingConfig, ThoughtConfig, families
from safethink.config.family import Family
from safethink.config.run import DAY
from safethink.prefix import Identity, PrefixArtifact
from safethink.testbed import is_shipped
from safethink.thinking.template_args import SWITCHES
from safethink.tokens import EXTENSION_TOKEN

PLACE: Final = "OWNER/NAME@COMMIT"
"""Stands for the artifact; a card does not know where it will be published."""
_PYTHON: Final = """\
from safethink import SafeThink

guarded = SafeThink.from_pretrained({reasoner!r}, monitor={monitor!r}, prefix={place!r})
print(guarded("Your prompt.").answer)"""
_VLLM: Final = """\
from vllm import LLM, SamplingParams
llm = LLM({model})
tokenizer = llm.get_tokenizer()
chat = [{{"role": "user", "content": "Your prompt."}}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, {template_args})
text += "" if text.rstrip().endswith({open_tag!r}) else {opening!r}
{names} = tokenizer([{texts}], add_special_tokens=False).input_ids
accepted = []  # ids of the steps so far, as vLLM sampled them, without the one at which your monitor fired
ids = prompt + accepted + {prefix_ids} + separator
print(llm.generate({{"prompt_token_ids": ids}}, SamplingParams({sampling}))[0].outputs[0].text)"""


def python(artifact: PrefixArtifact) -> str:
    """Guards the reasoner in Python."""
    return _PYTHON.format(reasoner=_reasoner(artifact), monitor=_monitor(artifact), place=PLACE)


def run_config(artifact: PrefixArtifact) -> str:
    """Guards the reasoner on the command line, as YAML."""
    monitor = _monitor(artifact)
    values: dict[str, Any] = {
        "reasoner": {"path": _reasoner(artifact)},
        "monitor": {"kind": monitor} if monitor in ("oracle", "constant") else {"kind": "guard", "path": monitor},
        "defense": {"kind": "safethink", "threshold": artifact.threshold or 0.0},
        "prefix": PLACE,
    }
    if artifact.reasoner is not None and artifact.reasoner.revision is not None:
        values["reasoner"]["revision"] = artifact.reasoner.revision
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None).strip()


def vllm(artifact: PrefixArtifact) -> str:
    """Injects the prefix by token ids, in ten lines that need neither safethink nor its monitor."""
    run = artifact.config.get("run", {})
    thought = _thought(run)
    first, separator = artifact.prefixes[0], thought.prefix_separator
    by_text = not first.token_ids
    revision = artifact.reasoner.revision if artifact.reasoner else None
    return _VLLM.format(
        template_args=_template_args(run),
        model=repr(_reasoner(artifact)) + (f", revision={revision!r}" if revision else ""),
        open_tag=thought.open_tag,
        opening=thought.open_tag + thought.open_break,
        names="prompt, prefix, separator" if by_text else "prompt, separator",
        texts=f"text, {first.text!r}, {separator!r}" if by_text else f"text, {separator!r}",
        prefix_ids="prefix" if by_text else list(first.token_ids),
        sampling=_sampling(run) + _never_sampled(artifact),
    )


def was_a_folder(model: Identity) -> bool:
    """Whether the name is that of a folder, which says nothing elsewhere: neither shipped nor OWNER/NAME on the hub."""
    return model.revision is None and "/" not in model.name and not is_shipped(model.name)


def _thought(run: dict[str, Any]) -> Family:
    """The reasoner's thinking format; runs say it in full, but for the oldest."""
    config = ThoughtConfig.model_validate(run.get("thought", {}))
    return config.applied_to(families.named("think" if config.family == families.AUTO else config.family))


def _template_args(run: dict[str, Any]) -> str:
    """The switch of the thinking under each of its names, and what the run's user handed to the chat template.

    A template passes over names that it does not read. A day that stands still is none of transformers' arguments.
    """
    said: dict[str, Any] = run.get("reasoner", {}).get("template_args", {})
    args = dict.fromkeys(SWITCHES, True) | {name: value for name, value in said.items() if name != DAY}
    return ", ".join(f"{name}={value!r}" for name, value in args.items())


def _sampling(run: dict[str, Any]) -> str:
    """The reasoner's sampling settings; those switched off are left out."""
    sampling = SamplingConfig.model_validate(run.get("sampling", {}))
    limits = LimitsConfig.model_validate(run.get("limits", {}))
    nucleus = f", top_p={sampling.top_p}" if sampling.top_p < 1 else ""
    top_k = f", top_k={sampling.top_k}" if sampling.top_k else ""
    return f"temperature={sampling.temperature}{nucleus}{top_k}, max_tokens={limits.max_trace_tokens}"


def _never_sampled(artifact: PrefixArtifact) -> str:
    """Keeps the tokens of a vocabulary extension from being sampled; vLLM reads no `suppress_tokens`."""
    ids = sorted(
        token for prefix in artifact.prefixes if EXTENSION_TOKEN.search(prefix.text) for token in prefix.token_ids
    )
    return f", logit_bias={dict.fromkeys(ids, -100)}" if ids else ""


def _reasoner(artifact: PrefixArtifact) -> str:
    if artifact.reasoner is None:
        return "YOUR/REASONER"
    return f"PATH/TO/{artifact.reasoner.name}" if was_a_folder(artifact.reasoner) else artifact.reasoner.name


def _monitor(artifact: PrefixArtifact) -> str:
    return artifact.monitor.name if artifact.monitor else "YOUR/GUARD"
