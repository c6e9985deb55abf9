"""Progress of training: epochs done, speed, time left, accuracy."""

from __future__ import annotations

import numpy as np

from unhinged_jax._terminal import ProgressBar


class Progress(ProgressBar):
    """Epochs of all cases together."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs, unit="epochs", notes=("accuracy",))
        self._before = self._within = 0

    def start(self, label: str, epochs: int, done: int = 0) -> None:
        """Begin a case with a number of epochs, some of which may be done."""
        self._before += self._within
        self._within = epochs
        if done:
            self.begin_at(self._before + done, label)
        self.update(description=label)

    def told(self, epoch: int, facts: dict[str, np.ndarray]) -> None:
        """Count an epoch."""
        seen = facts.get("test_accuracy")
        text = "" if seen is None else f"accuracy {np.mean(seen):.3f}"
        self.update(self._before + min(epoch + 1, self._within), accuracy=text)
