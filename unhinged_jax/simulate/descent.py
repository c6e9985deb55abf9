"""Gradient descent: a compiled loop of plain, momentum or any optax updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from unhinged_jax import _scan
from unhinged_jax.dynamics import Descent, rate_at
from unhinged_jax.model import settled
from unhinged_jax.observables import Plan, View
from unhinged_jax.simulate.system import Body, System, rated, reader
from unhinged_jax.special import power_of_two
from unhinged_jax.trajectory import Result

_RESCALE_BEYOND = 20  # powers of two that a group of arrays may drift before it is rescaled
_TIDY_EVERY = 16  # updates between two cleanings; few, so that neither rounding nor norms can grow far in between


def run(
    system: System,
    descent: Descent,
    reads: _scan.Reads,
    first: jax.Array,
    plan: Plan,
    keep_states: bool,
    memory: Any = None,
) -> dict[str, Any]:
    """Run the descent and read the observables.

    Returns:
        A dictionary with the saved `values` (and `states`), `reached`, the final `view`, `memory`, `updates`, `code`.
    """
    body = system.body()
    dtype = next(iter(body.values())).dtype
    transform = _transformation(descent)
    carry = {
        "body": body,
        "memory": _initial_memory(system, descent, transform, body, memory),
        "lost": jax.tree.map(jnp.zeros_like, body) if system.compensated else {},
        "powers": jnp.zeros(len(system.groups), jnp.int32),
        "updates": jnp.zeros((), jnp.int32),
    }

    def step(carry: dict, k: jax.Array) -> dict:
        time = (first + k).astype(dtype)
        eta = jnp.asarray(descent.schedule(time), dtype)
        rate_H, rate_W = (eta * jnp.asarray(rate_at(r, time), dtype) for r in (descent.rate_H, descent.rate_W))
        downhill = jax.tree.map(jnp.negative, system.velocity(carry["body"]))
        change, memory = transform.update(downhill, carry["memory"], carry["body"])
        moved, lost = _applied(carry["body"], rated(change, rate_H, rate_W), carry["lost"])
        return {**carry, "body": moved, "lost": lost, "memory": memory, "updates": carry["updates"] + 1}

    look = reader(system, plan, keep_states)

    def read(needed: dict) -> dict:
        return look(needed["body"], _logs(system, needed, dtype))

    def settle(before: dict, after: dict) -> tuple[dict, jax.Array]:
        tidy = _rescaled(system, after) if system.groups else after
        return tidy, _in_range(tidy["body"], dtype)

    carry, saved, reached = _scan.run(
        step, carry, reads, read, settle, lambda carry: {name: carry[name] for name in ("body", "powers")},
        (_TIDY_EVERY, lambda carry: _rescaled(system, carry)) if system.groups else None,
    )  # fmt: skip
    complete = carry["updates"] == reads.updates
    return {
        **saved,
        "reached": reached,
        "view": _view(system, carry, dtype),
        "memory": _final_memory(system, descent, carry, dtype),
        "updates": carry["updates"],
        "code": jnp.where(complete, Result.COMPLETED, Result.OVERFLOW),
    }


def _applied(body: Body, change: Body, lost: Body) -> tuple[Body, Body]:
    """The body moved by a change, and what rounding lost of it, which is added to the next one (Kahan's summation)."""
    if not lost:
        return optax.apply_updates(body, change), lost
    change = jax.tree.map(jnp.add, change, lost)
    moved = optax.apply_updates(body, change)
    rounded = jax.tree.map(lambda by, new, old: by - (new - old), change, moved, body)
    return moved, jax.lax.stop_gradient(rounded)


def _transformation(descent: Descent) -> optax.GradientTransformation:
    """Gradients -> updates at unit rate."""
    if descent.optimizer is not None:
        return descent.optimizer
    if descent.momentum is None:
        return optax.scale(-1.0)
    return optax.chain(optax.trace(decay=descent.momentum, nesterov=descent.nesterov), optax.scale(-1.0))


def _view(system: System, carry: dict, dtype: Any) -> View:
    return system.view(carry["body"], _logs(system, carry, dtype))


def _logs(system: System, carry: dict, dtype: Any) -> list[jax.Array]:
    base = getattr(system, "log_scale", jnp.zeros((), dtype))
    logs = carry["powers"].astype(dtype) * jnp.log(jnp.asarray(2.0, dtype)) + base
    return [logs[i] for i in range(len(system.groups))]


def _on_bodies(function: Any, tree: Any) -> Any:
    """Apply to every body-shaped dictionary inside an optimiser's state."""

    def is_body(node: Any) -> bool:
        return isinstance(node, dict)

    return jax.tree.map(lambda node: function(node) if is_body(node) else node, tree, is_leaf=is_body)


def _rescaled(system: System, carry: dict) -> dict:
    """Take powers of two out of every group that has drifted far, and rounding out of the rest."""
    sizes = jnp.stack(system.sizes(carry["body"]))
    ready = (sizes > 0) & jnp.isfinite(sizes)
    power = jnp.round(jnp.log2(jnp.where(ready, sizes, 1.0))).astype(jnp.int32)
    power = jax.lax.stop_gradient(jnp.where(jnp.abs(power) > _RESCALE_BEYOND, power, 0))
    half = power // 2  # 2^-power itself may not be representable
    shrink = power_of_two(-half, sizes.dtype) * power_of_two(half - power, sizes.dtype)
    factors = [shrink[i] for i in range(len(system.groups))]

    def tidy(body: Body) -> Body:
        return system.clean(system.scale(body, factors))

    def tidy_velocity(velocity: Body) -> Body:
        return system.clean_velocity(system.scale(velocity, factors))

    return {
        **carry,
        "body": tidy(carry["body"]),
        "lost": system.scale(carry["lost"], factors) if carry["lost"] else {},
        "memory": _on_bodies(tidy_velocity, carry["memory"]),
        "powers": carry["powers"] + power,
    }


def _initial_memory(
    system: System, descent: Descent, transform: optax.GradientTransformation, body: Body, memory: Any
) -> Any:
    if memory is None:
        return transform.init(body)
    momentum = isinstance(memory, dict)
    if descent.optimizer is None and momentum:
        return (optax.TraceState(trace=system.pack(memory)), optax.EmptyState())
    expected: Any = jax.tree.structure(jax.eval_shape(transform.init, body))
    if momentum or jax.tree.structure(memory) != expected:
        raise ValueError(
            "the trajectory ended with the memory of another optimizer; go on with that one, or start afresh from "
            "`trajectory.final`."
        )
    return memory


def _final_memory(system: System, descent: Descent, carry: dict, dtype: Any) -> Any:
    """The optimiser's own state, or the momentum as a dense velocity that any form of the problem can take up."""
    if descent.optimizer is not None:
        return carry["memory"]
    if descent.momentum is None:
        return None
    log_scale = settled(_view(system, carry, dtype).state()).log_scale
    return system.unpack(carry["memory"][0].trace, _logs(system, carry, dtype), log_scale)


def _in_range(body: Body, dtype: Any) -> jax.Array:
    """Whether every entry is finite and far enough from overflow for observables to be squared."""
    ceiling = float(jnp.finfo(dtype).max) ** 0.5
    return jnp.all(jnp.stack([jnp.max(jnp.abs(part), initial=0.0) < ceiling for part in body.values()]))
