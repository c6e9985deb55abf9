"""A smaller problem with the same observables, for balanced classes.

Observables read inner products among class sums and prototypes, inner products of the residuals with both, and the
lengths of the residuals. They never read a product of two residuals or the order of the samples. The smaller problem
therefore expresses every row in a basis of the span of class sums and prototypes, which a linear dynamics never leaves.
An extra column holds the length of the part of each residual outside that span, and the samples are sorted so that
sample i is of class i mod C.

A perturbation of the start itself may leave the span, so derivatives with respect to the start are computed on the
original problem. All other derivatives are computed on the smaller problem, whose span does not change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.observables import ObservablePlan, View, evaluate
from unhinged_jax.observables.features import row_squares
from unhinged_jax.special import safe_sqrt


class Viewed(Protocol):
    """A pytree that observables can read: a start, and everything needed to view the state at a moment.

    Attributes:
        H: The start in the row space, (rows, p).
        W: The prototypes of the start, (C, p).
        residual: The part of the features orthogonal to the class sums, (n, p); None without class sums.
    """

    H: jax.Array
    W: jax.Array
    residual: jax.Array | None

    def view(self, *moment: Any) -> View:
        """The view that observables are given at a moment."""


class Smaller(NamedTuple):
    """The smaller problem, with m columns in place of p.

    Attributes:
        space: The row space of the smaller problem.
        residual: The residuals in the smaller problem, (n, m).
        turn: Maps rows of the original problem, (rows, p), to rows of the smaller one, (rows, m).
    """

    space: RowSpace
    residual: jax.Array
    turn: Callable[[jax.Array], jax.Array]


def compressible(plan: ObservablePlan) -> bool:
    """Whether only built-in observables are read, which look at nothing that the smaller problem lacks."""
    return all(function is None for _, function in plan)


def smaller(space: RowSpace, H: jax.Array, W: jax.Array, residual: jax.Array) -> Smaller:
    """The smaller problem for class sums H (C, p), prototypes W (C, p) and residuals (n, p)."""
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
        # The cancellation here is as small as the rounding error of the lengths, the only place where it is seen.
        outside = safe_sqrt(jnp.maximum(row_squares(residual) - row_squares(inside), 0.0))
        residual, dim = jnp.concatenate([inside, outside], axis=1), basis.shape[1] + 1

        def turn(rows: jax.Array) -> jax.Array:
            return jnp.pad(rows @ basis, ((0, 0), (0, 1)))

    model = dataclasses.replace(space.model, labels=cycle, dim=dim)
    return Smaller(dataclasses.replace(space, model=model, cyclic=True), residual[order], turn)


@eqx.filter_custom_jvp
def observed(small: Viewed, whole: Viewed, moment: tuple, plan: ObservablePlan) -> dict[str, jax.Array]:
    """The planned observables of small.view(*moment).

    The `whole` problem has the same values; derivatives with respect to its start are computed on it.
    """
    return evaluate(plan, small.view(*moment))


@observed.def_jvp
def _observed_jvp(primals: tuple, tangents: tuple) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    small, whole, moment, plan = primals
    start = [getattr(tangents[1], name) for name in ("H", "W", "residual")]
    still = all(tangent is None for tangent in start)
    problem, moved = (small, tangents[0]) if still else (whole, tangents[1])
    return eqx.filter_jvp(lambda seen, at: evaluate(plan, seen.view(*at)), (problem, moment), (moved, tangents[2]))
