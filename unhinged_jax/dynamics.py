"""How fast the model moves: gradient flow and gradient descent. The model says what moves."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _check
from unhinged_jax._values import Value
from unhinged_jax.optimizers import Optimizer
from unhinged_jax.schedules import Schedule, as_schedule
from unhinged_jax.schedules.elapsed import check_rates, must_be_schedule

RATES = ("rate_H", "rate_W", "rate_b")


class PartRates(NamedTuple):
    """The rates of the three parts of a state."""

    H: Any
    W: Any
    b: Any


class _Rated(Value):
    """What a flow and a descent share: `rate_H`, `rate_W` and `rate_b`."""

    rate_H: Any
    rate_W: Any
    rate_b: Any

    @property
    def rates(self) -> PartRates:
        """r_1, r_2 and the rate of the biases, r_2 unless they have their own: numbers or schedules."""
        return PartRates(self.rate_H, self.rate_W, self.rate_W if self.rate_b is None else self.rate_b)

    @property
    def proportional(self) -> bool:
        """Whether r_1 / r_2 is constant, so that H and W of a linear flow have a closed form in zeta(t)."""
        return not (callable(self.rate_H) or callable(self.rate_W))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flow(_Rated):
    """Gradient flow H' = r_1 eta(t) (-dL/dH), W' = r_2 eta(t) (-dL/dW), and likewise b with r_2 or a rate of its own.

    Attributes:
        schedule: eta(t): a number, a schedule of `unhinged_jax`, an optax schedule or a callable. Default 1. A function
            keeps what it reads from a global or an attribute in its first run; if its numbers change, see `numeric`.
        rate_H, rate_W: r_1 and r_2 (default 1): numbers, or schedules for rates that are not proportional, which have
            no closed form.
        solver: A diffrax solver; default `diffrax.Dopri8()`, and `Tsit5()` for states of more than 100,000 numbers at
            tolerances above 1e-11. For a stiff flow give an implicit one, such as `diffrax.Kvaerno5()`; each of its
            steps solves a linear system in all numbers of the state.
        rtol, atol: Tolerances of the step controller; by default 1e-8 in float64 and 1e-5 in float32, and atol = rtol
            in units of the root-mean-square entry of the state.
        max_steps: Largest number of steps of the solver.
        steady: Stop once the rate of change is below these tolerances. It is computed with a schedule of 1 in place of
            the given one, so a plateau of rate 0 does not count as a steady state.
        rate_b: The rate of the biases, a number or a schedule; None (default): that of W.

    Only `simulate` uses the solver, the tolerances, `max_steps` and `steady`. A rate that is a function must be at
    least 0. It is called before a run and refused if it is negative, unless it closes over traced values.

    Raises:
        ValueError: for a rate that is not above 0, or a tolerance outside (0, 1).

    Source: Zhou et al. 2023, Eq. 6 and 12 (s = r_1 / r_2).

    Example:
        >>> float(Flow(0.5).schedule(3.0))
        0.5
    """

    schedule: Any = 1.0
    rate_H: Any = 1.0
    rate_W: Any = 1.0
    solver: Any = dataclasses.field(default=None, metadata={"static": True})
    rtol: float | None = dataclasses.field(default=None, metadata={"static": True})
    atol: float | None = dataclasses.field(default=None, metadata={"static": True})
    max_steps: int = dataclasses.field(default=100_000, metadata={"static": True})
    steady: bool = dataclasses.field(default=False, metadata={"static": True})
    rate_b: Any = None

    def __post_init__(self) -> None:
        _settle(self)
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is not None and not (np.ndim(_check.real(name, value)) == 0 and 0 < value < 1):
                raise ValueError(f"{name} must lie between 0 and 1, but got {_check.given(value)}.")
        _check.whole("max_steps", self.max_steps, 1)
        _check.flag("steady", self.steady)
        if self.solver is not None and (isinstance(self.solver, type) or not solves(self.solver)):
            raise ValueError(
                "solver must be a diffrax solver of ordinary differential equations that estimates its error, such as "
                f"diffrax.Tsit5(), but got {_check.given(self.solver)}."
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Descent(_Rated):
    """Gradient descent, simultaneous steps: H <- H + r_1 eta_k (-dL/dH), and likewise W with r_2 and b with r_2 or r_b.

    Attributes:
        schedule: eta_k = schedule(k) for k = 0, 1, ...; a number, schedule, optax schedule or callable, as for a
            `Flow`. Default 1.
        rate_H, rate_W: r_1 and r_2, numbers or schedules (descent has an exact solution for both).
        momentum: beta of heavy-ball momentum, as in `optax.sgd(momentum=beta)`; None for plain descent.
        nesterov: Whether to use Nesterov's form of the momentum, as in optax.
        optimizer: Any optax optimiser (Adam, ...) that needs only gradients, its memory and parameters. It is applied
            to {"H", "W", "b"}, and its updates are multiplied by schedule and rates, which are 1 by default. Such a
            descent can only be simulated. An optimiser that also asks for the loss (lbfgs, polyak_sgd,
            reduce_on_plateau) is refused. The numbers of an `Optimizer` are data, as in
            `Optimizer(optax.adam, learning_rate=0.1)`; those of one that is built already, as in `optax.adam(0.1)`, are
            part of the program, which is compiled for each. Here it becomes an `Optimizer`, too.
        rate_b: The rate of the biases, a number or a schedule; None (default): that of W.
        batch: m, the number of samples from which each update takes its gradient; None (default): all. `simulate` then
            needs a key, and `exact` gives expectations, for which m may be any number above 0.
        replacement: Whether a sample may be drawn several times for a batch (True, default) or not (False), or
            "epochs": batches are cut from a new order of all samples in each epoch, which can only be simulated.
        fresh_labels: Whether each update draws the labels again, from the targets, as those of
            `labels.symmetric_noise(rate)`.

    Raises:
        ValueError: for a rate that is not above 0, a momentum outside [0, 1), `nesterov` without a momentum, or a
            momentum beside an optimiser.

    Source: Zhou et al. 2023, Eq. 5 and 19; momentum and other optimisers beyond the paper.

    Example:
        >>> float(Descent(0.5, momentum=0.9).schedule(0))
        0.5
    """

    schedule: Any = 1.0
    rate_H: Any = 1.0
    rate_W: Any = 1.0
    momentum: Any = None
    nesterov: bool = dataclasses.field(default=False, metadata={"static": True})
    optimizer: Any = None
    rate_b: Any = None
    batch: Any = None
    replacement: bool | str = dataclasses.field(default=True, metadata={"static": True})
    fresh_labels: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        _settle(self)
        if _is_number(self.momentum):
            _check_momentum(self.momentum)
        if _check.flag("nesterov", self.nesterov) and self.momentum is None:
            raise ValueError("nesterov needs a momentum; give for example momentum=0.9.")
        if isinstance(self.optimizer, optax.GradientTransformation):
            object.__setattr__(self, "optimizer", Optimizer(self.optimizer))
        elif self.optimizer is not None and not isinstance(self.optimizer, Optimizer):
            got = _check.given(self.optimizer)
            raise ValueError(f"optimizer must be an optax optimiser, such as optax.adam(0.01), but got {got}.")
        if self.optimizer is not None and self.momentum is not None:
            raise ValueError("give momentum or an optimizer, not both; put the momentum into the optimizer.")
        if isinstance(self.batch, (str, bool, list, tuple)):
            raise ValueError(f"batch must be a number of samples, but got {_check.given(self.batch)}.")
        if _is_number(self.batch) and _check.concrete(self.batch):
            _check.positive("batch", self.batch)
        if not (isinstance(self.replacement, bool) or self.replacement == "epochs"):
            got = _check.given(self.replacement)
            raise ValueError(f"replacement must be True, False or 'epochs', but got {got}.")
        _check.flag("fresh_labels", self.fresh_labels)

    @property
    def stochastic(self) -> bool:
        """Whether an update depends on what is drawn: a batch, or labels."""
        return self.batch is not None or self.fresh_labels


Dynamics = Flow | Descent


def clock_of(dynamics: Dynamics) -> str:
    """What the times of a dynamics count, as in `Trajectory.clock`."""
    return "time" if isinstance(dynamics, Flow) else "updates"


def carried_by(dynamics: Dynamics) -> str:
    """What runs of a dynamics carry in addition to the state, as in `Trajectory.carries`."""
    if isinstance(dynamics, Flow):
        return ""
    return "optimizer" if dynamics.optimizer is not None else "momentum" if dynamics.momentum is not None else ""


def _settle(dynamics: Dynamics) -> None:
    """Turn numbers and callables into schedules; leave the placeholders alone that JAX puts into leaves."""
    if _is_number(dynamics.schedule) or callable(dynamics.schedule):
        object.__setattr__(dynamics, "schedule", as_schedule(dynamics.schedule))
    for name in RATES:
        rate = getattr(dynamics, name)
        if callable(rate):
            object.__setattr__(dynamics, name, as_schedule(rate))
        elif _is_number(rate):
            still = "`bias=False`" if name == "rate_b" else "`anchored` or `frozen`"
            _check.positive(name, rate, f"build the model with {still} for a part that stays")


def _check_momentum(momentum: ArrayLike) -> None:
    if _check.concrete(momentum):
        value = _check.real("momentum", momentum)
        if not np.all((value >= 0) & (value < 1)):
            raise ValueError(f"momentum must lie in [0, 1), but got {_check.given(momentum)}.")


def solves(solver: object) -> bool:
    """Whether this is a solver, or the class of one, of ordinary differential equations that estimates its error."""
    import diffrax

    kind = solver if isinstance(solver, type) else type(solver)
    one_term = getattr(solver, "term_structure", None) is diffrax.AbstractTerm
    return one_term and issubclass(kind, diffrax.AbstractAdaptiveSolver)


def check_dynamics(
    dynamics: Dynamics,
    first: float | np.ndarray | jax.Array,
    last: float | np.ndarray | jax.Array,
    integrated: bool = False,
    compiled: bool = False,
) -> None:
    """Raise unless every number of the dynamics is allowed, and no rate becomes negative during the run.

    Rates that are functions are called from `first` to `last`, unless these times or the functions' numbers are traced.

    Args:
        dynamics: A flow or a descent.
        first, last: The time at which the run starts, and the last requested time.
        integrated: Whether the integral of the schedule is computed and checked elsewhere.
        compiled: Whether it is computed inside a compiled program, where its error cannot be seen.

    Raises:
        ValueError: naming the value, and for a function also the time.
    """
    updates = isinstance(dynamics, Descent)
    must_be_schedule(dynamics.schedule)
    given = {name: getattr(dynamics, name) for name in RATES if name != "rate_b" or dynamics.rate_b is not None}
    for name, rate in given.items():
        if not callable(rate):
            _check.positive(name, rate)
    if isinstance(dynamics, Descent) and dynamics.momentum is not None:
        _check_momentum(dynamics.momentum)
    if not _check.concrete((first, last)):
        return
    rates = [rate for rate in given.values() if callable(rate)]
    for schedule in rates if integrated else (dynamics.schedule, *rates):
        check_rates(schedule, float(first), float(last), updates, compiled)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) and not isinstance(value, bool)


def rate_at(rate: Schedule | ArrayLike, time: ArrayLike) -> Any:
    """A rate factor at a time: the number itself, or the value of a schedule."""
    return rate(time) if isinstance(rate, Schedule) else rate


def rates_at(dynamics: Dynamics, time: ArrayLike, dtype: DTypeLike) -> PartRates:
    """The rates of H, W and b at a time, with the schedule multiplied in."""
    eta = jnp.asarray(dynamics.schedule(time), dtype)
    rates = [eta * jnp.asarray(rate_at(rate, time), dtype) for rate in (dynamics.rate_H, dynamics.rate_W)]
    own = rates[1] if dynamics.rate_b is None else eta * jnp.asarray(rate_at(dynamics.rate_b, time), dtype)
    return PartRates(rates[0], rates[1], own)
