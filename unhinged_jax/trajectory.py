"""What every run returns."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.model import State
from unhinged_jax.observables import OBSERVABLES

if TYPE_CHECKING:
    import pandas
    import xarray


class Result(enum.IntEnum):
    """Why a run ended.

    Source: beyond the paper.

    Example:
        >>> Result(1).message
        'steady: the rate of change fell below the tolerances; later times were not needed.'
    """

    COMPLETED = 0
    STEADY = 1
    OVERFLOW = 2
    MAX_STEPS = 3
    SOLVER_FAILED = 4

    @property
    def message(self) -> str:
        """The code in words, with what to do."""
        return _MESSAGES[self]


_MESSAGES = {
    Result.COMPLETED: "completed: every requested time was reached.",
    Result.STEADY: "steady: the rate of change fell below the tolerances; later times were not needed.",
    Result.OVERFLOW: "overflow: the state was about to leave the floating-point range; "
    "lower the rate, add decay, or stop earlier.",
    Result.MAX_STEPS: "max_steps: the solver used all its steps; raise `max_steps` or loosen the tolerances.",
    Result.SOLVER_FAILED: "failed: the solver could not meet its tolerances; loosen them or use float64.",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Observables over time, the final state, and how the run ended.

    Attributes:
        times: Times (flow) or numbers of updates (descent), shape (T,).
        observables: Name -> array whose first axis is time. Times that were not reached hold NaN.
        reached: Which times were reached, shape (T,).
        final: The state where the run stopped.
        elapsed: Time or number of updates at `final`.
        code: A `Result` as an integer; `result` gives the enum.
        steps: Steps the solver took (flow) or updates made (descent); 0 for a closed form.
        states: States at `times`, each array with a leading time axis, if they were asked for; else None.
        memory: State of the optimiser at `final` (momentum, Adam moments), for a run that goes on.
        kind: "simulated" or "exact".

    A `Trajectory` can be given to `simulate` or `exact` in place of a state, to go on from where it ended.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> run = uj.simulate(model, uj.Descent(0.1), model.init(jax.random.key(0)), [0, 5, 10], ["norm", "loss"])
        >>> run["norm"].shape, run.result.name, int(run.steps)
        ((3,), 'COMPLETED', 10)
    """

    times: Any
    observables: dict[str, Any]
    reached: Any
    final: State
    elapsed: Any
    code: Any
    steps: Any
    states: State | None = None
    memory: Any = None
    kind: str = dataclasses.field(default="simulated", metadata={"static": True})

    @property
    def result(self) -> Result:
        """Why the run ended, as a `Result` (of an unbatched, concrete trajectory)."""
        return Result(int(self.code))

    def __getitem__(self, name: str) -> Any:
        """One observable over time."""
        if name not in self.observables:
            raise KeyError(f"{name!r} was not observed; observed were {', '.join(self.observables)}.")
        return self.observables[name]

    def last(self, name: str) -> Any:
        """An observable at the last time that was reached."""
        values = self[name]
        xp = np if isinstance(values, np.ndarray) else jnp
        where = xp.max(xp.where(self.reached, xp.arange(values.shape[0]), 0))
        return values[where]

    def __repr__(self) -> str:
        if isinstance(self.code, jax.core.Tracer) or np.ndim(self.code):
            return f"Trajectory({self.kind}, observables: {', '.join(self.observables)})"
        H = np.shape(self.final.H)
        scalars = {name: np.asarray(v) for name, v in self.observables.items() if np.ndim(v) == 1}
        shown = ", ".join(f"{name} {float(self.last(name)):.6g}" for name in list(scalars)[:6])
        return (
            f"Trajectory ({self.kind}): {int(np.sum(self.reached))} of {np.size(self.times)} times, "
            f"last at {float(self.elapsed):g}\n"
            f"  state: n={H[0]}, p={H[1]}, C={np.shape(self.final.W)[0]}, {np.asarray(self.final.W).dtype}; "
            f"steps: {int(self.steps)}\n"
            f"  last: {shown}\n"
            f"  result: {self.result.message}"
        )

    def to_xarray(self) -> xarray.Dataset:
        """Observables as an `xarray.Dataset` with dimension `time` and long names; needs xarray.

        Raises:
            ValueError: for a batched trajectory: take one member of the batch with `jax.tree.map` first.
        """
        import xarray

        if np.ndim(self.code):
            raise ValueError(
                "a batch of trajectories has no single time axis; take member i with "
                "`jax.tree.map(lambda leaf: leaf[i], trajectory)`."
            )
        data = {}
        for name, values in self.observables.items():
            array = np.asarray(values)
            dims = ("time", *(f"{name}_{axis}" for axis in range(1, array.ndim)))
            known = OBSERVABLES.get(name)
            data[name] = (dims, array, {"long_name": known.meaning if known else name, "units": "1"})
        unit = "updates" if np.issubdtype(np.asarray(self.times).dtype, np.integer) else "time"
        return xarray.Dataset(
            data,
            coords={
                "time": ("time", np.asarray(self.times), {"units": unit}),
                "reached": ("time", np.asarray(self.reached)),
            },
            attrs={"kind": self.kind, "result": self.result.name.lower(), "steps": int(self.steps)},
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """Scalar observables as a `pandas.DataFrame` indexed by time; needs pandas."""
        import pandas

        scalars = {name: np.asarray(v) for name, v in self.observables.items() if np.ndim(v) == 1}
        return pandas.DataFrame(scalars, index=pandas.Index(np.asarray(self.times), name="time"))

    def to_csv(self, path: str | Path) -> None:
        """Scalar observables as a CSV file with a `time` column."""
        self.to_dataframe().to_csv(path)
