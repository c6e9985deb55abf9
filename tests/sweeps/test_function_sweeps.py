"""Sweeps of a function: the same numbers as calls of it, in any block, process and order; its store belongs to it."""

import dataclasses
import functools
import os
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import unhinged_jax as uj
from unhinged_jax.sweeps import bands, engine, extension, fingerprint, prepare, run, work
from unhinged_jax.sweeps.export import export
from unhinged_jax.sweeps.pictures import draw
from unhinged_jax.sweeps.status import describe, status_of
from unhinged_jax.sweeps.store import Damaged, Store

LABELS = uj.balanced(classes=3, per_class=2)
TIMES = [0.0, 1.0, 4.0]
AXES = {"gamma": [0.1, 0.5, 0.9], "decay": [0.01, 0.1]}


def spread(model, state):
    """An observable of one's own: the squared norm of every prototype."""
    return jnp.sum(state.W**2, axis=1)


def exactly(gamma, decay, key):
    model = uj.regularized(LABELS, dim=4, gamma=gamma, decay=decay)
    return uj.exact(model, uj.Flow(), model.init(key), TIMES, {"norm": None, "spread": spread})


def cheap(x, y, key):
    """A dictionary of arrays, without any dynamics."""
    return {"table": jnp.outer(jnp.arange(2.0), jnp.ones(3)) * x + y, "draw": jax.random.normal(key), "large": x > 1}


def swept(folder, function=cheap, axes=None, name="run.zarr", **options):
    """A sweep in this process, without a bar."""
    axes = {"x": [0.5, 1.5, 2.5], "y": [0.0, 1.0]} if axes is None else axes
    return uj.sweep(function, axes, folder / name, **{"workers": 0, "progress": False, **options})


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.long_for("float64")
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_point_is_a_call_of_the_function(tmp_path, precision):
    data = swept(tmp_path, exactly, AXES, seeds=2, precision=precision).load()
    assert dict(data.sizes) == {"gamma": 3, "decay": 2, "seed": 2, "time": 3, "spread_1": 3}
    assert data["spread"].dims == ("gamma", "decay", "seed", "time", "spread_1")
    assert data["norm"].dtype == precision and data["time"].values.tolist() == TIMES
    assert np.all(data["result"] == 0) and np.all(data["elapsed"] == 4.0)
    assert Store(tmp_path / "run.zarr").facts["adaptive"] == [None]
    for at in ({"gamma": 0, "decay": 1, "seed": 1}, {"gamma": 2, "decay": 0, "seed": 0}):
        with jax.enable_x64(precision == "float64"):
            alone = exactly(AXES["gamma"][at["gamma"]], AXES["decay"][at["decay"]], jax.random.key(at["seed"]))
        for name in ("norm", "spread"):
            found = data[name].isel(at)
            np.testing.assert_allclose(found, alone[name], rtol=1e-12 if precision == "float64" else 2e-6, err_msg=name)


def test_a_dictionary_of_arrays_has_its_own_labelled_axes(tmp_path):
    data = swept(
        tmp_path, seeds=[7, 3], dims={"table": ("row", "column")}, coords={"column": [10, 20, 30]}
    ).load()  # fmt: skip
    assert data["table"].dims == ("x", "y", "seed", "row", "column")
    assert data["column"].values.tolist() == [10, 20, 30] and "row" not in data.coords
    assert data["large"].dtype == bool and data["large"].values[:, 0, 0].tolist() == [False, True, True]
    want = np.outer([0, 1], [1, 1, 1]) * 1.5 + 1.0
    np.testing.assert_array_equal(data["table"].sel(x=1.5, y=1.0, seed=3), want)
    np.testing.assert_allclose(data["draw"].sel(x=0.5, y=0.0, seed=7), jax.random.normal(jax.random.key(7)), rtol=1e-6)


def test_static_values_have_a_program_each(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Power:
        exponent: float

        def __call__(self, x):
            return x**self.exponent

    def function(x, size, shape):
        return {"total": jnp.sum(jnp.ones(size)) * shape(x)}

    static = {"size": [2, 5], "shape": {"square": Power(2.0), "root": jnp.sqrt}}
    data = swept(tmp_path, function, {"x": [4.0, 9.0]}, static=static).load()
    assert data["total"].dims == ("x", "size", "shape") and data["shape"].values.tolist() == ["square", "root"]
    np.testing.assert_allclose(data["total"].sel(size=5, shape="square"), [80.0, 405.0], rtol=1e-6)
    np.testing.assert_allclose(data["total"].sel(size=2, shape="root"), [4.0, 6.0], rtol=1e-6)


def test_names_that_vary_together_are_one_dimension(tmp_path):
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    data = swept(tmp_path, lambda a, b: {"sum": a + b}, {("a", "b"): rows}).load()
    assert data["sum"].dims == ("a_b",) and data["a"].dims == ("a_b",)
    assert data["sum"].values.tolist() == [3.0, 7.0, 11.0]


def test_whole_numbers_and_seeds_arrive_as_whole_numbers(tmp_path):
    seen = []

    def function(n, seed):
        seen.append((n.dtype, seed.dtype))
        return {"sum": n + seed}

    data = swept(tmp_path, function, {"n": [1, 2]}, seeds=[5]).load()
    assert {*seen} == {(np.dtype("int32"), np.dtype("int32"))} and data["sum"].values.ravel().tolist() == [6, 7]


def test_without_vmap_a_function_may_use_numpy_and_branch(tmp_path):
    calls = []

    def function(x, y):
        calls.append((x, y))
        return {"root": float(np.roots([1.0, 0.0, -x])[0].real) if y > 0 else 0.0}

    data = swept(tmp_path, function, {"x": [4.0, 9.0, 16.0], "y": [0.0, 1.0]}, vmap=False, lanes=4).load()
    np.testing.assert_allclose(np.abs(data["root"].sel(y=1.0)), [2.0, 3.0, 4.0])
    assert sorted({*calls}) == sorted((x, y) for x in (4.0, 9.0, 16.0) for y in (0.0, 1.0)) and len(calls) == 7


def test_trajectories_with_times_of_their_own_keep_them(tmp_path):
    def function(scale, key):
        model = uj.regularized(LABELS, dim=4, decay=0.1)
        return uj.exact(model, uj.Flow(), model.init(key), jnp.asarray(TIMES) * scale, ["norm"])

    data = swept(tmp_path, function, {"scale": [1.0, 2.0]}).load()
    assert "time" not in data.coords and data["times"].dims == ("scale", "seed", "time")
    np.testing.assert_allclose(data["times"].isel(seed=0), np.outer([1, 2], TIMES), rtol=1e-6)


@pytest.mark.long_for("1")
@pytest.mark.parametrize("lanes", [1, pytest.param(4, marks=pytest.mark.long), 64])
def test_blocks_workers_and_order_change_nothing(tmp_path, lanes):
    # Blocks of one shape are equal bit by bit; 64 holds the whole sweep, and the others cut it in different ways.
    parts = tmp_path / "parts.zarr"
    for index in (1, 0):
        uj.sweep(exactly, AXES, parts, seeds=3, lanes=lanes, workers=0, part=(index, 2), progress=False)
    whole = swept(tmp_path, exactly, AXES, seeds=3, lanes=lanes).load()
    for name in ("norm", "spread"):
        np.testing.assert_array_equal(uj.open_sweep(parts)[name], whole[name])


def test_a_stochastic_path_is_that_of_its_key_however_a_sweep_is_cut(tmp_path):
    def drawn(decay, key):
        model = uj.regularized(LABELS, dim=4, decay=decay)
        start, draws = jax.random.split(key)
        run = uj.simulate(model, uj.Descent(0.5, batch=2), model.init(start), [3, 20], ["norm"], states=True, key=draws)
        return {"norm": run["norm"], "H": run.states.H}

    axes, parts = {"decay": [0.01, 0.1, 0.2]}, tmp_path / "parts.zarr"
    for index in (1, 0):
        uj.sweep(drawn, axes, parts, seeds=3, lanes=4, workers=0, part=(index, 2), progress=False)
    whole = swept(tmp_path, drawn, axes, seeds=3, lanes=4).load()
    for name in ("norm", "H"):
        np.testing.assert_array_equal(uj.open_sweep(parts)[name], whole[name])
    assert len(np.unique(whole["norm"])) == 18  # another path for every point and seed


@pytest.mark.long
def test_functions_travel_to_other_processes_by_value(tmp_path):
    offset = 3.0

    def function(x, key):  # of a test, so that workers could not import it
        return {"sum": x + offset, "draw": jax.random.normal(key)}

    here = swept(tmp_path, function, {"x": np.linspace(0, 1, 20)}, seeds=4, name="here.zarr").load()
    there = swept(tmp_path, function, {"x": np.linspace(0, 1, 20)}, seeds=4, name="there.zarr", workers=2).load()
    for name in ("sum", "draw"):
        np.testing.assert_array_equal(here[name], there[name])


SCRIPT = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    import unhinged_jax as uj

    LABELS = uj.balanced(classes=3, per_class=2)

    tau = float(sys.argv[2])

    def tempered(logits, targets):
        return -jnp.sum(targets * jax.nn.log_softmax(logits / tau), axis=-1)

    def mine(model, state):
        return jnp.sum(state.W) / tau

    def run(rate, decay, key):
        model = uj.regularized(LABELS, dim=4, decay=decay, loss=tempered)
        return uj.simulate(model, uj.Descent(rate), model.init(key), [0, 10, 300], {"norm": None, "mine": mine})

    if __name__ == "__main__":
        axes = {"rate": np.linspace(0.1, 0.5, 16), "decay": np.geomspace(5e-3, 0.3, 8)}
        uj.sweep(run, axes, sys.argv[1], seeds=4, lanes=4, workers=1, progress=False)
"""


@pytest.mark.long
def test_a_killed_script_continues_bit_by_bit(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def start(store, tau="0.5"):
        return subprocess.Popen([sys.executable, str(script), str(tmp_path / store), tau], env=dict(os.environ))

    quiet = start("quiet.zarr")
    assert quiet.wait() == 0
    running = start("killed.zarr")
    deadline = time.monotonic() + 300
    while True:
        try:
            done = status_of(Store(tmp_path / "killed.zarr")).done
        except ValueError:
            done = 0
        if done > 8:
            break
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert status_of(Store(tmp_path / "killed.zarr")).done < 512
    assert start("killed.zarr", "0.6").wait() != 0  # another value closed over: another sweep
    assert start("killed.zarr").wait() == 0
    first, second = (uj.open_sweep(tmp_path / name).load() for name in ("quiet.zarr", "killed.zarr"))
    for name in ("norm", "mine", "result"):
        np.testing.assert_array_equal(first[name], second[name])


# --- failures ---------------------------------------------------------------------------------------------------------


def test_nan_is_recorded_with_its_reason_and_neighbours_stay(tmp_path):
    data = swept(tmp_path, lambda x: {"root": jnp.sqrt(x), "whole": jnp.int32(x)}, {"x": [-1.0, 4.0]}).load()
    assert data["result"].values.tolist() == [5, 0] and data["root"].values[1] == 2.0 and np.isnan(data["root"][0])
    assert "not_a_number: 1" in describe(Store(tmp_path / "run.zarr"), status_of(Store(tmp_path / "run.zarr")))


def test_a_run_that_ends_early_is_recorded(tmp_path):
    def function(rate, key):
        model = uj.regularized(LABELS, dim=4, decay=0.1, loss="cross_entropy")
        return uj.simulate(model, uj.Flow(rate_W=rate, max_steps=40), model.init(key), [0.0, 1.0, 10.0], ["norm"])

    data = swept(tmp_path, function, {"rate": [0.01, 1e4]}).load()
    assert data["result"].isel(seed=0).values.tolist() == [0, int(uj.RunResult.MAX_STEPS)]
    assert np.all(np.isfinite(data["norm"].isel(rate=0))) and np.isnan(data["norm"].isel(rate=1, seed=0)[-1])
    store, steps = Store(tmp_path / "run.zarr"), data["steps"].values
    assert store.facts["adaptive"] == [9 * 4]  # few numbers, whose points therefore step, and wait, together
    assert status_of(store).waste == pytest.approx(1 - steps.sum() / (2 * steps.max())) and steps.min() < steps.max()


@pytest.mark.parametrize(
    ("function", "axes", "options", "message"),
    [
        (lambda x: {"y": x}, {"z": [1.0]}, {}, "the function takes"),
        (lambda x, y: {"y": x}, {"x": [1.0]}, {}, "the function takes"),
        (lambda x: {"y": x}, {"x": ["a"]}, {}, "needs finite numbers"),
        (lambda x: {"y": x}, {"x": [1.0, np.nan]}, {}, "needs finite numbers"),
        (lambda x: {"y": x}, {"x": [1.0, 1.0]}, {}, "holds a value twice"),
        (lambda x: {"y": x}, {"x": []}, {}, "needs finite numbers"),
        (lambda x: {"y": x}, [1.0], {}, "must be a dictionary"),
        (lambda x: {"y": x}, {"x": [1.0]}, {"seeds": 3}, "takes no `key`"),
        (lambda x: x, {"x": [1.0]}, {}, "returns a trajectory or a dictionary"),
        (lambda x: {}, {"x": [1.0]}, {}, "returns no array"),
        (lambda x: {"y": "text"}, {"x": [1.0]}, {}, "keeps numbers"),
        (lambda x: {"x": x}, {"x": [1.0]}, {}, "like an axis"),
        (lambda x: {"result": x}, {"x": [1.0]}, {}, "like an axis or a result"),
        (lambda x: {"y": jnp.zeros(3) * x}, {"x": [1.0]}, {"dims": {"y": ("a", "b")}}, "different names of its axes"),
        (lambda x: {"y": jnp.zeros(3) * x}, {"x": [1.0]}, {"dims": {"y": "a"}, "coords": {"a": [1]}}, "coords gives"),
        (lambda x: {"y": jnp.zeros(int(x))}, {"x": [1.0]}, {}, "move that axis to `static`"),
        (lambda x: {"y": np.sin(x)}, {"x": [1.0]}, {}, "move that axis to `static`"),
        (lambda x, n: {"y": jnp.zeros(n) * x}, {"x": [1.0]}, {"static": {"n": [1, 2]}}, "points of a sweep share one"),
        (lambda x, n: {"y": x}, {"x": [1.0]}, {"static": {"n": [[1], [1]]}}, "different labels"),
        (lambda x: {"y": x}, {"x": [1.0]}, {"precision": "half"}, "precision"),
        (lambda time: {"y": time}, {"time": [1.0]}, {}, "'time'"),
        (lambda x: {"../y": x}, {"x": [1.0]}, {}, "plain name"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused_before_anything_is_written(tmp_path, function, axes, options, message):
    with pytest.raises(ValueError, match=message):
        swept(tmp_path, function, axes, **options)
    assert not any(tmp_path.iterdir())


def test_a_plan_takes_no_arguments_of_a_function(tmp_path):
    with pytest.raises(ValueError, match="seeds belong to the sweep of a function"):
        uj.sweep("phase", tmp_path / "a.zarr", seeds=3)
    with pytest.raises(ValueError, match="plan"):
        uj.sweep(3, tmp_path / "a.zarr")


def test_an_error_of_the_function_while_it_runs_is_told(tmp_path):
    def function(x):
        if x > 2:
            raise RuntimeError("no solution here")
        return {"y": x}

    with pytest.raises(uj.SweepIncomplete, match="RuntimeError: no solution here"):
        swept(tmp_path, function, {"x": [1.0, 3.0]}, vmap=False, lanes=1)
    assert status_of(Store(tmp_path / "run.zarr")).done == 1


# --- the store belongs to its function --------------------------------------------------------------------------------


def of(scale):
    """Functions with one source that differ in what they close over."""

    def function(x):
        return {"y": x * scale}

    return function


def test_a_store_refuses_another_function_and_says_what_differs(tmp_path):
    swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})
    swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})  # the same
    with pytest.raises(ValueError, match=r'scale was "2.0", now "3.0".*give a `version`'):
        swept(tmp_path, of(3.0), {"x": [1.0, 2.0]})
    swept(tmp_path, of(3.0), {"x": [1.0, 2.0]}, version="1")  # its user says that it computes the same
    swept(tmp_path, of(4.0), {"x": [1.0, 2.0]}, version="1")
    with pytest.raises(ValueError, match='version was "1", now "2"'):
        swept(tmp_path, of(4.0), {"x": [1.0, 2.0]}, version="2")
    with pytest.raises(ValueError, match=r"axes\.x\.x was .*Choose another store, or restore what differs\.$"):
        swept(tmp_path, of(4.0), {"x": [1.0, 3.0]}, version="1")
    assert uj.open_sweep(tmp_path / "run.zarr")["y"].values.tolist() == [2.0, 4.0]


def test_a_changed_source_is_told_in_words(tmp_path):
    swept(tmp_path, lambda x: {"y": x}, {"x": [1.0]})
    with pytest.raises(ValueError, match=r"the source or the value of <lambda> has changed"):
        swept(tmp_path, lambda x: {"y": 2 * x}, {"x": [1.0]})


def test_an_interrupted_call_says_what_is_kept(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_store", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})
    assert caught.value.__notes__ == [f"0 of 2 points are kept in {tmp_path / 'run.zarr'}; the same call continues."]


def test_pictures_of_an_unfinished_sweep_say_so(tmp_path):
    swept(tmp_path, exactly, AXES, seeds=2, lanes=2, part=(0, 3))
    data = uj.open_sweep(tmp_path / "run.zarr").load()
    assert bands.titled(work.FunctionPlan(None, (), parts={"exactly": ""}), data) == "exactly (4 of 12 points)"


def test_a_store_of_a_function_is_data(tmp_path, monkeypatch):
    swept(tmp_path, exactly, AXES, seeds=2)
    monkeypatch.setattr(work, "_received", None)
    for module in ("cloudpickle", "pickle"):
        monkeypatch.setattr(sys.modules.get(module) or __import__(module), "loads", None)
    store = Store(tmp_path / "run.zarr")
    assert "12 of 12 done" in describe(store, status_of(store, verify=True))
    assert dict(uj.open_sweep(store.path)["norm"].sizes) == {"gamma": 3, "decay": 2, "seed": 2, "time": 3}


# --- more points ------------------------------------------------------------------------------------------------------


def test_a_store_grows_by_seeds_and_along_an_axis_and_keeps_what_is_there(tmp_path, monkeypatch):
    axes = {"x": [0.5, 1.5], "y": [0.0, 1.0]}
    before = swept(tmp_path, cheap, axes, seeds=4, lanes=4).load()
    with pytest.raises(ValueError, match=r"axes\.seed\.seed was .*extend=True"):
        swept(tmp_path, cheap, axes, seeds=8, lanes=4)
    computed = []
    commit = work.Job._commit
    monkeypatch.setattr(
        work.Job, "_commit", lambda job, number, *rest: computed.append(number) or commit(job, number, *rest)
    )
    grown = {**axes, "x": [0.5, 1.5, 2.5]}
    after = swept(tmp_path, cheap, grown, seeds=8, extend=True).load()
    assert (
        len(computed) == status_of(Store(tmp_path / "run.zarr")).blocks - 4
    )  # blocks of 4 seeds, of which 4 were there
    for name in before.data_vars:
        np.testing.assert_array_equal(after[name].isel(x=slice(2), seed=slice(4)), before[name], err_msg=str(name))
    fresh = swept(tmp_path, cheap, grown, seeds=8, lanes=4, name="fresh.zarr").load()
    for name in fresh.data_vars:
        np.testing.assert_array_equal(after[name], fresh[name], err_msg=str(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.zarr", "run.zarr"]


def test_growing_loses_nothing(tmp_path):
    swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"holds results at x = 2.0, which the new axes lack"):
        swept(tmp_path, of(2.0), {"x": [1.0, 3.0, 4.0]}, extend=True)
    with pytest.raises(ValueError, match="scale was"):
        swept(tmp_path, of(3.0), {"x": [1.0, 2.0, 4.0]}, extend=True)
    assert uj.open_sweep(tmp_path / "run.zarr")["y"].values.tolist() == [2.0, 4.0]


def test_one_process_at_a_time_extends_a_store(tmp_path, monkeypatch):
    grown, further = {"x": [1.0, 2.0, 3.0]}, {"x": [1.0, 2.0, 3.0, 4.0]}
    swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})
    told, copy = [], prepare.copy

    def meanwhile(*stores):
        for axes, how in ((further, {"extend": True}), ({"x": [1.0, 2.0]}, {})):
            with pytest.raises(ValueError, match="is in use: another process") as refused:
                swept(tmp_path, of(2.0), axes, **how)
            told.append(str(refused.value))
        return copy(*stores)

    monkeypatch.setattr(prepare, "copy", meanwhile)
    assert swept(tmp_path, of(2.0), grown, extend=True)["y"].values.tolist() == [2.0, 4.0, 6.0]
    assert "computes points of it, or extends it" in told[0] and "extends it now; make this call again" in told[1]
    monkeypatch.undo()

    held = subprocess.Popen(
        [sys.executable, "-c",
         "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_SH); print(flush=True); input()",
         str(tmp_path / "run.zarr")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    held.stdout.readline()  # as a process that computes points
    with pytest.raises(ValueError, match="computes points of it"):
        swept(tmp_path, of(2.0), further, extend=True)
    assert swept(tmp_path, of(2.0), grown)["y"].values.tolist() == [2.0, 4.0, 6.0]  # computing together is allowed
    held.kill()
    held.wait()
    assert swept(tmp_path, of(2.0), further, extend=True)["y"].values.tolist() == [2.0, 4.0, 6.0, 8.0]
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


def test_damage_to_the_store_of_a_function_names_the_call_that_mends_it(tmp_path):
    swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})
    (chunk,) = (path for path in (tmp_path / "run.zarr" / "y" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(Damaged, match=r"The same call of `sweep`, with the function, finds damaged blocks"):
        uj.open_sweep(tmp_path / "run.zarr")["y"].load()
    assert swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})["y"].values.tolist() == [2.0, 4.0]
    (tmp_path / "run.zarr" / "x" / "c" / "0").unlink()
    with pytest.raises(Damaged, match="The same call of `sweep`, with the function, writes again"):
        uj.open_sweep(tmp_path / "run.zarr")
    assert swept(tmp_path, of(2.0), {"x": [1.0, 2.0]})["x"].values.tolist() == [1.0, 2.0]


def test_a_plan_grows_too(tmp_path):
    tables = {
        "model": {"case": "regularized", "dim": 3, "decay": 0.1},
        "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
        "dynamics": {"kind": "descent", "schedule": 0.1},
        "run": {"times": [0, 5], "observe": ["norm"]},
        "sweep": {"method": "exact", "seeds": 2, "grid": {"model.gamma": [0.1, 0.2]}},
    }
    before = uj.sweep(uj.SweepPlan.of(tables), tmp_path / "a.zarr", lanes=2, workers=0, progress=False).load()
    tables["sweep"] = {**tables["sweep"], "seeds": 4, "grid": {"model.gamma": [0.1, 0.2, 0.3]}}
    plan = uj.SweepPlan.of(tables)
    with pytest.raises(ValueError, match="--extend"):
        uj.sweep(plan, tmp_path / "a.zarr", workers=0, progress=False)
    after = uj.sweep(plan, tmp_path / "a.zarr", workers=0, progress=False, extend=True).load()
    assert dict(after.sizes) == {"gamma": 3, "seed": 4, "time": 2} and np.all(after["result"] == 0)
    np.testing.assert_array_equal(after["norm"].isel(gamma=slice(2), seed=slice(2)), before["norm"])


def test_a_command_killed_between_two_names_loses_nothing(tmp_path, monkeypatch):
    before = swept(tmp_path, of(2.0), {"x": [1.0, 2.0]}).load()
    rename, calls = os.rename, []

    def dies(source, target):
        if calls and str(target).endswith("run.zarr"):
            raise KeyboardInterrupt
        calls.append(target)
        rename(source, target)

    monkeypatch.setattr(
        extension.os, "rename", lambda a, b: dies(a, b) if ".replaced-" in f"{a}{b}" or calls else rename(a, b)
    )
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, of(2.0), {"x": [1.0, 2.0, 3.0]}, extend=True)
    monkeypatch.undo()
    assert not (tmp_path / "run.zarr").exists()
    again = swept(tmp_path, of(2.0), {"x": [1.0, 2.0]}).load()
    np.testing.assert_array_equal(again["y"], before["y"])


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_tables_have_a_column_for_every_entry_of_an_array(tmp_path):
    swept(tmp_path, seeds=2)
    export(tmp_path / "run.zarr", tmp_path / "run.csv")
    table = pandas.read_csv(tmp_path / "run.csv")
    assert len(table) == 12 and {"x", "y", "seed", "draw", "large", "table[0,0]", "table[1,2]"} <= {*table.columns}
    row = table[(table.x == 1.5) & (table.y == 1.0) & (table.seed == 1)]
    assert row["table[1,2]"].item() == 2.5 and row["table[0,1]"].item() == 1.0


@pytest.mark.parametrize("kind", ["trajectory", "numbers"])
def test_pictures_of_a_function(tmp_path, kind):
    if kind == "trajectory":
        swept(tmp_path, exactly, AXES, seeds=2)
    else:
        swept(tmp_path, lambda x, y: {"sum": x + y, "rows": jnp.ones(2) * x})
    written = draw(tmp_path / "run.zarr", tmp_path / "pictures")
    names = {path.name for path in written}
    assert {"map.png", "map.svg", "report.html"} <= names and ("curves.png" in names) == (kind == "trajectory")
    with pytest.raises(ValueError, match="axes of its own"):
        draw(tmp_path / "run.zarr", tmp_path / "other", observe=["spread" if kind == "trajectory" else "rows"])


def test_a_broken_pickle_says_what_to_do():
    def function(x):
        return {"y": x, "lock": lock}

    import threading

    lock = threading.Lock()
    plan = work.FunctionPlan(function, ())
    with pytest.raises(ValueError, match="give workers=0"):
        run._sent(plan)
    assert run._sent("plan.toml") == "plan.toml" and engine.Here is not None


# --- what a function reads --------------------------------------------------------------------------------------------


def test_a_new_sweep_reads_what_is_there_now(tmp_path):
    class Settings:
        factor = 2.0

    def function(x, dim):
        return {"y": x * dim * Settings.factor}

    for number, dim in enumerate((8, 16)):
        data = swept(tmp_path, function, {"x": [1.0, 2.0]}, name=f"{number}.zarr", static={"dim": [dim]})
        assert data["y"].values.ravel().tolist() == [2.0 * dim, 4.0 * dim]
    Settings.factor = 3.0
    data = swept(tmp_path, function, {"x": [1.0, 2.0]}, name="other.zarr", static={"dim": [8]})
    assert data["y"].values.ravel().tolist() == [24.0, 48.0]
    with pytest.raises(ValueError, match=r'factor was "2.0", now "3.0"'):
        swept(tmp_path, function, {"x": [1.0, 2.0]}, name="0.zarr", static={"dim": [8]})


def test_static_values_belong_to_the_store(tmp_path):
    def function(x, power):
        return {"y": power(x)}

    swept(tmp_path, function, {"x": [2.0]}, static={"power": {"p": lambda x: x**2}})
    with pytest.raises(ValueError, match="static power = p"):
        swept(tmp_path, function, {"x": [2.0]}, static={"power": {"p": lambda x: x**3}}, extend=True)
    more = {"p": lambda x: x**2, "q": lambda x: x**3}
    data = swept(tmp_path, function, {"x": [2.0]}, static={"power": more}, extend=True)
    assert data["y"].values.ravel().tolist() == [4.0, 8.0]


def doubled(function):
    @functools.wraps(function)
    def wrapper(x):
        return 2 * function(x)

    return wrapper


def tripled(function):
    @functools.wraps(function)
    def wrapper(x):
        return 3 * function(x)

    return wrapper


class Kept:
    def __init__(self, scale):
        self.scale = scale

    @functools.cached_property
    def own(self):
        return self.scale * FACTOR

    def __call__(self, x):
        return x * self.own


FACTOR = 1.0


def plain(x):
    return x


def test_functions_that_compute_different_things_have_different_parts(tmp_path, monkeypatch):
    (tmp_path / "constants_of_mine.py").write_text("K = 1.0\n")
    (tmp_path / "helper_of_mine.py").write_text(
        "import constants_of_mine\ndef f(x):\n    return x * constants_of_mine.K\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import helper_of_mine

    here = fingerprint.parts_of
    two, three = (lambda x: 2 * x), (lambda x: 3 * x)  # on one line
    assert here(two) != here(three) and here(jax.jit(two)) != here(jax.jit(three))
    assert here(doubled(plain)) != here(tripled(plain))
    assert here(Kept(1.0)) != here(Kept(2.0)) and here(Kept(1.0)) == here(Kept(1.0))

    def uses(x):
        return helper_of_mine.f(x)

    before, kept = here(uses), here(Kept(1.0))
    assert before == here(uses)
    helper_of_mine.constants_of_mine.K = 7.0
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert here(uses) != before and here(Kept(1.0)) != kept


@pytest.mark.parametrize(
    ("function", "axes", "options", "message"),
    [
        (lambda x: {"y": x}, {"x": [1e300]}, {}, "do not fit float32"),
        (lambda x: {"y": x}, {"x": [16777216.0, 16777217.0]}, {}, "fall together"),
        (lambda x: {"y": x}, {"x": [2**40]}, {}, "32-bit whole numbers"),
        (lambda x: {"y": x}, {"x": [1.0]}, {"coords": {"x": [2.0]}}, "is an axis of the sweep"),
        (lambda x: {"y": x}, {"x": [1.0]}, {"dims": {"z": "a"}}, "does not return"),
        (lambda: {"y": 1.0}, {}, {}, "needs an axis"),
        (lambda x: {"times": x}, {"x": [1.0]}, {}, "a name of trajectories"),
        (lambda x: {"a": {"b": x}, "a.b": x}, {"x": [1.0]}, {}, "two arrays are called 'a.b'"),
    ],
)
def test_more_that_is_refused(tmp_path, function, axes, options, message):
    with pytest.raises(ValueError, match=message):
        swept(tmp_path, function, axes, **options)


def test_the_number_type_does_not_depend_on_the_first_point(tmp_path):
    with pytest.raises(uj.SweepIncomplete, match="always return the same number type"):
        swept(tmp_path, lambda x: {"y": 0 if x < 1 else x / 3}, {"x": [0.0, 1.0, 2.0]}, vmap=False)
    data = swept(tmp_path, lambda x: {"y": x * 1_000_000}, {"x": [1, 5000]}, vmap=False, name="whole.zarr")
    assert data["y"].values.tolist() == [1_000_000, 5_000_000_000]
    with pytest.raises(uj.SweepIncomplete, match="other arrays at some points"):
        swept(tmp_path, lambda x: {"y": x} | ({"z": x} if x > 1 else {}), {"x": [1.0, 2.0]}, vmap=False, name="c.zarr")


def test_states_of_a_run_are_kept(tmp_path):
    def function(gamma, key):
        model = uj.regularized(LABELS, dim=4, gamma=gamma, decay=0.1)
        return uj.exact(model, uj.Flow(), model.init(key), TIMES, ["norm"], states=True)

    data = swept(tmp_path, function, {"gamma": [0.2, 0.4]}).load()
    assert data["H"].shape == (2, 1, 3, 6, 4) and data["W"].dims[-3:] == ("time", "W_1", "W_2")
    norm = np.sqrt((data["H"] ** 2).sum(("H_1", "H_2")) + (data["W"] ** 2).sum(("W_1", "W_2")))
    np.testing.assert_allclose(norm, data["norm"], rtol=1e-5)


def test_axes_in_another_order_are_another_sweep(tmp_path):
    swept(tmp_path, lambda x, y: {"s": x + 2 * y}, {"x": [1.0], "y": [2.0, 3.0]})
    with pytest.raises(ValueError, match=r"options\.order was"):
        swept(tmp_path, lambda x, y: {"s": x + 2 * y}, {"y": [2.0, 3.0], "x": [1.0]})
