"""Flows by plain diffrax and by SciPy, on the dense state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.peers.by_jax import in_precision, loss_of
from benchmarks.peers.by_jax import observer as jax_observer
from benchmarks.peers.by_numpy import named
from benchmarks.peers.by_numpy import observer as numpy_observer
from benchmarks.reference import entropy_curves, entropy_gradient


def _diffrax_program(case: Case, observe: Callable[..., Any] | None = None) -> tuple[Any, tuple[Any, ...]]:
    import diffrax

    H, W = case.start()
    loss, observe, gamma = loss_of(case), observe or jax_observer(case, H, W), case.gammas[0]

    def field(_t: Any, y: Any, _args: Any) -> Any:
        moves = jax.grad(loss)(y, gamma)
        return jax.tree.map(lambda move, part: -case.rate * (move + case.decay * part), moves, y)

    @jax.jit
    def solve(parts: Any) -> dict[str, Any]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=0.0,
            t1=case.horizon,
            dt0=None,
            y0=parts,
            saveat=diffrax.SaveAt(ts=jnp.asarray(case.times, case.dtype), fn=lambda t, y, args: observe(y, gamma)),
            stepsize_controller=diffrax.PIDController(rtol=case.rtol, atol=case.rtol),
            max_steps=100_000,
        )
        # Tsit5 has seven stages, of which the last is the first of the next step.
        return {**solution.ys, "evaluations": 6 * solution.stats["num_steps"]}

    return solve, (jax.device_put((H, W)),)


def flow_by_diffrax(case: Case) -> Run:
    """Tsit5 and a PID controller, observables saved instead of states."""
    with in_precision(case):
        solve, arguments = _diffrax_program(case)

    def run() -> dict[str, Any]:
        with in_precision(case):
            return solve(*arguments)

    return run


def gradient_by_diffrax(case: Case) -> Run:
    """The derivative of the last log-norm with respect to the start, through `diffeqsolve` with its default adjoint."""
    with in_precision(case):
        solve, (parts,) = _diffrax_program(case, lambda y, gamma: {"norm": optax.tree.norm(y)})
        gradient = jax.grad(lambda parts: jnp.log(solve(parts)["norm"][-1]))

    def run() -> dict[str, Any]:
        with in_precision(case):
            return {"gradient": gradient(parts)[0]}

    return run


def lowered_flow(case: Case) -> Any:
    """The diffrax program, lowered."""
    with in_precision(case):
        solve, arguments = _diffrax_program(case)
        return solve.lower(*arguments)


def scipy_refuses(case: Case) -> str | None:
    """`solve_ivp` returns every state: gigabytes at the paper's size, and minutes."""
    return None if case.size != "paper" else "solve_ivp keeps every state, 2 GB here; see the small size"


def flow_by_scipy(case: Case) -> Run:
    """`scipy.integrate.solve_ivp` with its default solver on hand-written gradients."""
    from scipy.integrate import solve_ivp

    H0, W0 = case.start()
    split, field = H0.size, _numpy_field(case)
    if case.loss == "cross_entropy":
        observe: Callable[..., tuple[float, ...]] = lambda H, W: entropy_curves(case, H, W)  # noqa: E731
    else:
        observe = numpy_observer(case, H0, W0)

    def run() -> dict[str, Any]:
        start = np.concatenate([H0.ravel(), W0.ravel()])
        solution = solve_ivp(field, (0.0, case.horizon), start, t_eval=case.times, rtol=case.rtol, atol=case.rtol)
        states = solution.y.T
        saved = [observe(y[:split].reshape(H0.shape), y[split:].reshape(W0.shape)) for y in states]
        return {**named(saved), "evaluations": solution.nfev}

    return run


def _numpy_field(case: Case) -> Callable[[float, np.ndarray], np.ndarray]:
    split, gamma = case.samples * case.dim, case.gammas[0]
    downhill = entropy_gradient(case)

    def linear(H: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = H.reshape(case.classes, case.per_class, case.dim).sum(axis=1)
        lift = ((1 + gamma) * W - gamma * W.sum(axis=0)) / case.samples
        move_W = ((1 + gamma) * sums - gamma * sums.sum(axis=0)) / case.samples
        return np.repeat(lift, case.per_class, axis=0) - case.decay * H, move_W - case.decay * W

    moves = downhill if case.loss == "cross_entropy" else linear

    def field(_t: float, y: np.ndarray) -> np.ndarray:
        H, W = y[:split].reshape(-1, case.dim), y[split:].reshape(-1, case.dim)
        return case.rate * np.concatenate([move.ravel() for move in moves(H, W)])

    return field
