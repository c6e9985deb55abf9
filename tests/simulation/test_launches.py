"""The forms that programs have on an accelerator, run here: they compute what the others compute.

What an accelerator really does is left to `unhinged doctor` and the benchmarks there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import _loop
from unhinged_jax._loop import launches
from unhinged_jax.special import safe_norm

GAMMA = 0.3
CLASSES, PER_CLASS, DIM = 3, 4, 13  # of no other test, whose compiled programs would be used instead


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def problem(dtype="float64", **changes):
    model = uj.regularized(
        uj.balanced(classes=CLASSES, per_class=PER_CLASS), DIM, decay=(0.02, 0.05), gamma=GAMMA, bias=True
    )
    model = model.replace(**changes)
    return model, model.init(jax.random.key(0), scale=0.3, precision=dtype)


def loop(model, state, rate, updates, momentum=0.0):
    """Plain updates of the dense arrays in NumPy, in double precision: (H, W, b)."""
    signal = np.zeros((model.samples, model.classes))
    labels = np.asarray(model.labels.index)
    gamma = GAMMA
    signal -= gamma / model.samples
    signal[np.arange(model.samples), labels] += (1 + gamma) / model.samples
    parts = [np.asarray(part, float) for part in (state.H, state.W, state.b)]
    velocity = [np.zeros_like(part) for part in parts]
    for _ in range(updates):
        H, W, b = parts
        pushes = signal @ W - 0.02 * H, signal.T @ H - 0.05 * W, signal.sum(axis=0) - model.decays.b * b
        velocity = [momentum * old + push for old, push in zip(velocity, pushes, strict=True)]
        parts = [part + rate * push for part, push in zip(parts, velocity, strict=True)]
    return parts


@pytest.mark.parametrize(
    ("times", "momentum"),
    [
        (np.arange(0, 641, 64), None),
        pytest.param([0, 3, 50, 177], None, marks=pytest.mark.long),
        pytest.param(np.arange(0, 161, 16), 0.8, marks=pytest.mark.long),
    ],
    ids=["equally spaced", "looked up", "momentum"],
)
def test_descents_are_the_loop(times, momentum):
    model, state = problem()
    run = uj.simulate(model, uj.Descent(0.05, momentum=momentum), state, times)
    truth = uj.exact(model, uj.Descent(0.05, momentum=momentum), state, times)
    H, W, b = loop(model, state, 0.05, int(times[-1]), momentum or 0.0)
    for ours, theirs in zip((run.final.H, run.final.W), (H, W), strict=True):
        np.testing.assert_allclose(
            np.exp(run.final.log_scale) * ours, theirs, rtol=1e-11, atol=1e-13 * np.abs(theirs).max()
        )
    np.testing.assert_allclose(run.final.b, b, rtol=1e-11)
    for name, values in run.observables.items():
        np.testing.assert_allclose(values, truth[name], rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.long
def test_batches_and_precision():
    model, _ = problem("float32")
    keys = jax.random.split(jax.random.key(1), 3)
    decays = jnp.asarray([0.01, 0.1], jnp.float32)

    def last(key, decay):
        chosen = model.replace(decay=decay)
        return uj.simulate(
            chosen, uj.Descent(0.1), chosen.init(key), np.arange(0, 97, 16), ["log_norm", "loss"]
        ).observables

    many = jax.vmap(jax.vmap(last, (None, 0)), (0, None))(keys, decays)
    for i, key in enumerate(keys):
        for j, decay in enumerate(decays):
            one = last(key, decay)
            for name in one:
                np.testing.assert_allclose(many[name][i, j], one[name], rtol=2e-5, atol=2e-6)


def test_a_run_out_of_range_ends_at_its_last_update():
    model, state = problem()
    tilted = state.replace(b=jnp.linspace(1.0, 2.0, CLASSES))
    run = uj.simulate(model.replace(decay_b=40.0), uj.Descent(1.0), tilted, np.arange(0, 641, 64), ["norm_b"])
    assert run.result == uj.RunResult.OVERFLOW
    # |1 - 40|^k: the last power of 39 within the range of doubles is the 193rd.
    assert int(run.steps) == 193 and np.all(np.isfinite(run.final.b))
    assert bool(run.reached[3]) and not bool(run.reached[4])


@pytest.mark.parametrize("loss", [None, pytest.param("cross_entropy", marks=pytest.mark.long)])
def test_flows_have_the_same_solution(loss):
    model, state = problem(**({"loss": loss} if loss else {}))
    times = np.linspace(0, 20, 41)
    run = uj.simulate(model, uj.Flow(rtol=1e-10), state, times, ["loss", "accuracy", "norm_H"])
    if loss is None:
        truth = uj.exact(model, uj.Flow(), state, times, ["loss", "accuracy", "norm_H"])
        uj.verify(run, truth)
        return
    dense = uj.simulate(model, uj.Flow(rtol=1e-10), state, times, ["loss", "accuracy", "norm_H"], reduce=False)
    for name in run.observables:
        np.testing.assert_allclose(run[name], dense[name], rtol=1e-7)


def test_norms_have_no_branch():
    for scale in (1e-300, 1e-30, 1.0, 1e30, 1e300):
        parts = scale * np.random.default_rng(0).standard_normal((40, 31)), scale * np.ones(7)
        with jax.enable_x64(True):
            arrays = [jnp.asarray(part) for part in parts]
            size = np.linalg.norm(np.concatenate([np.ravel(part) / scale for part in parts])) * scale
            np.testing.assert_allclose(safe_norm(*arrays), size, rtol=1e-14)
            text = jax.jit(safe_norm).lower(*arrays).as_text()
    assert "stablehlo.case" not in text and "stablehlo.if" not in text


def test_packing_is_undone():
    carry = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": jnp.asarray(True),
        "c": (jnp.asarray(3), jnp.ones(2, jnp.float16)),
    }
    pack, unpack = launches.packing(carry)
    assert len(pack(carry).arrays) == 4
    jax.tree.map(np.testing.assert_array_equal, unpack(pack(carry)), carry)


def test_how_many_moments_are_read_together(monkeypatch):
    assert _loop.at_once(1000, 100) > 1 and _loop.at_once(10**6, 10) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert _loop.at_once(1000, 100) == 1


@pytest.mark.long
def test_more_reads_than_can_be_kept_are_read_within_the_loop(monkeypatch):
    model, state = problem()
    kept = uj.simulate(model, uj.Descent(0.05), state, np.arange(0, 65, 8))
    jax.clear_caches()
    monkeypatch.setattr(_loop.blocks, "_KEPT", 0)
    within = uj.simulate(model, uj.Descent(0.05), state, np.arange(0, 65, 8))
    for name, values in kept.observables.items():
        np.testing.assert_allclose(within[name], values, rtol=1e-11, atol=1e-12, err_msg=name)
