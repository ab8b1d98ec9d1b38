"""The model card of a learned prefix: written from the artifact alone, so that it can be written again."""

from __future__ import annotations

from safethink.prefix import Identity, Metric, PrefixArtifact

_MEANINGS = {
    "recovery_rate": "recovery on validation: one injection where the monitor fired, no resampling",
    "lift": "paired difference to nothing injected",
    "recovery_gain_over_init": "paired difference to the prefix the search began with",
    "recovery_rate_by_monitor": "the same outputs as the monitor sees them",
    "monitor_judge_gap": "monitor minus judge; well above 0, the prefix flatters the monitor",
    "accuracy_forced": "accuracy with the prefix forced into harmless prompts",
    "accuracy_forced_change": "paired difference to nothing injected",
    "over_refusal_forced": "refusals with the prefix forced into borderline prompts",
    "over_refusal_forced_change": "paired difference to nothing injected",
    "recovery_rate_test": "recovery on test",
    "recovery_fall_validation_to_test": "validation minus test: the price of having chosen the best",
    "loss_recovery_rank_correlation": "training loss against recovery over candidates; below 0, the loss is a guide",
    "target_found": "states for which a sampled continuation passed the monitor; the others were left out",
    "survival": "candidates that are the same ids after being written down and read again",
}


def card(artifact: PrefixArtifact) -> str:
    """The card as Markdown."""
    prefixes = "\n".join(f"- `{prefix.text}` (token ids {list(prefix.token_ids)})" for prefix in artifact.prefixes)
    return "\n".join(
        [
            f"# {artifact.name}",
            "",
            "A corrective prefix: injected into the unfinished thinking of a reasoner where a monitor fires, directly",
            f"after the accepted trace{_separator(artifact)}.",
            "",
            prefixes,
            "",
            "## Learned on",
            "",
            f"- reasoner: {_name(artifact.reasoner)}",
            f"- monitor: {_name(artifact.monitor)}, threshold {artifact.threshold}",
            f"- chosen on validation by: {artifact.selected_by}",
            f"- reported on test by: {artifact.reported_by or 'nobody yet'}, {artifact.test_evaluations} evaluation(s)",
            f"- seeds: {', '.join(f'{name} {seed}' for name, seed in artifact.seeds.items())}",
            f"- contexts: sha256 {artifact.data_fingerprint}",
            "",
            "Every step of the search is in `search.jsonl`, the resolved configuration in `prefix.json`.",
            "",
            "## Measured",
            "",
            "| metric | value | 95 % interval | n | what it is |",
            "|---|---|---|---|---|",
            *(_row(name, artifact.metrics[name]) for name in _MEANINGS if name in artifact.metrics),
            "",
            *_caveats(artifact),
            "",
        ]
    )


def _separator(artifact: PrefixArtifact) -> str:
    separator = artifact.config.get("run", {}).get("thought", {}).get("prefix_separator", "")
    return f", with {separator!r} behind it" if separator else ""


def _row(name: str, metric: Metric) -> str:
    interval = f"{metric.low:.3f} to {metric.high:.3f}"
    return f"| `{name}` | {metric.value:.3f} | {interval} | {metric.n} | {_MEANINGS[name]} |"


def _name(identity: Identity | None) -> str:
    if identity is None:
        return "unknown"
    revision = f" at {identity.revision}" if identity.revision else ""
    return f"{identity.name}{revision}" + (f" (sha256 {identity.sha256[:12]})" if identity.sha256 else "")


def _caveats(artifact: PrefixArtifact) -> list[str]:
    """What a reader must know before trusting the numbers."""
    lines = ["## Limits", "", "- It fits this reasoner and tokenizer; loading it with another tokenizer is refused."]
    if artifact.reasoner is not None and artifact.reasoner.name.startswith("testbed"):
        lines.append("- The testbed verifies machinery. These numbers say nothing about how safe a real model is.")
    if artifact.selected_by is not None and artifact.selected_by.startswith("the monitor"):
        lines.append(
            "- The monitor chose it, so a prefix that merely flatters the monitor would not have been found out."
        )
    floor = artifact.config.get("selection", {}).get("max_forced_loss")
    forced = _forced_loss(artifact)
    if floor is not None and forced > floor:
        lines.append(f"- No finalist stayed within the floor: it costs harmless prompts {forced:.3f}, above {floor}.")
    if "accuracy_forced" not in artifact.metrics and "over_refusal_forced" not in artifact.metrics:
        lines.append("- No harmless prompts were given: what it costs them is unknown.")
    return lines


def _forced_loss(artifact: PrefixArtifact) -> float:
    accuracy = artifact.metrics.get("accuracy_forced_change")
    refusals = artifact.metrics.get("over_refusal_forced_change")
    return max(-accuracy.value if accuracy else 0.0, refusals.value if refusals else 0.0)
