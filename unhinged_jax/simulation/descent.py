"""Gradient descent: a compiled loop of plain updates, updates with momentum, or updates of any optax optimiser.

    x_{k+1} = x_k + eta_k r u_k,    u_k = -dL/dx (plain),    u_k = -v_k, v_k = beta v_{k-1} + dL/dx (momentum)

The rate r is that of the array x: rate_H, rate_W or rate_b.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import PyTree

from unhinged_jax import _loop
from unhinged_jax.dynamics import Noisy, rates_of_step
from unhinged_jax.model import settled
from unhinged_jax.observables import View
from unhinged_jax.optimizers.optimizer import resumed
from unhinged_jax.optimizers.roots import with_slopes
from unhinged_jax.simulation.remembering import Remembering
from unhinged_jax.simulation.system import Body, Reader, System, rated
from unhinged_jax.special import drift, faint, largest, power_of_two
from unhinged_jax.trajectory import RunResult

_LOST = 2**19  # powers of two; no group drifts so far within a block, and sums over a block still fit an integer
CUT_SHORT = -1  # in place of a `RunResult`: the run ended early, and it was not determined exactly where and why
_RESCALE_BEYOND = 20  # powers of two that a group of arrays may drift before it is rescaled
_TIDY_EVERY = 16  # updates between two cleanings; few, so that neither rounding nor norms grow far in between


class Moment(NamedTuple):
    """What is read of a carry."""

    body: Body
    powers: jax.Array
    still: jax.Array


class Carry(NamedTuple):
    """What goes from update to update.

    Attributes:
        body: The arrays that move, over 2^powers, group by group.
        memory: The optimiser's state.
        lost: What rounding lost of the body, to be added to the next change; empty unless the system is compensated.
        powers: Whole numbers, (groups, ...).
        still: Whether every rate so far was 0.
        updates: How many were made.
        code: A `RunResult`.
        there: Which groups were above 0 before the block of updates; None without groups.
    """

    body: Body
    memory: PyTree
    lost: Body
    powers: jax.Array
    still: jax.Array
    updates: jax.Array
    code: jax.Array
    there: jax.Array | None


def run(
    system: System,
    descent: Noisy,
    reads: _loop.Reads,
    first: jax.Array,
    look: Reader,
    memory: PyTree = None,
    to_the_last: bool = True,
    *,
    piece: _loop.Piece | None = None,
) -> dict[str, Any] | _loop.Paused:
    """Run the descent and call `look` after the requested updates.

    A run that leaves the floating-point range ends at the last update within it. If not `to_the_last`, which compiles
    in half the time, it ends somewhere before that update, with the code `CUT_SHORT`.

    Args:
        system: The problem in the form in which it is simulated.
        descent: The dynamics; of a diffusion the steps on its grid.
        reads: After which updates the run is read.
        first: Number of updates made before this run, ().
        look: Reads a moment.
        memory: What the optimiser kept of an earlier run, or the velocity of momentum as dense arrays; None at rest.
        to_the_last: See above.
        piece: What is done next, if the run is made in pieces.

    Returns:
        Where the run pauses, if the piece does not end it. Otherwise:
        A dictionary with the saved `values` (and `states`), `reached`, the final `view`, `memory`, `updates`, `code`.
    """
    body, transform = system.body(), _transformation(descent)
    dtype = next(iter(body.values())).dtype
    one = {name: slots[0] for name, slots in body.items()} if isinstance(system, Remembering) else body
    carry = _start(system, body, _initial_memory(system, descent, transform, one, memory))

    def step(carry: Carry, k: jax.Array) -> Carry:
        rates, now = rates_of_step(descent, first + k, dtype), system.at_update(first + k)
        body = now.looked_at(carry.body) if isinstance(now, Remembering) else carry.body
        downhill = jax.tree.map(jnp.negative, now.velocity_at(body, carry.powers))
        change, memory = transform.update(downhill, carry.memory, body)
        change = rated({**change, **{name: jnp.zeros_like(change[name]) for name in system.stays}}, rates)
        if isinstance(now, Remembering):
            moved, lost = now.moved(carry.body, change), carry.lost
        else:
            moved, lost = _applied(body, change, carry.lost)
        still, updates = carry.still & ~jnp.any(jnp.stack(rates)), carry.updates + 1
        return carry._replace(body=moved, lost=lost, memory=memory, still=still, updates=updates)

    def read(needed: Moment) -> dict:
        return look(needed.body, _logs(system, needed, dtype), needed.still)

    def settle(before: Carry, after: Carry) -> tuple[Carry, jax.Array]:
        return _settled(system, before, after, dtype)

    def alone(before: Carry, after: Carry) -> tuple[Carry, jax.Array]:
        # Rescaling after every step loses no group, so a block in which a group would be lost can continue here.
        tidy = after
        if system.groups:
            sizes = jnp.stack(system.heights(after.body))
            tidy = _rescaled(system, after, sizes, mark=False)._replace(there=sizes > 0)
        inside, sunk = _in_range(system, before, tidy, dtype), _sunk(system, tidy.body, dtype)
        stopped = before._replace(code=jnp.where(inside, RunResult.UNDERFLOW, RunResult.OVERFLOW).astype(jnp.int32))
        fine = inside & ~sunk
        return jax.tree.map(lambda new, old: jnp.where(fine, new, old), tidy, stopped), fine

    def tidied(carry: Carry) -> Carry:
        return _rescaled(system, carry, jnp.stack(system.sizes(carry.body)))

    given = step, carry, reads, read, settle
    how: Any = {
        "needs": lambda carry: Moment(carry.body, carry.powers, carry.still),
        "tidy": (_TIDY_EVERY, tidied) if system.groups and not system.capped else None,
        "alone": alone if to_the_last else None,
    }
    if piece is not None and not piece.ends:
        return _loop.go_on(piece, *given, **how)
    carry, saved, reached = _loop.run(*given, **how, paused=None if piece is None else piece.before)
    code = carry.code if to_the_last else jnp.where(carry.updates == reads.updates, carry.code, CUT_SHORT)
    return {
        **saved,
        "reached": reached,
        "view": _view(system, carry, dtype),
        "memory": _final_memory(system, descent, carry, dtype),
        "updates": carry.updates,
        "code": code,
    }


def _start(system: System, body: Body, memory: PyTree) -> Carry:
    """The carry before the first update."""
    powers = system.powers
    return Carry(
        body=body,
        memory=memory,
        lost=jax.tree.map(jnp.zeros_like, body) if system.compensated else {},
        powers=powers,
        # Slots that a run before has left apart approach each other even at a rate of 0.
        still=jnp.asarray(not (isinstance(system, Remembering) and system.others is not None)),
        updates=jnp.zeros((), jnp.int32),
        code=jnp.asarray(RunResult.COMPLETED, jnp.int32),
        there=jnp.zeros(powers.shape, bool) if system.groups else None,
    )


def _settled(system: System, before: Carry, after: Carry, dtype: DTypeLike) -> tuple[Carry, jax.Array]:
    """The carry after a block of updates, rescaled and cleaned, and whether nothing was lost within the block."""
    if not system.groups:
        return after, _in_range(system, before, after, dtype) & ~_sunk(system, after.body, dtype)
    sizes = jnp.stack(system.sizes(after.body))
    tidy = _rescaled(system, after, sizes)._replace(there=sizes > 0)
    assert before.there is not None
    vanished = before.there & (sizes == 0)
    lost = vanished | (jnp.abs(tidy.powers - before.powers) >= _LOST // 2)
    return tidy, _in_range(system, before, tidy, dtype) & ~_sunk(system, tidy.body, dtype) & ~jnp.any(lost)


def _applied(body: Body, change: Body, lost: Body) -> tuple[Body, Body]:
    """The body moved by `change`, and what rounding lost of it, which is added to the next change (Kahan summation)."""
    if not lost:
        return optax.apply_updates(body, change), lost
    change = jax.tree.map(jnp.add, change, lost)
    moved = optax.apply_updates(body, change)
    rounded = jax.tree.map(lambda by, new, old: by - (new - old), change, moved, body)
    return moved, jax.lax.stop_gradient(rounded)


def _transformation(descent: Noisy) -> optax.GradientTransformation:
    """The optax transformation that turns gradients into updates at unit rate."""
    if descent.optimizer is not None:
        return with_slopes(descent.optimizer.built())  # from its numbers, which are traced here
    if descent.momentum is None:
        return optax.scale(-1.0)
    return optax.chain(optax.trace(decay=descent.momentum, nesterov=descent.nesterov), optax.scale(-1.0))


def _view(system: System, carry: Carry, dtype: DTypeLike) -> View:
    """What observables are given after the updates of this carry."""
    return system.view(carry.body, _logs(system, carry, dtype), carry.still)


def _logs(system: System, carry: Carry | Moment, dtype: DTypeLike) -> list[jax.Array]:
    """The logarithm of the scale of every group, () or of the shape of its arrays."""
    logs = carry.powers.astype(dtype) * jnp.log(jnp.asarray(2.0, dtype)) + system.log_unit()
    return [logs[i] for i in range(len(system.groups))]


def _on_bodies(function: Callable[[Body], Body], tree: PyTree) -> Any:
    """The tree, an optimiser's state, with `function` applied to every dictionary in it that is shaped like a body."""

    def is_body(node: object) -> bool:
        return isinstance(node, dict)

    return jax.tree.map(lambda node: function(node) if is_body(node) else node, tree, is_leaf=is_body)


def _rescaled(system: System, carry: Carry, sizes: jax.Array, mark: bool = True) -> Carry:
    """The carry with powers of two taken out of every group that has drifted far, and with its body cleaned.

    Args:
        system: The problem.
        carry: What the loop carries.
        sizes: The size of every group, (groups, ...).
        mark: Whether to add `_LOST` to the powers of a group that has drifted so far that it may have lost digits.
            That costs the loop nothing, and `_settled` then rejects the block.
    """
    info = jnp.finfo(sizes.dtype)
    power = drift(sizes, _RESCALE_BEYOND)
    if system.capped:
        power = jnp.minimum(power, -carry.powers)
    added = power
    if mark:
        added = jnp.where(jnp.abs(power) > info.maxexp - 2 * (info.nmant + 1), _LOST, power)
    half = power // 2  # 2^-power itself may not be representable
    shrink = power_of_two(-half, sizes.dtype) * power_of_two(half - power, sizes.dtype)
    factors = [shrink[i] for i in range(len(system.groups))]

    def tidy(body: Body) -> Body:
        return system.clean(system.scale(body, factors))

    def tidy_velocity(velocity: Body) -> Body:
        return system.clean_velocity(system.scale(velocity, factors))

    return carry._replace(
        body=tidy(carry.body),
        lost=system.scale(carry.lost, factors) if carry.lost else {},
        memory=_on_bodies(tidy_velocity, carry.memory),
        powers=carry.powers + added,
    )


def _initial_memory(
    system: System, descent: Noisy, transform: optax.GradientTransformation, body: Body, memory: PyTree
) -> Any:
    """What the optimiser, or momentum, begins with; `memory` is that of the run before, or None."""
    if descent.optimizer is None and isinstance(memory, dict):
        return (optax.TraceState(trace=system.pack(memory)), optax.EmptyState())
    return resumed(transform, body, memory)


def _final_memory(system: System, descent: Noisy, carry: Carry, dtype: DTypeLike) -> Any:
    """The optimiser's own state, or the momentum as dense arrays from which any form of the problem can continue."""
    if isinstance(system, Remembering):
        log_scale = settled(_view(system, carry, dtype).state()).log_scale
        return system.carried(carry.body, _logs(system, carry, dtype), log_scale)
    if descent.optimizer is not None:
        return carry.memory
    if descent.momentum is None:
        return None
    log_scale = settled(_view(system, carry, dtype).state()).log_scale
    return system.unpack(carry.memory[0].trace, _logs(system, carry, dtype), log_scale)


def _in_range(system: System, before: Carry, after: Carry, dtype: DTypeLike) -> jax.Array:
    """Whether every entry is finite and, if the dynamics squares entries, so small that no square overflows.

    An entry that is not finite stays so. If this holds after a block of updates, it held throughout the block. What an
    optimiser remembers may be squares, whose overflow would silently end its updates, so that it must stay finite, too.
    """
    ceiling = float(jnp.finfo(dtype).max) ** 0.5 if system.squares else float("inf")
    inside = [jnp.max(jnp.abs(part), initial=0.0) < ceiling for part in after.body.values()]
    if not system.groups:
        pairs = zip(jax.tree.leaves(before.memory), jax.tree.leaves(after.memory), strict=True)
        inside += [
            jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old))
            for old, new in pairs
            if jnp.issubdtype(new.dtype, jnp.inexact)
        ]
    return jnp.all(jnp.stack(inside))


def _sunk(system: System, body: Body, dtype: DTypeLike) -> jax.Array:
    """Whether a guarded array has become so small that it loses digits; an array of zeros loses none."""
    sizes = [largest(*(body[name] for name in names)) for names in system.guarded]
    sunk = [(size > 0) & (size < faint(dtype)) for size in sizes]
    return jnp.any(jnp.stack(sunk)) if sunk else jnp.zeros((), bool)
