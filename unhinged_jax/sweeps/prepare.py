"""Open the store of a plan, or make it. Existing results are kept, and another plan is refused."""

from __future__ import annotations

import datetime
import json
import math
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unhinged_jax import _memory
from unhinged_jax._files import whole
from unhinged_jax.runs.files import versions
from unhinged_jax.runs.identity import flat, unrecorded
from unhinged_jax.sweeps.arrays import plain_name
from unhinged_jax.sweeps.design import Dim
from unhinged_jax.sweeps.extension import copy, exchange, in_use, only_axes, recover
from unhinged_jax.sweeps.function_plan import FunctionPlan
from unhinged_jax.sweeps.lanes import Plan, grouping_of, in_order
from unhinged_jax.sweeps.layout import Layout, layout_of
from unhinged_jax.sweeps.seal import ROOT, SEAL
from unhinged_jax.sweeps.store import Store

LANES = {"cpu": 128}
"""Largest number of points in a block; beyond it a CPU's caches overflow and the cost per point rises again."""
_MANY_LANES = 16384
_VERSION, _FUNCTION = "plan.options.version", "plan.function."
MAY_CHANGE = ("dynamics.max_steps", "sweep.title")
"""Keys of a plan that may differ for an existing store, because no finished point would end differently."""


def open_store(
    plan: Plan, path: Path, *, lanes: int | None = None, memory: int | None = None, extend: bool = False
) -> Store:
    """The store of a plan at a path, which is made if there is none.

    Args:
        lanes: Largest number of points in a block, for a new store.
        memory: Bytes that a device may use for a block, for a new store; default a quarter of its memory.
        extend: Let a store grow whose axes have fewer values than those of the plan.

    A lost or altered coordinate or array description is written again if the plan determines it.

    Raises:
        ValueError: if the store belongs to another plan; the message shows the difference.
        Damaged: if something is lost that the plan does not determine.
    """
    recover(path)
    if (path / ROOT).exists() or (path / "execution").is_dir():
        store = Store(path, check=False)
        if extend and (fatal := differences(store, plan)[1]) and only_axes(fatal):
            store = _extended(path, plan)
        refuse_other(store, plan)
        if store.broken:
            store = _mended(store, plan)
    else:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} holds other files; choose a folder that is empty or does not exist yet.")
        store = _create(plan, path, lanes, memory)
        refuse_other(store, plan)  # jobs that start together race to make it
    store.source = plan if isinstance(plan, FunctionPlan) else str(plan.config.path.absolute())
    return store


def _extended(path: Path, plan: Plan) -> Store:
    """The store of a plan with more points, in the place of one with fewer, whose finished blocks are kept."""
    path = path.resolve()
    with (
        in_use(path, alone=True),
        tempfile.TemporaryDirectory(prefix=f".unfinished-{path.name}-", dir=path.parent) as place,
    ):
        store = Store(path)  # as it is now that nobody else extends it
        layout = Layout(tuple(dim.size for dim in plan.dims), store.layout.block)
        new = _create(plan, Path(place) / "new", None, store.facts["memory"], layout)
        copy(store, new)
        exchange(path, new.path)
    return Store(path)


def _mended(store: Store, plan: Plan) -> Store:
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


Differences = dict[str, tuple[Any, Any]]
"""Key of an identity -> what it was when the store was made, and what it is now."""


def differences(store: Store, plan: Plan) -> tuple[dict[str, Any], Differences]:
    """The identity that a store of this plan would have, and where that of the store differs, except in what may
    change."""
    inputs = grouping_of(plan).inputs if store.identity["inputs"] else {}  # which opens files, if there are any
    now = json.loads(json.dumps(identity_of(plan, inputs)))
    old, new = flat(store.identity), flat(now)
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key) and not unrecorded(key, old)]
    if isinstance(plan, FunctionPlan) and plan.version is not None and old.get(_VERSION) in (None, plan.version):
        differ = [key for key in differ if key != _VERSION and not key.startswith(_FUNCTION)]
    return now, {key: (old.get(key), new.get(key)) for key in differ if key.removeprefix("plan.") not in MAY_CHANGE}


def refuse_other(store: Store, plan: Plan, change: bool = True) -> None:
    """Raise ValueError if a store belongs to another plan; take over what may change, unless `change` is False."""
    now, fatal = differences(store, plan)
    if fatal:
        told = [_told(key.removeprefix("plan."), *pair) for key, pair in fatal.items()]
        shown = "; ".join(told[:5]) + (f" and {len(told) - 5} more" if len(told) > 5 else "")
        ways = "Choose another --store, or restore the plan"
        if isinstance(plan, FunctionPlan):
            ways = "Choose another store, or restore what differs"
        if only_axes(fatal) and _adds(store, plan):
            ways += ", or add points to this one with --extend (in Python extend=True)"
        elif all(key.startswith(_FUNCTION) for key in fatal):
            ways = "Choose another store, restore the function, or give a `version` if it computes the same"
        raise ValueError(f"{store.path} holds another sweep: {shown}. {ways}.")
    if change and flat(store.identity) != flat(now):
        store.change_plan(now)


def _adds(store: Store, plan: Plan) -> bool:
    """Whether the plan has every value of the axes of the store."""
    there = {dim.name: {str(value) for value in dim.axes[0].coordinate().tolist()} for dim in plan.dims}
    held = {name: {str(value) for value in store.coordinate(name).tolist()} for name in store.coordinates()}
    return all(held.get(name, set()) <= there.get(name, set()) for name in store.dims)


def _told(key: str, before: object, now: object) -> str:
    """How one key differs; a digest, which nobody can read, as what it stands for."""
    if all(isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) for value in (before, now)):
        return f"the source or the value of {key.removeprefix('function.')} has changed"
    return f"{key} was {_short(before)}, now {_short(now)}"


def _short(value: object) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}"


def identity_of(plan: Plan, inputs: dict[str, str]) -> dict[str, Any]:
    """What two commands must share to fill one store: the plan, and the digests of the files that it reads."""
    return {"plan": plan.tables(), "inputs": inputs}


def _create(plan: Plan, path: Path, lanes: int | None, memory: int | None, layout: Layout | None = None) -> Store:
    grouping = grouping_of(plan)
    platform = jax.default_backend()
    memory = memory or default_memory()
    plan, order = in_order(plan, grouping)
    fits = max(1, memory // max(1, *(group.bytes for group in grouping.groups)))
    most = lanes or LANES.get(platform, _MANY_LANES)
    layout = layout or layout_of([dim.size for dim in plan.dims], grouping.separate, min(fits, most), order)
    # The machine must hold the least that a block needs.
    points = math.prod(layout.block)
    _memory.refuse(points * max(group.least for group in grouping.groups), f"a block of {points} points")
    outputs = grouping.outputs
    coordinates = {name: entry for dim in plan.dims for name, entry in _coordinates(dim).items()}
    ours = ("result", "elapsed", "steps", "execution")
    for name in (name for name in outputs if name in ours):
        raise ValueError(f"an observable is called {name!r}, like a result of the sweep; rename its function.")
    for name in (*coordinates, *(dim.name for dim in plan.dims)):
        if name in (*outputs, *ours):
            raise ValueError(f"an axis is called {name!r}, like a result of the sweep; give it another `name`.")
    for name in (*coordinates, *(dim.name for dim in plan.dims), *outputs):
        plain_name(name)
    own = grouping.groups[0].coordinates
    unit = "updates" if "time" in own and np.issubdtype(own["time"].dtype, np.integer) else "time"
    for name, values in own.items():
        described = {"long_name": "number of updates" if unit == "updates" else "time", "units": unit}
        coordinates[name] = (name, values, described if name == "time" else {"long_name": name})
    facts = {
        "name": plan.title if isinstance(plan, FunctionPlan) else plan.config.path.name,
        "memory": memory,
        "traced": grouping.traced,
        "separate": [dim.name for dim, alone in zip(plan.dims, grouping.separate, strict=True) if alone],
        "groups": [group.places for group in grouping.groups],
        "adaptive": [group.adaptive for group in grouping.groups],
        "which": list(grouping.which.values()),
        "arrays": {name: array for group in grouping.groups for name, array in group.arrays.items()},
    }
    return Store.create(
        path,
        layout=layout,
        dims=tuple(dim.name for dim in plan.dims),
        outputs=outputs,
        unit=unit,
        precision=plan.precision,
        coordinates=coordinates,
        identity=identity_of(plan, grouping.inputs),
        facts=facts,
        attrs={"title": plan.title, "method": plan.method, **provenance()},
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
