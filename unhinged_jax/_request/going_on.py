"""Continuing a run: what the run before and the next one must have in common, and what is handed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check, _numbers
from unhinged_jax import precision as _precision
from unhinged_jax.dynamics import Descent, Dynamics, Flow, carried_by, carries_of, clock_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import OBSERVABLES, ObservableSet, Observe, paper_observables
from unhinged_jax.trajectory import Trajectory, batch_message

_CARRIED = {
    "momentum": "a momentum",
    "velocity": "a velocity",
    "memory": "a memory",
    "optimizer": "the memory of an optimizer",
}
_BY = {
    "velocity": "damping",
    "memory": "memory",
    "momentum": "optimizer or momentum",
    "optimizer": "optimizer or momentum",
}


def one_run(before: Trajectory, dynamics: Dynamics, times: npt.ArrayLike) -> Trajectory:
    """The run to continue, with its clock as a known number if it is the same for all that `jax.vmap` maps over.

    Raises:
        ValueError: for a batch of trajectories; for a descent whose number of updates is not known or differs; for
            times before the end of a member.
    """
    if before.batch:
        raise ValueError(
            f"this needs one trajectory, but {batch_message('trajectories', before.batch)}, or map over it with "
            "jax.vmap."
        )
    on_grid, ended = not isinstance(dynamics, Flow), _check.known(before.elapsed)
    name, counted = type(dynamics).__name__, "updates" if isinstance(dynamics, Descent) else "steps"
    if ended is None:
        if on_grid:
            raise ValueError(
                f"a {name} cannot continue a trajectory that jax.jit traces: how many {counted} it has made "
                "(`elapsed`) must be known when the rest is compiled. Continue it outside jax.jit; jax.vmap alone may "
                f"map over trajectories, as in `jax.vmap(lambda run, rate: simulate(model, {name}(rate), run, "
                "times))(runs, rates)`. Or start from `final`, with updates counted from 0 and no momentum."
            )
        return before
    if np.all(ended == ended.flat[0]):
        return dataclasses.replace(before, elapsed=ended.flat[0])
    if on_grid:
        raise ValueError(
            f"a {name} continues a batch of trajectories only if all have made the same number of {counted}, but "
            f"`elapsed` has {_check.shown(ended)}; continue each member by itself, or start from the states in its "
            "`final`, with updates counted from 0."
        )
    if _check.concrete(times) and np.min(_numbers.counts("times", times)) < np.max(ended):
        raise ValueError(f"times must not lie before the end of any member, but `elapsed` has {_check.shown(ended)}.")
    return before


def one_at_a_time(caller: str, *given: Any) -> None:
    """Raise for a batch of runs and for traced values, from which a function cannot make a table of numbers."""
    if not _check.concrete(given):
        raise ValueError(
            f"`{caller}` needs known numbers, but is being traced; call it outside jax.jit, jax.vmap and similar "
            "functions, for one member of a batch after the other."
        )
    for each in given:
        if isinstance(each, Trajectory):
            each.check_single(f"`{caller}`")


def each_member(
    batch: Trajectory,
    dynamics: Dynamics,
    precision: str | None,
    go_on: Callable[..., Trajectory],
    own: tuple[Any, ...] = (),
) -> Trajectory:
    """What `go_on` makes of each member of a batch of runs, mapped over the axes of the batch.

    It is given the member, and what else each member has one of: `own`, arrays with the axes of the batch.
    """
    for array in own:
        _check.shape("key", array, batch.batch, "one per member of the batch")
    one = go_on
    for _ in batch.batch:
        one = jax.vmap(one)
    name, outside = precision or _precision.of((batch.final.H, batch.final.W)), _precision.current()
    _precision.refuse_differentiated((batch, dynamics), name, outside)
    _precision.refuse_compiled(name, outside)
    with _precision.scope(name):
        found = one(batch, *own)
    return _precision.given_back(found, name, outside)


def observed_again(before: Trajectory) -> Observe:
    """What a run observes that continues another one and is not told: what that one observed.

    If the run is traced by more than `jax.vmap`, functions are not taken from it: JAX would find a program that is
    compiled already by their names alone.

    Raises:
        ValueError: if it observed functions of one's own that it does not hold.
    """
    asked = before.observed
    if not before.observables:
        return paper_observables
    if asked.observe is not None and not (asked.own and _check.known(before.elapsed) is None):
        return asked.observe
    own = asked.own or tuple(name for name in before.observables if name not in OBSERVABLES)
    if own:
        raise ValueError(
            f"the run that is continued observed functions of your own ({', '.join(own)}), which it does not hold, "
            "because it was read from a file, or because they or the run are traced by JAX; give `observe`, as in "
            f"observe={{{own[0]!r}: function}}."
        )
    return ObservableSet(before.observables)


def check_goes_on(before: Trajectory, dynamics: Dynamics) -> None:
    """Raise unless a dynamics can continue a run: it must have the same clock and use everything the run carried."""
    if before.kind == "expected":
        raise ValueError("expectations are not a run and cannot be continued; ask for all times at once.")
    afresh = "give `trajectory.final` to start a new run there, whose clock begins at 0."
    clock = clock_of(dynamics)
    if before.clock not in ("", clock):
        counts = "number of updates" if before.clock == "updates" else "time"
        raise ValueError(
            f"a {type(dynamics).__name__} cannot continue a trajectory whose `elapsed` is a {counts}; {afresh}"
        )
    carried = before.carries or ("" if before.memory is None else "memory")
    if carried not in ("", *_CARRIED):  # the name of a memory
        _check_slots(before, dynamics, afresh)
        carried = "memory"
    if before.carries and carried_by(dynamics) not in ("", carried):
        raise ValueError(
            "the trajectory ended with the memory of another optimizer; continue with that one, or start again from "
            "`trajectory.final`."
        )
    if carried_by(dynamics) == "memory" and not carried:
        raise ValueError(
            f"the run before kept no memory with which this {type(dynamics).__name__} could go on; give the same "
            f"memory from the start, or {afresh}"
        )
    if carried and not carried_by(dynamics):
        raise ValueError(
            f"the run ended with {_CARRIED[carried]} that this {type(dynamics).__name__} would drop; continue with the "
            f"same {_BY[carried]}, or {afresh}"
        )
    if carried and before.memory is None:
        raise ValueError(
            f"the trajectory does not hold {_CARRIED[carried]} with which such a run continues; ask for all times at "
            f"once, or {afresh}"
        )


def _check_slots(before: Trajectory, dynamics: Dynamics, afresh: str) -> None:
    """Raise if a dynamics with a memory would take the slots of another one for its own."""
    kept = dynamics.memory
    if kept is None:
        return
    if before.carries != carries_of(dynamics):
        raise ValueError(
            f"the trajectory ended with the slots of {before.carries}, which mean something else to "
            f"{carries_of(dynamics)}; continue with the same memory, or {afresh}"
        )
    found, wanted = None if before.memory is None else len(before.memory["W"]), len(kept.first) - 1
    if found not in (None, wanted):
        raise ValueError(
            f"the trajectory ended with {found} slots beside its state, but this {carries_of(dynamics)} has {wanted}; "
            f"continue with as many, or {afresh}"
        )


def handed_over(before: Trajectory, model: LayerPeeled, dynamics: Dynamics) -> Trajectory:
    """The trajectory that a run continues, with memory and origin in the current precision.

    The model may be another one, in which other arrays stay.
    """

    def converted(leaf: ArrayLike) -> Any:
        return jnp.asarray(leaf, jnp.result_type(float)) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    memory, origin = jax.tree.map(converted, (before.memory, before.origin))
    memory = with_what_stays(memory, model, dynamics, before.final)
    return dataclasses.replace(before, memory=memory, origin=origin)


def with_what_stays(memory: PyTree, model: LayerPeeled, dynamics: Dynamics, state: State) -> PyTree:
    """What a run carries beside a state, as the state has it for an array that stays.

    Such an array has no velocity, and every slot of a memory is what it was at the start: the array itself, or 0. No
    form in which a run is simulated or solved has to know this. What an optimiser carries is given back unchanged.
    """
    if memory is None or carried_by(dynamics) not in ("momentum", "velocity", "memory"):
        return memory
    kept = dynamics.memory

    def still(name: str, part: jax.Array) -> jax.Array:
        if kept is None:
            return jnp.zeros_like(part)
        slots = jnp.reshape(jnp.asarray(kept.first[1:], part.dtype), (-1, *(1,) * (part.ndim - 1)))
        return slots * jnp.asarray(getattr(state, name), part.dtype)

    moves = model.moves._asdict()
    return {name: part if moves.get(name, True) else still(name, part) for name, part in memory.items()}
