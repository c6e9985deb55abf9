"""How long the steps of a flow are.

An explicit solver amplifies what should decay if its steps are too long. Where growth rates mu of a linear dynamics are
known,

    step * (largest mu - smallest mu) <= reach of the solver,

because at unit norm everything decays at the difference between its own rate and the largest. Without this bound, an
error as large as the tolerance would stay in a state that has long found its direction. In float32 rounding is about as
large, and steps of equal length would round the logarithm of the norm in the same way every time: there it is left out.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from unhinged_jax.dynamics import RATES, Flow, rates_at
from unhinged_jax.simulation.large_states import Time, Unrolled
from unhinged_jax.simulation.scanned_stages import Scanned
from unhinged_jax.simulation.system import Packing, Scaled, Spread, System
from unhinged_jax.special import safe_norm

_REACH = {diffrax.Dopri8: 4.5, diffrax.Tsit5: 2.5}
"""Solver -> the largest product of a step and a rate of decay; the solvers are stable up to 5.2 and 3.5."""


def step_sizes(
    system: System, flow: Flow, solver: Any, tolerances: tuple[float, float], packing: Packing, stops: jax.Array | None
) -> diffrax.AbstractStepSizeController:
    """The step size controller; steps end at every break of the schedule and the rates, and at the `stops`, (T,)."""
    rtol, atol = tolerances
    reach = _REACH.get(type(solver.solver if isinstance(solver, Unrolled | Scanned) else solver))
    dtype = next(iter(system.body().values())).dtype
    spread = system.spread() if reach is not None and dtype == jnp.float64 else None
    kind: Any = diffrax.PIDController
    if system.guarded:
        kind = partial(_RelativeController, packing=packing, biased="b" not in system.stays)
    elif spread is not None and reach is not None:
        kind = partial(_StableController, spread=_fixed(spread), flow=_fixed(flow), reach=reach)
    controller: Any = kind(rtol=rtol, atol=atol, pcoeff=0.2, icoeff=0.5, dcoeff=0.0)
    jumps = _fixed([jnp.ravel(jnp.asarray(jump, dtype)) for jump in _breaks(flow)])
    if jumps or stops is not None:
        jump_ts = jnp.sort(jnp.concatenate(jumps)) if jumps else None
        controller = diffrax.ClipStepSizeController(controller, step_ts=stops, jump_ts=jump_ts)
    return controller


def _fixed(tree: Any) -> Any:
    """The same numbers as constants: the ends of steps are chosen by the solver and are not differentiated."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


class _StableController(diffrax.PIDController):
    """Takes no step beyond the reach of the solver, in units of the largest difference between two growth rates."""

    spread: Spread = eqx.field(kw_only=True)
    flow: Flow = eqx.field(kw_only=True)
    reach: float = eqx.field(kw_only=True, static=True)
    direction: Any = eqx.field(kw_only=True, default=1.0)

    # All three override methods of diffrax, with the same arguments.
    def wrap(self, direction: Any) -> Any:
        return dataclasses.replace(super().wrap(direction), direction=direction)

    def init(self, terms: PyTree, t0: Time, t1: Time, *others: Any) -> Any:
        end, state = super().init(terms, t0, t1, *others)
        return self._within(t0, end), state

    def adapt_step_size(self, *step: Any) -> Any:
        accepted, start, end, *others = super().adapt_step_size(*step)
        return accepted, start, self._within(start, end), *others

    def _within(self, start: Time, end: Time) -> Time:
        """The end of a step from `start`, no later than `end`. A solution backwards runs from -t on."""
        start = jax.lax.stop_gradient(start)
        rate = self.spread.at(rates_at(self.flow, start * self.direction, jnp.result_type(start)))
        return jnp.minimum(end, jnp.where(rate > 0, start + self.reach / jnp.where(rate > 0, rate, 1.0), jnp.inf))


class _RelativeController(diffrax.PIDController):
    """Measures tolerances for H and W in units of their current root-mean-square entry once that is below 1.

    A state that shrinks, and its logarithm, are then solved as accurately as a state that does not.
    """

    packing: Packing = eqx.field(kw_only=True, static=True)
    biased: bool = eqx.field(kw_only=True, static=True)

    # Overrides the method of diffrax, with the same arguments.
    def adapt_step_size(
        self, t0: Time, t1: Time, y0: PyTree, y1_candidate: PyTree, args: PyTree, y_error: PyTree, error_order: Time,
        controller_state: PyTree,
    ) -> Any:  # fmt: skip
        pack, unpack = self.packing
        if not isinstance(unpack(y0), Scaled):  # the backsolve adjoint goes back with the state and its cotangents
            return super().adapt_step_size(t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state)
        body = unpack(y0).body
        parts = [body[name] for name in ("H", "W") if name in body]
        entry = safe_norm(*parts) / sum(part.size for part in parts) ** 0.5
        unit = jax.lax.stop_gradient(jnp.where((entry > 0) & (entry < 1), entry, 1.0))
        # The tolerance takes the unit instead of H and W, which would be three passes over large states.
        scaled = dataclasses.replace(self, atol=jnp.maximum(self.atol * unit, jnp.finfo(unit.dtype).tiny))

        def over(y: Any) -> Any:
            # Biases stay as they are: their drive is as large as the targets and does not shrink with the state.
            if y is None or not self.biased:
                return y
            y = unpack(y)
            return pack(y._replace(body={name: part * unit if name == "b" else part for name, part in y.body.items()}))

        step = super(_RelativeController, scaled).adapt_step_size
        return step(t0, t1, over(y0), over(y1_candidate), args, over(y_error), error_order, controller_state)


def _breaks(flow: Flow) -> list[Any]:
    """Arrays of the times at which the schedule or a rate is not smooth."""
    rates = [rate for rate in (getattr(flow, name) for name in RATES) if callable(rate)]
    return [point for schedule in (flow.schedule, *rates) for point in schedule.breaks]
