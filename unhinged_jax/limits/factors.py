"""The factor z by which one update, or one unit of zeta, multiplies the part of a state that belongs to an eigenvalue x
of K:

    z = e^x (flow),    z = 1 + eta x (descent),    z^2 - (1 + beta + eta x) z + beta = 0 (momentum)

A flow of second order has z = e^s per unit of time, with s^2 + c s = eta x (heavy ball) or s^2 = eta x (Nesterov,
beside a power of time). Memories of a descent, with y = eta x:

    z^2 - (1 + (1 + beta) y) z + beta y = 0                                     optimistic
    z^2 - (1 + beta + (1 - nu beta) y) z + beta (1 + (1 - nu) y) = 0            quasi-hyperbolic
    z - 1 = y z (1/m) sum_i 1/(z - beta_i)                                      aggregated momentum
    z^s = 1 - alpha + alpha (1 + y)^s                                           Lookahead, at the meetings
    z = 1 + (1 - beta) y                                                        schedule-free, beside a power of k

An average has the factor of the state that it averages; see `averages`. If there are several roots, the one of largest
modulus counts among those that a start at rest contains.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax.closed_form.modes import log_factor
from unhinged_jax.dynamics import (
    AggregatedMomentum,
    Dynamics,
    Flow,
    Lookahead,
    Nesterov,
    Optimistic,
    QuasiHyperbolic,
    ScheduleFree,
)
from unhinged_jax.special import safe_log

_ROUNDS = 60  # of the iteration for all roots of a polynomial, far more than it takes


class Factor(NamedTuple):
    """The factor z. Every entry has the shape of the eigenvalue.

    Attributes:
        log: log |z| for the root z of largest modulus.
        angle: The argument of z; in a flow of second order the imaginary part of s.
        sign: The sign of what a start at rest has of a real root, 1 or -1.
    """

    log: jax.Array
    angle: jax.Array
    sign: jax.Array


def factor(dynamics: Dynamics, node: jax.Array) -> Factor:
    """The factor at an eigenvalue x of K: e^x per unit of zeta in a flow, a root of the update in a descent.

    Source: beyond the paper.
    """
    nothing, one = jnp.zeros_like(node), jnp.ones_like(node)
    if isinstance(dynamics, Flow) and dynamics.damping is not None:
        return _damped(dynamics, node)
    if isinstance(dynamics, Flow):
        return Factor(node, nothing, one)
    push, memory = jnp.asarray(dynamics.schedule(0), node.dtype) * node, dynamics.memory
    if isinstance(memory, Optimistic):
        beta = jnp.asarray(memory.beta, node.dtype)
        ahead = (1 + beta) * push
        return _of_two(Quadratic(1 + ahead, beta * push, 1 - ahead, push))
    if isinstance(memory, QuasiHyperbolic):
        return _quasi_hyperbolic(memory, push)
    if isinstance(memory, AggregatedMomentum):
        return _aggregated(memory, push)
    if isinstance(memory, ScheduleFree):
        push = (1 - jnp.asarray(memory.beta, node.dtype)) * push
    if dynamics.momentum is not None:
        beta = jnp.asarray(dynamics.momentum, node.dtype)
        ahead = beta * push if dynamics.nesterov else nothing
        return _of_two(Quadratic(1 + beta + push + ahead, beta + ahead, 1 - beta - push - ahead, push))
    plain = Factor(log_factor(push), jnp.where(push < -1, jnp.pi, nothing), one)
    return _meeting(memory, plain) if isinstance(memory, Lookahead) else plain


class Quadratic(NamedTuple):
    """z^2 - trace z + det = 0, which for w = z - 1 is w^2 + lean w - push = 0."""

    trace: jax.Array
    det: jax.Array
    lean: jax.Array
    push: jax.Array

    @property
    def square(self) -> jax.Array:
        """trace^2 - 4 det, which is below 0 for a pair of complex roots."""
        return self.lean**2 + 4 * self.push

    @property
    def first(self) -> tuple[jax.Array, jax.Array]:
        """The real root of largest modulus minus 1, if it is positive, and its modulus, if it is not."""
        trace, square, lean = self.trace, self.square, self.lean
        root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        safe = jnp.where(lean > 0, lean + root, 1.0)
        beyond = jnp.where(lean > 0, 2 * self.push / safe, (root - lean) / 2)
        return jnp.where((trace > 0) & (square >= 0), beyond, 0.0), (jnp.abs(trace) + root) / 2


def _of_two(k: Quadratic) -> Factor:
    """The root of largest modulus; complex ones come in pairs of equal modulus."""
    pair = k.square < 0
    beyond, size = k.first
    real = jnp.where((k.trace > 0) & ~pair, jnp.log1p(beyond), safe_log(size))
    log = jnp.where(pair, log_factor(-(k.lean + k.push)) / 2, real)  # det = 1 - lean - push
    turn = jnp.arctan2(jnp.sqrt(jnp.where(pair, -k.square, 1.0)), k.trace)
    return Factor(log, jnp.where(pair, turn, jnp.where(k.trace < 0, jnp.pi, 0.0)), jnp.ones_like(log))


def _quasi_hyperbolic(memory: QuasiHyperbolic, push: jax.Array) -> Factor:
    """A start at rest has (z_1 - beta)/(z_1 - z_2) of the larger root z_1, which is below 0 for some nu, and 0 at 0."""
    beta, nu = (jnp.asarray(number, push.dtype) for number in (memory.beta, memory.nu))
    new = (1 - nu * beta) * push
    k = Quadratic(1 + beta + new, beta * (1 + (1 - nu) * push), 1 - beta - new, (1 - beta) * push)
    found, (beyond, size) = _of_two(k), k.first
    above = jnp.where(k.trace > 0, (1 - beta) + beyond, -size - beta)  # z_1 - beta
    absent = (k.square >= 0) & (jnp.abs(above) <= 16 * jnp.finfo(push.dtype).eps) & (nu * push != 0)
    absent = absent | ((nu == 0) & (jnp.abs(1 + push) < beta))
    # Without it the other root, det/z_1, is left.
    first = jnp.where(k.trace > 0, 1 + beyond, -size)
    other = k.det / jnp.where(first == 0, 1.0, first)
    log = jnp.where(absent, safe_log(jnp.abs(jnp.where(absent, other, 1.0))), found.log)
    angle = jnp.where(absent, jnp.where(other < 0, jnp.pi, 0.0), found.angle)
    back = (k.square > 0) & (jnp.where(k.trace > 0, above, -above) < 0) & ~absent
    return Factor(log, angle, jnp.where(back, -1.0, jnp.ones_like(log)))


def _meeting(memory: Lookahead, fast: Factor) -> Factor:
    """The factor of the slow weights from one meeting to the next, 1 + alpha (z^s - 1), as one per update."""
    share, steps = jnp.asarray(memory.share, fast.log.dtype), memory.steps
    negative = (fast.angle > 0) & (steps % 2 == 1)
    grown = steps * fast.log
    near, less = grown < 1, jnp.maximum(grown, 1.0)
    step = share * jnp.where(
        negative, -1 - jnp.exp(jnp.where(near, grown, 0.0)), jnp.expm1(jnp.where(near, grown, 0.0))
    )
    # Beyond, z^s is too large for a number, and is taken out.
    rest = share * jnp.where(negative, -1.0, 1.0) + (1 - share) * jnp.exp(-less)
    log = jnp.where(near, log_factor(step), less + safe_log(jnp.abs(rest)))
    turns = jnp.where(near, 1 + step, rest) < 0
    return Factor(log / steps, jnp.where(turns, jnp.pi / steps, 0.0), jnp.ones_like(log))


def _aggregated(memory: AggregatedMomentum, push: jax.Array) -> Factor:
    """Roots w = z - 1 of w A(w) - (y/m) (1 + w) A'(w), with A(w) = prod_i (w + 1 - beta_i).

    A start at rest has A(w)/P'(w) of each root, which is 0 where betas are equal, or 0.
    """
    betas, dtype = jnp.stack([jnp.asarray(beta, push.dtype) for beta in memory.betas]), push.dtype
    own = jnp.poly(betas - 1)  # the highest power first
    slope = jnp.polyder(own)
    pull = push[..., None] / len(betas) * jnp.convolve(slope, jnp.ones(2, dtype))
    P = jnp.broadcast_to(jnp.append(own, 0.0), (*push.shape, own.shape[0] + 1)) - _padded(pull, own.shape[0] + 1)
    fixed = jax.lax.stop_gradient(P)
    roots = _all_roots(fixed)
    share = jnp.abs(_at(own, roots)) / jnp.maximum(jnp.abs(_at(_slope(fixed), roots)), jnp.finfo(dtype).tiny)
    sizes = jnp.where(share > jnp.finfo(dtype).eps ** 0.75, jnp.abs(1 + roots), -1.0)
    root = jnp.take_along_axis(roots, jnp.argmax(sizes, axis=-1)[..., None], axis=-1)[..., 0]
    steep = _at(_slope(P), root)
    root = root - _at(P, root) / jnp.where(steep == 0, 1.0, steep)  # which has the derivatives of the root
    real = jnp.abs(root.imag) <= jnp.finfo(dtype).eps ** 0.5 * jnp.abs(1 + root)
    height = jnp.where(real, 0.0, root.imag)
    log = jnp.where(root.real > -0.5, jnp.log1p(2 * root.real + root.real**2 + height**2) / 2, 0.0)
    far = jnp.where(root.real > -0.5, 1.0, (1 + root.real) ** 2 + height**2)
    turn = jnp.arctan2(jnp.abs(height), 1 + root.real)
    sign = jnp.where(real & ((_at(own, root) / steep).real < 0), -1.0, jnp.ones_like(push))
    return Factor(
        log + safe_log(far) / 2, jax.lax.select(real, (root.real < -1) * jnp.full_like(turn, jnp.pi), turn), sign
    )


def _padded(row: jax.Array, length: int) -> jax.Array:
    return jnp.concatenate([jnp.zeros((*row.shape[:-1], length - row.shape[-1]), row.dtype), row], axis=-1)


def _at(row: jax.Array, x: jax.Array) -> jax.Array:
    """A polynomial at points, one polynomial for each row of them or one for all."""
    total = jnp.zeros_like(x)
    for power in range(row.shape[-1]):
        one = row[..., power]
        total = total * x + (one[..., None] if x.ndim > one.ndim > 0 else one)
    return total


def _slope(row: jax.Array) -> jax.Array:
    order = row.shape[-1] - 1
    return row[..., :-1] * jnp.arange(order, 0, -1, dtype=row.dtype)


def _all_roots(row: jax.Array) -> jax.Array:
    """All roots of polynomials with leading coefficient 1 or near it, by the iteration of Ehrlich and Aberth."""
    order = row.shape[-1] - 1
    lead = row[..., :1]
    sizes = jnp.abs(row[..., 1:] / lead) ** (1 / jnp.arange(1, order + 1, dtype=row.dtype))
    reach = jnp.max(sizes, axis=-1, keepdims=True) + jnp.finfo(row.dtype).tiny
    angles = 2 * jnp.pi * (jnp.arange(order, dtype=row.dtype) + 0.25) / order + 0.1
    begin = reach * jnp.exp(1j * angles)
    slope = _slope(row)

    def step(_: int, x: jax.Array) -> jax.Array:
        value, steep = _at(row, x), _at(slope, x)
        newton = jnp.where(value == 0, 0.0, value / jnp.where(steep == 0, 1.0, steep))
        gaps = x[..., :, None] - x[..., None, :]
        others = jnp.sum(jnp.where(gaps == 0, 0.0, 1 / jnp.where(gaps == 0, 1.0, gaps)), axis=-1)
        below = 1 - newton * others
        return x - newton / jnp.where(below == 0, 1.0, below)

    return jax.lax.fori_loop(0, _ROUNDS, step, begin)


def _damped(flow: Flow, node: jax.Array) -> Factor:
    """The factor e^s of a flow of second order per unit of time."""
    push = jnp.asarray(flow.schedule(0), node.dtype) * node
    half = jnp.asarray(0.0 if isinstance(flow.damping, Nesterov) else flow.damping, node.dtype) / 2
    square = push + half**2
    root = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    log = jnp.where(square > 0, push / (half + root), -half)  # without cancellation
    turn = jnp.where(square < 0, jnp.sqrt(jnp.where(square < 0, -square, 1.0)), 0.0)
    return Factor(log, turn, jnp.ones_like(log))
