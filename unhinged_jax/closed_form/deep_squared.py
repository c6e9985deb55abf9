"""Squared error with L > 2 factors, from balanced spectral starts without decay: time as a function of size, inverted.

With q the weight of a sample and sigma the singular values of q Y, the size of mode k in every factor follows (rates 1)

    a' = a^(L-1) (sigma - q a^L),

so the share r = q a^L / sigma of its target follows r' = L r^(1+beta) (1 - r) in units of sigma (sigma/q)^beta, with
beta = 1 - 2/L. As time is the integral of a function of r, it is an incomplete beta function of r, and

    eta = log(r / (1-r))   rises,           r < 1:    d zeta = (1 + e^-eta)^beta d eta / L,
    eta = -log(r - 1)      falls,           r > 1:    d zeta = (1 + e^-eta)^(-1-beta) d eta / L,
    eta = -log(-r)         away from it,    r < 0:    d zeta = e^(beta eta) (1 + e^-eta)^-1 d eta / L

are monotone in time, with powers of e^eta at the left end and, but for the last, at the speed L at the right one. For
L = 2, where beta = 0, the first one is linear in time: the logistic growth of two factors. The integrals from -37 to
whole numbers are constants, found once by a rule of Gauss, which also takes them on from there; Newton's method inverts
them.

Source: Saxe, McClelland & Ganguli 2014 for the equation of a mode; its solution at any time is beyond it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

_END = 37  # from here on, on both sides, the integrand is its leading term, to rounding
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NEWTON = 6


class _Course(NamedTuple):
    """The integral F of (1 + e^-eta)^b e^(m eta), for one of the three kinds of motion; p = m - b is the left power."""

    b: float
    m: float

    @property
    def p(self) -> float:
        """The integrand is e^(p eta) at the left end."""
        return self.m - self.b

    def integrand(self, eta: jax.Array) -> jax.Array:
        """dF/d eta."""
        return jnp.exp(self.m * eta + self.b * jax.nn.softplus(-eta))

    def knots(self, dtype: np.dtype) -> Float[jax.Array, "knots"]:
        """F at the whole numbers from -37 to 37."""
        return jnp.asarray(_knots(self.b, self.m), dtype)

    def value(self, eta: jax.Array) -> jax.Array:
        """F between the ends, to rounding of the integral from the nearer of them."""
        knots, edges = self.knots(eta.dtype), np.arange(-_END, _END + 1)
        place = jnp.clip(jnp.floor(jax.lax.stop_gradient(eta)).astype(int) + _END, 0, edges.size - 2)
        left = jnp.asarray(edges, eta.dtype)[place]
        half = (eta - left) / 2
        at = left[..., None] + half[..., None] * (1 + jnp.asarray(_NODES, eta.dtype))
        return knots[place] + half * (self.integrand(at) @ jnp.asarray(_WEIGHTS, eta.dtype))

    def inverse(self, target: jax.Array) -> jax.Array:
        """eta between the ends with F(eta) = target, with two derivatives."""
        fixed, knots = jax.lax.stop_gradient(target), self.knots(target.dtype)
        place = jnp.clip(jnp.searchsorted(knots, fixed, side="right") - 1, 0, knots.size - 2)
        left = place.astype(target.dtype) - _END

        def newton(eta: jax.Array, target: jax.Array) -> jax.Array:
            return eta + (target - self.value(eta)) / self.integrand(eta)

        eta = left + (fixed - knots[place]) / (knots[place + 1] - knots[place])
        for _ in range(_NEWTON):
            eta = jnp.clip(newton(eta, fixed), left, left + 1)
        eta = jax.lax.stop_gradient(eta)
        return newton(newton(eta, target), target)


@functools.cache
def _knots(b: float, m: float) -> np.ndarray:
    edges = np.arange(-_END, _END + 1.0)
    at = edges[:-1, None] + (1 + _NODES) / 2
    panels = np.exp(m * at + b * np.log1p(np.exp(-at))) @ _WEIGHTS / 2
    if m - b < 0:  # from the right, where F is eta
        return np.append(_END - np.cumsum(panels[::-1])[::-1], _END)
    start = np.exp(-(m - b) * _END) / (m - b)
    return start + np.append(0.0, np.cumsum(panels))


class Growth(NamedTuple):
    """What becomes of every mode.

    Attributes:
        log: log g, (m,).
        log_left: The logarithm of how far the product of the factors is from the target, over that product at the
            start, (m,).
    """

    log: Float[jax.Array, "m"]
    log_left: Float[jax.Array, "m"]


def growth(
    depth: int,
    drive: Float[jax.Array, "m"],
    log_brake: Float[jax.Array, "m"],
    tau: Float[jax.Array, ""],
    log_drive: Float[jax.Array, "m"] | None = None,
) -> Growth:
    """The growth g of every mode at tau, for g' = x g^(L-1) - c g^(2L-1) from g = 1, given x and log c.

    If log |x| is given, only the sign of the drive is read.
    """
    # Without a target g^(2-2L) = 1 + (2L-2) c tau; one below the smallest normal number is never reached.
    none = jnp.abs(drive) < jnp.finfo(drive.dtype).tiny
    alone = -_log_more((2 * depth - 2) * tau, log_brake) / (2 * depth - 2)
    log_drive = jnp.log(jnp.where(none, 1.0, jnp.abs(drive))) if log_drive is None else log_drive
    log_drive = jnp.where(none, log_brake, log_drive)
    log_share = log_brake - log_drive
    beta, slack = 1 - 2 / depth, float(jnp.finfo(drive.dtype).eps) ** 0.5 / 8
    up, rests = drive >= 0, jnp.abs(log_share) <= slack
    rises, falls = up & (log_share < 0) & ~rests, up & (log_share > 0) & ~rests
    given = depth, log_drive, tau
    rising = _moved(_Course(beta, 0.0), *given, jnp.where(rises, log_share, -1.0))
    falling = _moved(_Course(-1 - beta, 0.0), *given, jnp.where(falls, log_share, 1.0))
    away = _moved(_Course(-1.0, beta), *given, log_share)
    resting = _at_rest(*given, jnp.where(rests, log_share, slack))

    def chosen(rising: jax.Array, falling: jax.Array, resting: jax.Array, away: jax.Array) -> jax.Array:
        return jnp.where(rises, rising, jnp.where(falls, falling, jnp.where(up, resting, away)))

    log, log_left = (chosen(*parts) for parts in zip(rising, falling, resting, away, strict=True))
    return Growth(jnp.where(none, alone, log), jnp.where(none, depth * alone, log_left - log_share))


def _at_rest(depth: int, log_drive: jax.Array, tau: jax.Array, log_share: jax.Array) -> Growth:
    """The growth from a share so near to 1 that the square of its logarithm y is all that counts beside y.

    y' = -L (y + k y^2) with k = beta + 1/2, so y / (1 + k y) fades as e^(-L tau), in units of the speed at the target.
    """
    beta = 1 - 2 / depth
    fade = -depth * tau * jnp.exp(log_drive - beta * log_share)
    later, k = log_share * jnp.exp(fade), beta + 0.5
    off = log_share != 0
    begin = jnp.where(off, jnp.log(jnp.abs(jnp.where(off, log_share, 1.0))), -jnp.inf)
    return Growth(log_share / depth * jnp.expm1(fade), begin + fade - k * log_share + (k + 0.5) * later)


def _log_more(factor: jax.Array, log: jax.Array) -> jax.Array:
    """log(1 + factor e^log) for a factor of at least 0, whatever e^log is."""
    large = 32.0
    near = jnp.log1p(factor * jnp.exp(jnp.minimum(log, large)))
    far = jnp.maximum(log, large)
    return jnp.where(log > large, jnp.maximum(far + jnp.log(factor + jnp.exp(-far)), 0.0), near)


def _log_share(course: _Course, eta: jax.Array) -> jax.Array:
    """log |r| at eta."""
    if course.m:
        return -eta
    return jnp.where(course.b > 0, -1.0, 1.0) * jax.nn.softplus(-eta)


def _log_left(course: _Course, eta: jax.Array) -> jax.Array:
    """log |1 - r| at eta."""
    if course.m:
        return jax.nn.softplus(-eta)
    return -jax.nn.softplus(eta) if course.b > 0 else -eta


def _moved(course: _Course, depth: int, log_drive: jax.Array, tau: jax.Array, log_share: jax.Array) -> Growth:
    """The growth after tau, from a share e^log_share of the target."""
    p, beta, ends = course.p, 1 - 2 / depth, course.knots(log_share.dtype)
    if course.m:
        eta = -log_share
    elif course.b > 0:
        eta = log_share - jnp.log(-jnp.expm1(log_share))
    else:
        eta = -(log_share + jnp.log(-jnp.expm1(-log_share)))
    inside = jnp.clip(eta, -_END, _END)
    # Left of the ends, in units of the start: e^(p (eta - eta_0)) = 1 + p Y.
    log_speed = log_drive - beta * log_share - p * jnp.minimum(eta, -_END)
    grown = p * depth * tau * jnp.exp(log_speed)
    began, alive = eta < -_END, (grown > -1) | (p > 0)
    if p > 0:
        log_grown = _log_more(p * depth * tau, jnp.where(began, log_speed, 0.0))
        jump = jnp.where(began, log_grown, 0.0) / p
    else:
        log_grown = jnp.log(jnp.abs(jnp.where(began & (grown != -1), 1 + grown, 1.0)))
        jump = jnp.log1p(jnp.where(began & alive, grown, 0.0)) / p
    left = began & alive & (eta + jump < -_END)
    # From there on, in units of the target.
    most = float(np.log(jnp.finfo(log_share.dtype).max)) / 2
    power = jnp.where(alive, 1.0, -1.0) * jnp.exp(jnp.minimum(p * eta + log_grown, most))
    power = jnp.where(grown == -1, 0.0, power)
    later = depth * tau * jnp.exp(jnp.minimum(log_drive - beta * jnp.where(began, 0.0, log_share), most))
    offset = ends[0] - np.exp(-p * _END) / p
    target = jnp.where(began, offset + power / p, course.value(inside) + later)
    middle = course.inverse(jnp.clip(target, ends[0], ends[-1]))
    beyond = target > ends[-1]
    if course.m:  # a power again, from the start on if that is beyond the end
        last = jnp.exp(beta * float(_END)) / beta
        far = jnp.log(jnp.where(beyond, beta * (target - ends[-1] + last), 1.0)) / beta
        past = eta > _END
        alone = jnp.log1p(beta * depth * tau * jnp.exp(jnp.where(past, log_drive, -jnp.inf))) / beta
    else:
        far = jnp.where(beyond, _END + target - ends[-1], 0.0)
        past, alone = eta > _END, jnp.where(eta > _END, later, 0.0)
    now = jnp.where(beyond, far, middle)
    between = (_log_share(course, now) - log_share) / depth
    if course.m:
        log_growth = jnp.where(past, -alone / depth, jnp.where(left, -jump / depth, between))
    else:
        rest = (_log_share(course, eta + alone) - log_share) / depth
        sign = 1.0 if course.b > 0 else -1.0
        log_growth = jnp.where(past, rest, jnp.where(left, sign * jump / depth, between))
    ended = jnp.where(past, eta + alone, jnp.where(left, eta + jump, now))
    return Growth(log_growth, _log_left(course, ended))
