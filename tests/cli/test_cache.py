"""Commands keep what they compile: the next one compiles nothing, and gives the same numbers to the last bit."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from unhinged_jax.cli import main

CONFIG = """
[model]
case = "regularized"
dim = 3
decay = 0.1
[labels]
layout = "balanced"
classes = 3
per_class = 2
[dynamics]
kind = "flow"
[run]
times = [1.0, 2.0]
observe = ["log_norm", "loss"]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


LIGHT = """
import gc, sys
from unhinged_jax.cli import main
from unhinged_jax.cli.cache import keep_programs
usual = gc.get_threshold()
keep_programs(sys.argv[1:])
import jax
loaded, traced = [], []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **said: event.endswith("backend_compile_duration") and loaded.append(said["fun_name"])
)
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **said: event.endswith("jaxpr_trace_duration") and traced.append(said["fun_name"])
)
status = main(sys.argv[1:])
heavy = {"pandas", "xarray", "dask", "distributed", "zarr", "sklearn", "matplotlib.pyplot", "unhinged_jax.sweeps"}
assert not heavy & {*sys.modules}, heavy & {*sys.modules}
searches = [generation["collections"] for generation in gc.get_stats()]
assert searches[0] < 400 and gc.get_threshold() == usual, (searches, gc.get_threshold())
assert len(loaded) <= 18, loaded  # a run in pieces has three: its beginning, a piece, its end
assert "diffeqsolve" not in traced, traced
sys.exit(status)
"""
"""Runs a command; fails if it imported what it does not need, if Python searched for garbage all the time, if it traced
a large program, or if it loaded more programs: an operation outside of the large ones is a program of its own, and
takes 10 ms to load."""


def command(config, name, start=("-m", "unhinged_jax.cli"), **environment):
    """Numbers of a run in a process of its own, and what it wrote to standard error."""
    out = config.parent / name
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_COMPILATION", "UNHINGED_"))}
    done = subprocess.run(
        [sys.executable, *start, "simulate", str(config), "--out", str(out)],
        env={**unset, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (out / "observables.csv").read_bytes(), done.stderr


def numbers(table):
    return [[float(cell) for cell in row.split(",") if cell[:1].isdigit()] for row in table.decode().splitlines()[1:]]


def programs(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*-cache")}


def test_the_second_command_compiles_nothing_and_imports_little(config, tmp_path):
    cache = tmp_path / "cache"
    first, _ = command(config, "first", UNHINGED_CACHE=str(cache))
    kept = programs(cache)
    assert any("_integrate" in name for name in kept)
    second, said = command(config, "second", ("-c", LIGHT), UNHINGED_CACHE=str(cache))
    assert second == first and said == "" and programs(cache) == kept
    config.write_text(CONFIG.replace("decay = 0.1", "decay = 0.2"))  # other numbers, the same programs
    other, _ = command(config, "other", ("-c", LIGHT), UNHINGED_CACHE=str(cache))
    assert programs(cache) == kept
    plain, _ = command(config, "plain", UNHINGED_CACHE="off")
    for ours, theirs in zip(numbers(other), numbers(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert numbers(other) != numbers(first)


@pytest.mark.long
def test_a_damaged_program_is_compiled_again(config, tmp_path):
    cache = tmp_path / "cache"
    first, _ = command(config, "first", UNHINGED_CACHE=str(cache))
    for path in (*cache.rglob("*-cache"), *cache.rglob("whole/*")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert command(config, "second", UNHINGED_CACHE=str(cache))[0] == first


@pytest.mark.long
def test_no_cache(config, tmp_path):
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    quiet, _ = command(config, "off", UNHINGED_CACHE="off", **home)
    assert not programs(tmp_path)
    (tmp_path / "file").touch()
    nowhere, said = command(config, "nowhere", UNHINGED_CACHE=str(tmp_path / "file" / "folder"))
    assert nowhere == quiet and said == ""
    theirs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    own, _ = command(config, "own", **theirs, **home)
    assert own == quiet and programs(tmp_path / "own") and not programs(tmp_path / "home")


def test_an_error_of_ones_own_is_raised(config, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import equinox as eqx\nimport jax.numpy as jnp\n"
        "def loss(logits, targets):\n"
        "    value = jnp.sum((logits - targets) ** 2, axis=-1)\n"
        "    return eqx.error_if(value, jnp.any(value >= 0), 'never mind')\n"
    )
    config.write_text(CONFIG.replace("decay = 0.1", 'decay = 0.1\nloss = "mine:loss"'))
    run = subprocess.run(
        [sys.executable, "-m", "unhinged_jax.cli", "simulate", str(config), "--out", str(tmp_path / "out")],
        env={**os.environ, "UNHINGED_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0 and "never mind" in run.stderr
    assert any("init" in name or "normal" in name for name in programs(tmp_path / "cache"))


def test_python_is_left_alone(config, tmp_path, monkeypatch):
    monkeypatch.setenv("UNHINGED_CACHE", str(tmp_path / "cache"))
    before, errors = jax.config.jax_compilation_cache_dir, os.environ.get("EQX_ON_ERROR")
    assert main(["simulate", str(config), "--out", str(tmp_path / "out")]) == 0
    assert jax.config.jax_compilation_cache_dir == before and os.environ.get("EQX_ON_ERROR") == errors
    assert not programs(tmp_path / "cache")
