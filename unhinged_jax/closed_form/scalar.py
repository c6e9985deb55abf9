"""A few scalars that obey y' = v(y) with v >= 0 from y = 0, solved to rounding, with derivatives of every kind.

They are followed in x = log(1 + t/t_0), with t_0 the time in which they begin to matter, because they may run through
many powers of ten of time: dy/dx = v(y) t_0 e^x. Speeds are kept as logarithms, so that no start is too small. Steps
are those of Dormand and Prince of order 8, chosen by the error that they make in what the scalars are needed for. They
are not differentiated: a derivative repeats them, as a loop of fixed length that passes over steps of length 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from unhinged_jax.special import safe_log

_TOLERANCE = 64  # in units of rounding
_MORE = 512  # accepted steps beside one for each time; a factor 10 in the distance to where a solution ends takes ten
_TABLEAU: Any = diffrax.Dopri8().tableau
_STAGES = len(_TABLEAU.b_sol)
_ROWS = np.zeros((_STAGES, _STAGES))
_NODES = np.concatenate([[0.0], np.asarray(_TABLEAU.c, float)])
for _i, _row in enumerate(_TABLEAU.a_lower, start=1):
    _ROWS[_i, : len(_row)] = _row


class Solved(NamedTuple):
    """The scalars at the requested times.

    Attributes:
        values: They themselves, (T, m); at times that are not reached those of the last step.
        reached: Which times are reached, (T,).
        full: Whether it ended for want of steps, (); otherwise where the scalars grow without bound.
        ended: The time of the last step, ().
    """

    values: Float[jax.Array, "T m"]
    reached: Bool[jax.Array, "T"]
    full: Bool[jax.Array, ""]
    ended: Float[jax.Array, ""]


class _Grid(NamedTuple):
    """The steps that were taken: their ends in x, (steps,), the last of them repeated; and log t_0, ()."""

    ends: jax.Array
    log_unit: jax.Array


class Velocity(NamedTuple):
    """Rates of change factor e^log, (m,) each, with factors of at least 0."""

    factor: Float[jax.Array, "m"]
    log: Float[jax.Array, "m"]


class Problem(NamedTuple):
    """What is solved; `velocity` and `size` are given the data.

    Attributes:
        velocity: (data, y (m,)) -> y' (m,), as `Velocity`.
        size: (data, change of y (m,)) -> how much it matters, ().
        structure, leaves: The data, taken apart: equinox replaces leaves by what not every class takes.
    """

    velocity: Callable[[Any, jax.Array], Velocity]
    size: Callable[[Any, jax.Array], jax.Array]
    structure: Any
    leaves: list[Any]

    @property
    def data(self) -> Any:
        """The data."""
        return jax.tree.unflatten(self.structure, self.leaves)

    def slope(self, y: jax.Array, log_time: jax.Array) -> jax.Array:
        """y' e^log_time, (m,)."""
        factor, log = self.velocity(self.data, y)
        return factor * jnp.exp(log + log_time)


def solved(
    velocity: Callable[[Any, jax.Array], Velocity],
    size: Callable[[Any, jax.Array], jax.Array],
    data: PyTree,
    elapsed: Float[jax.Array, "T"],
    count: int,
) -> Solved:
    """The `count` scalars at ascending times from 0 on, (T,); see `Problem` for the other arguments."""
    leaves, structure = jax.tree.flatten(data)
    return _solved(Problem(velocity, size, structure, leaves), elapsed, jnp.zeros(count, elapsed.dtype))


@eqx.filter_custom_jvp
def _solved(problem: Problem, elapsed: jax.Array, start: jax.Array) -> Solved:
    return _adaptive(problem, elapsed, start)[0]


@_solved.def_jvp
def _solved_jvp(primals: tuple, tangents: tuple) -> tuple[Solved, Solved]:
    arrays, others = eqx.partition(primals, eqx.is_array)
    found, grid, places = jax.lax.stop_gradient(_adaptive(*eqx.combine(jax.lax.stop_gradient(arrays), others)))
    start = primals[2]

    def again(problem: Problem, elapsed: jax.Array) -> jax.Array:
        def step(y: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            begin, end = ends
            made = jax.lax.cond(end > begin, lambda y: _step(problem, y, grid.log_unit, begin, end)[0], lambda y: y, y)
            return made, made

        begins = jnp.concatenate([jnp.zeros(1, start.dtype), grid.ends[:-1]])
        _, ys = jax.lax.scan(jax.checkpoint(step), start, (begins, grid.ends))
        values = jnp.concatenate([start[None], ys])[places]
        late = jnp.where(found.reached, elapsed - jax.lax.stop_gradient(elapsed), 0.0)
        zero = jnp.zeros((), start.dtype)
        return values + late[:, None] * jax.vmap(lambda y: problem.slope(y, zero))(jax.lax.stop_gradient(values))

    values, values_dot = eqx.filter_jvp(again, primals[:2], tangents[:2])
    return found._replace(values=values), Solved(values_dot, None, None, None)  # type: ignore[arg-type]


def _step(
    problem: Problem, y: jax.Array, log_unit: jax.Array, begin: jax.Array, end: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """y at x = end from y at x = begin, and an estimate of the error of the step."""
    rows, nodes, h = jnp.asarray(_ROWS, y.dtype), jnp.asarray(_NODES, y.dtype), end - begin

    def stage(slopes: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        slope = problem.slope(y + h * (rows[i] @ slopes), log_unit + begin + nodes[i] * h)
        return slopes.at[i].set(slope), None

    slopes, _ = jax.lax.scan(stage, jnp.zeros((_STAGES, *y.shape), y.dtype), jnp.arange(_STAGES))
    ends, errors = (jnp.asarray(np.asarray(b, float), y.dtype) @ slopes for b in (_TABLEAU.b_sol, _TABLEAU.b_error))
    return y + h * ends, h * errors


def _log_unit(problem: Problem, start: jax.Array) -> jax.Array:
    """log t_0: minus the logarithm of how fast what matters changes at the start."""
    factor, log = problem.velocity(problem.data, start)
    sizes = jax.vmap(lambda unit: problem.size(problem.data, unit))(jnp.eye(start.size, dtype=start.dtype))
    fastest = jnp.max(safe_log(factor * sizes) + log)
    return jnp.where(jnp.isfinite(fastest), -fastest, 0.0)


def _adaptive(problem: Problem, elapsed: jax.Array, start: jax.Array) -> tuple[Solved, _Grid, jax.Array]:
    """The scalars, the steps that were taken, and after how many of them each time is reached, (T,)."""
    eps, dtype = float(jnp.finfo(start.dtype).eps), start.dtype
    most, log_unit = elapsed.shape[0] + _MORE, _log_unit(problem, start)
    log_ages = safe_log(elapsed) - log_unit
    asked = jnp.where(log_ages < 30, jnp.log1p(jnp.exp(jnp.minimum(log_ages, 30.0))), log_ages)

    def going_to(end: jax.Array) -> Callable[[tuple], jax.Array]:
        return lambda carry: (carry[0] < end) & ~carry[4] & (carry[3] < most)

    def until(carry: tuple, end: jax.Array) -> tuple[tuple, tuple]:
        def once(carry: tuple) -> tuple:
            place, y, h, count, lost, ends = carry
            last = place + h >= end
            target = jnp.where(last, end, place + h)
            after, error = _step(problem, y, log_unit, place, target)
            apart = problem.size(problem.data, error) / (_TOLERANCE * eps * (1 + problem.size(problem.data, after)))
            fine = jnp.all(jnp.isfinite(after)) & (apart <= 1)
            factor = jnp.clip(0.9 * jnp.maximum(apart, 1e-12) ** (-1 / 8), 0.2, 8.0)
            length = jnp.where(jnp.isfinite(apart), factor, 0.2) * (target - place)
            lost = ~fine & (place + length <= place * (1 + 4 * eps))
            # A step that was cut short at a time says little about the length of the next one.
            h = jnp.where(fine & last, jnp.maximum(h, length), length)
            ends = jnp.where(fine, ends.at[count].set(target, mode="drop"), ends)
            return jnp.where(fine, target, place), jnp.where(fine, after, y), h, count + fine, lost, ends

        carry = jax.lax.while_loop(going_to(end), once, carry)
        return carry, (carry[1], carry[0] >= end, carry[3])

    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    begin = zero, start, zero + 0.01, none, jnp.zeros((), bool), jnp.zeros(most, dtype)
    (_, _, _, count, lost, ends), (values, reached, places) = jax.lax.scan(until, begin, asked)
    ends = jnp.where(jnp.arange(most) < count, ends, ends[jnp.maximum(count - 1, 0)])
    return Solved(values, reached, ~lost, jnp.expm1(ends[-1]) * jnp.exp(log_unit)), _Grid(ends, log_unit), places
