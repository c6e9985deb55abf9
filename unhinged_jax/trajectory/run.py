"""The record of a run: observables over time, the final state, and how the run ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Int, PyTree, Shaped

from unhinged_jax import _check, _html, _memory, plots
from unhinged_jax._files import whole
from unhinged_jax._values import Value
from unhinged_jax.model import State
from unhinged_jax.trajectory import archive, tables
from unhinged_jax.trajectory.results import Asked, Remark, RunResult, batch_message, member

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure


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
        kind: "simulated", "exact", or "expected" (expectations over the draws of a descent, whose `final` is the mean).
        origin: The state in which the first run of a chain began. `gap_H`, `gap_W` and the sign of a limit direction
            refer to it, however often the run is continued. None if it is not known.
        clock: What `elapsed` counts: "time" (a flow) or "updates" (a descent).
        carries: What the run carries in addition to the state: "" (nothing), "momentum", "velocity" (of a flow
            with damping), "optimizer", or the name of the `memory` of the dynamics, such as "PolyakAverage".
        form: How a simulation was run, in words: in which form, and with which solver.
        began: What `elapsed` was at the start: 0, or where the run ended that this one continues. None if it is not
            known.
        observed: What was observed, which a run that continues this one observes, too, unless it is told otherwise.

    A `Trajectory` can be given to `simulate` or `exact` in place of a state, to continue where it ended. The clock of
    its schedules continues, and so does what the run carries. `final`, or one of `states`, is a state like any other; a
    run from it is a new run, whose clock begins at 0. What is smaller than the rounding of `final` is lost in a
    continued run: late, that may be the distance to the limit, the scatter within classes, or a small squared error.

    What `jax.vmap` returns is a batch: every array has the axes of the batch first, followed by those of `times` and of
    an observable. `last`, tables, pictures, files, `concat` and continued runs know these axes. `result` needs a single
    run; `jax.tree.map(lambda leaf: leaf[i], trajectory)` is member i.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> state = model.init(jax.random.key(0))
        >>> run = uj.simulate(model, uj.Descent(0.1), state, [0, 5, 10], ["norm", "loss"])
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
    began: Shaped[Any, "..."] | None = None
    observed: Asked = dataclasses.field(default=Asked(), metadata={"static": True})

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
        self.check_known(what)

    def check_known(self, what: str) -> None:
        """Raise ValueError while the run is being traced, because `what` needs known values."""
        if not _check.concrete(self):
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
        own = _check.concrete(self) and not _of_jax(self[name])
        return (tables.at_last if own else tables.at_last_by_jax)(self.reached, self[name], len(self.batch))

    def __repr__(self) -> str:
        if not _check.concrete(self):
            return f"Trajectory({self.kind}, observables: {', '.join(self.observables)})"
        title, notes = self._described()
        return "\n  ".join([title, *(f"{name}: {text}" for name, text in notes.items() if text)])

    def _repr_html_(self) -> str | None:
        """What a notebook shows: a table of the last values, of a batch their range, and the notes of `print`."""
        if not _check.concrete(self):
            return None
        title, notes = self._described()
        scalars = self.scalars()
        rows: list[tuple[str, ...]] = []
        for name, array in self.arrays().items():
            if name not in scalars:
                rows.append((name, f"array of shape {array.shape[len(self.batch) + 1 :]}"))
            elif self.batch:
                rows += _html.ranges({name: np.asarray(self.last(name))})
            else:
                rows.append((name, f"{float(self.last(name)):.6g}"))
        head = ("at the last time", "lowest", "median", "highest") if self.batch else ("observable", "last value")
        shown = [note for note in notes.items() if note[0] not in ("last", "observables")]
        return _html.page(title, head, rows, shown)

    def _described(self) -> tuple[str, dict[str, str]]:
        """A title, and what `print` says below it."""
        (n, p), C = np.shape(self.final.H)[-2:], np.shape(self.final.W)[-2]
        state = f"n={n}, p={p}, C={C}, {np.asarray(self.final.W).dtype}"
        listed, count = ", ".join(self.observables), np.shape(self.times)[-1]
        if self.batch:
            codes, counts = np.unique(np.asarray(self.code), return_counts=True)
            ends = (f"{n} {RunResult(int(c)).name.lower()}" for c, n in zip(codes, counts, strict=True))
            return f"Trajectory ({self.kind}): a batch of shape {self.batch}, {count} times each", {
                "observables": listed,
                "state": state,
                "form": str(self.form),
                "results": ", ".join(ends),
                "one member": member(self.batch),
            }
        steps = f"; steps: {int(self.steps)}" if self.kind == "simulated" else ""  # a closed form makes none
        title = (
            f"Trajectory ({self.kind}): {int(np.sum(self.reached))} of {count} times, last at {float(self.elapsed):g}"
        )
        return title, {
            "state": f"{state}{steps}",
            "form": str(self.form),
            "last": ", ".join(f"{name} {float(self.last(name)):.6g}" for name in list(self.scalars())[:6]),
            "result": self.result.message,
        }

    def scalars(self) -> dict[str, Any]:
        """The observables that are one number at each time."""
        shape = np.shape(self.times)
        return {name: each for name, each in self.observables.items() if getattr(each, "shape", None) == shape}

    def plot(self, names: str | Sequence[str] | None = None) -> Figure:
        """Draw scalar observables over time, one panel each; of a batch the median with a band of quantiles.

        Args:
            names: Which ones; by default all.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows; `figure.savefig(path)` writes it. The band of a batch
            goes from the 10 % to the 90 % quantile of the members that reached a time.

        Raises:
            KeyError: if a name was not observed.
            ValueError: if there is no scalar observable to draw, if one that is named is an array at each time, if the
                members of a batch have times of their own, or while the run is being traced.
        """
        self.check_known("a picture")
        scalars = self.scalars()
        chosen = list(scalars) if names is None else [names] if isinstance(names, str) else list(names)
        for name in chosen:
            if self[name] is not scalars.get(name):
                raise ValueError(f"{name!r} is an array at each time, and only single numbers are drawn over time.")
        axes = len(self.batch)

        def lines(values: Any) -> np.ndarray:
            return _memory.read(values).reshape(-1, np.shape(values)[-1]) if axes else _memory.read(values)

        drawn = {name: lines(scalars[name]) for name in chosen}
        return plots.curves(lines(self.times), drawn, lines(self.reached))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of the observables by name; arrays in a tree that a function returned are called "name.key"."""
        return tables.arrays_of(self.observables)

    def fields(self) -> dict[str, Any]:
        """What a file keeps of a run; `restored` gives it back.

        The memory of an optimiser is a tree of classes of optax, so only its arrays are kept.
        """
        kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.carries == "optimizer" and self.memory is not None:
            kept["memory"] = archive.Leaves.of(self.memory)
        return {**kept, "form": str(self.form), "observed": self.observed.own}

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Keep the run, or a batch of runs, in one file, from which `load` reads it back bit for bit.

        The file is an .npz archive of the arrays, without pickles, and is written whole or not at all.

        Args:
            path: Where to write it; ".npz" is not added.
            force: Replace an existing file.

        Raises:
            ValueError: if there is such a file and `force` is not set, if an observable is no tree of arrays in
                dictionaries, lists and tuples, or while the run is being traced.
            OSError: if the file cannot be written.
        """
        path = _check.path("path", path)
        self.check_known("`save`")
        arrays = archive.pack(self.fields())
        with whole(path, force=_check.flag("force", force), way="force=True") as part, part.open("wb") as file:
            np.savez(file, **arrays)

    def to_xarray(self) -> xarray.Dataset:
        """Observables as an `xarray.Dataset` with dimension `time` and long names; needs xarray.

        Further axes of an array-valued observable are named "name_1", "name_2", ...; arrays in a tree are called
        "name.key". A batch has the dimensions "batch_1", "batch_2", ... before all others, and the result and the steps
        of each member as coordinates; if its members have times of their own, these are a coordinate over "row".

        Raises:
            ValueError: while the run is being traced.
        """
        import xarray

        return xarray.Dataset(*self.labelled())

    def labelled(self) -> tables.Labelled:
        """What `to_xarray` makes a Dataset of."""
        self.check_known("a Dataset")
        code, steps = (_memory.read(value) for value in (self.code, self.steps))
        names = np.reshape([RunResult(int(one)).name.lower() for one in code.ravel()], code.shape)
        times, reached = _memory.read(self.times), _memory.read(self.reached)
        table = tables.labelled(self.arrays(), times, reached, {"result": names, "steps": steps})
        return table._replace(attrs={**table.attrs, "kind": self.kind})

    def to_dataframe(self) -> pandas.DataFrame:
        """Observables as a `pandas.DataFrame` indexed by time; needs pandas.

        There is one column per number: "name" for a scalar observable, "name[0]", "name[1]", ... for a vector,
        "name[0,0]", "name[0,1]", ... for a matrix, and "name.key" for the arrays in a tree that a function returned. A
        batch has one row per member and time; its index begins with the place of the member: "batch_1", "batch_2", ...

        Raises:
            ValueError: while the run is being traced.

        Example:
            >>> import jax.numpy as jnp
            >>> import unhinged_jax as uj
            >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
            >>> seen = {"norm": None, "row_norms": lambda model, state: jnp.linalg.norm(state.W, axis=1)}
            >>> run = uj.exact(model, uj.Flow(), model.init(jax.random.key(0)), [0.0, 1.0], seen)
            >>> run.to_dataframe().columns.tolist()
            ['norm', 'row_norms[0]', 'row_norms[1]']
        """
        self.check_known("a table")
        return tables.frame(self.arrays(), _memory.read(self.times))

    def to_csv(self, path: str | Path) -> None:
        """The table of `to_dataframe` as a CSV file, with a `time` column, and one per axis of a batch.

        As in pandas, it replaces an existing file. The file is written whole or not at all.

        Raises:
            ValueError: while the run is being traced.
        """
        self.check_known("a table")
        arrays, times = self.arrays(), _memory.read(self.times)
        with whole(path) as part:
            tables.write_csv(part, arrays, times)


def _of_jax(tree: PyTree) -> bool:
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
