"""Runs at rates of several schedules, one after another: against a NumPy loop, and against the integral of the rate."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.derivatives.parameters import available

LABELS = uj.from_counts([3, 2, 1])
MODEL = uj.regularized(LABELS, 4, gamma=0.3, decay=(0.05, 0.02))
START = MODEL.init(jax.random.key(1), precision="float64")
ROWS = np.eye(3)[np.asarray(LABELS.index)]
SIGNAL = (1.3 * ROWS - 0.3) / 6
NUMBERS = {"peak": 0.5, "kept": 0.1, "falls": 0.3, "first": 7.5, "second": 11.5}


def schedule(peak, kept, falls, first, second):
    return uj.join([uj.warmup(2, peak), kept, uj.cosine(falls, horizon=9.0)], [first, second])


def rate(t, peak, kept, falls, first, second):
    if t < first:
        return peak * min(t / 2, 1.0)
    return kept if t < second else falls * (1 + np.cos(np.pi * min(t - second, 9.0) / 9)) / 2


def loop(updates, **numbers):
    """log ||H|| after each number of updates, by the definition."""
    H, W, found = np.array(START.H), np.array(START.W), []
    for k in range(max(updates) + 1):
        found.append(np.log(np.linalg.norm(H)))
        eta = rate(k, **numbers)
        H, W = (1 - 0.05 * eta) * H + eta * SIGNAL @ W, (1 - 0.02 * eta) * W + eta * SIGNAL.T @ H
    return np.array(found)[list(updates)]


@pytest.mark.parametrize("solve", [uj.simulate, uj.exact])
def test_a_descent_follows_each_schedule_in_turn_and_goes_on_with_the_next(solve):
    descent = uj.Descent(schedule(**NUMBERS))
    updates = [1, 7, 8, 9, 12, 15, 30]
    run = solve(MODEL, descent, START, updates, "log_norm_H")
    np.testing.assert_allclose(run["log_norm_H"], loop(updates, **NUMBERS), rtol=1e-12)
    again = solve(MODEL, descent, solve(MODEL, descent, START, [9], ()), updates[3:], "log_norm_H")
    np.testing.assert_allclose(again["log_norm_H"], run["log_norm_H"][3:], rtol=1e-13)


def test_a_flow_is_where_the_integral_of_the_rate_says():
    """Against a constant rate at the summed integrals of the pieces; a run stopped in the second piece goes on."""
    numbers = dict(NUMBERS)
    zeta = [0.5 * (1 + 5.5) + 0.1 * 4.0 + 0.3 * (x + 9 / np.pi * np.sin(np.pi * x / 9)) / 2 for x in (0.0, 4.0, 9.0)]
    one, other = uj.Flow(schedule(**numbers)), uj.Flow(1.0)
    run = uj.exact(MODEL, one, START, [11.5, 15.5, 50.0], "log_norm_H")
    np.testing.assert_allclose(
        run["log_norm_H"], uj.exact(MODEL, other, START, zeta, "log_norm_H")["log_norm_H"], rtol=1e-13
    )
    simulated = uj.simulate(MODEL, one, uj.simulate(MODEL, one, START, [9.0], ()), [15.5, 50.0], "log_norm_H")
    np.testing.assert_allclose(simulated["log_norm_H"], run["log_norm_H"][1:], atol=1e-7)


WAYS = {
    "peak": "schedule.schedules.0.schedule.value", "kept": "schedule.schedules.1.value",
    "falls": "schedule.schedules.2.peak",
}  # fmt: skip


def test_numbers_of_joined_schedules_have_names():
    descent = uj.Descent(schedule(**NUMBERS))
    found = available(MODEL, descent, START)
    for name, way in WAYS.items():
        assert float(found[way].value) == NUMBERS[name]
        moved = found[way].put((MODEL, descent, START), 0.25)[1]
        assert moved == uj.Descent(schedule(**(NUMBERS | {name: 0.25})))
    np.testing.assert_array_equal(found["schedule.boundaries"].value, [7.5, 11.5])


@pytest.mark.long
def test_derivatives_with_respect_to_numbers_of_joined_schedules():
    wanted = [*WAYS.values(), "schedule.boundaries"]
    table = uj.sensitivity(MODEL, uj.Descent(schedule(**NUMBERS)), START, [15], "log_norm_H", wanted)
    step = 1e-5
    for name in NUMBERS:
        ends = [loop([15], **(NUMBERS | {name: NUMBERS[name] + move}))[0] for move in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        if name in WAYS:
            found = table["first"].sel(parameter=WAYS[name])
        else:  # the second boundary is the start of the cosine; the first one has no effect between two updates
            found = table["first_schedule.boundaries"][..., list(NUMBERS).index(name) - 3]
        np.testing.assert_allclose(np.ravel(found), slope, rtol=1e-6, atol=1e-9)
