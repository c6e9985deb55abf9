"""What theories, predictions of networks and sweeps claim, where the easy case does not cover it."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.losses import Focal
from unhinged_jax.sweeps import boundaries
from unhinged_jax.sweeps.export import tables
from unhinged_jax.theories.ce_decay import etf_minimiser
from unhinged_jax.theories.within_class import variability_rates
from unhinged_jax.training import ntk


@pytest.mark.parametrize(
    ("power", "classes", "decay"), [(5.0, 100, 1.2 / 99), (2.0, 100, 0.0101), (2.0, 3, 0.1), (0.0, 10, 0.05)]
)
def test_the_minimiser_on_the_ray_is_the_lowest_of_all_minima(power, classes, decay):
    """Focal loss (1 - p)^g (-log p) with p = 1/(1 + (C-1) e^-x), written out and looked at everywhere."""
    x = np.concatenate([[0.0], np.geomspace(1e-4, 40, 200_001)])
    log_p = -np.log1p((classes - 1) * np.exp(-x))
    values = (-np.expm1(log_p)) ** power * -log_p + (classes - 1) * decay * x
    found = etf_minimiser(Focal(power), classes, 1, decay, decay)
    assert found.objective == pytest.approx(values.min(), rel=1e-8)
    assert found.gap == pytest.approx(x[np.argmin(values)], abs=2e-3)


def test_critical_trade_offs_ascend_and_separate_the_winners():
    for rate in (0.0, 0.3, 0.9, 0.95, 1.0):
        low, high = boundaries.critical_gammas(rate, 10)
        assert 0 <= low <= high
        share = abs(1 - rate * 10 / 9)
        for gamma in (low, high):
            assert abs(1 + gamma - 10 * gamma) == pytest.approx(share * (1 + gamma), abs=1e-12)


def test_small_rates_are_not_rounded():
    inside, outside = variability_rates(4, 25, 1e-17, 1e-3)
    assert inside == pytest.approx(1e-17 / (4 * np.sqrt(25e-20)), rel=1e-12)
    assert outside == 1e-17


def _prediction(labels, form):
    theta, x = jnp.eye(2), jnp.asarray([[1.0, 0.2], [0.3, 1.0], [0.5, -1.0]])
    return ntk.predict(
        lambda theta, x: x @ theta, theta, jnp.ones((2, 2)), x, labels, uj.Flow(), [1.0], form=form
    )  # fmt: skip


@pytest.mark.parametrize("form", ["class_means", "class_kernel"])
def test_class_means_are_refused_where_they_do_not_suffice(form):
    labels = uj.from_labels([0, 0, 1], classes=2)
    with pytest.raises(ValueError, match=r"equal weights within each class, but those of class 0 range from"):
        _prediction(labels.weighted(samples=[1.0, 3.0, 1.0]), form)
    emptied = labels.replace(index=np.array([0, 0, 0]), clean=labels.index, balanced=False)
    with pytest.raises(ValueError, match=r"class 1 has none \(drawn label noise"):
        _prediction(emptied, form)


@pytest.mark.long
def test_a_float64_sweep_over_expected_noise_is_that_of_single_runs(tmp_path):
    rates = [0.1, 0.3]
    plan = uj.SweepPlan.of({
        "model": {"case": "unconstrained", "dim": 3},
        "labels": {
            "layout": "balanced", "classes": 3, "per_class": 2,
            "noise": {"kind": "symmetric", "rate": 0.1, "expected": True},
        },
        "dynamics": {"kind": "flow"},
        "run": {"times": [0, 5], "observe": ["loss"], "precision": "float64"},
        "sweep": {"method": "exact", "grid": {"labels.noise.rate": rates}},
    })  # fmt: skip
    data = uj.sweep(plan, tmp_path / "s.zarr", workers=0, progress=False).load()
    for rate, found in zip(rates, data["loss"].values.reshape(2, 2), strict=True):
        model = uj.unconstrained(uj.balanced(3, 2).symmetric_noise(rate), 3)
        state = model.init(jax.random.key(0), precision="float64")
        want = uj.exact(model, uj.Flow(), state, [0, 5], "loss")["loss"]
        np.testing.assert_allclose(found, want, rtol=1e-12)


def test_portions_of_an_export_count_on(monkeypatch):
    import xarray

    monkeypatch.setattr(sys.modules[tables.__module__], "_ROWS", 4)
    data = xarray.Dataset(
        {"loss": (("point", "time"), np.arange(10.0).reshape(5, 2)), "result": ("point", np.zeros(5, int))},
        coords={"gamma": ("point", np.linspace(0, 1, 5)), "time": [0.0, 1.0]},
    )
    frames = list(tables(data))
    assert len(frames) > 1
    assert np.concatenate([frame["point"] for frame in frames]).tolist() == np.repeat(np.arange(5), 2).tolist()
