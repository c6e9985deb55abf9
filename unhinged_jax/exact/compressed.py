"""A smaller problem with the same observables, for balanced classes.

Observables ask for inner products among class sums and prototypes, for those of the residuals with them, and for the
residuals' lengths; never for products between two residuals, nor for the order of samples. So columns are turned onto
the span of class sums and prototypes, which the dynamics never leaves, the length of what a residual has outside it
goes into one column more, and samples are put in the order in which their classes cycle.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unhinged_jax.exact.linear import ExactLinear, as_seen
from unhinged_jax.features import row_lengths


def compressible(problem: ExactLinear) -> bool:
    """Whether the classes are balanced and their sums carry the problem."""
    return problem.space.summed and problem.space.model.labels.balanced and problem.residual is not None


def compressed(problem: ExactLinear) -> ExactLinear:
    """The smaller problem. Only its values are those of the problem: derivatives may leave the span."""
    assert problem.residual is not None
    H, W, residual, leading = problem.H, problem.W, problem.residual, problem.leading
    labels, classes = problem.space.model.labels, W.shape[0]
    order = jnp.argsort(jnp.asarray(labels.index), stable=True).reshape(classes, -1).T.reshape(-1)
    cycle = labels.replace(
        index=jnp.tile(jnp.arange(classes), labels.samples // classes),
        clean=None if labels.clean is None else jnp.asarray(labels.clean)[order],
    )
    residual = residual[order]
    if H.shape[1] > 2 * classes + 1:
        basis = jnp.linalg.qr(jnp.concatenate([H, W]).T)[0]

        def turned(rows: jax.Array) -> jax.Array:
            return jnp.pad(rows @ basis, ((0, 0), (0, 1)))

        inside = residual @ basis
        outside = row_lengths(residual - inside @ basis.T)
        residual = jnp.concatenate([inside, outside], axis=1)
        H, W = turned(H), turned(W)
        if leading is not None:
            leading = dataclasses.replace(
                leading, carrier=turned(leading.carrier), prototypes=turned(leading.prototypes)
            )
    model = dataclasses.replace(problem.space.model, labels=cycle, dim=H.shape[1])
    space = dataclasses.replace(problem.space, model=model, cyclic=True)
    few = residual.shape[1] < residual.shape[0]
    return dataclasses.replace(
        problem,
        space=space,
        H=H,
        W=W,
        F=space.gather(H),
        residual=residual,
        leading=leading,
        seen=None if problem.seen is None else as_seen(space, H, W, residual),
        scatter=as_seen(space, H, W, jnp.linalg.qr(residual, mode="r")) if few else None,
    )
