"""One HTML file that holds a sweep, with interactive maps and curves and a searchable table. It needs no network."""

from __future__ import annotations

import base64
import html
import importlib.resources
import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.sweeps.bands import coordinate_of, over_seeds
from unhinged_jax.sweeps.design import is_geometric
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.lines import lines as boundaries
from unhinged_jax.sweeps.store import FINE, PENDING, REASONS

if TYPE_CHECKING:
    import xarray

_NUMBERS = 1_500_000
"""Largest number of values in a report, 6 MB; times are left out if there would be more."""
_PLACES = 12
"""Largest number of points along the other axes for which boundaries are computed."""


def report(plan: Plan, data: xarray.Dataset, names: tuple[str, ...]) -> str:
    """The report of a sweep.

    Args:
        plan: The plan that was run.
        data: Observables and `result`, loaded.
        names: Axes that the map shows at first.

    Returns:
        HTML with everything inside.

    Source: beyond the paper.
    """
    template = (importlib.resources.files("unhinged_jax.sweeps") / "report.html").read_text(encoding="utf-8")
    # "<" escaped: no text of a plan can end the script that holds it.
    content = json.dumps(_content(plan, data, names), allow_nan=False).replace("<", "\\u003c")
    title = html.escape(plan.title)
    return template.replace("@TITLE@", title).replace('"@CONTENT@"', content)


def _content(plan: Plan, data: xarray.Dataset, names: tuple[str, ...]) -> dict[str, Any]:
    dims = [dim for dim in plan.dims if dim.kind != "seed"]
    order = [dim.name for dim in dims]
    observed = [str(name) for name in data.data_vars if name != "result"]
    points = math.prod(dim.size for dim in dims)
    kept = _kept(len(data["time"]), _NUMBERS // max(1, 3 * points * len(observed)))
    data = data.isel(time=kept).transpose(*order, "seed", "time")
    return {
        "facts": _facts(plan, data),
        "axes": [_axis(plan, name) for name in order],
        "start": [order.index(name) for name in names],
        "times": data["time"].values.tolist(),
        "clock": str(data["time"].attrs.get("long_name", "time")),
        "observed": [
            {"name": name, "meaning": str(data[name].attrs.get("long_name", name)), **_band(data[name])}
            for name in observed
        ],
        "failed": _packed(np.sum(~np.isin(data["result"].values, (*FINE, PENDING)), axis=-1)),
        "reasons": _reasons(data["result"].values),
        "seeds": data.sizes["seed"],
        "boundaries": _boundaries(plan, order),
    }


def _band(array: xarray.DataArray) -> dict[str, str]:
    parts = zip(("middle", "low", "high"), over_seeds(array), strict=True)
    return {part: _packed(values) for part, values in parts}


def _kept(times: int, most: int) -> np.ndarray:
    """Times that fit, the first and the last among them."""
    return np.unique(np.round(np.linspace(0, times - 1, max(2, min(times, most)))).astype(int))


def _packed(values: np.ndarray) -> str:
    """Numbers as base64 of little-endian float32; beyond its range they become infinite."""
    with np.errstate(over="ignore"):
        return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _axis(plan: Plan, name: str) -> dict[str, Any]:
    values, label = coordinate_of(plan, name)
    dim = next(dim for dim in plan.dims if dim.name == name)
    more = {axis.label: axis.coordinate().tolist() for axis in (dim.axes[1:] if dim.kind in ("zip", "random") else ())}
    return {
        "name": name,
        "label": label,
        "values": values.tolist(),
        "text": values.dtype.kind == "U",
        "log": is_geometric(values),
        "scattered": dim.kind == "random",
        "more": more,
    }


def _reasons(result: np.ndarray) -> dict[str, str]:
    """Point -> why its seeds failed or are missing; points without failures are left out."""
    flat = result.reshape(-1, result.shape[-1])
    names = {**REASONS, PENDING: "pending"}
    odd = np.flatnonzero(~np.all(np.isin(flat, FINE), axis=1))
    return {str(i): ", ".join(sorted({names[int(code)] for code in flat[i] if code not in FINE})) for i in odd}


def _boundaries(plan: Plan, order: list[str]) -> list[dict[str, Any]]:
    """Lines for every pair of numeric axes, and for each place along the others if those are few, else their middle.

    The page exchanges x and y where its map does.
    """
    dims = [dim for dim in plan.dims if dim.name in order and dim.kind != "random" and dim.size > 1]
    numeric = [dim.name for dim in dims if dim.axes[0].numeric and dim.axes[0].labels is None]
    found = []
    for x, y in itertools.combinations(numeric, 2):
        others = [dim for dim in plan.dims if dim.name not in (x, y, "seed")]
        many = math.prod(dim.size for dim in others) > _PLACES
        spans = [[(dim.size - 1) // 2] if many else range(dim.size) for dim in others]
        for chosen in itertools.product(*spans):
            held = {dim.name: place for dim, place in zip(others, chosen, strict=True)}
            at = {str(order.index(name)): place for name, place in held.items()}
            for line in boundaries(plan, x, y, held):
                dashes = " ".join(f"{2 * length:g}" for length in line.dashes)
                about = {"at": at, "meaning": line.meaning, "dashes": dashes, "points": _points(line.x, line.y)}
                found.append({"x": order.index(x), "y": order.index(y), **about})
    return found


def _points(x: np.ndarray, y: np.ndarray) -> list[list[float] | None]:
    """Points of a line, to seven digits; None where it is interrupted."""
    there = np.isfinite(x) & np.isfinite(y)
    return [[float(f"{v:.7g}") for v in point] if known else None for *point, known in zip(x, y, there, strict=True)]


def _facts(plan: Plan, data: xarray.Dataset) -> dict[str, Any]:
    attrs = data.attrs
    versions = json.loads(attrs["versions"])
    return {
        "points": plan.points,
        "finished": int(np.sum(data["result"].values >= 0)),
        "failed": int(np.sum(~np.isin(data["result"].values, (*FINE, PENDING)))),
        "method": attrs["method"],
        "precision": attrs["precision"],
        "device": attrs["device"],
        "made with": f"unhinged-jax {versions['unhinged-jax']}, jax {versions['jax']}, commit {attrs['commit']}",
        "plan": plan.tables(),
    }
