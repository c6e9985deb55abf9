"""The linearised flow map: what a run makes of a small change v of its start, D Phi_t(z) v."""

from __future__ import annotations

import dataclasses
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check, _request
from unhinged_jax._request.compiling import compiled
from unhinged_jax.dynamics import Dynamics, Flow, carries_of, clock_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.simulation import scale_must_fit, simulate
from unhinged_jax.trajectory import RunResult, Trajectory


def push_forward(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: npt.ArrayLike,
    tangent: State,
    *,
    precision: str | None = None,
) -> tuple[Trajectory, State]:
    """Jacobian-vector product of the flow map Phi_t: (H_0, W_0, b_0) -> (H_t, W_t, b_t), simulated.

    Args:
        model, dynamics, state, times, precision: as in `simulate`; the product is taken at the last time. If `state` is
            a `Trajectory`, the map starts at its final state, and what it carries is held fixed.
        tangent: dH, dW, db with the shapes of the state, in units of e^state.log_scale.

    Returns:
        The trajectory (without observables), and D Phi_t tangent as a `State` with the trajectory's final `log_scale`.

    Raises:
        ValueError: as `simulate`.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 2, decay=0.1)
        >>> state = model.init(jax.random.key(0))
        >>> run, pushed = push_forward(model, uj.Descent(0.1), state, [0, 5], state)
        >>> bool(jnp.allclose(pushed.W, run.final.W, rtol=1e-5))  # a linear flow map
        True
    """
    task = _request.prepare(model, dynamics, state, times, (), target="top", precision=precision, caller="push_forward")
    scale_must_fit(model, dynamics, task.state)
    _check.kind("tangent", tangent, State)
    for name in ("H", "W", "b"):
        _check.shape(f"tangent.{name}", getattr(tangent, name), np.shape(getattr(task.state, name)), "as in the state")
    with task.context():
        moved, dynamics = _request.traceable((model, dynamics))
        tangents = [jnp.asarray(part, task.state.W.dtype) for part in (tangent.H, tangent.W, tangent.b)]
        run, pushed = _push(moved, dynamics, task.state, Times((task.first, task.times)), task.memory, tangents)
    _must_arrive(run.code, "the flow map", task.times)
    return task.finish(run), task.give_back(pushed)


def _must_arrive(code: jax.Array, what: str, times: npt.ArrayLike) -> None:
    """Raise if a run did not reach its last time, as far as that is known."""
    if not _check.concrete((code, times)):
        return
    result = RunResult(int(code))
    if result not in (RunResult.COMPLETED, RunResult.STEADY):
        raise ValueError(
            f"{what} to {np.asarray(times)[-1]:g} cannot be followed: the run ended earlier, with the result "
            f"{result.message}"
        )


@dataclasses.dataclass(frozen=True)
class Times:
    """Times, static for descents, which need them so, and as data for flows."""

    values: Any

    def __hash__(self) -> int:
        return hash(tuple(np.asarray(part).tobytes() for part in self.values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Times) and all(map(np.array_equal, self.values, other.values))


def flow_map(
    model: LayerPeeled, dynamics: Dynamics, state: State, first: ArrayLike, times: npt.ArrayLike, memory: PyTree
) -> tuple[list[jax.Array], Trajectory]:
    """Arrays of the state at the last of `times`, from `state` and `memory` at `first`, and the run itself."""
    adjoint = diffrax.ForwardMode() if isinstance(dynamics, Flow) else None
    carries = "" if memory is None else carries_of(dynamics)
    begin = Trajectory(
        times, {}, jnp.ones(1, bool), state, first, 0, 0, memory=memory, clock=clock_of(dynamics), carries=carries
    )
    # A memory may have any direction, while class sums and planes represent only that of a run from its start.
    reduce = memory is None or not (model.linear or model.spherical)
    run = simulate(model, dynamics, begin, times, (), adjoint=adjoint, reduce=reduce)
    return [run.final.H, run.final.W, run.final.b, run.final.log_scale], run


@compiled()
def _push(
    model: LayerPeeled, dynamics: Dynamics, state: State, times: Times, memory: PyTree, tangents: list[jax.Array]
) -> Any:
    first, when = times.values

    def final(H: jax.Array, W: jax.Array, b: jax.Array) -> tuple[list[jax.Array], Trajectory]:
        return flow_map(model, dynamics, state.replace(H=H, W=W, b=b), first, when, memory)

    parts, moved, run = jax.jvp(final, (state.H, state.W, state.b), tuple(tangents), has_aux=True)
    H, W, b, log_scale = moved
    # The state is e^log_scale (H, W), and the scale may move as well.
    tangent = State(H + parts[0] * log_scale, W + parts[1] * log_scale, b, run.final.log_scale)
    return run, tangent


def moving_numbers(model: LayerPeeled) -> int:
    """How many entries of H, W and b move."""
    sizes = model.samples * model.dim, model.classes * model.dim, model.classes
    return sum(size for size, moves in zip(sizes, model.moves, strict=True) if moves)
