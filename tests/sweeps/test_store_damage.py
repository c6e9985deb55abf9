"""Damage to a store: every reader gives what was computed or names what is damaged; a sweep heals it bit for bit."""

import itertools
import json
import shutil

import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.cli import main
from unhinged_jax.sweeps.export import export
from unhinged_jax.sweeps.pictures import draw
from unhinged_jax.sweeps.status import describe, status_of
from unhinged_jax.sweeps.store import Damaged, Store

TABLES = {
    "model": {"case": "regularized", "dim": 3, "decay": 0.1},
    "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
    "dynamics": {"kind": "descent", "schedule": 0.1},
    "run": {"times": [0, 5, 20], "observe": ["norm", "accuracy"], "precision": "float64"},
    "sweep": {
        "seeds": [3, 0],
        "grid": {"dynamics.rate_H": {"values": [1.0, 2.0], "labels": ["slow", "fast"], "name": "speed"}},
        "random": {
            "count": 8, "model.decay": {"from": 0.01, "to": 1.0, "spacing": "log"}, "model.gamma": {"from": 0, "to": 1}
        },
    },
}  # fmt: skip


def swept(store, **options):
    return uj.sweep(uj.SweepPlan.of(TABLES), store, workers=0, lanes=8, progress=False, **options)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A finished and a half-finished store of one plan, and the numbers."""
    folder = tmp_path_factory.mktemp("stores")
    swept(folder / "half.zarr", part=(0, 2))
    shutil.copytree(folder / "half.zarr", folder / "full.zarr")
    data = swept(folder / "full.zarr").load()
    assert 0 < np.sum(Store(folder / "half.zarr").committed()) < Store(folder / "full.zarr").layout.blocks == 4
    return folder, data


@pytest.fixture
def copied(stores, tmp_path):
    def copy(which):
        return shutil.copytree(stores[0] / f"{which}.zarr", tmp_path / f"{which}.zarr")

    return copy


def files(store):
    """Kind -> a file of that kind, and another one of it."""
    opened = Store(store)
    first, second = np.flatnonzero(opened.committed())[:2].tolist()
    kinds = {name: (opened.chunk(name, first), opened.chunk(name, second)) for name in opened.variables}
    kinds["committed"] = opened.chunk("execution/committed", first), opened.chunk("execution/committed", second)
    for name in ("decay", "gamma", "speed", "seed", "time"):
        kinds[name] = store / name / "c" / "0", store / ("gamma" if name == "decay" else "decay") / "c" / "0"
    for name in (
        "norm", "result", "decay", "gamma", "speed", "seed", "time", "execution", "execution/committed",
        "execution/seconds",
    ):  # fmt: skip
        kinds[f"{name}/zarr.json"] = store / name / "zarr.json", store / "accuracy" / "zarr.json"
    kinds["zarr.json"] = store / "zarr.json", store / "norm" / "zarr.json"
    return kinds


def rewritten(store, path):
    """Another content that is well formed."""
    if path.name == "zarr.json":
        record = json.loads(path.read_text())
        attributes = record["attributes"]
        for name in ("texts", "long_name", "title"):
            if name in attributes:
                attributes[name] = attributes[name][::-1]
                break
        path.write_text(json.dumps(record))
        return
    array = Store(store, check=False).group[path.relative_to(store).as_posix().partition("/c/")[0]]
    place = tuple(int(part) for part in path.relative_to(store).as_posix().partition("/c/")[2].split("/"))
    region = tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, array.chunks, strict=True))
    array[region] = np.roll(np.asarray(array[region]), 1) + 1


def flipped(path, place):
    content = bytearray(path.read_bytes())
    at = int(place * (len(content) - 1))
    content[at] ^= 4
    path.write_bytes(content)


def damage(store, paths, how):
    path, other = paths
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif how == "rewritten":
        rewritten(store, path)
    elif how.startswith("bit"):
        flipped(path, float(how[4:]))
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}[how])


def same(found, data, pending=()):
    """Bitwise equality where points are there, and no number where they are not."""
    there = found["result"].values >= 0
    for name in data.coords:
        np.testing.assert_array_equal(found[name].values, data[name].values, err_msg=str(name))
    for name in data.data_vars:
        got, want = found[name].values, data[name].values
        np.testing.assert_array_equal(got[there], want[there], err_msg=str(name))
        if got.dtype.kind == "f":
            assert np.all(np.isnan(got[~there])), name


def read_or_named(reader, paths):
    """What a reader gives, or None if it refuses and names one of the damaged files in one sentence."""
    try:
        return reader()
    except Damaged as error:
        text = str(error)
        assert any(str(path) in text for path in paths) and "\n" not in text
        return None


HOW = ("deleted", "empty", "cut", "bit 0.0", "bit 0.5", "bit 0.9", "swapped", "rewritten")
KINDS = (
    "norm", "accuracy", "result", "elapsed", "steps", "committed", "decay", "gamma", "speed", "seed", "time",
    "norm/zarr.json", "result/zarr.json", "decay/zarr.json", "speed/zarr.json", "time/zarr.json",
    "execution/committed/zarr.json", "execution/zarr.json", "execution/seconds/zarr.json", "gamma/zarr.json",
    "seed/zarr.json", "zarr.json",
)  # fmt: skip


def survives(store, data, kind, how):
    """Damage one file: readers first, then a sweep."""
    known = files(store)
    paths = known[kind]
    damage(store, paths, how)
    found = read_or_named(lambda: uj.open_sweep(store).load(), paths)
    if found is not None:
        same(found, data)
    try:
        status = status_of(Store(store), verify=True)
    except Damaged as error:
        assert any(str(path) in str(error) for path in paths)
        status = None
    else:
        whole = store.name == "full.zarr"
        assert found is not None or status.damaged
        assert not whole or kind == "committed" or found is not None or status.missing
    healed = read_or_named(lambda: swept(store).load(), paths)
    if healed is None:
        assert kind == "zarr.json" or (how == "swapped" and paths[1].name == "zarr.json")
    else:
        same(healed, data)
        assert np.all(healed["result"] >= 0) and not Store(store).broken
    return found, status


@pytest.mark.parametrize(("kind", "how"), [
    ("norm", "deleted"), ("norm", "swapped"), ("committed", "swapped"), ("result", "rewritten"), ("decay", "deleted"),
    ("gamma", "swapped"), ("seed", "rewritten"), ("speed/zarr.json", "rewritten"), ("decay/zarr.json", "deleted"),
    ("time", "bit 0.5"), ("zarr.json", "rewritten"), ("zarr.json", "cut"),
])  # fmt: skip
def test_damage_is_named_and_healed(stores, copied, kind, how):
    found, status = survives(copied("half"), stores[1], kind, how)
    assert found is None and (status is None or status.damaged)


@pytest.mark.long
@pytest.mark.parametrize("which", ["half", "full"])
def test_every_damage_to_every_file_is_named_or_harmless(stores, copied, which):
    for kind, how in itertools.product(KINDS, HOW):
        store = copied(which)
        try:
            survives(store, stores[1], kind, how)
        except Exception as error:
            error.add_note(f"{which}: {kind} {how}")
            raise
        shutil.rmtree(store)


def test_commands_refuse_a_damaged_block_and_say_what_to_do(stores, copied, tmp_path, capsys):
    store = copied("full")
    lost = Store(store).chunk("norm", 2)
    lost.unlink()
    for command in (["sweep", "--store", str(store), "--export", str(tmp_path / "all.csv")], ["plot", str(store)]):
        assert main(command) == 1
        told = capsys.readouterr().err
        assert str(lost) in told and "unhinged sweep PLAN --store" in told and "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.zarr"]
    assert main(["sweep", "--store", str(store), "--status"]) == 0 and "damaged" in capsys.readouterr().out
    data = uj.open_sweep(store)
    np.testing.assert_array_equal(data["norm"].isel(point=0, speed=0), stores[1]["norm"].isel(point=0, speed=0))
    with pytest.raises(Damaged, match="norm/c"):
        data["norm"].load()


def test_the_command_says_what_it_wrote_again(stores, copied, tmp_path, capsys):
    store, plan = copied("full"), tmp_path / "plan.toml"
    plan.write_text(
        """
        model = {case = "regularized", dim = 3, decay = 0.1}
        labels = {layout = "balanced", classes = 3, per_class = 2}
        dynamics = {kind = "descent", schedule = 0.1}
        run = {times = [0, 5, 20], observe = ["norm", "accuracy"], precision = "float64"}
        [sweep]
        seeds = [3, 0]
        grid."dynamics.rate_H" = {values = [1.0, 2.0], labels = ["slow", "fast"], name = "speed"}
        [sweep.random]
        count = 8
        "model.decay" = {from = 0.01, to = 1.0, spacing = "log"}
        "model.gamma" = {from = 0, to = 1}
        """
    )
    for name in ("decay/c/0", "seed/zarr.json"):
        (store / name).unlink()
    assert main(["sweep", "--store", str(store), "--status"]) == 1
    assert str(store / "decay" / "c" / "0") in capsys.readouterr().err
    assert main(["sweep", str(plan), "--store", str(store), "--workers", "0"]) == 0
    told = capsys.readouterr()
    assert "decay/c/0 was missing or altered; it was written again." in told.err and "seed/zarr.json" in told.err
    for name in ("decay/c/0", "seed/zarr.json"):
        assert (store / name).read_bytes() == (stores[0] / "full.zarr" / name).read_bytes()
    same(uj.open_sweep(store).load(), stores[1])


def test_any_selection_is_what_the_whole_says(stores):
    folder, whole = stores
    rng = np.random.default_rng(0)
    for _ in range(15):
        key = {}
        for name, size in whole["norm"].sizes.items():
            kind = rng.integers(4)
            if kind == 1:
                key[name] = int(rng.integers(-size, size))
            elif kind == 2:
                key[name] = rng.integers(0, size, rng.integers(1, 5)).tolist()
            elif kind == 3:
                key[name] = slice(*sorted(rng.integers(0, size + 1, 2).tolist()), int(rng.integers(1, 3)))
        data = uj.open_sweep(folder / "full.zarr")
        for name in ("norm", "result"):
            here = {axis: part for axis, part in key.items() if axis in whole[name].dims}
            np.testing.assert_array_equal(data[name].isel(here), whole[name].isel(here), err_msg=str(key))


def test_large_stores_are_read_in_pieces(stores, monkeypatch):
    from unhinged_jax.sweeps import lazy

    monkeypatch.setattr(lazy, "_BYTES", 1)
    same(uj.open_sweep(stores[0] / "full.zarr").load(), stores[1])


def test_a_block_written_but_not_committed_is_not_there(stores, copied):
    store = copied("full")
    Store(store).withdraw([1])
    found = uj.open_sweep(store).load()
    assert np.sum(found["result"] < 0) == Store(store).layout.size(1)
    same(found, stores[1])


def test_a_store_of_an_older_version_is_read_with_a_word(stores, copied):
    """Without seal, without counts of steps, and with one digest a block over all of its variables."""
    import zarr

    from unhinged_jax.sweeps.digests import digest

    store = copied("full")
    opened = Store(store)
    shutil.rmtree(store / "execution" / "committed")
    shutil.rmtree(store / "execution" / "steps_made")
    counts = opened.layout.counts
    old = zarr.open_group(store, mode="r+").create_array(
        "execution/committed", shape=counts, chunks=(1,) * len(counts), dtype="uint64", fill_value=0
    )
    for number in range(opened.layout.blocks):
        values = opened.read(number)
        old[opened.layout.place(number)] = digest(values[name] for name in opened.variables)
    record = json.loads((store / "zarr.json").read_text())
    del record["attributes"]["seal"]
    (store / "zarr.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="older version"):
        same(uj.open_sweep(store).load(), stores[1])
    assert "made by an older version" in describe(Store(store), status_of(Store(store)))
    Store(store).chunk("norm", 0).unlink()
    assert status_of(Store(store), verify=True).damaged == (0,)
    with pytest.warns(UserWarning, match="older version"), pytest.raises(Damaged, match="norm/c"):
        uj.open_sweep(store).load()
    with pytest.warns(UserWarning, match="older version"):
        same(swept(store).load(), stores[1])


@pytest.mark.parametrize("name", ["result", "norm", "decay", "speed", "execution/committed", "execution/seconds"])
@pytest.mark.parametrize("how", ["deleted", "empty", "utf8", "list"])
def test_an_older_store_without_its_descriptions_is_refused_in_a_sentence(copied, tmp_path, capsys, name, how):
    """There no seal tells what is damaged before it is read."""
    store = unsealed(copied("full"))
    path = store / name / "zarr.json"
    path.unlink() if how == "deleted" else path.write_bytes({"empty": b"", "utf8": b"\xff{}", "list": b"[1]"}[how])
    for command in (["--status"], ["--export", str(tmp_path / "all.csv")]):
        assert main(["sweep", "--store", str(store), *command]) == 1
        assert f"error: {path} is missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [
    *itertools.product(["plan", "execution"], [None, "{", "[]", 3]), ("versions", None), ("versions", "{"),
    ("versions", 3), ("title", None),
])  # fmt: skip
def test_an_older_store_with_other_attributes_is_refused_in_a_sentence(copied, capsys, name, value):
    store = unsealed(copied("full"), **{name: value})
    assert main(["sweep", "--store", str(store), "--status"]) == 1
    assert f"{store / 'zarr.json'} is damaged" in capsys.readouterr().err


def unsealed(store, **changed):
    """A store as an older version made it, with other attributes; None: without them."""
    record = json.loads((store / "zarr.json").read_text())
    attributes = {**record["attributes"], **changed}
    record["attributes"] = {key: value for key, value in attributes.items() if value is not None and key != "seal"}
    (store / "zarr.json").write_text(json.dumps(record))
    return store


# --- writers and links --------------------------------------------------------------------------


def test_nothing_is_replaced_unasked_and_files_have_the_mode_of_new_ones(stores, tmp_path, capsys):
    store, file = str(stores[0] / "full.zarr"), tmp_path / "all.csv"
    (tmp_path / "plain").touch()
    assert main(["sweep", "--store", store, "--export", str(file)]) == 0
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    file.write_text("mine")
    assert main(["sweep", "--store", store, "--export", str(file)]) == 1
    assert "--force" in capsys.readouterr().err and file.read_text() == "mine"
    assert main(["sweep", "--store", store, "--export", str(file), "--force"]) == 0 and file.read_text() != "mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "curves.png").write_text("mine")
    with pytest.raises(ValueError, match="--force"):
        draw(store, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["curves.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "out", "plain"]


def test_a_store_behind_a_link_and_the_folder_one_stands_in(stores, tmp_path, monkeypatch, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "nowhere").symlink_to("not_yet")
    for link, goal in (("link", "real"), ("nowhere", "not_yet")):
        swept(tmp_path / link, part=(0, 2))
        same(swept(tmp_path / link).load(), stores[1])
        assert (tmp_path / link).is_symlink() and (tmp_path / goal / "zarr.json").is_file()
    export(tmp_path / "link", tmp_path / "all.nc")
    monkeypatch.chdir(tmp_path / "real")
    assert main(["plot", ".", "--observe", "norm"]) == 0
    assert str(tmp_path / "real-pictures" / "report.html") in capsys.readouterr().out.replace("\n", "")
    page = tmp_path / "real-pictures" / "report.html"
    page.write_text(page.read_text() + "<!-- before -->")
    assert main(["plot", "../real", "--observe", "norm"]) == 0  # older pictures are drawn anew
    assert "<!-- before" not in page.read_text()
