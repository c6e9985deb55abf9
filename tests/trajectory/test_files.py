"""A run in a file: read back bit for bit, going on bit for bit, and refused by name where it is not whole."""

import dataclasses
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.trajectory import Remark

MODEL = uj.regularized(uj.from_counts([2, 3, 1]), dim=2, decay=0.01, bias=True)
START = MODEL.init(jax.random.key(3))
SEEN = {
    "loss": None,
    "gram": lambda model, state: state.W @ state.W.T,
    "two": lambda model, state: {"b": state.b, "H": [state.H, (state.W,)]},
}
DYNAMICS = {
    "flow": uj.Flow(0.5),
    "momentum": uj.Descent(0.5, momentum=0.9),
    "adam": uj.Descent(optimizer=optax.adam(0.05)),
    "numbers of adam": uj.Descent(optimizer=uj.Optimizer(optax.adam, learning_rate=0.05)),
    "half precision": uj.Descent(optimizer=optax.adam(0.05, mu_dtype=jnp.bfloat16)),
    "keys": uj.Descent(optimizer=optax.noisy_sgd(0.1, key=jax.random.key(1))),
    "nothing to remember": uj.Descent(optimizer=optax.sgd(0.1)),
}


def bits(run):
    """All of a run, down to types and bits."""

    def of(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return str(jax.random.key_impl(leaf)), of(jax.random.key_data(leaf))
        array = np.asarray(leaf)
        return array.dtype.name, array.shape, array.tobytes()

    assert run.form is None or isinstance(run.form, Remark)
    tree = jax.tree.map(of, run)
    return {**vars(tree), "form": str(run.form)}, jax.tree.structure(run)


def kept(run, path, dynamics=None):
    run.save(path)
    return uj.load(path, dynamics)


@pytest.mark.long_for("momentum-float64", "flow-float32")
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("flow", "float32"), ("momentum", "float64"), ("adam", "float64"), ("numbers of adam", "float64"),
        ("half precision", "float32"),
        ("keys", "float32"), ("nothing to remember", "float64"),
    ],
)  # fmt: skip
def test_a_loaded_run_is_the_run_and_goes_on_as_it(kind, precision, tmp_path):
    dynamics, settings = DYNAMICS[kind], {"observe": SEEN, "precision": precision}
    run = uj.simulate(MODEL, dynamics, START, [0, 3], states=True, **settings)
    found = kept(run, tmp_path / "run.npz", dynamics)
    assert bits(found) == bits(run) and found == run and list(found.observables) == list(run.observables)
    assert found.result is run.result and (found.kind, found.clock, found.carries) == (run.kind, run.clock, run.carries)
    assert str(found) == str(run)
    goes, went = (uj.simulate(MODEL, dynamics, one, [5, 8], **settings) for one in (found, run))
    assert bits(goes) == bits(went)
    again = kept(found, tmp_path / "again.npz", dynamics)
    assert bits(again) == bits(run)


def test_exact_runs_and_results_of_every_kind_are_kept(tmp_path):
    run = uj.exact(MODEL, DYNAMICS["momentum"], START, [0, 3], SEEN)
    assert bits(kept(run, tmp_path / "exact.npz")) == bits(run)
    squared = MODEL.replace(loss="mse")
    lost = uj.simulate(squared, uj.Descent(1e30), START, [0, 5, 9], "norm")
    found = kept(lost, tmp_path / "lost.npz")
    assert bits(found) == bits(lost) and found.result is uj.RunResult.OVERFLOW and np.isnan(found["norm"][-1])


def test_the_file_is_an_archive_that_numpy_reads_without_pickles(tmp_path):
    run = uj.exact(MODEL, uj.Flow(), START, [0.0, 3.0], SEEN)
    path = tmp_path / "a name without an ending"
    run.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["observables.loss"], run["loss"])
        np.testing.assert_array_equal(arrays["H"], run.final.H)
        assert arrays["observables.two.H.1.0"].shape == (2, 3, 2)


def test_names_that_look_alike_are_kept_apart(tmp_path):
    seen = {"a": lambda m, s: {"b": s.b}, "a.b": lambda m, s: s.W, "tree": lambda m, s: s.H, "ä/é": lambda m, s: s.W[0]}
    run = uj.exact(MODEL, uj.Flow(), START, [0.0, 3.0], seen)
    assert bits(kept(run, tmp_path / "run.npz")) == bits(run)


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "run.npz"
    one, other = (uj.exact(MODEL, uj.Flow(rate), START, [1.0], "norm") for rate in (0.5, 0.7))
    one.save(path)
    with pytest.raises(ValueError, match=r"run.npz is there already; replace it with force=True"):
        other.save(path)
    assert uj.load(path) == one
    other.save(str(path), force=True)
    assert uj.load(str(path)) == other and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="force must be True or False"):
        one.save(path, force="yes")


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    one, other = (uj.exact(MODEL, uj.Flow(rate), START, [1.0], "norm") for rate in (0.5, 0.7))
    one.save(path)

    def full(file, **_):
        file.write(b"a third")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left on device: .*run.npz"):
        other.save(path, force=True)
    monkeypatch.undo()
    assert uj.load(path) == one and list(tmp_path.iterdir()) == [path]


def test_the_memory_of_an_optimizer_needs_its_dynamics(tmp_path):
    path, adam = tmp_path / "run.npz", DYNAMICS["adam"]
    uj.simulate(MODEL, adam, START, [3], "norm").save(path)
    with pytest.raises(ValueError, match=r"run.npz holds the memory of an optimizer.*load\(path, dynamics\)\.$"):
        uj.load(path)
    for other in (
        uj.Flow(), uj.Descent(0.5, momentum=0.9), DYNAMICS["nothing to remember"],
        uj.Descent(optimizer=optax.adagrad(0.1)), uj.Descent(optimizer=optax.amsgrad(0.05)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"the memory in .*run.npz does not fit the optimizer of this dynamics"):
            uj.load(path, other)
    with pytest.raises(ValueError, match="dynamics must be a Flow, a Descent or a Diffusion, but got an Optimizer"):
        uj.load(path, adam.optimizer)


def test_a_damaged_cut_or_foreign_file_is_refused_by_name(tmp_path):
    run = uj.exact(MODEL, DYNAMICS["momentum"], START, [0, 3], SEEN)
    path = tmp_path / "run.npz"
    run.save(path)
    whole = path.read_bytes()

    def refused(content):
        path.write_bytes(content)
        try:
            found = uj.load(path)
        except ValueError as error:
            assert str(error).count(str(path)) == 1 and str(error).endswith(".") and "\n" not in str(error), error
            return True
        assert bits(found) == bits(run)  # a byte that says nothing, such as a date
        return False

    rng = np.random.default_rng(0)
    spoilt = [bytearray(whole) for _ in range(400)]
    for content in spoilt:
        content[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    assert sum(map(refused, spoilt)) > 200
    assert all(refused(whole[:end]) for end in np.linspace(0, len(whole) - 1, 60).astype(int))
    assert refused(b"not an archive") and refused(b"")
    np.savez(path, H=np.zeros(3))
    assert refused(path.read_bytes())
    np.savez(path, tree=np.array('{"format": 1, "fields": {"times": null}}'))
    assert refused(path.read_bytes())
    np.savez(path, tree=np.array('{"format": 2, "fields": {}}'))
    with pytest.raises(ValueError, match="a newer version wrote it"):
        uj.load(path)
    np.savez(path, tree=np.array([{}], dtype=object))
    assert refused(path.read_bytes())
    with pytest.raises(FileNotFoundError):
        uj.load(tmp_path / "nowhere.npz")
    with pytest.raises(IsADirectoryError):
        uj.load(tmp_path)
    with pytest.raises(ValueError, match="path must be a path, but got 3"):
        uj.load(3)


def test_what_a_file_cannot_hold_is_refused_before_it_is_written(tmp_path):
    Pair = namedtuple("Pair", "b W")
    run = uj.exact(MODEL, uj.Flow(), START, [1.0], {"pair": lambda m, s: Pair(s.b, s.W)})
    with pytest.raises(ValueError, match=r"observables.pair holds .*Pair.*dictionaries, lists or tuples"):
        run.save(tmp_path / "run.npz")
    run = uj.exact(MODEL, uj.Flow(), START, [1.0], {"text": lambda m, s: s.b})
    with pytest.raises(ValueError, match="no array of numbers"):
        dataclasses.replace(run, observables={"text": np.array(["a"])}).save(tmp_path / "run.npz")
    with pytest.raises(ValueError, match="`save` needs numbers, but the run is being traced"):
        jax.jit(lambda run: run.save(tmp_path / "run.npz"))(run)
    assert not list(tmp_path.iterdir())
