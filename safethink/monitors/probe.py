# pyright: standard
"""A linear head on the reasoner's own hidden states as monitor: no second model at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safethink.errors import ArtifactError, MonitorError
from safethink.monitors import ScoreRequest
from safethink.probe import Probe


class ProbeMonitor:
    """Scores 2 sigmoid(w @ h + b) - 1, with h the hidden state of the trace's last token at one layer.

    Unlike a monitor that reads text it reads injected tokens too: the reasoner's state depends on all that it has read.
    So its scores behind an injected prefix are partly about the prefix, and a prefix must not be learned against it
    without a judge that cannot be flattered.
    """

    def __init__(self, probe: Probe) -> None:
        """Score with `probe`."""
        self._probe = probe

    @property
    def layer(self) -> int:
        """Which hidden state each request must carry, as transformers counts them."""
        return self._probe.card.layer

    @property
    def reads_text(self) -> bool:
        """It reads states alone."""
        return False

    @property
    def fingerprint(self) -> str:
        """Hash of the probe's head."""
        return self._probe.card.weights_sha256

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: a request carries no hidden state, or one of another size.
        """
        if not requests:
            return []
        margins = self._states(requests) @ self._probe.weight + self._probe.bias
        # tanh(m / 2) is 2 sigmoid(m) - 1.
        return torch.tanh(margins / 2).tolist()

    def release(self, row: int) -> None:
        """Nothing is cached."""

    def refuse_other(self, is_reasoner: Callable[[str], bool]) -> None:
        """Refuse another reasoner than the one whose hidden states it was trained on.

        Args:
            is_reasoner: whether a hash is that of the reasoner's weights, see `LocalEngine.is_reasoner`.

        Raises:
            ArtifactError: it is another one.
        """
        trained_on = self._probe.card.reasoner
        if trained_on.sha256 is None or not is_reasoner(trained_on.sha256):
            raise ArtifactError(
                f"the probe was trained on the hidden states of {trained_on.name!r} (hidden size "
                f"{self._probe.card.hidden_size}, layer {self.layer}), and this reasoner has other weights"
            )

    def _states(self, requests: Sequence[ScoreRequest]) -> Float[Tensor, "rows hidden"]:
        states = [request.state for request in requests if request.state is not None]
        if len(states) < len(requests):
            culprit = next(request.prompt.id for request in requests if request.state is None)
            raise MonitorError(
                f"prompt {culprit!r}: a probe reads the reasoner's hidden states, and there is none here"
            )
        hidden_size = self._probe.card.hidden_size
        if any(len(state) != hidden_size for state in states):
            raise MonitorError(f"the probe reads hidden states of size {hidden_size}, not {len(states[0])}")
        # Few numbers, so that double precision on the CPU costs nothing and means the same on every device.
        return torch.stack(states).to("cpu", torch.float64)
