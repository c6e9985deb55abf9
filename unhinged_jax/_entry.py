"""What `simulate` and `exact` do before and after: check, choose the precision, plan the observables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _numbers
from unhinged_jax import precision as _precision
from unhinged_jax.dynamics import Descent, Dynamics, Flow, carried_by, check_dynamics, clock_of
from unhinged_jax.model import LayerPeeled, State, checked
from unhinged_jax.observables import Observe, Plan, refers_to_start, resolve, wants_split
from unhinged_jax.schedules import Numeric, Schedule
from unhinged_jax.schedules.elapsed import integrated_outside
from unhinged_jax.trajectory import Trajectory, batch_message

_RESOLVED = 2.0**28  # float32 numbers of this size are 32 apart: e^32 still fits its range, with room for several


@dataclasses.dataclass(frozen=True)
class Task:
    """A checked request: the state to start from, the times, the observables, the precision."""

    state: State
    times: Any
    first: Any
    memory: Any
    plan: Plan
    precision: str
    outside: str
    dynamics: Dynamics
    before: Trajectory | None = None

    @property
    def origin(self) -> State | None:
        """The state that gaps refer to: that of the first of the runs that go on from one another."""
        return self.state if self.before is None else self.before.origin

    @property
    def first_start(self) -> State | None:
        """The origin of a run that goes on from another, if it matters: None for a run that is the first."""
        return self.origin if self.before is not None and wants_split(self.plan) else None

    def resumed(self, state: State) -> State | Trajectory:
        """What to start from in place of `state` alone: the trajectory given, if one was, ending in that state."""
        return state if self.before is None else dataclasses.replace(self.before, final=state)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Everything inside runs in the asked precision, with full-precision matrix products."""
        with ExitStack() as stack:
            stack.enter_context(_precision.scope(self.precision))
            stack.enter_context(jax.default_matmul_precision("highest"))
            yield

    def give_back(self, tree: Any) -> Any:
        """Results as NumPy arrays where their precision is not the one outside, so that dtypes cannot mix."""
        return _precision.given_back(tree, self.precision, self.outside)

    def finish(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory with what going on needs, given back, with the times that were asked for.

        In float32 these were rounded on the way. The origin is not copied.
        """
        clock, carries = clock_of(self.dynamics), carried_by(self.dynamics)
        trajectory = dataclasses.replace(trajectory, origin=self.origin, clock=clock, carries=carries)
        if not _check.concrete((trajectory, self.times)):
            if isinstance(self.times, np.ndarray):
                self._must_fit()
            return trajectory
        given = self.give_back(trajectory)
        self._must_resolve(given)
        if self.times.dtype.kind == given.times.dtype.kind and np.array_equal(self.times, given.times):
            return given
        elapsed = given.elapsed
        if given.kind == "exact" or bool(np.asarray(given.reached)[-1]):
            elapsed = self.times[-1]
        return dataclasses.replace(given, times=self.times, elapsed=elapsed)

    def clock(self) -> jax.Array:
        """The times as a JAX array; numbers of updates that do not fit the integers of the precision as floats."""
        fits = self.times.dtype.kind != "i" or self.times[-1] <= jnp.iinfo(jnp.result_type(int)).max
        return jnp.asarray(self.times if fits else self.times.astype(float))

    def _must_resolve(self, given: Trajectory) -> None:
        """Raise where a closed form in float32 has exponents whose last digit is a factor of many powers of e."""
        late = given.kind == "exact" and self.precision == "float32" and float(self.times[-1]) > 2**20
        if late and not abs(float(given.final.log_scale)) < _RESOLVED:
            raise ValueError(
                f"at {self.times[-1]:g} the logarithm of the norm is about {float(given.final.log_scale):.1e}, and "
                "float32 cannot tell what is left beside it; give precision='float64'."
            )

    def _must_fit(self) -> None:
        """Raise if numbers of updates are beyond what a compiled function can return here."""
        if self.times.dtype.kind == "i" and self.times[-1] > jnp.iinfo(jnp.result_type(int)).max:
            raise ValueError(
                f"inside jax.jit, vmap and their kin JAX counts updates in 32 bits while it is in float32, but the "
                f"last is {self.times[-1]}; open `with jax.enable_x64(True):` around the call."
            )


def prepare(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: Any,
    observe: Observe,
    target: str,
    precision: str | None,
    caller: str,
    reduce: bool = True,
) -> Task:
    """Check a request; raise one clear ValueError if it cannot be. `reduce`: as in `simulate`."""
    if not isinstance(model, LayerPeeled):
        raise ValueError(
            f"model must be a LayerPeeled, but got {type(model).__name__}; build one with `regularized`, ..."
        )
    if not isinstance(dynamics, (Flow, Descent)):
        raise ValueError(f"dynamics must be a Flow or a Descent, but got {type(dynamics).__name__}.")
    _check_numbers(model, dynamics)
    _check_one_run(state, dynamics)
    checked(model)
    _check_signal(model)
    _check.choice("target", target, ("top", "contrast", "mean"))
    first, memory, before = 0, None, None
    if isinstance(state, Trajectory):
        _check_goes_on(state, dynamics)
        before, first, memory, state = state, state.elapsed, state.memory, state.final
    if not isinstance(state, State):
        raise ValueError(
            f"state must be a State or a Trajectory, but got {type(state).__name__}; use `model.init(key)`."
        )
    model.check_state(state)
    name = precision or _precision.of((state.H, state.W))
    _check.choice("precision", name, _precision.NAMES)
    if isinstance(dynamics, Flow):
        _check_tolerance(dynamics, name)
    times, first = _times(times, dynamics, first)
    _check_rates(dynamics, first, times, name, caller)
    optimizer = isinstance(dynamics, Descent) and dynamics.optimizer is not None
    apart = reduce or model.spherical  # a dense state does not carry its leading part apart
    plan = resolve(observe, model, dynamics.proportional and not optimizer and apart)
    outside = _precision.current()
    if name == "float64" and outside == "float32" and _differentiated((model, dynamics, state)):
        raise ValueError(
            "a float64 run can be differentiated only where JAX itself is in float64: write "
            "`with jax.enable_x64(True):` around jax.grad, jax.jvp and their kin."
        )
    _precision.refuse_compiled(name, outside)
    if before is not None and before.origin is None and refers_to_start(plan):
        raise ValueError(
            "gap_H and gap_W refer to the start of a run, which this trajectory does not hold; do not observe them."
        )

    with _precision.scope(name):
        start: State = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), state)
        if before is not None:
            before = _converted(before, model)
            memory = before.memory
    return Task(start, times, first, memory, plan, name, outside, dynamics, before)


def _converted(before: Trajectory, model: LayerPeeled) -> Trajectory:
    """What a run goes on from, its numbers in the precision of the moment."""

    def converted(leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.result_type(float)) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    memory, origin = jax.tree.map(converted, (before.memory, before.origin))
    if before.carries == "momentum" and memory is not None:  # a part that stays now has no velocity
        moves_W = model.prototypes_move
        moves = {"H": model.features_move, "W": moves_W, "b": moves_W and model.bias}
        memory = {name: part if moves[name] else jnp.zeros_like(part) for name, part in memory.items()}
    return dataclasses.replace(before, memory=memory, origin=origin)


def _check_goes_on(before: Trajectory, dynamics: Dynamics) -> None:
    """Raise unless a dynamics can go on from the end of a run: with the same clock, and all that the run carried."""
    afresh = "give `trajectory.final` to start a new run there, whose clock begins at 0."
    clock = clock_of(dynamics)
    if before.clock not in ("", clock):
        counts = "number of updates" if before.clock == "updates" else "time"
        raise ValueError(
            f"a {type(dynamics).__name__} cannot go on from a trajectory whose `elapsed` is a {counts}; {afresh}"
        )
    carried = before.carries or ("" if before.memory is None else "memory")
    if before.carries and carried_by(dynamics) not in ("", carried):
        raise ValueError(
            "the trajectory ended with the memory of another optimizer; go on with that one, or start afresh from "
            "`trajectory.final`."
        )
    if carried and not carried_by(dynamics):
        raise ValueError(
            f"the run ended with {'a momentum' if carried == 'momentum' else 'the memory of an optimizer'} that this "
            f"{type(dynamics).__name__} would drop; go on with the same optimizer or momentum, or {afresh}"
        )
    if carried and before.memory is None:
        raise ValueError(
            "the trajectory of a closed form does not hold the velocity that a run with momentum goes on with; ask for "
            f"all times at once, go on from a simulated run, or {afresh}"
        )


def _check_one_run(state: Any, dynamics: Dynamics) -> None:
    """Raise for a batch of trajectories, and for one that cannot be gone on from because its end is traced."""
    if not isinstance(state, Trajectory):
        return
    if state.batch:
        raise ValueError(
            f"a run goes on from one trajectory, but {batch_message('trajectories', state.batch)}, or map over it with "
            "jax.vmap: over the trajectory itself for a Flow, over the states in its `final` for a Descent, whose "
            "updates then count from 0."
        )
    if isinstance(dynamics, Descent) and not _check.concrete(state.elapsed):
        raise ValueError(
            "a Descent cannot go on from a traced trajectory: how many updates it has made (`elapsed`) must be known "
            "when the rest is compiled; go on from the state in its `final`, from where updates count from 0 and "
            "momentum starts anew, or go on from each member of a batch outside of jax.vmap and jax.jit."
        )


def _check_numbers(model: LayerPeeled, dynamics: Dynamics) -> None:
    """Raise for an array in the place of a number: it would be taken for one number for each coordinate."""
    given = {name: getattr(dynamics, name, None) for name in ("rate_H", "rate_W", "momentum")}
    given = {name: value for name, value in given.items() if not callable(value)}
    given |= {"decay_H": model.decay_H, "decay_W": model.decay_W, "exponent": model.exponent}
    given |= {f"loss.{name}": getattr(model.loss, name, None) for name in ("gamma", "margin", "focusing", "epsilon")}
    shapes = {name: np.shape(value) for name, value in given.items() if value is not None}
    schedule = dynamics.schedule
    ours = type(schedule).__module__.startswith("unhinged_jax.")
    plain = ours and not any(map(np.ndim, jax.tree.leaves(schedule)))  # of numbers alone: gives a number
    looked_at = not isinstance(schedule, Schedule) or isinstance(schedule, Numeric)  # refused, and looked at, elsewhere
    if not plain and not looked_at:
        shapes["the rate of the schedule"] = jax.eval_shape(dynamics.schedule, 0.0).shape
    for name, shape in shapes.items():
        if shape:
            raise ValueError(
                f"{name} must be one number, but has shape {shape}; for a batch build model and dynamics inside the "
                "function that jax.vmap maps over it."
            )
    if np.ndim(model.labels.index) != 1:
        raise ValueError(
            f"labels must be those of one problem, one a sample, but have shape {np.shape(model.labels.index)}; map "
            "over a batch with jax.vmap."
        )


_agreed: set[tuple[type, int]] = set()
_LARGEST = 10_000_000  # entries of a signal that is looked at


def _check_signal(model: LayerPeeled) -> None:
    """Raise unless the signal of a loss written elsewhere is minus its gradient. Looked at once for a loss and labels.

    Everything reduced, and every closed form, sees the signal alone: a wrong one would agree with itself.
    """
    ours = type(model.loss).__module__.startswith("unhinged_jax.")
    large = model.samples * model.classes > _LARGEST
    if ours or large or not model.loss.linear or not _check.concrete(model):
        return
    leaves = jax.tree.leaves((model.loss, model.labels))
    kind = (type(model.loss), hash(tuple(np.asarray(leaf).tobytes() for leaf in leaves)))
    if kind in _agreed:
        return
    with _precision.scope("float64"), jax.ensure_compile_time_eval():  # numbers, inside of a jit too
        logits = jnp.asarray(np.random.default_rng(0).normal(size=(model.samples, model.classes)))
        slope = np.asarray(jax.grad(model.loss_of_logits)(logits), float)
        apart = float(np.max(np.abs(np.asarray(model.signal().dense("float64")) + slope)))
    size = float(np.max(np.abs(slope)))
    if not apart <= 1e-5 * size:
        raise ValueError(
            f"{type(model.loss).__name__}.signal is not minus the gradient of the loss in the logits: they differ by "
            f"up to {apart:.2g}, where the gradient has entries up to {size:.2g}; look at its weights and its sign."
        )
    _agreed.add(kind)


def _differentiated(tree: Any) -> bool:
    """Whether a leaf is being differentiated. JAX would go on with the derivative after our context has ended."""
    return any(type(leaf).__name__ in ("JVPTracer", "LinearizeTracer") for leaf in jax.tree.leaves(tree))


def traceable(tree: Any) -> Any:
    """The tree with Python numbers as arrays: numbers are data, so that a sweep over them compiles once.

    Floating-point leaves take the precision of the run, which widens them before anything is computed with them.
    """
    dtype = jnp.result_type(float)

    def array(leaf: Any) -> Any:
        other = jnp.issubdtype(getattr(leaf, "dtype", dtype), jnp.floating) and getattr(leaf, "dtype", dtype) != dtype
        return jnp.asarray(leaf, dtype) if isinstance(leaf, (int, float)) or other else leaf

    return jax.tree.map(array, tree)


def _check_tolerance(flow: Flow, precision: str) -> None:
    floor = 10 * float(np.finfo(precision).eps)
    for name in ("rtol", "atol"):
        value = getattr(flow, name)
        if value is not None and value < floor and (name == "rtol" or value < floor * 1e-10):
            raise ValueError(
                f"{name} = {value:g} is below what {precision} can resolve ({floor:.1g}); use precision='float64' or a "
                "larger tolerance."
            )


def _check_rates(dynamics: Dynamics, first: Any, times: Any, precision: str, caller: str) -> None:
    """Raise for rates that no run can have, and for times of a flow that its precision does not tell apart."""
    last = times[-1] if _check.concrete(times) else times
    by_exact = caller == "exact" and isinstance(dynamics, Flow) and integrated_outside(dynamics.schedule)
    check_dynamics(dynamics, first, last, integrated=by_exact, compiled=caller in ("event_time", "sensitivity"))
    if caller == "simulate" and precision == "float32" and isinstance(dynamics, Flow) and isinstance(times, np.ndarray):
        _check_apart(times)


def _check_apart(times: np.ndarray) -> None:
    """Raise if two times of a flow are one in float32."""
    same = np.diff(times.astype(np.float32)) <= 0
    if np.any(same):
        where = int(np.argmax(same))
        raise ValueError(
            f"times {times[where]} and {times[where + 1]} are the same number in float32; give precision='float64', or "
            "times farther apart."
        )


def _times(times: Any, dynamics: Dynamics, first: Any) -> tuple[Any, Any]:
    if not _check.concrete(times):
        if isinstance(dynamics, Descent):
            raise ValueError(
                "the numbers of updates at which a Descent is observed must be known when it is compiled; give `times` "
                "as a NumPy array or list, not as a traced value."
            )
        return times, first
    array = _numbers.counts("times", times)
    if not np.all(np.isfinite(array)):
        raise ValueError("times must be finite, but hold NaN or infinity.")
    if np.any(np.diff(array) <= 0):
        where = int(np.argmax(np.diff(array) <= 0))
        raise ValueError(
            f"times must be strictly ascending, but {array[where]} is followed by {array[where + 1]}; sort them and "
            "drop repeats (np.unique does both)."
        )
    if not _check.concrete(first):  # of a flow inside of jax.vmap or jax.jit
        return array.astype(float), first
    start = np.asarray(first)
    if start.dtype == np.float32 and np.float32(array[0]) == start:
        start = array[0]  # the same time, rounded by a run in float32
    if array[0] < start:
        raise ValueError(f"times must not lie before the start, {start}, but the first is {array[0]}.")
    if isinstance(dynamics, Descent):
        if np.any(array != np.round(array)):
            raise ValueError("times of a Descent are numbers of updates, so whole numbers; round them, or use a Flow.")
        if array[-1] >= 2**63:
            raise ValueError(f"times of a Descent must fit 64 bits, but the last is {array[-1]:g}; use a Flow.")
        return array.astype(np.int64), int(start)
    return array.astype(float), float(start)
