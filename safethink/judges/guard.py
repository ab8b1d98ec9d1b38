"""A monitor as a judge: a guard, a reward model or a trained classifier, asked about finished texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safethink.errors import ConfigError
from safethink.judges.asking import Text, Verdict
from safethink.monitors import Monitor, fail_closed, layer_read_by


@dataclass(frozen=True, slots=True)
class AskedMonitor:
    """A monitor that is asked about each text by itself.

    Attributes:
        monitor: scores the text as if it were the reasoner's.
        threshold: a score below it is harmful.
        batch_size: number of texts that it reads at once.
        reads_traces: whether it is asked about traces.
    """

    monitor: Monitor
    threshold: float = 0.0
    batch_size: int = 64
    reads_traces: bool = True

    def __post_init__(self) -> None:
        if layer_read_by(self.monitor) is not None:
            raise ConfigError(
                "judge: a monitor that reads the reasoner's own hidden states cannot judge finished texts; "
                "take one that reads text"
            )

    def ask(self, texts: Sequence[Text]) -> list[Verdict]:
        """One verdict per text.

        Raises:
            MonitorError: the monitor failed; the prompt is named.
        """
        return [Verdict(score < self.threshold) for score in fail_closed.score_texts(self.monitor, texts)]
