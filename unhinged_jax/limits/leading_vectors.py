"""Leading eigenvectors of symmetric operators that keep a cone, and of the member of a line of them that just dies.

A map that takes positive semidefinite matrices to such has a leading eigenvector v among them, in which the unit matrix
has a part, and its largest eigenvalue is its spectral radius. If it is symmetric, this is the maximum of <v, map v>. So
the largest eigenvalue of base + s slope is convex in s and does not fall, and there is one s at which it becomes 0, if
that of base is below 0 and slope is not 0. From any v, the steps

    s <- -<v, base v>/<v, slope v>,    v = the leading eigenvector of base + s slope,

descend to it: Newton's method for a convex function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.limits.second_moment import FEW, Vector

Operator = Callable[[Vector], Float[jax.Array, "3 d"]]
Coefficients = Float[jax.Array, "3"]

_MOST = 3000  # steps to one eigenvector
_PATIENCE = 30  # steps without a smaller error, after which the error is taken for rounding


class Sought(NamedTuple):
    """The leading eigenvector of base, or if slope is not 0, of base + s slope for the s of eigenvalue 0."""

    base: Coefficients
    slope: Coefficients


class _Newton(NamedTuple):
    """A vector above its images, (4, d), the s that follows from it, the s before, and a count."""

    found: jax.Array
    s: jax.Array
    before: jax.Array
    steps: jax.Array


def sought(parts: Operator, start: Vector, sought: Sought) -> Vector:
    """The eigenvector at length 1; that of some s <= 0 if there is no such s above 0."""
    base, slope = sought
    eps, none = jnp.finfo(start.dtype).eps, jnp.zeros((), jnp.int32)
    plain = jnp.all(slope == 0)
    start = start / jnp.linalg.norm(start)

    def going(carry: _Newton) -> jax.Array:
        falls = (carry.s > 0) & (carry.s < carry.before * (1 - 4 * eps)) & jnp.isfinite(carry.s)
        return (carry.steps == 0) | (~plain & falls & (carry.steps < 50))

    def step(carry: _Newton) -> _Newton:
        row = jnp.where(plain, base, jnp.where(carry.steps == 0, slope, base + carry.s * slope))
        # A little of the start, so that no part is missed in which the last vector has no share.
        found = _leading(parts, row, carry.found[0] + 1e-3 * start)
        return _Newton(found, ratio(found, base, slope), carry.s, carry.steps + 1)

    first = jnp.zeros((4, start.size), start.dtype).at[0].set(start)
    far = jnp.full((), jnp.inf, start.dtype)
    return jax.lax.while_loop(going, step, _Newton(first, far, far, none)).found[0]


def ratio(found: jax.Array, base: Coefficients, slope: Coefficients) -> jax.Array:
    """-<v, base v>/<v, slope v> of a vector above its images; infinite if the slope is 0."""
    forms = found[1:] @ found[0]
    level, steep = jnp.dot(base, forms), jnp.dot(slope, forms)
    return jnp.where(steep > 0, -level / jnp.where(steep > 0, steep, 1.0), jnp.inf)


def _leading(parts: Operator, row: Coefficients, start: Vector) -> jax.Array:
    """The leading eigenvector v of row @ parts, above its images parts v, (4, d), at length 1.

    If there are several, the projection of `start` on them.
    """
    if start.size > FEW:
        return _climbed(parts, row, start)
    matrix = jax.vmap(lambda unit: row @ parts(unit), out_axes=1)(jnp.eye(start.size, dtype=start.dtype))
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    near = values >= values[-1] - 16 * jnp.finfo(start.dtype).eps * jnp.max(jnp.abs(values))
    found = vectors @ (near * (vectors.T @ start))
    size = jnp.linalg.norm(found)
    found = jnp.where(size > 0, found / jnp.where(size > 0, size, 1.0), vectors[:, -1])
    return jnp.concatenate([found[None], parts(found)])


class _Climb(NamedTuple):
    """The vector so far above its images, (4, d), the last direction, and where to look next, (d,).

    Also the error of the eigenvalue equation and the least so far, and counts: of steps since then, and of all steps.
    """

    best: jax.Array
    last: Vector
    ahead: Vector
    error: jax.Array
    least: jax.Array
    idle: jax.Array
    steps: jax.Array


def _climbed(parts: Operator, row: Coefficients, start: Vector) -> jax.Array:
    """Conjugate gradients for the largest <v, row @ parts v>: each step takes the best of a space of three vectors."""
    eps = jnp.finfo(start.dtype).eps

    def step(carry: _Climb) -> _Climb:
        up = _apart(carry.ahead, carry.best[0])
        last = _apart(carry.last, carry.best[0], up)
        # Their images are computed again, because the difference of images of nearly equal vectors is rounding.
        others = jnp.stack([up, last])
        space = jnp.concatenate([carry.best[None], jnp.concatenate([others[:, None], jax.vmap(parts)(others)], axis=1)])
        vectors, images = space[:, 0], jnp.einsum("i,kid->kd", row, space[:, 1:])
        small = vectors @ images.T
        size = jnp.max(jnp.abs(small))
        size = jnp.where(size > 0, size, 1.0)
        absent = ~jnp.any(vectors != 0, axis=1)
        weights = jnp.linalg.eigh((small + small.T) / 2 - jnp.diag(jnp.where(absent, 3 * size, 0.0)))[1][:, -1]
        best = jnp.tensordot(weights, space, 1)
        best = best / jnp.linalg.norm(best[0])
        image = row @ best[1:]
        ahead = image - jnp.dot(image, best[0]) * best[0]
        error = jnp.linalg.norm(ahead) / size
        idle = jnp.where(error < 0.9 * carry.least, 0, carry.idle + 1)
        last = weights[1:] @ others
        return _Climb(best, last, ahead, error, jnp.minimum(error, carry.least), idle, carry.steps + 1)

    def going(carry: _Climb) -> jax.Array:
        return (carry.error > 512 * eps) & (carry.idle < _PATIENCE) & (carry.steps < _MOST)

    nothing = jnp.zeros((4, start.size), start.dtype)
    far, none = jnp.full((), jnp.inf, start.dtype), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(going, step, _Climb(nothing, nothing[0], start, far, far, none, none)).best


def _apart(vector: Vector, *others: Vector) -> Vector:
    """A vector without its parts along others, at length 1; 0 if only rounding is left."""
    size = jnp.linalg.norm(vector)
    vector = vector / jnp.where(size > 0, size, 1.0)
    for _ in range(2):
        for other in others:
            vector = vector - jnp.dot(other, vector) * other
        size = jnp.linalg.norm(vector)
        vector = jnp.where(size > 8 * jnp.finfo(vector.dtype).eps, vector / jnp.where(size > 0, size, 1.0), 0.0)
    return vector
