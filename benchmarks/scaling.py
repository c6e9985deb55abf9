"""Cost against batch, n, C, p and devices, everything else fixed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import unhinged_jax as uj
from benchmarks import ours, processes
from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.load import SystemMeter
from benchmarks.record import Series
from benchmarks.timing import Limits, alternate, quartiles, timed

SOLVERS = {"unhinged_jax simulate": uj.simulate, "unhinged_jax exact": uj.exact}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One size that varies.

    Attributes:
        name: Of the axis.
        what: Who does what.
        unit: Of the cost.
        values: Along the axis.
        build: Value -> what is timed.
        units: Value -> how many units one call does.
    """

    name: str
    what: str
    unit: str
    values: tuple[int, ...]
    build: Callable[[int], Run]
    units: Callable[[int], float] = lambda value: 1.0


def _batch(batch: int) -> Case:
    return Case(
        "scaling", "", "float32", classes=10, per_class=10, dim=64, gamma=(1 / 9,), seeds=batch, steps=500, every=25
    )


def _descent(classes: int = 100, per_class: int = 10, dim: int = 512, **changes: Any) -> Case:
    return Case("scaling", "", "float32", classes=classes, per_class=per_class, dim=dim, steps=2000, every=200).replace(
        **changes
    )


def _with_samples(samples: int) -> Case:
    return _descent(per_class=samples // 100)


def _entropy(samples: int) -> Case:
    return _descent(per_class=samples // 100, loss="cross_entropy", steps=20, every=10)


def axes(quick: bool) -> list[Axis]:
    """Every axis but the number of devices."""
    if quick:
        return [Axis("batch", "unhinged_jax simulate", "seconds a run", (1, 4), _mapped(uj.simulate), float)]
    found = []
    for name, solve in SOLVERS.items():
        found += [
            Axis("batch", name, "seconds a run", (1, 4, 16, 64, 256, 1024), _mapped(solve), float),
            Axis("n", name, "seconds", (1000, 10_000, 30_000, 100_000), _sized(solve, _with_samples)),
        ]
    simulated = "unhinged_jax simulate"
    return [
        *found,
        Axis("n", f"{simulated}, cross-entropy", "seconds", (1000, 10_000, 100_000), _sized(uj.simulate, _entropy)),
        Axis("C", simulated, "seconds", (10, 30, 100, 300), _sized(uj.simulate, lambda C: _descent(classes=C))),
        Axis("p", simulated, "seconds", (64, 256, 1024, 4096), _sized(uj.simulate, lambda p: _descent(dim=p))),
    ]


def _mapped(solve: Callable[..., uj.Trajectory]) -> Callable[[int], Run]:
    return lambda batch: ours.sweep(solve)(_batch(batch))


def _sized(solve: Callable[..., uj.Trajectory], case: Callable[[int], Case]) -> Callable[[int], Run]:
    return lambda value: ours.one(solve)(case(value))


def measure_axis(axis: Axis, limits: Limits) -> Series:
    """Time every value of an axis in alternating rounds."""
    jax.clear_caches()
    runs = {value: axis.build(value) for value in axis.values}
    for run in runs.values():
        timed(run)  # compiles
    rounds = alternate({str(value): run for value, run in runs.items()}, limits, SystemMeter())
    times = [quartiles(rounds.samples[str(value)]) for value in axis.values]
    units = [axis.units(value) for value in axis.values]
    costs = [time.median / unit for time, unit in zip(times, units, strict=True)]
    return Series(
        axis=axis.name,
        what=axis.what,
        unit=axis.unit,
        values=list(axis.values),
        costs=costs,
        lower=[time.lower / unit for time, unit in zip(times, units, strict=True)],
        upper=[time.upper / unit for time, unit in zip(times, units, strict=True)],
        slope=slope(axis.values, costs),
        quiet=rounds.quiet,
    )


def slope(values: Sequence[float], costs: Sequence[float]) -> float | None:
    """Least-squares slope of log cost against log value; None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def measure(quick: bool, say: Callable[[str], None]) -> list[Series]:
    """Every axis."""
    limits = Limits(least=2, most=3, seconds=1.0, sample=0.02) if quick else Limits(seconds=12.0)
    found = []
    for axis in axes(quick):
        say(f"scaling with {axis.name}: {axis.what}")
        found.append(measure_axis(axis, limits))
    if quick:
        return found
    say("scaling with devices")
    devices = _devices((1, 2, 4, 8))
    return [*found, devices] if devices else found


def _devices(counts: tuple[int, ...]) -> Series | None:
    """A batch spread over devices: those there are, or parts of the processor, each count in a process of its own."""
    cpu = jax.default_backend() == "cpu"
    done: dict[int, list[float]] = {}
    for count in counts:
        if not cpu and count > jax.device_count():
            continue
        flags = os.environ.get("XLA_FLAGS", "")
        variables = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"} if cpu else {}
        text = processes.python(["-m", "benchmarks", "devices", str(count)], variables)
        if text:
            done[count] = json.loads(text)["seconds"]
    if not done:
        return None
    times = {count: quartiles(samples) for count, samples in done.items()}
    costs = [time.median for time in times.values()]
    return Series(
        axis="devices",
        what="unhinged_jax simulate, 64 runs" + (", parts of one processor" if cpu else ""),
        unit="seconds",
        values=list(times),
        costs=costs,
        lower=[time.lower for time in times.values()],
        upper=[time.upper for time in times.values()],
        slope=slope(list(times), costs),
    )


def devices_probe(count: int) -> int:
    """Run a batch of 64 over `count` devices through `shard_map`, and print its times."""
    from jax.sharding import Mesh, PartitionSpec

    function, arguments = ours.sweep_program(_batch(64), uj.simulate)
    mesh = Mesh(np.array(jax.devices()[:count]), ("seed",))
    seeds = PartitionSpec("seed")
    call = jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=(seeds, PartitionSpec()), out_specs=seeds, check_vma=False)
    )
    timed(lambda: call(*arguments))
    seconds = [timed(lambda: call(*arguments), 2)[0] for _ in range(5)]
    print(json.dumps({"seconds": seconds}))
    return 0
