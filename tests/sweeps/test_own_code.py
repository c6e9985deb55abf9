"""Losses, observables, optimisers and schedules of one's own, named in a file and taken from modules beside it."""

import copy
import hashlib
import json
import sys

import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import config
from unhinged_jax.cli import main
from unhinged_jax.sweeps.groups import grouping_of

MODULE = """
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import unhinged_jax as uj
from helpers_of_a_plan import SHARE
from unhinged_jax.losses import Loss

Path(__file__).with_name("imported").touch()


class Tempered(Loss):
    tau: float = 1.0

    def __call__(self, logits, targets):
        return -self.tau * jnp.sum(targets * jax.nn.log_softmax(logits / self.tau), axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Called:
    tau: float = 1.0

    def __call__(self, logits, targets):
        return Tempered(self.tau)(logits, targets)


def tempered(logits, targets, tau=1.0):
    return Tempered(tau)(logits, targets)


def largest(model, state):
    return jnp.max(jnp.abs(state.W))


def quantile(model, state, q):
    return jnp.quantile(jnp.abs(state.W), q)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, model, state):
        return self.factor * jnp.max(jnp.abs(state.W))


def clipped(rate, most):
    return optax.chain(optax.clip_by_global_norm(most), optax.sgd(rate))


def falling(k):
    return SHARE / (1 + k)


class Steady:
    def __call__(self, k):
        return SHARE + 0.0 * k
"""
HELPERS = "SHARE = 0.5\n"
TABLES = {
    "model": {"case": "unconstrained", "dim": 3, "loss": {"name": "code_of_mine:Tempered", "tau": 2.0}},
    "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
    "dynamics": {
        "kind": "descent", "schedule": "code_of_mine:falling",
        "optimizer": {"name": "code_of_mine:clipped", "rate": 0.5, "most": 0.3},
    },
    "run": {
        "times": [0, 4, 9], "precision": "float64",
        "observe": [
            "norm", "code_of_mine:largest", {"name": "code_of_mine:quantile", "q": 0.25},
            {"name": "code_of_mine:Scaled", "factor": 3.0},
        ],
    },
}  # fmt: skip
GRID = {
    "model.loss.tau": [1.0, 2.0], "dynamics.optimizer.rate": [0.25, 0.5], "dynamics.optimizer.most": [0.1, 0.3],
}  # fmt: skip


def laid(folder):
    """The modules that TABLES name, in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "code_of_mine.py").write_text(MODULE)
    (folder / "helpers_of_a_plan.py").write_text(HELPERS)
    return folder


def built(folder, **sections):
    tables = copy.deepcopy(TABLES)
    for name, keys in sections.items():
        tables[name].update(keys)
    return config.build(config.config_of(tables, folder / "run.toml"))


def run_of(problem):
    return uj.simulate(problem.model, problem.dynamics, problem.state, problem.times, problem.observe)


def by_hand(state, tau=2.0, rate=0.5, most=0.3):
    """H and W after the updates of TABLES, in a NumPy loop."""
    H, W, Y = np.array(state.H), np.array(state.W), np.repeat(np.eye(3), 2, axis=0)
    for k in range(9):
        scores = np.exp(H @ W.T / tau)
        slope = (scores / scores.sum(axis=1, keepdims=True) - Y) / len(H)
        grads = [slope @ W, slope.T @ H]
        norm = np.sqrt(sum(np.sum(g**2) for g in grads))
        H, W = (x - 0.5 / (1 + k) * rate * min(1, most / norm) * g for x, g in zip((H, W), grads, strict=True))
    return H, W


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the modules of a plan and its finished store."""
    folder = laid(tmp_path_factory.mktemp("own"))
    plan = uj.SweepPlan.of({**TABLES, "sweep": {"grid": GRID}}, folder / "plan.toml")
    return folder, plan, uj.sweep(plan, folder / "s.zarr", workers=0, progress=False).load()


def test_a_sweep_over_numbers_of_ones_own_is_one_program_with_the_numbers_of_a_loop(made):
    _, plan, data = made
    grouping = grouping_of(plan)
    assert {key for keys in grouping.traced for key in keys} >= GRID.keys() and len(grouping.groups) == 1
    start = config.build(plan.config).state
    for place in np.ndindex(2, 2, 2):
        tau, rate, most = (values[i] for i, values in zip(place, GRID.values(), strict=True))
        H, W = by_hand(start, tau, rate, most)
        last = {name: float(data[name].values[(*place, 0, 2)]) for name in data.data_vars if data[name].ndim == 5}
        assert last["norm"] == pytest.approx(np.sqrt(np.sum(H**2) + np.sum(W**2)), rel=1e-12)
        assert last["largest"] == pytest.approx(np.max(np.abs(W)), rel=1e-12)
        assert last["quantile"] == pytest.approx(np.quantile(np.abs(W), 0.25), rel=1e-12)
        assert last["Scaled"] == pytest.approx(3 * np.max(np.abs(W)), rel=1e-12)


@pytest.mark.parametrize("kind", ["Tempered", "Called", "tempered"])
def test_losses_are_classes_or_functions_with_numbers(kind, tmp_path):
    problem = built(laid(tmp_path), model={"loss": {"name": f"code_of_mine:{kind}", "tau": 1.5}})
    W = by_hand(problem.state, tau=1.5)[1]
    assert float(run_of(problem).last("largest")) == pytest.approx(np.max(np.abs(W)), rel=1e-12)
    if kind == "tempered":  # the numbers of a function are part of the program
        return
    step, names = 1e-5, ["loss.tau", "optimizer.rate", "optimizer.most"]
    table = uj.sensitivity(problem.model, problem.dynamics, problem.state, [9], "norm_W", names)
    want = []
    for name, at in (("tau", 1.5), ("rate", 0.5), ("most", 0.3)):
        ends = [{"tau": 1.5, name: at + sign * step} for sign in (1, -1)]
        up, down = (np.linalg.norm(by_hand(problem.state, **end)[1]) for end in ends)
        want.append((up - down) / (2 * step))
    np.testing.assert_allclose(table["first"].sel(source="simulated").squeeze(), want, rtol=1e-6)


def test_a_schedule_may_be_a_class_and_one_observable_a_text(tmp_path):
    problem = built(
        laid(tmp_path), dynamics={"schedule": "code_of_mine:Steady"}, run={"observe": "code_of_mine:largest"}
    )
    assert float(problem.dynamics.schedule(7)) == 0.5 and [*problem.observe] == ["largest"]
    assert [*run_of(problem).observables] == ["largest"]


def test_the_digests_of_a_module_and_of_what_it_imports_from_beside_it_are_recorded(made, tmp_path):
    folder, plan, data = made
    held = json.loads(data.attrs["plan"])["inputs"]
    names = ["code_of_mine.py", "helpers_of_a_plan.py"]
    assert held == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "helpers_of_a_plan.py").write_text(HELPERS + "# other words\n")
    try:
        with pytest.raises(ValueError, match=r"inputs.helpers_of_a_plan.py was"):
            uj.sweep(plan, folder / "s.zarr", workers=0, progress=False)
    finally:
        (folder / "helpers_of_a_plan.py").write_text(HELPERS)


def test_what_changes_beside_a_module_is_imported_again(tmp_path):
    """Packages, relative imports and modules that import one another; what is not beside the file is left alone."""
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import value\n\n\ndef f():\n    return value()\n")
    (package / "inner.py").write_text(
        "import json\nimport jax\nimport unhinged_jax\nfrom package_of_mine import other\n\n\n"
        "def value():\n    return other.NUMBER\n"
    )
    (package / "other.py").write_text("import package_of_mine\nNUMBER = 1\n")
    (package / "unused.py").write_text("raise RuntimeError\n")
    (tmp_path / "unhinged_jax").mkdir()
    (tmp_path / "unhinged_jax" / "__init__.py").write_text("")

    def taken():
        files = config.Files(tmp_path)
        return files.function("package_of_mine:f")(), files.digests

    (first, before), (again, same) = taken(), taken()
    assert first == again == 1 and before == same
    assert sorted(before) == [f"package_of_mine/{name}.py" for name in ("__init__", "inner", "other")]
    (package / "other.py").write_text("import package_of_mine\nNUMBER = 2\n")
    second, after = taken()
    assert second == 2 and {name for name in before if before[name] != after[name]} == {"package_of_mine/other.py"}


def test_opening_plotting_and_exporting_import_nothing(made, tmp_path, monkeypatch):
    folder, _, data = made
    store = str(folder / "s.zarr")
    for name in ("code_of_mine", "helpers_of_a_plan"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / "imported").unlink(missing_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # the modules could be found
    assert uj.open_sweep(store).load().equals(data)
    assert main(["plot", store, "--out", str(tmp_path / "pictures")]) == 0
    assert main(["sweep", "--store", store, "--status"]) == 0
    assert main(["sweep", "--store", store, "--export", str(tmp_path / "all.csv")]) == 0
    assert "code_of_mine" not in sys.modules and not (folder / "imported").exists()
    assert "largest" in (tmp_path / "pictures" / "report.html").read_text()


WRONG = {
    "twice": (["norm", "norm"], "two observables 'norm'"),
    "a name of the library": (["code_of_others:norm"], "two observables 'norm'"),
    "numbers of a name": ([{"name": "norm", "q": 1}], "takes no q"),
    "no name": ([3], "must be a name or a table with a name, but is 3"),
    "a number that it does not take": ([{"name": "code_of_mine:quantile", "p": 0.5}], r"unknown key 'p'.*Known: .*q"),
    "a missing module": (["code_of_nobody:f"], "cannot be imported"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_observables_are_refused(case, tmp_path):
    observe, told = WRONG[case]
    with pytest.raises(config.ConfigError, match=rf"run.toml: \[run\]: .*{told}"):
        built(laid(tmp_path), run={"observe": observe})


def test_an_observable_with_the_name_of_a_result_is_refused(tmp_path):
    (laid(tmp_path) / "bad_names_of_mine.py").write_text("def steps(model, state):\n    return state.W[0, 0]\n")
    tables = {**TABLES, "run": {"times": [0, 1], "observe": ["bad_names_of_mine:steps"]}, "sweep": {"seeds": 2}}
    with pytest.raises(ValueError, match="an observable is called 'steps', like a result of the sweep"):
        uj.sweep(uj.SweepPlan.of(tables, tmp_path / "plan.toml"), tmp_path / "s.zarr", workers=0, progress=False)


def test_a_run_from_a_file_keeps_what_is_its_own(tmp_path):
    """In one command, resumed in another; another module is refused."""
    laid(tmp_path)
    text = """
    model = {case = "unconstrained", dim = 3, loss = {name = "code_of_mine:Tempered", tau = 2.0}}
    labels = {layout = "balanced", classes = 3, per_class = 2}
    dynamics = {kind = "descent", schedule = "code_of_mine:falling",
                optimizer = {name = "code_of_mine:clipped", rate = 0.5, most = 0.3}}
    run = {times = TIMES, observe = ["norm", "code_of_mine:largest"], precision = "float64"}
    """
    file, out = tmp_path / "run.toml", tmp_path / "out"

    def command(times, *more):
        file.write_text(text.replace("\n                ", " ").replace("TIMES", times))
        return main(["simulate", str(file), "--out", str(out), *more])

    assert command("[0, 4]") == 0 and command("[0, 4, 9]", "--resume") == 0
    rows = np.genfromtxt(out / "observables.csv", delimiter=",", names=True)
    start = config.build(config.read_config(file)).state
    np.testing.assert_allclose(rows["largest"][-1], np.max(np.abs(by_hand(start)[1])), rtol=1e-12)
    (tmp_path / "helpers_of_a_plan.py").write_text("SHARE = 0.4\n")
    assert command("[0, 4, 9, 12]", "--resume") == 1
