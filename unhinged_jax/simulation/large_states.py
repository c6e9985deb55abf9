"""A Runge-Kutta step of diffrax written out stage by stage, for states that outgrow the caches.

diffrax keeps all stages of a step in one buffer and combines the whole buffer at every stage, which compiles fast
and costs little while it fits into a cache. Where it does not, the passes over it take as long as half of the force's
products. Written out, a stage reads the stages before it and nothing else. Method, error estimate and interpolation are
those of the diffrax solver that is given.

Decay takes no pass at all. With y' = push - decay y, everything that a step puts together is a sum of the start and the
pushes of its stages, and the decays, one number an array, enter the weights of that sum alone.
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
"""A time, or a step of it, as diffrax gives it to terms, solvers and controllers."""


class Force(eqx.Module):
    """A velocity push - decay * at, with one number of decay an array."""

    push: PyTree
    decay: PyTree
    at: PyTree

    def velocity(self) -> PyTree:
        return jax.tree.map(lambda push, decay, at: push - decay * at, self.push, self.decay, self.at)


class DecayingTerm(diffrax.AbstractTerm):
    """y' = push - decay * y, kept apart for `Unrolled`; any other solver takes it as it takes an `ODETerm`."""

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
    """The sum of the start and the pushes, in one pass, with weights of shape (leaves, 1 + stages); with the start
    itself once more if `whole`."""

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
    """The solver's own interpolation, which is linear in the stages: its weights are those of unit stages.

    `moves` (stages, leaves, 1 + stages) are the weights of the start and the pushes in what a stage moves y by.
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
    """sum_i weights_i moves_i over the stages there are, written out: a product would round float32 on accelerators."""
    return sum((weight * move for weight, move in zip(weights, moves, strict=False)), jnp.zeros_like(moves[0]))


class Unrolled(diffrax.AbstractAdaptiveSolver):
    """An explicit diffrax solver whose last stage is the first of the next step, such as Tsit5, written out.

    For an `ODETerm` or a `DecayingTerm`, whose control is the length of the step, and arrays of one dtype.
    """

    solver: diffrax.AbstractERK
    term_structure: ClassVar[Any] = diffrax.AbstractTerm

    def __check_init__(self) -> None:
        if not (self._tableau.fsal and self._tableau.ssal):
            raise TypeError(f"{type(self.solver).__name__} does not end a step with the first stage of the next")

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
            """What the stage at start + weights (start, pushes) moves y by, in the same terms."""
            return control * (units[1 + stage] - decay[:, None] * (units[0] + weights))

        pushes, moves = [push], [move(0, jnp.zeros((len(decay), width), decay.dtype), decay)]
        y = y0
        for stage, (row, node) in enumerate(zip(tableau.a_lower, tableau.c, strict=True), start=1):
            weights = _weighted([float(weight) for weight in row], moves)
            y = _moved(y0, weights, pushes)
            time = t1 if node == 1 else t0 + float(node) * (t1 - t0)
            # Behind a barrier, because XLA would work a stage out again in everything that reads it.
            push, decay = jax.lax.optimization_barrier(_pushes(terms, time, y, args))
            pushes.append(push)
            moves.append(move(stage, weights, decay))
        error = _moved(y0, _weighted([float(weight) for weight in tableau.b_error], moves), pushes, whole=False)
        dense = {"y0": y0, "y1": y, "pushes": tuple(pushes), "moves": jnp.stack(moves)}
        return y, error, dense, (push, decay), diffrax.RESULTS.successful
