"""A smaller problem with the same observables, for balanced classes.

Observables ask for inner products among class sums and prototypes, for those of the residuals with them, and for the
residuals' lengths; never for products between two residuals, nor for the order of samples. So columns are turned onto
the span of class sums and prototypes, which a linear dynamics never leaves, the length of what a residual has outside
it goes into an extra column, and samples are put in the order in which their classes cycle.

Derivatives in the start itself may leave the span, so they are taken of the problem; all others are those of the
smaller one, whose span holds still.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.linear.row_space import RowSpace, summable
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import ObservablePlan, View, evaluate
from unhinged_jax.observables.features import row_squares
from unhinged_jax.special import safe_sqrt


class Viewed(Protocol):
    """A pytree that observables can look at: a start, and what else is needed to view it at a moment."""

    H: jax.Array
    W: jax.Array
    residual: jax.Array | None

    def view(self, *moment: Any) -> View:
        """What observables see at a moment."""


class Smaller(NamedTuple):
    """The smaller row space, its residuals, and how rows of the problem are turned into rows of it."""

    space: RowSpace
    residual: jax.Array
    turn: Callable[[jax.Array], jax.Array]


def compressible(model: LayerPeeled, plan: ObservablePlan) -> bool:
    """Whether class sums of balanced classes carry the problem and only built-in observables look at it."""
    return model.labels.balanced and summable(model) and all(function is None for _, function in plan)


def smaller(space: RowSpace, H: jax.Array, W: jax.Array, residual: jax.Array) -> Smaller:
    """Turn class sums H (C, p), prototypes W (C, p) and residuals (n, p) into the smaller problem."""
    labels, classes, dim = space.model.labels, W.shape[0], W.shape[1]
    order = jnp.argsort(jnp.asarray(labels.index), stable=True).reshape(classes, -1).T.reshape(-1)
    cycle = labels.replace(
        index=jnp.tile(jnp.arange(classes), labels.samples // classes),
        clean=None if labels.clean is None else jnp.asarray(labels.clean)[order],
        balanced=True,  # the same samples in another order
    )

    def turn(rows: jax.Array) -> jax.Array:
        return rows

    if dim > 2 * classes + 1:
        basis = jnp.linalg.qr(jax.lax.stop_gradient(jnp.concatenate([H, W])).T)[0]
        inside = residual @ basis
        # What cancels here is as small as the rounding of the lengths, in which alone it is seen.
        outside = safe_sqrt(jnp.maximum(row_squares(residual) - row_squares(inside), 0.0))
        residual, dim = jnp.concatenate([inside, outside], axis=1), basis.shape[1] + 1

        def turn(rows: jax.Array) -> jax.Array:
            return jnp.pad(rows @ basis, ((0, 0), (0, 1)))

    model = dataclasses.replace(space.model, labels=cycle, dim=dim)
    return Smaller(dataclasses.replace(space, model=model, cyclic=True), residual[order], turn)


@eqx.filter_custom_jvp
def observed(small: Viewed, whole: Viewed, moment: tuple, plan: ObservablePlan) -> dict[str, jax.Array]:
    """Planned observables of small.view(*moment), with the derivatives of those of the `whole`, which has the same."""
    return evaluate(plan, small.view(*moment))


@observed.def_jvp
def _observed_jvp(primals: tuple, tangents: tuple) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    small, whole, moment, plan = primals
    start = [getattr(tangents[1], name) for name in ("H", "W", "residual")]
    still = all(tangent is None for tangent in start)
    problem, moved = (small, tangents[0]) if still else (whole, tangents[1])
    return eqx.filter_jvp(lambda seen, at: evaluate(plan, seen.view(*at)), (problem, moment), (moved, tangents[2]))
