"""`unhinged sensitivity`: the table of one configuration, on the screen and in a file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax._files import refuse_there, whole
from unhinged_jax.config import build, read_config
from unhinged_jax.derivatives.sensitivities import disagreement, sensitivity

if TYPE_CHECKING:
    import pandas
    import xarray

_SUFFIXES = (".csv", ".nc")


def run(
    config: Path,
    *,
    parameter: tuple[str, ...],
    observe: tuple[str, ...],
    mode: str,
    order: int,
    out: Path | None,
    source: str | None = None,
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
        order=order, mode=mode, target=problem.target, precision=problem.precision, sources=source,
        key=problem.key if source == "simulated" else None,
    )  # fmt: skip
    if out is not None:
        with whole(out, force=force) as part:
            _write(table, part)
    if "first" in table:
        _print(table)
    arrays = [str(name) for name in table.data_vars if str(name).startswith("first_")]
    if arrays:
        print(f"also: {', '.join(arrays)}" + ("" if out is not None else "; --out FILE keeps them"))
    if table.sizes["source"] == 2:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in disagreement(table).items())
        print(f"largest relative difference between simulated and exact: {worst}")
    return 0


def _write(table: xarray.Dataset, out: Path) -> None:
    if out.suffix == ".nc":
        table.to_netcdf(out)
    else:
        rows(table).to_csv(out)


def rows(table: xarray.Dataset) -> pandas.DataFrame:
    """Every derivative of a table as a row (observable, time, parameter), with a column for each source.

    A number of an array-valued parameter is "NAME[i]" or "NAME[i,j]"; a second derivative is "NAME, OTHER".
    """
    import pandas

    base, kinds = ["observable", "time", "parameter"], table["source"].values.tolist()
    found = []
    for name in [name for name in map(str, table.data_vars) if name.startswith("first") or name == "second"]:
        values = table[name]
        axes = [str(dim) for dim in values.dims[3:]]
        if name.startswith("first_"):
            labels = [f"{name[6:]}[{','.join(map(str, place))}]" for place in np.ndindex(values.shape[3:])]
        else:
            labels = [", ".join(map(str, chosen)) for chosen in itertools.product(*(values[a].values for a in axes))]
        index = pandas.MultiIndex.from_product([table["observable"].values, table["time"].values, labels], names=base)
        found.append(pandas.DataFrame(values.values.reshape(len(kinds), -1).T, index, kinds))
    return pandas.concat(found)


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
