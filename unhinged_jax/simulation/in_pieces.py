"""diffrax in pieces: the state of its loop is handed out when it pauses and is taken up as it is.

So a run in pieces makes the same steps as a run in one go, wherever it is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox.internal import while_loop
from jaxtyping import PyTree


class InPieces(diffrax.ForwardMode):
    """In place of an adjoint, which tells diffrax how to run its loop; nothing is differentiated here.

    Attributes:
        before, until: As in `Piece`.
    """

    before: PyTree = None
    until: jax.Array | np.ndarray | None = None

    # Overrides the method of diffrax, with the same arguments.
    def loop(
        self, *, solver: diffrax.AbstractSolver, throw: bool, passed_solver_state: bool, passed_controller_state: bool,
        **settings: Any,
    ) -> Any:  # fmt: skip
        init_state = settings["init_state"]
        if self.until is None:
            return _ended(self.before, settings["t1"]), {}
        before = jax.tree.map(jnp.asarray, init_state) if self.before is None else self.before
        until, paused = self.until, []

        def inner(cond: Callable, body: Callable, init: PyTree, **how: Any) -> Any:
            return while_loop(cond, body, init, kind="lax", max_steps=how["max_steps"], buffers=how["buffers"])

        def outer(cond: Callable, body: Callable, _init: PyTree, **how: Any) -> Any:
            def going(state: Any) -> Any:
                return cond(state) & (state.num_steps < until)

            paused.append(while_loop(going, body, before, kind="lax", max_steps=None, buffers=how["buffers"]))
            return paused[0]

        if isinstance(solver, diffrax.AbstractRungeKutta) and solver.scan_kind is None:
            solver = eqx.tree_at(lambda s: s.scan_kind, solver, "lax", is_leaf=lambda leaf: leaf is None)
        final, about = self._loop(solver=solver, inner_while_loop=inner, outer_while_loop=outer, **settings)
        return final, {**about, "paused": paused[0]}


def is_over(paused: Any, end: float, max_steps: int) -> bool:
    """Whether the loop has nothing more to do."""
    fine = bool(paused.result == diffrax.RESULTS.successful)
    return not (fine and float(paused.tprev) < end and int(paused.num_steps) < max_steps)


def _ended(state: Any, end: jax.Array) -> Any:
    """The last state of the loop of a run that ends where it is, with that read."""
    results = diffrax.RESULTS
    early = (state.result == results.successful) & (state.tprev < end)
    there, last = state.save_state
    last = eqx.tree_at(lambda s: (s.ts, s.ys), last, (state.tprev[None], jax.tree.map(lambda y: y[None], state.y)))
    result = results.where(early, results.max_steps_reached, state.result)
    return eqx.tree_at(lambda s: (s.save_state, s.result), state, ([there, last], result))
