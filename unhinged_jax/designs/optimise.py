"""The outer loop: optax on unconstrained coordinates, with every step recorded and the end compared with a
reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax.designs.plan import DesignPlan, precision_of
from unhinged_jax.designs.reference import Reference, reference_of

WITHIN = 0.02  # of the optimum


@dataclasses.dataclass(frozen=True)
class DesignOutcome:
    """The result of a design.

    Attributes:
        values: Free key -> the best value found.
        objective: Its objective.
        path: Free key -> values at every outer step, (steps + 1, ...).
        objectives: Objective at every step, (steps + 1,).
        measured: The quantity of each goal, at the end.
        reference: The optimum to compare with, or None.

    Source: beyond the paper.

    Example:
        >>> path, objectives = {"x": np.ones((2, 1))}, np.array([2.0, 0.5])
        >>> found = DesignOutcome({"x": np.ones(1)}, 0.5, path, objectives, {"loss": 0.5}, None)
        >>> print(found)
        Outcome after 1 steps: objective 0.5 (start 2)
          x = [1.]
          loss: 0.5
    """

    values: dict[str, np.ndarray]
    objective: float
    path: dict[str, np.ndarray]
    objectives: np.ndarray
    measured: dict[str, float]
    reference: Reference | None

    @property
    def gap(self) -> float | None:
        """The missing share of the way from the start's objective to the reference's; negative if the reference is
        surpassed."""
        if self.reference is None:
            return None
        way = float(self.objectives[0]) - self.reference.objective
        short = self.objective - self.reference.objective
        return short / way if way > 0 else short / max(abs(self.reference.objective), 1e-12)

    @property
    def distance(self) -> float | None:
        """Largest relative distance of a free key from the reference's; None if the reference has no values."""
        if self.reference is None or self.reference.values is None:
            return None
        far = [np.linalg.norm(x - self.reference.values[key]) / np.linalg.norm(self.reference.values[key])
               for key, x in self.values.items()]  # fmt: skip
        return float(max(far))

    @property
    def met(self) -> bool | None:
        """Whether objective and values lie within 2 % of the reference's."""
        if self.gap is None:
            return None
        return self.gap <= WITHIN and (self.distance is None or self.distance <= WITHIN)

    def __repr__(self) -> str:
        lines = [f"Outcome after {len(self.objectives) - 1} steps: objective {self.objective:.8g}"]
        lines[0] += f" (start {self.objectives[0]:.8g})"
        for key, value in self.values.items():
            shown = np.array2string(value, precision=5, threshold=8, edgeitems=3, max_line_width=90)
            lines.append(f"  {key} = {shown}")
        lines += [f"  {name}: {value:.8g}" for name, value in self.measured.items()]
        if self.reference is not None:
            lines.append(self._verdict())
        return "\n".join(lines)

    def _verdict(self) -> str:
        assert self.reference is not None and self.gap is not None
        text = f"  reference ({self.reference.source}): {self.reference.objective:.8g}"
        text += f"; objective {100 * abs(self.gap):.2g} % " + ("short of it" if self.gap > 0 else "beyond it")
        if self.distance is not None:
            text += f", values {100 * self.distance:.2g} % away"
        return text + (": within 2 %" if self.met else ": NOT within 2 %")


def design(plan: DesignPlan, *, progress: Callable[[int, float], None] | None = None) -> DesignOutcome:
    """Choose the free keys of a plan by gradient.

    Minimises sum over goals of weight * term with an optax optimiser in unconstrained coordinates, which keep every key
    in its domain, and differentiates the run itself (reverse mode). The best step is kept.

    Args:
        plan: From `DesignPlan.read` or `DesignPlan.of`.
        progress: Called with (step, objective) after every outer step.

    Returns:
        A `DesignOutcome`; its `met` says whether it lies within 2 % of the plan's reference.

    Raises:
        ValueError: if the objective is not finite at the start or at a later step.

    Source: beyond the paper.

    Example:
        >>> plan = DesignPlan.of({
        ...     "model": {"case": "unconstrained", "dim": 4},
        ...     "labels": {"layout": "counts", "counts": [8, 2, 1], "class_weights": [1.0, 1.0, 1.0]},
        ...     "dynamics": {"kind": "flow"},
        ...     "run": {"times": [1]},
        ...     "design": {
        ...         "free": {"labels.class_weights": {"domain": "simplex"}},
        ...         "goal": [{"observe": "spread", "of": "modes"}],  # contrast modes equally fast
        ...     },
        ... })
        >>> weights = design(plan).values["labels.class_weights"]
        >>> [round(float(weight / weights[0]), 2) for weight in weights]  # n_c^(-1/2)
        [1.0, 2.0, 2.83]
    """
    _check.kind("plan", plan, DesignPlan)
    with precision_of(plan), jax.default_matmul_precision("highest"):
        coordinates = {key: jnp.asarray(u, jnp.result_type(float)) for key, u in plan.start.items()}
        optimizer = _optimizer(plan)

        def inside(coordinates: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return {key: plan.free[key].inside(u) for key, u in coordinates.items()}

        def objective(coordinates: dict[str, jax.Array]) -> jax.Array:
            return plan.objective(inside(coordinates))

        def step(coordinates: dict[str, jax.Array], memory: PyTree) -> tuple[Any, Any, jax.Array, jax.Array]:
            value, slope = jax.value_and_grad(objective)(coordinates)
            change, memory = optimizer.update(slope, memory, coordinates, value=value, grad=slope, value_fn=objective)
            fine = jnp.isfinite(value) & jnp.all(jnp.stack([jnp.all(jnp.isfinite(s)) for s in jax.tree.leaves(slope)]))
            return optax.apply_updates(coordinates, change), memory, value, fine

        step = plan.compiled("step", step)
        coordinates = _best_start(plan, objective, coordinates)
        places, values = [coordinates], []
        memory = optimizer.init(coordinates)
        for count in range(plan.design.steps):
            moved, memory, value, fine = step(coordinates, memory)
            if not bool(fine):
                raise ValueError(
                    f"the objective or its gradient is not finite at step {count} ({float(value):g}); start elsewhere, "
                    "or take smaller steps."
                )
            values.append(float(value))
            coordinates = moved
            places.append(coordinates)
            if progress is not None:
                progress(count + 1, float(value))
        values.append(float(plan.compiled("objective at coordinates", objective)(coordinates)))
        objectives = np.asarray(values)
        best = int(np.nanargmin(objectives))
        stack = jax.tree.map(lambda *us: jnp.stack(us), *places)
        path = {key: np.asarray(jax.vmap(plan.free[key].inside)(stack[key])) for key in stack}
        chosen = {key: x[best] for key, x in path.items()}
        measured = plan.compiled("measured", plan.measured)({key: jnp.asarray(x) for key, x in chosen.items()})
        seen = {name: float(v) for name, v in measured.items()}
        return DesignOutcome(chosen, float(objectives[best]), path, objectives, seen, reference_of(plan))


def _best_start(
    plan: DesignPlan, objective: Callable[[Any], jax.Array], given: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """The best of the given start and random ones around it, which are always the same."""
    tries = plan.design.tries
    if tries == 1:
        return given
    draw = np.random.default_rng(0)
    stack = {key: u + draw.normal(size=(tries, *u.shape)) for key, u in given.items()}
    stack = {key: jnp.asarray(us).at[0].set(given[key]) for key, us in stack.items()}
    each = plan.compiled("starts", lambda stack: jax.lax.map(objective, stack, batch_size=64))
    found = np.asarray(each(stack))
    best = int(np.argmin(np.where(np.isfinite(found), found, np.inf)))
    return {key: us[best] for key, us in stack.items()}


def _optimizer(plan: DesignPlan) -> optax.GradientTransformationExtraArgs:
    spec = plan.design.optimizer or {"name": "adam", "learning_rate": 0.1}
    with _config.placed(f"{plan.config.path}: [design]"):
        chosen = _config.optimizer_of(spec, plan.config.path.parent)
    if plan.design.anneal:
        chosen = optax.chain(chosen, optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, plan.design.steps)))
    return optax.with_extra_args_support(chosen)
