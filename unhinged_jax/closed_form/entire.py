"""Entire functions and their derivatives, of which closed forms of flows of second order and of averages are made:

    C(y) = cosh(sqrt y),    N(y) = 2 I_1(sqrt y)/sqrt y,    which are cos(x) and 2 J_1(x)/x at y = -x^2.

Both solve y f'' + b f' = f/4, with b = 1/2 for C and b = 2 for N. Hence y f^(j+2) + (b + j) f^(j+1) = f^(j)/4, from
which all derivatives for |y| > 16 follow from the first two; elsewhere they are power series. N and N' are integrals,

    N = (2/pi) int_-1^1 (1 - u^2)^(1/2) cosh(x u) du,    N' = (1/(3 pi)) int_-1^1 (1 - u^2)^(3/2) cosh(x u) du,

by the rule of Gauss and Chebyshev up to x = 40, and beyond the expansion of Hankel.

The third is phi(y) = (e^y - 1)/y = int_0^1 e^{yu} du, with y phi^(j+1) = e^y - (j + 1) phi^(j), of averages.

Source: Abramowitz & Stegun, 9.1.20, 9.2.5-6, 9.6.18, 9.7.1 and 25.4.40.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

COSH, NESTEROV, MEAN = 0.5, 2.0, 0.0  # b of the first two functions; 0 stands for phi
_NEAR = {COSH: 16.0, NESTEROV: 16.0, MEAN: 4.0}  # |y| up to which no term of a power series far exceeds the sum
_TERMS = {COSH: 26, NESTEROV: 26, MEAN: 36}
_FAR = 40.0  # x from which the expansion of Hankel is used
_NODES, _HANKEL = 50, 16


class Fade(NamedTuple):
    """A divisor e^log of cosh(sqrt y) of about its size: `rest` is sqrt y - log for y > 0, without cancellation."""

    log: jax.Array
    rest: jax.Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def derivatives(b: float, y: jax.Array, log_scale: jax.Array, count: int, fade: Fade | None = None) -> jax.Array:
    """f and its derivatives up to the order count - 1 at y, over e^log_scale, times powers of `reach`, (count, ...).

    The derivative of order j is multiplied by reach^j, a constant, so that all are of one size at any y.

    Args:
        b: `COSH`, `NESTEROV` or `MEAN`.
        y: The argument, of any sign.
        log_scale: The logarithm of what they are divided by, of the shape of y.
        count: How many, at least 2.
        fade: What `COSH` is divided by in addition, or None.

    Example:
        >>> bool(jnp.allclose(derivatives(COSH, jnp.asarray(4.0), jnp.zeros(()), 2)[0], jnp.cosh(2.0)))
        True
    """
    near = jnp.abs(y) <= _NEAR[b]
    within, beyond = jnp.where(near, y, 0.0), jnp.where(near, 2 * _NEAR[b], y)
    powers = within[..., None] ** jnp.arange(_TERMS[b])
    divisor = log_scale if fade is None else log_scale + fade.log
    inner = powers @ jnp.asarray(_series(b, count).T, y.dtype) * jnp.exp(-jnp.where(near, divisor, 0.0))[..., None]
    inner = inner * reach(b, within)[..., None] ** jnp.arange(count)
    outer = _beyond(b, beyond, jnp.where(near, 0.0, log_scale), count, fade)
    return jnp.where(near, jnp.moveaxis(inner, -1, 0), outer)


@derivatives.defjvp
def _derivatives_jvp(
    b: float, count: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    y, log_scale, fade = primals
    more = derivatives(b, y, log_scale, count + 1, fade)
    divided = tangents[1] if fade is None else tangents[1] + tangents[2].log
    return more[:count], more[1:] / reach(b, y) * tangents[0] - more[:count] * divided


def reach(b: float, y: jax.Array) -> jax.Array:
    """How far from y the function changes by a factor of a few: the unit of its derivatives, a constant."""
    if b == MEAN:
        return jnp.ones_like(y)
    return jax.lax.stop_gradient(jnp.maximum(1.0, jnp.sqrt(jnp.abs(y))))


def log_size(b: float, y: jax.Array) -> jax.Array:
    """About how large f is at y: the logarithm of a bound that is reached up to a factor of a few, for any y."""
    x = jnp.sqrt(jnp.abs(y))
    return jnp.where(y > 0, x, 0.0) - (1.5 * jnp.log1p(x) if b == NESTEROV else 0.0)


def _beyond(b: float, y: jax.Array, log_scale: jax.Array, count: int, fade: Fade | None) -> jax.Array:
    """The same by recurrence, for |y| beyond the power series."""
    order = jnp.arange(count, dtype=y.dtype)
    if b == MEAN:
        grown, one = jnp.exp(y - log_scale), jnp.exp(-log_scale)
        return jax.lax.scan(lambda now, j: ((grown - (j + 1) * now) / y, now), (grown - one) / y, order)[1]

    def following(pair: tuple[jax.Array, jax.Array], lift: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        return (pair[1], (pair[0] * (unit**2 / y) / 4 - lift * pair[1] * (unit / y))), pair[0]

    unit, (value, slope) = reach(b, y), _cosh(y, log_scale, fade) if b == COSH else _bessel(y, log_scale)
    return jax.lax.scan(following, (value, slope * unit), b + order)[1]


@functools.lru_cache
def _series(b: float, count: int) -> np.ndarray:
    """The coefficients of y^n, n = 0, 1, ..., in f and its derivatives, (count, terms)."""
    if b == MEAN:
        return np.array([[1 / (math.factorial(n) * (n + j + 1)) for n in range(_TERMS[b])] for j in range(count)])
    first = [1.0]
    for n in range(_TERMS[b] + count):
        first.append(first[-1] / (4 * (n + 1) * (b + n)))
    return np.array(
        [[first[n + j] * math.factorial(n + j) / math.factorial(n) for n in range(_TERMS[b])] for j in range(count)]
    )


def _split(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return y > 0, jnp.sqrt(jnp.abs(y))


def _cosh(y: jax.Array, log_scale: jax.Array, fade: Fade | None) -> tuple[jax.Array, jax.Array]:
    """C and C' = sinh(x)/(2x) for |y| > 16."""
    grows, x = _split(y)
    rest, log = (x, log_scale) if fade is None else (fade.rest, log_scale + fade.log)
    wave = jnp.exp(-log)
    up, down = jnp.exp(jnp.where(grows, rest, 0.0) - log_scale), jnp.exp(-jnp.where(grows, x, 0.0) - log)
    even = jnp.where(grows, (up + down) / 2, jnp.cos(x) * wave)
    return even, jnp.where(grows, (up - down) / 2, jnp.sin(x) * wave) / (2 * x)


def _bessel(y: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """N and N' for |y| > 16."""
    grows, x = _split(y)
    far = x > _FAR
    inner, outer = jnp.where(far, 1.0, x), jnp.where(far, x, _FAR)
    angles = np.pi * np.arange(1, _NODES + 1) / (_NODES + 1)
    reach = inner[..., None] * jnp.asarray(np.cos(angles), y.dtype)
    scale = log_scale[..., None]
    wave = jnp.where(grows[..., None], jnp.exp(jnp.where(grows[..., None], reach, 0.0) - scale), 0.0)
    wave = jnp.where(grows[..., None], wave, jnp.cos(reach) * jnp.exp(-scale))
    share = np.sin(angles) ** 2 / (_NODES + 1)
    near = wave @ jnp.asarray(2 * share, y.dtype), wave @ jnp.asarray(share * np.sin(angles) ** 2 / 3, y.dtype)
    first, second = (_hankel(order, grows, outer, log_scale) for order in (1, 2))
    return jnp.where(far, 2 * first / outer, near[0]), jnp.where(far, second / outer**2, near[1])


def _hankel(order: int, grows: jax.Array, x: jax.Array, log_scale: jax.Array) -> jax.Array:
    """I_order(x) where it grows, else J_order(x), over e^log_scale, for large x."""
    terms = [1.0]
    for k in range(1, _HANKEL):
        terms.append(terms[-1] * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k))
    every, (even, odd) = np.array(terms), np.eye(2)[np.arange(_HANKEL) % 2].T
    turned = every * (-1.0) ** (np.arange(_HANKEL) // 2)
    table = np.stack([every * (even - odd), turned * even, turned * odd], axis=1)
    parts = (1 / x)[..., None] ** jnp.arange(_HANKEL) @ jnp.asarray(table, x.dtype)
    phase = x - (order / 2 + 0.25) * np.pi
    wave = parts[..., 1] * jnp.cos(phase) - parts[..., 2] * jnp.sin(phase)
    size = jnp.exp(jnp.where(grows, x, 0.0) - log_scale) / jnp.sqrt(2 * np.pi * x)
    return size * jnp.where(grows, parts[..., 0], 2 * wave)
