"""Coefficients of the modes at requested times: closed forms for flow and equal steps, ordered products otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax._loop import Reads
from unhinged_jax.closed_form.modes import (
    Coefficients,
    block,
    descent_coefficients,
    exponents,
    flow_coefficients,
    log_factor,
    power,
    quotient,
    roots,
)
from unhinged_jax.closed_form.updates import products
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.linear.rates import Rates, unit_rates
from unhinged_jax.model import LayerPeeled
from unhinged_jax.schedules import Constant
from unhinged_jax.special import phi1, safe_log


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    """Everything a moment needs, each with a leading axis of times.

    `full` and `rest` are coefficients over e^log_full and e^log_rest; in `rest` the winning modes (mask 1) are left
    out. `log_powers` and `signs`: log |p| and sign of p at the winning mu+, mu-, at -r1 l1 and at -r2 l2.
    `hold` and `drive` give the bias, b = hold b_0 + drive M^T 1. Of a descent with momentum `velocity` holds what these
    three have become of the velocity, the coefficients over e^log_full, too. `pushed` is the record of a velocity that
    the run begins with, from a start of zeros.
    """

    full: Coefficients
    log_full: jax.Array
    rest: Coefficients
    log_rest: jax.Array
    log_powers: jax.Array
    signs: jax.Array
    hold: jax.Array
    drive: jax.Array
    velocity: tuple[Coefficients, jax.Array, jax.Array] | None = None
    pushed: Record | None = None


class Updates(NamedTuple):
    """Numbers of updates as floating-point numbers, and which are odd: in float32 none is beyond 2^24."""

    number: jax.Array
    odd: jax.Array


def updates_at(times: np.ndarray, start: int) -> Updates:
    """Numbers of updates since `start`, counted in 64 bits in any precision."""
    after = np.asarray(times, np.int64) - start
    return Updates(jnp.asarray(after.astype(float)), jnp.asarray(after % 2 == 1))


def closed(dynamics: Dynamics) -> bool:
    """Whether the coefficients have a closed form, without a product over steps."""
    if isinstance(dynamics, Flow):
        return True
    return dynamics.proportional and dynamics.momentum is None and isinstance(dynamics.schedule, Constant)


def timeline(
    model: LayerPeeled,
    dynamics: Dynamics,
    times: Any,
    reads: Reads | Updates | None,
    first: Any,
    g: jax.Array,
    mask: jax.Array,
    present: jax.Array,
    pushed: bool = False,
) -> Record:
    """The record of a run for squared singular values g, shape (k,).

    `mask` is 1 on the winning ones, `present` on those that the start has a part in.

    `reads` says after which updates to save: as `Updates` for descents with a closed form, as `Reads` for others.
    `pushed`: with the record of a velocity that the run begins with.
    """
    if isinstance(dynamics, Flow):
        return _flow_timeline(model, dynamics, times, first, g, mask, present)
    if isinstance(reads, Updates):
        return _equal_steps_timeline(model, dynamics, reads, g, mask, present)
    assert reads is not None
    record = _product_timeline(model, dynamics, reads, first, g, mask, present)
    if not pushed:
        return record
    velocity = _product_timeline(model, dynamics, reads, first, g, mask, present, pushed=True)
    return dataclasses.replace(record, pushed=velocity)


def _winning_nodes(g: jax.Array, mask: jax.Array, rates: Rates) -> jax.Array:
    """mu+ and mu- of the winning modes, -a and -c."""
    top = jnp.sum(mask * g) / jnp.maximum(jnp.sum(mask), 1.0)
    k = block(top, rates)
    _, _, _, plus, minus = roots(k, k.square > 0)
    plus, minus = (jnp.where(k.square > 0, node, k.mean) for node in (plus, minus))
    return jnp.stack([plus, minus, -rates.a, -rates.c])


def _flow_timeline(
    model: LayerPeeled,
    flow: Flow,
    times: jax.Array,
    first: jax.Array,
    g: jax.Array,
    mask: jax.Array,
    present: jax.Array,
) -> Record:
    rates, others = unit_rates(model, flow, g.dtype), g * (1 - mask)
    nodes = _winning_nodes(g, mask, rates)
    taus = flow.schedule.integral(times) - flow.schedule.integral(first)

    def at(tau: jax.Array) -> Record:
        def coefficients(g: jax.Array, least: Any) -> tuple[Coefficients, jax.Array]:
            log_scale, by_mode = exponents(g, rates, lambda nodes: nodes * tau, present)
            log_scale, by_mode = (jnp.maximum(log, least) for log in (log_scale, by_mode))
            found = flow_coefficients(g, rates, tau, by_mode)
            return dataclasses.replace(found, keep=jnp.exp(-rates.a * tau - log_scale)), log_scale

        return Record(
            *coefficients(g, -jnp.inf),
            *coefficients(others, jax.lax.stop_gradient(nodes[1] * tau)),
            nodes * tau,
            jnp.ones_like(nodes),
            jnp.exp(-rates.c * tau),
            rates.r2 * tau * phi1(rates.c * tau),
        )

    return jax.vmap(at)(taus.astype(g.dtype))


def _equal_steps_timeline(
    model: LayerPeeled, descent: Descent, updates: Updates, g: jax.Array, mask: jax.Array, present: jax.Array
) -> Record:
    rates, others = unit_rates(model, descent, g.dtype), g * (1 - mask)
    nodes = _winning_nodes(g, mask, rates)
    eta = jnp.asarray(descent.schedule(0), g.dtype)

    def at(count: jax.Array, odd: jax.Array) -> Record:
        def log_power(x: jax.Array) -> jax.Array:
            return count * log_factor(eta * x)

        def coefficients(g: jax.Array, least: Any) -> tuple[Coefficients, jax.Array]:
            log_scale, by_mode = exponents(g, rates, log_power, present)
            log_scale, by_mode = (jnp.maximum(log, least) for log in (log_scale, by_mode))
            found = descent_coefficients(g, rates, eta, count, by_mode, odd)
            return dataclasses.replace(found, keep=power(-eta * rates.a, count, log_scale, odd)), log_scale

        zero = jnp.zeros_like(eta)
        return Record(
            *coefficients(g, -jnp.inf),
            *coefficients(others, jax.lax.stop_gradient(log_power(nodes[1]))),
            log_power(nodes),
            jnp.where((1 + eta * nodes < 0) & odd, -1.0, 1.0),
            power(-eta * rates.c, count, zero, odd),
            rates.r2 * quotient(zero, -rates.c, rates.c, eta, count, zero, odd),
        )

    return jax.vmap(at)(updates.number.astype(g.dtype), updates.odd)


def _product_timeline(
    model: LayerPeeled,
    descent: Descent,
    reads: Reads,
    first: jax.Array,
    g: jax.Array,
    mask: jax.Array,
    present: jax.Array,
    pushed: bool = False,
) -> Record:
    """Ordered products of the one-step matrices: any schedule, rates that are not proportional, momentum.

    Source: beyond the paper.
    """
    if descent.proportional:
        nodes = _winning_nodes(g, mask, unit_rates(model, descent, g.dtype))
    else:
        nodes = jnp.zeros(4, g.dtype)
    saved = products(model, descent, reads, first, g, mask, nodes, present, pushed)
    x, log_two = saved["x"], jnp.log(jnp.asarray(2.0, g.dtype))
    logs = {name: power.astype(g.dtype) * log_two for name, power in saved["power"].items()}

    def coefficients(values: dict[str, jax.Array]) -> Coefficients:
        return Coefficients(**{name: values[name] for name in ("own", "feed", "carry", "lift", "keep")})

    velocity = None
    if "v" in saved:
        v = saved["v"]
        velocity = coefficients(v["full"]), v["scalars"]["hold"], v["scalars"]["drive"]
    scalars, log_powers = x["scalars"], safe_log(jnp.abs(saved["nodes"])) + logs["nodes"]
    # What falls of the winning modes, p(mu-), belongs to the rest, and with large steps it may be the largest part.
    above = jax.lax.stop_gradient(jnp.maximum(log_powers[:, 1] - logs["rest"], 0.0))
    rest = jax.tree.map(lambda part: part * jnp.exp(-above).reshape(-1, *(1,) * (part.ndim - 1)), x["rest"])
    return Record(
        coefficients(x["full"]),
        logs["full"],
        coefficients(rest),
        logs["rest"] + above,
        log_powers,
        jnp.sign(saved["nodes"]),
        scalars["hold"],
        scalars["drive"],
        velocity,
    )
