"""Files of commands: whole or not at all, with the mode of any new file, and never in the place of others unasked."""

import csv
import json
import os
import types

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax._files import make_folder, refuse_there, whole
from unhinged_jax.cli import main
from unhinged_jax.paper import reproduce
from unhinged_jax.paper.figures import FIGURES
from unhinged_jax.runs import files
from unhinged_jax.theories import command as theories
from unhinged_jax.training import command as training
from unhinged_jax.trajectory import tables


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_is_whole_and_has_the_mode_of_a_new_one(tmp_path, mask):
    path, before = tmp_path / "page.html", os.umask(mask)
    try:
        path.write_text("older")
        with pytest.raises(OSError, match="no space"), whole(path) as part:
            part.write_text("a third")
            raise OSError("no space")
        assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]
        with whole(path) as one, whole(path) as two:  # two writers at once
            one.write_text("one")
            two.write_text("two")
        assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(before)


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "all.csv"
    with pytest.raises(ValueError, match="is there already; replace it with --force"), whole(path, force=False) as part:
        part.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match="are there already"):
        refuse_there([path, tmp_path / "link"])
    make_folder(tmp_path / "link")
    assert (tmp_path / "nowhere").is_dir()


def test_theories_replaces_nothing_unasked(tmp_path, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("refuse before anything runs")

    monkeypatch.setattr(theories, "findings", never)
    page = tmp_path / "theories.md"
    monkeypatch.chdir(tmp_path)
    page.write_text("mine")
    assert main(["theories", "frozen"]) == 1
    assert "theories.md is there already; replace it with --force" in capsys.readouterr().err
    page.unlink()
    (tmp_path / "theories").mkdir()
    (tmp_path / "theories" / "frozen.svg").write_text("mine")
    assert main(["theories", "frozen"]) == 1 and "frozen.svg" in capsys.readouterr().err


def test_reproduce_replaces_nothing_unasked_and_keeps_what_it_says_of_other_figures(tmp_path):
    figures = [FIGURES["1"]()]
    (tmp_path / "summary.json").write_text(json.dumps({"seed": None, "figures": {"9": {"title": "kept"}}}))
    assert reproduce._before(tmp_path, figures, None, False) == {"9": {"title": "kept"}}
    for seed, force, wanted in ((4, True, {}), (None, True, {"9": {"title": "kept"}})):
        assert reproduce._before(tmp_path, figures, seed, force) == wanted
    with pytest.raises(ValueError, match=r"summary.json is there already"):
        reproduce._before(tmp_path, figures, 4, False)
    (tmp_path / "fig1a.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"fig1a.csv is there already; replace it with --force"):
        reproduce.main(["1"], tmp_path)


def test_certificates_and_sensitivities_replace_nothing_unasked(tmp_path, capsys):
    (tmp_path / "v.json").write_text("mine")
    (tmp_path / "s.csv").write_text("mine")
    (tmp_path / "run.toml").write_text("")
    assert main(["verify", "--json", str(tmp_path / "v.json")]) == 1 and "--force" in capsys.readouterr().err
    assert main(["sensitivity", str(tmp_path / "run.toml"), "--out", str(tmp_path / "s.csv")]) == 1
    assert "s.csv is there already" in capsys.readouterr().err
    assert (tmp_path / "v.json").read_text() == (tmp_path / "s.csv").read_text() == "mine"


def small():
    model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
    return uj.exact(model, uj.Flow(), model.init(jax.random.key(0)), [0.0, 1.0, 2.0], observe=["norm", "accuracy"])


def test_a_csv_file_of_a_run_is_whole_and_replaces_an_older_one_as_pandas_does(tmp_path, monkeypatch):
    run, path = small(), tmp_path / "run.csv"
    run.to_csv(path)
    text = path.read_text()
    run.to_csv(str(path))
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]

    def full(place, *_):
        place.write_text("a third")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write_csv", full)
    with pytest.raises(OSError, match="No space"):
        run.to_csv(path)
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["observables.nc", "final.npz"])
def test_a_run_is_not_continued_from_damaged_files(tmp_path, name):
    flow, identity = uj.Flow(), {"any": 1}
    with files.workspace(tmp_path / "run") as place:
        files.write_run(tmp_path / "run", place, small(), identity, {})
    stored = files.read_run(tmp_path / "run", flow)
    assert stored.identity == identity and stored.trajectory["norm"].shape == (3,)
    path = tmp_path / "run" / name
    whole_file = path.read_bytes()
    for at in np.linspace(0, len(whole_file) - 1, 60).astype(int):
        spoilt = bytearray(whole_file)
        spoilt[at] ^= 16
        path.write_bytes(spoilt)
        try:
            found = files.read_run(tmp_path / "run", flow)
        except ValueError as error:
            assert name in str(error)
        else:  # a byte that says nothing
            assert found.identity == identity
            for key in ("norm", "accuracy"):
                np.testing.assert_array_equal(found.trajectory[key], stored.trajectory[key])
            np.testing.assert_array_equal(found.trajectory.final.H, stored.trajectory.final.H)


def test_columns_of_a_history_do_not_depend_on_where_a_run_was_interrupted(tmp_path, monkeypatch):
    """A checkpoint gives names in alphabetical order."""
    names = ["feature_norm", "loss", "train_accuracy", "test_accuracy", "norm_W", "prototype_ratio", "nc1", "nc2"]
    monkeypatch.setattr("unhinged_jax.training.experiments.figures.save", lambda *_: None)
    monkeypatch.setattr("unhinged_jax.training.pictures.history", lambda *_: None)
    heads = []
    for order in (names, sorted(names), names[::-1]):
        history = {name: np.full((2, 1), float(names.index(name))) for name in order}
        settings = types.SimpleNamespace(seeds=(0,), tables=dict)
        run = types.SimpleNamespace(history=history, epochs=2, settings=settings, stopped=np.array([-1]), seconds=[1.0])
        data = types.SimpleNamespace(licence="", train_y=np.zeros(1, int), test_y=np.zeros(1, int), classes=2)
        evaluation = types.SimpleNamespace(logits=np.zeros((1, 1, 2)), accuracy=lambda y: np.ones(1))
        training._write(tmp_path, run, data, evaluation)
        heads.append(list(csv.reader((tmp_path / "history.csv").open())))
    assert heads[0] == heads[1] == heads[2] and heads[0][0] == ["epoch", "seed", *names]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "run.json"]


def test_force_removes_a_link_and_not_what_it_stands_for(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    training._make_room(tmp_path / "out", force=True, resume=False)
    assert (tmp_path / "elsewhere" / "kept").exists() and not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_told_with_the_place(tmp_path, capsys, monkeypatch):
    """A limit on the size of files stands in for it; Python names no file then."""
    import resource

    (tmp_path / "one.toml").write_text(
        'model = {case = "unconstrained", dim = 40}\nlabels = {layout = "balanced", classes = 3, per_class = 20}\n'
        'dynamics = {kind = "flow"}\nrun = {times = [0, 1], observe = ["norm"]}\n'
    )
    (tmp_path / "plan.toml").write_text((tmp_path / "one.toml").read_text() + "sweep = {seeds = 2}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, command, place in (
        (2000, ["simulate", str(tmp_path / "one.toml"), "--out", str(tmp_path / "out")], "out"),
        (100, ["sweep", str(tmp_path / "plan.toml"), "--store", str(tmp_path / "s.zarr")], "s.zarr"),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            assert main([*command]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"unhinged: error: {tmp_path / place}") and line.endswith(": File too large")
        assert not (tmp_path / place / "final.npz").exists() and not (tmp_path / "s.zarr").exists()
    with pytest.raises(OSError, match=r"No space left on device: .*numbers.csv"), whole(tmp_path / "numbers.csv"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "numbers.csv").exists()
