"""The files of one run, which are written whole or not at all and can be read to continue the run."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax import _memory, plots
from unhinged_jax._files import make_room, placed
from unhinged_jax.dynamics import Dynamics
from unhinged_jax.model import State
from unhinged_jax.runs import netcdf
from unhinged_jax.trajectory import Trajectory, archive
from unhinged_jax.trajectory.files import restored
from unhinged_jax.trajectory.tables import Labelled

__all__ = ["FILES", "Stored", "read_run", "versions", "workspace", "write_run"]

# The state comes last, because a run continues from it, so it must never be ahead of the rest.
FILES = ("observables.nc", "observables.csv", "curves.png", "curves.svg", "run.json", "final.npz")
_UNFINISHED = ".unfinished-"
_PACKAGES = ("unhinged-jax", "jax", "jaxlib", "numpy", "optax", "diffrax", "equinox")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A run read from its folder: the trajectory, and the identity with which it was written."""

    trajectory: Trajectory
    identity: dict[str, Any]


@contextmanager
def workspace(folder: Path, *, force: bool = False, resume: bool = False) -> Iterator[Path]:
    """A temporary folder inside `folder` in which the files of a run are prepared; it is removed at the end.

    Args:
        folder: The folder of the run; made if needed.
        force: Existing files may be replaced.
        resume: Existing files are expected.

    Raises:
        ValueError: if there are files and neither option is set, or no files and `resume` is set.
        OSError: if the folder cannot be made or written to; this is checked before the run.
    """
    make_room(folder, FILES, "a run", force=force, resume=resume, needs="final.npz")
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
    place = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_run(
    folder: Path, place: Path, trajectory: Trajectory, identity: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Write every file of a run into `place`, then move them into `folder` one by one, the state last.

    Args:
        folder: The folder of the run.
        place: The `workspace` in it.
        trajectory: The run, with NumPy or JAX arrays.
        identity: What must not change when the run is resumed; stored in final.npz.
        facts: Anything else for run.json.

    Source: beyond the paper.
    """
    with placed(folder):
        _write_run(folder, place, trajectory, identity, facts)


def _write_run(
    folder: Path, place: Path, trajectory: Trajectory, identity: dict[str, Any], facts: dict[str, Any]
) -> None:
    text = json.dumps(identity)
    netcdf.write(place / "observables.nc", _table(trajectory, text))
    trajectory.to_csv(place / "observables.csv")
    figure = trajectory.plot()
    with plots.style():
        plots.save(figure, place, "curves")
    result = trajectory.result
    outcome = {"code": int(result), "name": result.name.lower(), "message": result.message}
    record = {
        **identity,
        "result": outcome,
        "elapsed": np.asarray(trajectory.elapsed).item(),
        "steps": int(trajectory.steps),
        "versions": versions(),
        **facts,
    }
    (place / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    np.savez(place / "final.npz", **_end(trajectory, text))
    if not _continues(folder / "final.npz", trajectory, text):
        (folder / "final.npz").unlink(missing_ok=True)
    for name in FILES:
        os.replace(place / name, folder / name)


def read_run(folder: Path, dynamics: Dynamics) -> Stored:
    """Read a run that `write_run` wrote.

    Args:
        folder: The folder of the run.
        dynamics: The dynamics of the run, which determines the form of the optimiser's memory.

    Returns:
        The reached part of the run as a `Trajectory` to continue from, and its identity.

    Raises:
        ValueError: if the files do not belong to such a run.
        OSError: if one cannot be read.

    Source: beyond the paper.
    """
    end = folder / "final.npz"
    try:
        fields = archive.unpack(end)
        identity = json.loads(fields["identity"])
        final = restored(fields, end, dynamics)
    except archive.UNREADABLE as error:
        why = str(error) if str(end) in str(error) else f"{end} holds no run of `unhinged simulate`."
        raise ValueError(f"{why.removesuffix('.')}; start again with --force.") from error
    rows = folder / "observables.nc"
    try:
        arrays, texts = netcdf.read(rows)
        times, reached = arrays.pop("time"), arrays.pop("reached").astype(bool)
        whole = texts.get("digest", "") in ("", _digest({**arrays, "time": times, "reached": reached}))  # older: none
    except archive.UNREADABLE as error:
        raise ValueError(f"{rows} is damaged ({error}); start again with --force.") from error
    if not whole:
        raise ValueError(f"{rows} was altered after it was written; start again with --force.")
    # If the process is killed between two moves, rows beyond the state remain; they will be computed again.
    kept = reached & (times <= final.elapsed)
    arrays = {name: values[kept] for name, values in arrays.items()}
    states = {name[6:]: values for name, values in arrays.items() if name.startswith("state_")}
    trajectory = dataclasses.replace(
        final,
        times=times[kept],
        observables={name: values for name, values in arrays.items() if not name.startswith("state_")},
        reached=reached[kept],
        states=State(**states) if states else None,
    )
    return Stored(trajectory, identity)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that determine the numbers; None if not installed.

    Example:
        >>> "jax" in versions()
        True
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _table(trajectory: Trajectory, identity: str) -> Labelled:
    table = trajectory.labelled()
    data = dict(table.data)
    if trajectory.states is not None:
        axes = {"H": ("sample", "coordinate"), "W": ("class", "coordinate"), "b": ("class",), "log_scale": ()}
        inner = ("factor", "coordinate", "coordinate_2")
        for name, own in {**axes, **dict.fromkeys(trajectory.states.extra_names, inner)}.items():
            data[f"state_{name}"] = (("time", *own), _memory.read(getattr(trajectory.states, name)), {})
    digest = _digest({name: array for name, (_, array, _) in {**data, **table.coords}.items()})
    return table._replace(data=data, attrs={**table.attrs, "identity": identity, "digest": digest})


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """A digest of names and numbers that does not depend on number type and byte order."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        values = np.array(arrays[name], np.float64)
        values[np.isnan(values)] = np.nan
        state.update(f"{name} {values.shape}".encode() + values.tobytes())
    return state.hexdigest()


def _end(trajectory: Trajectory, identity: str) -> dict[str, Any]:
    """What final.npz holds: everything but the rows, which are in observables.nc."""
    bare = dataclasses.replace(trajectory, times=np.zeros(0), observables={}, reached=np.zeros(0, bool), states=None)
    return archive.pack({**bare.fields(), "identity": identity})


def _continues(path: Path, trajectory: Trajectory, identity: str) -> bool:
    """Whether the state on disk is an earlier point of this run, so that newer rows beside it do no harm."""
    try:
        fields = archive.unpack(path)
        return bool(fields["identity"] == identity and fields["elapsed"] <= np.asarray(trajectory.elapsed))
    except (OSError, *archive.UNREADABLE):
        return False
