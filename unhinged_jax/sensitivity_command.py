"""`unhinged sensitivity`: the table of one configuration, on the screen and in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax._whole import refuse_there, whole
from unhinged_jax.config import build, read_config
from unhinged_jax.sensitivity import disagreement, sensitivity

if TYPE_CHECKING:
    import xarray

_SUFFIXES = (".csv", ".nc")


def run(
    config: Path, *, parameter: tuple[str, ...], observe: tuple[str, ...], mode: str, order: int, out: Path | None,
    force: bool = False,
) -> int:
    """Print the sensitivities at the last time of [run]; write all times to `out`."""
    if out is not None and out.suffix not in _SUFFIXES:
        raise ValueError(f"--out must end in .csv or .nc, but is {out}.")
    if out is not None and not force:
        refuse_there([out])
    problem = build(read_config(config))
    table = sensitivity(
        problem.model, problem.dynamics, problem.state, problem.times, observe or problem.observe, parameter or None,
        order=order, mode=mode, target=problem.target, precision=problem.precision,
    )  # fmt: skip
    if out is not None:
        with whole(out, force=force) as part:
            _write(table, part)
    if "first" in table:
        _print(table)
    arrays = [str(name) for name in table.data_vars if str(name).startswith("first_")]
    if arrays:
        print(f"also: {', '.join(arrays)}" + ("" if out is not None else "; --out FILE.nc keeps them"))
    if table.sizes["source"] == 2:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in disagreement(table).items())
        print(f"largest relative difference, simulated from exact: {worst}")
    return 0


def _write(table: xarray.Dataset, out: Path) -> None:
    if out.suffix == ".nc":
        table.to_netcdf(out)
    elif "first" in table:
        table["first"].to_dataframe().unstack("source").to_csv(out)
    else:
        raise ValueError("a CSV file holds scalar parameters, and none was asked for; write a .nc file.")


def _print(table: xarray.Dataset) -> None:
    from rich.console import Console
    from rich.table import Table

    last = table.isel(time=-1)
    shown = Table(title=f"d observable / d parameter at {float(last['time']):g}, {table.attrs['mode']} mode")
    shown.add_column("observable")
    shown.add_column("parameter")
    shown.add_column("at", justify="right")
    for kind in table["source"].values:
        shown.add_column(str(kind), justify="right")
    for observable in table["observable"].values:
        for parameter in table["parameter"].values:
            slopes = last["first"].sel(observable=observable, parameter=parameter)
            theta = float(table["theta"].sel(parameter=parameter))
            numbers = [f"{float(slope):.9g}" for slope in np.atleast_1d(slopes.values)]
            shown.add_row(str(observable), str(parameter), f"{theta:.6g}", *numbers)
    Console().print(shown)
