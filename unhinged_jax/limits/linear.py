"""The limit of a linear dynamics: the part whose factor is largest, and how fast the other parts fall behind it.

Let z be the factor of an eigenvalue of K (see `factors`). The winner has the largest log |z|, and the error of the
direction falls like e^(-rate t) with

    rate = log |z_winner| - log |z_next|.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax._request.compiling import compiled
from unhinged_jax.dynamics import Dynamics, Flow, Nesterov
from unhinged_jax.labels.held_out import of_training
from unhinged_jax.limits.factors import Factor, factor
from unhinged_jax.limits.result import LINE, PARABOLA, Limit
from unhinged_jax.linear.leading_part import Coupled, Growth, growth, leading_part
from unhinged_jax.linear.rates import Rates, bias_rates, unit_rates
from unhinged_jax.linear.row_space import RowSpace, row_space
from unhinged_jax.linear.spectrum import BalancedSpectrum, Spectrum
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.observables.features import row_lengths
from unhinged_jax.special import greatest, largest, safe_norm


class _Winner(NamedTuple):
    """The winning part.

    Attributes:
        mask: 1 for the winning modes, else 0, (k,).
        square: Their squared singular value, ().
        growth: The eigenvalues of their block.
        up: Whether mu+ wins, rather than mu-, ().
    """

    mask: jax.Array
    square: jax.Array
    growth: Growth
    up: jax.Array


class _Others(NamedTuple):
    """All modes, among them the rivals of the winner.

    Attributes:
        values: Their squared singular values, (k,).
        modes: The eigenvalues of their blocks, (k,).
        logs: log |z| for mu+ and mu- of every mode, (2, k).
        alive: Which squared singular values are positive beyond rounding, (k,).
    """

    values: jax.Array
    modes: Growth
    logs: jax.Array
    alive: jax.Array


@compiled()
def coupled(model: LayerPeeled, dynamics: Dynamics, state: State, target: str) -> Limit:
    """The limit if H and W both move: the largest factor wins among those of eigenvalues that the start contains."""
    dtype = state.W.dtype
    space, rates = row_space(model, dtype), unit_rates(model, dynamics, dtype)
    lead = leading_part(model, dynamics, state, target)
    assert isinstance(lead, Coupled)
    values, F = lead.spectrum.eigenvalues(), space.signal.transpose_times(state.H)
    modes = growth(values, rates)
    logs = factor(dynamics, jnp.stack([modes.plus, modes.minus])).log
    alive = values > jnp.finfo(dtype).eps ** 0.6 * jnp.max(values)
    seen = alive & _present(lead.spectrum, modes, rates, F, state.W)
    led = jnp.any(seen) & (jnp.sum(lead.mask) > 0)  # if the signal vanishes, nothing leads
    wanted = seen if target == "top" else seen & (lead.mask > 0)
    mask, up = _winning(values, jax.lax.stop_gradient(logs), jnp.where(jnp.any(wanted), wanted, alive))
    mask = jnp.where(led, mask if target == "top" else lead.mask, 0.0)
    square = jnp.where(led, jnp.sum(mask * values) / jnp.where(led, jnp.sum(mask), 1.0), 1.0)
    won = _Winner(mask, square, growth(square, rates), up)
    found = factor(dynamics, jnp.where(up, won.growth.plus, won.growth.minus))

    rate, gap_H, gap_W = _gaps(dynamics, won, found.log, _Others(values, modes, logs, alive), rates, target == "top")
    balanced = isinstance(lead.spectrum, BalancedSpectrum)
    rank = jnp.sum(alive * (jnp.asarray([model.classes - 1, 1]) if balanced else jnp.ones_like(values)))
    rate_H = jnp.where(rank < model.labels.training_samples, jnp.minimum(rate, gap_H), rate)
    rate_W = jnp.where(rank < model.classes, jnp.minimum(rate, gap_W), rate)

    threshold = jnp.where(led, lead.square, 0.0)
    excess = threshold - model.decay_H * model.decay_W
    fading = factor(dynamics, jnp.stack([-rates.a, -rates.c]))
    slowest = jnp.argmax(fading.log)
    exponent = jnp.where(led, found.log, fading.log[slowest])
    slack = 1e-12 if dtype == jnp.float64 else 1e-6
    level = led & up & (jnp.abs(excess) <= slack * threshold) & (jnp.abs(square - threshold) <= slack * threshold)
    exponent = exponent - jnp.where(level, jax.lax.stop_gradient(exponent), 0.0)
    angle = jnp.where(led, found.angle, fading.angle[slowest])
    rate_H, rate_W = (jnp.where(led, value, 0.0) for value in (rate_H, rate_W))
    H, W = _direction(model, space, won, lead.spectrum, rates, F, state.W)
    direction = State(found.sign * H, found.sign * W, biases(model, dynamics, rates, state))
    return Limit(direction, jnp.minimum(rate_H, rate_W), rate_H, rate_W, exponent, threshold, excess, angle)


def _present(spectrum: Spectrum, modes: Growth, rates: Rates, F: jax.Array, W: jax.Array) -> jax.Array:
    """Which eigenvalues the start contains beyond rounding, (2, k) for mu+ and mu- of every mode.

    The part of the start that belongs to an eigenvalue mu is as large as its product with the left eigenvector
    (r_2, mu + a).
    """
    if not isinstance(spectrum, BalancedSpectrum):
        F, W = spectrum.vectors.T @ F, spectrum.vectors.T @ W
    size_F, size_W = largest(F), largest(W)

    def seen(slope: jax.Array) -> jax.Array:
        noise = 16 * jnp.finfo(F.dtype).eps * (rates.r2 * size_F + jnp.abs(slope) * size_W)
        if isinstance(spectrum, BalancedSpectrum):  # differences, because the computed mean of equal rows may differ
            contrast, mean = (rates.r2 * F + one * W for one in slope)
            return jnp.stack([largest(contrast - contrast[0]), largest(jnp.mean(mean, axis=0))]) > noise
        return jnp.max(jnp.abs(rates.r2 * F + slope[:, None] * W), axis=1) > noise

    return jnp.stack([seen(modes.rising), seen(-modes.falling)])


def _winning(values: jax.Array, logs: jax.Array, candidates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mask of the modes with the largest factor, (k,), and whether it is that of mu+, ().

    Among equal factors, mu+ comes before mu-, and a larger squared singular value before a smaller one.
    """
    best = jnp.max(jnp.where(candidates, logs, -jnp.inf))
    near = candidates & (logs >= best - 4 * jnp.finfo(values.dtype).eps * (1 + jnp.abs(best)))
    order = jnp.stack([values + 2 * jnp.max(values), values])
    place = jnp.argmax(jnp.where(near, order, -1.0))
    square = jax.lax.stop_gradient(values)[place % values.shape[0]]
    slack = jnp.finfo(values.dtype).eps ** 0.6
    return (jnp.abs(values - square) <= slack * square).astype(values.dtype), place < values.shape[0]


def _gaps(
    dynamics: Dynamics, won: _Winner, winner: jax.Array, others: _Others, rates: Rates, top: bool
) -> tuple[jax.Array, ...]:
    """How far log |z| of the nearest rival is behind that of the winner; the same of the uncoupled parts of H and W."""
    values, modes, logs, alive = others
    behind = winner - logs
    gap_H, gap_W = (winner - factor(dynamics, -node).log for node in (rates.a, rates.c))
    if isinstance(dynamics, Flow) and dynamics.damping is None:  # without cancellation
        own = won.growth
        exactly = rates.r1 * rates.r2 * (won.square - values) / (own.d + modes.d)
        behind = behind.at[0].set(jnp.where(won.up, exactly, behind[0]))
        gap_H, gap_W = jnp.where(won.up, own.rising, gap_H), jnp.where(won.up, own.falling, gap_W)
    same = (won.mask > 0) & jnp.stack([won.up, ~won.up])[:, None]
    rival = alive & ~same
    if top:  # a larger factor belongs to an eigenvalue that the start does not contain
        slack = 8 * jnp.finfo(values.dtype).eps * (1 + jnp.abs(winner))
        rival = rival & jax.lax.stop_gradient(logs <= winner + slack)
        behind = jnp.maximum(behind, 0.0)
    return -greatest(-jnp.where(rival, behind, jnp.inf).ravel()), gap_H, gap_W


def _direction(
    model: LayerPeeled, space: RowSpace, won: _Winner, spectrum: Spectrum, rates: Rates, F: jax.Array, W: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The winning part of the state, H (n, p) and W (C, p): the start projected on the right eigenvector.

    Its norm is 1 without the samples that are held out.
    """
    still, top, sign = jnp.zeros_like(won.mask), won.growth, jnp.where(won.up, 1.0, -1.0)
    x, y = spectrum.apply(won.mask, still, F), spectrum.apply(won.mask, still, W)
    own, other = jnp.where(won.up, top.rising, top.falling), jnp.where(won.up, top.falling, top.rising)
    carrier = other / won.square * x + sign * rates.r1 * y
    H, W = features_of(model, space, carrier), sign * rates.r2 * x + own * y
    size = safe_norm(of_training(model.labels, H), W)
    size = jnp.where(size > 0, size, 1.0)
    return H / size, W / size


def features_of(model: LayerPeeled, space: RowSpace, carrier: jax.Array) -> jax.Array:
    """The features Theta M `carrier`, (n, p), of a carrier (C, p)."""
    lifted = space.signal.times(carrier)
    return lifted if model.kernel is None else model.kernel.apply(lifted)


def biases(model: LayerPeeled, dynamics: Dynamics, rates: Rates, state: State) -> jax.Array:
    """The limit of the biases, (C,): infinite if a bias grows without bound, NaN if it oscillates forever."""
    if not model.moves.b:
        return state.b
    drift = model.signal().column_sums(state.b.dtype)
    decay = jnp.asarray(model.decays.b, state.b.dtype)
    log = factor(dynamics, -bias_rates(model, dynamics, rates).decay).log
    if isinstance(dynamics, Flow) and isinstance(dynamics.damping, Nesterov):
        log = jnp.full_like(log, -jnp.inf)  # it settles, though slower than any exponential
    return bias_limit(state.b, drift, decay, log)


def bias_limit(b: jax.Array, drift: jax.Array, decay: jax.Array, log: jax.Array) -> jax.Array:
    """The limit of biases with a drift and a decay, of whose distance from it `log` is the logarithm of the factor."""
    still = jnp.abs(drift) <= 8 * jnp.finfo(drift.dtype).eps
    runs_away = jnp.where(still, b, jnp.sign(drift) * jnp.inf)
    fixed = drift / jnp.where(decay > 0, decay, 1.0)
    thrown = jnp.where(log > 0, jnp.sign(b - fixed) * jnp.inf, jnp.nan)
    settles = (log < 0) | (b == fixed)
    return jnp.where(decay > 0, jnp.where(settles, fixed, thrown), runs_away)


def direction_of(model: LayerPeeled, state: State) -> State:
    """The direction of a state, in the form of `Limit.direction`, for a run that ends there."""
    H, W = multiplied(state)
    if model.spherical:
        lengths = row_lengths(state.H)
        return State(state.H / jnp.where(lengths > 0, lengths, 1.0), W, state.b)
    parts = (of_training(model.labels, state.H),) * model.moves.H + (state.W,) * model.moves.W
    size = safe_norm(*parts)
    size = jnp.where(size > 0, size, 1.0)
    H = state.H / size if model.moves.H else H
    return State(H, state.W / size if model.moves.W else W, state.b)


@compiled()
def driven(model: LayerPeeled, dynamics: Dynamics, state: State, target: str) -> Limit:
    """The limit if H or W stays and pulls the other along a line to a fixed point: Theorem 6 and its mirror image.

    A descent whose steps are too large moves away from that point, on the line through it and the start.
    """
    dtype = state.W.dtype
    space, rates = row_space(model, dtype), unit_rates(model, dynamics, dtype)
    moving_W = model.moves.W
    pull = space.signal.transpose_times(state.H) if moving_W else features_of(model, space, state.W)
    decay = jnp.asarray(model.decay_W if moving_W else model.decay_H, dtype)
    found = factor(dynamics, -(rates.c if moving_W else rates.a))
    ended = towards(model, state, pull, decay, found, biases(model, dynamics, rates, state))
    if not isinstance(dynamics, Flow) or dynamics.damping is None:
        return ended
    free = True if isinstance(dynamics.damping, Nesterov) else jnp.asarray(dynamics.damping) == 0
    return dataclasses.replace(ended, ending=jnp.where((ended.ending == LINE) & free, PARABOLA, ended.ending))


def towards(
    model: LayerPeeled, state: State, pull: jax.Array, decay: jax.Array, found: Factor, bias: jax.Array
) -> Limit:
    """The limit if the part that moves has a constant pull and a decay, whose factor was `found`."""
    dtype, moving_W = state.W.dtype, model.moves.W
    log, begin = jnp.where(decay > 0, found.log, 0.0), state.W if moving_W else state.H
    away = found.sign * (begin - pull / jnp.where(decay > 0, decay, 1.0))
    part = jnp.where(log > 0, away, jnp.where((decay > 0) & (log == 0), begin, pull))  # 1 - x = -1 leads back to it
    swings = (decay > 0) & (log == 0) & (found.angle > 0) & (found.angle < jnp.pi)  # forever, without a direction
    part = jnp.where(swings, jnp.nan, part)
    size = safe_norm(part if moving_W else of_training(model.labels, part))
    unit = part / jnp.where(size > 0, size, 1.0)
    still_H, still_W = multiplied(state)
    direction = State(still_H, unit, bias) if moving_W else State(unit, still_W, bias)
    none, rate = jnp.full((), jnp.inf, dtype), jnp.abs(log)
    rate_H, rate_W = (none, rate) if moving_W else (rate, none)
    angle = jnp.where((decay > 0) & (log >= 0), found.angle, 0.0)
    ending = jnp.where((decay == 0) & (size > 0), LINE, 0)
    return Limit(direction, rate, rate_H, rate_W, jnp.maximum(log, 0.0), none, none, angle, ending, moving="driven")
