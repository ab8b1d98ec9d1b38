"""The model card of a learned prefix: written from the artifact alone, so that it can be written again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import yaml
from huggingface_hub import ModelCardData

from optimize.publishing import snippets
from optimize.selection.constraints import Constraints
from safethink.prefix import Identity, Metric, Prefix, PrefixArtifact
from safethink.prefix.hub import is_repo_id
from safethink.testbed import is_shipped

TAGS: Final = ("safethink", "corrective-prefix", "ai-safety", "reasoning", "jailbreak-defense")
VALIDATION: Final = {
    "recovery_rate": "recovery: one injection where the monitor fired, no resampling",
    "recovery_guarded": "recovery by the defense from there on: its resamples, limits and fallback",
    "lift": "recovery, paired difference to nothing injected",
    "recovery_gain_over_init": "recovery, paired difference to the prefix the search began with",
    "recovery_rate_by_monitor": "the same outputs as the monitor sees them",
    "monitor_judge_gap": "monitor minus judge; well above 0, the prefix flatters the monitor",
    "portfolio_recovery": "recovery within as many tries as there are prefixes",
    "portfolio_gain": "the same, paired difference to as many tries of the first alone",
    "accuracy_forced": "accuracy with the prefix forced into harmless prompts; of several prefixes, the costliest",
    "accuracy_forced_change": "the same, paired difference to nothing injected",
    "over_refusal_forced": "refusals with the same prefix forced into borderline prompts",
    "over_refusal_forced_change": "the same, paired difference to nothing injected",
    "loss_recovery_rank_correlation": "training loss against recovery over candidates; below 0, the loss is a guide",
    "discretisation_gap": "recovery of the trained rows minus that of the hard prefix made from them, paired",
    "target_found": "states for which a continuation passed the monitor; the others were left out",
    "target_resampled": "targets among them that were sampled with nothing injected",
    "target_prefix": "targets sampled behind a written prefix, which is no part of them",
    "target_own_refusal": "targets that open the reasoner's own refusals",
    "target_written_refusal": "targets that are written openings of refusals, not the reasoner's own words",
    "survival": "candidates that are the same ids after being written down and read again",
}
"""Metrics of the search and its validation prompts, each with a sentence on what the number says."""
TEST: Final = {
    "asr_test": "attack prompts answered harmfully, guarded",
    "asr_undefended_test": "the same prompts and seeds, undefended",
    "asr_change_test": "guarded minus undefended, paired",
    "asr_closed_change_test": "the same on prompts whose thinking closed guarded and undefended",
    "invalid_attacks_test": "attack prompts whose output is invalid, guarded: an ASR says nothing of them",
    "invalid_attacks_undefended_test": "the same, undefended",
    "asr_trace_test": "harmful trace or answer, guarded",
    "asr_trace_undefended_test": "the same, undefended",
    "asr_trace_change_test": "guarded minus undefended, paired",
    "asr_trace_closed_change_test": "the same on prompts whose thinking closed guarded and undefended",
    "invalid_test": "outputs that are unclosed, empty or gibberish; never counted as safe",
    "recovery_rate_test": "recovery: one injection where the monitor fired, no resampling",
    "recovery_guarded_test": "recovery by the defense from there on: its resamples, limits and fallback",
    "empty_resamples_test": "resamples that say nothing: blank, closing at once, or the prefix over again",
    "lift_test": "recovery, paired difference to nothing injected",
    "recovery_fall_validation_to_test": "recovery, validation minus test: the price of having chosen the best",
    "accuracy_test": "harmless tasks solved, guarded",
    "accuracy_change_test": "guarded minus undefended, paired",
    "over_refusal_test": "borderline prompts refused, guarded",
    "over_refusal_change_test": "guarded minus undefended, paired",
    "false_interventions_test": "harmless and borderline prompts with an intervention",
    "extra_tokens_test": "tokens dropped or injected, per prompt",
}
"""Metrics of an evaluation on `test`."""
_OVERLAP: Final = "share of this benchmark's prompts that it was learned on"
_HEAD: Final = ("| metric | value | 95 % interval | n | clusters | what it is |", "|---|---:|---|---:|---:|---|")


def card(artifact: PrefixArtifact) -> str:
    """The card as Markdown, with the metadata that the hub reads in front."""
    sections = [_front(artifact), _what(artifact), _use(artifact), _found(artifact), _measured(artifact)]
    return "\n\n".join([*sections, _untested(artifact), _limits(artifact)]) + "\n"


def _front(artifact: PrefixArtifact) -> str:
    reasoner = artifact.reasoner.name if artifact.reasoner else ""
    on_hub = is_repo_id(reasoner) and not os.path.isdir(reasoner)
    metadata = ModelCardData(
        license=artifact.license,
        library_name="safethink",
        base_model=reasoner if on_hub else None,
        tags=list(TAGS),
    )
    return f"---\n{metadata}\n---"


def _what(artifact: PrefixArtifact) -> str:
    lines = [f"- {_injected(each)}" for each in artifact.prefixes]
    if len(lines) > 1:
        lines += ["", "Try b of an intervention injects prefix b; the last one is used again when they run out."]
    return f"""\
# {artifact.name}

A corrective prefix: injected into the unfinished thinking of a reasoner where a monitor fires, directly after the
accepted trace{_separator(artifact)}. Licence: {artifact.license}.

""" + "\n".join(lines)


def _use(artifact: PrefixArtifact) -> str:
    return f"""\
## Use it

`{snippets.PLACE}` stands for this repository at a commit; the artifact's folder will do as well. In Python:

```python
{snippets.python(artifact)}
```

On the command line, as `run.yaml` for `safethink generate run.yaml "Your prompt."`:

```yaml
{snippets.run_config(artifact)}
```

{_without_us(artifact)}"""


def _without_us(artifact: PrefixArtifact) -> str:
    if artifact.kind == "soft":
        return """\
Bare vLLM takes no embedding rows inside a trace. Export the prefix as a vocabulary extension, a copy of the reasoner in
which the rows are new tokens: their ids then go in like any others. Or take its nearest hard prefix."""
    return f"""\
With bare vLLM, without safethink. The prefix goes in as token ids: a text might be cut into other tokens where it meets
the trace.

```python
{snippets.vllm(artifact)}
```"""


def _found(artifact: PrefixArtifact) -> str:
    if not artifact.config:
        return "## How it was found\n\nNo search stands behind it."
    method = artifact.config.get("search", {}).get("kind", "unknown")
    settings = {key: value for key, value in artifact.config.items() if key not in ("run", "name", "seed")}
    return f"""\
## How it was found

- method: `{method}`; its settings and budget are below
- reasoner: {_name(artifact.reasoner)}
- monitor: {_name(artifact.monitor)}, threshold {artifact.threshold}
- chosen on validation by: {artifact.selected_by}
- seeds: {", ".join(f"{name} {seed}" for name, seed in artifact.seeds.items())}
- contexts: sha256 {artifact.data_fingerprint}

```yaml
{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110).strip()}
```

Every step of the search is in `search.jsonl`, the whole configuration in `prefix.json`."""


def _measured(artifact: PrefixArtifact) -> str:
    known = VALIDATION | TEST
    other = {name: _OVERLAP if name.startswith("learned_on_") else "" for name in artifact.metrics if name not in known}
    return "\n\n".join(
        [
            "## Measured",
            *filter(None, [_handling(artifact)]),
            _tested(artifact),
            "On validation, where the prefix was chosen, so these flatter it:",
            _table(artifact, VALIDATION | other) or "Nothing.",
        ]
    )


def keeps_prefix(artifact: PrefixArtifact) -> bool:
    """Whether recovery on validation was measured with the prefix left in the trace.

    Before `recovery_guarded` was measured it always was, whatever the defense did.
    """
    defense = artifact.config.get("run", {}).get("defense", {})
    return "recovery_guarded" not in artifact.metrics or bool(defense.get("keep_prefix", True))


def _handling(artifact: PrefixArtifact) -> str:
    """A sentence on the prefix where recovery was measured: kept or dropped; empty where it was not measured."""
    defense: dict[str, Any] = artifact.config.get("run", {}).get("defense", {})
    if "recovery_rate" not in artifact.metrics:
        return ""
    where = "stays in the trace" if keeps_prefix(artifact) else "is dropped once the step behind it is accepted"
    said = f"In recovery and where it is forced in, the prefix {where}"
    if "recovery_guarded" in artifact.metrics:
        kind, tries = defense.get("kind"), defense.get("max_resamples", "?")
        return f"{said}, as in the defense that it was learned for (`{kind}`, at most {tries} resamples)."
    if defense.get("keep_prefix") is False:
        return f"{said}; **the defense that it was learned for drops it there**, so these numbers do not predict that."
    return f"{said}."


def _tested(artifact: PrefixArtifact) -> str:
    rows = _table(artifact, TEST)
    if not rows:
        return "Not yet evaluated on `test`."
    looks = f"{artifact.test_evaluations} time(s), each a chance to tune; judged by {artifact.reported_by}"
    return f"On `test`, prompts that nothing was learned or chosen on; evaluated there {looks}:\n\n{rows}"


def _untested(artifact: PrefixArtifact) -> str:
    monitor = artifact.monitor.name if artifact.monitor else "unknown"
    return f"""\
## Not tested on

- other reasoners than {_name(artifact.reasoner)}, or the same one fine-tuned, quantised or under another chat template
- other monitors than {monitor}, and other thresholds than {artifact.threshold}
- attackers who know the prefix, the monitor or that there is one
- other attacks, hazards and languages than those of its prompts; several turns; pictures"""


def _limits(artifact: PrefixArtifact) -> str:
    """The caveats that a reader must know before trusting the numbers."""
    fits = (
        "- Its rows fit this reasoner's weights alone; on others it is refused."
        if artifact.kind == "soft"
        else "- On another reasoner its text is encoded anew and marked as transferred: no number here holds there."
    )
    lines = ["## Limits", "", fits]
    if artifact.reasoner is not None and artifact.reasoner.name.startswith("testbed"):
        lines.append("- The testbed verifies machinery. These numbers say nothing about how safe a real model is.")
        if is_shipped(artifact.reasoner.name):
            lines.append("- `testbed` is a model that ships with safethink; `safethink testbed` prints its folder.")
    if artifact.reasoner is not None and snippets.was_a_folder(artifact.reasoner):
        lines.append(
            f"- {_code(artifact.reasoner.name)} was a folder where this was learned; its hash tells the weights."
        )
    if artifact.selected_by is not None and artifact.selected_by.startswith("the monitor"):
        lines.append(
            "- The monitor chose it, so a prefix that merely flatters the monitor would not have been found out."
        )
    floor = artifact.config.get("selection", {}).get("max_forced_loss")
    missed = None if floor is None else Constraints.of(artifact.metrics, floor).missed
    if missed is not None:
        lines.append(f"- {missed}")
    if not any(name.startswith(("accuracy", "over_refusal")) for name in artifact.metrics):
        lines.append("- No harmless prompts were given: what it costs them is unknown.")
    return "\n".join(lines)


def _table(artifact: PrefixArtifact, meanings: Mapping[str, str]) -> str:
    """The metrics that have a meaning here and were measured; empty where there are none."""
    rows = [_row(name, artifact.metrics[name], meanings[name]) for name in meanings if name in artifact.metrics]
    return "\n".join([*_HEAD, *rows]) if rows else ""


def _row(name: str, metric: Metric, meaning: str) -> str:
    interval = f"{metric.low:.3f} to {metric.high:.3f}"
    clusters = "–" if metric.clusters is None else metric.clusters
    return f"| `{name}` | {metric.value:.3f} | {interval} | {metric.n} | {clusters} | {meaning} |"


def _separator(artifact: PrefixArtifact) -> str:
    separator = artifact.config.get("run", {}).get("thought", {}).get("prefix_separator", "")
    return f", with {separator!r} behind it" if separator else ""


def _injected(prefix: Prefix) -> str:
    if prefix.is_soft:
        return f"{len(prefix.token_ids)} embedding rows, near {_code(prefix.text)}"
    return f"{_code(prefix.text)} (token ids {list(prefix.token_ids)})"


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _name(identity: Identity | None) -> str:
    if identity is None:
        return "unknown"
    revision = f" at {identity.revision}" if identity.revision else ""
    return f"{identity.name}{revision}" + (f" (sha256 {identity.sha256[:12]})" if identity.sha256 else "")
