"""Value and gradient of a final observable, beside the forward run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unhinged_jax as uj
from benchmarks import costs, ours, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Run, Workload
from benchmarks.peers import by_jax
from benchmarks.workloads.flow import RTOL
from benchmarks.workloads.sizes import SHAPES

_FINAL = "norm"  # smooth in every parameter, and of every run


def _descent(size: str, precision: str) -> Case:
    return Case("gradient", size, precision, **SHAPES[size], decay=1e-3, steps=2000, every=2000)


def _ours(solve: Callable[..., uj.Trajectory], flow: bool, backward: bool) -> Callable[[Case], Run]:
    """d/d decay of the norm at the end, or that norm alone."""

    def build(case: Case) -> Run:
        model, times = ours.model_of(case), np.asarray([case.steps])
        dynamics = uj.Flow(case.rate, rtol=RTOL[case.precision]) if flow else uj.Descent(case.rate)

        def final(decay: Any, state: Any) -> jax.Array:
            run = solve(model.replace(decay=decay), dynamics, state, times, _FINAL, precision=case.precision)
            return run.last(_FINAL)

        return _jitted(final, case, ours.state_of(case), backward)

    return build


def _jitted(final: Callable[[Any, Any], jax.Array], case: Case, start: Any, backward: bool) -> Run:
    program = jax.jit(jax.value_and_grad(final) if backward else final)
    with by_jax.in_precision(case):
        arguments = jax.device_put((np.asarray(case.decay, case.dtype), start))

    def run() -> dict[str, Any]:
        with by_jax.in_precision(case):
            result = program(*arguments)
        return {"value": result[0], "gradient": result[1]} if backward else {"value": result}

    return run


def _naive(backward: bool) -> Callable[[Case], Run]:
    """Plain JAX: a scan of updates, rematerialised by the square root of its length."""

    def build(case: Case) -> Run:
        with by_jax.in_precision(case):
            loss = by_jax.loss_of(case)
        gradient, gamma = jax.grad(loss), case.gammas[0]
        block = int(np.sqrt(case.steps))
        while case.steps % block:
            block -= 1

        def final(decay: Any, start: Any) -> jax.Array:
            def step(parts: Any, _: None) -> tuple[Any, None]:
                moves = gradient(parts, gamma)
                return jax.tree.map(lambda part, move: part - case.rate * (move + decay * part), parts, moves), None

            @jax.checkpoint
            def steps(parts: Any, _: None) -> tuple[Any, None]:
                return jax.lax.scan(step, parts, length=block)

            H, W = jax.lax.scan(steps, start, length=case.steps // block)[0]
            return jnp.sqrt(jnp.sum(H**2) + jnp.sum(W**2))

        return _jitted(final, case, case.start(), backward)

    return build


def _reference(case: Case) -> reference.Curves:
    """Value and derivative of the closed forms of descent and flow."""
    modes, gamma = reference.Modes(case, *case.start()), case.gammas[0]
    value, gradient = modes.last_norm(gamma, case.decay, reference.descent_factor(case))
    flow_value, flow_gradient = modes.last_norm(gamma, case.decay, reference.flow_factor(case))
    return {"value": value, "gradient": gradient, "flow_value": flow_value, "flow_gradient": flow_gradient}


def _renamed(build: Callable[[Case], Run]) -> Callable[[Case], Run]:
    """A flow's results under the names of its own reference."""

    def renamed(case: Case) -> Run:
        run = build(case)
        return lambda: {f"flow_{name}": value for name, value in run().items()}

    return renamed


def _pair(
    name: str, build: Callable[[bool], Callable[[Case], Run]], model: costs.Model, **more: Any
) -> list[Contender]:
    """Forward and backward; a backward pass costs at least twice the forward one's work again."""
    return [
        Contender(f"{name} forward", build(False), model, **more),
        Contender(f"{name} gradient", build(True), lambda case, count: model(case, count).times(3), **more),
    ]


GRADIENT = Workload(
    name="gradient",
    title="Final norm after 2,000 updates, or t = 2000, and its derivative with respect to the decay",
    unit="solutions",
    case=_descent,
    sizes=("small", "paper"),
    reference=_reference,
    contenders=(
        *_pair(
            "unhinged_jax simulate", lambda back: _ours(uj.simulate, False, back), costs.class_sums, ours=True
        ),
        *_pair(
            "unhinged_jax exact", lambda back: _ours(uj.exact, False, back), costs.closed_form, ours=True, patient=True
        ),
        *_pair(
            "unhinged_jax flow", lambda back: _renamed(_ours(uj.simulate, True, back)), costs.class_sums, ours=True,
            patient=True,
        ),
        *_pair("naive JAX", _naive, costs.dense_products),
    ),
    skips={"bfloat16": "as for descent"},
)  # fmt: skip
