"""The command line, its configuration and its files."""

import dataclasses
import json
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
import xarray
from checkout import ROOT

import unhinged_jax as uj
from unhinged_jax import plots
from unhinged_jax.cli import main
from unhinged_jax.config import build, read_config
from unhinged_jax.runs import files
from unhinged_jax.trajectory import RunResult

EXAMPLE = ROOT / "examples" / "regularized.toml"
BASE = {
    "model": 'case = "regularized"\ndim = 4\ndecay = 0.05',
    "labels": 'layout = "counts"\ncounts = [1, 2, 2]',
    "state": "seed = 3",
    "dynamics": 'kind = "descent"\nschedule = {kind = "cosine", peak = 0.5, horizon = 30}\nmomentum = 0.9',
    "run": 'times = [0, 5, 9, 14, 20]\nobserve = ["norm", "loss", "distance"]\nprecision = "float64"',
}


def config(folder, name="run.toml", **sections):
    """A configuration file: BASE with some sections replaced; None leaves one out."""
    tables = {**BASE, **sections}
    text = "\n".join(f"[{key}]\n{body}" for key, body in tables.items() if body is not None)
    path = Path(folder) / name
    path.write_text(text + "\n")
    return path


def failure(capsys, *argv):
    """The one line that a command with bad input leaves on standard error."""
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    assert status == 1
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("unhinged: error: ")
    return captured.err


# --- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--help", "--version", "simulate --help", "nonsense"])
def test_the_command_line_starts_without_jax(option):
    code = f"""
        import sys
        from unhinged_jax.cli import main
        status = main({option.split()!r})
        heavy = {{"jax", "matplotlib", "xarray", "numpy"}} & set(sys.modules)
        assert not heavy, heavy
        sys.exit(status)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    if option == "nonsense":
        assert done.returncode == 1 and "nonsense" in done.stderr and len(done.stderr.splitlines()) == 1
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_a_process_reports_bad_input_in_one_line_and_its_status(tmp_path):
    path = config(tmp_path, model='case = "regularized"\ndim = 4\ndecay = 0.1\ngama = 0.1')
    command = [sys.executable, "-m", "unhinged_jax.cli", "simulate", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"unhinged: error: {path}: [model]: unknown key 'gama'; did you mean 'gamma'? Known: case, dim, gamma, "
        "loss, decay, bias, decay_b, rescale, free_prototypes, unit_prototypes, kernel, depth, activation.\n"
    )
    assert not (tmp_path / "out").exists()


# --- bad input --------------------------------------------------------------------------------

MODEL, LABELS, DYNAMICS = BASE["model"], BASE["labels"], BASE["dynamics"]
FLOW = 'kind = "flow"\n'
BAD = {
    "unknown section": ({"modell": "x = 1"}, ["unknown section 'modell'", "'model'"]),
    "unknown nested key": (
        {"labels": LABELS + '\nnoise = {kind = "symmetric", rat = 0.1}'},
        ["[labels] noise", "'rat'", "'rate'"],
    ),
    "unknown schedule key": (
        {"dynamics": 'kind = "descent"\nschedule = {kind = "cosine", peak = 0.1, horizn = 5}'},
        ["[dynamics]", "'horizn'", "'horizon'"],
    ),
    "missing key": ({"model": 'case = "unconstrained"'}, ["[model]", "'dim' is missing"]),
    "missing section": ({"dynamics": None}, ["[dynamics]", "'kind' is missing"]),
    "missing argument": ({"model": 'case = "regularized"\ndim = 4'}, ["[model]", "'decay'"]),
    "bad TOML": ({"model": "case = "}, ["not a TOML file", "line"]),
    "wrong type": ({"model": MODEL + '\nbias = "yes"'}, ["[model] bias", "true or false", "'yes'"]),
    "a bool is no number": ({"model": MODEL + "\ngamma = true"}, ["[model] gamma", "a number"]),
    "unknown case": ({"model": 'case = "regularised"\ndim = 4'}, ["case 'regularised'", "'regularized'"]),
    "key of another case": (
        {"model": 'case = "anchored"\ndim = 4\nbias = true'},
        ["case 'anchored'", "unknown key 'bias'"],
    ),
    "counts of zero": ({"labels": 'layout = "counts"\ncounts = [2, 0]'}, ["[labels]", "counts"]),
    "negative gamma": ({"model": MODEL + "\ngamma = -1.0"}, ["[model]", "gamma", "-1.0"]),
    "label out of range": (
        {"labels": 'layout = "labels"\nlabels = [0, 1, 7]\nclasses = 3'},
        ["[labels]", "0 ... 2"],
    ),
    "key of another layout": (
        {"labels": 'layout = "balanced"\nclasses = 3\nper_class = 2\nratio = 2.0'},
        ["layout 'balanced'", "'ratio'"],
    ),
    "mismatched shape": ({"state": "features = [[1.0, 2.0]]"}, ["[state]", "features", "(5, 4)", "(1, 2)"]),
    "ragged array": ({"state": "features = [[1.0, 2.0], [1.0]]"}, ["[state]", "features"]),
    "ETF in few dimensions": (
        {"model": 'case = "anchored"\ndim = 1', "state": 'prototypes = "etf"'},
        ["[state]", "dim", "ETF"],
    ),
    "misspelt start": ({"state": 'features = "nrmal"'}, ["[state]", "'nrmal'", "'normal'"]),
    "no such array": ({"state": 'features = "nowhere.npy"'}, ["[state]", "nowhere.npy", "No such file"]),
    "NaN in the state": ({"state": 'features = "arrays.npz:bad"'}, ["[state]", "NaN"]),
    "array not named": ({"state": 'features = "arrays.npz"'}, ["arrays.npz:KEY", "bad, good"]),
    "array not there": ({"state": 'features = "arrays.npz:best"'}, ["has no array", "bad, good"]),
    "pickled array": ({"state": 'features = "pickled.npy"'}, ["pickled.npy", "plain arrays"]),
    "empty array file": ({"state": 'features = "empty.npy"'}, ["empty.npy", "plain arrays"]),
    "unsorted times": ({"run": "times = [0, 5, 4]"}, ["run.toml", "strictly ascending"]),
    "fraction of an update": ({"run": "until = 2.5"}, ["[run]", "whole", "2.5"]),
    "times and until": ({"run": "until = 5\ntimes = [1, 2]"}, ["[run]", "either"]),
    "unknown precision": ({"run": 'until = 5\nprecision = "float16"'}, ["[run]", "float16"]),
    "unknown observable": ({"run": 'until = 5\nobserve = ["los"]'}, ["run.toml", "'los'", "loss"]),
    "tolerance of float32": (
        {"dynamics": FLOW + "rtol = 1e-12", "run": 'until = 1.0\nprecision = "float32"'},
        ["run.toml", "rtol", "float64"],
    ),
    "momentum of a flow": ({"dynamics": FLOW + "momentum = 0.9"}, ["momentum belongs to kind = 'descent'"]),
    "solver of a descent": (
        {"dynamics": 'kind = "descent"\nsolver = "Tsit5"'},
        ["solver belongs to kind = 'flow'"],
    ),
    "unknown solver": ({"dynamics": FLOW + 'solver = "Tist5"'}, ["[dynamics]", "'Tist5'", "'Tsit5'"]),
    "solver without error estimate": ({"dynamics": FLOW + 'solver = "Euler"'}, ["[dynamics]", "'Euler'"]),
    "optimizer lacks its rate": (
        {"dynamics": 'kind = "descent"\noptimizer = "adam"'},
        ["'adam'", "'learning_rate'"],
    ),
    "not an optimizer": (
        {"dynamics": 'kind = "descent"\noptimizer = {name = "constant_schedule", value = 1.0}'},
        ["not an optax optimiser"],
    ),
    "no optimizer by itself": (
        {"dynamics": 'kind = "descent"\noptimizer = "rescale_by_feature_norm"'},
        ["'rescale_by_feature_norm'", "uphill", "optax.scale_by_learning_rate"],
    ),
    "no optimizer by itself, though it takes a rate": (
        {"dynamics": 'kind = "descent"\noptimizer = {name = "scale_by_rprop", learning_rate = 0.1}'},
        ["'scale_by_rprop'", "uphill"],
    ),
    "NAdam, of whose arguments some are filled in": (
        {"dynamics": 'kind = "descent"\noptimizer = "nadam"'},
        ["'nadam'", "'learning_rate'"],
    ),
    "unknown loss": ({"model": MODEL + '\nloss = "hing"'}, ["[model]", "'hing'", "'hinge'"]),
    "loss that cannot be imported": ({"model": MODEL + '\nloss = "no_module:f"'}, ["no_module:f", "imported"]),
    "noise by seed and by expectation": (
        {"labels": LABELS + '\nnoise = {kind = "symmetric", rate = 0.1, seed = 1, expected = true}'},
        ["[labels]", "either a seed"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, tmp_path, capsys):
    features = np.ones((5, 4))
    np.savez(tmp_path / "arrays.npz", bad=features * np.nan, good=features)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    sections, expected = BAD[case]
    path = config(tmp_path, **sections)
    message = failure(capsys, "simulate", path, "--out", tmp_path / "out")
    assert str(path) in message
    for part in expected:
        assert part in message
    assert output_files(tmp_path / "out") == {}


def test_exact_flow_refuses_rates_that_are_not_proportional(tmp_path, capsys):
    rates = 'kind = "flow"\nrate_H = {kind = "exponential", initial = 1.0, rate = 0.1}'
    path = config(tmp_path, dynamics=rates)
    assert "not proportional" in failure(capsys, "simulate", path, "--out", tmp_path / "out", "--exact")


def test_missing_files_and_folders_are_named(tmp_path, capsys):
    missing = tmp_path / "missing.toml"
    assert f"{missing}: No such file" in failure(capsys, "simulate", missing, "--out", tmp_path)
    blocked = tmp_path / "file"
    blocked.touch()
    assert str(blocked) in failure(capsys, "simulate", config(tmp_path), "--out", blocked / "out")
    assert "--out" in failure(capsys, "simulate", config(tmp_path))
    assert "float16" in failure(capsys, "simulate", config(tmp_path), "--out", "x", "--precision", "float16")
    both = ["--force", "--resume"]
    assert "give one of them" in failure(capsys, "simulate", config(tmp_path), "--out", tmp_path, *both)


# --- building ---------------------------------------------------------------------------------


def test_the_example_builds():
    problem = build(read_config(EXAMPLE))
    expected = uj.regularized(uj.balanced(10, 20), dim=64, gamma=0.1, decay=2e-2)
    assert jax.tree.structure(problem.model) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, problem.model, expected)
    assert problem.dynamics == uj.Flow(uj.cosine(0.5, 2000))
    np.testing.assert_array_equal(problem.times, uj.logspaced(0.2, 2000.0, 300))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", uj.constant(0.5)),
        ('{kind = "constant", value = 0.5}', uj.constant(0.5)),
        ('{kind = "cosine", peak = 0.1, horizon = 9, floor = 0.01}', uj.cosine(0.1, 9, 0.01)),
        ('{kind = "exponential", initial = 0.1, rate = 0.2}', uj.exponential(0.1, 0.2)),
        ('{kind = "polynomial", initial = 0.1, horizon = 9, power = 2.0}', uj.polynomial(0.1, 9, 2.0)),
        ('{kind = "piecewise", values = [0.2, 0.1], boundaries = [4.0]}', uj.piecewise([0.2, 0.1], [4.0])),
        (
            '{kind = "warmup", length = 3, schedule = {kind = "cosine", peak = 0.1, horizon = 9}}',
            uj.warmup(3, uj.cosine(0.1, 9)),
        ),
        (
            '{kind = "join", schedules = [0.1, {kind = "warmup", length = 3, schedule = 0.2}], boundaries = [4.0]}',
            uj.join([0.1, uj.warmup(3, 0.2)], [4.0]),
        ),
        (
            '{kind = "warmup_stable_decay", peak = 0.1, warmup = 2, stable = 3, decay = 4}',
            uj.warmup_stable_decay(0.1, warmup=2, stable=3, decay=4),
        ),
    ],
)
def test_schedules(text, expected, tmp_path):
    path = config(tmp_path, dynamics=f'kind = "flow"\nschedule = {text}')
    assert build(read_config(path)).dynamics.schedule == expected


def test_functions_are_imported_from_beside_the_file(tmp_path, monkeypatch):
    (tmp_path / "my_parts_for_cli.py").write_text(
        "import jax.numpy as jnp\n"
        "def squares(logits, targets, power=2):\n    return jnp.sum((logits - targets) ** power, axis=-1)\n"
        "def rate(t):\n    return 0.25 + 0.0 * t\n"
    )
    monkeypatch.setitem(sys.modules, "my_parts_for_cli", None)
    monkeypatch.delitem(sys.modules, "my_parts_for_cli")
    path = config(
        tmp_path,
        model=MODEL + '\nloss = {name = "my_parts_for_cli:squares", power = 4}',
        dynamics='kind = "descent"\nschedule = "my_parts_for_cli:rate"\n'
        'rate_W = {kind = "optax:cosine_decay_schedule", init_value = 0.3, decay_steps = 10}',
    )
    problem = build(read_config(path))
    assert str(tmp_path) not in sys.path
    logits = jnp.array([[3.0, 1.0, 0.0]])
    np.testing.assert_allclose(problem.model.loss(logits, jnp.array([0])), [2.0**4 + 1.0])
    assert float(problem.dynamics.schedule(7)) == 0.25
    np.testing.assert_allclose(problem.dynamics.rate_W(5), 0.15, rtol=1e-6)
    other = config(tmp_path, "optax.toml", model=MODEL + '\nloss = "optax.losses:softmax_cross_entropy"')
    assert build(read_config(other)).model.loss.function is optax.losses.softmax_cross_entropy


def test_labels_and_state_equal_those_of_the_library(tmp_path):
    rng = np.random.default_rng(0)
    features, kernel = rng.standard_normal((5, 4)), np.diag([1.0, 2.0, 3.0, 4.0, 5.0])
    np.savez(tmp_path / "arrays.npz", features=features, other=features)
    np.save(tmp_path / "kernel.npy", kernel)
    path = config(
        tmp_path,
        model='case = "ntk_invariant"\ndim = 4\ndecay = [0.1, 0.2]\nkernel = "kernel.npy"\ngamma = 0.3',
        labels=LABELS + '\nnoise = {kind = "symmetric", rate = 0.4, seed = 5}\nsmoothing = 0.1\n'
        "class_weights = [1, 2, 3]",
        state='features = "arrays.npz:features"\nprototypes = "kaiming"\nscale = 2.0\nbias = [1, 0, 0]',
        run="until = 40\npoints = 5",
    )
    config_read = read_config(path)
    narrow, wide = build(config_read), build(config_read, "float64")
    with jax.enable_x64(False):
        noisy = uj.from_counts([1, 2, 2]).symmetric_noise(0.4, jax.random.key(5)).smoothed(0.1)
    model = uj.ntk_invariant(noisy.weighted(classes=[1, 2, 3]), 4, kernel, decay=(0.1, 0.2), gamma=0.3)
    start = {"features": features, "prototypes": "kaiming", "scale": 2.0, "bias": np.array([1, 0, 0])}
    for problem in (narrow, wide):
        jax.tree.map(np.testing.assert_array_equal, problem.model, model)
        state = model.init(jax.random.key(0), precision=problem.precision, **start)
        jax.tree.map(np.testing.assert_array_equal, problem.state, state)
        assert problem.state.W.dtype == problem.precision
    assert narrow.times.tolist() == [0, 10, 20, 30, 40]
    assert sorted(narrow.inputs) == ["arrays.npz", "kernel.npy"]


# --- running, stopping, going on --------------------------------------------------------------


def output_files(folder):
    """Content of every file of a run, by name; nothing else may be there."""
    if not folder.exists():
        return {}
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(found) <= set(files.FILES)
    return found


def final(folder):
    with np.load(folder / "final.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name != "tree"}


def assert_same_run(folder, reference):
    a, b = final(folder), final(reference)
    assert sorted(a) == sorted(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-14, err_msg=name)
    tables = [pandas.read_csv(f / "observables.csv", index_col="time") for f in (folder, reference)]
    pandas.testing.assert_frame_equal(*tables, rtol=1e-12, atol=0)
    with xarray.open_dataset(folder / "observables.nc") as x, xarray.open_dataset(reference / "observables.nc") as y:
        assert x["time"].values.tolist() == y["time"].values.tolist()
        assert list(x.data_vars) == list(y.data_vars)
        for name in x.data_vars:
            np.testing.assert_allclose(x[name], y[name], rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.fixture(scope="module")
def momentum_runs(tmp_path_factory):
    """A run with momentum, whole; and its first half, with the configuration to go on."""
    folder = tmp_path_factory.mktemp("momentum")
    whole = config(folder, run=BASE["run"] + "\nstates = true")
    half = config(folder, "half.toml", run=(BASE["run"] + "\nstates = true").replace(", 14, 20]", "]"))
    assert main(["simulate", str(whole), "--out", str(folder / "whole")]) == 0
    assert main(["simulate", str(half), "--out", str(folder / "half")]) == 0
    return folder


def copy(folder, target):
    target.mkdir()
    for name, content in output_files(folder).items():
        (target / name).write_bytes(content)
    return target


def test_files_hold_what_the_library_computes(momentum_runs):
    folder = momentum_runs / "whole"
    assert set(output_files(folder)) == set(files.FILES)
    model = uj.regularized(uj.from_counts([1, 2, 2]), 4, decay=0.05)
    state = model.init(jax.random.key(3), precision="float64")
    descent = uj.Descent(uj.cosine(0.5, 30), momentum=0.9)
    times, names = [0, 5, 9, 14, 20], ["norm", "loss", "distance"]
    truth = uj.exact(model, descent, state, times, names, states=True)
    table = pandas.read_csv(folder / "observables.csv", index_col="time")
    assert list(table.columns) == names
    assert table.index.tolist() == times
    with xarray.open_dataset(folder / "observables.nc") as data:
        for name in names:
            np.testing.assert_allclose(table[name], truth[name], rtol=1e-11)
            np.testing.assert_array_equal(data[name], table[name])
        np.testing.assert_allclose(data["state_H"], truth.states.H, rtol=0, atol=1e-12)
        assert data["state_W"].dims == ("time", "class", "coordinate")
    end = final(folder)
    np.testing.assert_allclose(end["W"], truth.final.W, rtol=0, atol=1e-12)
    assert end["elapsed"] == 20 and end["H"].dtype == np.float64
    record = json.loads((folder / "run.json").read_text())
    assert record["result"] == {"code": 0, "name": "completed", "message": RunResult.COMPLETED.message}
    assert record["versions"]["jax"] == jax.__version__
    assert record["config"]["model"] == {"case": "regularized", "dim": 4, "decay": 0.05}
    assert record["seconds"] > 0
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in (folder / "curves.svg").read_bytes()


def test_resume_with_momentum_equals_one_run(momentum_runs, tmp_path, capsys):
    target = copy(momentum_runs / "half", tmp_path / "out")
    assert main(["simulate", str(momentum_runs / "run.toml"), "--out", str(target), "--resume"]) == 0
    assert_same_run(target, momentum_runs / "whole")
    assert json.loads((target / "run.json").read_text())["continued_from"] == 9
    printed = capsys.readouterr()
    assert printed.out.startswith("Trajectory (simulated): 5 of 5 times, last at 20\n")
    assert len(printed.out.splitlines()) == 5 and printed.err == ""
    again = failure(capsys, "simulate", momentum_runs / "run.toml", "--out", target, "--resume")
    assert "reached 20 already" in again


def test_a_kill_between_two_files_loses_nothing(momentum_runs, tmp_path, monkeypatch, capsys):
    target = copy(momentum_runs / "half", tmp_path / "out")
    argv = ["simulate", str(momentum_runs / "run.toml"), "--out", str(target), "--resume"]
    moved = []

    class Killed(BaseException):
        pass

    def replace(source, destination):
        if len(moved) == 3:
            raise Killed
        moved.append(Path(source).rename(destination))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(Killed):
            main(argv)
    assert final(target)["elapsed"] == 9
    left = target / ".unfinished-of-a-killed-run"
    left.mkdir()
    assert main(argv) == 0
    assert_same_run(target, momentum_runs / "whole")
    assert not left.exists()


@pytest.mark.long
def test_resume_with_adam_equals_one_run(tmp_path):
    adam = 'kind = "descent"\noptimizer = {name = "adam", learning_rate = 0.05, b1 = 0.8}'
    run = 'times = [0, 5, 9, 14, 20]\nobserve = ["norm", "accuracy"]\nprecision = "float64"'
    whole = config(tmp_path, dynamics=adam, run=run)
    half = config(tmp_path, "half.toml", dynamics=adam, run=run.replace(", 14, 20]", "]"))
    assert main(["simulate", str(whole), "--out", str(tmp_path / "whole")]) == 0
    assert main(["simulate", str(half), "--out", str(tmp_path / "out")]) == 0
    assert sum(name.startswith("memory.") for name in final(tmp_path / "out")) == 7
    assert main(["simulate", str(whole), "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert_same_run(tmp_path / "out", tmp_path / "whole")


def test_resume_refuses_another_problem(momentum_runs, tmp_path, capsys):
    target = copy(momentum_runs / "half", tmp_path / "out")
    before = output_files(target)
    other = config(tmp_path, model=MODEL.replace("0.05", "0.06"), run=BASE["run"] + "\nstates = true")
    message = failure(capsys, "simulate", other, "--out", target, "--resume")
    assert "config.model.decay = 0.05" in message and "0.06" in message
    same = momentum_runs / "run.toml"
    assert "precision" in failure(capsys, "simulate", same, "--out", target, "--resume", "--precision", "float32")
    assert "exact = False" in failure(capsys, "simulate", same, "--out", target, "--resume", "--exact")
    assert "no final.npz" in failure(capsys, "simulate", same, "--out", tmp_path / "empty", "--resume")
    assert output_files(target) == before
    (target / "final.npz").write_bytes(b"not an archive")
    assert "final.npz" in failure(capsys, "simulate", same, "--out", target, "--resume")


def test_results_are_replaced_only_when_asked(momentum_runs, tmp_path, capsys):
    target = copy(momentum_runs / "half", tmp_path / "out")
    (target / "notes.txt").write_text("mine")
    whole = momentum_runs / "run.toml"
    before = {name: (target / name).read_bytes() for name in files.FILES}
    message = failure(capsys, "simulate", whole, "--out", target)
    assert "--force" in message and "observables.csv" in message
    assert before == {name: (target / name).read_bytes() for name in files.FILES}
    assert main(["simulate", str(whole), "--out", str(target), "--force"]) == 0
    assert (target / "notes.txt").read_text() == "mine"
    (target / "notes.txt").unlink()
    assert_same_run(target, momentum_runs / "whole")


def test_a_run_that_stops_early_says_so_and_can_be_looked_at(tmp_path, capsys):
    path = config(
        tmp_path,
        model='case = "unconstrained"\ndim = 4\nloss = "mse"',
        dynamics='kind = "descent"\nschedule = 50.0',
        run='until = 400\npoints = 5\nobserve = ["norm"]',
    )
    assert main(["simulate", str(path), "--out", str(tmp_path / "out")]) == 3
    captured = capsys.readouterr()
    assert captured.err == f"unhinged: stopped early: {RunResult.OVERFLOW.message}\n"
    table = pandas.read_csv(tmp_path / "out" / "observables.csv", index_col="time")
    assert table["norm"].notna().tolist() == [True, False, False, False, False]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["result"]["name"] == "overflow"


def test_exact_is_resumed_and_takes_the_precision_asked_for(tmp_path, capsys):
    plain = 'kind = "flow"\nschedule = 0.5'
    run = 'times = [0.0, 1.0, 3.0]\nobserve = ["norm"]'
    argv = ["--out", str(tmp_path / "out"), "--exact", "--precision", "float64"]
    short = config(tmp_path, "short.toml", dynamics=plain, run=run.replace(", 3.0", ""))
    whole = config(tmp_path, dynamics=plain, run=run)
    assert main(["simulate", str(short), *argv]) == 0
    assert main(["simulate", str(whole), *argv, "--resume"]) == 0
    problem = build(read_config(whole), "float64")
    truth = uj.exact(problem.model, problem.dynamics, problem.state, [0.0, 1.0, 3.0], "norm")
    table = pandas.read_csv(tmp_path / "out" / "observables.csv")
    np.testing.assert_allclose(table["norm"], truth["norm"], rtol=1e-13)
    assert capsys.readouterr().out.count("Trajectory (exact)") == 2


def test_what_is_measured_from_the_start_of_a_run_is_so_when_it_is_resumed(tmp_path):
    plain = 'kind = "flow"\nschedule = 0.5'
    run = 'times = [0.0, 1.0]\nobserve = ["norm", "gap_H"]'
    path = config(tmp_path, dynamics=plain, run=run)
    argv = ["simulate", str(path), "--out", str(tmp_path / "out"), "--exact", "--precision", "float64"]
    assert main(argv) == 0
    config(tmp_path, dynamics=plain, run=run.replace("1.0", "1.0, 2.0"))
    assert main([*argv, "--resume"]) == 0
    problem = build(read_config(path), "float64")
    truth = uj.exact(problem.model, problem.dynamics, problem.state, [0.0, 1.0, 2.0], "gap_H", precision="float64")
    table = pandas.read_csv(tmp_path / "out" / "observables.csv")
    np.testing.assert_allclose(table["gap_H"], truth["gap_H"], rtol=1e-12)


# --- plots ------------------------------------------------------------------------------------


def test_axes_are_logarithmic_where_values_span_decades():
    times = np.geomspace(1e-3, 1e3, 50)
    values = {"falls": 1 / (1 + times) ** 2, "flat": 2 + np.sin(times), "signed": times - 5, "lost": times * np.nan}
    model = uj.unconstrained(uj.balanced(2, 1), 2)
    state = model.init(jax.random.key(0))
    run = uj.Trajectory(times, {**values, "vector": np.ones((50, 3))}, np.ones(50, bool), state, 1e3, 0, 0)
    figure = run.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["falls", "flat", "signed", "lost"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear", "linear"]
    assert [axes.get_xscale() for axes in figure.axes[:3]] == ["log"] * 3
    assert figure.axes[3].texts[0].get_text() == "no finite values"
    even = dataclasses.replace(run, times=np.linspace(0, 1e3, 50)).plot()
    assert even.axes[0].get_xscale() == "linear"
    with pytest.raises(ValueError, match="no scalar observable"):
        dataclasses.replace(run, observables={}).plot()


def test_the_style_ends_with_its_context():
    import matplotlib

    before = matplotlib.rcParams["axes.grid"]
    with plots.style():
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(plots.PALETTE)
    assert matplotlib.rcParams["axes.grid"] == before


# --- commands that live elsewhere -------------------------------------------------------------


@pytest.fixture
def called(monkeypatch):
    """Stand-ins for the modules behind `verify`, `reproduce` and `doctor`; what they were called with."""
    calls = []

    def stand_in(status):
        def run(**arguments):
            calls.append(arguments)
            return status

        return types.SimpleNamespace(main=run)

    import unhinged_jax.diagnosis.doctor as doctor

    monkeypatch.setitem(sys.modules, "unhinged_jax.certificate", stand_in(1))
    monkeypatch.setitem(sys.modules, "unhinged_jax.paper", types.ModuleType("paper"))
    monkeypatch.setitem(sys.modules, "unhinged_jax.paper.reproduce", stand_in(0))
    monkeypatch.setattr(doctor, "main", stand_in(1).main)
    return calls


def test_verify_and_doctor_pass_their_status_on(called, tmp_path):
    assert main(["verify", "--json", str(tmp_path / "v.json")]) == 1
    assert main(["doctor", "--json"]) == 1
    assert called == [{"json": tmp_path / "v.json"}, {"json": True}]


def test_reproduce_passes_its_arguments_and_computes_again(called, tmp_path):
    assert main(["reproduce", "1", "9", "--out", str(tmp_path), "--seed", "4"]) == 0
    assert called == [{"figures": ("1", "9"), "out": tmp_path, "at": None, "seed": 4}]
    (tmp_path / "fig1a.csv").touch()
    at = tmp_path / "at.csv"
    at.write_text("figure,t\n1a,7\n")
    assert main(["reproduce", "--out", str(tmp_path), "--at", str(at)]) == 0
    assert called[1:] == [{"figures": (), "out": tmp_path, "at": at, "seed": None}]
