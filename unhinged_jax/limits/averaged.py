"""The limit of an average of the states of a run: of `PolyakAverage` and `MovingAverage`, and of `ScheduleFree`.

An average of z^k that has forgotten nothing, or that keeps kappa of itself, falls no faster than a floor,

    (1/k) sum_j z^j,    (1 - kappa) sum_j kappa^(k - j) z^j    >=    1/k,    kappa^k,

so if a run grows beyond the floor, its average has the same direction and exponent, and what falls behind the winner
does so at most at the rate exponent - floor. Below the floor all parts fall alike, with the directions

    sum_j Z_j = -(eta K)^-1 Z_0,    K (K + (1 - kappa)/eta)^-1 Z_0,

those of the same average of a flow with a rate of eta that forgets at the rate 1 - kappa.

Schedule-free descent from Z_0 has, with y = eta x and w = 1 + (1 - beta) y, the generating function

    sum_k x_k s^k = -w/(beta y) + (1 + y)/(beta y) ((1 - s)/(1 - w s))^q,    q = beta/(1 - beta),

so x_k grows like w^k k^(q-1), and what does not grow falls like k^(-q-1), whose coefficients vanish if q is 1, 2, ...

Source: beyond the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent, Dynamics, Flow, MovingAverage, PolyakAverage, ScheduleFree
from unhinged_jax.limits.linear import direction_of
from unhinged_jax.limits.result import ALIKE, FADES, MEAN, Limit
from unhinged_jax.model import LayerPeeled, State, multiplied

_AVERAGES = PolyakAverage, MovingAverage, ScheduleFree
Solver = Callable[[LayerPeeled, Any, State, str], Limit]


def averages(dynamics: Dynamics) -> bool:
    """Whether what is observed is an average of states."""
    return isinstance(dynamics.memory, _AVERAGES)


def averaged(
    model: LayerPeeled, dynamics: Flow | Descent, state: State, target: str, solve: Solver, precision: str
) -> Limit:
    """The limit of the average, from that of the run, which `solve` finds."""
    memory, dtype = dynamics.memory, state.W.dtype
    bare = dynamics if isinstance(memory, ScheduleFree) else dataclasses.replace(dynamics, memory=None)
    run = solve(model, bare, state, target)
    own, zero = run.exponent, jnp.zeros((), dtype)
    if isinstance(memory, ScheduleFree):
        floor = jnp.where(_ends(memory, own), -jnp.inf, zero)
    elif isinstance(memory, MovingAverage):
        keep = jnp.asarray(memory.keep, dtype)
        floor = jnp.log(jnp.maximum(keep, jnp.finfo(dtype).tiny))
        if isinstance(dynamics, Flow):  # which keeps it per unit of time, and exponents are per unit of zeta
            floor = floor / jnp.asarray(dynamics.schedule(0), dtype)
    else:
        floor = zero

    def behind(rate: jax.Array) -> jax.Array:
        return jnp.where(jnp.isfinite(rate), jnp.minimum(rate, own - floor), rate)

    above: dict[str, Any] = {name: behind(getattr(run, name)) for name in ("rate", "rate_H", "rate_W")}
    found = dataclasses.replace(run, **above)
    if isinstance(memory, PolyakAverage):  # of z^k it has z^k/(k (z - 1))
        alternates = run.angle == jnp.asarray(jnp.pi, dtype)
        turned = jnp.where(alternates & (own > 0), -1.0, jnp.where(alternates & (own == 0), jnp.nan, 1.0))
        settles = (own == 0) & (run.ending == 0) & (run.moving == "driven")
        ending = jnp.where(settles, MEAN, run.ending)
        found = dataclasses.replace(found, direction=_times(turned, run.direction, model), ending=ending)
    if run.moving != "both":
        return found if isinstance(memory, ScheduleFree) else _of_two_states(model, dynamics, state, found, precision)
    dies = own < floor
    if isinstance(memory, ScheduleFree):
        nowhere = jnp.full_like(state.H, jnp.nan), jnp.full_like(state.W, jnp.nan)
        back = _sign(memory, run)
        found = dataclasses.replace(found, direction=_times(back, run.direction, model))
        left, rate, ending = State(*nowhere, run.direction.b), zero, ALIKE
    else:
        left = _below(model, dynamics, state, target, solve, precision)
        left = dataclasses.replace(left, b=run.direction.b)
        rate, ending = floor - own, FADES if isinstance(memory, PolyakAverage) else 0
    below: dict[str, Any] = {"direction": left, "exponent": floor, "angle": zero, "ending": ending}
    below |= dict.fromkeys(("rate", "rate_H", "rate_W"), rate)
    chosen = {
        name: jax.tree.map(lambda one, other: jnp.where(dies, one, other), value, getattr(found, name))
        for name, value in below.items()
    }
    return dataclasses.replace(found, **chosen)


def _of_two_states(model: LayerPeeled, dynamics: Flow | Descent, state: State, found: Limit, precision: str) -> Limit:
    """The limit of the average, also of a descent of one part that goes to and fro between the start and what follows.

    Their mean is left, and of a moving average the share (1 - kappa)/(1 + kappa) of what they differ by.
    """
    memory, dtype = dynamics.memory, state.W.dtype
    between = (found.exponent == 0) & (found.angle == jnp.asarray(jnp.pi, dtype))
    if isinstance(dynamics, Flow) or (_check.concrete(between) and not bool(np.any(between))):
        return found
    share = jnp.zeros((), dtype)
    if isinstance(memory, MovingAverage):
        keep = jnp.asarray(memory.keep, dtype)
        share = (1 - keep) / (1 + keep)
    after = exact(model, dataclasses.replace(dynamics, memory=None), state, [1], (), precision=precision).final
    common = jnp.maximum(jnp.asarray(state.log_scale, dtype), after.log_scale)
    ends = [multiplied(end.replace(log_scale=end.log_scale - common)) for end in (state, after)]
    H, W = ((1 + share) / 2 * one + (1 - share) / 2 * other for one, other in zip(*ends, strict=True))
    mean = direction_of(model, State(H, W, found.direction.b, common))
    angle = jnp.zeros((), dtype) if isinstance(memory, PolyakAverage) else found.angle
    return dataclasses.replace(
        found,
        direction=jax.tree.map(lambda one, other: jnp.where(between, one, other), mean, found.direction),
        angle=jnp.where(between, angle, found.angle),
    )


def _below(
    model: LayerPeeled, dynamics: Flow | Descent, state: State, target: str, solve: Solver, precision: str
) -> State:
    """The direction of the average of a run that falls faster than the average can."""
    memory, dtype = dynamics.memory, state.W.dtype
    eta = jnp.asarray(dynamics.schedule(0), dtype)
    unit = Flow(eta, dynamics.rate_H, dynamics.rate_W, rate_b=dynamics.rate_b)
    forgets = jnp.zeros((), dtype)
    if isinstance(memory, MovingAverage):
        keep = jnp.asarray(memory.keep, dtype)
        if isinstance(dynamics, Descent):
            memory = MovingAverage(jnp.exp(keep - 1))
        forgets = memory.share_at(jnp.zeros((), dtype))
    slowest = eta * solve(model, unit, state, target).exponent + forgets
    late = 1000 / jnp.where(slowest < 0, -slowest, 1.0)  # when nothing of e^(x t) is left beside what is forgotten
    average = dataclasses.replace(unit, memory=memory)
    last = exact(model, average, state, jax.lax.stop_gradient(late)[None], (), precision=precision).final
    return direction_of(model, last)


def _ends(memory: ScheduleFree, like: jax.Array) -> jax.Array:
    """Whether q is 1, 2, ... up to rounding, so that no power of k is left."""
    beta = jnp.asarray(memory.beta, like.dtype)
    q = beta / jnp.where(beta < 1, 1 - beta, 1.0)
    near = jnp.round(q)
    slack = 4 * jnp.finfo(like.dtype).eps * (1 + q) ** 2
    return (beta < 1) & (near >= 1) & (jnp.abs(q - near) <= slack)


def _sign(memory: ScheduleFree, run: Limit) -> jax.Array:
    """The sign of (1 + y)/y (1 - 1/w)^q, for a whole q if 0 < w < 1."""
    beta = jnp.asarray(memory.beta, run.exponent.dtype)
    w = jnp.exp(run.exponent) * jnp.where(run.angle > 0, -1.0, 1.0)
    y = (w - 1) / jnp.where(beta < 1, 1 - beta, 1.0)
    q = jnp.round(beta / jnp.where(beta < 1, 1 - beta, 1.0))
    turned = (run.exponent < 0) & (run.angle == 0) & (jnp.mod(q, 2) == 1)
    return jnp.where((1 + y) * y < 0, -1.0, 1.0) * jnp.where(turned, -1.0, 1.0)


def _times(sign: jax.Array, state: State, model: LayerPeeled) -> State:
    """The state with the sign of what moves multiplied in."""
    H, W = (sign * part if moves else part for part, moves in zip((state.H, state.W), model.moves, strict=False))
    return dataclasses.replace(state, H=H, W=W)
