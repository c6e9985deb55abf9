"""Pictures of a sweep: curves with bands over seeds, maps with boundaries, the interactive report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax._files import make_folder, whole
from unhinged_jax.config import only_data
from unhinged_jax.plots import save, style
from unhinged_jax.sweeps.bands import band_figure
from unhinged_jax.sweeps.design import Dim
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.maps import map_figure
from unhinged_jax.sweeps.read import dataset_of
from unhinged_jax.sweeps.report import report
from unhinged_jax.sweeps.store import Store
from unhinged_jax.sweeps.work import plan_of

if TYPE_CHECKING:
    import xarray

FILES = ("curves.png", "curves.svg", "map.png", "map.svg", "report.html")


def draw(
    store: str | Path,
    out: str | Path,
    *,
    observe: Sequence[str] = (),
    x: str | None = None,
    y: str | None = None,
    time: float | None = None,
    force: bool = False,
) -> list[Path]:
    """Draw a sweep, finished or not, from its numbers alone: nothing that the store names is imported or opened.

    Args:
        store: Folder that `sweep` wrote.
        out: Folder for curves.png, curves.svg (medians and bands over seeds, along time), map.png, map.svg (over two
            axes, with the boundaries that theory predicts) and report.html (everything, interactive and searchable).
        observe: Observables to draw; all if empty.
        x, y: Axes of the maps; default: the two numeric axes with most points.
        time: Moment of the maps; default: the last.
        force: Also replace files of those names that are not older pictures of a sweep.

    Returns:
        The files written.

    Raises:
        ValueError: for a name that is not in the store, a store without a finished point, or one that is damaged.

    Source: beyond the paper; boundaries as in `unhinged_jax.sweeps.boundaries`.
    """
    opened = Store(store)
    with only_data(opened.facts.get("arrays", {})):
        return _draw(opened, Path(out), observe, x, y, time, force)


def _draw(
    opened: Store, out: Path, observe: Sequence[str], x: str | None, y: str | None, time: float | None, force: bool
) -> list[Path]:
    plan, data = plan_of(opened), dataset_of(opened)
    data = _drawable(_chosen(data, opened.observed, tuple(observe)))
    moment = len(data["time"]) - 1 if time is None else int(np.argmin(np.abs(data["time"].values - time)))
    plan, data = in_order(plan, data.load())
    if not np.any(data["result"].values >= 0):
        raise ValueError(f"{opened.path} holds no finished point yet; run its sweep first.")
    names = axes_of_maps(plan, x, y)
    if not force:
        _refuse_others(out)
    make_folder(out)
    page = out / "report.html"
    with whole(page) as part:  # first, because it marks the folder as one of pictures
        part.write_text(report(plan, data, names), encoding="utf-8")
    written = []
    for name, figure in _figures(plan, data, names, moment):
        with style():
            written += save(figure, out, name)
    return [*written, page]


def in_order(plan: Plan, data: xarray.Dataset) -> tuple[Plan, xarray.Dataset]:
    """The plan and its data with every numeric axis ascending, as they are drawn, in whatever order its values were
    listed."""
    dims: list[Dim] = []
    for dim in plan.dims:
        values = dim.axes[0].coordinate()
        order = np.arange(dim.size)
        if dim.kind in ("grid", "zip") and values.dtype.kind != "U":
            order = np.argsort(values, kind="stable")
            data = data.isel({dim.name: order})
        axes = tuple(dataclasses.replace(axis, values=tuple(axis.values[i] for i in order)) for axis in dim.axes)
        dims.append(dataclasses.replace(dim, axes=axes))
    return dataclasses.replace(plan, dims=tuple(dims)), data


def _drawable(data: xarray.Dataset) -> xarray.Dataset:
    """Every array that has one number for a point or for each of its times, with the dimensions `seed` and `time`.

    What a function returned may lack them: a single number is drawn as a constant over time.

    Raises:
        ValueError: if nothing is left.
    """
    points = tuple(str(dim) for dim in data["result"].dims)
    kept = [name for name in data.data_vars if {*data[name].dims} <= {*points, "time"}]
    if kept == ["result"]:
        raise ValueError("every array of this sweep has axes of its own; draw it with xarray, from `open_sweep`.")
    data = data[kept]
    if "time" not in data.dims:
        data = data.expand_dims(time=[0.0])
        data["result"] = data["result"].isel(time=0, drop=True)
    for name in kept:
        if name != "result" and "time" not in data[name].dims:
            data[name] = data[name].expand_dims(time=data["time"].values)
    data = data if "seed" in points else data.expand_dims(seed=[0])
    order = [*(dim for dim in points if dim != "seed"), "seed"]
    return data.transpose(*order, "time", missing_dims="ignore")


def _refuse_others(out: Path) -> None:
    """Pictures of a sweep replace older ones, but no other files."""
    found = [out / name for name in FILES if (out / name).exists()]
    page = out / "report.html"
    if found and not (page.is_file() and _is_ours(page)):
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{out} holds {names}, which `plot` did not write; replace them with --force, or give --out.")


def _is_ours(path: Path) -> bool:
    """Whether a file is a report of a sweep."""
    with path.open("rb") as file:
        return b'name="generator" content="unhinged plot"' in file.read(400)


def _figures(plan: Plan, data: xarray.Dataset, names: tuple[str, ...], moment: int) -> Iterator[tuple[str, Any]]:
    if data.sizes["time"] > 1:
        yield "curves", band_figure(plan, data, names)
    if names:
        yield "map", map_figure(plan, data, names, moment)


def axes_of_maps(plan: Plan, x: str | None, y: str | None) -> tuple[str, ...]:
    """Names of the dimensions that maps are drawn over: two, or one if there is only one."""
    offered = [dim for dim in plan.dims if dim.kind != "seed" and dim.size > 1]
    known = [dim.name for dim in offered]
    for given in (x, y):
        if given is not None and given not in known:
            raise ValueError(f"{given!r} is not an axis of this sweep; it has {', '.join(known) or 'none'}.")
    ranked = sorted(offered, key=lambda dim: (dim.axes[0].labels is not None or not dim.axes[0].numeric, -dim.size))
    free = [dim.name for dim in ranked if dim.name not in (x, y)]
    first = x or (free.pop(0) if free else None)
    second = y or (free.pop(0) if free else None)
    if x is None and y is None and first and second and known.index(first) > known.index(second):
        first, second = second, first
    return tuple(name for name in (first, second) if name is not None)


def _chosen(data: xarray.Dataset, observed: tuple[str, ...], wanted: tuple[str, ...]) -> xarray.Dataset:
    for name in wanted:
        if name not in observed:
            raise ValueError(f"{name!r} was not observed; this sweep has {', '.join(observed)}.")
    return data[[*(wanted or observed), "result"]]
