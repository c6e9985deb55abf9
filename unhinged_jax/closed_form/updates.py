"""Descent whose steps differ: the ordered product P_{k+1} = (I + eta_k K_k) P_k of one-step matrices, mode by mode.

The coefficients of each mode are carried through every update, with momentum if there is any. As long as no factor
oscillates, all terms are sums of non-negative ones, so nothing cancels where eigenvalues meet. Powers of two are taken
out on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PyTree

from unhinged_jax import _loop
from unhinged_jax.closed_form.modes import BiasCoefficients, Coefficients, Modes
from unhinged_jax.dynamics import Combination, Descent, PartRates, rate_at
from unhinged_jax.linear.rates import unit_rates
from unhinged_jax.model import LayerPeeled
from unhinged_jax.special import power_of_two

_DRIFT = 30  # powers of two that a column may drift before it is rescaled


class Held(NamedTuple):
    """All coefficients after some updates; `Powers` holds the powers of two that were taken out of them.

    Attributes:
        full: The coefficients of all modes.
        rest: The coefficients of the remainder, with g = 0 for the winning modes.
        bias: The coefficients of the biases.
    """

    full: Coefficients
    rest: Coefficients
    bias: BiasCoefficients


class Powers(NamedTuple):
    """Exponents of the powers of two that the carried numbers stand for: of the coefficients, (), and of p, (4,)."""

    full: jax.Array
    rest: jax.Array
    nodes: jax.Array


class Paces(NamedTuple):
    """What the norms of its gradients make of the updates of a descent: x <- x + eta (push G - ascent G G) x.

    Attributes:
        push, ascent: f and f rho/||G Z||, over 2^power, (updates,), with f what the gradient is multiplied by.
        power: A power of two by which an update may enlarge the state at once, 0 or more, (updates,).
        push_b: f (1 + rho lambda_b/||G Z||), of the biases, which no power is taken out of, (updates,).
    """

    push: jax.Array
    ascent: jax.Array
    power: jax.Array
    push_b: jax.Array


class Carry(NamedTuple):
    """What is carried from update to update.

    Attributes:
        x: The coefficients.
        v: Their velocity, of the same shapes.
        nodes: p at the four nodes, (4,).
        node_v: The velocity of p, (4,).
        power: The powers of two that these numbers stand for.
    """

    x: Held
    v: Any
    nodes: jax.Array
    node_v: Any
    power: Powers


def downhill(c: Coefficients, g: jax.Array, model: LayerPeeled) -> Coefficients:
    """The velocity of all coefficients at unit rates, 0 for a part that stays.

    With H = h H_0 + Theta M B the carrier B of H and the prototypes obey B' = W - l1 B and W' = h F_0 + g B - l2 W.
    """
    l1, l2, H, W = model.decay_H, model.decay_W, float(model.moves.H), float(model.moves.W)
    sums = c.F_from_F
    of_F = c.H_from_H + g * c.H_from_F if sums is None else sums
    return Coefficients(
        W_from_W=W * (g * c.H_from_W - l2 * c.W_from_W),
        W_from_F=W * (of_F - l2 * c.W_from_F),
        H_from_W=H * (c.W_from_W - l1 * c.H_from_W),
        H_from_F=H * (c.W_from_F - l1 * c.H_from_F),
        H_from_H=H * (-l1 * c.H_from_H),
        F_from_F=None if sums is None else H * (g * c.W_from_F - l1 * sums),
    )


def rates_of(model: LayerPeeled, descent: Descent, time: jax.Array) -> tuple[jax.Array, PartRates]:
    """The rate of an update, and the rates of H, W and b with it multiplied in, 0 for a part that stays."""
    eta = jnp.asarray(descent.schedule(time), time.dtype)
    rates = (
        eta * (1.0 if moving else 0.0) * jnp.asarray(rate_at(rate, time), time.dtype)
        for moving, rate in zip(model.moves, descent.rates, strict=True)
    )
    return eta, PartRates(*rates)


def _times(rates: PartRates, change: Held) -> Held:
    """A change of the coefficients at unit rates, multiplied by the rates of H, W and b."""
    bias = BiasCoefficients(rates.b * change.bias.b_from_b, rates.b * change.bias.b_from_drift)
    return Held(times_rates(rates, change.full), times_rates(rates, change.rest), bias)


def times_rates(rates: PartRates, c: Coefficients) -> Coefficients:
    """A change of coefficients at unit rates, multiplied by the rates of H and W."""
    sums = None if c.F_from_F is None else rates.H * c.F_from_F
    of_W, of_H = (rates.W * c.W_from_W, rates.W * c.W_from_F), (rates.H * c.H_from_W, rates.H * c.H_from_F)
    return Coefficients(*of_W, *of_H, rates.H * c.H_from_H, sums)


def identity(g: jax.Array) -> Coefficients:
    """The coefficients of the modes before the first update, when the state is its start."""
    one, zeros = jnp.ones((), g.dtype), jnp.zeros_like(g)
    return Coefficients(W_from_W=jnp.ones_like(g), W_from_F=zeros, H_from_W=zeros, H_from_F=zeros, H_from_H=one)


def products(
    model: LayerPeeled,
    descent: Descent,
    reads: _loop.Reads,
    first: jax.Array,
    modes: Modes,
    nodes: jax.Array,
    *,
    place: int | None = None,
    paces: Paces | None = None,
) -> Carry:
    """Carry all coefficients through the updates; every value gets a leading axis of reads.

    Coefficients of absent modes do not influence the powers of two, and are clipped to what their type can hold.

    Args:
        model, descent: The problem and its dynamics.
        reads: After which updates the coefficients are read.
        first: The number of updates made before, ().
        modes: The modes of the problem.
        nodes: mu+ and mu- of the winning modes, -r1 l1 and -r2 l2, (4,), for proportional rates; p is recorded there.
        place: Of what the coefficients are, if the run continues another one: 0 for its state, beside zeros; 1 for a
            velocity, and 1, 2, ... for the other slots of a memory, beside zeros. None for a fresh start.
        paces: How long each update is, if the norm of its gradient decides; without momentum.

    Returns:
        The coefficients of what is observed; `v` are those of the velocity, or of the other slots, with an axis of them
        after that of the reads.
    """
    g, present = modes.squares, modes.present
    dtype, one = g.dtype, identity(g)
    ones = Held(one, one, BiasCoefficients(one.H_from_H, jnp.zeros((), dtype))), jnp.ones(4, dtype)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    begin = None if descent.memory is None else descent.memory.first
    if begin is not None and place is not None:
        begin = tuple(int(slot == place) for slot in range(len(begin)))
    (x, at_nodes), (v, node_v) = (zeros, ones) if begin is None and place == 1 else (ones, zeros)
    none = jnp.zeros((), jnp.int32)
    if begin is not None:
        x, at_nodes = jax.tree.map(lambda one: jnp.stack([begins * one for begins in begin]), (x, at_nodes))
    start = Carry(x, v, at_nodes, node_v, Powers(none, none, jnp.zeros(4, jnp.int32)))

    if paces is not None and descent.proportional:
        unit = unit_rates(model, descent, dtype)  # in which a part that stays has the rate 0
        common = jnp.maximum(unit.r1, unit.r2)
        turns = model.moves.coupled & (unit.r1 != unit.r2)  # where both move, the ascent keeps no eigenvector
        common = jnp.where(turns & (descent.sam_radius is not None), jnp.nan, common)

    def of_all(x: Held) -> Held:
        bias = BiasCoefficients(-model.decays.b * x.bias.b_from_b, 1 - model.decays.b * x.bias.b_from_drift)
        return Held(downhill(x.full, g, model), downhill(x.rest, g * (1 - modes.winning), model), bias)

    def remembered(carry: Carry, rates: PartRates, eta: jax.Array, how: Combination) -> Carry:
        """The same for slots: `x` and `nodes` have a leading axis of them."""
        change, v = _with_momentum(descent, of_all(how.seen(carry.x)), carry.v)
        shift, node_v = _with_momentum(descent, nodes * how.seen(carry.nodes), carry.node_v)
        x, at_nodes = how.moved(carry.x, _times(rates, change)), how.moved(carry.nodes, eta * shift)
        return _rescaled(Carry(x, v, at_nodes, node_v, carry.power), present)

    def step(carry: Carry, k: jax.Array) -> Carry:
        eta, rates = rates_of(model, descent, (first + k).astype(dtype))
        if descent.memory is not None:
            return remembered(carry, rates, eta, descent.memory.combined(first + k))
        gradient, shift = of_all(carry.x), nodes * carry.nodes
        if paces is not None:
            pace = jax.tree.map(lambda each: each[k], paces)
            gradient = _paced(pace, gradient, of_all(gradient))
            if descent.proportional:  # otherwise there are no nodes
                shift = (pace.push - pace.ascent * nodes / common) * shift
            carry = _shrunk(carry, pace.power)
        change, v = _with_momentum(descent, gradient, carry.v)
        x = jax.tree.map(jnp.add, carry.x, _times(rates, change))
        shift, node_v = _with_momentum(descent, shift, carry.node_v)
        return _rescaled(Carry(x, v, carry.nodes + eta * shift, node_v, carry.power), present)

    def kept(carry: Carry) -> Carry:
        if descent.memory is not None:
            x, at_nodes = jax.tree.map(lambda slots: slots[0], (carry.x, carry.nodes))
            others = None if descent.momentum is not None else jax.tree.map(lambda slots: slots[1:], carry.x)
            return carry._replace(x=x, nodes=at_nodes, node_v=None, v=others)
        return carry._replace(node_v=None, v=None if descent.momentum is None else carry.v)

    return _loop.run(step, start, reads, kept)[1]


def _paced(pace: Paces, first: Held, second: Held) -> Held:
    """The gradient of one update from G x and G G x."""
    full, rest = (along(pace, *both) for both in zip(first[:2], second[:2], strict=True))
    return Held(full, rest, BiasCoefficients(*(pace.push_b * each for each in first.bias)))


def along(pace: Paces, first: Coefficients, second: Coefficients) -> Coefficients:
    """The gradient of one update of H and W, divided by 2^power, from G x and G G x."""
    return jax.tree.map(lambda one, two: pace.push * one - pace.ascent * two, first, second)


def fraction(power: jax.Array, dtype: DTypeLike) -> jax.Array:
    """2^-power for a power of at least 0, which may be too small for its type."""
    most = jnp.finfo(dtype).maxexp - 2
    return jnp.where(power <= most, power_of_two(-jnp.minimum(power, most), dtype), 0.0)


def _shrunk(carry: Carry, power: jax.Array) -> Carry:
    """The carry divided by 2^power, before an update that may enlarge it by as much."""
    by, x, powers = fraction(power, carry.nodes.dtype), carry.x, carry.power
    full, rest = (jax.tree.map(lambda a: by * a, part) for part in (x.full, x.rest))
    added = Powers(powers.full + power, powers.rest + power, powers.nodes + power)
    return carry._replace(x=x._replace(full=full, rest=rest), nodes=by * carry.nodes, power=added)


def _with_momentum(descent: Descent, gradient: PyTree, velocity: PyTree) -> tuple[Any, Any]:
    """The change at unit rate that a descent makes with this gradient, and the new velocity."""
    if descent.momentum is None:
        return gradient, velocity
    velocity = jax.tree.map(lambda d, v: d + jnp.asarray(descent.momentum, d.dtype) * v, gradient, velocity)
    if descent.nesterov:
        return jax.tree.map(lambda d, v: d + jnp.asarray(descent.momentum, d.dtype) * v, gradient, velocity), velocity
    return velocity, velocity


def _rescaled(carry: Carry, present: jax.Array) -> Carry:
    """The carry with powers of two taken out of coefficients that have drifted far."""
    most = float(jnp.finfo(present.dtype).max) ** 0.5

    def changed(c: Coefficients, of_modes: Callable[[jax.Array], jax.Array], other: jax.Array) -> Coefficients:
        W_from_W, W_from_F, H_from_W, H_from_F = map(of_modes, (c.W_from_W, c.W_from_F, c.H_from_W, c.H_from_F))
        F_from_F = None if c.F_from_F is None else of_modes(c.F_from_F)
        return Coefficients(W_from_W, W_from_F, H_from_W, H_from_F, other, F_from_F)

    def within(c: Coefficients, factor: jax.Array) -> Coefficients:
        def clipped(a: jax.Array) -> jax.Array:
            return jnp.where(present > 0, a * factor, jnp.clip(a * factor, -most, most))

        return changed(c, clipped, c.H_from_H * factor)

    def tidied(x: Coefficients, v: Coefficients, power: jax.Array) -> tuple[Coefficients, Coefficients, jax.Array]:
        sizes = changed(x, lambda a: present * jnp.abs(a), jnp.abs(x.H_from_H))
        drift, factor = _excess(jnp.max(jnp.stack([jnp.max(size) for size in jax.tree.leaves(sizes)])))
        return within(x, factor), within(v, factor), power + drift

    full, full_v, power_full = tidied(carry.x.full, carry.v.full, carry.power.full)
    rest, rest_v, power_rest = tidied(carry.x.rest, carry.v.rest, carry.power.rest)
    drift, factor = _excess(jnp.max(jnp.abs(carry.nodes.reshape(-1, 4)), axis=0))
    return Carry(
        Held(full, rest, carry.x.bias),
        Held(full_v, rest_v, carry.v.bias),
        carry.nodes * factor,
        carry.node_v * factor,
        Powers(power_full, power_rest, carry.power.nodes + drift),
    )


def _excess(size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exponent of the power of two to take out of a size, 0 unless it has drifted far, and the factor to do so."""
    fine = (size > 0) & jnp.isfinite(size)
    power = jnp.round(jnp.log(jnp.where(fine, size, 1.0)) / math.log(2.0)).astype(jnp.int32)
    power = jax.lax.stop_gradient(jnp.where(jnp.abs(power) > _DRIFT, power, 0))
    return power, jnp.ldexp(jnp.ones((), size.dtype), -power)
