"""`unhinged measure` on every kind of file, and what it says of those that it does not open."""

import io
import json
import pickle
import sys
import types
import zipfile

import numpy as np
import pandas
import pytest

import unhinged_jax as uj
from unhinged_jax.cli import main

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 4
H, W, B = RNG.normal(size=(4, 6))[LABELS] + RNG.normal(size=(40, 6)), RNG.normal(size=(4, 6)), RNG.normal(size=4)
OOD = RNG.normal(size=(9, 6)) + 1
WHOLE = uj.measure(H, LABELS, W, B)


def told(capsys, *argv):
    """The JSON that the command prints."""
    assert main(["measure", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def values(record):
    return {name: entry["value"] for name, entry in record["metrics"].items()}


def failure(capsys, *argv):
    """The one line that a command with bad input leaves on standard error."""
    assert main(["measure", *map(str, argv)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    return captured.err


@pytest.mark.parametrize(
    "names",
    [
        ("features", "labels", "prototypes", "bias"),
        ("H", "y", "W", "b"),
        ("features", "labels", "weight", "bias"),
    ],
)
def test_arrays_are_found_by_their_usual_names(tmp_path, capsys, names):
    file = tmp_path / "network.npz"
    np.savez(file, **dict(zip(names, (H, LABELS, W, B), strict=True)), other=np.ones(3))
    assert values(told(capsys, file)) == WHOLE.values


def test_arrays_of_other_names_are_named(tmp_path, capsys):
    file = tmp_path / "network.npz"
    np.savez(file, h=H, classes=LABELS, head=W, offset=B, W=W[:2])
    given = ("--features", "h", "--labels", "classes", "--prototypes", "head", "--bias", "offset")
    assert values(told(capsys, file, *given)) == WHOLE.values
    assert "holds no features under the name features or H; it has h, classes, head, offset, W; say which with" in (
        failure(capsys, file)
    )
    assert "holds no bias under the name c; it has" in failure(capsys, file, *given[:-1], "c")


def test_features_from_outside_are_named_or_called_ood(tmp_path, capsys):
    file = tmp_path / "network.npz"
    want = uj.measure(H, LABELS, W, B, ood=OOD).values
    assert "nc5" in want
    np.savez(file, features=H, labels=LABELS, prototypes=W, bias=B, ood=OOD)
    assert values(told(capsys, file)) == want
    np.savez(file, features=H, labels=LABELS, prototypes=W, bias=B, svhn=OOD)
    assert values(told(capsys, file)) == WHOLE.values
    assert values(told(capsys, file, "--ood", "svhn")) == want
    assert "holds no ood under the name noise" in failure(capsys, file, "--ood", "noise")


def test_the_table_is_printed_and_a_csv_file_written_once(tmp_path, capsys):
    file, out = tmp_path / "network.npz", tmp_path / "metrics.csv"
    np.savez(file, features=H, labels=LABELS)
    assert main(["measure", str(file), "--csv", str(out)]) == 0
    assert capsys.readouterr().out == f"{uj.measure(H, LABELS)}\n"
    frame = pandas.read_csv(out, index_col="metric")
    pandas.testing.assert_frame_equal(frame, uj.measure(H, LABELS).to_dataframe(), check_exact=True)
    out.write_text("mine")
    assert "is there already" in failure(capsys, file, "--csv", out)
    assert out.read_text() == "mine"
    assert main(["measure", str(file), "--csv", str(out), "--force"]) == 0 and out.read_text() != "mine"


@pytest.mark.parametrize("classes", ["numbers", "numbers from 1", "names"])
def test_a_csv_file_has_a_column_of_labels(tmp_path, capsys, classes):
    file = tmp_path / "features.csv"
    names = {
        "numbers": LABELS, "numbers from 1": LABELS + 1, "names": np.array(["ant", "bee", "cat", "dog"])[LABELS]
    }[classes]  # fmt: skip
    frame = pandas.DataFrame(H, columns=[f"h{k}" for k in range(6)])
    frame.insert(2, "label", names)
    frame.to_csv(file, index=False)
    assert values(told(capsys, file)) == uj.measure(H, LABELS).values
    frame.rename(columns={"label": "species"}).to_csv(file, index=False)
    assert values(told(capsys, file, "--labels", "species")) == uj.measure(H, LABELS).values
    assert "holds no labels under the name labels or y or label or targets; it has h0, h1, species" in (
        failure(capsys, file)
    )


def test_csv_files_that_hold_something_else(tmp_path, capsys):
    file = tmp_path / "features.csv"
    frame = pandas.DataFrame({"label": LABELS, "h": H[:, 0], "name": "x"})
    frame.to_csv(file, index=False)
    assert "column name holds text, but every column beside label is a feature" in failure(capsys, file)
    assert "--bias names an array of an .npz or .pt file" in failure(capsys, file, "--bias", "h")
    frame.drop(columns="name").assign(label=LABELS + 0.5).to_csv(file, index=False)
    assert "column label must hold a class for every sample" in failure(capsys, file)
    frame.drop(columns="name").assign(h=np.where(LABELS == 1, np.nan, 1)).to_csv(file, index=False)
    assert "features must hold finite numbers, but 10 of its 40 entries" in failure(capsys, file)
    file.write_text("")
    assert "is not a CSV file with a line of names" in failure(capsys, file)


class Torch(types.ModuleType):
    """Stands for PyTorch: reads pickles of NumPy arrays, and notes how it was asked."""

    def __init__(self, held):
        super().__init__("torch")
        self.held, self.asked = held, []

    def load(self, path, **how):
        self.asked.append(how)
        if isinstance(self.held, Exception):
            raise self.held
        return self.held


def test_a_file_of_pytorch_is_loaded_without_running_code(tmp_path, capsys, monkeypatch):
    file = tmp_path / "network.pt"
    file.write_bytes(b"anything")
    head = {"fc.weight": W, "fc.bias": B}
    torch = Torch({"features": H, "labels": LABELS, "model": head})
    monkeypatch.setitem(sys.modules, "torch", torch)
    given = ("--prototypes", "model.fc.weight", "--bias", "model.fc.bias")
    assert values(told(capsys, file, *given)) == WHOLE.values
    assert torch.asked == [{"map_location": "cpu", "weights_only": True}]
    torch.held = pickle.UnpicklingError("Weights only load failed.")
    assert "holds more than tensors, which is not opened because it could run code; write it with torch.save" in (
        failure(capsys, file)
    )
    torch.held = H
    assert "must hold a dictionary of tensors, but holds an array of shape (40, 6)" in failure(capsys, file)


def test_without_pytorch_its_files_are_refused_with_a_way_out(tmp_path, capsys, monkeypatch):
    file = tmp_path / "network.pth"
    file.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "PyTorch, which is not installed here; install torch, or write the arrays to an .npz" in (
        failure(capsys, file)
    )


def test_files_of_pytorch_itself(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    file = tmp_path / "network.pt"
    layer = torch.nn.Linear(6, 4).double()
    torch.save({"features": torch.tensor(H), "labels": torch.tensor(LABELS), **layer.state_dict()}, file)
    want = uj.measure(H, LABELS, layer.weight, layer.bias)
    assert values(told(capsys, file)) == want.values
    torch.save({"features": layer}, file)
    assert "holds more than tensors" in failure(capsys, file)
    file.write_bytes(file.read_bytes()[:100])
    assert "is damaged" in failure(capsys, file)


def test_damaged_and_dangerous_npz_files(tmp_path, capsys):
    file = tmp_path / "network.npz"
    np.savez(file, features=H, labels=LABELS)
    whole = file.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert "is not an .npz file, or it is damaged" in failure(capsys, file)
    single = io.BytesIO()
    np.save(single, H)
    file.write_bytes(single.getvalue())
    assert "is not an .npz file, or it is damaged" in failure(capsys, file)
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("features.npy", objects.getvalue())
        archive.writestr("labels.npy", objects.getvalue())
    assert "is damaged, or holds objects instead of numbers" in failure(capsys, file)


def test_other_files(tmp_path, capsys):
    other = tmp_path / "network.h5"
    other.write_text("")
    assert "must end in .npz, .pt, .pth or .csv" in failure(capsys, other)
    for suffix in ("npz", "pt", "csv"):
        assert "No such file" in failure(capsys, tmp_path / f"missing.{suffix}")
    file = tmp_path / "network.npz"
    np.savez(file, features=H, labels=LABELS[1:])
    said = failure(capsys, file)
    assert str(file) in said and "labels must have shape (40,), one per row of features, but got (39,)" in said
