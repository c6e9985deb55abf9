"""What a worker does: compute blocks and commit them."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax import _interrupt
from unhinged_jax.sweeps.function_plan import FunctionPlan
from unhinged_jax.sweeps.functions import TIMES
from unhinged_jax.sweeps.lanes import Plan, lane_of
from unhinged_jax.sweeps.plan import SweepPlan
from unhinged_jax.sweeps.program import Calls, Programs, padded
from unhinged_jax.sweeps.store import FINE, NOT_A_NUMBER, REASONS, Store


@dataclasses.dataclass(frozen=True)
class BlockOutcome:
    """A committed block: its points, how many failed and why, the time it took."""

    number: int
    points: int
    failed: dict[str, int]
    seconds: float


_RANK = dict(zip("biufc", (0, 1, 1, 2, 3), strict=True))
_LOCK = threading.Lock()
_LAST: dict[str, Job] = {}
_PROGRAMS: dict[str, Programs | Calls] = {}
"""The programs that were used last; sweeps of the same structure share them."""


Source = str | bytes | FunctionPlan | None
"""Where a worker has the plan from, beside the store: the plan file that the user gave (files named in it are looked up
beside it), the plan of a function as it is or pickled, or None if the store says everything."""


def run_blocks(path: str, numbers: tuple[int, ...], retry: bool = False, source: Source = None) -> list[BlockOutcome]:
    """Compute blocks of one group and commit each.

    Args:
        path: The store.
        numbers: Blocks of one group; as many run at a time as there are local devices.
        retry: Compute committed blocks again and replace their failed points, and only those.
        source: Where to have the plan from.
    """
    with _LOCK:
        if path not in _LAST or not _LAST[path].current or _LAST[path].source != source:
            _LAST.clear()
            _LAST[path] = Job(path, source)
        return _LAST[path].run(numbers, retry)


class Job:
    """A store and its plan."""

    def __init__(self, path: str, source: Source = None) -> None:
        self.store, self.source = Store(path), source
        self.plan = _received(self.store, source)
        self._stamp = _stamp(path)

    @property
    def current(self) -> bool:
        """Whether the store at this path is still the one that was opened."""
        return _stamp(str(self.store.path)) == self._stamp

    def run(self, numbers: tuple[int, ...], retry: bool) -> list[BlockOutcome]:
        """See `run_blocks`."""
        if not retry:
            numbers = tuple(number for number in numbers if not self.store.is_committed(number))
        if not numbers:
            return []
        programs = self._programs_of(numbers[0])
        step = len(programs.devices)
        calls = [numbers[i : i + step] for i in range(0, len(numbers), step)]
        found = []
        for call in calls:
            with _interrupt.held():
                found += self._call(programs, call, retry)
        return found

    def _call(self, programs: Programs | Calls, numbers: tuple[int, ...], retry: bool) -> list[BlockOutcome]:
        """One block on every device; surplus devices repeat the last block."""
        started = time.perf_counter()
        filled = [*numbers, *[numbers[-1]] * (len(programs.devices) - len(numbers))]
        each = [self._values(number, programs.lane.dtypes) for number in filled]
        keys = self.store.facts["traced"]
        values = tuple(
            {key: np.stack([one[dim][key] for one in each]) for key in names} for dim, names in enumerate(keys)
        )
        found = programs(values, self.store.layout.block)
        seconds = (time.perf_counter() - started) / len(numbers)
        found["steps_made"] = np.stack([programs.steps_made(needed) for needed in found["steps"]])
        return [self._commit(number, _member(found, i), seconds, retry) for i, number in enumerate(numbers)]

    def _programs_of(self, number: int) -> Programs | Calls:
        facts = self.store.facts
        group = group_of(self.store, number)
        places = dict(zip(facts["separate"], facts["groups"][group], strict=True))
        adaptive = facts["adaptive"][group] if "adaptive" in facts else None  # an older store does not know
        keys, memory = tuple(tuple(names) for names in facts["traced"]), facts["memory"]
        file = self.source if isinstance(self.source, str) else None
        lane = lane_of(self.plan, places, keys, self.store.identity["inputs"], file)
        kind = json.dumps([lane.structure, memory, adaptive])
        if kind not in _PROGRAMS:
            _PROGRAMS.clear()
            _PROGRAMS[kind] = Programs(lane, keys, memory, adaptive) if lane.vmap else Calls(lane)
        return _PROGRAMS[kind]

    def _values(self, number: int, dtypes: dict[str, np.dtype]) -> list[dict[str, np.ndarray]]:
        """The traced values of a block, padded to its full shape."""
        layout, values = self.store.layout, []
        for dim, part, length, keys in zip(
            self.plan.dims, layout.slices(number), layout.block, self.store.facts["traced"], strict=True
        ):
            axes = {axis.key: axis for axis in dim.axes}
            values.append({key: padded(np.asarray(axes[key].values[part], dtypes[key]), length) for key in keys})
        return values

    def _commit(self, number: int, found: dict[str, Any], seconds: float, retry: bool) -> BlockOutcome:
        region = self.store.layout.slices(number)
        inside = tuple(slice(0, part.stop - part.start) for part in region)
        made = found["steps_made"][inside]
        found = {name: array[inside] for name, array in _variables(found).items()}
        shape = found["result"].shape
        for name in self.store.observed:
            array = self.store.array(name)
            own = array.shape[len(shape) :]
            if name not in found:
                found[name] = np.full((*shape, *own), array.fill_value)
            if found[name].shape != (*shape, *own):
                raise ValueError(
                    f"the store keeps {own} numbers of {name!r} for a point, but there were "
                    f"{found[name].shape[len(shape) :]}; to keep arrays over further axes, sweep a function."
                )
            if found[name].dtype.kind in "iufc" and _RANK[found[name].dtype.kind] > _RANK[array.dtype.kind]:
                raise ValueError(
                    f"{name!r} is {found[name].dtype} at some points, but {array.dtype} at the first; let the function "
                    "always return the same number type."
                )
        self._check_times(found.get(TIMES))
        found = {name: np.asarray(found[name], self.store.dtype(name)) for name in self.store.variables}
        if retry:
            before = self.store.read(number)
            keep = np.isin(before["result"], FINE)
            for name in self.store.variables:
                where = keep.reshape(*keep.shape, *[1] * (found[name].ndim - keep.ndim))
                found[name] = np.where(where, before[name], found[name])
        self.store.write(number, found, {"seconds": seconds, "steps_made": int(made.sum())})
        return BlockOutcome(number, int(np.prod(shape)), tally(found["result"]), seconds)

    def _check_times(self, times: np.ndarray | None) -> None:
        """Raise ValueError if the trajectories of a function have other times than the first and the last point."""
        if times is None or TIMES in self.store.observed:
            return
        if not np.all(times == self.store.coordinate("time")):
            raise ValueError("times differ between points; let the function return a dictionary of arrays instead.")


def tally(result: np.ndarray) -> dict[str, int]:
    """How many points failed, by reason."""
    codes, counts = np.unique(result, return_counts=True)
    return {REASONS[int(c)]: int(n) for c, n in zip(codes, counts, strict=True) if c >= 0 and c not in FINE}


def _received(store: Store, source: Source) -> Plan:
    if isinstance(source, bytes):
        import cloudpickle

        source = cloudpickle.loads(source)
    return source if isinstance(source, FunctionPlan) else plan_of(store, source if isinstance(source, str) else None)


def plan_of(store: Store, source: str | None = None) -> Plan:
    """The plan of a store, with the numbers with which it was created; a random design is read, not drawn again.

    Args:
        store: The store, which is data; only the user can say where the files are that it names.
        source: File of the plan that the user gave.
    """
    tables = store.identity["plan"]
    if "function" in tables:
        return FunctionPlan.of_tables(tables)
    plan = SweepPlan.of(tables, Path(store.facts["name"]).name if source is None else source, check=False)
    dims = []
    for dim in plan.dims:
        axes = [
            dataclasses.replace(axis, values=tuple(store.coordinate(axis.name).tolist()))
            if dim.kind == "random"
            else axis
            for axis in dim.axes
        ]
        dims.append(dataclasses.replace(dim, axes=tuple(axes)))
    return dataclasses.replace(plan, dims=tuple(dims))


def group_of(store: Store, number: int) -> int:
    """The group of a block."""
    facts, place = store.facts, store.layout.place(number)
    alone = tuple(place[store.dims.index(dim)] for dim in facts["separate"])
    shape = tuple(store.layout.shape[store.dims.index(dim)] for dim in facts["separate"])
    return int(facts["which"][int(np.ravel_multi_index(alone, shape)) if shape else 0])


def _variables(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Observables and how each point ended, with NaN at a reached time as a reason of its own."""
    values, code, reached = found["observables"], np.array(found["code"]), found["reached"]
    broken = np.zeros(code.shape, bool)
    for array in values.values():
        if array.shape[: reached.ndim] == reached.shape:
            there = reached.reshape(*reached.shape, *[1] * (array.ndim - reached.ndim))
            broken |= np.any(np.isnan(array) & there, axis=tuple(range(code.ndim, array.ndim)))
    code[broken & np.isin(code, FINE)] = NOT_A_NUMBER
    return {**values, "result": code, "elapsed": found["elapsed"], "steps": found["steps"]}


def _member(tree: dict[str, Any], index: int) -> dict[str, Any]:
    return {
        name: _member(entry, index) if isinstance(entry, dict) else np.asarray(entry)[index]
        for name, entry in tree.items()
    }


def _stamp(path: str) -> tuple[int, int]:
    """What distinguishes the store at a path from another that took its place, and from itself with another plan."""
    status = os.stat(Path(path) / "zarr.json")
    return status.st_ino, status.st_mtime_ns


def initialize(single_threaded: bool) -> None:
    """Prepare a local worker process: it computes in one thread, and ends with its parent."""
    import multiprocessing

    if single_threaded:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        # The flags leave XLA its pool of one thread per core, in which parts of a program run in parallel.
        os.environ["NPROC"] = os.environ["PJRT_NPROC"] = "1"
    _interrupt.obey_parent()
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def count_devices() -> int:
    """Devices of this worker."""
    import jax

    return jax.local_device_count()
