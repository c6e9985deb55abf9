"""What `simulate` and `exact` do before and after a run: check, choose the precision, and plan the observables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from unhinged_jax import _check, _memory
from unhinged_jax import precision as _precision
from unhinged_jax._request.checks import (
    check_deep,
    check_held_out,
    check_kinds,
    check_numbers,
    check_optimizer,
    check_rates,
    check_signal,
    check_tolerance,
    checked_times,
)
from unhinged_jax._request.going_on import check_goes_on, handed_over, observed_again, one_run, with_what_stays
from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow, carries_of, clock_of, step_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import ObservablePlan, Observe, paper_observables, refers_to_start, resolve, wants_split
from unhinged_jax.trajectory import Asked, Trajectory

_RESOLVED = 2.0**28  # float32 numbers of this size are 32 apart; several factors e^32 still fit the range of float32


@dataclasses.dataclass(frozen=True)
class Task:
    """A checked request.

    Attributes:
        model: The problem.
        state: The start, in the precision of the run.
        times: The requested times, or numbers of updates, (T,).
        first: The time, or the number of updates, at the start; 0 unless the run continues another one.
        memory: What the run begins with in addition to the state, such as a velocity, or None.
        plan: The observables.
        target: The limit that distances refer to.
        precision: The precision of the run.
        outside: The precision outside the run, in which results are given back.
        dynamics: The dynamics.
        before: The trajectory that the run continues, or None.
        asked: What was asked for to be observed.
    """

    model: LayerPeeled
    state: State
    times: Any
    first: Any
    memory: Any
    plan: ObservablePlan
    target: str
    precision: str
    outside: str
    dynamics: Dynamics
    before: Trajectory | None = None
    asked: Asked = dataclasses.field(default_factory=Asked)

    @property
    def origin(self) -> State | None:
        """The state that the gaps refer to: the start of the first run in a chain of continued runs."""
        return self.state if self.before is None else self.before.origin

    @property
    def first_start(self) -> State | None:
        """The origin, if the run continues another one and distances are read; else None."""
        return self.origin if self.before is not None and wants_split(self.plan) else None

    def resumed(self, state: State) -> State | Trajectory:
        """What to start from: the state; or, if the request continues a trajectory, that trajectory ending in it."""
        return state if self.before is None else dataclasses.replace(self.before, final=state)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Everything inside runs in the requested precision, with matrix products in full precision."""
        with ExitStack() as stack:
            stack.enter_context(_precision.scope(self.precision))
            stack.enter_context(jax.default_matmul_precision("highest"))
            yield

    def refuse_large(self, states: bool) -> None:
        """Raise MemoryError for results that the machine cannot hold, before anything is computed."""
        count = 1 + len(self.times) * states
        one = sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in jax.tree.leaves(self.state))
        _memory.refuse(count * one, f"the result with {count} states")

    def give_back(self, tree: PyTree) -> Any:
        """Results, as NumPy arrays if their precision is not the one outside, so that dtypes do not mix."""
        return _precision.given_back(tree, self.precision, self.outside)

    def finish(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory in the precision outside, with the requested times and everything needed to continue it.

        A run in float32 has rounded the times. The origin is not copied.
        """
        trajectory = dataclasses.replace(
            trajectory,
            memory=with_what_stays(trajectory.memory, self.model, self.dynamics, trajectory.final),
            origin=self.origin,
            clock=clock_of(self.dynamics),
            carries=carries_of(self.dynamics),
            began=np.asarray(0) if self.before is None else self.before.elapsed,
            observed=self.asked,
        )
        if not _check.concrete((trajectory, self.times)):
            if isinstance(self.times, np.ndarray):
                self._must_fit()
            return trajectory
        _memory.read(trajectory.reached)  # first, because everything comes from one program, which may have failed
        given = self.give_back(trajectory)
        self._must_resolve(given)
        if self.times.dtype.kind == given.times.dtype.kind and np.array_equal(self.times, given.times):
            return given
        elapsed = given.elapsed
        if bool(_memory.read(given.reached)[-1]):
            elapsed = self.times[-1]
        return dataclasses.replace(given, times=self.times, elapsed=elapsed)

    def counts(self) -> tuple[np.ndarray, int]:
        """The numbers of steps at which a run on a fixed grid is read, (T,), and that at its start."""
        if isinstance(self.dynamics, Descent):
            return self.times, self.first
        counts = np.round(np.append(self.first, self.times) / step_of(self.dynamics)).astype(np.int64)
        return counts[1:], int(counts[0])

    def clock(self) -> Any:
        """The times, (T,), in the types of the precision; numbers of updates that do not fit its integers as floats."""
        if isinstance(self.times, jax.Array):
            return self.times
        fits = self.times.dtype.kind != "i" or self.times[-1] <= jnp.iinfo(jnp.result_type(int)).max
        return self.times.astype(jnp.result_type(int if fits and self.times.dtype.kind == "i" else float))

    def _must_resolve(self, given: Trajectory) -> None:
        """Raise if a closed form in float32 has exponents so large that their last digit means many powers of e."""
        late = given.kind == "exact" and self.precision == "float32" and float(self.times[-1]) > 2**20
        if late and not abs(float(given.final.log_scale)) < _RESOLVED:
            raise ValueError(
                f"at {self.times[-1]:g} the logarithm of the norm is about {float(given.final.log_scale):.1e}, and "
                "float32 cannot tell the norm from one that is many powers of e larger; give precision='float64'."
            )

    def _must_fit(self) -> None:
        """Raise if a number of updates is too large for a compiled function to return in this precision."""
        if self.times.dtype.kind == "i" and self.times[-1] > jnp.iinfo(jnp.result_type(int)).max:
            raise ValueError(
                f"inside jax.jit, jax.vmap and similar functions JAX counts updates in 32 bits unless 64 bits are "
                f"enabled, but the last is {self.times[-1]}; put `with jax.enable_x64(True):` around the call."
            )


def prepare(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: npt.ArrayLike,
    observe: Observe,
    *,
    target: str,
    precision: str | None,
    caller: str,
    reduce: bool = True,
) -> Task:
    """Check a request and prepare it; raise a clear ValueError if it is not allowed.

    The arguments are those of `simulate`. `caller` is the name of the public function that was called: some rates and
    times are allowed for some functions only.
    """
    check_kinds(model, dynamics)
    _check.kind("state", state, State, Trajectory)
    reduce = _check.flag("reduce", reduce)
    check_deep(model, dynamics, caller)
    check_held_out(model, dynamics)
    check_numbers(model, dynamics)
    if isinstance(state, Trajectory):
        state = one_run(state, dynamics, times)
    check_signal(model)
    target = _check.choice("target", target, ("top", "contrast", "mean"))
    first, memory, before = 0, None, None
    if isinstance(state, Trajectory):
        check_goes_on(state, dynamics)
        before, first, memory, state = state, state.elapsed, state.memory, state.final
    model.check_state(state)
    name = _precision.of((state.H, state.W)) if precision is None else precision
    name = _check.choice("precision", name, _precision.NAMES)
    if isinstance(dynamics, Flow):
        check_tolerance(dynamics, name)
    times, first = checked_times(times, dynamics, first, caller)
    check_rates(dynamics, first, times, name, caller)
    if (optimizer := getattr(dynamics, "optimizer", None)) is not None:
        check_optimizer(optimizer, tuple(np.shape(part) for part in state.factors().values()), name)
    apart = reduce or model.spherical  # a dense state does not carry its leading part separately
    known = ("simulate", "exact", "sweep", *(("sensitivity",) if isinstance(dynamics, Descent) else ()))
    if dynamics.stochastic and caller not in known:
        other = "a Flow" if isinstance(dynamics, Diffusion) else "the full batch"
        what = "a Diffusion" if isinstance(dynamics, Diffusion) else "a Descent that draws batches or labels"
        raise ValueError(f"`{caller}` does not take {what}; use {other}.")
    if observe is None:
        observe = paper_observables if before is None else observed_again(before)
    plain = optimizer is None and not dynamics.stochastic and not (dynamics.paced and caller == "simulate")
    plan = resolve(observe, model, dynamics.proportional and plain and apart)
    outside = _precision.current()
    _precision.refuse_differentiated((model, dynamics, state), name, outside)
    _precision.refuse_compiled(name, outside)
    if before is not None and before.origin is None and refers_to_start(plan):
        raise ValueError(
            "gap_H and gap_W refer to the start of a run, which this trajectory does not hold; do not observe them."
        )

    with _precision.scope(name):
        start: State = _precision.settled(state)
        if before is not None:
            before = handed_over(before, model, dynamics)
            memory = before.memory
    asked = Asked.of(observe, plan)
    return Task(model, start, times, first, memory, plan, target, name, outside, dynamics, before, asked)
