"""A Runge-Kutta step of diffrax as one scan over its stages, for a gradient that is traced and used a few times.

    k_i = dt f(t_0 + c_i dt, y_0 + sum_j a_ij k_j),    y_1 = y_0 + sum_i b_i k_i,

with a_ij = 0 for j >= i. diffrax loops over the stages inside of a loop over steps. To be differentiated, both loops
keep checkpoints, and both are traced several times. A scan inside of the loop over steps leaves half as much to trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from unhinged_jax.simulation.large_states import Time


class Scanned(diffrax.AbstractAdaptiveSolver):
    """An explicit diffrax solver, such as Dopri8, whose stages are scanned.

    Every stage is computed in every step, also where the last one of the step before is the first of the next. It needs
    a term whose control is the length of the step, and arrays of one dtype.
    """

    solver: diffrax.AbstractERK
    term_structure: ClassVar[Any] = diffrax.AbstractTerm

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # type: ignore[override]
        return self.solver.interpolation_cls

    def order(self, terms: diffrax.AbstractTerm) -> int | None:
        return self.solver.order(terms)

    def init(self, terms: diffrax.AbstractTerm, t0: Time, t1: Time, y0: PyTree, args: PyTree) -> None:
        return None

    def func(self, terms: diffrax.AbstractTerm, t0: Time, y0: PyTree, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)

    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: Time,
        t1: Time,
        y0: PyTree,
        args: PyTree,
        solver_state: None,
        made_jump: bool | np.ndarray | jax.Array,
    ) -> tuple[PyTree, PyTree, dict[str, Any], None, Any]:
        tableau, dtype = self.solver.tableau, jnp.result_type(*jax.tree.leaves(y0))
        assert isinstance(tableau, diffrax.ButcherTableau)  # that of a solver of one equation
        count = len(tableau.c) + 1
        rows = np.zeros((count, count))
        for stage, row in enumerate(tableau.a_lower, start=1):
            rows[stage, :stage] = row
        nodes = np.concatenate([[0.0], tableau.c])

        def combined(weights: jax.Array, pushes: PyTree) -> PyTree:
            return jax.tree.map(lambda push: jnp.tensordot(weights, push, 1, precision="highest"), pushes)

        def move(time: jax.Array, y: PyTree, args: PyTree) -> PyTree:
            return terms.vf_prod(time, y, args, terms.contr(t0, t1))

        # Only the arguments of a velocity are kept for the way back, not what is computed in it.
        lean = jax.checkpoint(move, prevent_cse=False)

        def computed(pushes: PyTree, stage: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[PyTree, None]:
            number, weights, node = stage
            time = jnp.where(node == 1, t1, t0 + node * (t1 - t0))
            push = lean(time, jax.tree.map(jnp.add, y0, combined(weights, pushes)), args)
            return jax.tree.map(lambda kept, now: kept.at[number].set(now), pushes, push), None

        empty = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), dtype), y0)
        stages = jnp.arange(count), jnp.asarray(rows, dtype), jnp.asarray(nodes, dtype)
        pushes, _ = jax.lax.scan(computed, empty, stages)
        y1 = jax.tree.map(jnp.add, y0, combined(jnp.asarray(tableau.b_sol, dtype), pushes))
        error = combined(jnp.asarray(tableau.b_error, dtype), pushes)
        return y1, error, {"y0": y0, "y1": y1, "k": pushes}, None, diffrax.RESULTS.successful
