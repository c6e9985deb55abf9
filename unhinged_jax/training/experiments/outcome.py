"""The results of a case of an experiment, and numbers derived from them."""

from __future__ import annotations

import dataclasses

import numpy as np

from unhinged_jax.training.metrics import expected_calibration_error, probabilities_of


@dataclasses.dataclass(frozen=True)
class ExperimentOutcome:
    """The results of a case: its history, and the networks' outputs for the test images and for outside images.

    Attributes:
        variant, point: Labels of the case.
        history: Name -> (epochs, seeds).
        labels: Of the test images, (n,).
        logits, norms: Of the test images, (seeds, n, C) and (seeds, n).
        outside: Name -> (logits, norms) of images from outside.
        stopped: Epoch at which each seed was stopped, or -1.
        counts: Training images of each class.
        seconds: Processor time, including compilation, which does not depend on other load.
    """

    variant: str
    point: str
    history: dict[str, np.ndarray]
    labels: np.ndarray
    logits: np.ndarray
    norms: np.ndarray
    outside: dict[str, tuple[np.ndarray, np.ndarray]]
    stopped: np.ndarray
    counts: np.ndarray
    seconds: float

    @property
    def accuracy(self) -> np.ndarray:
        """Test accuracy of each seed, NaN for one that was stopped, shape (seeds,)."""
        right = np.mean(np.argmax(self.logits, axis=-1) == self.labels, axis=-1)
        return np.where(self.stopped < 0, right, np.nan)

    @property
    def calibration_error(self) -> np.ndarray:
        """Expected calibration error of each seed, NaN for one that was stopped, shape (seeds,): the one definition.

        In 15 bins, as in Guo et al.; every number called ECE in tables and pictures is its mean over the seeds.
        """
        found = np.full(self.stopped.shape, np.nan)
        for seed in np.flatnonzero(self.stopped < 0):
            found[seed] = expected_calibration_error(probabilities_of(self.logits[seed]), self.labels)
        return found
