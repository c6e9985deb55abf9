"""Flows and descents whose steps depend on the norm of the gradient: a scalar equation or two beside the modes.

Let -G Z be the gradient at unit rates, K = r G at a common rate r, and rho the radius of sharpness-aware minimisation.
Let f be what the gradient is multiplied by: 1, min(1, c/||.||) if it is clipped, 1/||.|| if it is normalised. A flow is

    Z = exp(K zeta - K^2 q) Z_0,    d zeta/d tau = f,    dq/d tau = f rho/(r ||G Z||),

and an update of a descent multiplies by I + eta f K (I - rho/||G Z|| G). The norms follow from the modes (`gradients`).
Without rho the rates of H and W may differ. A flow ends where its gradient vanishes, which it may reach in finite time:
within rho of a saddle, or at a minimum that normalised steps run into.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax import _loop
from unhinged_jax.closed_form.flow import Moment, coefficients_at
from unhinged_jax.closed_form.gradients import Jets, Start, constant, jets_of, sloped, squares, start_of
from unhinged_jax.closed_form.modes import BiasCoefficients, Coefficients, block, roots
from unhinged_jax.closed_form.scalar import Solved, Velocity, solved
from unhinged_jax.closed_form.timeline import Clock, Updates, bias_at, taus_of
from unhinged_jax.closed_form.updates import Paces, along, downhill, fraction, identity, rates_of, times_rates
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.linear.rates import Rates, bias_rates, unit_rates
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import Spectrum
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import drift, largest, power_of_two, safe_log
from unhinged_jax.trajectory import RunResult, Trajectory


def why_not_paced(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    """The setting that rules out a closed form where the norm of the gradient decides, in words, or None."""
    if not dynamics.paced:
        return None
    of = "a gradient that is sharpness-aware, clipped or normalised has a closed form"
    if model.spherical or model.kernel is not None:
        return f"{of} without {'spherical features' if model.spherical else 'a kernel'} only; use `simulate`."
    if dynamics.stochastic:
        return f"{of} without noise only, which its norm would depend on; use `simulate` and average."
    if isinstance(dynamics, Descent) and dynamics.optimizer is not None:
        return f"{of} in plain descent only, not if an optimiser is given it; use `simulate`."
    if isinstance(dynamics, Descent) and dynamics.momentum is not None:
        return f"{of} without momentum only, whose velocity has a norm of its own; use `simulate`."
    if isinstance(dynamics, Flow) and dynamics.sam_radius is not None and model.moves.coupled:
        given = (dynamics.rate_H, dynamics.rate_W)
        if not any(isinstance(rate, jax.core.Tracer) for rate in given) and float(given[0]) != float(given[1]):
            return (
                f"in a sharpness-aware flow the rates of H and W must be equal, but are {float(given[0]):g} and "
                f"{float(given[1]):g}, and then K and the ascent along the gradient do not commute; use Descent or "
                "`simulate`."
            )
    return None


def why_not_split(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    """Why a run has no leading part whose direction stays, in words, or None; traced rates are not looked at."""
    if not model.moves.coupled:
        return None
    rates = dynamics.rates
    known = not any(callable(rate) or isinstance(rate, jax.core.Tracer) for rate in rates[:2])
    if dynamics.sam_radius is not None and known and float(rates.H) != float(rates.W):
        return (
            "with unequal rates of H and W the ascent along the gradient turns the direction to which distances refer; "
            "do not observe them."
        )
    return None


def why_not_along(model: LayerPeeled, dynamics: Dynamics, names: Sequence[str]) -> str | None:
    """Why there is no closed form beside a sharpness-aware flow if one of these parameters moves, in words, or None."""
    if not isinstance(dynamics, Flow) or dynamics.sam_radius is None or not model.moves.coupled:
        return None
    for name in names:
        if name in ("rate_H", "rate_W", "s"):
            return (
                f"a sharpness-aware flow is solved for equal rates of H and W only, which {name!r} moves apart; "
                "ask for 'eta', or for sources='simulated'."
            )
    return None


class Pace(NamedTuple):
    """How fast a run goes: `steps` for `timeline`, and for a flow when and why it ended, or None."""

    steps: Moment | Paces
    ended: Solved | None

    def marked(self, run: Trajectory) -> Trajectory:
        """The run, with NaN at times that it does not reach, and zeta since its start in `elapsed` if it ends early."""
        if self.ended is None:
            return run
        reached = self.ended.reached
        observables, states = _loop.blanked((run.observables, run.states), reached)
        why = jnp.where(self.ended.full, RunResult.MAX_STEPS, RunResult.UNDERFLOW)
        code = jnp.where(reached[-1], RunResult.COMPLETED, why)
        elapsed = jnp.where(reached[-1], run.elapsed, self.ended.ended.astype(run.elapsed.dtype))
        return dataclasses.replace(
            run, observables=observables, states=states, reached=reached, code=code, elapsed=elapsed
        )


def pace_of(
    model: LayerPeeled, dynamics: Dynamics, clock: Clock, space: RowSpace, spectrum: Spectrum, state: State
) -> Pace | None:
    """How fast a run from this state goes, or None if no norm decides."""
    if not dynamics.paced:
        return None
    start = start_of(model, space, spectrum, state)
    if isinstance(dynamics, Flow):
        return _flow(start, dynamics, taus_of(dynamics, clock).astype(state.W.dtype))
    assert isinstance(dynamics, Descent) and clock.reads is not None
    assert not isinstance(clock.reads, Updates)
    return Pace(sloped(_paces, start, dynamics, clock.first, clock.reads.updates), None)


class Norms(NamedTuple):
    """log ||G Z||, and the logarithm of the norm of the gradient at the ascended point, () each."""

    here: Float[jax.Array, ""]
    ascended: Float[jax.Array, ""]


def norms(start: Start, dynamics: Dynamics, c: Jets, log: Float[jax.Array, ""], bias: BiasCoefficients) -> Norms:
    """The norms of the gradients of the state with these coefficients over e^log, and these biases."""
    model, spectrum = start.model, start.spectrum

    def log_norm(jets: Jets, of_bias: jax.Array) -> jax.Array:
        return start.log_norm(jets_of(squares, jets, spectrum), jets[0].H_from_H, log, of_bias)

    slope = jets_of(lambda c, g: downhill(c, g, model), c, spectrum)
    of_bias = start.downhill_b(bias)
    here = log_norm(slope, of_bias)
    if dynamics.sam_radius is None:
        return Norms(here, here)
    # Both gradients over 1 + s, because s = rho/||G Z|| may be too large for its type.
    ascent, log_ascent = _ascent(dynamics, here)
    share = 1 / (1 + ascent)
    pace = Paces(share, 1 - share, share, share)
    risen = jets_of(lambda c, g: along(pace, c, downhill(c, g, model)), slope, spectrum)
    own = (share + (1 - share) * model.decays.b) * of_bias
    return Norms(here, log_norm(risen, own) + jnp.where(log_ascent > 40, log_ascent, jnp.log1p(ascent)))


def _ascent(dynamics: Dynamics, log_norm: jax.Array) -> tuple[jax.Array, jax.Array]:
    """rho/||G Z||, () – at most a large number, and 0 for a gradient of 0 – and its logarithm, which is not bounded."""
    rho = jnp.asarray(dynamics.sam_radius, log_norm.dtype)
    there, most = jnp.isfinite(log_norm), math.log(float(jnp.finfo(log_norm.dtype).max)) / 2
    log = -jnp.where(there, log_norm, 0.0)
    return jnp.where(there, rho * jnp.exp(jnp.minimum(log, most)), 0.0), safe_log(rho) + log


def _log_factor(dynamics: Dynamics, log_norm: jax.Array) -> jax.Array:
    """The logarithm of what a gradient of this norm is multiplied by, (); 0 for a gradient of 0."""
    if not (dynamics.normalized or dynamics.clip_norm is not None):
        return jnp.zeros_like(log_norm)
    there = jnp.isfinite(log_norm)
    log = -jnp.where(there, log_norm, 0.0)
    if not dynamics.normalized:
        log = jnp.minimum(log + jnp.log(jnp.asarray(dynamics.clip_norm, log.dtype)), 0.0)
    return jnp.where(there, log, 0.0)


def _flow(start: Start, flow: Flow, elapsed: Float[jax.Array, "T"]) -> Pace:
    """The moments of a flow after these integrals of its rate."""
    dtype, sharp = elapsed.dtype, flow.sam_radius is not None
    only = sharp and not flow.normalized and flow.clip_norm is None
    rates = unit_rates(start.model, flow, dtype)
    found = solved(_velocity, _size, _Data(start, flow, rates), elapsed, 2 if sharp else 1)
    zeta = elapsed if only else found.values[:, 0]
    if only:  # at times that are not reached, that of the last step
        zeta = jnp.where(found.reached, zeta, found.values[:, 0])
    damped = None
    if sharp:
        equal = (rates.r1 == rates.r2) | ~jnp.asarray(start.model.moves.coupled)
        damped = jnp.where(equal, found.values[:, 1], jnp.nan)
    return Pace(Moment(zeta, damped), found)


class _Data(NamedTuple):
    """What the velocity of (zeta, q) depends on."""

    start: Start
    flow: Flow
    rates: Rates


def _moment(flow: Flow, y: jax.Array) -> Moment:
    return Moment(y[0], y[1] if flow.sam_radius is not None else None)


def _velocity(data: _Data, y: jax.Array) -> Velocity:
    """d(zeta, q)/d tau, (2,), or d(zeta)/d tau, (1,)."""
    velocity: Velocity = sloped(_sloped_velocity, data, y)
    return velocity


def _sloped_velocity(slopes: bool, data: _Data, y: jax.Array) -> Velocity:
    start, flow, rates = data
    moment, spectrum = _moment(flow, y), start.spectrum
    present = jnp.ones_like(spectrum.values) if spectrum.present is None else spectrum.present

    def coefficients(_: Any, g: jax.Array) -> Coefficients:
        return coefficients_at(g, rates, moment, present, sums=True)[0]

    log = coefficients_at(spectrum.values, rates, moment, present)[1]
    jets = jets_of(coefficients, constant(y, slopes and not spectrum.balanced), spectrum)
    bias = bias_at(start.model, flow, rates, moment)
    here, ascended = norms(start, flow, jets, log, bias)
    log_factor, there = _log_factor(flow, ascended), jnp.isfinite(here)
    moves = jnp.where(there, 1.0, jnp.zeros_like(here))
    if flow.sam_radius is None:
        return Velocity(moves[None], log_factor[None])
    rho = jnp.asarray(flow.sam_radius, y.dtype) / jnp.maximum(rates.r1, rates.r2)
    return Velocity(jnp.stack([moves, moves * rho]), jnp.stack([log_factor, log_factor - jnp.where(there, here, 0.0)]))


def _size(data: _Data, y: jax.Array) -> jax.Array:
    """The largest change of an exponent that a change of (zeta, q) makes, ()."""
    start, flow, rates = data
    k = block(start.spectrum.values, rates)
    _, _, _, plus, minus = roots(k, k.square > 0)
    own = bias_rates(start.model, flow, rates)
    nodes = jnp.concatenate([plus, minus, jnp.stack([rates.a, rates.c, own.decay])])
    sizes = jnp.abs(nodes) * jnp.abs(y[0])
    if flow.sam_radius is not None:
        sizes = sizes + nodes**2 * jnp.abs(y[1])
    return jnp.max(sizes)


def _paces(slopes: bool, start: Start, descent: Descent, first: jax.Array, updates: int) -> Paces:
    """The paces of the updates of a descent, from a recursion of the modes and of the norms that they make."""
    model, spectrum = start.model, start.spectrum
    g = spectrum.values
    dtype = g.dtype
    none = jnp.zeros((), dtype)

    def step(carry: tuple[Jets, BiasCoefficients, jax.Array], k: jax.Array) -> tuple[Any, Paces]:
        jets, bias, power = carry
        _, rates = rates_of(model, descent, (first + k).astype(dtype))
        found = norms(start, descent, jets, power.astype(dtype) * math.log(2.0), bias)
        pace = _pace(descent, model, found)

        def moved(c: Coefficients, g: jax.Array) -> Coefficients:
            slope = downhill(c, g, model)
            change = times_rates(rates, along(pace, slope, downhill(slope, g, model)))
            by = fraction(pace.power, dtype)
            return jax.tree.map(lambda old, new: by * old + new, c, change)

        jets = jets_of(moved, jets, spectrum)
        decay = model.decays.b
        bias = BiasCoefficients(
            bias.b_from_b - rates.b * pace.push_b * decay * bias.b_from_b,
            bias.b_from_drift + rates.b * pace.push_b * (1 - decay * bias.b_from_drift),
        )
        out = drift(largest(*jax.tree.leaves(jets[0])), 30)
        by = power_of_two(-out, dtype)
        jets = tuple(jax.tree.map(lambda leaf: by * leaf, jet) for jet in jets)
        return (jets, bias, power + pace.power + out), pace

    one = dataclasses.replace(identity(g), F_from_F=jnp.ones_like(g))
    begin = (
        constant(one, slopes and not spectrum.balanced),
        BiasCoefficients(none + 1, none),
        jnp.zeros((), jnp.int32),
    )
    _, paces = jax.lax.scan(jax.checkpoint(step), begin, jnp.arange(updates))
    return paces


def _pace(descent: Descent, model: LayerPeeled, found: Norms) -> Paces:
    """The pace of an update from the norms of its gradients."""
    log_factor = _log_factor(descent, found.ascended)
    ascent, log_ascent = jnp.zeros_like(log_factor), jnp.full_like(log_factor, -jnp.inf)
    if descent.sam_radius is not None:
        ascent, log_ascent = _ascent(descent, found.here)
    # What is far larger than 1 enlarges the state at once, by as many powers of two.
    log2 = jax.lax.stop_gradient(log_factor + jnp.maximum(log_ascent, 0.0)) / math.log(2.0)
    power = jnp.where(log2 > 20, jnp.round(log2), 0.0).astype(jnp.int32)
    less = power.astype(log_factor.dtype) * math.log(2.0)
    push, most = jnp.exp(log_factor - less), math.log(float(jnp.finfo(less.dtype).max)) / 2
    both = push * ascent
    if descent.sam_radius is not None:
        rho = jnp.asarray(descent.sam_radius, less.dtype)
        inverse = jnp.where(jnp.isfinite(found.here), -jnp.where(jnp.isfinite(found.here), found.here, 0.0), -jnp.inf)
        both = rho * jnp.exp(log_factor + inverse - less)
    push_b = jnp.exp(jnp.minimum(log_factor, most)) * (1 + ascent * model.decays.b)
    return Paces(push, both, power, push_b)
