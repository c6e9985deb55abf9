"""What every run returns."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, PyTree, Shaped

from unhinged_jax import _check, _memory
from unhinged_jax._files import whole
from unhinged_jax._values import Value
from unhinged_jax.model import State
from unhinged_jax.observables import OBSERVABLES

if TYPE_CHECKING:
    import pandas
    import xarray


class RunResult(enum.IntEnum):
    """Why a run ended.

    Source: beyond the paper.

    Example:
        >>> RunResult(1).message
        'steady: the rate of change fell below the tolerances; later times were not needed.'
    """

    COMPLETED = 0
    STEADY = 1
    OVERFLOW = 2
    MAX_STEPS = 3
    SOLVER_FAILED = 4
    UNDERFLOW = 5

    @property
    def message(self) -> str:
        """The code in words, and what to do about it."""
        return _MESSAGES[self]


_MESSAGES = {
    RunResult.COMPLETED: "completed: every requested time was reached.",
    RunResult.STEADY: "steady: the rate of change fell below the tolerances; later times were not needed.",
    RunResult.OVERFLOW: "overflow: the state was about to leave the floating-point range; "
    "lower the rate, add decay, or stop earlier.",
    RunResult.MAX_STEPS: "max_steps: the solver used all its steps; raise `max_steps` or loosen the tolerances.",
    RunResult.SOLVER_FAILED: "failed: the solver could not meet its tolerances; loosen them or use float64.",
    RunResult.UNDERFLOW: "underflow: the state was about to become too small for the floating-point range to hold its "
    "digits; use float64, lower the decay, or stop earlier.",
}


class Remark:
    """Words beside a run that do not make it another kind of tree: runs that took different ways can be stacked."""

    def __init__(self, words: object = "") -> None:
        self.words = str(words)

    def __repr__(self) -> str:
        return self.words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remark)

    def __hash__(self) -> int:
        return hash(Remark)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trajectory(Value):
    """Observables over time, the final state, and how the run ended.

    Attributes:
        times: Times (flow) or numbers of updates (descent), shape (T,).
        observables: Name -> array whose first axis is time. Times that were not reached hold NaN.
        reached: Which times were reached, shape (T,).
        final: The state where the run stopped.
        elapsed: Time or number of updates at `final`.
        code: A `RunResult` as an integer; `result` gives the enum.
        steps: Number of steps of the solver (flow) or updates (descent); 0 for a closed form.
        states: States at `times`, each array with a leading time axis, if they were requested; else None.
        memory: State of the optimiser at `final` (momentum, Adam moments), for a run that continues this one. The
            velocity of momentum, a dictionary of "H", "W" and "b", points downhill and is divided by e^log_scale of
            `final`.
        kind: "simulated" or "exact".
        origin: The state in which the first run of a chain began. `gap_H`, `gap_W` and the sign of a limit direction
            refer to it, however often the run is continued. None if it is not known.
        clock: What `elapsed` counts: "time" (a flow) or "updates" (a descent).
        carries: What the run carries in addition to the state: "" (nothing), "momentum" or "optimizer".
        form: How a simulation was run, in words: in which form, and with which solver.

    A `Trajectory` can be given to `simulate` or `exact` in place of a state, to continue where it ended. The clock of
    its schedules continues, and so does what the run carries. `final`, or one of `states`, is a state like any other; a
    run from it is a new run, whose clock begins at 0. In a continued run, distances to the limit are known up to the
    rounding of `final`.

    What `jax.vmap` returns is a batch: every array has the axes of the batch first, followed by those of `times` and of
    an observable. `last` and indexing by name keep the batch axes. Tables, pictures, `result` and continued runs need a
    single run; `jax.tree.map(lambda leaf: leaf[i], trajectory)` is member i.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> run = uj.simulate(model, uj.Descent(0.1), model.init(jax.random.key(0)), [0, 5, 10], ["norm", "loss"])
        >>> run["norm"].shape, run.result.name, int(run.steps)
        ((3,), 'COMPLETED', 10)
    """

    times: Shaped[Any, "... T"]
    observables: dict[str, Any]
    reached: Bool[Any, "... T"]
    final: State
    elapsed: Shaped[Any, "..."]
    code: Int[Any, "..."]
    steps: Int[Any, "..."]
    states: State | None = None
    memory: Any = None
    kind: str = dataclasses.field(default="simulated", metadata={"static": True})
    origin: State | None = None
    clock: str = dataclasses.field(default="", metadata={"static": True})
    carries: str = dataclasses.field(default="", metadata={"static": True})
    form: Remark = dataclasses.field(default=Remark(), metadata={"static": True})

    @property
    def batch(self) -> tuple[int, ...]:
        """Shape of the axes that `jax.vmap` put before all others; () for a single run."""
        return tuple(np.shape(self.code))

    @property
    def result(self) -> RunResult:
        """Why the run ended, as a `RunResult`.

        Raises:
            ValueError: for a batch, whose members have one result each, and while the run is being traced.
        """
        self.check_single("`result`")
        return RunResult(int(self.code))

    def check_single(self, what: str) -> None:
        """Raise ValueError unless this is a single run with known values, which `what` needs."""
        if self.batch:
            raise ValueError(f"{what} belongs to one run, but {batch_message('trajectories', self.batch)}.")
        if isinstance(self.code, jax.core.Tracer):
            raise ValueError(f"{what} needs numbers, but the run is being traced; return it from the traced function.")

    def __getitem__(self, name: str) -> Any:
        """One observable over time."""
        if not isinstance(name, str):
            raise KeyError(f"an observable is found by its name, a string, but got {_check.given(name)}.")
        if name not in self.observables:
            raise KeyError(f"{name!r} was not observed; observed were {', '.join(self.observables)}.")
        return self.observables[name]

    def last(self, name: str) -> Any:
        """An observable at the last time that was reached; in a batch, at the last time that each member reached."""
        axis = len(self.batch)
        xp = np if _check.concrete(self) and not _of_jax(self[name]) else jnp
        where = xp.max(xp.where(self.reached, xp.arange(np.shape(self.reached)[-1]), 0), axis=-1)

        def at_last(values: np.ndarray | jax.Array) -> Any:
            if not axis:
                return values[where]
            there = xp.reshape(where, (*self.batch, *[1] * (np.ndim(values) - axis)))
            return xp.squeeze(xp.take_along_axis(values, there, axis=axis), axis=axis)

        return jax.tree.map(at_last, self[name])

    def __repr__(self) -> str:
        listed = ", ".join(self.observables)
        if not _check.concrete(self):
            return f"Trajectory({self.kind}, observables: {listed})"
        if self.batch:
            codes, counts = np.unique(np.asarray(self.code), return_counts=True)
            ends = ", ".join(f"{n} {RunResult(int(c)).name.lower()}" for c, n in zip(codes, counts, strict=True))
            return (
                f"Trajectory ({self.kind}): a batch of shape {self.batch}, {np.shape(self.times)[-1]} times each\n"
                f"  observables: {listed}\n"
                f"  results: {ends}\n"
                f"  one member: {_member(self.batch)}"
            )
        H = np.shape(self.final.H)
        scalars = [name for name, values in self.observables.items() if np.shape(values) == np.shape(self.times)]
        shown = ", ".join(f"{name} {float(self.last(name)):.6g}" for name in scalars[:6])
        return (
            f"Trajectory ({self.kind}): {int(np.sum(self.reached))} of {np.size(self.times)} times, "
            f"last at {float(self.elapsed):g}\n"
            f"  state: n={H[0]}, p={H[1]}, C={np.shape(self.final.W)[0]}, {np.asarray(self.final.W).dtype}; "
            f"steps: {int(self.steps)}\n" + (f"  form: {self.form}\n" if str(self.form) else "") + f"  last: {shown}\n"
            f"  result: {self.result.message}"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of the observables by name; arrays in a tree that a function returned are called "name.key"."""
        found = {}
        for name, values in self.observables.items():
            for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
                whole_name = ".".join([name, *(_key(part) for part in path)])
                if whole_name in found:
                    raise ValueError(f"two observables are called {whole_name!r} in a table; rename one of them.")
                found[whole_name] = _memory.read(leaf)
        return found

    def to_xarray(self) -> xarray.Dataset:
        """Observables as an `xarray.Dataset` with dimension `time` and long names; needs xarray.

        Further axes of an array-valued observable are named "name_1", "name_2", ...; arrays in a tree are called
        "name.key".

        Raises:
            ValueError: for a batch of trajectories: take one member with `jax.tree.map` first.
        """
        import xarray

        self.check_single("a Dataset")
        arrays, data = self.arrays(), {}
        for name, array in arrays.items():
            stem = name
            while any(f"{stem}_{axis}" in arrays for axis in range(1, array.ndim)):
                stem += "_"  # no axis has the name of an observable
            dims = ("time", *(f"{stem}_{axis}" for axis in range(1, array.ndim)))
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
        """Observables as a `pandas.DataFrame` indexed by time; needs pandas.

        There is one column per number: "name" for a scalar observable, "name[0]", "name[1]", ... for a vector,
        "name[0,0]", "name[0,1]", ... for a matrix, and "name.key" for the arrays in a tree that a function returned.

        Raises:
            ValueError: for a batch of trajectories: take one member with `jax.tree.map` first.

        Example:
            >>> import unhinged_jax as uj
            >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
            >>> seen = {"norm": None, "row_norms": lambda model, state: jnp.linalg.norm(state.W, axis=1)}
            >>> run = uj.exact(model, uj.Flow(), model.init(jax.random.key(0)), [0.0, 1.0], seen)
            >>> run.to_dataframe().columns.tolist()
            ['norm', 'row_norms[0]', 'row_norms[1]']
        """
        import pandas

        self.check_single("a table")
        columns = {}
        for name, array in self.arrays().items():
            for place in np.ndindex(array.shape[1:]):
                label = f"{name}[{','.join(map(str, place))}]" if place else name
                columns[label] = array[(slice(None), *place)]
        return pandas.DataFrame(columns, index=pandas.Index(np.asarray(self.times), name="time"))

    def to_csv(self, path: str | Path) -> None:
        """The table of `to_dataframe` as a CSV file, with a `time` column.

        As in pandas, it replaces an existing file. The file is written whole or not at all.

        Raises:
            ValueError: for a batch of trajectories: take one member with `jax.tree.map` first.
        """
        table = self.to_dataframe()
        with whole(path) as part:
            table.to_csv(part)


def batch_message(what: str, shape: tuple[int, ...]) -> str:
    """The end of a sentence: that something is a batch, and how to take a member of it."""
    return f"this is a batch of {what} of shape {shape}; take a member with `{_member(shape)}`"


def _member(shape: tuple[int, ...]) -> str:
    return f"jax.tree.map(lambda leaf: leaf[{', '.join('0' for _ in shape)}], trajectory)"


def _of_jax(tree: PyTree) -> bool:
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


def _key(part: object) -> str:
    """A step of a path into a tree: a key, an index or the name of a field."""
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))
