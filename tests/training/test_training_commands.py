"""`unhinged train` and `unhinged experiment`, their files and their messages; the examples."""

import csv
import importlib.util
import json
import sys

import numpy as np
import pytest
from checkout import ROOT

from unhinged_jax.cli import main
from unhinged_jax.training.experiments import SHIPPED, Experiment, figures, report, tables
from unhinged_jax.training.experiments.run import ExperimentOutcome
from unhinged_jax.training.extra import require

EXAMPLES = ROOT / "examples"
CONFIG = """
[data]
name = "digits"
classes = 10
[network]
width = 8
depth = 1
features = 9
[train]
epochs = {epochs}
batch = 256
shift = 0
[watch]
collapse = false
"""


def failure(capsys, *argv):
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    assert status == 1 and captured.out == "" and len(captured.err.splitlines()) == 1
    return captured.err


def write(folder, **changes):
    path = folder / "train.toml"
    path.write_text(CONFIG.format(epochs=2).replace(*changes["swap"]) if changes else CONFIG.format(epochs=2))
    return path


def test_a_run_writes_its_files_and_is_never_overwritten_by_mistake(tmp_path, capsys):
    for module in ("sklearn", "orbax.checkpoint"):
        pytest.importorskip(module, reason="needs the train extra")
    config, out = write(tmp_path), tmp_path / "out"
    assert main(["train", str(config), "--out", str(out)]) == 0
    assert "test accuracy" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "history.csv").open()))
    record = json.loads((out / "run.json").read_text())
    assert len(rows) == 2 and {"loss", "test_accuracy", "feature_norm"} <= set(rows[0])
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(record["test_accuracy"][0], abs=1e-6)
    assert "CC BY 4.0" in record["licence"] and (out / "history.png").stat().st_size > 5_000
    assert "already holds a run" in failure(capsys, "train", config, "--out", out)
    assert "give one of them" in failure(capsys, "train", config, "--out", out, "--force", "--resume")
    assert "holds no checkpoint" in failure(capsys, "train", config, "--out", tmp_path / "new", "--resume")
    # Resuming what is finished changes nothing.
    assert main(["train", str(config), "--out", str(out), "--resume"]) == 0
    assert json.loads((out / "run.json").read_text())["test_accuracy"] == record["test_accuracy"]


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (("classes = 10", "classes = 9"), "[data] classes is 9, but digits has 10"),
        (("features = 9", "features = 8"), "dim must be at least classes - 1 = 9"),
        (('"digits"', '"cifar10"'), "give the folder that holds cifar-10-binary.tar.gz"),
        (("depth", "dept"), "did you mean 'depth'?"),
        (("[network]", "[networks]"), "unknown section 'networks'"),
    ],
)
def test_bad_configurations_are_one_clear_line(tmp_path, capsys, swap, message):
    pytest.importorskip("sklearn", reason="digits are inside scikit-learn")
    config = write(tmp_path, swap=swap)
    assert message in failure(capsys, "train", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    message = r"mlxtend is needed here but not installed; run pip install 'unhinged-jax\[train\]'"
    with pytest.raises(ValueError, match=message):
        require("mlxtend.data")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "ntk"])
def test_shipped_experiments_are_read_whole(name):
    plan = Experiment.read(name, train={"epochs": 1, "seeds": 2})
    assert len(plan.cases) == len(plan.variants) * len(plan.points)
    assert {case.settings.train.epochs for case in plan.cases} == {1}
    assert len({case.slug for case in plan.cases}) == len(plan.cases)


def test_experiments_that_cannot_be_are_refused(tmp_path, capsys):
    assert "Shipped: fig2" in failure(capsys, "experiment", "fig3", "--out", tmp_path / "x")
    assert "epochs cannot be changed" in failure(capsys, "experiment", "ntk", "--epochs", "3", "--out", tmp_path / "x")
    path = tmp_path / "own.toml"
    path.write_text('[experiment]\nreport = "curves"\ntitle = "t"\n[[variant]]\nhead = {kind = "pal"}\n')
    assert "needs a label" in failure(capsys, "experiment", path, "--out", tmp_path / "x")
    path.write_text('[experiment]\nreport = "pie"\ntitle = "t"\n')
    assert "report must be one of" in failure(capsys, "experiment", path, "--out", tmp_path / "x")


def outcome(variant, point, seeds=3, stopped=-1, outside=False):
    draw = np.random.default_rng(len(variant))
    labels = np.arange(40) % 4
    logits = draw.normal(size=(seeds, 40, 4)) + 2 * np.eye(4)[labels]
    history = {name: draw.uniform(0.5, 1, (3, seeds)) for name in ("test_accuracy", "feature_norm", "norm_W")}
    history["prototype_ratio"] = np.ones((3, seeds))
    pairs = {"elsewhere": (draw.normal(size=(seeds, 30, 4)), draw.uniform(1, 2, (seeds, 30)))} if outside else {}
    return ExperimentOutcome(
        variant, point, history, labels, logits, draw.uniform(2, 3, (seeds, 40)), pairs,
        np.full(seeds, stopped), np.full(4, 10), 1.0,
    )  # fmt: skip


@pytest.mark.long_for("imbalance")
@pytest.mark.parametrize("name", ["fig2", "imbalance", "ood", "blowup", "noise"])
def test_reports_hold_what_was_measured(tmp_path, name):
    plan = Experiment.read(name)
    found = [outcome(case.variant, case.point, outside=name == "ood") for case in plan.cases]
    if name == "blowup":
        found[1] = outcome(found[1].variant, "", stopped=2)
    paths = report.write(plan, found, tmp_path, {"command": "", "processor_seconds_of_cases": 1.0, "seconds": 1.0})
    text = paths[0].read_text()
    assert all(variant in text for variant in plan.variants) and all(point in text for point in plan.points)
    assert ("stopped in epoch 3" in text) == (name == "blowup")
    assert all(path.exists() for path in paths)
    with (tmp_path / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = [float(row["value"]) for row in rows if row["measure"] == "accuracy" and row["variant"] == found[0].variant]
    if first:
        np.testing.assert_allclose(first[:3], found[0].accuracy)


def test_intervals_are_those_of_student():
    mean = tables.mean_of(np.array([1.0, 2.0, 4.0, np.nan]))
    error = np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert (mean.value, mean.seeds) == (pytest.approx(7 / 3), 3) and mean.error == pytest.approx(error)
    assert mean.high - mean.value == pytest.approx(4.302652729911275 * error)  # t of two degrees of freedom
    assert tables.mean_of(np.array([np.nan])).percent() == "stopped"


@pytest.mark.parametrize(("gap", "words"), [(0.05, "is above CE"), (-0.2, "more than one standard error below CE")])
def test_the_verdict_says_plainly_which_is_better(gap, words):
    reference, candidate = outcome("CE", ""), outcome("CE", "")
    right = np.mean(np.argmax(reference.logits, axis=-1) == reference.labels, axis=-1)
    object.__setattr__(candidate, "variant", "UL")
    flips = int(abs(gap) * 40)
    for seed in range(3):
        is_right = np.argmax(candidate.logits[seed], axis=-1) == candidate.labels
        rows = np.flatnonzero(~is_right if gap > 0 else is_right)[:flips]
        candidate.logits[seed, rows] = 0
        wanted = candidate.labels[rows] if gap > 0 else (candidate.labels[rows] + 1) % 4
        candidate.logits[seed, rows, wanted] = 9
    assert words in tables.verdict([reference, candidate], "CE", "UL")
    assert np.all(np.sign(candidate.accuracy - right) == np.sign(gap))


def test_a_reliability_diagram_shows_accuracy_and_gap():
    figure = figures.reliability_diagrams([outcome("CE", "long-tailed 10"), outcome("CE 2", "long-tailed 10")])
    assert len(figure.axes) == 2 and "ECE" in figure.axes[0].texts[0].get_text()


def test_variants_whose_points_stand_alone_differ_in_colour_or_marker():
    figure = figures.against_points([outcome(f"variant {i}", "step 100") for i in range(16)], "accuracy")
    (axes,) = figure.axes
    looks = {(bars.lines[0].get_color(), bars.lines[0].get_marker()) for bars in axes.containers}
    assert len(axes.containers) == len(looks) == 16


@pytest.mark.parametrize("name", ["heads_in_equinox", "heads_in_flax"])
def test_the_heads_train_in_either_framework(name):
    if name == "heads_in_flax":
        pytest.importorskip("flax", reason="shown with flax")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main() > 0.9
