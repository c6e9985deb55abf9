"""Problems that no memory holds end in one sentence with the amount: never in an abort, also where they are tried."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import _memory, config
from unhinged_jax.cli import main
from unhinged_jax.sweeps import prepare

FILE = """
model = {{case = "unconstrained", dim = {dim}}}
labels = {{layout = "balanced", classes = 3, per_class = 1499}}
dynamics = {{kind = "flow"}}
run = {{times = [0, 1], observe = ["norm"]}}
"""
TRIED = """
import sys, jax, numpy as np, unhinged_jax as uj
from unhinged_jax.cli import main
model, key = uj.unconstrained(uj.balanced(10, 100_000), dim=8192 * 1000), jax.random.key(0)
small = uj.unconstrained(uj.balanced(10, 10_000), dim=10)
for call in (
    lambda: model.init(key), lambda: model.init(key, precision="float64", features="kaiming"),
    lambda: small.check_state(small.init(key).replace(H=jax.numpy.ones((100_000, 10**8)))),
    lambda: uj.simulate(small, uj.Flow(), small.init(key), np.arange(1e6), ["norm"], states=True),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
place = sys.argv[1]
assert main(["simulate", place + "/large.toml", "--out", place + "/out", "--force"]) == 1
assert main(["sweep", place + "/plan.toml", "--workers", "0", "--store", place + "/s.zarr", "--force"]) == 1
"""


def written(folder):
    text = FILE.format(dim=2 * 10**9)
    (folder / "large.toml").write_text(text)
    (folder / "plan.toml").write_text(text + "sweep = {seeds = 2}")


@pytest.mark.long
def test_what_is_tried_nevertheless_fails_in_a_sentence(tmp_path):
    """Terabytes, which no machine allocates. NumPy's reading of such an array aborts the process."""
    written(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", TRIED, tmp_path],
        capture_output=True, text=True, env={**os.environ, "UNHINGED_ANY_SIZE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 4 and all("TB" in line or "llocating" in line for line in told), told
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all("error: an array of 36 TB could not be allocated" in line for line in lines)


def test_what_no_machine_holds_is_refused_before(tmp_path, capsys):
    model = uj.unconstrained(uj.balanced(10, 100_000), dim=8192 * 1000)
    small = uj.unconstrained(uj.balanced(10, 10_000), dim=10)
    start = small.init(jax.random.key(0))
    with pytest.raises(MemoryError, match=r"a state of 1000000 x 8192000 features would need 32.8 TB"):
        model.init(jax.random.key(0))
    for solve in (uj.simulate, uj.exact):
        with pytest.raises(MemoryError, match="the result with 10000001 states would need 40 TB"):
            solve(small, uj.Flow(), start, np.arange(1e7), ["norm"], states=True)
    written(tmp_path)
    for command in (["simulate", "{}/large.toml", "--out"], ["sweep", "{}/plan.toml", "--store"]):
        assert main([one.format(tmp_path) for one in command] + [str(tmp_path / "out")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "would need 36 TB of memory or more" in line and "--force" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", [
    lambda: uj.balanced(2**31 - 1, 2**12), lambda: uj.balanced(10, 10**13), lambda: uj.from_counts([10**13, 1]),
    lambda: uj.long_tailed(2**44, 1, 1), lambda: uj.step_imbalanced(2**44, 2, 2),
])  # fmt: skip
def test_labels_of_more_samples_than_memory_holds_are_refused(call):
    with pytest.raises(MemoryError, match=r"labels of [\d,]+ samples would need [\d.e+]+ TB"):
        call()


@pytest.mark.parametrize(("call", "said"), [
    (lambda: uj.balanced(10, 10**19), "per_class must be at most 9223372036854775807"),
    (lambda: uj.from_counts([10**25, 1]), "counts must hold real numbers"),
    (lambda: uj.from_counts([10**19, 1]), "two or more whole numbers"),
    (lambda: uj.from_labels([0, 1], 4294967296), "class 2 has none"),
])  # fmt: skip
def test_numbers_beyond_64_bits_and_more_classes_than_samples_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize(("section", "key"), [
    ("model", "dim"), ("labels", "classes"), ("state", "seed"), ("labels", "noise"), ("run", "times"),
    ("dynamics", "rate_H"),
])  # fmt: skip
@pytest.mark.parametrize("value", [10**19, -(10**19), 10**400])
def test_a_file_holds_whole_numbers_of_64_bits(tmp_path, section, key, value):
    tables = {"model": "", "labels": "", "state": "seed = 0", "dynamics": "", "run": ""}
    given = {"noise": f"{{kind = 'symmetric', rate = 0.1, seed = {value}}}", "times": f"[0, {value}]"}.get(key, value)
    text = "\n".join(f"[{name}]\n{text}" for name, text in (tables | {section: f"{key} = {given}"}).items())
    (tmp_path / "huge.toml").write_text(text)
    with pytest.raises(
        config.ConfigError, match=rf"huge.toml: {section}.{key}.* must fit 64 bits, but is a whole number"
    ):
        config.read_config(tmp_path / "huge.toml")


def test_the_machine_is_the_least_of_its_limits(monkeypatch, tmp_path):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (10**9, 10**10))
    assert _memory.machine() == 10**9
    (tmp_path / "limit").write_text("70000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(
        _memory, "_LIMITS", (str(tmp_path / "none"), str(tmp_path / "limit"), str(tmp_path / "nowhere"))
    )
    assert _memory.machine() == 70_000_000
    with pytest.raises(MemoryError, match="would need 80 MB of memory or more, but only 70 MB are available"):
        _memory.refuse(80_000_000, "it")
    with _memory.any_size(True):
        _memory.refuse(80_000_000, "it")
        with pytest.raises(MemoryError, match="would need 1e\\+18 TB"):
            _memory.refuse(10**30, "it")
    assert "UNHINGED_ANY_SIZE" not in os.environ


@pytest.fixture(scope="module")
def images():
    data = pytest.importorskip("unhinged_jax.training.data", reason="needs the train extra")
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 255, (60, 1, 4, 4)).astype(np.uint8), np.arange(60, dtype=np.int32) % 3
    return data.Dataset("bars", x, y, x[:30], y[:30], 3, "made here")


@pytest.mark.parametrize(("sections", "said"), [
    ({"network": {"width": 10**9}}, r"a network of [\d,]+ parameters in batches of 128 would need [\d.e+]+ TB"),
    ({"network": {"width": 10**12}}, r"[\d.e+]+ TB"),
    ({"network": {"kind": "cnn", "width": 10**9}}, r"[\d.e+]+ TB"),
    ({"network": {"kind": "resnet18", "width": 10**6, "features": 8 * 10**6}}, r"[\d.e+]+ TB"),
    ({"train": {"batch": 10**12}}, r"in batches of 1,000,000,000,000 would need [\d.e+]+ TB"),
    ({"network": {"width": 10**4}, "train": {"seeds": 10**6}}, r"training 1000000 networks"),
    ({"train": {"seeds": 10**14}}, "a list of 100,000,000,000,000 seeds would need 4e"),
])  # fmt: skip
def test_training_that_no_machine_holds_is_refused_before(images, sections, said):
    from unhinged_jax.training.loop import Trainer
    from unhinged_jax.training.settings import Settings

    with pytest.raises(MemoryError, match=said):
        Trainer(Settings.of(sections), images)


@pytest.mark.parametrize(("kind", "numbers", "precision"), [
    ("mlp", 8 + 4, "float32"), ("cnn", 8 * 4 + 16 + 4, "float32"), ("mlp", 8 + 4, "float64"),
])  # fmt: skip
def test_training_takes_what_its_arrays_take(images, monkeypatch, kind, numbers, precision):
    """The estimate beside the arrays of a run, and the numbers that the layers make of an image, counted by hand."""
    import equinox as eqx

    from unhinged_jax.training.loop import Trainer
    from unhinged_jax.training.settings import Settings

    told = []
    monkeypatch.setattr(_memory, "refuse", lambda wanted, what: told.append(wanted))
    settings = Settings.of({
        "network": {"kind": kind, "width": 8, "depth": 1, "features": 4},
        "train": {"batch": 16, "seeds": [3, 5], "precision": precision},
    })  # fmt: skip
    trainer = Trainer(settings, images)
    learners, width = trainer.start(), np.dtype(precision).itemsize
    arrays, velocity = (
        sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(eqx.filter(part, eqx.is_array)))
        for part in (learners, learners.velocity)
    )
    lanes = 2 if kind == "mlp" else 1
    update = lanes * (velocity // 2 + 16 * width * (16 + numbers))
    evaluation = 60 * (16 + 2 * width * (4 + 3))
    assert told[-1] == 2 * arrays + 60 * 16 + max(update, evaluation)


def test_an_image_folder_is_refused_before_it_is_read(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs the train extra")
    from unhinged_jax.training.data import load

    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            image.new("RGB", (4, 4)).save(tmp_path / part / name / "1.png")
    assert load("folder", tmp_path, 4).image == (3, 4, 4)
    with pytest.raises(MemoryError, match=r"2 images of 10000000 x 10000000 pixels would need 600 TB"):
        load("folder", tmp_path, 10**7)


BLOCK = """
model = {{case = "unconstrained", dim = 4}}
labels = {{layout = "balanced", classes = 3, per_class = 5}}
dynamics = {{kind = "flow"}}
run = {{until = 1, points = {count}, observe = ["norm", "loss", "log_norm"]}}
sweep = {{seeds = 6}}
"""


def test_a_sweep_counts_what_a_block_keeps(tmp_path, monkeypatch):
    """States that fit and results that do not; and what is asked for, counted by hand."""
    told = []
    monkeypatch.setattr(_memory, "refuse", lambda wanted, what: told.append((what, wanted)))
    (tmp_path / "plan.toml").write_text(BLOCK.format(count=7))
    prepare.open_store(uj.SweepPlan.read(tmp_path / "plan.toml"), tmp_path / "s.zarr", lanes=3)
    block = 3 * 4 * (2 * (15 + 3) * 4 + 7 * 3)
    assert told[[what for what, _ in told].index("a block of 3 points")] == ("a block of 3 points", block)


def test_a_block_beyond_the_machine_is_refused_before_a_store_is_made(tmp_path, monkeypatch):
    (tmp_path / "plan.toml").write_text(BLOCK.format(count=10**6))
    monkeypatch.setattr(_memory, "_ANYWHERE", 1)
    monkeypatch.setattr(_memory, "machine", lambda: 2 * 10**7)  # more than the times and a start, less than the results
    with pytest.raises(MemoryError, match="a block of 3 points would need 36 MB of memory or more"):
        uj.sweep(tmp_path / "plan.toml", tmp_path / "s.zarr", workers=0, progress=False)
    assert not (tmp_path / "s.zarr").exists()
