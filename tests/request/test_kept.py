"""Programs that outlive a process: found by everything that their traces depend on, and by nothing else."""

import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unhinged_jax._request import kept as room
from unhinged_jax._request.kept import FOLDER, kept

TRACED = []


def product(factors, power, name="none"):
    """A dictionary with an array, a number type of its own, and what is no array."""
    TRACED.append(power)
    square = factors["left"] @ factors["right"]
    return {"z": square**power, "a": (jnp.linalg.svd(square)[1], name, None), "count": jnp.int32(power)}


def refused(x):
    raise ValueError(f"x is not good: {x.shape}")


class Power(float):
    """A number with a class of the user's own, whose methods may change between two processes."""


def of_ones_own(x):
    return x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "whole"))
    monkeypatch.setenv("EQX_ON_ERROR", "nan")
    forget()
    return tmp_path / "whole"


def forget():
    """As a new process begins."""
    room._loaded.clear()
    TRACED.clear()


def factors(n=3, dtype=np.float32):
    left = np.arange(1, n * n + 1, dtype=dtype).reshape(n, n)
    return {"right": jnp.asarray(left.T), "left": left}


def called(*args, **kwargs):
    program = kept(product, None, args, kwargs)
    return None if program is None else program()


def assert_equal(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        if isinstance(theirs, jax.Array):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        else:
            assert ours == theirs


def test_the_next_process_neither_traces_nor_keeps_anything_new(folder):
    want = product(factors(), 2, name="x")
    forget()
    first = called(factors(), 2, name="x")
    assert_equal(first, want)
    assert TRACED == [2]
    names = sorted(path.name for path in folder.iterdir())
    forget()
    second = called({name: 2 * factor for name, factor in factors().items()}, 2, name="x")  # other numbers
    assert TRACED == [] and sorted(path.name for path in folder.iterdir()) == names
    assert_equal(second, product({name: 2 * factor for name, factor in factors().items()}, 2, name="x"))


def test_what_a_trace_depends_on_makes_another_program(folder, monkeypatch):
    count = 0

    def made():
        nonlocal count
        before, count = count, len(list(folder.iterdir()))
        return count - before

    called(factors(), 2)
    assert made() == 1
    called(factors(4), 2)  # another shape
    assert made() == 1
    called(factors(), 3)  # another number that is no array
    assert made() == 1
    called(factors(), 2.0)  # equal to it, but of another type
    assert made() == 1
    called(factors(), np.float32(2))  # an array of no dimensions
    assert made() == 1
    called({"left": factors()["left"], "right": factors()["right"]}, 2)  # the order of keys is none
    assert made() == 0
    with jax.enable_x64(True):
        assert called(factors(dtype=np.float64), 2)["z"].dtype == np.float64
        assert made() == 1
        called(factors(), 2)  # float32, but under another setting
        assert made() == 1
    with jax.default_matmul_precision("highest"):
        called(factors(), 2)
        assert made() == 1
    monkeypatch.setattr(room, "_sources", lambda: "another version of the package")
    called(factors(), 2)
    assert made() == 1


def test_what_cannot_be_kept_is_left_to_the_usual_call(folder, monkeypatch):
    assert called(factors(), Power(2)) is None
    for own in (of_ones_own, functools.partial(of_ones_own, 1), {"a": [Power]}):
        assert called(factors(), 2, name=own) is None
    assert kept(lambda x: x, None, (np.ones(2),), {}) is None
    assert kept(refused, None, (np.ones(2),), {}) is None  # which raises its error in the usual call
    assert not folder.exists()
    found = jax.jit(lambda x: jnp.zeros(()) if kept(refused, None, (x,), {}) is None else x)(np.ones(2))
    assert found == 0
    monkeypatch.setenv("EQX_ON_ERROR", "raise")
    assert called(factors(), 2) is None
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("EQX_ON_ERROR", "nan")
    assert called(factors(), 2) is None


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[: len(old) // 2], lambda old: b"x" + old])
def test_a_damaged_file_is_replaced(folder, damage):
    want = called(factors(), 2)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    forget()
    assert_equal(called(factors(), 2), want)
    assert TRACED == [2]
    forget()
    assert_equal(called(factors(), 2), want)
    assert TRACED == []


def test_a_folder_that_cannot_be_written_costs_nothing(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file")
    assert_equal(called(factors(), 2), product(factors(), 2))


def test_those_that_went_unused_for_longest_make_room(folder, monkeypatch):
    paths = []
    for power in (1, 2, 3):
        called(factors(), power)
        (new,) = {*folder.iterdir()} - {*paths}
        paths.append(new)
        os.utime(new, (time.time() - 100 + power,) * 2)
    forget()
    called(factors(), 1)  # used again
    monkeypatch.setattr(room, "_MOST_BYTES", sum(path.stat().st_size for path in paths) + 100)
    called(factors(), 4)
    left = {*folder.iterdir()}
    assert paths[0] in left and paths[1] not in left and paths[2] in left and len(left) == 3
