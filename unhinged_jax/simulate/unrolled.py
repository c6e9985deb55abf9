"""A Runge-Kutta step of diffrax written out stage by stage, for states that outgrow the caches.

diffrax keeps all stages of a step in one buffer and combines the whole buffer at every stage, which compiles fast
and costs little while it fits into a cache. Where it does not, the passes over it take as long as half of the force's
products. Written out, a stage reads the stages before it and nothing else. Method, error estimate and interpolation are
those of the diffrax solver that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

Tree = Any


def _combined(weights: Sequence[Any], stages: Sequence[Tree], start: Tree | None = None) -> Tree:
    """start + sum_i weights_i stages_i, in one pass; weights that are the number 0 are left out."""
    used = [i for i, weight in enumerate(weights) if not (isinstance(weight, float) and weight == 0)]

    def leaf(*parts: jax.Array) -> jax.Array:
        total = weights[used[0]] * parts[0]
        for i, part in zip(used[1:], parts[1:], strict=False):
            total = total + weights[i] * part
        return total if start is None else parts[-1] + total

    return jax.tree.map(leaf, *[stages[i] for i in used], *([] if start is None else [start]))


class _Interpolation(diffrax.AbstractLocalInterpolation):
    """The solver's own interpolation, which is linear in the stages: its weights are those of unit stages."""

    t0: Any  # type: ignore[misc]
    t1: Any  # type: ignore[misc]
    y0: Tree
    stages: tuple[Tree, ...]
    own: Callable[..., Any] = eqx.field(static=True)
    end: tuple[float, ...] = eqx.field(static=True)

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> Tree:
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        count = len(self.stages)
        dtype = jnp.result_type(jax.tree.leaves(self.y0)[0])
        start, end = jnp.zeros(count, dtype), jnp.asarray(self.end, dtype)
        units = self.own(t0=self.t0, t1=self.t1, y0=start, y1=end, k=jnp.eye(count, dtype=dtype))
        weights = units.evaluate(t0)
        return _combined([weights[i] for i in range(count)], self.stages, self.y0)


class Unrolled(diffrax.AbstractAdaptiveSolver):
    """An explicit diffrax solver whose last stage is the first of the next step, such as Tsit5, written out."""

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

        def interpolation(*, t0: Any, t1: Any, y0: Tree, y1: Tree, stages: tuple[Tree, ...]) -> _Interpolation:
            return _Interpolation(t0, t1, y0, stages, own, end)

        return interpolation

    def order(self, terms: Any) -> int | None:
        return self.solver.order(terms)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Tree, args: Any) -> Tree:
        return self.func(terms, t0, y0, args)

    def func(self, terms: Any, t0: Any, y0: Tree, args: Any) -> Tree:
        return terms.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Tree, args: Any, solver_state: Tree, made_jump: Any
    ) -> tuple[Tree, Tree, dict[str, Any], Tree, Any]:
        tableau, control = self._tableau, terms.contr(t0, t1)
        force = jax.lax.cond(made_jump, lambda: terms.vf(t0, y0, args), lambda: solver_state)
        stages, y = [terms.prod(force, control)], y0
        for row, node in zip(tableau.a_lower, tableau.c, strict=True):
            y = _combined([float(weight) for weight in row], stages, y0)
            # Behind a barrier, because XLA would work a stage out again in everything that reads it.
            force = jax.lax.optimization_barrier(terms.vf(t1 if node == 1 else t0 + float(node) * (t1 - t0), y, args))
            stages.append(terms.prod(force, control))
        error = _combined([float(weight) for weight in tableau.b_error], stages)
        return y, error, {"y0": y0, "y1": y, "stages": tuple(stages)}, force, diffrax.RESULTS.successful
