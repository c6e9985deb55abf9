"""Kill a training run again and again, resume it, and compare its parameters with those of an undisturbed one.

python tests/scripts/training_kills.py [--kills N]

Also trains on four devices and compares with one. Needs the train extra; takes some minutes, so that it is a script and
no test; `.ci/full` runs it.
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

import equinox as eqx
import jax
import numpy as np

from unhinged_jax.training.checkpoints import Checkpoints, identity_of
from unhinged_jax.training.loop import Trainer
from unhinged_jax.training.prepare import dataset
from unhinged_jax.training.settings import Settings

CONFIG = """
[data]
name = "digits"
[network]
width = 64
features = 16
[train]
epochs = 60
batch = 32
seeds = 2
shift = 1
"""


def command(config: Path, out: Path, *more: str, devices: int = 1) -> tuple[list[str], dict[str, str]]:
    """`unhinged train` as a process, and its environment."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return [
        sys.executable, "-m", "unhinged_jax.cli", "train", str(config), "--out", str(out), *more
    ], {**os.environ, "XLA_FLAGS": flags}  # fmt: skip


def run(config: Path, out: Path, *more: str, devices: int = 1) -> None:
    """One undisturbed command."""
    argv, env = command(config, out, *more, devices=devices)
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)


def parameters(config: Path, out: Path) -> tuple[int, list[np.ndarray]]:
    """Epochs and every array of the latest checkpoint."""
    settings = Settings.read(config)
    data = dataset(settings)
    with Checkpoints(out / "checkpoints", identity_of(settings, data)) as kept:
        done = kept.restore(Trainer(settings, data), settings)
    return done.epochs, [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(done.learners, eqx.is_array))]


def killed(config: Path, out: Path, kills: int) -> int:
    """Run to the end through kills at random moments after the first checkpoint; how many struck."""
    struck, draw = 0, random.Random(0)
    while struck < kills:
        argv, env = command(config, out, *(["--resume"] if (out / "checkpoints").is_dir() else []))
        process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = epochs_of(out)
        while process.poll() is None and epochs_of(out) <= before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        struck += 1
    run(config, out, "--resume")
    return struck


def epochs_of(out: Path) -> int:
    """The latest complete checkpoint, 0 if there is none."""
    folder = out / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def compare(name: str, whole: tuple[int, list], other: tuple[int, list], most: float) -> None:
    """Say how far two runs are apart, and exit if that is too far."""
    worst = max(float(np.max(np.abs(a.astype(float) - b))) for a, b in zip(whole[1], other[1], strict=True))
    print(f"{name}: {other[0]} of {whole[0]} epochs, largest difference of a parameter {worst:.2g}")
    if whole[0] != other[0] or worst > most:
        sys.exit(f"{name}: the parameters differ")


def main() -> None:
    """Compare, and exit with status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = folder / "train.toml"
        config.write_text(CONFIG)
        run(config, folder / "whole")
        struck = killed(config, folder / "killed", kills)
        print(f"killed {struck} times")
        compare("killed", parameters(config, folder / "whole"), parameters(config, folder / "killed"), 0.0)
        # Sums over four parts of a batch round otherwise than one sum does.
        double = folder / "double.toml"
        double.write_text(CONFIG.replace("epochs = 60", 'epochs = 2\nprecision = "float64"'))
        run(double, folder / "one")
        run(double, folder / "four", devices=4)
        compare("four devices", parameters(double, folder / "one"), parameters(double, folder / "four"), 1e-9)
        if struck < kills:
            sys.exit(f"the run ended before {kills} kills struck")


if __name__ == "__main__":
    main()
