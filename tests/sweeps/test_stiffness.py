"""Stiffness, by which a sweep sorts its lanes: against power iteration with a whole matrix."""

import jax
import numpy as np
import oracles
import pytest

import unhinged_jax as uj
from unhinged_jax.sweeps.groups import grouping_of
from unhinged_jax.sweeps.stiffness import by_stiffness, stiffness

TABLES = {
    "model": {"case": "regularized", "dim": 4, "decay": [0.3, 2.5], "gamma": 0.5},
    "labels": {"layout": "counts", "counts": [3, 2, 1]},
    "dynamics": {
        "kind": "flow", "rate_H": 0.7, "rate_W": 1.6, "schedule": {"kind": "cosine", "peak": 0.4, "horizon": 20},
    },
    "run": {"times": [2.0, 5.0, 9.0], "observe": ["norm"], "precision": "float64"},
}  # fmt: skip


def plan(axes):
    return uj.SweepPlan.of({**TABLES, "sweep": axes})


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def largest_rate(decay_H):
    """Eight power iterations from the start with the matrix of the flow at its fastest, times the duration."""
    config = plan({"grid": {"model.gamma": [0.5, 0.6]}}).config_at({})
    state = uj.config.build(config).state
    M = oracles.signal_matrix(np.full(6, 1 / 6), oracles.one_hot([0, 0, 0, 1, 1, 2], 3), 0.5)
    fastest = 0.4 / 2 * (1 + np.cos(np.pi * 2.0 / 20))  # of the three times, the first
    A = fastest * oracles.generator(M, None, (decay_H, 2.5), (0.7, 1.6))
    z = np.concatenate([state.H, state.W])
    for _ in range(8):
        z = A @ (z / np.linalg.norm(z))
    return np.linalg.norm(z) * 7.0


@pytest.mark.parametrize("decay_H", [0.3, 3.1])
def test_stiffness_is_the_largest_rate_times_the_duration(decay_H):
    config = plan({"grid": {"model.gamma": [0.5, 0.6]}}).config_at({})
    got = jax.jit(lambda decay: stiffness(config, {"model.decay.0": decay}))(decay_H)
    assert float(got) == pytest.approx(largest_rate(decay_H), rel=1e-12)


def test_random_points_stand_in_the_order_of_their_stiffness():
    given = plan({"random": {"count": 8, "model.decay.0": {"from": 0.0, "to": 40.0}}})
    found, _ = by_stiffness(given, grouping_of(given))
    values = np.asarray(found.dims[0].axes[0].values)
    assert np.all(np.diff([largest_rate(x) for x in values]) >= 0) and set(values) == set(given.dims[0].axes[0].values)
