"""The row space of a linear problem: class sums where the labels allow it, the features themselves otherwise.

Where targets depend on the class alone, M = diag(q) Y R, and with S_c = sum_{i in c} q_i h_i, D_c = sum_{i in c} q_i^2,

    M^T H = R^T S =: gather(S),    class sums of Theta M X = D R X =: lift(X),    h_i = q_i S_c / D_c + residual_i.

Otherwise rows are samples, gather(H) = M^T H and lift(X) = Theta M X with the kernel Theta. See
docs/exact-solutions.md.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unhinged_jax.kernel import Kernel
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables.features import ClassFeatures, DenseFeatures, Features
from unhinged_jax.signal import ClassSignal, Signal
from unhinged_jax.special import drift, largest, power_of_two, safe_norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowSpace:
    """Row space of a linear problem: class sums if `summed`, else the features themselves.

    `cyclic`: sample i is known to be of class i mod C.
    """

    model: LayerPeeled
    signal: Signal
    square_weights: jax.Array | None
    kernel: Kernel | None
    summed: bool = dataclasses.field(default=False, metadata={"static": True})
    cyclic: bool = dataclasses.field(default=False, metadata={"static": True})

    def lift(self, carrier: jax.Array) -> jax.Array:
        """Theta M carrier in this row space."""
        if self.summed:
            assert isinstance(self.signal, ClassSignal) and self.square_weights is not None
            return self.square_weights[:, None] * self.signal.spread(carrier)
        lifted = self.signal.times(carrier)
        return lifted if self.kernel is None else self.kernel.apply(lifted)

    def gather(self, H: jax.Array) -> jax.Array:
        """M^T H, shape (C, columns)."""
        if self.summed:
            assert isinstance(self.signal, ClassSignal)
            return self.signal.gather(H)
        return self.signal.transpose_times(H)

    @property
    def divisor(self) -> jax.Array:
        """`square_weights` to divide by: the sum of a class without samples or weight is 0 whatever divides it."""
        assert self.square_weights is not None
        return jnp.where(self.square_weights > 0, self.square_weights, 1.0)

    def metric(self, H: jax.Array) -> jax.Array:
        """H in coordinates in which the Frobenius norm is the norm of the features."""
        return H / jnp.sqrt(self.divisor)[:, None] if self.summed else H

    def vector(self, carrier: jax.Array, prototypes: jax.Array) -> list[jax.Array]:
        """A part (Theta M carrier, prototypes) of the state in orthonormal coordinates: (H, residual, W)."""
        return [self.metric(self.lift(carrier)), jnp.zeros((), prototypes.dtype), prototypes]

    def project(self, H: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Features (n, p) as rows of this space, what is orthogonal to them (None if there is none), and its factor.

        The factor is a power of two that leaves that residual of ordinary size, for products with it.
        """
        if not self.summed:
            return H, None, jnp.ones((), H.dtype)
        assert isinstance(self.signal, ClassSignal) and self.square_weights is not None
        rows = self.signal.class_sums(H)
        index, q = jnp.asarray(self.signal.index), jnp.asarray(self.signal.weights, H.dtype)
        residual = H - q[:, None] * (rows / self.divisor[:, None])[index]
        # One sample per class, or equal ones, leave only rounding, which would outlast what shrinks.
        rounding = largest(residual) <= 4 * jnp.finfo(H.dtype).eps * largest(H)
        residual = residual - jax.lax.stop_gradient(jnp.where(rounding, residual, 0.0))
        info = jnp.finfo(H.dtype)
        power = jnp.clip(drift(safe_norm(residual)), 2 - info.maxexp, info.maxexp - 2)
        return rows, power_of_two(-power, H.dtype) * residual, power_of_two(power, H.dtype)

    def features(
        self,
        H: jax.Array,
        residual: jax.Array | None,
        residual_scale: jax.Array,
        **known: jax.Array | None,
    ) -> Features:
        """Rows of this space and a residual as features, with what is `known` of its products (`ClassFeatures`)."""
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
    return model.kernel is None and isinstance(jax.eval_shape(model.signal), ClassSignal)


def row_space(model: LayerPeeled, dtype: DTypeLike, summed: bool = True) -> RowSpace:
    """The cheapest row space for a linear model; not `summed`: that of the features themselves."""
    signal = model.signal()
    summed = summed and summable(model)
    squares = signal.square_weights(dtype) if summed else None  # type: ignore[union-attr]
    return RowSpace(model, signal, squares, model.kernel, summed)
