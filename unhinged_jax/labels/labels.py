"""Targets and weights of samples, and how to refine them by weights, noise or smoothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax._values import Tabled
from unhinged_jax.labels import fields as given
from unhinged_jax.labels import held_out as holding
from unhinged_jax.labels import noise
from unhinged_jax.labels.balance import Known, known, register
from unhinged_jax.labels.fields import PER_SAMPLE
from unhinged_jax.labels.weights import weights_of


@dataclasses.dataclass(frozen=True, init=False)
class Labels(Tabled):
    """Targets and weights of n samples in C classes.

    Attributes:
        index: Integer label of each sample, shape (n,), of any integer type; kept as int32.
        weights: Sample weights q_i, shape (n,); 1/n each by default. The risk is L = sum_i q_i loss(s_i, y_i).
        targets: None for one-hot targets; a (C, C) table whose row `index[i]` is the target of sample i (label
            smoothing, expected label noise); or one row per sample, (n, C) (mixup, soft labels).
        clean: Labels against which accuracy is measured, shape (n,); None means `index`.
        classes: C.
        kind: "hard", "table" or "soft", which says how to read `targets`; by default their shape decides. Of kind
            "values" targets are any real numbers for C outputs, also a sparse matrix of SciPy, and classes exist only
            if `clean` is given.
        held_out: The numbers of the samples that are held out for testing, (m,), increasing; their weights are 0. None
            (default) for none; `hold_out` sets it.

    Build one with `balanced`, `from_counts`, `from_labels`, `long_tailed`, `step_imbalanced`, `soft` or `targets`, and
    refine it with `symmetric_noise`, `asymmetric_noise`, `smoothed`, `weighted` and `hold_out`. The constructor and
    `replace` trust `balanced=True` for traced arrays; otherwise they check it.

    Raises:
        ValueError: for labels that are not integers in 0 ... C-1, weights that are negative, not finite or all 0,
            targets that are not finite, shapes or a kind that do not match, or `balanced=True` for classes that are not
            balanced. Of traced arrays only the shapes are checked.

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
    classes: int = 2
    kind: str = "hard"
    held_out: Any = None
    _known: ClassVar[Known]  # of each object; not a field

    def __init__(
        self,
        index: npt.ArrayLike,
        weights: npt.ArrayLike,
        targets: Any = None,
        clean: npt.ArrayLike | None = None,
        classes: int = 2,
        kind: str | None = None,
        balanced: bool | None = None,
        *,
        held_out: npt.ArrayLike | None = None,
    ) -> None:
        least = 1 if isinstance(kind, str) and kind == "values" else 2
        classes = _check.whole("classes", classes, least, most=2**31 - 1)
        claimed = balanced is not None and _check.flag("balanced", balanced)
        index = given.as_labels("index", index, classes)
        weights, targets = _numbers.real("weights", given.as_array("weights", weights)), given.as_targets(targets)
        fields = {
            "index": index,
            "weights": weights,
            "targets": targets,
            "clean": None if clean is None else given.as_labels("clean", clean, classes),
            "classes": classes,
            "kind": given.kind_of(targets, np.shape(index)[-1], classes) if kind is None else kind,
            "held_out": None if held_out is None else _numbers.whole("held_out", given.as_array("held_out", held_out)),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        given.check_fields(self)
        object.__setattr__(self, "_known", known(index, weights, classes, Known(claimed and self.kind == "hard")))
        if claimed and not self.balanced and _check.concrete((index, weights)):
            raise ValueError(
                "balanced=True was given, but targets are not one-hot, counts not equal or weights not 1/n; leave "
                "`balanced` out: it is found from them."
            )

    @property
    def balanced(self) -> bool:
        """Whether targets are known to be one-hot, counts equal and weights 1/n.

        The closed form then needs no eigendecomposition. It is not a field, but computed from index and weights. Inside
        `jax.jit` it is the value for the arrays that were passed in, and False for arrays that were replaced there.
        """
        return self.kind == "hard" and known(self.index, self.weights, self.classes, self._known).value

    def rows(self) -> dict[str, str]:
        """What a notebook shows: sizes, counts and kind."""
        index = np.asarray(self.index)
        counts = [np.bincount(row, minlength=self.classes) for row in index.reshape(-1, self.samples)]
        noisy = self.clean is not None
        return {
            **({"batch of shape": str(index.shape[:-1])} if index.ndim > 1 else {}),
            "samples": f"{self.samples:,}",
            "classes": f"{self.classes:,}",
            "samples per class": f"{np.min(counts):,} to {np.max(counts):,}",
            "kind": self.kind,
            **({} if self.held_out is None else {"held out": f"{np.shape(self.held_out)[-1]:,}"}),
            **({"not the clean label": f"{np.mean(np.asarray(self.clean) != index):.1%}"} if noisy else {}),
        }

    @property
    def samples(self) -> int:
        """Number of samples, n, with those that are held out."""
        return int(np.shape(self.index)[-1])

    @property
    def training_samples(self) -> int:
        """Number of samples to train on."""
        return self.samples - (0 if self.held_out is None else int(np.shape(self.held_out)[-1]))

    @property
    def classified(self) -> bool:
        """Whether every sample has a class, which only targets of kind "values" without `clean` lack."""
        return self.kind != "values" or self.clean is not None

    @property
    def truth(self) -> Any:
        """Labels against which accuracy is measured, shape (n,); raises ValueError if samples have no classes."""
        if not self.classified:
            raise ValueError(
                "these targets are numbers, not classes; give `truth` to `targets` if samples have classes."
            )
        return self.index if self.clean is None else self.clean

    @property
    def by_class(self) -> Any:
        """`index`, shape (n,); raises ValueError if samples have no classes."""
        return self.truth if self.kind == "values" else self.index

    def counts(self) -> jax.Array:
        """Samples in each class, shape (C,), without those that are held out."""
        return jnp.bincount(jnp.asarray(self.training().by_class), length=self.classes)

    def probabilities(self) -> jax.Array:
        """Targets as one distribution (or row of values) per sample, (n, C): a dense array, for the general losses.

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> balanced(classes=2, per_class=1).probabilities()
            Array([[1., 0.],
                   [0., 1.]], dtype=float32)
        """
        if self.kind in PER_SAMPLE:
            return given.dense_targets(self.targets)
        index = jnp.asarray(self.index)
        if self.kind == "table":
            return jnp.asarray(self.targets)[index]
        one_hot = jax.nn.one_hot(index, self.classes, dtype=jnp.result_type(float))
        # Traced labels could not be checked when they were passed; what is computed from wrong ones is NaN.
        return jnp.where(((index >= 0) & (index < self.classes))[..., None], one_hot, jnp.nan)

    def targets_of_classes(self) -> jax.Array | None:
        """The target of every class, shape (C, C), or None if every sample has its own."""
        if self.kind in PER_SAMPLE:
            return None
        return jnp.eye(self.classes) if self.kind == "hard" else jnp.asarray(self.targets)

    def replace(self, **changes: Any) -> Labels:
        """A copy with the named fields changed, checked as by the constructor.

        Derived fields follow: `balanced`; `kind`, if targets are given without it; and the index of soft labels, if it
        is the largest target of each row.
        """
        if "targets" in changes:
            rows = self.kind in PER_SAMPLE and changes.get("kind", self.kind) == self.kind
            same = rows and np.shape(changes["targets"]) == np.shape(self.targets)
            if same and self.kind == "soft" and "index" not in changes:
                changes["index"] = given.largest_again(self.index, self.targets, changes["targets"])
            changes.setdefault("kind", self.kind if rows else None)
        return dataclasses.replace(self, **changes)

    def weighted(
        self,
        *,
        classes: ArrayLike | Sequence[float] | None = None,
        samples: ArrayLike | Sequence[float] | None = None,
        normalise: bool = True,
    ) -> Labels:
        """Weight classes and samples: q_i becomes proportional to q_i * classes[y_i] * samples[i].

        Args:
            classes: One positive weight per class, shape (C,).
            samples: One non-negative weight per sample, shape (n,).
            normalise: Scale so that the q_i sum to 1 (default); otherwise the factors are applied as given.

        Returns:
            Labels with the new weights. Weights n_c^(-1/2) restore the (C-1)-fold top mode under imbalance.

        Raises:
            ValueError: for a wrong shape, a weight that is negative or not finite, or weights that are all 0.

        Source: beyond the paper.

        Example:
            >>> from unhinged_jax.labels import from_counts
            >>> labels = from_counts([1, 3]).weighted(classes=[3.0, 1.0])
            >>> [round(float(q), 3) for q in labels.weights]
            [0.5, 0.167, 0.167, 0.167]
        """
        normalise = _check.flag("normalise", normalise)
        return self.replace(weights=weights_of(self, classes, samples, normalise))

    def hold_out(self, samples: npt.ArrayLike | None = None, *, per_class: int | None = None) -> Labels:
        """Hold samples out for testing: they keep their features and classes, but have weight 0 in the loss.

        Observables, counts and metrics are then those of the other samples; those that begin with `test_` are of the
        samples held out, which are tested on their true classes (on their own targets, if these are soft or values).

        Args:
            samples: A mask, one bool per sample, or the numbers of the samples, from 0.
            per_class: Instead, how many of each class to hold out: the last ones.

        Returns:
            Labels with the new weights; those of the other samples grow so that their sum stays what it was.

        Raises:
            ValueError: for none or both of the two, numbers out of range, a class without a sample to train on, or
                labels that hold samples out already.

        Source: beyond the paper.

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> labels = balanced(classes=2, per_class=3).hold_out(per_class=1)
            >>> labels.held_out.tolist(), labels.weights.tolist(), labels.counts().tolist()
            ([2, 5], [0.25, 0.25, 0.0, 0.25, 0.25, 0.0], [2, 2])
        """
        held = holding.chosen(self, samples, per_class)
        return self.replace(held_out=held, weights=holding.without(self, held))

    def training(self) -> Labels:
        """The labels of the samples to train on: of all samples, if none is held out."""
        return self if self.held_out is None else Labels(**holding.fields_of_training(self))

    def test(self) -> Labels:
        """The labels of the samples held out, in equal shares; raises ValueError if there are none."""
        if self.held_out is None:
            raise ValueError("no sample is held out; `hold_out` says which to test on.")
        return Labels(**holding.fields_of_test(self))

    def symmetric_noise(self, rate: ArrayLike, key: jax.Array | None = None) -> Labels:
        """Symmetric label noise: with probability `rate` a label becomes any of the other C-1.

        Args:
            rate: Noise rate rho in [0, 1].
            key: None (default) for the expectation over the noise, which is a (C, C) table of targets;
                a JAX key to draw one noisy data set. Accuracy is still measured on the clean labels.

        Raises:
            ValueError: for a rate outside [0, 1], or labels that are already soft.

        Source: beyond the paper (van Rooyen et al. 2015 for the binary case).

        Example:
            >>> from unhinged_jax.labels import balanced
            >>> balanced(classes=2, per_class=1).symmetric_noise(0.25).targets
            array([[0.75, 0.25],
                   [0.25, 0.75]])
        """
        return self.transition(noise.symmetric(self.classes, rate), key)

    def asymmetric_noise(self, rate: ArrayLike, key: jax.Array | None = None) -> Labels:
        """Asymmetric (pair-flip) label noise: with probability `rate` class c becomes c + 1 (mod C).

        Args, Raises: as `symmetric_noise`. For any other pattern, pass a matrix to `transition`.

        Source: beyond the paper.
        """
        return self.transition(noise.asymmetric(self.classes, rate), key)

    def smoothed(self, amount: ArrayLike) -> Labels:
        """Label smoothing: targets (1 - amount) one-hot + amount / C.

        Source: beyond the paper.
        """
        return self.transition(noise.smoothing(self.classes, amount), None)

    def transition(self, table: ArrayLike, key: jax.Array | None = None) -> Labels:
        """Label noise by a (C, C) row-stochastic table: class a is seen as class b with `table[a, b]`.

        Args:
            table: Transition probabilities; rows sum to 1.
            key: None for expected targets, a JAX key for one drawn set of noisy labels.

        Raises:
            ValueError: if the table has a wrong shape, a negative entry or a row that does not sum to 1, or if these
                labels already have per-sample targets.
        """
        return self.replace(**noise.changes_of(self, table, key))


register(Labels, ("index", "weights", "targets", "clean", "held_out"), ("classes", "kind"))
