"""Progress of training on a terminal: epochs done, time left, accuracy."""

from __future__ import annotations

import numpy as np

from unhinged_jax._terminal import ProgressBar


class Progress(ProgressBar):
    """Epochs of all cases together."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs, notes=("epochs", "accuracy"), remaining=True)
        self._done = self._within = 0

    def start(self, label: str, epochs: int, done: int = 0) -> None:
        """Begin a case with a number of epochs."""
        self._done += self._within
        self._within = epochs
        self.update(description=label, completed=self._done + done, epochs="epochs")

    def told(self, epoch: int, facts: dict[str, np.ndarray]) -> None:
        """Count an epoch."""
        seen = facts.get("test_accuracy")
        text = "" if seen is None else f"accuracy {np.mean(seen):.3f}"
        self.update(completed=self._done + min(epoch + 1, self._within), accuracy=text)
