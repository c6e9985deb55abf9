"""Commands about many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unhinged_jax.cli.application import app


@app.command
def sweep(
    plan: str | None = None,
    /,
    *,
    store: Path,
    status: bool = False,
    retry_failed: bool = False,
    export: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    part: str = "0/1",
    lanes: int | None = None,
    extend: bool = False,
    force: bool = False,
) -> int:
    """Run every point of a plan into a store; the same command resumes it.

    Exit status: 0 if every point was computed, 3 if some failed or could not be, 1 for bad input or a full disk. After
    Ctrl-C, SIGTERM or SIGHUP (130, 143, 129) current blocks are finished or given up within seconds.

    Parameters
    ----------
    plan
        A TOML file, or a shipped plan: phase, noise, imbalance, schedules. Not needed with --status or --export.
    store
        Folder of the Zarr store.
    status
        Only report how far the store has come.
    retry_failed
        Compute failed points again; the plan may now have a larger max_steps.
    export
        Write the results to this .csv, .parquet or .nc file; nothing is computed.
    force
        Replace the file of --export if it is there; try points that memory does not seem to hold. Nothing in a store is
        ever replaced.
    workers
        Local processes; 0 computes in this one. Default: one per core, or 0 on an accelerator.
    scheduler
        Address of a Dask scheduler whose workers see the same folder.
    part
        I/N computes only every N-th block from the I-th on, for independent jobs on one store.
    lanes
        Largest number of points in a block of a new store.
    extend
        Add points to a store whose axes or seeds have fewer values; its finished blocks are kept.
    """
    from unhinged_jax import _memory
    from unhinged_jax.sweeps import command

    with _memory.any_size(force):
        return command.sweep(
            plan, store, status=status, retry_failed=retry_failed, export=export, workers=workers, scheduler=scheduler,
            part=part, lanes=lanes, extend=extend, force=force,
        )  # fmt: skip


@app.command
def plot(
    store: Path,
    /,
    *,
    out: Path | None = None,
    observe: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    x: str | None = None,
    y: str | None = None,
    time: float | None = None,
    force: bool = False,
) -> int:
    """Draw a sweep: curves with bands over seeds, maps with the boundaries that theory predicts, an interactive report.

    Older pictures of a sweep are replaced. Nothing that the store names is imported or opened.

    Parameters
    ----------
    store
        The store of a sweep, finished or not.
    out
        Folder for NAME.png, NAME.svg and report.html; default: the store's name with -pictures.
    observe
        Observables to draw; all of them if none is given.
    x
        Axis of the maps that goes across; default: a numeric one.
    y
        Axis of the maps that goes up; default: another one.
    time
        Moment that the maps show; default: the last.
    force
        Replace files of these names that are no pictures of a sweep.
    """
    from unhinged_jax.sweeps import command

    return command.plot(store, out=out, observe=observe, x=x, y=y, time=time, force=force)
