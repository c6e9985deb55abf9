"""What a user of the typed package writes: the example of the README and the other public names, each with its type.

`mypy --strict` must pass on this file and find every value to be of the type that is asserted, so that no public name
comes out as `Any` where it should not. `test_public.py` sees to it.
"""

from __future__ import annotations

from typing import assert_type

import jax
import numpy as np
import optax
import xarray
from matplotlib.figure import Figure

import unhinged_jax as uj
from unhinged_jax.schedules import Cosine, Joined, Warmup


def ten_lines() -> jax.Array:
    """Those of the README."""
    model = uj.regularized(uj.balanced(classes=100, per_class=10), dim=512, gamma=1 / 99, decay=3e-3)
    state = model.init(jax.random.key(0))
    times = uj.logspaced(1, 5_000, 200)

    flow = uj.Flow(uj.cosine(0.1, horizon=5_000))
    run = uj.simulate(model, flow, state, times)
    truth = uj.exact(model, flow, state, times)
    print(uj.verify(run, truth))
    print(uj.limit(model, flow, state))

    assert_type(model, uj.LayerPeeled)
    assert_type(state, uj.State)
    assert_type(times, np.ndarray)
    assert_type(run, uj.Trajectory)
    assert_type(truth, uj.Trajectory)
    assert_type(run.result, uj.RunResult)
    assert_type(uj.verify(run, truth), uj.Comparison | uj.Agreement)
    assert_type(uj.verify(run, truth).worst, float)
    assert_type(uj.limit(model, flow, state), uj.Limit)
    assert_type(run.to_xarray(), xarray.Dataset)
    assert_type(run.plot(), Figure)
    run.save("run.npz")
    assert_type(uj.load("run.npz", flow), uj.Trajectory)
    assert_type(uj.concat([run, truth]), uj.Trajectory)
    assert_type(uj.__version__, str)

    def margin(decay: jax.Array) -> jax.Array:
        value: jax.Array = uj.simulate(model.replace(decay=decay), flow, state, times).last("accuracy_margin")
        return value

    slope: jax.Array = jax.grad(margin)(3e-3)
    return slope


def problems() -> list[uj.LayerPeeled]:
    """Labels and cases."""
    labels = [
        uj.from_labels([0, 1, 1]),
        uj.from_counts([5, 3]).weighted(classes=[1.0, 2.0]),
        uj.long_tailed(10, largest=100, ratio=50).symmetric_noise(0.2),
        uj.step_imbalanced(10, largest=100, ratio=50).smoothed(0.1),
        uj.soft([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], truth=[0, 1, 0]),
    ]
    assert_type(labels[0], uj.Labels)
    return [
        uj.unconstrained(labels[0], 4, loss="cross_entropy", bias=True),
        uj.anchored(labels[1], 4, decay=0.1),
        uj.frozen(labels[2], 4),
        uj.spherical(labels[3], 12, rescale=1),
        uj.ntk_invariant(labels[4], 4, np.eye(3)),
    ]


def dynamics() -> list[uj.Flow | uj.Descent]:
    """Schedules and rates."""
    assert_type(uj.cosine(0.1, 100), Cosine)
    assert_type(uj.warmup(10, uj.exponential(0.1, 0.01)), Warmup)
    assert_type(uj.join([uj.constant(0.1), 0.2, uj.cosine(0.2, 9)], [10, 20]), Joined)
    return [
        uj.Flow(uj.piecewise([1.0, 0.1], [50.0]), rate_H=2.0),
        uj.Descent(uj.polynomial(0.1, horizon=100), momentum=0.9),
        uj.Descent(uj.numeric(optax.linear_schedule(1.0, 0.0, 10))),
        uj.Descent(optimizer=optax.chain(uj.rescale_by_feature_norm(1), optax.adam(1e-2))),
        uj.Descent(optimizer=uj.Optimizer(optax.adam, learning_rate=1e-2).replace(b1=0.8)),
        uj.Descent(uj.constant(0.1)),
    ]


def gradients(model: uj.LayerPeeled, state: uj.State) -> None:
    """Derivatives of runs."""
    flow = uj.Flow()
    assert_type(uj.sensitivity(model, flow, state, [1.0, 2.0], "norm", "gamma"), xarray.Dataset)
    assert_type(uj.event_time(model, flow, state, "norm", 100.0, times=[0.0, 50.0]), uj.EventTime)
    assert_type(uj.push_forward(model, flow, state, [0.0, 1.0], state), tuple[uj.Trajectory, uj.State])
    assert_type(uj.lyapunov(model, flow, state, 10.0, 2), uj.Lyapunov)
    assert_type(uj.exact_exponents(model, flow), np.ndarray)
    assert_type(uj.observe_state(model, state, uj.all_observables), dict[str, jax.Array])
    outcome = uj.design(uj.DesignPlan.read("weights"))
    assert_type(outcome, uj.DesignOutcome)
    assert_type(outcome.met, bool | None)


def many(folder: str) -> None:
    """Sweeps."""
    plan = uj.SweepPlan.read("phase")
    assert_type(plan, uj.SweepPlan)
    try:
        assert_type(uj.sweep(plan, folder, workers=0), xarray.Dataset)
    except uj.SweepIncomplete:
        assert_type(uj.open_sweep(folder), xarray.Dataset)
    except uj.NoClosedForm:
        print(uj.citation())
