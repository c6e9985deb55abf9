"""Sweeps: the same numbers as single runs, whatever the order, the blocks, the workers and the kills."""

import concurrent.futures
import copy
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures.process import BrokenProcessPool

import jax
import numpy as np
import pandas
import pytest
import xarray
from scripts import sweep_kills

import unhinged_jax as uj
from unhinged_jax import config
from unhinged_jax.cli import main
from unhinged_jax.config import problem as named_sets
from unhinged_jax.observables import ObservableSet
from unhinged_jax.sweeps import engine, lanes, program, work
from unhinged_jax.sweeps.export import export
from unhinged_jax.sweeps.progress import Progress
from unhinged_jax.sweeps.status import Status, describe, status_of
from unhinged_jax.sweeps.store import FINE, REASONS, Store
from unhinged_jax.trajectory import RunResult

BASE = {
    "model": {"case": "regularized", "dim": 3, "decay": 0.1},
    "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
    "dynamics": {"kind": "descent", "schedule": 0.1},
    "run": {"times": [0, 5, 20], "observe": ["norm"], "precision": "float64"},
    "sweep": {
        "seeds": [3, 0, 7],
        "grid": {"model.gamma": {"from": 0.0, "to": 1.0, "count": 7}, "dynamics.rate_H + dynamics.rate_W": [1.0, 2.0]},
    },
}


def tables(**sections):
    """BASE with some keys of some sections replaced."""
    made = copy.deepcopy(BASE)
    for name, keys in sections.items():
        made[name].update(keys)
    return made


def run(folder, name="run.zarr", lanes=16, workers=0, given=None, **options):
    """Sweep BASE, or other tables, in this process."""
    return uj.sweep(uj.SweepPlan.of(given or BASE), folder / name, lanes=lanes, workers=workers, **options).load()


def same(first, second):
    """Bitwise equality of everything computed."""
    assert set(first.data_vars) == set(second.data_vars)
    for name in first.data_vars:
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=str(name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep of BASE, left alone: its folder and results."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the finished store, to damage."""
    shutil.copytree(whole[0] / "run.zarr", tmp_path / "run.zarr")
    return tmp_path


# --- numbers ------------------------------------------------------------------------------------


def test_every_point_is_the_single_run_of_its_configuration(whole):
    data, plan = whole[1], uj.SweepPlan.of(BASE)
    assert dict(data.sizes) == {"gamma": 7, "rate_H": 2, "seed": 3, "time": 3}
    assert data["gamma"].values.tolist() == list(np.linspace(0, 1, 7))
    assert data["seed"].values.tolist() == [3, 0, 7]
    for index in ({"gamma": 0, "rate_H": 0, "seed": 2}, {"gamma": 6, "rate_H": 1, "seed": 0}):
        problem = config.build(plan.config_at(index))
        alone = uj.simulate(problem.model, problem.dynamics, problem.state, problem.times, problem.observe)
        np.testing.assert_allclose(data["norm"].isel(index), alone["norm"], rtol=1e-13)
    # Common random numbers: a seed is one start, whatever else varies.
    start = data["norm"].isel(time=0)
    np.testing.assert_array_equal(start, start.isel(gamma=0, rate_H=0).broadcast_like(start).transpose(*start.dims))


def test_the_store_says_what_it_holds(whole):
    data = whole[1]
    assert data["norm"].attrs["units"] == "1" and data["norm"].attrs["long_name"] == "norm of (H, W)"
    assert data["time"].attrs["units"] == "updates" and data["time"].dtype == np.int64
    assert data["rate_H"].attrs["key"] == "dynamics.rate_H + dynamics.rate_W"
    assert data.attrs["precision"] == "float64" and data.attrs["commit"] and data.attrs["device"].startswith("cpu")
    assert json.loads(data.attrs["plan"])["plan"]["sweep"]["seeds"] == [3, 0, 7]
    assert json.loads(data.attrs["versions"])["jax"] == jax.__version__
    assert np.all(np.isin(data["result"], FINE)) and np.all(data["elapsed"] == 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xarray.open_zarr(whole[0] / "run.zarr")  # without our help
    np.testing.assert_array_equal(plain["norm"], data["norm"])


def test_a_plan_that_changes_leaves_a_store_that_other_readers_know(copied):
    store = Store(copied / "run.zarr")
    store.change_plan({**store.identity, "inputs": {"a.npy": "00"}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "a.npy" in xarray.open_zarr(copied / "run.zarr").attrs["plan"]
    record = json.loads((copied / "run.zarr" / "zarr.json").read_text())
    record["consolidated_metadata"]["metadata"]["norm"]["attributes"]["long_name"] = "another"
    (copied / "run.zarr" / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"zarr.json was altered after the store was made"):
        uj.open_sweep(copied / "run.zarr")


def test_order_blocks_and_parts_do_not_change_a_number(whole, tmp_path):
    """Bitwise for blocks of one shape, wherever in a block a point stands and whatever stands beside it."""
    order = [4, 1, 6, 0, 3, 5, 2]
    gammas = np.linspace(0, 1, 7)[order].tolist()
    mixed = tables(sweep={"seeds": [7, 3, 0], "grid": {**BASE["sweep"]["grid"], "model.gamma": gammas}})
    found = run(tmp_path, given=mixed)
    assert Store(tmp_path / "run.zarr").layout == Store(whole[0] / "run.zarr").layout
    same(found.sortby("gamma").sel(seed=[3, 0, 7]), whole[1])
    for part in ((0, 2), (1, 2)):
        parts = run(tmp_path, "parts.zarr", part=part)
    same(parts, whole[1])
    other = run(tmp_path, "other.zarr", lanes=3)
    assert Store(tmp_path / "other.zarr").layout != Store(whole[0] / "run.zarr").layout
    np.testing.assert_allclose(other["norm"], whole[1]["norm"], rtol=1e-13)


@pytest.mark.long
def test_eight_devices_give_the_numbers_of_one(whole, tmp_path):
    code = f"""
        import json, jax, unhinged_jax as uj
        from unhinged_jax.sweeps import program, work
        assert jax.device_count() == 8
        plan = uj.SweepPlan.of(json.loads({json.dumps(json.dumps(BASE))}))
        uj.sweep(plan, {str(tmp_path / "eight.zarr")!r}, lanes=16)
        program._one_for_each = program._sharded  # as on accelerators
        work._PROGRAMS.clear()
        uj.sweep(plan, {str(tmp_path / "sharded.zarr")!r}, lanes=16)
    """
    eight = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    flags = {**os.environ, "XLA_FLAGS": eight, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # quiet where there is no terminal
    eight = uj.open_sweep(tmp_path / "eight.zarr").load()
    assert "x 8" in eight.attrs["device"]
    same(eight, whole[1])
    sharded = uj.open_sweep(tmp_path / "sharded.zarr").load()
    np.testing.assert_allclose(sharded["norm"], whole[1]["norm"], rtol=1e-13)


def test_structure_of_several_kinds_in_one_store(tmp_path, monkeypatch):
    """Two shapes, two losses: a program each; an observable without meaning in one of them stays empty there."""
    monkeypatch.setitem(named_sets._OBSERVED, "few", ObservableSet(["norm", "energy_3"]))
    given = tables(
        model={"gamma": None},
        run={"observe": "few"},
        sweep={
            "seeds": 1,
            "grid": {"model.decay": [0.1, 0.2]},
            "zip": {
                "name": "kind",
                "model.loss": {"values": ["unhinged", "mse"], "name": "kind"},
                "dynamics.schedule": [0.1, 0.2],
                "labels.per_class": [2, 3],
            },
        },
    )
    data = run(tmp_path, given=given)
    assert data["kind"].values.tolist() == ["unhinged", "mse"] and data["schedule"].dims == ("kind",)
    plan = uj.SweepPlan.of(given)
    problem = config.build(plan.config_at({"decay": 1, "kind": 1}))
    alone = uj.simulate(problem.model, problem.dynamics, problem.state, problem.times, "norm")
    np.testing.assert_allclose(data["norm"].isel(decay=1, kind=1, seed=0), alone["norm"], rtol=1e-13)
    assert np.all(np.isnan(data["energy_3"].sel(kind="mse")))
    assert np.all(np.isfinite(data["energy_3"].sel(kind="unhinged")))
    assert np.all(np.isin(data["result"], FINE))


# --- points together or one by one --------------------------------------------------------------

WIDE = tables(
    model={"decay": 0.1, "loss": "cross_entropy"},
    dynamics={"kind": "flow", "schedule": 1.0},
    run={"times": [0.0, 10.0, 100.0], "observe": ["norm", "loss"]},
    sweep={"seeds": [3, 0], "grid": {"model.decay": [1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0]}},
)
TOLERANCE = 1e-8  # that of the solver, whose steps depend on rounding


@pytest.mark.parametrize(("method", "kind", "dim", "platform", "want"), [
    ("simulate", "flow", 3, "cpu", 8), ("simulate", "flow", 28, "cpu", 8), ("simulate", "flow", 29, "cpu", 1),
    ("simulate", "flow", 3, "gpu", None), ("simulate", "flow", 29, "tpu", None),
    ("simulate", "descent", 29, "cpu", None), ("exact", "flow", 29, "cpu", None), ("exact", "descent", 3, "gpu", None),
])  # fmt: skip
def test_how_many_points_step_together(method, kind, dim, platform, want):
    """Nine rows of 28 numbers are 252, of 29 are 261; the border is at 256."""
    given = uj.SweepPlan.of(tables(dynamics={"kind": kind}, model={"dim": dim}, sweep={"method": method}))
    assert program.width_of(lanes.grouping_of(given).groups[0].adaptive, platform) == want


@pytest.mark.long
def test_adaptive_solves_in_groups_are_those_of_lanes_and_wait_less(tmp_path, monkeypatch):
    found = run(tmp_path, "groups.zarr", given=WIDE)
    assert Store(tmp_path / "groups.zarr").layout.block == (6, 2)  # a group of eight, and one of four and four copies
    backwards = copy.deepcopy(WIDE)
    backwards["sweep"] = {"seeds": [0, 3], "grid": {"model.decay": WIDE["sweep"]["grid"]["model.decay"][::-1]}}
    other = run(tmp_path, "backwards.zarr", given=backwards)  # other neighbours, in another order
    same(other.isel(decay=slice(None, None, -1), seed=[1, 0]), found)

    monkeypatch.setattr(program, "width_of", lambda *_: None)  # as on an accelerator
    work._PROGRAMS.clear()
    wide = run(tmp_path, "lanes.zarr", given=WIDE)
    work._PROGRAMS.clear()
    for name in ("norm", "loss"):
        np.testing.assert_allclose(wide[name], found[name], rtol=TOLERANCE)

    needed = {name: data["steps"].values.ravel() for name, data in (("groups", found), ("lanes", wide))}
    made = {
        "groups": 8 * needed["groups"][:8].max() + 4 * needed["groups"][8:].max(),
        "lanes": 12 * needed["lanes"].max(),
    }
    for name, steps in needed.items():
        store = Store(tmp_path / f"{name}.zarr")
        status = status_of(store)
        assert status.waste == pytest.approx(1 - steps.sum() / made[name]) and status.waste > 0
        assert f"{status.waste:.0%} of solver steps were made waiting for slower lanes" in describe(store, status)
    assert made["groups"] < 0.9 * made["lanes"]


def test_points_that_run_one_by_one_depend_on_nothing_beside_them_and_wait_for_nothing():
    given = {**WIDE, "model": {**WIDE["model"], "dim": 29}}
    keys = ("model.decay",), ("state.seed",)
    programs = program.Programs(lanes.lane_of(uj.SweepPlan.of(given), {}, keys, {}, None), keys, adaptive=9 * 29)

    def block(decays, seeds):
        values = {"model.decay": np.array([decays])}, {"state.seed": np.array([seeds], np.int32)}
        return jax.tree.map(lambda array: array[0], programs(values, (3, 2)))  # of one device

    found, other = block([1e-4, 0.1, 1.0], [3, 0]), block([1.0, 0.1, 0.01], [0, 3])
    for first, second in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(first[1:], second[1::-1, ::-1])
    problem = config.build(uj.SweepPlan.of(given).config_at({"decay": 5, "seed": 1}))
    alone = uj.simulate(problem.model, problem.dynamics, problem.state, problem.times, problem.observe)
    for name in ("norm", "loss"):
        np.testing.assert_allclose(found["observables"][name][2, 1], alone[name], rtol=TOLERANCE)
    assert len(np.unique(found["steps"])) > 1
    np.testing.assert_array_equal(programs.steps_made(found["steps"]), found["steps"])


# --- failures of points -------------------------------------------------------------------------

FLOW = {"kind": "flow", "schedule": 1.0, "rtol": 1e-6}


def flows(rates, most, tmp_path, name, **options):
    """Adaptive solves of a stiff problem at several rates."""
    given = tables(
        dynamics={**FLOW, "max_steps": most}, run={"times": [0.0, 1.0, 4.0]},
        sweep={"seeds": 2, "grid": {"dynamics.schedule": rates}},
    )  # fmt: skip
    return run(tmp_path, name, given=given, **options)


def test_a_failed_point_is_recorded_leaves_its_neighbours_alone_and_is_retried_alone(tmp_path):
    wild = flows([0.1, 200.0, 0.2, 0.3], 20, tmp_path, "wild.zarr")
    tame = flows([0.1, 0.15, 0.2, 0.3], 20, tmp_path, "tame.zarr")
    assert Store(tmp_path / "wild.zarr").layout.blocks == 1  # neighbours in one program call
    assert np.all(wild["result"].isel(schedule=1) == int(RunResult.MAX_STEPS))
    assert np.all(np.isin(tame["result"], FINE))
    others = {"schedule": [0, 2, 3]}
    same(wild.isel(others), tame.isel(others))
    status = status_of(Store(tmp_path / "wild.zarr"))
    assert status.failed == {"max_steps": 2} and status.complete
    assert "max_steps: 2" in describe(Store(tmp_path / "wild.zarr"), status)

    same(flows([0.1, 200.0, 0.2, 0.3], 4000, tmp_path, "wild.zarr"), wild)  # what has ended is not run again ...
    retried = flows([0.1, 200.0, 0.2, 0.3], 4000, tmp_path, "wild.zarr", retry_failed=True)  # ... unless asked for
    same(retried.isel(others), wild.isel(others))
    assert np.all(np.isin(retried["result"], FINE)) and np.all(np.isfinite(retried["norm"]))
    assert status_of(Store(tmp_path / "wild.zarr"), verify=True).complete


def test_nan_at_a_reached_time_is_a_failure(tmp_path):
    code = np.array([[0, 0, 3]])
    values = {"norm": np.array([[[1.0, np.nan], [1.0, np.nan], [np.nan, np.nan]]])}
    reached = np.array([[[True, True], [True, False], [True, False]]])
    found = work._variables({"observables": values, "code": code, "reached": reached, "elapsed": code, "steps": code})
    assert [REASONS[int(c)] for c in found["result"][0]] == ["not_a_number", "completed", "max_steps"]


def test_a_block_that_does_not_fit_is_halved(whole, tmp_path, monkeypatch):
    compile_ = program.Programs._compile
    asked = []

    def small_only(self, shape):
        asked.append(shape)
        if int(np.prod(shape)) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return compile_(self, shape)

    monkeypatch.setattr(program.Programs, "_compile", small_only)
    work._PROGRAMS.clear()
    halved = run(tmp_path)
    assert asked[0] == Store(tmp_path / "run.zarr").layout.block and len(asked) == len(set(asked))
    work._PROGRAMS.clear()
    np.testing.assert_allclose(halved["norm"], whole[1]["norm"], rtol=1e-13)


def test_the_memory_a_program_needs_is_asked_before_it_runs(whole, tmp_path):
    """With a budget of one byte every block is halved down to one point, and the numbers stay."""
    few = tables(sweep={"grid": {"model.gamma": [0.0, 1.0]}, "seeds": [3]})
    found = run(tmp_path, given=few, memory=1)
    assert Store(tmp_path / "run.zarr").layout.block == (1, 1)
    want = whole[1]["norm"].isel(gamma=[0, 6], rate_H=0, seed=0)
    np.testing.assert_allclose(found["norm"].values[:, 0], want, rtol=1e-13)


# --- resuming -----------------------------------------------------------------------------------


def chunk(folder, name, block):
    """The file of one variable of one block."""
    store = Store(folder / "run.zarr")
    inner = ["0"] * (store.array(name).ndim - len(store.dims))
    return folder.joinpath("run.zarr", name, "c", *map(str, store.layout.place(block)), *inner)


def damage(path, how):
    content = path.read_bytes()
    if how == "deleted":
        return path.unlink()
    flipped = content[:9] + bytes([content[9] ^ 4]) + content[10:]
    return path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "flipped": flipped}[how])


def test_damaged_blocks_are_found_and_computed_again(whole, copied):
    store = Store(copied / "run.zarr")
    last = store.layout.blocks - 1  # at the border, where a chunk is not full
    assert last == 3 and store.layout.size(last) < store.layout.size(0)
    kept = chunk(copied, "norm", 2).stat().st_mtime_ns
    damage(chunk(copied, "norm", 0), "truncated")
    damage(chunk(copied, "elapsed", 1), "deleted")
    damage(chunk(copied, "result", last), "empty")
    assert status_of(store, verify=True).damaged == (0, 1, last)
    same(run(copied), whole[1])
    assert status_of(store, verify=True).complete
    assert chunk(copied, "norm", 2).stat().st_mtime_ns == kept


@pytest.mark.parametrize("how", ["truncated", "empty", "deleted", "flipped"])
def test_no_damage_passes_unseen(how, copied):
    store = Store(copied / "run.zarr")
    for number, name in enumerate(["norm", "elapsed", "steps"]):
        damage(chunk(copied, name, number), how)
    assert status_of(store, verify=True).damaged == (0, 1, 2)
    damage(chunk(copied, "execution/committed", 3), how)
    assert 3 in status_of(store).missing and 3 not in status_of(store, verify=True).damaged
    assert "blocks" in describe(store, status_of(store, verify=True))


@pytest.mark.long
def test_jobs_that_start_together_share_one_store(tmp_path):
    """All make the store at once; one of them wins, and their parts add up."""
    (tmp_path / "plan.toml").write_text(sweep_kills.PLAN.format(seeds=2, count=3))
    command = [sys.executable, "-m", "unhinged_jax.cli", "sweep", str(tmp_path / "plan.toml"), "--workers", "0"]
    jobs = [
        subprocess.Popen(
            [*command, "--store", str(tmp_path / "s.zarr"), "--lanes", "2", "--part", f"{i}/2"], stderr=subprocess.PIPE
        )
        for i in range(2)
    ]
    assert [job.communicate()[1] for job in jobs] == [b"", b""]
    assert status_of(Store(tmp_path / "s.zarr"), verify=True).complete
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_plan_is_refused_with_the_difference_shown(copied):
    other = tables(model={"dim": 4}, sweep={"seeds": [3, 0]})
    with pytest.raises(ValueError, match=r"model.dim was 3, now 4; sweep.seeds was \[3, 0, 7\], now \[3, 0\]"):
        run(copied, given=other)
    (copied / "full").mkdir()
    (copied / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        run(copied, "full")


def test_a_full_disk_stops_the_sweep_and_space_lets_it_go_on(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    long = tables(run={"times": list(range(1500))}, sweep={"grid": {"model.gamma": [0.0, 0.5, 1.0]}, "seeds": 16})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    run(tmp_path, given=long, part=(0, 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(engine.StoreFull, match="no space left"):
            run(tmp_path, given=long)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    status = status_of(Store(tmp_path / "run.zarr"), verify=True)
    assert status.done == 16 and not status.damaged
    assert np.all(np.isfinite(run(tmp_path, given=long)["norm"]))


@pytest.mark.long
def test_kills_change_nothing(tmp_path):
    """SIGKILL at random moments, to all of it or to one worker; `tests/scripts/sweep_kills.py` sends twenty."""
    struck, there = sweep_kills.check(tmp_path, kills=2, blocks=12, seed=1)
    assert struck >= 1 and there[-1] == 12


# --- executors ----------------------------------------------------------------------------------


class Dying(engine.Here):
    """An executor whose worker dies at some calls."""

    calls, deaths = 0, ()

    def submit(self, fn, /, *args, **kwargs):
        Dying.calls += 1
        if Dying.calls in Dying.deaths:
            future = concurrent.futures.Future()
            future.set_exception(BrokenProcessPool("a worker died"))
            return future
        return super().submit(fn, *args, **kwargs)


def drive(folder, deaths, tasks=((0,), (1,), (2,))):
    Dying.calls, Dying.deaths = 0, deaths
    told, made = [], []

    def make():
        made.append(Dying())
        return made[-1]

    path = str(folder / "run.zarr")
    left = engine.drive(make, path, tasks, window=2, owned=True, retry=False, told=told.append)
    return left, sorted(outcome.number for outcome in told), len(made)


def test_a_dead_worker_costs_a_retry_and_a_deadly_block_is_given_up(whole, copied):
    Store(copied / "run.zarr").withdraw(range(3))
    assert drive(copied, deaths=(2, 4)) == ({}, [0, 1, 2], 3)
    same(uj.open_sweep(copied / "run.zarr").load(), whole[1])
    Store(copied / "run.zarr").withdraw([1])
    left, done, _ = drive(copied, deaths=(1, 2, 3), tasks=((1,),))
    assert list(left) == [(1,)] and "died 3 times" in left[(1,)] and not done


def test_a_block_that_raises_is_reported_and_the_others_are_kept(copied, monkeypatch):
    Store(copied / "run.zarr").withdraw([0, 1])

    def fails(self, number, *args):
        if number == 0:
            raise RuntimeError("a strange\nerror")
        return commit(self, number, *args)

    commit = work.Job._commit
    monkeypatch.setattr(work.Job, "_commit", fails)
    with pytest.raises(uj.SweepIncomplete, match=r"points could not be computed.*RuntimeError: a strange error"):
        run(copied)
    assert status_of(Store(copied / "run.zarr")).missing == (0,)


@pytest.mark.long
def test_a_dask_cluster_survives_the_death_of_a_worker(whole, copied):
    distributed = pytest.importorskip("distributed")
    store = Store(copied / "run.zarr")
    store.withdraw(range(store.layout.blocks))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        told = []

        def kill_once(outcome):
            if not told:
                os.kill(victim, 9)
            told.append(outcome)

        tasks = [(number,) for number in range(store.layout.blocks)]
        with client.get_executor(retries=3, pure=False) as executor:
            left = engine.drive(
                lambda: executor, str(store.path), tasks, window=4, owned=False, retry=False, told=kill_once
            )
        assert left == {} and status_of(store).missing == ()
        store.withdraw([0, store.layout.blocks - 1])
        found = uj.sweep(uj.SweepPlan.of(BASE), store.path, scheduler=cluster.scheduler_address).load()
    same(found, whole[1])


@pytest.mark.parametrize(("end", "word"), [("f()", "under `if __name__ == '__main__':`, or give workers=0"), (
    "if __name__ == '__main__':\n    f()", ""), ("if __name__ != '__main__':\n    sys.exit()\nf()", ""),
])  # fmt: skip
def test_a_script_without_a_guard_is_told_before_workers_start(tmp_path, end, word):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom unhinged_jax.sweeps import engine\n\n\ndef f():\n    engine.processes(2)\n\n\n" + end
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    told = done.stderr.splitlines()[-1] if done.stderr else ""
    where = f"ValueError: {script}, line 9: worker processes import the script that starts them, so call this"
    assert told == (f"{where} {word}." if word else "")


def test_the_rate_is_that_of_blocks_and_not_of_the_moment_they_are_told(monkeypatch):
    """Blocks of one call are told together; the first line said millions of points a second."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = Progress(10_000, wanted=False)
    shown.start(Status(10_000, 2000, {}, 100, (), (), (), 0.0, 0.0))
    outcome = work.BlockOutcome(0, 100, {}, 1.0)
    for _ in range(4):
        shown.told(outcome)
        assert shown.rate() == 0
    for _ in range(5):
        now[0] += 2
        shown.told(outcome)
        shown.told(outcome)
    assert shown.rate() == pytest.approx((400 - 100 + 1000) / 10)


def test_executors_are_chosen_one_at_a_time(copied):
    with pytest.raises(ValueError, match="one of workers"):
        uj.sweep(uj.SweepPlan.of(BASE), copied / "new.zarr", workers=0, scheduler="tcp://nowhere:1")
    with pytest.raises(ValueError, match="0 <= i < n"):
        run(copied, "new.zarr", part=(2, 2))


# --- the command line and other formats ---------------------------------------------------------


def test_the_command_line_sweeps_tells_and_exports(whole, tmp_path, capsys):
    text = sweep_kills.PLAN.format(seeds=2, count=3)
    (tmp_path / "plan.toml").write_text(text)
    store = str(tmp_path / "s.zarr")
    assert main(["sweep", str(tmp_path / "plan.toml"), "--store", store, "--workers", "0", "--part", "0/2"]) == 0
    assert "gamma 3 × seed 2" in capsys.readouterr().out
    assert main(["sweep", "--store", store, "--status"]) == 0
    assert "points    6 of 6 done, 0 of them failed" in capsys.readouterr().out
    assert main(["sweep", "--store", store]) == 1
    assert "give a plan" in capsys.readouterr().err
    assert main(["sweep", str(tmp_path / "plan.toml"), "--store", store, "--part", "3"]) == 1
    assert "I/N" in capsys.readouterr().err
    assert main(["sweep", "--store", str(tmp_path), "--status"]) == 1
    assert "not the store of a sweep" in capsys.readouterr().err
    (tmp_path / "plan.toml").write_text(text.replace("dim = 3", "dim = 2"))
    assert main(["sweep", str(tmp_path / "plan.toml"), "--store", store]) == 1
    assert "model.dim was 3, now 2" in capsys.readouterr().err
    assert main(["sweep", "--store", str(whole[0] / "run.zarr"), "--export", str(tmp_path / "all.csv")]) == 0


def test_exports_hold_every_number(whole, tmp_path, monkeypatch):
    data = whole[1]
    monkeypatch.setattr(sys.modules["unhinged_jax.sweeps.export"], "_ROWS", 30)  # several portions
    export(whole[0] / "run.zarr", tmp_path / "all.csv")
    rows = pandas.read_csv(tmp_path / "all.csv")
    assert len(rows) == data["norm"].size and set(rows["result"]) == {"completed"}
    back = rows.set_index(["gamma", "rate_H", "seed", "time"])["norm"].to_xarray()
    np.testing.assert_allclose(back.sel(seed=[3, 0, 7]), data["norm"], rtol=1e-12)
    export(whole[0] / "run.zarr", tmp_path / "all.nc")
    with xarray.open_dataset(tmp_path / "all.nc") as read:
        np.testing.assert_array_equal(read["norm"], data["norm"])
        assert read.attrs["plan"] == data.attrs["plan"]
    with pytest.raises(ValueError, match="ends in"):
        export(whole[0] / "run.zarr", tmp_path / "all.xls")


def test_parquet_holds_the_same_or_says_what_it_needs(whole, tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install"):
            export(whole[0] / "run.zarr", tmp_path / "all.parquet")
    else:
        export(whole[0] / "run.zarr", tmp_path / "all.parquet")
        rows = pandas.read_parquet(tmp_path / "all.parquet")
        np.testing.assert_array_equal(rows["norm"], whole[1]["norm"].values.ravel())
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "all.parquet"])
