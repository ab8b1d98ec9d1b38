"""The card of a trained reasoner: what it is, what it was taught, what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optimize.reasoners.config import ReasonerEvaluationConfig, ReasonerTrainingConfig
from optimize.reasoners.evaluation import Measured
from optimize.reasoners.rows import REASON, Row
from optimize.reasoners.training import Trained
from safethink.prefix import Metric

KINDS = {
    "word_problem": "arithmetic word problems of a generator of our own, solved in two steps",
    "rationale": "rationales of GSM8K (MIT), read from its file; no row of them is part of the package",
    "instruction": "harmless requests written by us, some in the words of harmful ones; thinking and answer are the "
    "base's own words",
    "refusal": "requests, in mild words of ours, that are refused; the reason is the base's own words",
}

NOT_SAID = "Whether anything was chosen by these sets is not said (`evaluation.development`)."


def card(
    config: ReasonerTrainingConfig,
    trained: Trained,
    rows: Sequence[Row],
    tests: Sequence[Measured],
    development: Sequence[Measured],
) -> str:
    """Write the card in Markdown.

    Args:
        config: of the training.
        trained: what came of it.
        rows: what was learned.
        tests: what was measured on sets that nothing was chosen by.
        development: what was measured on sets that something was chosen by.
    """
    counts = Counter[str](row.kind for row in rows)
    taught = "\n".join(f"- {counts[kind]} {words}" for kind, words in KINDS.items() if counts[kind])
    training, losses = config.training, trained.losses
    tail = losses[-10:]
    return f"""---
base_model: {trained.base}
library_name: peft
license: apache-2.0
---
# {config.name}

A LoRA adapter that makes a small reasoner of `{trained.base}`: it thinks in a few steps between
`<think>` and `</think>`, then answers. It is there to try monitors, defenses and prefix searches on real weights, in
minutes on a CPU. **It says nothing of large models**: what a phrase does to it need not be what the phrase does to
them. It is no assistant: it complies with many harmful requests, refuses some harmless ones, and what it says is often
wrong.

```yaml
reasoner: {{path: {config.name}}}
```

## Training

{taught}

No row shows how a correction works: no step holds a corrective phrase, and no row refuses after it has begun to comply.
{_taught_of_harm(counts)}

LoRA of rank {training.rank} on {", ".join(training.targets)} of the layers from {training.first_layer} on.
Learning rate {training.learning_rate:g}, {len(losses)} steps of {training.batch_size} rows, seed {config.seed};
{trained.minutes:.0f} minutes on a CPU.
Mean loss of the last {len(tail)} steps: {sum(tail) / max(1, len(tail)):.2f} nats per token of thinking and answer.
Hash of the base's weights, rounded to bfloat16: `{trained.base_sha256}`.{_dequantised(config)}

{_measured(config.evaluation, tests, development)}
"""


def _dequantised(config: ReasonerTrainingConfig) -> str:
    """A sentence on a base that was read from a GGUF file."""
    if config.base.gguf_file is None:
        return ""
    return f"\nThe base was read from `{config.base.gguf_file}`, dequantised, in training and in measuring."


def _taught_of_harm(counts: Counter[str]) -> str:
    """The bounds of the rule that no row shows a correction."""
    if not counts["refusal"]:
        return "So what an injected phrase does to this reasoner was not taught."
    return f"""\
So that an injected phrase turns a trace back was not taught. What was taught is that talk of harm precedes a refusal:
in every row that refuses, the second step says why and opens with "{REASON}". Phrases that speak of harm may profit
from it; compare them with others with that in mind."""


def _measured(settings: ReasonerEvaluationConfig, tests: Sequence[Measured], development: Sequence[Measured]) -> str:
    """The tables, and what was chosen by which."""
    if not tests and not development:
        return "## Measured, undefended\n\nNothing yet: give `evaluation.benchmarks`."
    by_none = "Nothing was chosen by these sets." if development else NOT_SAID
    parts = ["## Measured, undefended", _note(settings)]
    if tests:
        parts += ["### Tests", by_none, _table(tests)]
    if development:
        chosen = "Something was chosen by these sets" + (f": {settings.chosen}." if settings.chosen else ".")
        selected = f"{chosen} So their figures are selected, for which the intervals do not allow."
        parts += ["### Development", selected, _table(development)]
    return "\n\n".join(parts)


def _note(settings: ReasonerEvaluationConfig) -> str:
    return f"""\
Held-out prompts, one sample of each at temperature {settings.sampling.temperature:g} and top_k
{settings.sampling.top_k}, at most {settings.limits.max_trace_tokens} tokens of thinking. Shares with 95 % intervals
(Clopper-Pearson). `complied` and `refused` are told by refusal phrases alone, so `complied` is an upper bound; what
never closes is neither."""


def _table(sets: Sequence[Measured]) -> str:
    names = list(dict.fromkeys(name for each in sets for name in each.metrics))
    lines = [
        f"| set | n | {' | '.join(names)} | tokens of thinking |",
        f"|---|---|{'---|' * len(names)}---|",
        *(
            f"| {each.name} | {each.metrics['closed'].n} | "
            f"{' | '.join(_cell(each.metrics.get(name)) for name in names)} | {each.trace_tokens:.0f} |"
            for each in sets
        ),
    ]
    notes = [f"- {each.name}: {note}" for each in sets for note in each.notes]
    return "\n".join(lines) + ("\n\n" + "\n".join(notes) if notes else "")


def _cell(metric: Metric | None) -> str:
    return "" if metric is None else f"{metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"
