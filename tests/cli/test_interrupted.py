"""Commands interrupted by real signals: what they say, how soon they end, with which status, and what is left."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas
import pytest
from scripts import sweep_kills

import unhinged_jax as uj
from unhinged_jax import _interrupt
from unhinged_jax.cli import main
from unhinged_jax.sweeps.status import status_of
from unhinged_jax.sweeps.store import Store

SLOW = sweep_kills.PLAN.replace("[0, 10, 100]", "[0, 10, 400000]")
"""Blocks of a second or so."""
SECONDS = 15.0
"""A command ends within ten, and Python within some more where cores are shared."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """A shell starts what is put behind (`pytest &`, `nohup`) deaf to some signals, and its children inherit that."""
    before = [signal.getsignal(one) for one in SIGNALS]
    for one, handler in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL), strict=True):
        signal.signal(one, handler)
    yield
    for one, handler in zip(SIGNALS, before, strict=True):
        signal.signal(one, handler)


def begin(*arguments, **options):
    """A command that says nothing of how far it is, which on a slow machine would be among its words."""
    command = [sys.executable, "-m", "unhinged_jax.cli", *map(str, arguments)]
    options |= {"start_new_session": True, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "UNHINGED_QUIET": "1"}, **options)


def sweeping(folder, workers, plan=SLOW, there=2):
    """A sweep that has committed so many blocks, and its store."""
    file, store = folder / "plan.toml", folder / "s.zarr"
    file.write_text(plan.format(seeds=8, count=60))
    process = begin("sweep", file, "--store", store, "--workers", workers, "--lanes", 8, stdout=subprocess.DEVNULL)
    until(lambda: store.exists() and len(sweep_kills.committed(store)) >= there, process)
    return process, store


def workers_of(process):
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def until(true, process, seconds=120.0):
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def ended(process, seconds=SECONDS):
    """What a process said, and how long it took to end."""
    begun = time.monotonic()
    try:
        told = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert "Traceback" not in told and "leaked" not in told and "Exception ignored" not in told, told
    assert not os.path.exists(f"/proc/{process.pid}")
    left = subprocess.run(["ps", "-o", "pid=,args=", "-s", str(process.pid)], capture_output=True, text=True).stdout
    assert "spawn_main" not in left, left
    return told, time.monotonic() - begun


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_what_is_held_is_finished_first_and_what_goes_wrong_then_is_no_news(monkeypatch, capfd, number, status):
    done = []

    def command(*_, **__):
        try:
            with _interrupt.left(lambda: "3 of 7 things are kept."), _interrupt.held():
                signal.raise_signal(getattr(signal, number))
                time.sleep(0.2)
                done.append("held")
            done.append("too far")
        finally:
            raise OSError("the terminal is gone")

    before = [signal.getsignal(one) for one in SIGNALS]
    monkeypatch.setattr("unhinged_jax.cli.app", command)
    assert main([]) == status and done == ["held"]
    word, last = capfd.readouterr().err.splitlines()
    assert "once more ends at once" in word and last == "unhinged: interrupted: 3 of 7 things are kept."
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert not _interrupt.struck()


@pytest.mark.parametrize("ignored", SIGNALS)
def test_a_signal_that_the_process_was_told_to_ignore_stays_ignored(monkeypatch, capfd, ignored):
    def command(*_, **__):
        signal.raise_signal(ignored)
        assert not _interrupt.struck() and signal.getsignal(ignored) is signal.SIG_IGN
        raise OSError("the disk is gone")

    signal.signal(ignored, signal.SIG_IGN)
    monkeypatch.setattr("unhinged_jax.cli.app", command)
    assert main([]) == 1 and capfd.readouterr().err == "unhinged: error: the disk is gone\n"
    assert signal.getsignal(ignored) is signal.SIG_IGN


@pytest.mark.long
@pytest.mark.parametrize(("workers", "number", "whole"), [
    (1, signal.SIGINT, True), (1, signal.SIGTERM, False), (2, signal.SIGINT, False), (2, signal.SIGHUP, True),
    (0, signal.SIGINT, True),
])  # fmt: skip
def test_a_sweep_says_a_word_ends_soon_and_counts_right(tmp_path, workers, number, whole):
    """`whole`: the signal goes to the workers, too, as that of a terminal does."""
    process, store = sweeping(tmp_path, workers)
    os.killpg(process.pid, number) if whole else process.send_signal(number)
    begun = time.monotonic()
    word = process.stderr.readline()
    assert time.monotonic() - begun < 1 and "once more ends at once" in word
    told, _ = ended(process)
    assert process.returncode == 128 + number, told
    count = int(re.search(r"interrupted: ([\d,]+) of 480 points are kept", told).group(1))
    assert told.count("\n") == 1 and "the same command continues" in told
    time.sleep(1)
    status = status_of(Store(store), verify=True)
    assert 0 < count == status.done < 480 and not status.damaged


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_signal_ends_at_once(tmp_path, workers):
    if workers:
        process, store = sweeping(tmp_path, workers)
    else:
        process, store = sweeping(tmp_path, workers, SLOW.replace("400000", "40000000"), there=0)  # blocks of minutes
        time.sleep(6)
    stopped = workers_of(process)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)  # what they have in hand takes for ever
    os.killpg(process.pid, signal.SIGINT)
    process.stderr.readline()
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    told, seconds = ended(process)
    assert process.returncode == 130 and seconds < 1.5 and told.strip() == ""
    assert not status_of(Store(store), verify=True).damaged


@pytest.mark.long
def test_a_closed_terminal_ends_a_sweep(tmp_path):
    """SIGHUP from the kernel, and nowhere left to write to."""
    (tmp_path / "plan.toml").write_text(SLOW.format(seeds=8, count=60))
    store = tmp_path / "s.zarr"
    pid, terminal = pty.fork()
    if pid == 0:
        command = ["sweep", tmp_path / "plan.toml", "--store", store, "--workers", 1, "--lanes", 8]
        os.execv(sys.executable, [sys.executable, "-m", "unhinged_jax.cli", *map(str, command)])
    shown, end = b"", time.monotonic() + 120
    while not (store.exists() and sweep_kills.committed(store)):
        assert time.monotonic() < end, shown
        shown += os.read(terminal, 4096)
    os.close(terminal)
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        assert time.monotonic() < end + SECONDS
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(done[1]) == 128 + signal.SIGHUP
    assert 0 < status_of(Store(store), verify=True).done < 480


@pytest.mark.long
def test_a_scheduler_that_dies_ends_a_sweep_which_goes_on_elsewhere(tmp_path):
    pytest.importorskip("distributed")
    plan, store, known = tmp_path / "plan.toml", tmp_path / "s.zarr", tmp_path / "scheduler.json"
    plan.write_text(SLOW.format(seeds=8, count=12))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cli = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler = subprocess.Popen([*cli, "--scheduler-file", known, "--port", "0", "--no-dashboard"], **quiet)
    until(known.exists, scheduler)
    cli = [sys.executable, "-m", "distributed.cli.dask_worker", "--death-timeout", "1", "--nthreads", "1"]
    worker = subprocess.Popen([*cli, "--scheduler-file", known, "--no-dashboard"], **quiet)
    try:
        address = json.loads(known.read_text())["address"]
        process = begin("sweep", plan, "--store", store, "--scheduler", address, "--lanes", 8)
        until(lambda: store.exists() and len(sweep_kills.committed(store)) >= 2, process)
        scheduler.kill()
        told, _ = ended(process)
        assert process.returncode == 3 and told.count("\n") == 1
        assert f"the Dask scheduler at {address} is gone; what was committed is kept" in told
    finally:
        for one in (scheduler, worker):
            one.kill()
            one.wait()
    before = sweep_kills.committed(store)
    assert 2 <= len(before) < 12
    found = uj.sweep(plan, store, workers=0, lanes=8, progress=False).load()
    fresh = uj.sweep(plan, tmp_path / "fresh.zarr", workers=0, lanes=8, progress=False).load()
    for name in fresh.variables:
        np.testing.assert_array_equal(found[name].values, fresh[name].values, err_msg=str(name))
    assert {**sweep_kills.committed(store), **before} == sweep_kills.committed(store)


@pytest.mark.long
def test_training_keeps_its_epochs(tmp_path):
    for module in ("sklearn", "orbax.checkpoint"):
        pytest.importorskip(module, reason="needs the train extra")
    (tmp_path / "train.toml").write_text(
        'data = {name = "digits"}\nnetwork = {width = 8, depth = 1, features = 9}\n'
        "train = {epochs = 5000, batch = 256, shift = 0}\nwatch = {collapse = false}\n"
    )
    out = tmp_path / "out"
    process = begin("train", tmp_path / "train.toml", "--out", out)
    until(lambda: len(list(out.glob("checkpoints/[1-9]*"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    told, _ = ended(process)
    kept = max(int(path.name) for path in out.glob("checkpoints/[1-9]*"))
    assert process.returncode == 130 and f"{kept} of 5000 epochs are kept in {out}; the same with --resume" in told


LONG = (
    'model = {case = "spherical", dim = 3}\nlabels = {layout = "balanced", classes = 3, per_class = 2}\n'
    'dynamics = {kind = "descent", schedule = 0.001}\nrun = {times = [0, 2000000000], observe = ["norm"]}\n'
)


@pytest.mark.long
@pytest.mark.parametrize(("command", "number"), [("simulate", signal.SIGTERM), ("design", signal.SIGINT)])
def test_one_run_ends_also_while_a_program_is_running(tmp_path, command, number):
    """A program of XLA runs for an hour here, and Python in the main thread hears of nothing."""
    (tmp_path / "long.toml").write_text(LONG)
    what = {"simulate": [tmp_path / "long.toml", "--exact"], "design": ["steps"]}[command]
    process = begin(command, *what, "--out", tmp_path / "out", stdout=subprocess.DEVNULL)
    until((tmp_path / "out").exists, process)
    time.sleep(5)
    process.send_signal(number)
    told, seconds = ended(process)
    assert process.returncode == 128 + number and seconds < 6
    assert told.splitlines()[-1] == "unhinged: interrupted: earlier results are unchanged."


TALKATIVE = "import sys\nfrom unhinged_jax import _terminal\nfrom unhinged_jax.cli import main\n"
TALKATIVE += "_terminal.SAID_EVERY = 0.2\nsys.exit(main())"


def simulating(folder):
    """`unhinged simulate` that says every moment how far it is, in a pipe, when it has begun with the updates."""
    command = [sys.executable, "-c", TALKATIVE, "simulate", folder / "run.toml", "--out", folder / "out"]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True, "text": True}
    told = {name: value for name, value in os.environ.items() if name != "UNHINGED_QUIET"}
    process = subprocess.Popen([*map(str, command)], env=told, **options)
    while not re.search(r"Simulating: [1-9]\d?%, [\d,]+ of [\d,]+ updates", line := process.stderr.readline()):
        assert line and process.poll() is None, line
    return process


def rows(folder):
    return pandas.read_csv(folder / "observables.csv").to_numpy()


@pytest.mark.long
def test_an_interrupted_simulation_keeps_what_it_reached_and_goes_on(tmp_path):
    (tmp_path / "run.toml").write_text(
        'model = {case = "regularized", dim = 8, decay = 1e-3}\n'
        'labels = {layout = "balanced", classes = 3, per_class = 20}\n'
        'dynamics = {kind = "descent", schedule = 1e-5, momentum = 0.5}\n'
        'run = {until = 3000000, points = 61, observe = ["norm", "loss"], precision = "float64"}\n'
    )
    process = simulating(tmp_path)
    process.send_signal(signal.SIGINT)
    told, _ = ended(process, 30.0)
    assert process.returncode == 130
    last = told.splitlines()[-1]
    count = int(re.search(r"interrupted: (\d+) of 61 times are kept in .*; the same with --resume continues", last)[1])
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["result"]["name"] == "interrupted" and 1 <= count < 61
    assert record["steps"] == record["elapsed"] and 0 < record["elapsed"] < 3000000
    assert np.isfinite(rows(tmp_path / "out")).all(axis=1).sum() == count
    assert main(["simulate", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert main(["simulate", str(tmp_path / "run.toml"), "--out", str(tmp_path / "whole")]) == 0
    np.testing.assert_allclose(rows(tmp_path / "out"), rows(tmp_path / "whole"), rtol=1e-9)


@pytest.mark.long
def test_the_second_signal_ends_a_simulation_at_once(tmp_path):
    (tmp_path / "run.toml").write_text(LONG.replace("2000000000", "50000000"))
    process = simulating(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)  # what was reached is written now
    process.send_signal(signal.SIGINT)
    told, seconds = ended(process)
    assert process.returncode == 130 and seconds < 1.5 and "times are kept" not in told
    assert not (tmp_path / "out" / "final.npz").exists()
