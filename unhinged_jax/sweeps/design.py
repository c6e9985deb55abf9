"""Axes of a sweep and the designs that combine them: grid, zip, random."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from unhinged_jax import _check


@dataclasses.dataclass(frozen=True)
class Axis:
    """One setting that varies: its dotted key, its values, and the names of both.

    Example:
        >>> read_axis("model.gamma", {"from": 0.0, "to": 1.0, "count": 3}).values
        (0.0, 0.5, 1.0)
    """

    key: str
    values: tuple[Any, ...]
    name: str
    label: str
    labels: tuple[str, ...] | None = None

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)

    def coordinate(self) -> np.ndarray:
        """The values as a coordinate: numbers, or texts."""
        if self.labels is not None:
            return np.asarray(self.labels)
        if not self.numeric:
            return np.asarray([value if isinstance(value, str) else json.dumps(value) for value in self.values])
        whole = all(isinstance(value, int) for value in self.values)
        return np.asarray(self.values, np.int64 if whole else np.float64)


def is_geometric(values: np.ndarray) -> bool:
    """Whether positive coordinates are closer to evenly spaced in the logarithm than by difference."""
    if values.dtype.kind == "U" or len(values) < 3 or np.any(values <= 0) or not np.all(np.diff(values) > 0):
        return False
    gaps, ratios = np.diff(values), np.diff(np.log(values))
    return bool(np.std(ratios) / np.mean(ratios) < np.std(gaps) / np.mean(gaps))


@dataclasses.dataclass(frozen=True)
class Dim:
    """One dimension of the result: axes that vary together, `kind` "grid", "zip", "random" or "seed"."""

    name: str
    axes: tuple[Axis, ...]
    kind: str

    @property
    def size(self) -> int:
        """Number of points along it."""
        return len(self.axes[0].values)


_SPAN = ("from", "to", "count", "spacing")
_NAMING = ("name", "label", "labels")


def read_axis(key: str, spec: object, *, random: bool = False) -> Axis:
    """An axis from `[values]`, {values = [...]} or {from, to, count, spacing}; a random one has no count.

    Raises:
        ValueError: for a key without a dot, an empty axis, a repeated value, or a span that is not allowed.
    """
    if "." not in key:
        raise ValueError(f"an axis is a dotted key such as 'model.gamma', but got {key!r}.")
    table: dict[str, Any] = dict(spec) if isinstance(spec, dict) else {"values": spec}
    for name in table:
        if name not in ("values", *_SPAN, *_NAMING):
            raise ValueError(f"axis {key!r}: unknown key {name!r}; an axis takes values, {', '.join(_SPAN + _NAMING)}.")
    if ("values" in table) == ("from" in table):
        raise ValueError(f"axis {key!r} takes either values, or from and to.")
    if "values" in table:
        values = _listed(key, table["values"])
    elif random:
        values = _span_ends(key, table)
    else:
        ends = _span_ends(key, table)
        count = _check.whole(f"axis {key!r}: count", table.get("count"), 2)
        values = tuple(_spaced(ends[0], ends[1], np.linspace(0, 1, count), _spacing(key, table)))
    name = str(table.get("name", key.rpartition(".")[2]))
    labels = table.get("labels")
    if labels is not None:
        if len(labels) != len(values):
            raise ValueError(f"axis {key!r} has {len(values)} values, but {len(labels)} labels.")
        labels = tuple(str(label) for label in labels)
    return Axis(key, values, name, str(table.get("label", name)), labels)


def _listed(key: str, given: object) -> tuple[Any, ...]:
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f"axis {key!r} needs a list of values, but got {given!r}.")
    values = tuple(value.item() if isinstance(value, np.generic) else value for value in given)
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"axis {key!r} must hold finite numbers, but holds {value}.")
    return values


def _span_ends(key: str, table: dict[str, Any]) -> tuple[float, float]:
    ends = []
    for name in ("from", "to"):
        value = table.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"axis {key!r}: {name} must be a finite number, but is {value!r}.")
        ends.append(float(value))
    if ends[0] >= ends[1]:
        raise ValueError(f"axis {key!r} goes from a smaller to a larger number, but from is {ends[0]}, to {ends[1]}.")
    if _spacing(key, table) == "log" and ends[0] <= 0:
        raise ValueError(f"axis {key!r}: spacing = 'log' needs from > 0, but from is {ends[0]}.")
    return ends[0], ends[1]


def _spacing(key: str, table: dict[str, Any]) -> str:
    spacing = table.get("spacing", "linear")
    _check.choice(f"axis {key!r}: spacing", spacing, ("linear", "log"))
    return str(spacing)


def _spaced(first: float, last: float, share: np.ndarray, spacing: str) -> list[float]:
    """Values at shares 0 ... 1 of a span; the ends are exact."""
    if spacing == "log":
        inner = np.exp((1 - share) * math.log(first) + share * math.log(last))
    else:
        inner = (1 - share) * first + share * last
    return [float(v) for v in np.where(share == 0, first, np.where(share == 1, last, inner))]


def read_dims(sweep: Any, seed: int) -> tuple[Dim, ...]:
    """The dimensions of a [sweep] section: grid axes, zips, the random one, seeds.

    Raises:
        ValueError: for axes that are not allowed, or two axes with the same key or name.
    """
    dims = []
    for keys, spec in (sweep.grid or {}).items():
        axes = tuple(read_axis(key.strip(), spec) for key in keys.split("+"))
        if axes[0].numeric and len(set(axes[0].values)) < len(axes[0].values):
            raise ValueError(f"axis {keys!r} holds a value twice.")
        dims.append(Dim(axes[0].name, axes, "grid"))
    zips = sweep.zip if isinstance(sweep.zip, list) else [sweep.zip] if sweep.zip else []
    dims += [_zipped(table) for table in zips]
    if sweep.random is not None:
        dims.append(_random(sweep.random))
    dims.append(_seeds(sweep.seeds, sweep.seeded, seed))
    _check_names(dims)
    return tuple(dims)


def _zipped(table: dict[str, Any]) -> Dim:
    if not isinstance(table, dict):
        raise ValueError(f"a zip must be a table of axes, but got {_check.given(table)}.")
    axes = tuple(read_axis(key, spec) for key, spec in table.items() if key != "name")
    if not axes:
        raise ValueError("a zip needs axes: dotted keys with lists of values of one length.")
    lengths = {axis.key: len(axis.values) for axis in axes}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ValueError(f"axes of a zip vary together and need equally many values, but {shown}.")
    return Dim(str(table.get("name", "zip")), axes, "zip")


def _random(table: dict[str, Any]) -> Dim:
    """Points of a Latin hypercube or a scrambled Sobol sequence, the same for the same seed."""
    from scipy.stats import qmc

    options = {key: value for key, value in table.items() if "." not in key}
    for name in options:
        if name not in ("name", "design", "count", "seed"):
            raise ValueError(f"[sweep.random]: unknown key {name!r}; known: name, design, count, seed and dotted keys.")
    design = options.get("design", "sobol")
    _check.choice("[sweep.random] design", design, ("sobol", "latin_hypercube"))
    count = _check.whole("[sweep.random] count", options.get("count"), 1)
    seed = _check.seed("[sweep.random] seed", options.get("seed", 0))
    spans = {key: spec for key, spec in table.items() if "." in key}
    if not spans:
        raise ValueError("[sweep.random] needs axes: dotted keys with {from, to}.")
    rng = np.random.default_rng(seed)
    if design == "sobol":
        if count & (count - 1):
            raise ValueError(f"a Sobol design needs a power of 2 of points; give count = {1 << count.bit_length()}.")
        shares = qmc.Sobol(len(spans), rng=rng).random_base2(count.bit_length() - 1)
    else:
        shares = qmc.LatinHypercube(len(spans), rng=rng).random(count)
    axes = []
    for column, (key, spec) in zip(shares.T, spans.items(), strict=True):
        span = read_axis(key, spec, random=True)
        if not span.numeric or span.labels is not None:
            raise ValueError(
                f"axis {key!r}: a random design draws numbers; put values that are not numbers into a grid or a zip."
            )
        if isinstance(spec, dict) and "count" in spec:
            raise ValueError(f"axis {key!r}: count belongs to [sweep.random] as a whole.")
        if isinstance(spec, dict) and "from" in spec:
            values = tuple(_spaced(span.values[0], span.values[1], column, _spacing(key, spec)))
        else:
            values = tuple(span.values[int(share * len(span.values))] for share in column)
        axes.append(dataclasses.replace(span, values=values))
    return Dim(str(options.get("name", "point")), tuple(axes), "random")


def _seeds(given: int | list | None, keys: list | None, default: int) -> Dim:
    """Seeds 0 ... n-1, or those listed, at every key that takes the seed."""
    if given is None:
        given = [default]
    if isinstance(given, int):
        given = list(range(_check.whole("seeds", given, 1)))
    values = tuple(_check.seed("a seed", seed) for seed in given)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"seeds must be different numbers from 0 to {_check.MAX_SEED}, but got {given!r:.80}.")
    axes = []
    for key in ["state.seed"] if keys is None else keys:
        if not isinstance(key, str) or key.rpartition(".")[2] != "seed":
            raise ValueError(f"seeded lists keys that end in '.seed', such as 'labels.noise.seed', but holds {key!r}.")
        axes.append(Axis(key, values, "seed", "seed"))
    if not axes:
        raise ValueError("seeded must name at least one key, such as 'state.seed'.")
    return Dim("seed", tuple(axes), "seed")


def _check_names(dims: list[Dim]) -> None:
    keys = [axis.key for dim in dims for axis in dim.axes]
    for key in (axis.key for dim in dims[:-1] for axis in dim.axes):
        if key.rpartition(".")[2] == "seed":
            raise ValueError(f"{key!r} is a seed, not an axis; list it in `seeded` and give `seeds`.")
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} varies along two axes; drop one of them.")
    names = [*_names(dims), "time"]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two axes are called {name!r}; give one of them another `name`.")


def _names(dims: Iterable[Dim]) -> list[str]:
    """Every name a coordinate or dimension takes."""
    names = []
    for dim in dims:
        # An axis of a zip may have the name of the zip; it is then the coordinate of that dimension.
        own = [] if dim.kind in ("grid", "seed") else [axis.name for axis in dim.axes]
        names += own if dim.name in own else [dim.name, *own]
    return names
