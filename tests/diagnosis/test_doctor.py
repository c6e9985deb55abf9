"""The doctor: it passes on this machine, and it would notice each kind of wrong machine."""

import dataclasses
import importlib
import importlib.metadata
import json

import jax
import numpy as np
import pytest

from unhinged_jax.diagnosis import canary as programs
from unhinged_jax.diagnosis import doctor

SIZE = 17


def only(monkeypatch, name, run):
    """Leave one program in the canary and give the device `run` for it."""
    program = next(p for p in programs._PROGRAMS if p.name == name)
    monkeypatch.setattr(programs, "_PROGRAMS", (dataclasses.replace(program, run=run),))


def healthy_result(ok=True, error=1e-7):
    return doctor.CanaryResult("affine scan", SIZE, "float32", error, 7.6e-6, ok)


@pytest.fixture
def good_release(monkeypatch):
    """A release without a known problem, whatever this machine has."""
    monkeypatch.setattr(doctor, "KNOWN_PROBLEMS", {})


def test_this_machine_passes_at_every_size():
    flag = jax.config.jax_enable_x64
    results = doctor.canary()
    assert [r for r in results if not r.ok] == []
    assert {(r.name, r.dtype, r.lanes) for r in results} == {
        (name, dtype, lanes)
        for name in ("product and sum", "affine scan", "class-sum descent", "outside jit")
        for dtype in ("float32", "float64")
        for lanes in (4097, 16385, 32769)
    }
    for result in results:
        eps = 2.0**-23 if result.dtype == "float32" else 2.0**-52
        assert result.bound == 64 * eps
        # Ten roundings, so that the bound has room on other devices and still means something.
        assert 0 <= result.relative_error < 10 * eps
    assert jax.config.jax_enable_x64 == flag


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("product and sum", lambda right: right.at[-1].mul(1.001)),
        ("affine scan", lambda right: right.at[3, 2].add(1e-3)),
        ("class-sum descent", lambda right: right.at[0].set(np.nan)),
        ("outside jit", lambda right: right.at[-1].set(0.0)),
    ],
)
def test_one_wrong_lane_is_noticed(monkeypatch, name, spoil):
    run = next(p for p in programs._PROGRAMS if p.name == name).run
    only(monkeypatch, name, lambda *inputs: spoil(run(*inputs)))
    results = doctor.canary(lanes=(SIZE,))
    assert len(results) == 2
    assert not any(result.ok for result in results)


def test_bias_left_unscaled_is_noticed(monkeypatch):
    def step_with_the_bias_unscaled(x, matrix, bias):
        for _ in range(programs.AFFINE_STEPS):
            x = x + programs.AFFINE_RATE * (x @ matrix.T) + bias
        return x

    only(monkeypatch, "affine scan", step_with_the_bias_unscaled)
    assert all(result.relative_error > 1 for result in doctor.canary(lanes=(SIZE,)))


def test_float32_products_in_lower_precision_are_noticed(monkeypatch):
    def truncated(rows, matrix):
        rows, matrix = (
            (np.asarray(a, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for a in (rows, matrix)
        )
        return ((rows @ matrix.T) ** 2).sum(axis=1)  # ten bits of mantissa, as TF32 keeps

    only(monkeypatch, "product and sum", truncated)
    assert not doctor.canary(lanes=(SIZE,))[0].ok


@pytest.mark.parametrize("run", [lambda x: 1 / 0, lambda x: x[:-1]])
def test_program_that_fails_is_a_result(monkeypatch, run):
    only(monkeypatch, "outside jit", run)
    for result in doctor.canary(lanes=(SIZE,)):
        assert not result.ok
        assert result.relative_error == np.inf
        assert "division by zero" in result.detail or "shape (16,)" in result.detail


def test_device_without_float64_is_asked_in_float32_only(monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no float64 here")

    assert programs._has_float64()
    monkeypatch.setattr(programs.jnp, "asarray", refuse)
    assert not programs._has_float64()
    monkeypatch.undo()
    monkeypatch.setattr(programs, "_has_float64", lambda: False)
    assert {result.dtype for result in doctor.canary(lanes=(SIZE,))} == {"float32"}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.9.2", None),
        ("0.10.0", "36958"),
        ("0.10.1", "36958"),
        ("0.10.2", "39103"),
        ("0.10.2+cuda12", "39103"),
        ("0.11.0", "40633"),
        ("0.11.1", "40633"),
        ("0.11.2", None),
        ("0.12.0.1", None),
        ("0.1.0", None),
        ("", None),
    ],
)
def test_known_problem(version, expected):
    problem = doctor.known_problem(version)
    assert problem is None if expected is None else expected in problem


def test_report_of_a_sound_machine(good_release):
    found = doctor.report()
    assert found["packages"]["jax"] == jax.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert set(found["packages"]) == {*doctor.PACKAGES, "unhinged_jax"}
    assert all(found["packages"][name] for name in doctor.PACKAGES)
    assert [d["id"] for d in found["devices"]] == [d.id for d in jax.devices()]
    assert found["devices"][0]["platform"] == jax.devices()[0].platform
    assert found["default_dtype"] == np.asarray(jax.numpy.zeros(1)).dtype.name
    assert found["problems"] == []
    json.dumps(found, allow_nan=False)


def test_report_states_the_precision_in_force():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        found = doctor.report()
    assert (found["x64"], found["default_dtype"]) == (True, "float64")
    assert found["matmul_precision"] == "highest"


def test_report_survives_broken_parts(monkeypatch):
    real_import, real_version = importlib.import_module, importlib.metadata.version

    def broken_import(name, *rest):
        if name == "diffrax":
            raise AttributeError("module 'jax' has no attribute 'gone'\nlong tail")
        return real_import(name, *rest)

    def broken_version(name):
        if name == "optax":
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    def no_devices():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(doctor.importlib, "import_module", broken_import)
    monkeypatch.setattr(doctor.importlib.metadata, "version", broken_version)
    monkeypatch.setattr(doctor.jax, "devices", no_devices)
    monkeypatch.setattr(doctor, "KNOWN_PROBLEMS", {jax.__version__: "wrong on Mars"})
    found = doctor.report()
    assert found["devices"] == []
    assert found["default_backend"] is None
    problems = "\n".join(found["problems"])
    assert "diffrax does not import: AttributeError: module 'jax' has no attribute" in problems
    assert "long tail" not in problems
    assert "Unable to initialize backend" in problems
    assert f"jax {jax.__version__}: wrong on Mars" in problems


def test_main_prints_tables_and_passes(monkeypatch, capsys, good_release):
    monkeypatch.setattr(doctor, "canary", lambda: [healthy_result()])
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    for expected in (jax.__version__, "affine scan", "1.0e-07", "7.6e-06", "ok"):
        assert expected in printed
    assert "WRONG" not in printed


def test_main_fails_on_a_wrong_number(monkeypatch, capsys, good_release):
    monkeypatch.setattr(doctor, "canary", lambda: [healthy_result(), healthy_result(False, 0.9)])
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert "cannot be trusted" in printed


def test_main_fails_on_a_wrong_release(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "canary", lambda: [healthy_result()])
    monkeypatch.setattr(doctor, "KNOWN_PROBLEMS", {jax.__version__: "wrong on Mars"})
    assert doctor.main() == 1
    assert "wrong on Mars" in capsys.readouterr().out


def test_main_json(monkeypatch, capsys, good_release):
    monkeypatch.setattr(doctor, "canary", lambda: [healthy_result(False, float("nan"))])
    assert doctor.main(json=True) == 1

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert printed["ok"] is False
    assert printed["report"]["packages"]["jax"] == jax.__version__
    assert printed["canary"][0]["relative_error"] is None
    assert printed["canary"][0]["lanes"] == SIZE
