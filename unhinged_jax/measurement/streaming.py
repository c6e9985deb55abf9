"""Metrics of data that do not fit into memory: one batch after the other."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np

from unhinged_jax import _check, _memory
from unhinged_jax.collapse import MEASURED, MetricInfo
from unhinged_jax.measurement import evaluate, inputs, moments
from unhinged_jax.measurement.evaluate import Tally
from unhinged_jax.measurement.measurement import Measurement
from unhinged_jax.measurement.moments import Moments

_NO_PROTOTYPES = "no prototypes were given"
_NO_SAMPLES = "it needs every sample again, with `classify`"
_NO_OOD = "no features from outside the training distribution were given (ood)"
_MANY = f"it takes minutes for more than {evaluate.MOST_FOR_HULLS:,} classes"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Collapse:
    """Neural collapse of features that come in batches, in one pass; nothing is changed in place.

    Its size depends on classes and dimension only, p² + 2Cp numbers. The order of batches, and how samples are
    divided among them, changes the metrics by rounding only. Accuracies, NC4 and margins need each sample together with
    the final class means: pass all batches a second time, with `classify`. NC5 needs batches from outside the training
    distribution, with `update_ood`.

    Attributes:
        classes, dim: C, at least 2, and p, at least 1.

    Raises:
        ValueError: for numbers that are not whole or too small.
        MemoryError: if p² + 2Cp or C² numbers do not fit into the memory.

    Source: beyond the paper; batches are merged as in Chan, Golub & LeVeque (1979).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> seen = Collapse(classes=3, dim=8)
        >>> for _ in range(5):
        ...     labels = np.arange(12) % 3
        ...     seen = seen.update(np.eye(3, 8)[labels] + 0.1 * rng.normal(size=(12, 8)), labels)
        >>> seen.samples, round(seen.metrics()["nc2_equinorm_means"], 2)
        (60, 0.01)
    """

    classes: int
    dim: int
    _moments: Moments = dataclasses.field(init=False)
    _outside: Moments = dataclasses.field(init=False)
    _second: _Second | None = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        _check.whole("classes", self.classes, 2)
        _check.whole("dim", self.dim, 1)
        inputs.refuse_many(self.classes)
        wanted = 8 * self.dim * (self.dim + 2 * self.classes)
        _memory.refuse(wanted, f"class means and the scatter of features of dimension {self.dim}")
        object.__setattr__(self, "_moments", moments.empty(self.classes, self.dim, scatter=True))
        object.__setattr__(self, "_outside", moments.empty(1, self.dim, scatter=False))

    def __repr__(self) -> str:
        return f"Collapse(classes={self.classes}, dim={self.dim}): {self.samples:,} samples"

    @property
    def samples(self) -> int:
        """Samples so far."""
        return int(self._moments.counts.sum())

    def update(self, features: Any, labels: Any) -> Collapse:
        """With another batch.

        Args:
            features: (t, p), any array that NumPy can read, or a PyTorch tensor.
            labels: (t,) integers from 0 to C - 1.

        Returns:
            A new object; this one is unchanged.

        Raises:
            ValueError: for shapes that do not match, NaN, labels out of range, or after `classify`.
        """
        if self._second is not None:
            raise ValueError("the class means would change after `classify`; pass every batch to `update` before.")
        H, y = self._batch(features, labels)
        found = self._moments
        for rows in evaluate.tiles(H, self.classes):
            found = moments.absorbed(found, H[rows], y[rows])
        return self._with(_moments=found)

    def update_ood(self, features: Any) -> Collapse:
        """With a batch of samples from outside the training distribution, for NC5; before or after `classify`.

        Args:
            features: (t, p), as in `update`.

        Returns:
            A new object; this one is unchanged.

        Raises:
            ValueError: for shapes that do not match, and NaN.
        """
        return self._with(_outside=with_ood(self._outside, features))

    def classify(self, features: Any, labels: Any, prototypes: Any = None, bias: Any = None) -> Collapse:
        """With a batch seen a second time, now that the class means are known.

        Args:
            features, labels: As in `update`; all batches, each once.
            prototypes: (C, p), the same every time; without them only the nearest class mean classifies.
            bias: (C,); default zeros.

        Returns:
            A new object; this one is unchanged.

        Raises:
            ValueError: as for `update`, for prototypes that changed, and for more samples than in the first pass.
        """
        H, y = self._batch(features, labels)
        W = inputs.prototypes(prototypes, self.classes, self.dim)
        second = self._second
        if second is None:
            second = _Second(evaluate.geometry(self._full()), W, inputs.bias(bias, W), Tally())
        elif not second.uses(W, inputs.bias(bias, W)):
            raise ValueError("the prototypes or biases differ from those of earlier batches; give the same every time.")
        tally = second.tally
        for rows in evaluate.tiles(H, self.classes):
            tally = evaluate.tallied(tally, second.geometry, H[rows], y[rows], second.W, second.b)
        if tally.samples > self.samples:
            raise ValueError(
                f"{tally.samples} samples were classified, but there were {self.samples} in the first pass; pass every "
                "batch to `classify` once."
            )
        return self._with(_second=dataclasses.replace(second, tally=tally))

    def metrics(self, prototypes: Any = None, bias: Any = None) -> Measurement:
        """Every metric that is known by now.

        Args:
            prototypes: (C, p); default those given to `classify`.
            bias: (C,), as in `classify`; only logits depend on it.

        Returns:
            A `Measurement`.

        Raises:
            ValueError: for a class without samples, a second pass that is not complete, or other prototypes than in it.
        """
        full, second = self._full(), self._second
        W = inputs.prototypes(prototypes, self.classes, self.dim)
        b = inputs.bias(bias, W)
        if second is None:
            return result(full, evaluate.geometry(full), None, W, self._outside)
        if W is not None and not second.uses(W, b):
            raise ValueError("these are not the prototypes and biases that `classify` was given; leave them out.")
        if second.tally.samples < self.samples:
            raise ValueError(
                f"only {second.tally.samples} of {self.samples} samples were passed to `classify`; pass every batch."
            )
        return result(full, second.geometry, second.tally, second.W, self._outside)

    def _with(self, **parts: Moments | _Second) -> Collapse:
        other = copy.copy(self)
        for name, part in parts.items():
            object.__setattr__(other, name, part)
        return other

    def _batch(self, features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        H = inputs.features(features, self.dim)
        return H, inputs.labels(labels, len(H), self.classes)

    def _full(self) -> Moments:
        inputs.refuse_empty(np.flatnonzero(self._moments.counts), self.classes)
        return self._moments


@dataclasses.dataclass(frozen=True)
class _Second:
    """The second pass: what it compares with, and what it has counted."""

    geometry: evaluate.Geometry
    W: np.ndarray | None
    b: np.ndarray | None
    tally: Tally

    def uses(self, W: np.ndarray | None, b: np.ndarray | None) -> bool:
        """Whether these are its prototypes and biases."""
        if self.W is None or self.b is None or W is None or b is None:
            return self.W is W
        return np.array_equal(self.W, W) and np.array_equal(self.b, b)


def with_ood(before: Moments, features: Any) -> Moments:
    """Moments, of one class, of the samples from outside the training distribution with a batch (t, p) more."""
    found = inputs.outside(features, before.first.shape[1])
    for rows in evaluate.tiles(found, 1):
        before = moments.absorbed(before, found[rows], np.zeros(len(found[rows]), np.int64))
    return before


def result(
    full: Moments, geometry: evaluate.Geometry, tally: Tally | None, W: np.ndarray | None, outside: Moments
) -> Measurement:
    """The metrics that these moments and, if there was a second pass, its tally give."""
    found = evaluate.of_classes(full, geometry, None if tally is None else tally.within, W, outside)
    if tally is not None:
        found |= evaluate.of_samples(tally, W is not None)
    classes, dim = full.first.shape
    left_out = {name: _why(info, W is not None) for name, info in MEASURED.items() if name not in found}
    values = {name: found[name] for name in MEASURED if name in found}
    return Measurement(values, left_out, int(full.counts.sum()), classes, dim)


def _why(info: MetricInfo, with_prototypes: bool) -> str:
    """Why a metric was left out."""
    if not with_prototypes and not {"W", "logits"}.isdisjoint(info.takes):
        return _NO_PROTOTYPES
    if "ood" in info.takes:
        return _NO_OOD
    return _MANY if info.name.startswith("one_vs_rest") else _NO_SAMPLES
