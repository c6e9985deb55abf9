"""Descent whose steps differ: the ordered product of one-step matrices, one small matrix a mode.

Each mode carries its coefficients through every update, with momentum if there is any. All terms are sums of
non-negative ones while no factor oscillates, so nothing cancels where eigenvalues meet; powers of two are taken out on
the way.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax import _loop
from unhinged_jax.dynamics import Descent, rate_at
from unhinged_jax.model import LayerPeeled

_DRIFT = 30  # powers of two that a column may drift before it is rescaled


def _mode_force(x: dict[str, jax.Array], g: jax.Array, decay_H: Any, decay_W: Any) -> dict[str, jax.Array]:
    """B' = W - l1 B and W' = keep F_0 + g B - l2 W, on the coefficients of W_0 and F_0."""
    return {
        "own": g * x["carry"] - decay_W * x["own"],
        "feed": x["keep"] + g * x["lift"] - decay_W * x["feed"],
        "carry": x["own"] - decay_H * x["carry"],
        "lift": x["feed"] - decay_H * x["lift"],
        "keep": -decay_H * x["keep"],
    }


def _scalar_force(x: dict[str, jax.Array], decay_W: Any) -> dict[str, jax.Array]:
    return {
        "hold": -decay_W * x["hold"],
        "drive": 1 - decay_W * x["drive"],
    }


_RATE = {"own": 1, "feed": 1, "hold": 1, "drive": 1, "carry": 0, "lift": 0, "keep": 0}


def _identity(g: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """All coefficients before the first update: the state is its start."""
    one, zero, zeros = jnp.ones((), g.dtype), jnp.zeros((), g.dtype), jnp.zeros_like(g)
    modes = {"own": jnp.ones_like(g), "feed": zeros, "carry": zeros, "lift": zeros, "keep": one}
    return {"full": modes, "rest": modes, "scalars": {"hold": one, "drive": zero}}


def products(
    model: LayerPeeled,
    descent: Descent,
    reads: _loop.Reads,
    first: jax.Array,
    g: jax.Array,
    mask: jax.Array,
    nodes: jax.Array,
    present: jax.Array,
    pushed: bool = False,
) -> dict[str, Any]:
    """Run all coefficients through the updates; every value gets a leading axis of reads.

    `nodes` are the winning mu+ and mu-, -r1 l1 and -r2 l2 (of proportional rates); p is recorded at each of them.
    Coefficients of modes that are not `present` do not decide on the scale, and end where their type does. They are
    those of a start at rest, or, if it is `pushed`, those of a velocity at a start of zeros. "v" holds what they make
    of the velocity.
    """
    dtype = g.dtype
    moves = (1.0 if model.moves.H else 0.0, 1.0 if model.moves.W else 0.0)
    x = _identity(g)
    squares = {"full": g, "rest": g * (1 - mask)}

    def force(x: dict) -> dict:
        out = {name: _mode_force(x[name], squares[name], model.decay_H, model.decay_W) for name in squares}
        return {**out, "scalars": _scalar_force(x["scalars"], model.decay_W)}

    at_rest, moving = (x, jnp.ones(4, dtype)), jax.tree.map(jnp.zeros_like, (x, jnp.ones(4, dtype)))
    if pushed:
        at_rest, moving = moving, at_rest
    carry = {
        "x": at_rest[0],
        "v": moving[0],
        "nodes": at_rest[1],
        "node_v": moving[1],
        "power": {"full": jnp.zeros((), jnp.int32), "rest": jnp.zeros((), jnp.int32), "nodes": jnp.zeros(4, jnp.int32)},
    }
    beta = None if descent.momentum is None else jnp.asarray(descent.momentum, dtype)

    def momentum(gradient: Any, velocity: Any) -> tuple[Any, Any]:
        if beta is None:
            return gradient, velocity
        velocity = jax.tree.map(lambda d, v: d + beta * v, gradient, velocity)
        if descent.nesterov:
            return jax.tree.map(lambda d, v: d + beta * v, gradient, velocity), velocity
        return velocity, velocity

    def step(carry: dict, k: jax.Array) -> dict:
        time = (first + k).astype(dtype)
        eta = jnp.asarray(descent.schedule(time), dtype)
        rates = [
            eta * moved * jnp.asarray(rate_at(rate, time), dtype)
            for moved, rate in zip(moves, (descent.rate_H, descent.rate_W), strict=True)
        ]
        change, v = momentum(force(carry["x"]), carry["v"])
        x = {
            group: {name: value + rates[_RATE[name]] * change[group][name] for name, value in values.items()}
            for group, values in carry["x"].items()
        }
        shift, node_v = momentum(nodes * carry["nodes"], carry["node_v"])
        at_nodes = carry["nodes"] + eta * shift
        return _rescale({"x": x, "v": v, "nodes": at_nodes, "node_v": node_v, "power": carry["power"]}, present)

    kept = ("x", "nodes", "power") if beta is None else ("x", "v", "nodes", "power")
    _, saved, _ = _loop.run(step, carry, reads, lambda carry: {name: carry[name] for name in kept})
    return saved


def _rescale(carry: dict, present: jax.Array) -> dict:
    x, v, power = dict(carry["x"]), dict(carry["v"]), dict(carry["power"])
    most = float(jnp.finfo(present.dtype).max) ** 0.5

    def within(a: jax.Array, factor: jax.Array) -> jax.Array:
        a = a * factor
        return a if a.ndim == 0 else jnp.where(present > 0, a, jnp.clip(a, -most, most))

    for group in ("full", "rest"):
        sizes = [jnp.abs(value) if value.ndim == 0 else present * jnp.abs(value) for value in x[group].values()]
        drift, factor = _excess(jnp.max(jnp.stack([jnp.max(size) for size in sizes])))
        x[group] = jax.tree.map(lambda a, factor=factor: within(a, factor), x[group])
        v[group] = jax.tree.map(lambda a, factor=factor: within(a, factor), v[group])
        power[group] = power[group] + drift
    drift, factor = _excess(jnp.abs(carry["nodes"]))
    power["nodes"] = power["nodes"] + drift
    nodes, node_v = carry["nodes"] * factor, carry["node_v"] * factor
    return {"x": x, "v": v, "nodes": nodes, "node_v": node_v, "power": power}


def _excess(size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Powers of two to take out of a size, 0 unless it has drifted far, and the factor that does it."""
    fine = (size > 0) & jnp.isfinite(size)
    power = jnp.round(jnp.log(jnp.where(fine, size, 1.0)) / math.log(2.0)).astype(jnp.int32)
    power = jax.lax.stop_gradient(jnp.where(jnp.abs(power) > _DRIFT, power, 0))
    return power, jnp.ldexp(jnp.ones((), size.dtype), -power)
