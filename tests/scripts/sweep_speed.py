"""How fast sweeps are here. Not a test: what it prints depends on what else runs.

    python tests/scripts/sweep_speed.py

65,536 exact runs of p = 64, C = 10, N = 10 at 100 times with six observables; the cost of a run by the size of a block;
and two single-threaded processes against one, taken in turns. Compilation is left out of the two comparisons.

    python tests/scripts/sweep_speed.py --waiting

Adaptive solves over weight decay, all lanes of a block together and as decided: runs per second of the processor,
without compilation, and the share of steps spent waiting. Worker processes compute as with the environment variables
XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" NPROC=1 PJRT_NPROC=1.
"""

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

import unhinged_jax as uj
from unhinged_jax.sweeps import engine, program, work
from unhinged_jax.sweeps.lanes import grouping_of, lane_of
from unhinged_jax.sweeps.prepare import open_store
from unhinged_jax.sweeps.program import Programs
from unhinged_jax.sweeps.status import status_of


def plan(gammas, decays, seeds):
    """The runs of the target."""
    return uj.SweepPlan.of(
        {
            "model": {"case": "regularized", "dim": 64, "decay": 0.01},
            "labels": {"layout": "balanced", "classes": 10, "per_class": 10},
            "dynamics": {"kind": "flow", "schedule": 0.5},
            "run": {
                "until": 1000, "first": 1, "points": 100, "spacing": "log",
                "observe": ["loss", "accuracy", "accuracy_margin", "log_norm", "log_distance", "nc3_self_duality"],
            },
            "sweep": {
                "method": "exact",
                "seeds": seeds,
                "grid": {
                    "model.gamma": {"from": 0.01, "to": 0.4, "count": gammas},
                    "model.decay": {"from": 1e-3, "to": 1e-1, "count": decays},
                },
            },
        }
    )  # fmt: skip


def all_of_it(folder):
    """The whole sweep as a user runs it, everything included."""
    begun = time.perf_counter()
    uj.sweep(plan(64, 64, 16), folder / "all.zarr")
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"65,536 runs: {seconds:.0f} s, at most {peak / 2**20:.2f} GiB in a process and its largest child")


def by_block():
    """Milliseconds a run takes in one process, by the points of a block."""
    small = plan(4, 4, 8)
    keys = grouping_of(small).traced
    lane = lane_of(small, {}, keys, {}, None)
    for points, decays, seeds in ((1, 1, 1), (2, 2, 2), (2, 4, 8), (4, 4, 8), (8, 8, 16)):
        shape = (points, decays, seeds)
        programs = Programs(lane, keys)
        devices = len(programs.devices)
        values = (
            {"model.gamma": np.tile(np.linspace(0.01, 0.4, points, dtype="f4"), (devices, 1))},
            {"model.decay": np.tile(np.linspace(0.01, 0.1, decays, dtype="f4"), (devices, 1))},
            {"state.seed": np.tile(np.arange(seeds, dtype=np.int32), (devices, 1))},
        )
        programs(values, shape)
        best = min(timed(lambda p=programs, v=values, s=shape: p(v, s)) for _ in range(5))
        print(f"  {points * decays * seeds:5d} points a block: {1e3 * best / (points * decays * seeds):.2f} ms a run")


WIDE = (  # loss, classes, samples of each, dim, decays, seeds, duration
    ("cross_entropy", 4, 5, 8, 64, 8, 1000), ("cross_entropy", 4, 5, 8, 256, 1, 20_000),
    ("cross_entropy", 10, 10, 64, 64, 8, 1000), ("cross_entropy", 10, 10, 64, 256, 1, 20_000),
    ("cross_entropy", 30, 10, 128, 32, 1, 200), ("unhinged", 4, 5, 8, 64, 8, 1000),
    ("unhinged", 10, 10, 64, 64, 8, 1000),
)  # fmt: skip


def waiting(folder):
    """Adaptive solves over decays from 1e-4 to 1e-1, in the blocks of a sweep."""
    decided = program.width_of
    for place, (loss, classes, per_class, dim, decays, seeds, until) in enumerate(WIDE):
        given = uj.SweepPlan.of(
            {
                "model": {"case": "regularized", "dim": dim, "decay": 0.01, "loss": loss},
                "labels": {"layout": "balanced", "classes": classes, "per_class": per_class},
                "dynamics": {"kind": "flow", "max_steps": 100_000},
                "run": {
                    "until": until, "first": 0.1, "points": 20, "spacing": "log",
                    "observe": ["loss", "accuracy", "log_norm"],
                },
                "sweep": {
                    "seeds": seeds,
                    "grid": {"model.decay": {"from": 1e-4, "to": 1e-1, "count": decays, "spacing": "log"}},
                },
            }
        )  # fmt: skip
        print(f"  {loss}, C={classes}, p={dim}, {decays} decays x {seeds} seeds to t={until}:")
        for name, rule in (("all lanes", lambda *_: None), ("as decided", decided)):
            program.width_of = rule
            work._PROGRAMS.clear()
            took = []
            for turn in range(3):
                store = open_store(given, folder / f"{place}-{name}-{turn}.zarr")
                begun = time.process_time()
                work.run_blocks(str(store.path.resolve()), tuple(range(store.layout.blocks)))
                took.append(time.process_time() - begun)
            speed = store.layout.points / min(took[1:])  # the first turn compiles
            print(f"    {name:10s} {speed:8.1f} runs/s, {status_of(store).waste:4.0%} of steps waiting", flush=True)
    program.width_of = decided


def timed(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def processes(folder, rounds):
    """Points a second of one and of two single-threaded processes, in turns, warm."""
    speeds = {1: [], 2: []}
    pools = {}
    for count in (1, 2):
        pool = engine.processes(count, single_threaded=True)()
        pools[count] = lambda pool=pool: pool
    for turn, count in itertools.product(range(rounds + 1), (1, 2)):
        store = open_store(plan(16, 16, 16), folder / f"{turn}-{count}.zarr")
        seen = []
        engine.drive(
            pools[count], str(store.path), [(i,) for i in range(store.layout.blocks)], window=count + 1, owned=False,
            retry=False, told=lambda outcome, seen=seen: seen.append((time.perf_counter(), outcome.points)),
        )  # fmt: skip
        # Programs are compiled anew for a store: the clock starts once every process has given its first block.
        warm = seen[2 * count - 1 :]
        speeds[count].append(sum(points for _, points in warm[1:]) / (warm[-1][0] - warm[0][0]))
    one, two = (float(np.median(speeds[count][1:])) for count in (1, 2))
    print(f"one process {one:.0f} points/s, two {two:.0f}: {two / one:.2f} times")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waiting", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if asked.waiting:
            waiting(Path(place))
            raise SystemExit
        all_of_it(Path(place))
        by_block()
        processes(Path(place), asked.rounds)
