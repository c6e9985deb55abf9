"""`sweep`: run a plan into a store, or continue with it."""

from __future__ import annotations

import concurrent.futures
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from unhinged_jax import _check, _interrupt
from unhinged_jax.sweeps import engine, prepare
from unhinged_jax.sweeps.extension import in_use
from unhinged_jax.sweeps.function_plan import FunctionPlan, plan_of_function
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.plan import SweepPlan
from unhinged_jax.sweeps.progress import Progress
from unhinged_jax.sweeps.status import Status, status_of
from unhinged_jax.sweeps.store import Store
from unhinged_jax.sweeps.work import Source, count_devices, group_of

if TYPE_CHECKING:
    import xarray


_TOGETHER = 8


def sweep(
    plan: SweepPlan | Callable[..., Any] | str | Path,
    axes: Mapping[Any, Any] | str | Path | None = None,
    store: str | Path | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    static: Mapping[str, Any] | None = None,
    precision: str | None = None,
    dims: Mapping[str, str | Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    version: str | None = None,
    vmap: bool | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    scheduler: str | None = None,
    part: tuple[int, int] = (0, 1),
    lanes: int | None = None,
    memory: int | None = None,
    retry_failed: bool = False,
    extend: bool = False,
    progress: bool = True,
) -> xarray.Dataset:
    """Run every point of a sweep that is not yet in the store.

    A sweep is a function of named numbers, called at every combination of their values, or a plan, which is a
    configuration some of whose keys vary: `sweep(function, axes, store)` or `sweep(plan, store)`.

    Args:
        plan: A function, a `SweepPlan`, the path of a TOML file, or the name of a shipped plan. A function returns a
            trajectory, or a dictionary of arrays (a limit, an event time, a sensitivity, the last state). It is traced
            and mapped over the points, so that it follows the rules of `jax.jit` and `jax.vmap`.
        axes: For a function: name of an argument -> its values, finite numbers; each is a dimension of the result.
            Names that vary together are a tuple, and then the values have one row for each point.
        store: Folder of the Zarr store, which is made if it does not exist. The same call continues where the last one
            ended. For a plan it may be the second argument.
        seeds: For a function that takes a `key` (made by `jax.random.key`) or a `seed`: the number of seeds 0 ... n-1,
            default 1, or a list of them; the dimension `seed`.
        static: For a function: name of an argument -> list of values, or {label: value}, for what is structure: sizes,
            losses, choices. Each combination is a program of its own.
        precision: "float32" (default) or "float64", in which a function runs.
        dims: Array of a function -> names of its own axes; default NAME_1, NAME_2, ... after `time` for a trajectory.
        coords: Name of such an axis -> its values.
        version: Your word for what a function computes. A store belongs to its function: to its code and to the
            values that it closes over. A change is refused, unless this call gives the version of the store, or one to
            a store that has none.
        vmap: False calls a function once for each point, with ordinary numbers; it may then use NumPy or branch.
        workers: Local processes, one thread each; 0 computes in this process on all of its devices. Default: one per
            core, or 0 on an accelerator. A script needs `if __name__ == "__main__":` around the call.
        executor: Any `concurrent.futures` executor to use instead, whose workers see the same folder.
        scheduler: Address of a Dask scheduler to use instead; needs distributed.
        part: (i, n): compute only every n-th block from the i-th on, for independent jobs on one store.
        lanes: Largest number of points in a block; default 128 on a CPU, where caches decide. It is fixed when the
            store is made.
        memory: Bytes that a device may use for a block; default 1 GiB on a CPU, else a quarter of the device's memory.
        retry_failed: Compute failed points again, for example with a larger `max_steps`.
        extend: Add points to a store whose axes or seeds have fewer values. Its finished blocks are kept; values must
            be added behind those that are there.
        progress: Show the points that are done, their rate and the time left, as `simulate` does with `progress`
            (default True).

    Returns:
        The results, read when used, as an `xarray.Dataset` with the dimensions of the sweep, `seed`, `time`, and the
        arrays' own.

    Raises:
        ValueError: for a plan or a function that is not allowed, a store of another one, or one that another process
            extends; with `extend`, also one whose points another process computes.
        SweepIncomplete: if blocks could not be computed; the message says why, and everything else is kept.
        StoreFull: if there is no space left; everything committed is kept.

    Source: beyond the paper.

    Example:
        >>> import tempfile, unhinged_jax as uj
        >>> labels = uj.balanced(classes=2, per_class=1)
        >>> def run(gamma, key):
        ...     model = uj.unconstrained(labels, dim=2, gamma=gamma)
        ...     return uj.exact(model, uj.Flow(), model.init(key), [0, 1], ["norm"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = f"{folder}/small.zarr"
        ...     data = uj.sweep(run, {"gamma": [0.5, 1.0, 2.0]}, store, seeds=2, workers=0).load()
        >>> dict(data["norm"].sizes)
        {'gamma': 3, 'seed': 2, 'time': 2}
    """
    from unhinged_jax.sweeps.read import open_sweep

    of_function = {
        "seeds": seeds, "static": static, "precision": precision, "version": version, "dims": dims, "coords": coords,
        "vmap": vmap,
    }  # fmt: skip
    given = {name: value for name, value in of_function.items() if value is not None}
    what, place = _sweep_of(plan, axes, store, given)
    folder = _check.path("store", place)
    opened = prepare.open_store(what, folder, lanes=lanes, memory=memory, extend=extend)
    try:
        run_store(
            opened, workers=workers, executor=executor, scheduler=scheduler, part=part, retry_failed=retry_failed,
            progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        there = status_of(opened)
        interrupt.add_note(f"{there.done:,} of {there.points:,} points are kept in {folder}; the same call continues.")
        raise
    return open_sweep(folder)


def _sweep_of(plan: Any, axes: Any, store: Any, given: dict[str, Any]) -> tuple[Plan, Any]:
    """The plan and the store that the arguments of `sweep` mean."""
    if callable(plan):
        return plan_of_function(plan, {} if axes is None else axes, **given), store
    if given or (axes is not None and store is not None):
        named = ", ".join(given) or "axes"
        raise ValueError(f"{named} belong to the sweep of a function; a plan says them in its own sections.")
    if not isinstance(plan, (str, os.PathLike)):
        _check.kind("plan", plan, SweepPlan)
    return plan if isinstance(plan, SweepPlan) else SweepPlan.read(plan), axes if store is None else store


class SweepIncomplete(RuntimeError):
    """Blocks of a sweep could not be computed; the message says why. The others are in the store.

    Source: beyond the paper.
    """


def run_store(
    store: Store,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    scheduler: str | None = None,
    part: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    progress: bool = True,
) -> Status:
    """Compute what is missing in a store; see `sweep`.

    Raises:
        SweepIncomplete: if blocks could not be computed.
        StoreFull: if there is no space left.
    """
    if sum(option is not None for option in (workers, executor, scheduler)) > 1:
        raise ValueError("give one of workers, executor and scheduler.")
    index, count = part
    if not (_check.whole("part", count, 1) > _check.whole("part", index, 0)):
        raise ValueError(f"part must be (i, n) with 0 <= i < n, but got {part}.")
    with in_use(store.path), Progress(store.layout.points, progress) as shown:
        status = status_of(store, verify=True)
        store.withdraw(status.damaged)
        wanted = status.failed_blocks if retry_failed else status.missing
        wanted = tuple(number for number in wanted if number % count == index)
        shown.start(status)
        if not wanted:
            return status
        with _interrupt.held(), _dask(scheduler) if scheduler is not None else nullcontext(executor) as shared:

            def waiting() -> None:
                _interrupt.check()
                _refuse_lost(shared)

            make, devices, window = _executor(workers, shared, len(wanted), waiting)
            given_up = engine.drive(
                make, str(store.path.resolve()), _tasks(store, wanted, devices, window),
                window=window, owned=shared is None, retry=retry_failed, told=shown.told, waiting=waiting,
                source=_sent(store.source) if make is not engine.Here else store.source,
            )  # fmt: skip
    if given_up:
        reason = next(iter(given_up.values()))
        points = sum(store.layout.size(number) for task in given_up for number in task)
        raise SweepIncomplete(f"{points} points could not be computed, everything else is kept. The first: {reason}")
    return status_of(store)


def _sent(source: Source) -> Source:
    """A plan as another process can receive it; a function is sent by value."""
    if not isinstance(source, FunctionPlan):
        return source
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(source))
    except Exception as error:  # whatever pickling raises
        raise ValueError(
            f"the function cannot be sent to other processes ({type(error).__name__}: {error}); give workers=0, or let "
            "it close over numbers, arrays and functions only."
        ) from error


def _tasks(store: Store, numbers: tuple[int, ...], devices: int, window: int) -> list[tuple[int, ...]]:
    """Blocks of one group for each call. If there are enough groups for all workers, a worker gets several blocks of
    one group, so that not every worker compiles every program."""
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(group_of(store, number), []).append(number)
    each = devices * (_TOGETHER if 1 < window <= len(groups) + 1 else 1)
    return [tuple(group[i : i + each]) for group in groups.values() for i in range(0, len(group), each)]


def _executor(
    workers: int | None, shared: Executor | None, blocks: int, waiting: Callable[[], None]
) -> tuple[Callable[[], Executor], int, int]:
    """How to make an executor, devices of one of its workers, and how many tasks to keep in flight."""
    if shared is not None:
        asked = shared.submit(count_devices)
        while not concurrent.futures.wait([asked], timeout=0.5).done:  # workers may be in a queue
            waiting()
        waiting()
        return (lambda: shared), asked.result(), _width(shared)
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), blocks) if jax.default_backend() == "cpu" else 0
        workers = 0 if workers == 1 or jax.local_device_count() > 1 else workers
    if _check.whole("workers", workers, 0) == 0:
        return engine.Here, jax.local_device_count(), 1
    return engine.processes(workers, single_threaded=workers > 1), 1, workers + 1


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """The executor of a Dask cluster, while a client is connected to it."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ValueError("a Dask cluster needs distributed: pip install 'unhinged-jax[cluster]'.") from error
    client, logger = distributed.Client(address), logging.getLogger("distributed.client")
    level = logger.level
    try:
        # not pure: every call counts, even if two look the same.
        yield client.get_executor(retries=3, pure=False)
    finally:
        if client.status != "running":  # it would print its attempts to reach a scheduler that is gone
            logger.setLevel(logging.CRITICAL)
        client.close()
        logger.setLevel(level)


def _refuse_lost(executor: Executor | None) -> None:
    """Raise SweepIncomplete if the scheduler behind an executor is gone: its client would wait forever."""
    client = getattr(executor, "_client", None)
    if client is not None and client.status != "running":
        raise SweepIncomplete(
            f"the Dask scheduler at {client.scheduler.address} is gone; what was committed is kept. Start a scheduler "
            "with workers and run the same sweep with its address."
        )


def _width(executor: Executor) -> int:
    """Tasks that keep an executor busy."""
    client = getattr(executor, "_client", None)
    if client is not None:
        return max(2, 2 * sum(client.ncores().values()))
    return int(getattr(executor, "_max_workers", os.cpu_count() or 1)) + 1
