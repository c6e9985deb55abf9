"""Damage to checkpoints: one that is not what was written is named and set aside, and the one before it is used."""

import itertools
import json
import shutil

import equinox as eqx
import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the train extra")
pytest.importorskip("orbax.checkpoint", reason="needs the train extra")

from unhinged_jax.cli import main
from unhinged_jax.training.checkpoints import Checkpoints, identity_of
from unhinged_jax.training.loop import Trainer
from unhinged_jax.training.prepare import dataset
from unhinged_jax.training.settings import Settings

CONFIG = """
data = {name = "digits"}
network = {width = 8, depth = 1, features = 9}
train = {epochs = 3, batch = 256, shift = 0, precision = "float64"}
watch = {collapse = false}
"""
HOW = ("deleted", "empty", "cut", "bit 0.0", "bit 0.5", "bit 1.0", "swapped", "rewritten", "renamed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run in a folder, its trainer, and what each of its checkpoints holds."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "train.toml").write_text(CONFIG)
    settings = Settings.read(folder / "train.toml")
    data, kept = dataset(settings), {}
    trainer = Trainer(settings, data)

    def keep(run):
        checkpoints.save(run)
        kept[run.epochs] = arrays(run)

    with Checkpoints(folder / "out" / "checkpoints", identity_of(settings, data)) as checkpoints:
        trainer.run(keep=keep)
    return folder, (settings, data, trainer), kept


def arrays(run):
    leaves = jax.tree.leaves(eqx.filter(run.learners, eqx.is_array))
    return [np.asarray(leaf) for leaf in (*leaves, *(run.history[name] for name in sorted(run.history)), run.stopped)]


def restored(folder, made):
    """Notes, and the epochs and arrays of the checkpoint that a run would go on from."""
    settings, data, trainer = made
    with Checkpoints(folder, identity_of(settings, data)) as checkpoints:
        run = checkpoints.restore(trainer, settings)
        return checkpoints.notes, run.epochs, arrays(run)


def files(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def damage(path, other, how):
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_name("other"))
    elif how == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif how.startswith("bit"):
        changed = bytearray(content)
        changed[int(float(how[4:]) * (len(content) - 1))] ^= 4
        path.write_bytes(changed)
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "rewritten": content[::-1]}[how])


def survives(folder, made, name, how):
    """Damage a file of the last checkpoint, and another one if they change places; then restore."""
    there = files(folder / "3")
    path = folder / "3" / name
    other = next(one for one in there if one.read_bytes() != path.read_bytes())
    before = {path.name: {file: file.read_bytes() for file in files(path)} for path in folder.iterdir()}
    damage(path, other, how)
    notes, epochs, found = restored(folder, made[1])
    unchecked = name == "digests.json" and how in ("deleted", "renamed")
    assert epochs == (3 if unchecked else 2) and len(notes) == 1 and "\n" not in notes[0]
    for got, want in zip(found, made[2][epochs], strict=True):
        np.testing.assert_array_equal(got, want)
    if not unchecked:
        assert any(notes[0].startswith(f"{one}: ") for one in (path, other)), notes
        assert (folder / "damaged-3").is_dir() and not (folder / "3").exists()
    assert {file: file.read_bytes() for file in files(folder / "2")} == before["2"]


@pytest.mark.parametrize(("kind", "how"), [
    ("largest", "bit 0.5"), ("identity/metadata", "bit 0.5"), ("state/manifest.ocdbt", "deleted"),
    ("_CHECKPOINT_METADATA", "empty"), ("digests.json", "bit 0.0"), ("digests.json", "deleted"),
])  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(made, tmp_path, kind, how):
    folder = shutil.copytree(made[0] / "out" / "checkpoints", tmp_path / "checkpoints")
    sizes = {path.stat().st_size: path for path in files(folder / "3") if "digests" not in path.name}
    name = sizes[max(sizes)].relative_to(folder / "3").as_posix() if kind == "largest" else kind
    survives(folder, made, name, how)


@pytest.mark.long
def test_every_damage_to_every_file_of_a_checkpoint_is_named(made, tmp_path):
    source = made[0] / "out" / "checkpoints"
    names = [path.relative_to(source / "3").as_posix() for path in files(source / "3")]
    assert len(names) > 8
    for name, how in itertools.product(names, HOW):
        folder = shutil.copytree(source, tmp_path / "checkpoints")
        try:
            survives(folder, made, name, how)
        except Exception as error:
            error.add_note(f"{name} {how}")
            raise
        shutil.rmtree(folder)


def test_where_none_is_whole_nothing_is_touched(made, tmp_path):
    folder = shutil.copytree(made[0] / "out" / "checkpoints", tmp_path / "checkpoints")
    for epochs in ("2", "3"):
        damage(folder / epochs / "state" / "_METADATA", None, "cut")
    before = {file: file.read_bytes() for file in files(folder)}
    with pytest.raises(ValueError, match=r"3/state/_METADATA: missing or altered .* no other checkpoint is whole"):
        restored(folder, made[1])
    assert {file: file.read_bytes() for file in files(folder)} == before


def test_checkpoints_that_change_places_are_noticed(made, tmp_path):
    folder = shutil.copytree(made[0] / "out" / "checkpoints", tmp_path / "checkpoints")
    (folder / "2").rename(folder / "7")
    notes, epochs, _ = restored(folder, made[1])
    assert epochs == 3 and "7/digests.json" in notes[0]


def test_the_command_goes_on_from_the_one_before_to_the_same_end(made, tmp_path, capsys):
    folder, out = made[0], tmp_path / "out"
    shutil.copytree(folder / "out", out)
    damage(out / "checkpoints" / "3" / "state" / "_METADATA", None, "bit 0.5")
    assert main(["train", str(folder / "train.toml"), "--out", str(out), "--resume"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith(f"unhinged: note: {out}/checkpoints/3/state/_METADATA: missing or alt")
    notes, epochs, found = restored(out / "checkpoints", made[1])
    assert notes == [] and epochs == 3
    for got, want in zip(found, made[2][3], strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_checkpoint_that_cannot_be_written_is_named(made, tmp_path):
    settings, data, trainer = made[1]
    with Checkpoints(made[0] / "out" / "checkpoints", identity_of(settings, data)) as checkpoints:
        run = checkpoints.restore(trainer, settings)
    with Checkpoints(tmp_path / "kept", identity_of(settings, data)) as checkpoints:
        checkpoints._manager.save = lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        with pytest.raises(OSError, match=rf"{tmp_path}/kept/3 could not be written \(No space left on device\)"):
            checkpoints.save(run)


def test_digests_are_of_every_file_and_of_the_epoch(made):
    place = made[0] / "out" / "checkpoints" / "3"
    written = json.loads((place / "digests.json").read_text())
    there = {path.relative_to(place).as_posix() for path in files(place)} - {"digests.json"}
    assert written["epochs"] == 3 and set(written["files"]) == there
