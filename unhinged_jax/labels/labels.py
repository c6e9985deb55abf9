"""Targets and weights of samples, and what refines them: weights, noise, smoothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labels:
    """Targets and weights of n samples in C classes.

    Attributes:
        index: Integer label of each sample, shape (n,).
        weights: Sample weights q_i, shape (n,); 1/n each unless said otherwise. The risk is
            L = sum_i q_i loss(s_i, y_i).
        targets: None for one-hot targets; a (C, C) table whose row `index[i]` is the target of sample i
            (label smoothing, expected label noise); or one row a sample, (n, C) (mixup, soft labels).
        clean: Labels against which accuracy is measured, shape (n,); None means `index`.
        classes: C.
        kind: "hard", "table" or "soft": how `targets` is read.
        balanced: True if counts and weights are known to be equal and targets one-hot; the closed form
            then needs no eigendecomposition.

    Build one with `balanced`, `from_counts`, `from_labels`, `long_tailed`, `step_imbalanced` or `soft`,
    and refine it with `symmetric_noise`, `asymmetric_noise`, `smoothed` and `weighted`.

    Source: Zhou et al. 2023, Eq. 1 and 3 for balanced classes; the rest is beyond the paper.

    Example:
        >>> labels = Labels(index=np.array([0, 1, 1]), weights=np.full(3, 1 / 3), classes=2)
        >>> labels.samples, labels.counts().tolist()
        (3, [1, 2])
    """

    index: Any
    weights: Any
    targets: Any = None
    clean: Any = None
    classes: int = dataclasses.field(default=2, metadata={"static": True})
    kind: str = dataclasses.field(default="hard", metadata={"static": True})
    balanced: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def samples(self) -> int:
        """Number of samples, n."""
        return int(np.shape(self.index)[-1])

    @property
    def truth(self) -> Any:
        """Labels that accuracy is measured against, shape (n,)."""
        return self.index if self.clean is None else self.clean

    def counts(self) -> jax.Array:
        """Samples in each class, shape (C,)."""
        return jnp.bincount(jnp.asarray(self.index), length=self.classes)

    def probabilities(self) -> jax.Array:
        """Targets as one distribution a sample, shape (n, C): a dense array, for the general losses.

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> balanced(classes=2, per_class=1).probabilities()
            Array([[1., 0.],
                   [0., 1.]], dtype=float32)
        """
        if self.kind == "soft":
            return jnp.asarray(self.targets)
        index = jnp.asarray(self.index)
        if self.kind == "table":
            return jnp.asarray(self.targets)[index]
        return jax.nn.one_hot(index, self.classes, dtype=jnp.result_type(float))

    def replace(self, **changes: Any) -> Labels:
        """A copy with the named fields changed."""
        return dataclasses.replace(self, **changes)

    def weighted(
        self,
        *,
        classes: ArrayLike | Sequence[float] | None = None,
        samples: ArrayLike | Sequence[float] | None = None,
        normalise: bool = True,
    ) -> Labels:
        """Weigh classes and samples: q_i proportional to q_i * classes[y_i] * samples[i].

        Args:
            classes: One positive weight a class, shape (C,).
            samples: One non-negative weight a sample, shape (n,).
            normalise: Scale so that the q_i sum to 1 (default); otherwise the factors are applied as given.

        Returns:
            Labels with the new weights. Weights n_c^(-1/2) restore the (C-1)-fold top mode under imbalance.

        Raises:
            ValueError: for a wrong shape or a negative weight.

        Source: beyond the paper.

        Example:
            >>> from unhinged_jax.labels import from_counts
            >>> labels = from_counts([1, 3]).weighted(classes=[3.0, 1.0])
            >>> [round(float(q), 3) for q in labels.weights]
            [0.5, 0.167, 0.167, 0.167]
        """
        xp = np if _check.concrete((self.weights, self.index, classes, samples)) else jnp
        weights = xp.asarray(self.weights)
        if classes is not None:
            _check.shape("class weights", classes, (self.classes,), "one a class")
            _check.positive("class weights", classes)
            weights = weights * xp.asarray(classes)[xp.asarray(self.index)]
        if samples is not None:
            _check.shape("sample weights", samples, (self.samples,), "one a sample")
            _check.non_negative("sample weights", samples)
            weights = weights * xp.asarray(samples)
        if normalise:
            weights = weights / xp.sum(weights)
        return self.replace(weights=weights, balanced=False)

    def symmetric_noise(self, rate: ArrayLike, key: jax.Array | None = None) -> Labels:
        """Symmetric label noise: with probability `rate` a label becomes any of the other C-1.

        Args:
            rate: Noise rate rho in [0, 1].
            key: None (default) for the expectation over the noise, which is a (C, C) table of targets;
                a JAX key to draw one noisy data set. Accuracy is still measured on the clean labels.

        Raises:
            ValueError: for a rate outside [0, 1], or labels that are soft already.

        Source: beyond the paper (van Rooyen et al. 2015 for the binary case).

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> balanced(classes=2, per_class=1).symmetric_noise(0.25).targets
            array([[0.75, 0.25],
                   [0.25, 0.75]])
        """
        classes = self.classes
        off = rate / (classes - 1)
        if _check.concrete(rate):
            return self.transition(np.full((classes, classes), off) + np.eye(classes) * (1 - rate - off), key)
        return self.transition(off + jnp.eye(classes) * (1 - rate - off), key)

    def asymmetric_noise(self, rate: ArrayLike, key: jax.Array | None = None) -> Labels:
        """Asymmetric (pair-flip) label noise: with probability `rate` class c becomes c + 1 (mod C).

        Args, Raises: as `symmetric_noise`. For any other pattern give `transition` a matrix.

        Source: beyond the paper.
        """
        xp = np if _check.concrete(rate) else jnp
        eye = xp.eye(self.classes)
        return self.transition((1 - rate) * eye + rate * xp.roll(eye, 1, axis=1), key)

    def smoothed(self, amount: ArrayLike) -> Labels:
        """Label smoothing: targets (1 - amount) one-hot + amount / C.

        Source: beyond the paper.
        """
        xp = np if _check.concrete(amount) else jnp
        eye = xp.eye(self.classes)
        return self.transition((1 - amount) * eye + amount / self.classes, None)

    def transition(self, table: ArrayLike, key: jax.Array | None = None) -> Labels:
        """Label noise by a (C, C) row-stochastic table: class a is seen as class b with `table[a, b]`.

        Args:
            table: Transition probabilities; rows sum to 1.
            key: None for expected targets, a JAX key for one drawn set of noisy labels.

        Raises:
            ValueError: if the table has a wrong shape, a negative entry or a row that does not sum to 1, or
                if these labels have per-sample targets already.
        """
        if self.kind != "hard":
            raise ValueError(
                f"label noise and smoothing need one-hot labels, but these are of kind {self.kind!r}; combine "
                "the targets yourself and pass them to `soft`."
            )
        _check.shape("transition table", table, (self.classes, self.classes), "classes x classes")
        _check.non_negative("transition table", table, "a noise rate lies between 0 and 1")
        if _check.concrete(table) and not np.allclose(np.sum(np.asarray(table), axis=1), 1.0, atol=1e-6):
            raise ValueError("every row of a transition table must sum to 1; a noise rate lies between 0 and 1.")
        if key is None:
            return self.replace(targets=table, kind="table", balanced=False)
        index = jnp.asarray(self.index)
        drawn = jax.random.categorical(key, jnp.log(jnp.asarray(table))[index])
        return self.replace(index=drawn, clean=self.truth, balanced=False)
