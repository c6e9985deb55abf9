"""Commands about one run: simulate it, differentiate it, choose its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unhinged_jax._terminal import spinner
from unhinged_jax.cli.application import app


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
    """Run the problem that a TOML file describes.

    Writes observables.csv, observables.nc, curves.png, curves.svg, run.json and final.npz.
    Exit status: 0 if the run completed or became steady, 3 if it stopped early, 1 for bad input.

    Parameters
    ----------
    config
        The file; paths inside it are relative to it.
    out
        Folder for the results.
    force
        Replace existing results; try a problem that seems too large for the memory.
    resume
        Continue from the existing results, to the larger `until` of the file.
    precision
        Instead of the one in the file.
    exact
        Evaluate the closed form instead of simulating.
    """
    if force and resume:
        raise ValueError("--force starts again and --resume continues; give one of them.")
    with spinner("Loading"):
        from unhinged_jax import _memory
        from unhinged_jax.runs import command as simulate_command
    with _memory.any_size(force):
        return simulate_command.run(config, out, force=force, resume=resume, precision=precision, exact=exact)


@app.command
def sensitivity(
    config: Path,
    /,
    *,
    parameter: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    observe: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    mode: Literal["auto", "forward", "checkpointed", "direct", "backsolve"] = "auto",
    order: Literal[1, 2] = 1,
    source: Literal["simulated", "exact"] | None = None,
    out: Path | None = None,
    force: bool = False,
) -> int:
    """Derivatives of the observables of a run with respect to its parameters, simulated and exact.

    Parameters
    ----------
    config
        A file as for `simulate`.
    parameter
        Names such as gamma, decay_H, eta, schedule.peak, momentum, noise, class_weights, H; default every number.
    observe
        Observables, instead of those in the file.
    mode
        How the simulation is differentiated; auto decides by the numbers of inputs and outputs.
    order
        2 adds second derivatives.
    source
        One of the two instead of both. If updates draw batches or labels, exact (the default) is the expectation, and
        simulated the path of the file's seed.
    out
        A .nc file with the whole table, or a .csv file with every derivative, one per row, for all times.
    force
        Replace that file if it exists; try a problem that seems too large for the memory.
    """
    with spinner("Loading"):
        from unhinged_jax import _memory
        from unhinged_jax.derivatives import command as sensitivity_command

    with spinner("Differentiating"), _memory.any_size(force):
        return sensitivity_command.run(
            config, parameter=parameter, observe=observe, mode=mode, order=order, source=source, out=out, force=force
        )


@app.command
def design(plan: str, /, *, out: Path, steps: int | None = None, force: bool = False) -> int:
    """Choose settings by gradient, and say how far the result is from the analytic or brute-force optimum.

    Writes design.json, path.csv, path.png and path.svg, the path of the outer optimisation.
    Exit status: 0, 3 if the design ends further than 2 % from its reference, 1 for bad input.

    Parameters
    ----------
    plan
        A TOML file, or a shipped plan: steps, steps_momentum, steps_ce, norm, prototypes, weights, rescaling.
    out
        Folder for the results.
    steps
        Number of steps of the outer loop, instead of the one in the plan.
    force
        Replace existing results; try a problem that seems too large for the memory.
    """
    with spinner("Loading"):
        from unhinged_jax import _memory
        from unhinged_jax.designs import command
    with _memory.any_size(force):
        return command.run(plan, out, steps=steps, force=force)
