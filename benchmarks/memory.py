"""Peak memory of every contender, each in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from benchmarks import processes
from benchmarks.record import Cell, Result
from benchmarks.timing import timed


def probe(workload: str, size: str, precision: str, contender: str) -> int:
    """Run one contender once in this process and print {"base": ..., "peak": ...} in bytes."""
    from benchmarks.workloads import all_workloads

    found = all_workloads()[workload]
    chosen = next(one for one in found.contenders if one.name == contender)
    for name in chosen.needs:
        importlib.import_module(name)
    jax.devices()
    base = _peak()
    case, _ = chosen.part(found.case(size, precision))
    timed(chosen.build(case))
    print(json.dumps({"base": base, "peak": _peak()}))
    return 0


def _peak() -> int:
    """Most bytes held so far: by the accelerator if there is one, else resident."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which a Linux process inherits from the one that started it.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def measure(cells: list[Cell], say: Callable[[str], None]) -> list[Cell]:
    """The cells with the memory of everybody at the paper's size, in the widest precision measured."""
    wanted = []
    for name in dict.fromkeys(cell.workload for cell in cells):
        same = [cell for cell in cells if cell.workload == name and cell.size == "paper"]
        wanted += sorted(same, key=lambda cell: cell.precision, reverse=True)[:1]
    jobs = [(cell, result) for cell in wanted for result in cell.results]
    # Memory is no time, so processes may run side by side; an accelerator has one memory for all of them.
    workers = (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
    done = 0

    def one(job: tuple[Cell, Result]) -> tuple[tuple[str, str], dict[str, int]] | None:
        nonlocal done
        cell, result = job
        text = processes.python(
            ["-m", "benchmarks", "probe", cell.workload, cell.size, cell.precision, result.contender]
        )
        done += 1
        say(f"memory, {done} of {len(jobs)}")
        return ((cell.workload, result.contender), json.loads(text)) if text else None

    with ThreadPoolExecutor(workers) as pool:
        found = dict(filter(None, pool.map(one, jobs)))
    measured = {(cell.workload, cell.precision) for cell in wanted}

    def filled(cell: Cell, result: Result) -> Result:
        bytes_of = found.get((cell.workload, result.contender))
        if bytes_of is None:
            return result
        return dataclasses.replace(result, peak_memory=bytes_of["peak"], base_memory=bytes_of["base"])

    return [
        dataclasses.replace(cell, results=[filled(cell, result) for result in cell.results])
        if cell.size == "paper" and (cell.workload, cell.precision) in measured
        else cell
        for cell in cells
    ]
