"""The coefficients of the modes at the requested times.

They are those of p(K) for the 2 x 2 block K of every mode (see `modes`), with

    p(x) = e^{x (zeta(t) - zeta(t_0))} for a flow,    p(x) = (1 + eta x)^k for equal steps,

and of the ordered product of (I + eta_k K_k) for steps that differ, momentum, and rates that are not proportional.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Shaped

from unhinged_jax import _check
from unhinged_jax._loop import Reads
from unhinged_jax._request import Task
from unhinged_jax.closed_form.flow import Moment, coefficients_at
from unhinged_jax.closed_form.modes import (
    BiasCoefficients,
    Coefficients,
    Modes,
    descent_coefficients,
    exponents,
    log_factor,
    power,
    quotient,
    winning_nodes,
)
from unhinged_jax.closed_form.second_order import Part, parts
from unhinged_jax.closed_form.updates import Held, Paces, products
from unhinged_jax.dynamics import Descent, Dynamics, Flow, carried_by
from unhinged_jax.linear.rates import Rates, bias_rates, unit_rates
from unhinged_jax.linear.spectrum import BalancedSpectrum, Spectrum
from unhinged_jax.model import LayerPeeled
from unhinged_jax.schedules import Constant
from unhinged_jax.schedules.elapsed import elapsed, integrated_outside
from unhinged_jax.special import phi1, safe_log


class Beside(NamedTuple):
    """The coefficients of a velocity, or of another slot of a memory, at one time.

    Attributes:
        modes: Those of H and W, divided by e^log_full.
        bias: Those of the biases.
    """

    modes: Coefficients
    bias: BiasCoefficients


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    """Everything that is needed to evaluate a moment. The shapes are those of one time; all have a leading axis (T,).

    Attributes:
        full: Coefficients of all modes, (k,) each and H_from_H (), divided by e^log_full.
        log_full: That logarithm, ().
        rest: Coefficients of the remainder, with g = 0 for the winning modes, divided by e^log_rest.
        log_rest: That logarithm, ().
        log_powers: log |p| at the four nodes: mu+ and mu- of the winning modes, -r1 l1 and -r2 l2, (4,).
        signs: The sign of p at the four nodes, (4,).
        bias: Coefficients of the biases, ().
        beside: What is carried beside the state: the coefficients of a velocity, or of the other slots of a memory.
        pushed: If the run begins with a velocity, or with slots, the record of each from a start of zeros.
    """

    full: Coefficients
    log_full: Float[jax.Array, "*T"]
    rest: Coefficients
    log_rest: Float[jax.Array, "*T"]
    log_powers: Float[jax.Array, "*T 4"]
    signs: Float[jax.Array, "*T 4"]
    bias: BiasCoefficients
    beside: tuple[Beside, ...] = ()
    pushed: tuple[Record, ...] = ()


class Clock(NamedTuple):
    """When a run is read.

    Attributes:
        times: The requested times, (T,).
        reads: After which updates a descent is read: `Updates` if its coefficients have a closed form, else `Reads`.
            None for a flow.
        first: The time, or the number of updates, at which the run begins, ().
    """

    times: Shaped[jax.Array, "T"]
    reads: Reads | Updates | None
    first: Shaped[jax.Array, ""]


class Updates(NamedTuple):
    """Numbers of updates as floating-point numbers.

    Attributes:
        number: The numbers, (T,).
        odd: Which of them are odd, (T,), because float32 has no odd numbers beyond 2^24.
    """

    number: Float[Any, "T"]
    odd: Bool[Any, "T"]


def updates_at(times: np.ndarray, start: int) -> Updates:
    """The numbers of updates since `start`, counted in 64 bits whatever the precision."""
    after = np.asarray(times, np.int64) - start
    return Updates(after.astype(jnp.result_type(float)), after % 2 == 1)


def closed(dynamics: Dynamics) -> bool:
    """Whether the coefficients have a closed form that needs no product over steps."""
    if isinstance(dynamics, Flow):
        return True
    numbers = not any(map(callable, dynamics.rates)) and not dynamics.paced
    return numbers and not carried_by(dynamics) and isinstance(dynamics.schedule, Constant)


def timeline(
    model: LayerPeeled,
    dynamics: Dynamics,
    clock: Clock,
    modes: Modes,
    pushed: int = 0,
    pace: Moment | Paces | None = None,
) -> Record:
    """The record of a run, with those of as many velocities or other slots as are `pushed`, with which it begins.

    `pace` says how fast it goes where the norm of its gradient decides: the moments of a flow, the paces of a descent.
    """
    if isinstance(dynamics, Flow) and carried_by(dynamics):
        return _second_order_timeline(model, dynamics, clock, modes, pushed)
    if isinstance(dynamics, Flow):
        assert not isinstance(pace, Paces)
        moments = Moment(taus_of(dynamics, clock).astype(modes.squares.dtype)) if pace is None else pace
        return _flow_timeline(model, dynamics, moments, modes)
    assert isinstance(dynamics, Descent)
    if isinstance(clock.reads, Updates):
        return _equal_steps_timeline(model, dynamics, clock.reads, modes)
    assert clock.reads is not None
    assert not isinstance(pace, Moment)
    given = model, dynamics, clock.reads, clock.first, modes
    record = _product_timeline(*given, place=0 if pushed else None, pace=pace)
    others = tuple(_product_timeline(*given, place=place) for place in range(1, pushed + 1))
    return dataclasses.replace(record, pushed=others)


def taus_of(flow: Flow, clock: Clock) -> Float[jax.Array, "T"]:
    """The integral of the rate from the start of a flow to the requested times, (T,)."""
    return flow.schedule.integral(clock.times) - flow.schedule.integral(clock.first)


def _flow_timeline(model: LayerPeeled, flow: Flow, moments: Moment, modes: Modes) -> Record:
    """The record of a flow."""
    g, present = modes.squares, modes.present
    rates, others = unit_rates(model, flow, g.dtype), g * (1 - modes.winning)
    nodes = winning_nodes(modes, rates)

    def at(moment: Moment) -> Record:
        return Record(
            *coefficients_at(g, rates, moment, present),
            *coefficients_at(others, rates, moment, present, jax.lax.stop_gradient(moment.log_power(nodes[1]))),
            moment.log_power(nodes),
            jnp.ones_like(nodes),
            bias_at(model, flow, rates, moment),
        )

    return jax.vmap(at)(moments)


def bias_at(model: LayerPeeled, flow: Flow, rates: Rates, moment: Moment) -> BiasCoefficients:
    """The coefficients of the biases of a flow at a moment."""
    own, age = bias_rates(model, flow, rates), moment.zeta
    if moment.damped is not None:  # in units of the rate of H and W, which is the same for both
        age = age + model.decays.b * jnp.maximum(rates.r1, rates.r2) * moment.damped
    return BiasCoefficients(jnp.exp(-own.decay * age), own.rate * age * phi1(own.decay * age))


def _second_order_timeline(model: LayerPeeled, flow: Flow, clock: Clock, modes: Modes, pushed: int) -> Record:
    """The record of a flow of second order, or of an average."""

    def record(found: Part) -> Record:
        return Record(*found[:7], (Beside(found.speed, found.bias_speed),))

    def at(elapsed: jax.Array) -> Record:
        of_state, of_other = parts(model, flow, elapsed, modes, clock.first.astype(elapsed.dtype), bool(pushed))
        return dataclasses.replace(record(of_state), pushed=(record(of_other),) if pushed else ())

    return jax.vmap(at)((clock.times - clock.first).astype(modes.squares.dtype))


def _equal_steps_timeline(model: LayerPeeled, descent: Descent, updates: Updates, modes: Modes) -> Record:
    """The record of a descent with equal steps and without momentum."""
    g, present = modes.squares, modes.present
    rates, others = unit_rates(model, descent, g.dtype), g * (1 - modes.winning)
    own = bias_rates(model, descent, rates)
    nodes = winning_nodes(modes, rates)
    eta = jnp.asarray(descent.schedule(0), g.dtype)

    def at(count: jax.Array, odd: jax.Array) -> Record:
        def log_power(x: jax.Array) -> jax.Array:
            return count * log_factor(eta * x)

        def coefficients(g: jax.Array, least: ArrayLike) -> tuple[Coefficients, jax.Array]:
            log_scale, by_mode = exponents(g, rates, log_power, present)
            log_scale, by_mode = (jnp.maximum(log, least) for log in (log_scale, by_mode))
            found = descent_coefficients(g, rates, eta, count, by_mode, odd)
            return dataclasses.replace(found, H_from_H=power(-eta * rates.a, count, log_scale, odd)), log_scale

        zero = jnp.zeros_like(eta)
        return Record(
            *coefficients(g, -jnp.inf),
            *coefficients(others, jax.lax.stop_gradient(log_power(nodes[1]))),
            log_power(nodes),
            jnp.where((1 + eta * nodes < 0) & odd, -1.0, 1.0),
            BiasCoefficients(
                power(-eta * own.decay, count, zero, odd),
                own.rate * quotient(zero, -own.decay, own.decay, eta, count, zero, odd),
            ),
        )

    return jax.vmap(at)(updates.number.astype(g.dtype), updates.odd)


def _product_timeline(
    model: LayerPeeled,
    descent: Descent,
    reads: Reads,
    first: jax.Array,
    modes: Modes,
    place: int | None = None,
    pace: Paces | None = None,
) -> Record:
    """The record from ordered products of one-step matrices: any schedule, rates that are not proportional, momentum.

    Source: beyond the paper.
    """
    dtype = modes.squares.dtype
    nodes = jnp.zeros(4, dtype)
    if descent.proportional:
        nodes = winning_nodes(modes, unit_rates(model, descent, dtype))
    saved = products(model, descent, reads, first, modes, nodes, place=place, paces=pace)
    log_full, log_rest, log_nodes = (power.astype(dtype) * jnp.log(jnp.asarray(2.0, dtype)) for power in saved.power)
    log_powers = safe_log(jnp.abs(saved.nodes)) + log_nodes
    # The decaying part of the winning modes, p(mu-), belongs to the remainder. With large steps it may be the largest.
    above = jax.lax.stop_gradient(jnp.maximum(log_powers[:, 1] - log_rest, 0.0))
    rest = jax.tree.map(lambda part: part * jnp.exp(-above).reshape(-1, *(1,) * (part.ndim - 1)), saved.x.rest)
    return Record(
        saved.x.full,
        log_full,
        rest,
        log_rest + above,
        log_powers,
        jnp.sign(saved.nodes),
        saved.x.bias,
        _beside(descent, saved.v),
    )


def _beside(descent: Descent, carried: Held | None) -> tuple[Beside, ...]:
    """What a run carries beside its state, from what `products` has of it."""
    if carried is None:
        return ()
    if descent.memory is None:
        return (Beside(carried.full, carried.bias),)
    slots = range(len(descent.memory.first) - 1)
    every = (jax.tree.map(lambda leaf, i=i: leaf[:, i], carried) for i in slots)
    return tuple(Beside(slot.full, slot.bias) for slot in every)


def with_slopes(record_of: Callable[[jax.Array], Record], spectrum: Spectrum) -> tuple[Record, Record]:
    """The record, and its first and second derivatives with respect to the squared singular values.

    The two derivatives are stacked on an axis after that of the times. Each coefficient depends on one value alone.
    """
    g = spectrum.values
    if isinstance(spectrum, BalancedSpectrum):
        record = record_of(g)
        return record, record  # the second is not read, because balanced modes need no derivatives

    def along(function: Callable[[jax.Array], Record]) -> Any:
        return lambda g: jax.jvp(function, (g,), (jnp.ones_like(g),))

    record, first = along(record_of)(g)
    _, second = along(lambda g: along(record_of)(g)[1])(g)
    return record, jax.tree.map(lambda *both: jnp.stack(both, axis=1), first, second)


def unit_clock(dynamics: Dynamics, task: Task, times: jax.Array) -> tuple[jax.Array, jax.Array | None, Dynamics]:
    """Times, start (None for that of the task) and dynamics; in zeta for a flow whose schedule is a function.

    A flow depends on time only through zeta, so the times become values of zeta, and the schedule becomes 1. zeta is
    integrated here, outside the compiled function, where the error of the integration can be checked.
    """
    known = _check.concrete((task.times, task.first))
    if not (isinstance(dynamics, Flow) and known and integrated_outside(dynamics.schedule)):
        return times, None, dynamics
    zeta = elapsed(dynamics.schedule, task.first, task.times)
    return jnp.asarray(zeta), jnp.zeros(()), dataclasses.replace(dynamics, schedule=1.0)
