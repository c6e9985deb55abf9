"""A plan is code, a store is data: what opening, plotting and exporting a store may touch, and what it shows."""

import json
import shutil
import sys

import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import config
from unhinged_jax.cli import main
from unhinged_jax.sweeps import work
from unhinged_jax.sweeps.boundaries import boundaries
from unhinged_jax.sweeps.pictures import draw
from unhinged_jax.training.experiments.markdown import as_code, as_text

OURS = """
from pathlib import Path
Path(__file__).with_name("imported").touch()


def rate(t):
    return 0.1 + 0 * t


def made(size):
    return lambda t: size + 0 * t
"""

TABLES = {
    "model": {"case": "regularized", "dim": 3, "decay": 0.1},
    "labels": {"layout": "counts", "counts": "counts.npy", "class_weights": "weights.npz:w"},
    "dynamics": {
        "kind": "descent", "schedule": "code_of_a_plan:rate", "rate_H": {"kind": "code_of_a_plan:made", "size": 1.0}
    },
    "run": {"times": "times.npy", "observe": ["norm"], "precision": "float64"},
    "sweep": {
        "grid": {"model.gamma": [0.0, 0.5, 1.0], "model.decay": [0.05, 0.1, 0.2]},
    },
}  # fmt: skip


def laid(folder, weights=(1.0, 2.0, 3.0)):
    """Everything that TABLES name, in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "code_of_a_plan.py").write_text(OURS)
    np.save(folder / "counts.npy", [3, 2, 1])
    np.savez(folder / "weights.npz", w=np.array(weights))
    np.save(folder / "times.npy", [0, 5, 20])
    return folder


def plan_in(folder, **changed):
    return uj.SweepPlan.of({**TABLES, **changed}, folder / "plan.toml")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a plan's files and its finished store, after which the files are taken away."""
    folder = laid(tmp_path_factory.mktemp("made"))
    plan = plan_in(folder)
    lines = boundaries(plan, "gamma", "decay", {})
    uj.sweep(plan, folder / "s.zarr", workers=0, progress=False)
    for name in ("code_of_a_plan.py", "counts.npy", "weights.npz", "times.npy", "imported"):
        (folder / name).unlink()
    sys.modules.pop("code_of_a_plan")
    return folder, lines


def test_reading_a_store_neither_imports_nor_opens_what_it_names(made, tmp_path, monkeypatch):
    """Whatever lies where a store could point to is left alone; theory's lines come from the store's own numbers."""
    store = tmp_path / "s.zarr"
    shutil.copytree(made[0] / "s.zarr", store)
    traps = [laid(place, weights=[3.0, 1.0, 9.0]) for place in (store, tmp_path, tmp_path / "here")]
    monkeypatch.chdir(tmp_path / "here")
    assert main(["plot", str(store), "--out", str(tmp_path / "out")]) == 0
    assert main(["sweep", "--store", str(store), "--status"]) == 0
    assert main(["sweep", "--store", str(store), "--export", str(tmp_path / "all.csv")]) == 0
    uj.open_sweep(store).load()
    assert not any((trap / "imported").exists() for trap in traps) and "code_of_a_plan" not in sys.modules
    text = (tmp_path / "out" / "report.html").read_text()
    held = json.loads(next(line for line in text.splitlines() if line.startswith("const D = "))[10:-1])
    assert made[1] and held["boundaries"]
    for line in made[1]:
        same = [one for one in held["boundaries"] if (one["x"], one["y"], one["meaning"]) == (0, 1, line.meaning)]
        # A report keeps seven digits.
        np.testing.assert_allclose(np.array(same[0]["points"]), np.stack([line.x, line.y], axis=1), rtol=5e-7)


def test_a_store_that_claims_a_place_of_code_is_not_believed(made, tmp_path):
    """As one made by an older version, or by hand: the folder that it records is nobody's plan."""
    trap = laid(tmp_path / "trap")
    store = tmp_path / "s.zarr"
    shutil.copytree(made[0] / "s.zarr", store)
    record = json.loads((store / "zarr.json").read_text())
    facts = json.loads(record["attributes"]["execution"])
    del record["attributes"]["seal"], facts["arrays"]
    record["attributes"]["execution"] = json.dumps({**facts, "folder": str(trap)})
    (store / "zarr.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="older version"):
        assert len(draw(store, tmp_path / "out")) == 5
    assert not (trap / "imported").exists() and "code_of_a_plan" not in sys.modules


def test_workers_take_what_a_plan_names_from_beside_that_plan(tmp_path):
    """Copied with its files, a sweep goes on with the copies; a file that has changed since is refused."""
    tables = {
        **TABLES, "labels": {**TABLES["labels"], "counts": [2, 2]}, "dynamics": {"kind": "descent"},
        "run": {"times": [0, 5], "observe": ["norm"]}, "sweep": {"grid": {"model.gamma": [0.0, 0.5]}},
    }  # fmt: skip
    old, new = laid(tmp_path / "old", weights=[1.0, 2.0]), tmp_path / "new"
    options = {"workers": 0, "lanes": 1, "progress": False}
    uj.sweep(plan_in(old, **tables), old / "s.zarr", part=(0, 2), **options)
    shutil.copytree(old, new)
    laid(old, weights=[5.0, 1.0])
    found = uj.sweep(plan_in(new, **tables), new / "s.zarr", **options).load()
    fresh = uj.sweep(plan_in(new, **tables), new / "fresh.zarr", **options)
    np.testing.assert_array_equal(found["norm"], fresh["norm"])
    with pytest.raises(ValueError, match=r"inputs.weights.npz was"):
        uj.sweep(plan_in(old, **tables), old / "s.zarr", **options)
    assert str(tmp_path) not in (new / "s.zarr" / "zarr.json").read_text()  # nor does the store tell whose it was

    # A file that changes while a sweep runs, which only its workers can see.
    with pytest.raises(ValueError, match=r"weights.npz is not the file with which this sweep began"):
        work.run_blocks(str(old / "s.zarr"), (1,), source=str(old / "plan.toml"))
    with pytest.raises(ValueError, match="a store is data; run it with the plan"):
        work.run_blocks(str(old / "s.zarr"), (1,))


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".hidden", "zarr.json", "__root__"])
def test_a_name_cannot_be_a_path(tmp_path, name):
    grid = {"model.gamma": {"values": [0.1, 0.2], "name": name}}
    tables = {
        **TABLES, "labels": {"layout": "balanced", "classes": 2, "per_class": 1}, "run": {"times": [0, 1]},
        "dynamics": {"kind": "descent"}, "sweep": {"grid": grid},
    }  # fmt: skip
    with pytest.raises(ValueError, match="would be a path in the store"):
        uj.sweep(uj.SweepPlan.of(tables), tmp_path / "in" / "s.zarr", workers=0, progress=False)
    assert not list(tmp_path.rglob("*zarr*"))


def test_pickles_are_refused_in_every_array_file(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "bad.npz", w=np.array([{}], dtype=object))
    for file in ("bad.npy", "bad.npz", "bad.npz:w"):
        with pytest.raises(ValueError, match="not a file of plain arrays"):
            config.Files(tmp_path).array("counts", file)


def test_modules_belong_to_the_file_that_names_them(tmp_path):
    """Two folders with a module of one name, in one process; and one that is edited meanwhile."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "module_beside.py").write_text(f"def f():\n    return {number}\n")
    first, second = config.Files(tmp_path / "1"), config.Files(tmp_path / "2")
    assert (first.function("module_beside:f")(), second.function("module_beside:f")()) == (1, 2)
    assert list(first.digests) == ["module_beside.py"] and first.digests != second.digests
    assert second.function("module_beside:f") is second.function("module_beside:f")
    (tmp_path / "2" / "module_beside.py").write_text("def f():\n    return 300\n")
    assert config.Files(tmp_path / "2").function("module_beside:f")() == 300
    assert not config.Files(tmp_path / "2").digests  # nothing was asked of these


def test_names_in_pages_are_text():
    hostile = "<img src=x onerror=alert(1)> | [a](javascript:b) `x`\n# y"
    shown = as_text(hostile)
    assert "<" not in shown and "\n" not in shown and "\\|" in shown and "\\[a\\]" in shown and "\\`x\\`" in shown
    assert as_code("a `` b") == "``` a `` b ```" and as_code("plain") == "`plain`"
