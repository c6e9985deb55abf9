"""One HTML file that holds a sweep, with interactive maps and curves and a searchable table. It needs no network."""

from __future__ import annotations

import base64
import html
import importlib.resources
import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.sweeps.bands import coordinate_of, over_seeds
from unhinged_jax.sweeps.design import Axis, Dim, is_geometric
from unhinged_jax.sweeps.function_plan import FunctionPlan
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.lines import lines as boundaries
from unhinged_jax.sweeps.maps import _start_of
from unhinged_jax.sweeps.shares import shares, sources
from unhinged_jax.sweeps.store import FINE, PENDING, REASONS

if TYPE_CHECKING:
    import xarray

_NUMBERS = 1_500_000
"""Largest number of values in a report, 6 MB; single seeds, then times are left out if there would be more."""
_ROUNDING = 1e-3
"""Share of the range that values on one side of 0 may take without being meant."""
_PLACES = 12
"""Largest number of points along the other axes for which boundaries are computed."""
_SCRIPTS = (
    "data", "scales", "svg", "query", "map", "curves", "clouds", "table", "point", "controls", "address", "main",
)  # fmt: skip
"""Files of the page's script, in the order in which they are read; `page.html` and `page.css` are the rest of it."""


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
    # "<" escaped: no text of a plan can end the script that holds it.
    content = json.dumps(_content(plan, data, names), allow_nan=False).replace("<", "\\u003c")
    page = _file("page.html").replace("@STYLE@", _file("page.css"))
    page = page.replace("@SCRIPT@", "\n".join(_file(f"{name}.js") for name in _SCRIPTS))
    # Last what comes from a plan, at once, so that none of it is replaced again.
    filled = {"@TITLE@": html.escape(plan.title), '"@CONTENT@"': content}
    return re.sub("|".join(filled), lambda found: filled[found.group()], page)


def _file(name: str) -> str:
    """A file of the page."""
    return (importlib.resources.files("unhinged_jax.sweeps") / "page" / name).read_text(encoding="utf-8").strip()


def _content(plan: Plan, data: xarray.Dataset, names: tuple[str, ...]) -> dict[str, Any]:
    dims = [dim for dim in plan.dims if dim.kind != "seed"]
    order = [dim.name for dim in dims]
    observed = [str(name) for name in data.data_vars if name != "result"]
    points, seeds, times = math.prod(dim.size for dim in dims), data.sizes["seed"], data.sizes["time"]
    kept = _kept(times, _NUMBERS // max(1, 3 * points * len(observed)))
    single = seeds > 1 and (3 + seeds) * points * times * len(observed) <= _NUMBERS
    data = data.isel(time=kept).transpose(*order, "seed", "time")
    return {
        "facts": _facts(plan, data),
        "file": re.sub(r"\W+", "-", plan.title).strip("-").lower() or "sweep",
        "run": _run(plan, data),
        "axes": [_axis(plan, name) for name in order],
        "start": [order.index(name) for name in names],
        "times": data["time"].values.tolist(),
        "clock": str(data["time"].attrs.get("long_name", "time")),
        "observed": [_observed(data[name], dims, single) for name in observed],
        "sources": sources(dims, seeds),
        "failed": _packed(np.sum(~np.isin(data["result"].values, (*FINE, PENDING)), axis=-1)),
        "reasons": _reasons(data["result"].values),
        "seeds": seeds,
        "boundaries": _boundaries(plan, order),
    }


def _observed(array: xarray.DataArray, dims: list[Dim], single: bool) -> dict[str, Any]:
    """The median and the range over seeds, the seeds themselves if `single`, and what the page needs to draw them."""
    found: dict[str, Any] = dict(zip(("middle", "low", "high"), map(_packed, over_seeds(array)), strict=True))
    if single:
        found["seeds"] = _packed(array.values)
    finite = array.values[np.isfinite(array.values)]
    logarithm = bool(finite.size and 0 < finite.min() < 0.01 * finite.max())
    values = np.log(array.values) if logarithm else array.values
    about = {"name": str(array.name), "meaning": str(array.attrs.get("long_name", array.name))}
    found |= {"centre": centre_of(array), "logarithm": logarithm, "shares": _packed(shares(values, dims))}
    return {**about, **found}


def centre_of(array: xarray.DataArray) -> float | None:
    """The value that colours diverge from: for the logarithm of a norm its value at the first time, if all points
    share it, so that colours show whether it grew; 0 for other quantities that take both signs; None if there is
    none."""
    name = str(array.name)
    if name.startswith("log"):
        start = _start_of(array) if name.startswith("log_norm") else math.nan
        return start if math.isfinite(start) else None
    finite = array.values[np.isfinite(array.values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return 0.0 if min(-low, high) > _ROUNDING * (high - low) else None


def _run(plan: Plan, data: xarray.Dataset) -> dict[str, Any]:
    """What the run of a single point is made of."""
    if isinstance(plan, FunctionPlan):
        name = next(iter(plan.parts), "function").rpartition(".")[2]
        drawn = any(dim.kind == "seed" for dim in plan.dims)
        name = name if name.isidentifier() else "function"  # a lambda has none
        return {"kind": "function", "name": name, "seeds": data["seed"].values.tolist() if drawn else []}
    (seeds,) = (dim for dim in plan.dims if dim.kind == "seed")
    keys = [axis.key for axis in seeds.axes]
    given = {"method": plan.method, "seeds": [*seeds.axes[0].values], "seeded": keys}
    return {"kind": "plan", "tables": plan.tables(), **given}


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
    together = dim.kind in ("zip", "random")  # these axes have values of their own
    return {
        "name": name,
        "label": label,
        "values": values.tolist(),
        "text": values.dtype.kind == "U",
        "log": is_geometric(values),
        "scattered": dim.kind == "random",
        "parts": [
            _column(axis, [axis.key] if together else [other.key for other in dim.axes], isinstance(plan, FunctionPlan))
            for axis in (dim.axes if together else dim.axes[:1])
        ],
    }


def _column(axis: Axis, keys: list[str], static: bool) -> dict[str, Any]:
    """One axis as a column of a table, and the values that a run of one point is given at `keys`."""
    shown = axis.coordinate()
    named = static and axis.labels is not None  # a value that is code has only its label
    return {
        "name": axis.name,
        "label": axis.label,
        "keys": keys,
        "shown": shown.tolist(),
        "given": shown.tolist() if named else [*axis.values],
        "log": is_geometric(np.unique(shown)),
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
                look = {"colour": line.colour, "dashes": dashes}
                about = {"at": at, "meaning": line.meaning, **look, "points": _points(line.x, line.y)}
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
