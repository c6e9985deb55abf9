"""Flows of second order, Z'' + c Z' = K Z: the coefficients of the modes (see `modes`) for other functions p of K.

From rest p(x) = U, and from a velocity at the place 0 it is S. For y = (x + c^2/4) t^2 in a heavy-ball flow, and for
y = x t^2 in Nesterov's flow from the time 0,

    U = e^{-ct/2} (C(y) + c t C'(y)),    S = 2 t e^{-ct/2} C'(y);    U = N(y),

with C and N from `entire`. With their slopes U' and S' in time these are entire functions of x, so their divided
differences at mu+, mu- and -r1 l1 are smooth where these meet. Differences of close arguments are Taylor series around
the point between them.

Averages over time of a flow of first order are another such function, of y = x t or, for a moving average that forgets
at the rate k, of y = (x + k) t:

    p = phi(y)  (Polyak),    p = e^{-kt} (1 + k t phi(y))  (moving).

Going on from a time t_0, they are a share of the average before, t_0/(t_0 + t) or e^{-kt}, and the rest of the state.

Source: beyond the paper; Su, Boyd & Candès 2016 for Nesterov's flow of a quadratic.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from unhinged_jax.closed_form import entire
from unhinged_jax.closed_form.modes import BiasCoefficients, Coefficients, Modes, block, exponents, roots, winning_nodes
from unhinged_jax.dynamics import Flow, Nesterov, PolyakAverage
from unhinged_jax.linear.rates import BiasRates, Rates, bias_rates, unit_rates
from unhinged_jax.model import LayerPeeled
from unhinged_jax.special import safe_log

_CLOSE = 0.2  # up to here a Taylor series of `_TERMS` terms serves for two arguments: the next term is below 1e-15
_TERMS = 12
_Three = tuple[jax.Array, jax.Array, jax.Array]


def _powers(ratio: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ratio^j / j! and j, (terms, *k), for a ratio of the shape of x."""
    order = jnp.arange(_TERMS, dtype=x.dtype).reshape(-1, *[1] * x.ndim)
    over = jnp.asarray([1 / math.factorial(j) for j in range(_TERMS)], x.dtype).reshape(order.shape)
    steps = jnp.broadcast_to(ratio, (_TERMS - 1, *x.shape))
    return over * jnp.cumprod(jnp.concatenate([jnp.ones_like(x)[None], steps]), axis=0), order


class Motion(NamedTuple):
    """The functions U, U', S and S' of an eigenvalue of K, at one time.

    Attributes:
        damping: c, (), or None for Nesterov's flow, in which S and S' are not known and are 0 here.
        time: The time since the start, ().
    """

    damping: Float[jax.Array, ""] | None
    time: Float[jax.Array, ""]

    @property
    def b(self) -> float:
        """Which of the functions of `entire` they are made of."""
        return entire.NESTEROV if self.damping is None else entire.COSH

    @property
    def fade(self) -> jax.Array:
        """c t / 2, ()."""
        return jnp.zeros_like(self.time) if self.damping is None else self.damping * self.time / 2

    def argument(self, x: jax.Array) -> jax.Array:
        """y at an eigenvalue x of K."""
        return x * self.time**2 + self.fade**2

    def faded(self, x: jax.Array) -> entire.Fade | None:
        """The divisor e^{ct/2}: for large ct, sqrt y - ct/2 is x t^2 over the sum of the two."""
        if self.damping is None:
            return None
        total = jnp.sqrt(jnp.maximum(self.argument(x), 0.0)) + self.fade
        rest = x * self.time**2 / jnp.where(total > 0, total, 1.0)
        return entire.Fade(jnp.broadcast_to(self.fade, x.shape), jax.lax.stop_gradient(rest))

    def log_size(self, x: jax.Array) -> jax.Array:
        """About how large U is at an eigenvalue."""
        y, fade = self.argument(x), self.faded(x)
        size = entire.log_size(self.b, y)
        return size if fade is None else jnp.where(y > 0, fade.rest, size - fade.log)

    def close(self, x: jax.Array, half: jax.Array) -> jax.Array:
        """Whether x + half and x - half are so close that a Taylor series around x serves for both."""
        return half * self.time**2 <= _CLOSE * jnp.maximum(1.0, jnp.sqrt(jnp.abs(self.argument(x))))

    def per_unit(self, x: jax.Array) -> jax.Array:
        """1 over the unit of z in `taylor`, a constant: in this unit all coefficients are of one size at any time."""
        square = jnp.where(self.time > 0, self.time**2, 1.0)
        return jax.lax.stop_gradient(square / entire.reach(self.b, self.argument(x)))

    def taylor(self, x: jax.Array, log_scale: jax.Array) -> Float[jax.Array, "terms 4 *k"]:
        """Coefficients of (per_unit z)^j in U, U', S and S' at x + z, over e^log_scale; the first are the values."""
        t, y = self.time, self.argument(x)
        f = entire.derivatives(self.b, y, log_scale, _TERMS + 1, self.faded(x))
        per_unit, reach = self.per_unit(x), entire.reach(self.b, y)
        by, order = _powers(t**2 / reach / per_unit, x)  # 1, but for derivatives with respect to time, and at time 0
        value, slope = by * f[:-1], by * f[1:] / reach
        before = 2 * t / per_unit * jnp.where(order > 0, jnp.roll(by, 1, axis=0), 0.0) * f[:-1] / reach
        gain = 2 * t * x * slope + before  # of 2 t x f', the slope of f in time
        if self.damping is None:
            return jnp.stack([value, gain, jnp.zeros_like(value), jnp.zeros_like(value)], axis=1)
        lean = 2 * self.fade * slope
        return jnp.stack([value + lean, gain, 2 * t * slope, value - lean], axis=1)


class Mean(NamedTuple):
    """The average over time of e^{x s}, at one time, in place of U, and e^{x t} of the state itself in place of U'.

    Of a run that continues another one, U and U' are those of the average before, and S and S' of the state.

    Attributes:
        forgets: The rate k of a moving average, (), or None for the mean since the time 0.
        time: The time since the start, ().
        before: The time at the start, (), or None for a run that continues no other.
    """

    forgets: Float[jax.Array, ""] | None
    time: Float[jax.Array, ""]
    before: Float[jax.Array, ""] | None

    def log_size(self, x: jax.Array) -> jax.Array:
        """About how large it is at an eigenvalue."""
        if self.forgets is None:
            y = x * self.time
            return jnp.maximum(y, 0.0) - jnp.log1p(jnp.abs(y))
        return jnp.maximum(x, -self.forgets) * self.time

    @property
    def kept(self) -> jax.Array:
        """The share of the average before, (); 0 for the mean of a fresh run, which has none."""
        if self.forgets is not None:
            return jnp.exp(-self.forgets * self.time)
        if self.before is None:
            return jnp.zeros_like(self.time)
        whole = self.before + self.time
        return jnp.where(whole > 0, self.before / jnp.where(whole > 0, whole, 1.0), 1.0)

    def close(self, x: jax.Array, half: jax.Array) -> jax.Array:
        """Whether x + half and x - half are so close that a Taylor series around x serves for both."""
        return jnp.broadcast_to(half * self.time <= _CLOSE, jnp.broadcast_shapes(x.shape, half.shape))

    def per_unit(self, x: jax.Array) -> jax.Array:
        """1 over the unit of z in `taylor`, a constant."""
        return jax.lax.stop_gradient(jnp.ones_like(x) * jnp.where(self.time > 0, self.time, 1.0))

    def taylor(self, x: jax.Array, log_scale: jax.Array) -> Float[jax.Array, "terms 4 *k"]:
        """The coefficients of (per_unit z)^j at x + z, over e^log_scale; those of order 0 are the values."""
        t, k = self.time, jnp.zeros_like(self.time) if self.forgets is None else self.forgets
        f = entire.derivatives(entire.MEAN, (x + k) * t, log_scale + k * t, _TERMS)
        by = _powers(t / self.per_unit(x), x)[0]
        none = jnp.zeros_like(by)
        mean, state = by * f, by * jnp.exp(x * t - log_scale)
        # One exponential: at late times e^{-kt} alone is 0.
        before = self.kept * jnp.exp(-log_scale) if self.forgets is None else jnp.exp(-k * t - log_scale)
        kept = none.at[0].set(before)
        mean = (1 - self.kept if self.forgets is None else k * t) * mean
        if self.before is None:
            return jnp.stack([kept + mean, state, none, none], axis=1)
        return jnp.stack([kept, none, mean, state], axis=1)


def _motion(flow: Flow, time: jax.Array, before: jax.Array | None) -> Motion | Mean:
    """The functions of this flow."""
    if flow.memory is not None:
        polyak = isinstance(flow.memory, PolyakAverage)
        return Mean(None if polyak else flow.memory.share_at(time), time, before)
    return Motion(None if isinstance(flow.damping, Nesterov) else jnp.asarray(flow.damping, time.dtype), time)


def _polynomial(c: Float[jax.Array, "terms 4 *k"], y: jax.Array) -> jax.Array:
    """sum_i c_i y^i, (4, *k), by Horner's rule, whose derivatives are finite at y = 0."""
    return jax.lax.scan(lambda total, one: (total * y + one, None), jnp.zeros_like(c[0]), c[::-1])[0]


def _inside(c: Float[jax.Array, "terms 4 *k"], square: jax.Array, per_unit: jax.Array) -> jax.Array:
    """f[s, -s] of f(z) = sum_j c_j (per_unit z)^j, for s^2 = `square`, (4, *k)."""
    return _polynomial(c[1::2], square * per_unit * per_unit) * per_unit


def _differences(
    c: jax.Array, square: jax.Array, w: jax.Array, per_unit: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(f(s) + f(-s))/2, f[s, -s] and f[s, -s, -w] of f(z) = sum_j c_j (per_unit z)^j, s^2 = `square`, (4, *k) each."""
    inside, square, w = _inside(c, square, per_unit), square * per_unit * per_unit, w * per_unit

    def pair(carry: _Three, both: jax.Array) -> tuple[_Three, None]:
        """Add the terms j = 2i and j = 2i + 1; `symmetric` is h_{j-2}(s, -s, -w), and `power` is s^(2i - 2)."""
        second, power, symmetric = carry
        symmetric = -w * symmetric + power
        second = second + both[0] * symmetric
        symmetric = -w * symmetric
        return (second + both[1] * symmetric, power * square, symmetric), None

    none = jnp.zeros_like(square + w)
    (second, _, _), _ = jax.lax.scan(pair, (jnp.zeros_like(c[0]), none + 1, none), c[2:].reshape(-1, 2, *c.shape[1:]))
    return _polynomial(c[::2], square), inside, second * per_unit * per_unit


def _of_modes(
    motion: Motion | Mean, g: Shaped[jax.Array, "k"], rates: Rates, log_scale: jax.Array
) -> list[Coefficients]:
    """The coefficients of the modes for U, U', S and S', over e^log_scale by mode; see `modes`."""
    k = block(g, rates)
    size = jnp.sqrt(jnp.maximum(jax.lax.stop_gradient(k.square), 0.0))
    wide = ~motion.close(k.mean, size) & (k.square > 0)
    d, up, down, plus, minus = roots(k, wide)
    keep = jnp.broadcast_to(-rates.a, plus.shape)
    nodes = [keep, *(jnp.where(wide, node, k.mean) for node in (plus, minus))]
    middle = [jnp.broadcast_to(k.mean, plus.shape), (nodes[1] + keep) / 2, (nodes[2] + keep) / 2]
    terms = motion.taylor(jnp.stack([*nodes, *middle]), jnp.broadcast_to(log_scale, (6, *plus.shape)))
    held, rise, fall = (terms[0, :, i] for i in range(3))

    def quotient(high: jax.Array, low: jax.Array, gap: jax.Array, place: int) -> jax.Array:
        close = motion.close(middle[place], gap / 2)
        return jnp.where(
            close,
            _inside(terms[:, :, 3 + place], jnp.where(close, gap, 0.0) ** 2 / 4, motion.per_unit(middle[place])),
            (high - low) / jnp.where(close, 1.0, gap),
        )

    own = (up * rise + down * fall) / (2 * d)
    cross = (rise - fall) / (2 * d)
    lift = (quotient(rise, held, up, 1) - quotient(held, fall, down, 2)) / (2 * d)
    none = jnp.where(wide, 0.0, 1.0)
    even, odd, second = _differences(terms[:, :, 3], none * k.square, none * k.delta, motion.per_unit(middle[0]))
    own = jnp.where(wide, own, even + k.delta * odd)
    cross, lift = jnp.where(wide, cross, odd), jnp.where(wide, lift, second)
    both = rates.r1 * rates.r2
    # Nothing is taken of what grows like t^4 if one part stays.
    lift = jnp.where(both == 0, 0.0, lift)
    return [Coefficients(own[i], rates.r2 * cross[i], rates.r1 * cross[i], both * lift[i], held[i]) for i in range(4)]


class Part(NamedTuple):
    """What `Record` holds of one start: of a state at rest, or of a velocity at the place 0."""

    full: Coefficients
    log_full: Float[jax.Array, ""]
    rest: Coefficients
    log_rest: Float[jax.Array, ""]
    log_powers: Float[jax.Array, "4"]
    signs: Float[jax.Array, "4"]
    bias: BiasCoefficients
    speed: Coefficients
    bias_speed: BiasCoefficients


def parts(
    model: LayerPeeled, flow: Flow, elapsed: jax.Array, modes: Modes, first: jax.Array, goes_on: bool
) -> tuple[Part, Part]:
    """What a record holds at a time since the start: of the state, and of what is beside it at the start.

    That is a velocity, or the state beside an average. The run starts at the time `first`, and `goes_on` says whether
    it continues another one.
    """
    g, present = modes.squares, modes.present
    eta = jnp.asarray(flow.schedule(0), g.dtype)
    rates = unit_rates(model, flow, g.dtype)
    still = jnp.zeros((), g.dtype)
    own = bias_rates(model, flow, rates) if model.moves.b else BiasRates(still, still)
    rates = Rates(*(eta * rate for rate in (rates.a, rates.c, rates.r1, rates.r2)))
    motion = _motion(flow, elapsed, first if goes_on else None)
    source = 2 if goes_on and isinstance(motion, Mean) else 0  # an average is not driven, but what it averages is
    nodes = winning_nodes(modes, rates)
    sizes = jax.lax.stop_gradient(motion.log_size(nodes))

    def of(g: Shaped[jax.Array, "k"], least: jax.Array) -> tuple[list[Coefficients], jax.Array]:
        common, by_mode = (jnp.maximum(log, least) for log in exponents(g, rates, motion.log_size, present))
        found = _of_modes(motion, g, rates, by_mode)
        keep = jnp.exp(by_mode[0] - common)  # H_from_H is one number, over the common scale
        return [dataclasses.replace(one, H_from_H=one.H_from_H[0] * keep) for one in found], common

    both = jnp.stack([g, g * (1 - modes.winning)]), jnp.stack([jnp.full_like(elapsed, -jnp.inf), sizes[1]])
    found, logs = jax.vmap(of)(*both)
    decay, zero = eta * own.decay, jnp.zeros((), g.dtype)
    apart = jnp.stack([*nodes, zero, -decay, -decay / 2])
    terms = motion.taylor(apart, jnp.concatenate([sizes, jnp.zeros_like(apart[4:])]))
    held, faded = terms[0, :, 4], terms[0, :, 5]
    close = motion.close(apart[6], decay / 2)
    drifted = (held - faded) / jnp.where(close, 1.0, decay)
    drifted = jnp.where(
        close, _inside(terms[:, :, 6], jnp.where(close, decay, 0.0) ** 2 / 4, motion.per_unit(apart[6])), drifted
    )

    def part(value: int, speed: int, drives: float) -> Part:
        full, rest = (jax.tree.map(lambda one, i=i: one[i], found[value]) for i in (0, 1))
        at_nodes = terms[0, value, :4]
        drive = drives * eta * own.rate
        bias, bias_speed = (BiasCoefficients(faded[i], drive * drifted[(i + source) % 4]) for i in (value, speed))
        moving = jax.tree.map(lambda one: one[0], found[speed])
        logarithm = safe_log(jnp.abs(at_nodes)) + sizes
        return Part(full, logs[0], rest, logs[1], logarithm, jnp.sign(at_nodes), bias, moving, bias_speed)

    return part(0, 1, 1.0), part(2, 3, 0.0)
