"""e^{At} and e^{At} v of a linear map, over a power of two of their own, so that neither growth nor decay matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.special import drift, largest, power_of_two

_DEGREE = 14  # of the Taylor polynomial of a matrix of norm 1/2: the rest is below 2e-17
_SQUARINGS = 62
_TERMS = 24  # of the series for a vector


class Scaled(NamedTuple):
    """An array and the power of two that multiplies it, a whole number in floating point, ()."""

    array: jax.Array
    power: Float[jax.Array, ""]


def rescaled(given: Scaled) -> Scaled:
    """The same with entries around 1."""
    power = drift(largest(given.array), beyond=0)
    factor = power_of_two(-power, given.array.dtype)
    return Scaled(given.array * factor, given.power + power.astype(given.power.dtype))


def exponential(A: Float[jax.Array, "d d"], t: Float[jax.Array, ""]) -> Scaled:
    """e^{At}, by a Taylor polynomial and squarings; NaN if |A| t is above 2^61.

    Example:
        >>> whole = exponential(jnp.asarray([[0.0, 1.0], [0.0, 0.0]]), jnp.asarray(3.0))
        >>> (whole.array * 2**whole.power).tolist()
        [[1.0, 3.0], [0.0, 1.0]]
    """
    one = jnp.eye(A.shape[0], dtype=A.dtype)
    norm = jax.lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(A), axis=0)) * t)
    count = jnp.ceil(jnp.log2(jnp.maximum(norm, 0.5) / 0.5)).astype(jnp.int32)
    count = jnp.where(norm < 2.0**61, count, 0)
    B = A * (t * power_of_two(-count, A.dtype))

    def nested(found: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        return one + B @ found / k, None

    found, _ = jax.lax.scan(nested, one, jnp.arange(_DEGREE, 0, -1, dtype=A.dtype))

    def squared(now: Scaled, i: jax.Array) -> tuple[Scaled, None]:
        def square() -> Scaled:
            return rescaled(Scaled(now.array @ now.array, 2 * now.power))

        return jax.lax.cond(i < count, square, lambda: now), None

    begin = Scaled(jnp.where(norm < 2.0**61, found, jnp.nan), jnp.zeros((), A.dtype))
    return jax.lax.scan(squared, begin, jnp.arange(_SQUARINGS))[0]


def acted(
    A: Callable[[Float[jax.Array, "d"]], Float[jax.Array, "d"]], t: Float[jax.Array, ""], start: Scaled
) -> Scaled:
    """e^{At} v, without the matrix, by Taylor series over steps that are so short that the series converges.

    It takes some |A| t applications of A. Their number is found as it runs, so there is no reverse mode.
    """
    eps, tiny = float(jnp.finfo(start.array.dtype).eps), jnp.asarray(1e-30, t.dtype)

    def step(state: tuple[jax.Array, jax.Array, Scaled]) -> tuple[jax.Array, jax.Array, Scaled]:
        left, length, now = state
        length = jnp.minimum(length, left)

        def add(both: tuple[jax.Array, jax.Array], k: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            term = A(both[0]) * (length / k)
            return (term, both[1] + term), None

        (term, total), _ = jax.lax.scan(add, (now.array, now.array), jnp.arange(1, _TERMS + 1, dtype=t.dtype))
        size = jax.lax.stop_gradient(jnp.max(jnp.abs(term)) / jnp.maximum(jnp.max(jnp.abs(total)), tiny))
        fits = ~(size > eps / 16)  # what is not finite goes on
        then = rescaled(Scaled(total, now.power))
        now = jax.tree.map(lambda new, old: jnp.where(fits, new, old), then, now)
        return jnp.where(fits, left - length, left), jnp.where(fits, length, length / 2), now

    return jax.lax.while_loop(lambda state: state[0] > 0, step, (t, t, start))[2]
