"""A Runge-Kutta step of diffrax written out stage by stage, for states that do not fit into the caches.

diffrax keeps all stages of a step in one buffer and combines the whole buffer at every stage. That compiles fast and
costs little while the buffer fits into a cache. If it does not, the passes over it take half as long as the matrix
products of the force. Here each stage reads the stages before it and nothing else. Method, error estimate and
interpolation are those of the given diffrax solver.

Decay needs no pass over the state. With y' = push - decay y, everything that a step computes is a sum of the start and
the pushes of its stages, and the decays, one number per array, only change the weights of that sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

Time = float | np.ndarray | jax.Array
"""A time or a step in time, as diffrax passes it to terms, solvers and controllers."""


class Force(eqx.Module):
    """The velocity push - decay * at.

    Attributes:
        push: A tree of arrays like the state.
        decay: One number per array, ().
        at: The state.
    """

    push: PyTree
    decay: PyTree
    at: PyTree

    def velocity(self) -> PyTree:
        return jax.tree.map(lambda push, decay, at: push - decay * at, self.push, self.decay, self.at)


class DecayingTerm(diffrax.AbstractTerm):
    """y' = push - decay * y. `Unrolled` uses push and decay separately; any other solver treats it as an `ODETerm`."""

    force: Callable[[Any, PyTree, Any], Force]

    def vf(self, t: Time, y: PyTree, args: PyTree) -> Force:
        return self.force(t, y, args)

    def contr(self, t0: Time, t1: Time, **kwargs: Any) -> Any:
        return t1 - t0

    def prod(self, vf: Force, control: Time) -> PyTree:
        return jax.tree.map(lambda velocity: control * velocity, vf.velocity())


def _pushes(terms: diffrax.AbstractTerm, t: Time, y: PyTree, args: PyTree) -> tuple[PyTree, jax.Array]:
    """The push at y and the decays of the leaves of y, shape (leaves,)."""
    force = terms.vf(t, y, args)
    if not isinstance(force, Force):
        return force, jnp.zeros(len(jax.tree.leaves(y)), jnp.result_type(*jax.tree.leaves(y)))
    return force.push, jnp.stack(jax.tree.leaves(force.decay))


def _moved(start: PyTree, weights: jax.Array, pushes: Sequence[PyTree], *, whole: bool = True) -> PyTree:
    """The weighted sum of the start and the pushes, in one pass; if `whole`, added to the start.

    Args:
        start: The state at the start of the step.
        weights: Of the start and the pushes, by leaf, (leaves, 1 + stages).
        pushes: The pushes of the stages.
        whole: See above.
    """

    def leaf(weight: jax.Array, start: jax.Array, *parts: jax.Array) -> jax.Array:
        total = weight[0] * start
        for i, part in enumerate(parts):
            total = total + weight[1 + i] * part
        return start + total if whole else total

    leaves, structure = jax.tree.flatten(start)
    columns = zip(*(jax.tree.leaves(push) for push in pushes), strict=True)
    sums = [leaf(weight, own, *parts) for weight, own, parts in zip(weights, leaves, columns, strict=True)]
    return jax.tree.unflatten(structure, sums)


class _Interpolation(diffrax.AbstractLocalInterpolation):
    """The solver's own interpolation. It is linear in the stages, so unit stages give its weights.

    Attributes:
        t0, t1: Start and end of the step.
        y0: The state at its start.
        pushes: The pushes of its stages.
        moves: Weights of the start and the pushes in the change of y by each stage, (stages, leaves, 1 + stages).
        own: The interpolation of the solver.
        end: The weights of the stages at the end of the step.
    """

    t0: Any  # type: ignore[misc]
    t1: Any  # type: ignore[misc]
    y0: PyTree
    pushes: tuple[PyTree, ...]
    moves: jax.Array
    own: Callable[..., Any] = eqx.field(static=True)
    end: tuple[float, ...] = eqx.field(static=True)

    def evaluate(self, t0: Time, t1: Time | None = None, left: bool = True) -> PyTree:
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        count, dtype = len(self.pushes), self.moves.dtype
        start, end = jnp.zeros(count, dtype), jnp.asarray(self.end, dtype)
        units = self.own(t0=self.t0, t1=self.t1, y0=start, y1=end, k=jnp.eye(count, dtype=dtype))
        return _moved(self.y0, _weighted(units.evaluate(t0), self.moves), self.pushes)


def _weighted(weights: Sequence[float] | jax.Array, moves: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """sum_i weights_i moves_i over the stages so far, written out: accelerators round float32 matrix products."""
    return sum((weight * move for weight, move in zip(weights, moves, strict=False)), jnp.zeros_like(moves[0]))


class Unrolled(diffrax.AbstractAdaptiveSolver):
    """An explicit diffrax solver, such as Tsit5, whose last stage is the first stage of the next step, written out.

    It needs an `ODETerm` or a `DecayingTerm`, whose control is the length of the step, and arrays of one dtype.
    """

    solver: diffrax.AbstractERK
    term_structure: ClassVar[Any] = diffrax.AbstractTerm

    def __check_init__(self) -> None:
        if not (self._tableau.fsal and self._tableau.ssal):
            raise TypeError(f"the last stage of a {type(self.solver).__name__} step is not the first of the next one.")

    @property
    def _tableau(self) -> diffrax.ButcherTableau:
        tableau = self.solver.tableau
        assert isinstance(tableau, diffrax.ButcherTableau)  # that of a solver of one equation
        return tableau

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # type: ignore[override]
        own, end = self.solver.interpolation_cls, tuple(float(weight) for weight in self._tableau.b_sol)

        def interpolation(
            *, t0: Time, t1: Time, y0: PyTree, y1: PyTree, pushes: tuple[PyTree, ...], moves: jax.Array
        ) -> _Interpolation:
            return _Interpolation(t0, t1, y0, pushes, moves, own, end)

        return interpolation

    def order(self, terms: diffrax.AbstractTerm) -> int | None:
        return self.solver.order(terms)

    def init(self, terms: diffrax.AbstractTerm, t0: Time, t1: Time, y0: PyTree, args: PyTree) -> PyTree:
        return _pushes(terms, t0, y0, args)

    def func(self, terms: diffrax.AbstractTerm, t0: Time, y0: PyTree, args: PyTree) -> PyTree:
        force = terms.vf(t0, y0, args)
        return force.velocity() if isinstance(force, Force) else force

    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: Time,
        t1: Time,
        y0: PyTree,
        args: PyTree,
        solver_state: PyTree,
        made_jump: bool | np.ndarray | jax.Array,
    ) -> tuple[PyTree, PyTree, dict[str, Any], PyTree, Any]:
        tableau, control = self._tableau, terms.contr(t0, t1)
        push, decay = jax.lax.cond(made_jump, lambda: _pushes(terms, t0, y0, args), lambda: solver_state)
        width = 2 + len(tableau.c)
        units = jnp.eye(width, dtype=decay.dtype)

        def move(stage: int, weights: jax.Array, decay: jax.Array) -> jax.Array:
            """The change of y by the stage at start + weights (start, pushes), as weights of start and pushes."""
            return control * (units[1 + stage] - decay[:, None] * (units[0] + weights))

        pushes, moves = [push], [move(0, jnp.zeros((len(decay), width), decay.dtype), decay)]
        y = y0
        for stage, (row, node) in enumerate(zip(tableau.a_lower, tableau.c, strict=True), start=1):
            weights = _weighted([float(weight) for weight in row], moves)
            y = _moved(y0, weights, pushes)
            time = t1 if node == 1 else t0 + float(node) * (t1 - t0)
            # Without the barrier XLA would compute a stage again for everything that reads it.
            push, decay = jax.lax.optimization_barrier(_pushes(terms, time, y, args))
            pushes.append(push)
            moves.append(move(stage, weights, decay))
        error = _moved(y0, _weighted([float(weight) for weight in tableau.b_error], moves), pushes, whole=False)
        dense = {"y0": y0, "y1": y, "pushes": tuple(pushes), "moves": jnp.stack(moves)}
        return y, error, dense, (push, decay), diffrax.RESULTS.successful
