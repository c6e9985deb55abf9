"""The command line. Nothing here imports JAX before a command needs it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, CycloptsError, Parameter

if TYPE_CHECKING:
    from unhinged_jax.config import Config, Problem
    from unhinged_jax.trajectory import Trajectory

__all__ = ["app", "main"]

BAD_INPUT, STOPPED_EARLY, INTERRUPTED = 1, 3, 130

# What a resumed run may change: when to look, and how long to try.
_MAY_CHANGE = {"run": ("until", "points", "spacing", "first", "times", "precision"), "dynamics": ("max_steps",)}


def _version() -> str:
    try:
        return importlib.metadata.version("unhinged-jax")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


app = App(
    name="unhinged",
    help="Learning dynamics of the layer-peeled model: simulated, solved exactly, compared.",
    version=_version,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)


@app.command
def simulate(
    config: Path,
    /,
    *,
    out: Path,
    force: bool = False,
    resume: bool = False,
    precision: Literal["float32", "float64"] | None = None,
    exact: bool = False,
) -> int:
    """Run what a TOML file describes.

    Writes observables.csv, observables.nc, curves.png, curves.svg, run.json and final.npz.
    Exit status: 0 if the run completed or became steady, 3 if it stopped early, 1 for bad input.

    Parameters
    ----------
    config
        The file; paths inside it are relative to it.
    out
        Folder for the results.
    force
        Replace results that are there.
    resume
        Go on from the results that are there, to the larger `until` of the file.
    precision
        Instead of the one in the file.
    exact
        Evaluate the closed form instead of simulating.
    """
    if force and resume:
        raise ValueError("--force starts again and --resume goes on; give one of them.")
    with _progress("Loading"):
        from unhinged_jax import output
        from unhinged_jax.config import build, read_config

        read = read_config(config)
        problem = build(read, precision)
        identity = _identity(read, problem, exact)
    started = time.perf_counter()
    with output.workspace(out, force=force, resume=resume) as place:
        before = None
        if resume:
            stored = output.read_run(out, problem.dynamics)
            _check_same(stored.identity, identity, out)
            before = stored.trajectory
        with _progress("Solving" if exact else "Simulating"), _named(config):
            trajectory = _run(problem, exact, before)
        facts = {
            "run": read.as_dict()["run"],
            "continued_from": None if before is None else before.elapsed,
            "seconds": round(time.perf_counter() - started, 3),
        }
        with _progress("Writing"):
            output.write_run(out, place, trajectory, identity, facts)
    print(trajectory)
    return _status(trajectory)


@app.command
def doctor(*, json: bool = False) -> int:
    """Check versions, devices and precision, and that compiled programs compute right numbers.

    Parameters
    ----------
    json
        Print one JSON object instead of tables.
    """
    with _progress("Checking"):
        from unhinged_jax import doctor as module
    return module.main(json=json)


@app.command
def verify(*, json: Path | None = None) -> int:
    """Compare every simulated dynamics with its closed form. Exit status 1 if any bound is missed.

    Parameters
    ----------
    json
        Also write the certificate to this file.
    """
    return int(importlib.import_module("unhinged_jax.verify").main(json=json))


@app.command
def reproduce(
    *figures: str,
    out: Path = Path("figures"),
    at: Path | None = None,
    seed: int | None = None,
) -> int:
    """Compute and draw the numerical figures of Zhou et al. (2023), simulated and exact.

    Parameters
    ----------
    figures
        Numbers of figures, such as 1 9 15; all of them if none is given.
    out
        Folder for the results.
    at
        CSV file with columns figure,t: more indices to evaluate.
    seed
        Start from a random state of this seed instead of the paper's own.
    """
    module = importlib.import_module("unhinged_jax.paper.reproduce")
    return int(module.main(figures=figures, out=out, at=at, seed=seed))


@app.command
def theories(*names: str, page: Path = Path("theories.md")) -> int:
    """Run other known results beside this one, check each against its prediction, draw them.

    Exit status 1 if any check misses its bound.

    Parameters
    ----------
    names
        Theories to run; all of them if none is given.
    page
        Markdown page to write; figures go into the folder of the same name without its suffix.
    """
    with _progress("Loading"):
        module = importlib.import_module("unhinged_jax.theories.command")
    return int(module.main(names=names, out=page))


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
) -> int:
    """Run every point of a plan into a store, or go on with it: the same command resumes.

    Exit status: 0 if every point was computed, 3 if some failed or could not be, 1 for bad input or a full disk.

    Parameters
    ----------
    plan
        A TOML file, or a shipped plan: phase, noise, imbalance, schedules. Not needed with --status or --export.
    store
        Folder of the Zarr store.
    status
        Only say how far the store has come.
    retry_failed
        Compute the points that failed again; the plan may now have a larger max_steps.
    export
        Write the results to this .csv, .parquet or .nc file; nothing is computed.
    workers
        Local processes; 0 computes in this one. Default: one a core, or 0 on an accelerator.
    scheduler
        Address of a Dask scheduler whose workers see the same folder.
    part
        I/N computes only every N-th block from the I-th on, for independent jobs on one store.
    lanes
        Most points in a block of a new store.
    """
    from unhinged_jax.sweep import command

    return command.sweep(
        plan, store, status=status, retry_failed=retry_failed, export=export, workers=workers, scheduler=scheduler,
        part=part, lanes=lanes,
    )  # fmt: skip


@app.command
def plot(
    store: Path,
    /,
    *,
    out: Path | None = None,
    observe: tuple[str, ...] = (),
    x: str | None = None,
    y: str | None = None,
    time: float | None = None,
) -> int:
    """Draw a sweep: curves with seed bands, maps with the boundaries that theory predicts, an interactive report.

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
    """
    from unhinged_jax.sweep import command

    return command.plot(store, out=out, observe=observe, x=x, y=y, time=time)


@app.command
def design(plan: str, /, *, out: Path, steps: int | None = None, force: bool = False) -> int:
    """Choose settings by gradient, and say how far from the analytic or brute-force optimum that ends.

    Writes design.json, path.csv, path.png and path.svg, the path of the outer optimisation.
    Exit status: 0, 3 if the design ends further than 2 % from its reference, 1 for bad input.

    Parameters
    ----------
    plan
        A TOML file, or a shipped plan: steps, steps_momentum, steps_ce, norm, prototypes, weights, rescaling.
    out
        Folder for the results.
    steps
        Of the outer loop, instead of those in the plan.
    force
        Replace results that are there.
    """
    with _progress("Loading"):
        from unhinged_jax.design import command
    return command.run(plan, out, steps=steps, force=force)


@app.command
def sensitivity(
    config: Path,
    /,
    *,
    parameter: tuple[str, ...] = (),
    observe: tuple[str, ...] = (),
    mode: Literal["auto", "forward", "checkpointed", "direct", "backsolve"] = "auto",
    order: Literal[1, 2] = 1,
    out: Path | None = None,
) -> int:
    """Derivatives of the observables of a run in its continuous parameters, simulated beside exact.

    Parameters
    ----------
    config
        A file as for `simulate`.
    parameter
        Names such as gamma, decay_H, eta, schedule.peak, momentum, noise, class_weights, H; default every number.
    observe
        Observables, instead of those in the file.
    mode
        How the simulation is differentiated; auto goes by the numbers of inputs and outputs.
    order
        2 adds second derivatives.
    out
        A .csv or .nc file for all times.
    """
    with _progress("Differentiating"):
        from unhinged_jax import sensitivity_command

        return sensitivity_command.run(
            config, parameter=parameter, observe=observe, mode=mode, order=order, out=out
        )


@app.command
def train(
    config: Path,
    /,
    *,
    out: Path,
    force: bool = False,
    resume: bool = False,
    data_dir: Path | None = None,
    check: bool = False,
) -> int:
    """Train the networks that a TOML file describes, one for each seed.

    Writes history.csv, history.png, history.svg, run.json and checkpoints.
    Exit status: 0 if it completed, 3 if a seed was stopped before overflow, 1 for bad input.

    Parameters
    ----------
    config
        The file; every key has a default, so it may be empty.
    out
        Folder for the results.
    force
        Replace results that are there.
    resume
        Go on from the latest checkpoint.
    data_dir
        Folder with the standard files of the data set; instead of `dir` in [data].
    check
        Only read the file and the data, and say whether they fit.
    """
    from unhinged_jax.training import command

    return command.train(config, out, force=force, resume=resume, data_dir=data_dir, check=check)


@app.command
def experiment(
    name: str,
    /,
    *,
    out: Path | None = None,
    force: bool = False,
    data: str | None = None,
    data_dir: Path | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
) -> int:
    """Run an experiment on real networks: tables, figures and report.md. What is finished is not run again.

    Parameters
    ----------
    name
        fig2, imbalance, ood, blowup, weights, noise or ntk; or a TOML file of that kind.
    out
        Folder for the results; default experiments/NAME.
    force
        Run again what is finished.
    data
        Another data set: digits, cifar10, cifar100, svhn, mnist, folder.
    data_dir
        Folder with its standard files.
    seeds
        Number of seeds instead of the one in the file.
    epochs
        Number of epochs instead of the one in the file.
    """
    from unhinged_jax.training import command

    return command.experiment(
        name, out, force=force, data=data, data_dir=data_dir, seeds=seeds, epochs=epochs
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; default those of the process.

    Returns:
        Exit status. Bad input is one line on standard error and status 1.

    Source: beyond the paper.

    Example:
        >>> main(["--version"])  # doctest: +SKIP
        0
    """
    try:
        status = app(
            None if argv is None else list(argv),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except (CycloptsError, ValueError, OSError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("unhinged: interrupted; results that were there are unchanged.", file=sys.stderr)
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _complain(error: Exception) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print("unhinged: error:", " ".join(text.split()) or type(error).__name__, file=sys.stderr)
    return BAD_INPUT


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """A spinner with the elapsed time, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        yield


@contextmanager
def _named(config: Path) -> Iterator[None]:
    """Name the file in what the library says about its values."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error


def _run(problem: Problem, exact: bool, before: Trajectory | None) -> Trajectory:
    import jax
    import numpy as np

    import unhinged_jax as uj
    from unhinged_jax.output import joined

    times = problem.times
    start: Any = problem.state
    if before is not None:
        times, start = times[times > before.elapsed], before
        if not times.size:
            raise ValueError(f"the run has reached {before.elapsed:g} already; raise `until` in [run] to go on.")
        _refuse_gaps(before.observables)
    solve = uj.exact if exact else uj.simulate
    after = solve(
        problem.model, problem.dynamics, start, times, problem.observe,
        states=problem.states, target=problem.target, precision=problem.precision,
    )  # fmt: skip
    after = jax.tree.map(np.asarray, after)
    # JAX sorts the keys of a dictionary; people read them in the order they asked for.
    order = [name for name in problem.observe if name in after.observables]
    after = dataclasses.replace(after, observables={name: after[name] for name in order})
    return after if before is None else joined(before, after)


def _refuse_gaps(observed: Collection[str]) -> None:
    for name in ("gap_H", "gap_W"):
        if name in observed:
            raise ValueError(f"{name} is measured from the start of a run and cannot be resumed; do not observe it.")


def _identity(config: Config, problem: Problem, exact: bool) -> dict[str, Any]:
    """What two commands must share to be parts of one run."""
    sections = config.as_dict()
    for section, keys in _MAY_CHANGE.items():
        sections[section] = {k: v for k, v in sections[section].items() if k not in keys}
    return {"config": sections, "inputs": problem.inputs, "precision": problem.precision, "exact": exact}


def _check_same(stored: dict[str, Any], asked: dict[str, Any], out: Path) -> None:
    before, now = _flat(stored), _flat(asked)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{out} holds a run with {key} = {before.get(key)}, but now it is {now.get(key)}; --resume goes on "
                "with the same settings, start again with --force."
            )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    parts = [_flat(value, f"{prefix}.{name}".lstrip(".")) for name, value in tree.items()]
    return {key: leaf for part in parts for key, leaf in part.items()}


def _status(trajectory: Trajectory) -> int:
    from unhinged_jax.trajectory import Result

    if trajectory.result in (Result.COMPLETED, Result.STEADY):
        return 0
    print(f"unhinged: stopped early: {trajectory.result.message}", file=sys.stderr)
    return STOPPED_EARLY


if __name__ == "__main__":
    sys.exit(main())
