"""A store with more seeds, or with more values along an axis: finished blocks are copied, others are computed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unhinged_jax.sweeps.function_plan import STATIC
from unhinged_jax.sweeps.lazy import Checked
from unhinged_jax.sweeps.store import PENDING, Store

_STATIC = f"plan.function.{STATIC}"
_OF_AXES = ("plan.axes.", "plan.sweep.grid.", "plan.sweep.zip", "plan.sweep.random.", "plan.sweep.seeds")


def only_axes(differences: Mapping[str, tuple[object, object]]) -> bool:
    """Whether two identities differ in nothing but which values the axes have; static values may be new."""
    return all(
        key.startswith(_OF_AXES) or (key.startswith(_STATIC) and before is None)
        for key, (before, _) in differences.items()
    )


def places_in(old: Store, new: Store) -> list[np.ndarray]:
    """For each dimension, the place in the old store of every point of the new one; -1 where it is new.

    Raises:
        ValueError: if the new one lacks a dimension or a value of the old one, so that results would be lost.
    """
    if old.dims != new.dims or {*old.observed} != {*new.observed}:
        raise ValueError(f"{old.path} has the axes {', '.join(old.dims)}; a store is extended along these alone.")
    found = []
    for dim in old.dims:
        before, now = (_rows(store, dim) for store in (old, new))
        if lost := [row for row in before if row not in now]:
            raise ValueError(
                f"{old.path} holds results at {dim} = {lost[0]}, which the new axes lack; keep the old values and add "
                "to them."
            )
        at = {row: place for place, row in enumerate(before)}
        found.append(np.asarray([at.get(row, -1) for row in now]))
    return found


def _rows(store: Store, dim: str) -> list[str]:
    """The values along a dimension, as texts: one for each point, of all its axes."""
    names = [name for name in store.coordinates() if store.array(name).metadata.dimension_names == (dim,)]
    columns = [store.coordinate(name).tolist() for name in sorted(names)]
    return [", ".join(map(str, row)) for row in zip(*columns, strict=True)]


def copy(old: Store, new: Store) -> int:
    """Commit every block of the new store whose points the old one holds all; returns how many points these are.

    Raises:
        ValueError: see `places_in`.
        Damaged: if the old store does.
    """
    places, points = places_in(old, new), 0
    variables = {name: Checked(old, name) for name in new.variables}
    for number in range(new.layout.blocks):
        here = [at[part] for at, part in zip(places, new.layout.slices(number), strict=True)]
        if any(np.any(at < 0) for at in here) or np.any(variables["result"].at(here) == PENDING):
            continue
        new.write(number, {name: variable.at(here) for name, variable in variables.items()}, {"seconds": 0.0})
        points += new.layout.size(number)
    return points


@contextmanager
def in_use(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Inside, no other process extends a store; `alone`, none computes its points either.

    The folder itself is locked, so that nothing is left behind when a process is killed. Where the file system has no
    such locks, nothing is held.

    Raises:
        ValueError: if another process does what must not happen at the same time.
    """
    while True:
        folder = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(folder, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            doing = "computes points of it, or extends it," if alone else "extends it"
            after = "extend it" if alone else "make this call again"
            raise ValueError(f"{path} is in use: another process {doing} now; {after} when that is done.") from None
        except OSError:
            pass
        if os.path.samestat(os.fstat(folder), os.stat(path)):
            break
        os.close(folder)  # that of the store before it was extended
    try:
        yield
    finally:
        os.close(folder)


def exchange(place: Path, made: Path) -> None:
    """Put a finished store in the place of another, which is removed afterwards."""
    aside = Path(tempfile.mkdtemp(prefix=f".replaced-{place.name}-", dir=place.parent)) / "store"
    os.rename(place, aside)
    try:
        os.rename(made, place)
    except OSError:
        os.rename(aside, place)
        raise
    shutil.rmtree(aside.parent, ignore_errors=True)


def recover(place: Path) -> None:
    """Put a store back that was moved aside by a command that was killed before it had put another in its place."""
    aside = sorted(place.parent.glob(f".replaced-{glob.escape(place.name)}-*/store"))
    if aside and not place.exists():
        os.rename(aside[-1], place)
        aside[-1].parent.rmdir()
