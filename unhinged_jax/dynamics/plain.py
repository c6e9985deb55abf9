"""Gradient flow and gradient descent."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.dynamics.damping import as_damping
from unhinged_jax.dynamics.memories import AVERAGES, MEMORIES, check_memory
from unhinged_jax.dynamics.rates import Rated, check_draws, check_paces, is_number, settle
from unhinged_jax.optimizers import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flow(Rated):
    """Gradient flow H' = r_1 eta(t) (-dL/dH), W' = r_2 eta(t) (-dL/dW), and likewise b with r_2 or a rate of its own.

    With a `damping` it is a flow of second order, from rest: H'' + c H' = r_1 eta(t) (-dL/dH), and likewise W and b.

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
        damping: c of the heavy-ball flow, a number of at least 0; or "nesterov" for Nesterov's flow, c = 3/t, whose
            clock begins at 0 with the run. None (default): the flow is of first order. `Descent` with momentum beta and
            a small rate eta follows the flow with c = (1 - beta) / sqrt(eta), whose time is sqrt(eta) per update.
        sam_radius: rho of sharpness-aware minimisation: the gradient is taken not at the state Z but where the loss has
            risen, at Z + rho grad/||grad||. None (default): at the state itself.
        clip_norm: The largest norm of a gradient; a longer one is shortened to it. None (default): any.
        normalized: Whether each gradient is divided by its norm, so that all have norm 1. Default False.
        memory: `PolyakAverage` or `MovingAverage`: the average over time is observed in place of the state. None
            (default): the state.

    The gradient whose norm counts is that of the objective with respect to everything that moves, decay included and
    rates not; `clip_norm` and `normalized` act on the gradient that `sam_radius` has found. A gradient of 0 stays 0.

    Only `simulate` uses the solver, the tolerances, `max_steps` and `steady`. A rate that is a function must be at
    least 0. It is called before a run and refused if it is negative, unless it closes over traced values.

    Raises:
        ValueError: for a rate or `clip_norm` that is not above 0, a negative `sam_radius` or damping, a tolerance
            outside (0, 1), or `clip_norm` beside `normalized`.

    Source: Zhou et al. 2023, Eq. 6 and 12 (s = r_1 / r_2); damping: Polyak 1964 and Su, Boyd & Candès 2016;
    sharpness-aware: Foret et al. 2021.

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
    damping: Any = None
    sam_radius: Any = None
    clip_norm: Any = None
    normalized: bool = dataclasses.field(default=False, metadata={"static": True})
    memory: Any = None

    def __post_init__(self) -> None:
        settle(self)
        check_paces(self)
        check_memory(self.memory, AVERAGES, "Flow")
        object.__setattr__(self, "damping", as_damping(self.damping))
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
class Descent(Rated):
    """Gradient descent, simultaneous steps: H <- H + r_1 eta_k (-dL/dH), and likewise W with r_2 and b with r_2 or r_b.

    Attributes:
        schedule: eta_k = schedule(k) for k = 0, 1, ...; a number, schedule, optax schedule or callable, as for a
            `Flow`. Default 1.
        rate_H, rate_W: r_1 and r_2, numbers or schedules (descent has an exact solution for both).
        momentum: beta of heavy-ball momentum, as in `optax.sgd(momentum=beta)`; None for plain descent.
        nesterov: Whether to use Nesterov's form of the momentum, as in optax.
        optimizer: Any optax optimiser (Adam, ...) that needs only gradients, its memory and parameters. It is applied
            to {"H", "W", "b"}, and its updates are multiplied by schedule and rates, which are 1 by default. Such a
            descent has a closed form only where its gradient is constant, with frozen features or anchored prototypes
            (docs/exact-solutions.md). An optimiser that also asks for the loss (lbfgs, polyak_sgd, reduce_on_plateau)
            is refused. The numbers of an `Optimizer` are data, as in
            `Optimizer(optax.adam, learning_rate=0.1)`; those of one that is built already, as in `optax.adam(0.1)`, are
            part of the program, which is compiled for each. Here it becomes an `Optimizer`, too.
        rate_b: The rate of the biases, a number or a schedule; None (default): that of W.
        batch: m, the number of samples from which each update takes its gradient; None (default): all. `simulate` then
            needs a key, and `exact` gives expectations, for which m may be any number above 0.
        replacement: Whether a sample may be drawn several times for a batch (True, default) or not (False), or
            "epochs": batches are cut from a new order of all samples in each epoch, which can only be simulated.
        fresh_labels: Whether each update draws the labels again, from the targets, as those of
            `labels.symmetric_noise(rate)`.
        sam_radius: rho of sharpness-aware minimisation: the gradient is taken not at the state Z but where the loss has
            risen, at Z + rho grad/||grad||. None (default): at the state itself.
        clip_norm: The largest norm of a gradient; a longer one is shortened to it. None (default): any.
        normalized: Whether each gradient is divided by its norm, so that all have norm 1. Default False.
        memory: What else is kept of past states, and whether an average is observed in place of the state:
            `PolyakAverage`, `MovingAverage`, `Lookahead`, `ScheduleFree`, `Optimistic`, `QuasiHyperbolic` or
            `AggregatedMomentum`. It combines the changes that the descent makes, with momentum or an optimiser, too.
            None (default): nothing.

    The gradient whose norm counts is that of the objective with respect to everything that moves, decay included and
    rates not; `clip_norm` and `normalized` act on the gradient that `sam_radius` has found. A gradient of 0 stays 0.
    Momentum and optimisers are given the result; on a batch, both gradients are those of the same batch.

    Raises:
        ValueError: for a rate or `clip_norm` that is not above 0, a negative `sam_radius`, a momentum outside [0, 1),
            `nesterov` without a momentum, a momentum beside an optimiser, or `clip_norm` beside `normalized`.

    Source: Zhou et al. 2023, Eq. 5 and 19; momentum and other optimisers beyond the paper; sharpness-aware: Foret et
    al. 2021.

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
    sam_radius: Any = None
    clip_norm: Any = None
    normalized: bool = dataclasses.field(default=False, metadata={"static": True})
    memory: Any = None

    def __post_init__(self) -> None:
        settle(self)
        check_paces(self)
        check_memory(self.memory, MEMORIES, "Descent")
        if is_number(self.momentum):
            check_momentum(self.momentum)
        if _check.flag("nesterov", self.nesterov) and self.momentum is None:
            raise ValueError("nesterov needs a momentum; give for example momentum=0.9.")
        if isinstance(self.optimizer, optax.GradientTransformation):
            object.__setattr__(self, "optimizer", Optimizer(self.optimizer))
        elif self.optimizer is not None and not isinstance(self.optimizer, Optimizer):
            got = _check.given(self.optimizer)
            raise ValueError(f"optimizer must be an optax optimiser, such as optax.adam(0.01), but got {got}.")
        if self.optimizer is not None and self.momentum is not None:
            raise ValueError("give momentum or an optimizer, not both; put the momentum into the optimizer.")
        check_draws(self.batch, self.replacement, self.fresh_labels)

    @property
    def stochastic(self) -> bool:
        """Whether an update depends on what is drawn (a batch, or labels)."""
        return self.batch is not None or self.fresh_labels


def check_momentum(momentum: ArrayLike) -> None:
    """Raise unless a momentum that is known lies in [0, 1)."""
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
