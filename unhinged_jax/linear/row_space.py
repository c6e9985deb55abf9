"""The row space of a linear problem: class sums where the labels allow it, the features themselves otherwise.

If targets depend on the class alone, M = diag(q) Y R. With S_c = sum_{i in c} q_i h_i and D_c = sum_{i in c} q_i^2,

    M^T H = R^T S =: gather(S),    class sums of M X = D R X =: lift(X),    h_i = q_i S_c / D_c + residual_i.

Otherwise the rows are the samples themselves, gather(H) = M^T H and lift(X) = Theta M X with the kernel Theta. See
docs/exact-solutions.md.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from unhinged_jax.kernel import Kernel
from unhinged_jax.labels.held_out import of_training
from unhinged_jax.linear.spectrum import spectrum_of
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables.distance import Orthonormal
from unhinged_jax.observables.features import ClassFeatures, DenseFeatures, Features
from unhinged_jax.signal import ClassSignal, Signal
from unhinged_jax.special import drift, largest, power_of_two, safe_norm

_ITERATIONS = 16  # each takes M and its transpose times a vector


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowSpace:
    """The row space of a linear problem: its rows are class sums (C of them) if `summed`, else the n features.

    Attributes:
        model: The problem.
        signal: Its signal M, which acts as an (n, C) matrix.
        square_weights: D_c = sum_{i in c} q_i^2, (C,); None if not `summed`.
        first_weight: D_0, (), which of balanced classes is that of all, so that loops need no array; None likewise.
        kernel: The kernel Theta, or None for the identity; class sums need the identity.
        summed: Whether the rows are class sums.
        cyclic: Whether sample i is known to be of class i mod C.
    """

    model: LayerPeeled
    signal: Signal
    square_weights: Float[jax.Array, "C"] | None
    first_weight: Float[jax.Array, ""] | None
    kernel: Kernel | None
    summed: bool = dataclasses.field(default=False, metadata={"static": True})
    cyclic: bool = dataclasses.field(default=False, metadata={"static": True})

    def lift(self, carrier: Float[jax.Array, "C m"]) -> Float[jax.Array, "rows m"]:
        """Theta M `carrier` as rows of this space: (C, columns) -> (rows, columns)."""
        if self.summed:
            assert isinstance(self.signal, ClassSignal) and self.square_weights is not None
            return self.square_weights[:, None] * self.signal.spread(carrier)
        lifted = self.signal.times(carrier)
        return lifted if self.kernel is None else self.kernel.apply(lifted)

    def gather(self, H: Float[jax.Array, "rows m"]) -> Float[jax.Array, "C m"]:
        """M^T H for features given as rows of this space: (rows, columns) -> (C, columns)."""
        if self.summed:
            assert isinstance(self.signal, ClassSignal)
            return self.signal.gather(H)
        return self.signal.transpose_times(H)

    def largest_square(self, dtype: DTypeLike) -> Float[jax.Array, ""]:
        """The largest eigenvalue of M^T Theta M, (), a constant for derivatives.

        Of unequal classes it is found by power iterations, which need no factorisation, to about a tenth, from below.
        """
        model, signal = self.model, self.signal
        if isinstance(signal, ClassSignal) and signal.balanced and self.kernel is None:
            spectrum = spectrum_of(signal, None, model.samples, model.dim, dtype)
            return jax.lax.stop_gradient(jnp.max(spectrum.values))
        columns = model.dim if self.kernel is not None and self.kernel.kind == "coordinates" else 1
        begin = jnp.cos(jnp.arange(model.classes * columns, dtype=dtype)).reshape(-1, columns)

        def multiplied(X: jax.Array) -> tuple[jax.Array, jax.Array]:
            product = jax.lax.stop_gradient(self.gather(self.lift(X)))
            size = safe_norm(product)
            return product / jnp.where(size > 0, size, 1.0), size

        unit = jax.lax.fori_loop(0, _ITERATIONS, lambda _, X: multiplied(X)[0], begin)
        return multiplied(unit)[1]

    @property
    def divisor(self) -> Float[jax.Array, "C"]:
        """`square_weights` with 1 in place of 0, for divisions, (C,).

        A class without samples or weight has D_c = 0 and a class sum of 0, so the divisor does not matter there.
        """
        assert self.square_weights is not None
        return jnp.where(self.square_weights > 0, self.square_weights, 1.0)

    def metric(self, H: Float[jax.Array, "rows m"]) -> Float[jax.Array, "rows m"]:
        """Rows of this space, (rows, p), in orthonormal coordinates: their Frobenius norm is that of the features.

        Features of samples that are held out are left out. A class sum S_c is divided by sqrt(D_c), because the
        features q_i S_c / D_c have squared norm |S_c|^2 / D_c.
        """
        return H / jnp.sqrt(self.divisor)[:, None] if self.summed else of_training(self.model.labels, H)

    def length(self, residual: Float[jax.Array, "n p"]) -> Float[jax.Array, ""]:
        """The norm of a residual without the samples that are held out, ()."""
        return safe_norm(of_training(self.model.labels, residual))

    def vector(self, carrier: Float[jax.Array, "C p"], prototypes: Float[jax.Array, "C p"]) -> Orthonormal:
        """The vector (Theta M carrier, prototypes) in orthonormal coordinates: [H (rows, p), residual (), W (C, p)].

        Its residual is 0, because Theta M carrier has none.
        """
        return [self.metric(self.lift(carrier)), jnp.zeros((), prototypes.dtype), prototypes]

    def project(
        self, H: Float[jax.Array, "n p"]
    ) -> tuple[Float[jax.Array, "rows p"], Float[jax.Array, "n p"] | None, Float[jax.Array, ""]]:
        """Split features H (n, p) into rows of this space and a residual.

        Returns:
            The rows, (rows, p); the residual, which is orthogonal to all class sums, (n, p), or None if the rows are
            the features; and the factor that multiplies it, (), a power of two. The factor keeps the residual of
            ordinary size, for products with it.
        """
        if not self.summed:
            return H, None, jnp.ones((), H.dtype)
        assert isinstance(self.signal, ClassSignal) and self.square_weights is not None
        rows = self.signal.class_sums(H)
        index, q = jnp.asarray(self.signal.index), jnp.asarray(self.signal.weights, H.dtype)
        residual = H - q[:, None] * (rows / self.divisor[:, None])[index]
        # With one sample per class, or equal ones, only rounding is left, which would outlast features that shrink. A
        # sample of weight 0 is all residual.
        seen = q[:, None] > 0
        size, left = (largest(jnp.where(seen, part, 0.0)) for part in (H, residual))
        rounding = seen & (left <= 4 * jnp.finfo(H.dtype).eps * size)
        residual = residual - jax.lax.stop_gradient(jnp.where(rounding, residual, 0.0))
        info = jnp.finfo(H.dtype)
        power = jnp.clip(drift(safe_norm(residual)), 2 - info.maxexp, info.maxexp - 2)
        return rows, power_of_two(-power, H.dtype) * residual, power_of_two(power, H.dtype)

    def features(
        self,
        H: Float[jax.Array, "rows p"],
        residual: Float[jax.Array, "n p"] | None,
        residual_scale: Float[jax.Array, ""],
        **known: Float[jax.Array, "C _"] | None,
    ) -> Features:
        """The features with these rows and this residual.

        Args:
            H: Rows of this space, (rows, p).
            residual: The part orthogonal to the class sums, (n, p); None if the rows are the features.
            residual_scale: What the residual is multiplied by, ().
            known: Products that `ClassFeatures` need not compute again, by the name of its field.
        """
        if not self.summed:
            return DenseFeatures(H)
        assert residual is not None and self.square_weights is not None
        labels = self.model.labels
        return ClassFeatures(
            index=jnp.asarray(labels.index),
            weights=jnp.asarray(labels.weights, H.dtype),
            square_weights=self.divisor,
            residual=residual,
            sums=H,
            residual_scale=residual_scale,
            even=labels.balanced,
            cyclic=self.cyclic,
            **known,
        )


def summable(model: LayerPeeled) -> bool:
    """Whether class sums carry the problem: targets depend on the class alone, and no kernel couples samples."""
    if model.kernel is not None:
        return False
    leaves, structure = jax.tree.flatten(model)
    return _has_class_signal(structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))


@functools.lru_cache(maxsize=1024)
def _has_class_signal(structure: Any, types: tuple[tuple[tuple[int, ...], Any], ...]) -> bool:
    """Whether the signal of a model with leaves of these shapes and types is a `ClassSignal`; numbers do not matter."""
    model = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in types])
    return isinstance(jax.eval_shape(lambda model: model.signal(), model), ClassSignal)


def row_space(model: LayerPeeled, dtype: DTypeLike, summed: bool = True) -> RowSpace:
    """The cheapest row space of a linear model; if not `summed`, the row space of the features themselves."""
    signal = model.signal()
    summed = summed and summable(model)
    squares = signal.square_weights(dtype) if summed else None  # type: ignore[union-attr]
    return RowSpace(model, signal, squares, None if squares is None else squares[0], model.kernel, summed)
