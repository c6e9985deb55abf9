"""A stack of L > 2 factors under a linear loss, from balanced spectral starts: every mode by itself, in closed form.

With M = V sigma Q^T minus the gradient of the loss, a start H = V a U_1^T, W_l = U_l a U_{l-1}^T, ...,
W = Q a U_{L-1}^T keeps its singular vectors, and the size of mode k in every factor follows (rates 1; with others,
sizes are divided by the square root of the rate of their factor, and sigma is multiplied by that of all rates)

    a' = sigma a^(L-1) - lambda a.

With u = a^(2-L) this is linear, u' = (L-2)(lambda u - sigma). In units of the start, a = a_0 g and x = sigma a_0^(L-2),

    g^(2-L) = 1 + (lambda - x) E,    E = (e^y - 1)/lambda = (L-2) tau phi1(-y),    y = (L-2) lambda tau,

which becomes 0, and the mode infinite, at a finite time if x > lambda. A descent multiplies g by
1 - eta lambda + eta x g^(L-2) in every update. As g depends on the mode through x alone, it is a function of the
matrix sigma a_0^(L-2), and equal x need no vectors of their own.

Under squared error sigma is that of q Y, with the weight q of a sample, and the logits take their part of it away:
a' = a^(L-1) (sigma - q a^L) - lambda a, see `deep_squared` for the flow. A descent has 1 - eta lambda
+ eta (x g^(L-2) - c g^(2L-2)) as the factor of an update, with the brake c = q a_0^(2L-2).

Source: Saxe, McClelland & Ganguli 2014 for the modes; decay, which makes a threshold of the start, is beyond it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from unhinged_jax import _loop
from unhinged_jax.closed_form import deep_squared
from unhinged_jax.closed_form.balance import tolerance
from unhinged_jax.closed_form.deep_starts import Frames, frames_of, none_unless_alike, pull_at_zero
from unhinged_jax.closed_form.residual import SmallLoss
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.dynamics.rates import rate_at
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.special import largest, phi1, safe_log, safe_norm, safe_sqrt


class Squared(NamedTuple):
    """What squared error adds to a start.

    Attributes:
        log_brake: log c, (m,).
        log_product: The logarithm of the product of all sizes of a mode, (m,).
        weight: That of a sample, ().
        whole: Whether the targets have no part but that of the modes, ().
        unit: The loss of logits that are 0, ().
    """

    log_brake: Float[jax.Array, "m"]
    log_product: Float[jax.Array, "m"]
    weight: Float[jax.Array, ""]
    whole: Bool[jax.Array, ""]
    unit: Float[jax.Array, ""]


class Start(NamedTuple):
    """A balanced spectral start, mode by mode.

    Attributes:
        model, state: The problem and its start.
        drive: x = sigma a_0^(L-2), (m,), which may be beyond the range.
        sign, log_drive: Its sign and the logarithm of its absolute value, (m,) each.
        squared: What squared error adds, or None for a linear loss.
        there: Which modes the start has, (m,).
        decay: lambda, that of all factors times their rate, ().
        between: The vectors in the dimensions that a factor shares with the next one, from H on, (p, m) each.
        rate_b: The rate of the bias, ().
        valid: 1, or NaN if traced numbers turn out not to be those of such a start.
    """

    model: LayerPeeled
    state: State
    drive: Float[jax.Array, "m"]
    sign: Float[jax.Array, "m"]
    log_drive: Float[jax.Array, "m"]
    squared: Squared | None
    there: Bool[jax.Array, "m"]
    decay: Float[jax.Array, ""]
    between: tuple[Float[jax.Array, "p m"], ...]
    rate_b: Any
    valid: Float[jax.Array, ""]


def start_of(model: LayerPeeled, dynamics: Dynamics, state: State, known: bool) -> Start:
    """The start, mode by mode; `known` says that it was looked at before, in numbers."""
    dtype, depth = state.W.dtype, model.depth
    r1, r2, l1, l2 = (jnp.asarray(x, dtype) for x in (dynamics.rate_H, dynamics.rate_W, model.decay_H, model.decay_W))
    assert state.inner is not None
    unit = jax.lax.stop_gradient(largest(state.H, state.W, state.inner))
    unit = jnp.where(unit > 0, unit, 1.0)
    H, W, inner = state.H / (unit * jnp.sqrt(r1)), state.W / (unit * jnp.sqrt(r2)), state.inner / (unit * jnp.sqrt(r2))
    M = pull_at_zero(model, state.b, dtype)
    fixed: Frames = frames_of(*jax.lax.stop_gradient((M, H, tuple(inner), W)))
    there = fixed.size > 0
    # Derivatives of the drive are those at fixed vectors, which numbers that keep such a start do not turn.
    sizes = safe_sqrt(jnp.sum((fixed.right.T @ W) ** 2, axis=1))
    pull = jnp.where(there[:, None] & there, fixed.left.T @ M @ fixed.right, 0.0)
    log_unit, speed, squared = jnp.log(unit) + state.log_scale, jnp.sqrt(r1 * r2 ** (depth - 1)), None
    amiss = jnp.zeros(()) if model.loss.linear else none_unless_alike(model, dynamics)
    if model.loss.linear:
        weighed = _symmetric(pull * jnp.where(there, sizes ** (depth - 2), 0.0))
        turn = jnp.linalg.eigh(jax.lax.stop_gradient(weighed))[1]
        drive, own = jnp.sum(turn * (weighed @ turn), axis=0), jnp.ones(())
    else:
        turn = _both_diagonal(*jax.lax.stop_gradient((_symmetric(pull), jnp.where(there, sizes, 0.0))))
        own = jnp.sum(turn**2 * jnp.where(there, sizes, 0.0)[:, None] ** 2, axis=0)
        own = jnp.sqrt(jnp.where(own > 0, own, 1.0))
        drive = jnp.sum(turn * (_symmetric(pull) @ turn), axis=0)
        weight = jnp.mean(jnp.asarray(model.labels.weights, dtype))
        log_size = jnp.log(own) + log_unit
        missed, all_of_it = jax.lax.stop_gradient((safe_norm(M - fixed.left @ pull @ fixed.right.T), safe_norm(M)))
        squared = Squared(
            jnp.log(weight) + 2 * jnp.log(speed) + (2 * depth - 2) * log_size,
            jnp.log(speed) + depth * log_size, weight,
            missed <= 8 * max(M.shape) * jnp.finfo(dtype).eps * all_of_it, all_of_it**2 / (2 * weight),
        )  # fmt: skip
    sign, log_drive = jnp.sign(drive), safe_log(jnp.abs(drive)) + jnp.log(speed)
    log_drive = log_drive + (depth - 2) * (jnp.log(own) + log_unit)
    drive = drive * (own * jnp.exp(log_unit)) ** (depth - 2) * speed
    here = jnp.sum(turn**2 * there[:, None], axis=0) > 0.5
    slack = tolerance(dtype)
    sound = known | (
        (fixed.apart <= slack) & (fixed.astray <= slack) & (jnp.abs(r1 * l1 - r2 * l2) <= slack * (r1 * l1 + r2 * l2))
    )
    return Start(
        model, state, drive, sign, log_drive, squared, here, (r1 * l1 + r2 * l2) / 2,
        tuple(vectors @ turn for vectors in fixed.between), dynamics.rates.b,
        (jnp.where(sound, 1.0, jnp.nan) + amiss).astype(dtype),
    )  # fmt: skip


def _symmetric(X: jax.Array) -> jax.Array:
    """What lies on and above the diagonal, and again below it.

    The larger mode is the row there, so that rounding of it is not multiplied by a larger size.
    """
    return jnp.triu(X) + jnp.triu(X, 1).T


def _both_diagonal(pull: jax.Array, sizes: jax.Array) -> jax.Array:
    """Vectors in which the pull and the sizes, which commute, are both diagonal, (m, m).

    They are those of a sum of both, because modes of one size may have any pull, and those of one pull any size. Modes
    of clearly different sizes are kept apart, so that rounding of a large one does not reach a small one.
    """
    most = jnp.maximum(sizes[:, None], sizes)
    near = jnp.abs(sizes[:, None] - sizes) <= 1e-3 * most
    strongest, largest_size = jnp.max(jnp.abs(pull)), jnp.max(sizes)
    apart = (5**0.5 - 1) / 2 * sizes / jnp.where(largest_size > 0, largest_size, 1.0)
    return jnp.linalg.eigh(jnp.where(near, pull, 0.0) / jnp.where(strongest > 0, strongest, 1.0) + jnp.diag(apart))[1]


def left_over(start: Start, tau: jax.Array) -> tuple[jax.Array, jax.Array]:
    """e^-y (1 + (lambda - x) E) and its logarithm plus y, (m,) each; a mode is infinite where the first is not above 0.

    The first is e^-y + (lambda - x) (L-2) tau phi1(y), which neither overflows nor cancels for x < lambda.
    """
    more = start.model.depth - 2
    y, lag = more * start.decay * tau, start.decay - start.drive
    late = jnp.where(tau > 0, lag, 0.0) * more * tau  # an infinite drive has not begun at 0
    left = jnp.exp(-y) + late * phi1(y)
    soon = jnp.log1p(jnp.maximum(late * phi1(-jnp.minimum(y, 1.0)), -1.0))
    return left, jnp.where(y < 1, soon, y + jnp.log(jnp.where(left > 0, left, 1.0)))


def alive_at(start: Start, taus: jax.Array) -> jax.Array:
    """Whether every mode is still finite at the times, (T,)."""
    if start.squared is not None:
        return jnp.ones(taus.shape, bool)
    left = jax.vmap(lambda tau: left_over(start, tau)[0])(taus)
    return jnp.all((left > 0) | ~start.there, axis=1)


def moment(start: Start, tau: jax.Array) -> View:
    """The state of a flow after zeta = tau, at which every mode is finite."""
    depth = start.model.depth
    if start.squared is None:
        log_growth = -left_over(start, tau)[1] / (depth - 2)
        return grown(start, log_growth, jnp.ones(()), bias_at(start, tau))
    growth = deep_squared.growth(depth, start.sign, start.squared.log_brake, tau, start.log_drive)
    view = grown(start, growth.log, jnp.ones(()), start.state.b)
    return dataclasses.replace(view, small_loss=_small_loss(start, start.squared, growth.log_left))


def _small_loss(start: Start, squared: Squared, log_left: jax.Array) -> SmallLoss:
    """The loss where the difference of logits and targets would be rounding."""
    logs = jnp.where(start.there, squared.log_product + log_left, -jnp.inf)
    common = jax.lax.stop_gradient(jnp.max(logs))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    squares = jnp.where(start.there, jnp.exp(2 * (jnp.where(start.there, logs, 0.0) - common)), 0.0)
    return SmallLoss(start.valid * squared.weight / 2 * jnp.sum(squares), 2 * common, squared.whole, squared.unit)


def bias_at(start: Start, tau: jax.Array) -> jax.Array:
    """The bias of a flow after zeta = tau, (C,), which no factor moves."""
    model, b = start.model, start.state.b
    if not model.moves.b:
        return b
    rate = jnp.asarray(start.rate_b, b.dtype)
    decay = rate * model.decays.b * tau
    return b * jnp.exp(-decay) + model.signal().column_sums(b.dtype) * (rate * tau * phi1(decay))


def grown(start: Start, log_growth: jax.Array, sign: jax.Array, b: jax.Array) -> View:
    """The start with every mode grown by sign e^log_growth in every factor."""
    state = start.state
    common = jnp.max(jnp.where(start.there, log_growth, -jnp.inf))
    common = jax.lax.stop_gradient(jnp.where(jnp.isfinite(common), common, 0.0))
    growth = start.valid * sign * jnp.exp(jnp.where(start.there, log_growth - common, 0.0))

    def moved(rows: jax.Array, vectors: jax.Array) -> jax.Array:
        return ((rows @ vectors) * growth) @ vectors.T

    assert state.inner is not None
    inner = jnp.stack([moved(*pair) for pair in zip(state.inner, start.between[:-1], strict=True)])
    H, W = moved(state.H, start.between[0]), moved(state.W, start.between[-1])
    return View(start.model, DenseFeatures(H), W, b, state.log_scale + common, inner=inner)


class Carry(NamedTuple):
    """What goes from update to update of a descent: log |g| and the sign of g, (m,) each, b, and how many were made."""

    log_growth: jax.Array
    sign: jax.Array
    b: jax.Array
    updates: jax.Array


def descent_values(
    start: Start, descent: Descent, reads: _loop.Reads, first: jax.Array, read: Callable[[View], Any]
) -> tuple[View, jax.Array, Any, jax.Array]:
    """Run the descent, g <- g (1 - eta lambda + eta (x g^(L-2) - c g^(2L-2))).

    Returns:
        The last view, how many updates were made, what was read, and which reads were reached.
    """
    model, dtype, more = start.model, start.state.W.dtype, start.model.depth - 2
    signal = model.signal().column_sums(dtype) if model.moves.b else jnp.zeros(model.classes, dtype)

    def step(carry: Carry, k: jax.Array) -> Carry:
        time = (first + k).astype(dtype)
        eta = jnp.asarray(descent.schedule(time), dtype)
        power = (carry.sign if more % 2 else 1.0) * jnp.exp(more * carry.log_growth)
        pull = start.drive * power
        if start.squared is not None:
            pull = pull - jnp.exp(start.squared.log_brake + (2 * model.depth - 2) * carry.log_growth)
        change = eta * (pull - start.decay)  # of the factor from 1
        factor = 1 + change
        gone = factor == 0
        far = jnp.log(jnp.where(gone, 1.0, jnp.abs(factor)))
        log = jnp.where(jnp.abs(change) < 0.5, jnp.log1p(jnp.clip(change, -0.5, 0.5)), far)
        rate = eta * jnp.asarray(rate_at(start.rate_b, time), dtype)
        b = carry.b + rate * (signal - model.decays.b * carry.b) if model.moves.b else carry.b
        now = jnp.where(gone, -jnp.inf, carry.log_growth + log)
        return Carry(now, jnp.where(factor < 0, -carry.sign, carry.sign), b, carry.updates + 1)

    def view(carry: Carry) -> View:
        return grown(start, carry.log_growth, carry.sign, carry.b)

    def settle(_: Carry, after: Carry) -> tuple[Carry, jax.Array]:
        fine = ~jnp.isnan(after.log_growth) & (after.log_growth < jnp.inf)
        return after, jnp.all(fine | ~start.there)

    nothing = jnp.zeros_like(start.drive)
    begin = Carry(nothing, jnp.ones_like(nothing), start.state.b, jnp.zeros((), jnp.int32))
    last, saved, reached = _loop.run(step, begin, reads, lambda carry: read(view(carry)), settle)
    return view(last), last.updates, saved, reached
