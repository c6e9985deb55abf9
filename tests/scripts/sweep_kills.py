"""Kill a sweep at random moments and let it resume; a test runs a short form.

    python tests/scripts/sweep_kills.py --kills 20

Everything a block left behind is looked at after each kill: what was committed must stay as it is, byte for byte and
second for second, and the finished store must equal one that was never interrupted.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import unhinged_jax as uj

PLAN = """
[model]
case = "unconstrained"
dim = 3

[labels]
layout = "balanced"
classes = 3
per_class = 2

[dynamics]
kind = "descent"
schedule = 0.1

[run]
times = [0, 10, 100]
observe = ["norm"]

[sweep]
seeds = {seeds}

[sweep.grid]
"model.gamma" = {{from = 0.0, to = 1.0, count = {count}}}
"""


def start(plan, store, workers=2):
    """The command in a session of its own, so that a signal reaches it and its workers."""
    command = [sys.executable, "-m", "unhinged_jax.cli", "sweep", str(plan), "--store", str(store)]
    return subprocess.Popen(
        [*command, "--workers", str(workers), "--lanes", "8"],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def committed(store):
    """Files of committed blocks -> time of their last change; blocks are named like their entries in `committed`."""
    found = {}
    for entry in (store / "execution" / "committed" / "c").rglob("*"):
        if entry.is_file() and not entry.name.endswith(".partial") and ".tmp" not in entry.name:
            found[entry] = entry.stat().st_mtime_ns
    return found


def run(folder, kills, blocks, rng):
    """Sweep with `kills` kills; returns how many struck, and how many blocks were there after each command."""
    plan, store = folder / "plan.toml", folder / "killed.zarr"
    plan.write_text(PLAN.format(seeds=8, count=blocks))
    seen, struck, there = {}, 0, []
    while True:
        process = start(plan, store)
        while struck < kills and wait(process, store, rng, blocks, kills - struck):
            struck += 1
            if strike(process, whole=struck % 3 == 2 or struck == kills):
                break
        try:
            _, told = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        now = committed(store)
        changed = [str(path) for path, when in seen.items() if now.get(path) != when]
        assert not changed, f"committed again: {changed}"
        seen = now
        there.append(len(seen))
        if process.returncode == 0:
            return struck, there
        assert process.returncode == -signal.SIGKILL, told


def wait(process, store, rng, blocks, left):
    """Wait for a random moment: mostly after some more blocks, now and then while everything still starts."""
    begun = len(committed(store))
    if rng.random() < 0.2:
        end = time.monotonic() + rng.uniform(0.0, 8.0)
        while process.poll() is None and time.monotonic() < end and len(committed(store)) == begun:
            time.sleep(0.01)
        return process.poll() is None
    goal = begun + rng.uniform(0.2, 0.7) * (blocks - begun) / (left + 1)
    while process.poll() is None and len(committed(store)) < goal:
        time.sleep(rng.uniform(0.0, 0.02))
    return process.poll() is None


def strike(process, whole):
    """SIGKILL to the command and its workers, or to one worker alone, which the command must survive."""
    workers = []
    if not whole:
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
        workers = [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]
    if workers:
        os.kill(workers[0], signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    return not workers


def check(folder, kills, blocks, seed=0):
    """Assert that a killed sweep ends like one that was left alone."""
    struck, there = run(folder, kills, blocks, random.Random(seed))
    whole = uj.sweep(folder / "plan.toml", folder / "whole.zarr", workers=0, lanes=8, progress=False)
    first, second = uj.open_sweep(folder / "killed.zarr").load(), whole.load()
    assert not np.any(first["result"].values < 0)
    for name in first.variables:
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=str(name))
    return struck, there


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        struck, there = check(Path(place), asked.kills, asked.blocks, asked.seed)
    print(f"{struck} kills; blocks committed after each command: {there}; the result is bitwise that of a quiet run")
    sys.exit(struck < asked.kills)
