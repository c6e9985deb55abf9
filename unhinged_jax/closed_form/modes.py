"""One mode of the linear dynamics: functions of the 2 x 2 block K = [[-r1 l1, r1 g], [r2, -r2 l2]].

With F = M^T H and G = M^T Theta M, the state is

    W = W_from_W(G) W_0 + W_from_F(G) F_0,      H = H_from_H H_0 + Theta M [H_from_W(G) W_0 + H_from_F(G) F_0],

With p(x) = e^{x tau} for a flow, or p(x) = (1 + eta x)^k for a descent, the coefficients are divided differences at the
eigenvalues mu+- of K:

    W_from_F = r2 p[mu+, mu-],    H_from_W = r1 p[mu+, mu-],    H_from_F = r1 r2 p[mu+, mu-, -r1 l1],
    H_from_H = p(-r1 l1),         W_from_W the last entry of p(K).

This is the paper's solution for any signal matrix, decays, rates and kernel. Every coefficient is finite and smooth
where mu+ = mu-. It is stored divided by e^log_scale, so that it does not overflow at any horizon.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from unhinged_jax.linear.rates import Rates
from unhinged_jax.special import log1p_ratio, phi1

_TERMS = 22  # terms of the power series, which is used for |d tau| < 1; the next term is below 1e-20


class Modes(NamedTuple):
    """The modes of a problem.

    Attributes:
        squares: Their squared singular values g, (k,).
        winning: 1 for the modes that win, else 0, (k,).
        present: 1 for the modes that the start contains, else 0, (k,).
    """

    squares: Float[jax.Array, "k"]
    winning: Float[jax.Array, "k"]
    present: Shaped[jax.Array, "k"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The coefficients of the solution at one time, divided by e^log_scale.

    Attributes:
        W_from_W, W_from_F: Coefficients of W_0 and of F_0 = M^T H_0 in W, by mode, (k,).
        H_from_W, H_from_F: Coefficients of W_0 and of F_0 in the carrier of H, by mode, (k,).
        H_from_H: The coefficient of H_0 in H, (); or one per mode, (k,), as long as each mode has a scale of its own.
        F_from_F: That of F_0 in M^T H, H_from_H + g H_from_F without its cancellation, (k,), for norms; else None.
    """

    W_from_W: Float[jax.Array, "*T k"]
    W_from_F: Float[jax.Array, "*T k"]
    H_from_W: Float[jax.Array, "*T k"]
    H_from_F: Float[jax.Array, "*T k"]
    H_from_H: Float[jax.Array, "..."]
    F_from_F: Float[jax.Array, "*T k"] | None = None


class BiasCoefficients(NamedTuple):
    """The coefficients of the biases, b = b_from_b b_0 + b_from_drift M^T 1, both ()."""

    b_from_b: Float[jax.Array, "*T"]
    b_from_drift: Float[jax.Array, "*T"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """What the eigenvalues mean +- d of K follow from, by mode. All entries are smooth in all parameters, unlike d.

    Attributes:
        square: d^2 = delta^2 + coupling, (k,).
        delta: (a - c) / 2, ().
        mean: -(a + c) / 2, ().
        coupling: r1 r2 g, (k,).
    """

    square: Float[jax.Array, "*k"]
    delta: Float[jax.Array, ""]
    mean: Float[jax.Array, ""]
    coupling: Float[jax.Array, "*k"]


def block(g: Float[jax.Array, "*k"], rates: Rates) -> Block:
    """The 2 x 2 blocks K of squared singular values g, shape (k,)."""
    delta, mean = (rates.a - rates.c) / 2, -(rates.a + rates.c) / 2
    coupling = rates.r1 * rates.r2 * g
    return Block(delta**2 + coupling, delta, mean, coupling)


def roots(k: Block, wide: jax.Array) -> tuple[jax.Array, ...]:
    """d, d + delta, d - delta, mu+ and mu-, which can be differentiated, where `wide`; harmless numbers elsewhere."""
    d = jnp.sqrt(jnp.where(wide, k.square, 1.0))
    larger = d + jnp.abs(k.delta)
    smaller = k.coupling / larger
    up = jnp.where(k.delta >= 0, larger, smaller)
    down = jnp.where(k.delta >= 0, smaller, larger)
    # mu+ = d + mean without cancellation near the threshold lambda_1 lambda_2 = sigma^2. The mean is positive only for
    # negative decays, which only serve to take finite differences around 0.
    falls = k.mean <= 0
    steady = (k.coupling + k.delta**2 - k.mean**2) / jnp.where(falls, d - k.mean, 1.0)
    return d, up, down, jnp.where(falls, steady, d + k.mean), k.mean - d


def exponents(
    g: Float[jax.Array, "k"], rates: Rates, log_power: Callable[[jax.Array], jax.Array], present: Shaped[jax.Array, "k"]
) -> tuple[Float[jax.Array, ""], Float[jax.Array, "k"]]:
    """The logarithms of what the coefficients are divided by.

    Modes that are absent only contribute derivatives, which may be as large as their type allows. Both results are
    constants for differentiation.

    Returns:
        The largest log |p| over the `present` modes and the uncoupled parts, (); and the same by mode, (k,), larger
        for an absent mode whose coefficients would otherwise overflow.
    """
    k = block(g, rates)
    _, _, _, plus, minus = roots(k, k.square > 0)
    plus, minus = (jnp.where(k.square > 0, node, k.mean) for node in (plus, minus))
    of_modes = jax.lax.stop_gradient(jnp.maximum(log_power(plus), log_power(minus)))
    apart = jax.lax.stop_gradient(jnp.maximum(log_power(-rates.a), log_power(-rates.c)))
    common = jnp.maximum(jnp.max(jnp.where(present > 0, of_modes, -jnp.inf)), apart)
    most = math.log(float(jnp.finfo(g.dtype).max)) / 2
    return common, common + jnp.maximum(of_modes - common - most, 0.0)


def winning_nodes(modes: Modes, rates: Rates) -> Float[jax.Array, "4"]:
    """The four nodes: mu+ and mu- of the winning modes, -a and -c, (4,)."""
    top = jnp.sum(modes.winning * modes.squares) / jnp.maximum(jnp.sum(modes.winning), 1.0)
    k = block(top, rates)
    _, _, _, plus, minus = roots(k, k.square > 0)
    plus, minus = (jnp.where(k.square > 0, node, k.mean) for node in (plus, minus))
    return jnp.stack([plus, minus, -rates.a, -rates.c])


def flow_coefficients(
    g: Float[jax.Array, "k"], rates: Rates, tau: Float[jax.Array, ""], log_scale: Float[jax.Array, "k"]
) -> Coefficients:
    """Coefficients of gradient flow at zeta(t) = tau for squared singular values g, shape (k,).

    Source: Zhou et al. 2023, Theorems 2, 4, 6, 8 in one form (beyond the paper).
    """
    k = block(g, rates)
    square = k.square * tau * tau  # tau^2 alone may be too large for its type, where one part stays and d is 0
    wide = square >= 1
    d, up, down, plus, minus = roots(k, wide)
    keep = jnp.exp(-rates.a * tau - log_scale)

    rise, fall = jnp.exp(plus * tau - log_scale), jnp.exp(minus * tau - log_scale)
    own, sums = (up * rise + down * fall) / (2 * d), (down * rise + up * fall) / (2 * d)
    cross = (rise - fall) / (2 * d)
    lift = tau * (rise * phi1(up * tau) - keep * phi1(down * tau)) / (2 * d)

    series = _series(jnp.where(wide, 0.0, square), jnp.where(wide, 0.0, k.delta * tau), _exponential)
    middle = jnp.exp(k.mean * tau - log_scale)
    own = jnp.where(wide, own, middle * (series.even + k.delta * tau * series.odd))
    sums = jnp.where(wide, sums, middle * (series.even - k.delta * tau * series.odd))
    cross = jnp.where(wide, cross, middle * tau * series.odd)
    lift = jnp.where(wide, rates.r1 * rates.r2 * lift, middle * (rates.r1 * tau) * (rates.r2 * tau) * series.second)
    return Coefficients(own, rates.r2 * cross, rates.r1 * cross, lift, keep, sums)


@dataclasses.dataclass(frozen=True)
class _Series:
    """The divided differences that `_series` computes, of the shape of its arguments."""

    even: jax.Array
    odd: jax.Array
    second: jax.Array


def _exponential(j: jax.Array) -> jax.Array:
    return 1.0 / j


def _series(y: jax.Array, w: jax.Array, ratio: Callable[[jax.Array], jax.Array]) -> _Series:
    """Divided differences of f(s) = sum_j c_j s^j at x, -x and -w with x^2 = y, where c_0 = 1, c_j = c_{j-1} ratio(j).

    They are even = (f(x) + f(-x))/2, odd = f[x, -x] and second = f[x, -x, -w], as power series in y and w for
    |w| <= x < 1.
    """
    one = jnp.ones_like(y + w)
    none = jnp.zeros_like(one)

    def pair(carry: tuple[jax.Array, ...], i: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        """Add the terms j = 2i + 1 and j = 2i + 2; `power` is y^i and `symmetric` is h_{j-2}(x, -x, -w)."""
        even, odd, second, coefficient, power, symmetric = carry
        coefficient = coefficient * ratio(2 * i + 1)
        symmetric = -w * symmetric
        odd, second = odd + coefficient * power, second + coefficient * symmetric
        coefficient = coefficient * ratio(2 * i + 2)
        symmetric = -w * symmetric + power
        even, second = even + coefficient * power * y, second + coefficient * symmetric
        return (even, odd, second, coefficient, power * y, symmetric), None

    start: tuple[jax.Array, ...] = (one, none, none, one, one, none)
    (even, odd, second, *_), _ = jax.lax.scan(pair, start, jnp.arange(_TERMS // 2, dtype=one.dtype))
    return _Series(even, odd, second)


def log_factor(x: jax.Array) -> jax.Array:
    """log |1 + x|, bounded below so that x = -1 gives a large negative number instead of -inf."""
    tiny = jnp.finfo(jnp.result_type(x, float)).tiny
    near = x > -0.5
    direct = jnp.log(jnp.maximum(jnp.abs(1 + jnp.where(near, 0.0, x)), tiny))
    return jnp.where(near, jnp.log1p(jnp.where(near, x, 0.0)), direct)


def power(x: jax.Array, count: jax.Array, log_scale: jax.Array, odd: jax.Array | None = None) -> jax.Array:
    """(1 + x)^count e^-log_scale with its sign. `odd` says whether `count` is odd, if it is too large to tell."""
    odd = jnp.mod(count, 2) == 1 if odd is None else odd
    sign = jnp.where((1 + x < 0) & odd, -1.0, 1.0)
    return sign * jnp.exp(count * log_factor(x) - log_scale)


def quotient(
    high: jax.Array,
    low: jax.Array,
    gap: jax.Array,
    eta: jax.Array,
    count: jax.Array,
    log_scale: jax.Array,
    odd: jax.Array | None = None,
) -> jax.Array:
    """p[high, low] for p(x) = (1 + eta x)^count and high - low = gap >= 0, without cancellation for any gap.

    The result is divided by e^log_scale; `odd` is as in `power`.
    """
    p_high, p_low = power(eta * high, count, log_scale, odd), power(eta * low, count, log_scale, odd)
    factor = 1 + eta * low
    safe = jnp.where(factor == 0, 1.0, factor)
    step = eta * gap / safe
    same_sign = (1 + step > 0) & (factor != 0)
    inside = jnp.where(same_sign, step, 0.0)
    ratio = count * jnp.log1p(inside)
    # p_high - p_low = p_low (e^ratio - 1) = p_high (1 - e^-ratio): the larger of the two is factored out.
    larger, size = jnp.where(ratio > 0, p_high, p_low), jnp.where(ratio > 0, ratio, -ratio)
    stable = larger * phi1(size) * count * log1p_ratio(inside) * eta / safe
    return jnp.where(same_sign, stable, (p_high - p_low) / jnp.where(same_sign, 1.0, gap))


def sum_of_powers(base: jax.Array, count: jax.Array) -> jax.Array:
    """1 + x + ... + x^(count - 1), (), for any base x, also at and near 1.

    Example:
        >>> [round(float(sum_of_powers(jnp.array(x), jnp.array(4))), 4) for x in (0.5, 1.0, -1.0, 0.0)]
        [1.875, 4.0, 0.0, 1.0]
    """
    none = jnp.zeros_like(base)
    return quotient(none, base - 1, 1 - base, none + 1, count.astype(base.dtype), none)


def descent_coefficients(
    g: Float[jax.Array, "k"],
    rates: Rates,
    eta: Float[jax.Array, ""],
    count: Float[jax.Array, ""],
    log_scale: Float[jax.Array, "k"],
    odd: Bool[jax.Array, ""] | None = None,
) -> Coefficients:
    """Coefficients of plain descent after `count` equal steps eta for squared singular values g, shape (k,).

    Source: beyond the paper.
    """
    k = block(g, rates)
    base = 1 + eta * k.mean
    safe_base = jnp.where(jnp.abs(base) < 1e-6, 1.0, base)
    spread = eta**2 * k.square / safe_base**2
    narrow = (jnp.maximum(count, 1.0) ** 2 * spread < 1) & (jnp.abs(base) >= 1e-6) & (spread < 0.25)
    wide = ~narrow & (k.square > 0)
    d, up, down, plus, minus = roots(k, wide)
    keep = power(-eta * rates.a, count, log_scale, odd)

    rise, fall = power(eta * plus, count, log_scale, odd), power(eta * minus, count, log_scale, odd)
    own = (up * rise + down * fall) / (2 * d)
    cross = (rise - fall) / (2 * d)
    upper = quotient(plus, -rates.a, up, eta, count, log_scale, odd)
    lower = quotient(-rates.a, minus, down, eta, count, log_scale, odd)
    lift = (upper - lower) / (2 * d)

    # This is a series for (1 + x/N)^count in x = N shift (mu - mean) with N = count; binomials alone overflow float32.
    repeats = jnp.maximum(count, 1.0)
    shift = repeats * eta / safe_base
    y, w = jnp.where(narrow, repeats**2 * spread, 0.0), jnp.where(narrow, shift * k.delta, 0.0)
    series = _series(y, w, lambda j: (count - (j - 1)) / (repeats * j))
    middle = power(eta * k.mean, count, log_scale, odd)
    own = jnp.where(wide, own, middle * (series.even + k.delta * shift * series.odd))
    cross = jnp.where(wide, cross, middle * shift * series.odd)
    lift = jnp.where(wide, lift, middle * shift**2 * series.second)
    return Coefficients(own, rates.r2 * cross, rates.r1 * cross, rates.r1 * rates.r2 * lift, keep)
