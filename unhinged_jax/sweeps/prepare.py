"""Open the store of a plan, or make it. Existing results are kept, and another plan is refused."""

from __future__ import annotations

import datetime
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unhinged_jax import _memory
from unhinged_jax import config as _config
from unhinged_jax._files import whole
from unhinged_jax.runs.files import versions
from unhinged_jax.runs.identity import flat, unrecorded
from unhinged_jax.sweeps.design import Dim
from unhinged_jax.sweeps.groups import Grouping, grouping_of
from unhinged_jax.sweeps.layout import Layout, layout_of
from unhinged_jax.sweeps.plan import SweepPlan
from unhinged_jax.sweeps.seal import ROOT, SEAL
from unhinged_jax.sweeps.stiffness import by_stiffness
from unhinged_jax.sweeps.store import Store, plain_name

LANES = {"cpu": 128}
"""Largest number of points in a block; beyond it a CPU's caches overflow and the cost per point rises again."""
_MANY_LANES = 16384
_HELD = 20_000
MAY_CHANGE = ("dynamics.max_steps", "sweep.title")
"""Keys of a plan that may differ for an existing store, because no finished point would end differently."""


def open_store(plan: SweepPlan, path: Path, *, lanes: int | None = None, memory: int | None = None) -> Store:
    """The store of a plan at a path, which is made if there is none.

    Args:
        lanes: Largest number of points in a block, for a new store.
        memory: Bytes that a device may use for a block, for a new store; default a quarter of its memory.

    A lost or altered coordinate or array description is written again if the plan determines it.

    Raises:
        ValueError: if the store belongs to another plan; the message shows the difference.
        Damaged: if something is lost that the plan does not determine.
    """
    if (path / ROOT).exists() or (path / "execution").is_dir():
        store = Store(path, check=False)
        refuse_other(store, plan)
        if store.broken:
            store = _mended(store, plan)
    else:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} holds other files; choose a folder that is empty or does not exist yet.")
        store = _create(plan, path, lanes, memory)
        refuse_other(store, plan)  # jobs that start together race to make it
    store.source = plan.config.path.absolute()
    return store


def _mended(store: Store, plan: SweepPlan) -> Store:
    """A store whose broken files are replaced by those of a new store of the same plan and blocks, if the seal confirms
    them."""
    beside = store.path.resolve()
    with tempfile.TemporaryDirectory(prefix=f".unfinished-{beside.name}-", dir=beside.parent) as place:
        new = _create(plan, Path(place) / "new", None, store.facts["memory"], store.layout)
        same = json.loads(str(store.group.attrs[SEAL]))["files"]
        made = json.loads(str(new.group.attrs[SEAL]))["files"]
        for name in store.broken:
            if made.get(name) == same[name]:
                (store.path / name).parent.mkdir(parents=True, exist_ok=True)
                with whole(store.path / name) as part:
                    shutil.copyfile(new.path / name, part)
    whole_again = Store(store.path)
    whole_again.mended = tuple(store.broken)
    return whole_again


def refuse_other(store: Store, plan: SweepPlan, change: bool = True) -> None:
    """Raise ValueError if a store belongs to another plan; take over what may change, unless `change` is False."""
    before, now = store.identity, _identity(plan, _inputs(grouping_of(plan)) if store.identity["inputs"] else {})
    old, new = flat(before), flat(now)
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key) and not unrecorded(key, old)]
    fatal = [key for key in differ if key.removeprefix("plan.") not in MAY_CHANGE]
    if fatal:
        told = [f"{key.removeprefix('plan.')} was {_short(old.get(key))}, now {_short(new.get(key))}" for key in fatal]
        shown = "; ".join(told[:5]) + (f" and {len(fatal) - 5} more" if len(fatal) > 5 else "")
        raise ValueError(f"{store.path} holds another sweep: {shown}. Choose another --store, or restore the plan.")
    if differ and change:
        store.change_plan(now)


def _short(value: object) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}"


def _identity(plan: SweepPlan, inputs: dict[str, str]) -> dict[str, Any]:
    return {"plan": plan.tables(), "inputs": inputs}


def _inputs(grouping: Grouping) -> dict[str, str]:
    return {name: digest for group in grouping.groups for name, digest in group.inputs.items()}


def _arrays(plan: SweepPlan, grouping: Grouping) -> dict[str, Any]:
    """Numbers that labels read from files, by their name in the plan, so that pictures need not open the files."""
    found: dict[str, np.ndarray] = {}
    for group in grouping.groups if _inputs(grouping) else ():
        files = _config.Files(plan.config.path.parent)
        _config.build_labels(group.config.labels, files)
        found |= files.arrays
    return {name: array.tolist() for name, array in found.items() if array.size <= _HELD}


def _create(plan: SweepPlan, path: Path, lanes: int | None, memory: int | None, layout: Layout | None = None) -> Store:
    grouping = grouping_of(plan)
    platform = jax.default_backend()
    memory = memory or default_memory()
    plan, order = by_stiffness(plan, grouping)
    fits = max(1, memory // bytes_of_a_point(plan, grouping))
    most = lanes or LANES.get(platform, _MANY_LANES)
    layout = layout or layout_of([dim.size for dim in plan.dims], grouping.separate, min(fits, most), order)
    _refuse_large(plan, grouping, math.prod(layout.block))
    times = grouping.groups[0].times
    coordinates = {name: entry for dim in plan.dims for name, entry in _coordinates(dim).items()}
    for name in (*coordinates, *(dim.name for dim in plan.dims)):
        if name in (*grouping.observed, "result", "elapsed", "steps", "execution"):
            raise ValueError(f"an axis is called {name!r}, like a result of the sweep; give it another `name`.")
        plain_name(name)
    separate = [dim.name for dim, alone in zip(plan.dims, grouping.separate, strict=True) if alone]
    facts = {
        "name": plan.config.path.name,
        "times": len(times),
        "memory": memory,
        "traced": grouping.traced,
        "separate": separate,
        "groups": [group.places for group in grouping.groups],
        "which": list(grouping.which.values()),
        "arrays": _arrays(plan, grouping),
    }
    return Store.create(
        path,
        layout=layout,
        dims=tuple(dim.name for dim in plan.dims),
        observed=grouping.observed,
        times=times,
        precision=plan.config.run.precision,
        coordinates=coordinates,
        identity=_identity(plan, _inputs(grouping)),
        facts=facts,
        attrs={"title": plan.title, "method": plan.sweep.method, **provenance()},
    )


def _coordinates(dim: Dim) -> dict[str, tuple[str, np.ndarray, dict[str, Any]]]:
    if dim.kind in ("grid", "seed"):  # one value at every key
        axis, keys = dim.axes[0], " + ".join(axis.key for axis in dim.axes)
        return {dim.name: (dim.name, axis.coordinate(), {"long_name": axis.label, "key": keys})}
    return {axis.name: (dim.name, axis.coordinate(), {"long_name": axis.label, "key": axis.key}) for axis in dim.axes}


def default_memory() -> int:
    """A quarter of an accelerator's memory; 1 GiB on a CPU, where several workers share it."""
    known = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return int(known["bytes_limit"]) // 4 if known and "bytes_limit" in known else 2**30


def bytes_of_a_point(plan: SweepPlan, grouping: Grouping) -> int:
    """The memory of one lane, roughly; a block that needs more is halved.

    An exact run holds a few states and tables of logits, an adaptive solve its stages too.
    """
    width = np.dtype(plan.config.run.precision).itemsize
    copies = 6 if plan.sweep.method == "exact" else 24
    return max(
        width * (copies * rows * (dim + classes) + times * (observed + 64))
        for rows, dim, classes, times, observed in _sizes(grouping)
    )


def _refuse_large(plan: SweepPlan, grouping: Grouping, points: int) -> None:
    """Raise MemoryError if the machine cannot hold the least that a block of so many points needs: the first and the
    last state of each point, and its results."""
    width = np.dtype(plan.config.run.precision).itemsize
    point = max(width * (2 * rows * dim + times * observed) for rows, dim, _, times, observed in _sizes(grouping))
    _memory.refuse(points * point, f"a block of {points} points")


def _sizes(grouping: Grouping) -> Iterator[tuple[int, int, int, int, int]]:
    """For every group, the rows of H and W together, their length, the classes, the times and the observables."""
    for group in grouping.groups:
        labels, dim = group_labels(group.config), group.config.model.dim
        yield labels.samples + labels.classes, dim, labels.classes, len(group.times), len(group.observed)


def group_labels(config: _config.Config) -> Any:
    """Class layout of a configuration."""
    from unhinged_jax.config import build_stateless

    return build_stateless(config).model.labels


def provenance() -> dict[str, Any]:
    """Versions, commit and device, as attributes."""
    device = jax.local_devices()[0]
    return {
        "versions": json.dumps(versions()),
        "commit": commit() or "unknown",
        "device": f"{device.platform}: {device.device_kind} x {jax.local_device_count()}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """The commit of this package if it runs from a checkout of its own repository."""
    folder = Path(__file__).parents[2]
    if not (folder / "pyproject.toml").exists():
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def changed_versions(store: Store) -> list[str]:
    """Packages whose version is not the one that made the store, as "jax 0.9.2 -> 0.11.2"."""
    before = store.versions
    return [f"{name} {before.get(name)} -> {now}" for name, now in versions().items() if before.get(name) != now]
