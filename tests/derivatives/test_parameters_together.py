"""Parameters that touch one another: each derivative is the one it has alone, against differences of a plain loop."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.derivatives.chosen import chosen, together
from unhinged_jax.derivatives.parameters import available

C, P, UPDATES = 3, 2, 6
INDEX = np.array([0, 0, 1, 2])
NAMES = ("gamma", "decay", "decay_H", "decay_W", "rate_H", "rate_W", "s", "eta", "momentum", "noise")
ARRAYS = ("class_weights", "sample_weights", "H", "W", "b")
RNG = np.random.default_rng(5)
START = {"H": RNG.normal(size=(4, P)), "W": RNG.normal(size=(C, P)), "b": RNG.normal(size=C)}
BASE = {
    "gamma": 0.3, "decay_H": 0.05, "decay_W": 0.05, "rate_H": 0.8, "rate_W": 1.1, "eta": 0.5, "momentum": 0.4,
    "noise": 0.1, "class_weights": np.ones(C), "sample_weights": np.array([0.2, 0.3, 0.1, 0.4]), **START,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def problem(total=1.0, schedule=0.5, kind=uj.Descent, **more):
    labels = uj.from_labels(INDEX, classes=C).weighted(samples=4 * total * BASE["sample_weights"], normalise=False)
    model = uj.regularized(labels.symmetric_noise(0.1), P, gamma=0.3, decay=0.05, bias=True)
    more = more or {"momentum": 0.4}
    return model, kind(schedule, rate_H=0.8, rate_W=1.1, **more), uj.State(**START)


def moved(steps, total):
    """The settings that a step in each parameter leads to; steps are added, as the documentation says."""
    at = {name: np.array(value, float) for name, value in BASE.items()}
    first = at["sample_weights"] = total * at["sample_weights"]
    for name, step in steps.items():
        if name == "decay":
            at["decay_H"], at["decay_W"] = at["decay_H"] + step, at["decay_W"] + step
        elif name == "s":
            at["rate_H"] = at["rate_H"] + step * BASE["rate_W"]
        elif name == "class_weights":
            q = first * (1 + step)[INDEX]
            at["sample_weights"] = at["sample_weights"] + q / (q.sum() if total == 1.0 else 1.0) - first
        else:
            at[name] = at[name] + step
    return at


def log_norm(steps, total=1.0):
    """Momentum descent of the unhinged loss written as loops over NumPy arrays."""
    x = moved(steps, total)
    off = x["noise"] / (C - 1)
    targets = np.where(INDEX[:, None] == np.arange(C), 1 - x["noise"], off)
    M = x["sample_weights"][:, None] * ((1 + x["gamma"]) * targets - x["gamma"])
    H, W, b = x["H"], x["W"], x["b"]
    velocity = [np.zeros_like(part) for part in (H, W, b)]
    for _ in range(UPDATES):
        push = [M @ W - x["decay_H"] * H, M.T @ H - x["decay_W"] * W, M.sum(axis=0) - x["decay_W"] * b]
        velocity = [p + x["momentum"] * v for p, v in zip(push, velocity, strict=True)]
        rates = [x["eta"] * x[rate] for rate in ("rate_H", "rate_W", "rate_W")]
        H, W, b = (part + r * v for part, r, v in zip((H, W, b), rates, velocity, strict=True))
    return np.log(np.sum(H**2) + np.sum(W**2)) / 2


def first_difference(name, step, total=1.0):
    h = 1e-3
    far, near = ([log_norm({name: k * h * step}, total) for k in pair] for pair in ((2, -2), (1, -1)))
    return (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * h)


def second_difference(one, other):
    """Mixed or pure second derivative, error of fourth order in the step."""
    weights, h = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}, 3e-3
    if one == other:
        pure = {-2: -1 / 12, -1: 4 / 3, 0: -5 / 2, 1: 4 / 3, 2: -1 / 12}
        return sum(w * log_norm({one: k * h}) for k, w in pure.items()) / h**2
    pairs = itertools.product(weights.items(), weights.items())
    return sum(a * b * log_norm({one: i * h, other: j * h}) for (i, a), (j, b) in pairs) / h**2


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("decay", "decay_H", "s", "rate_W"), ["simulated"]),
        pytest.param(NAMES, None, marks=pytest.mark.long),
    ],
)
def test_every_parameter_and_every_pair_is_that_of_the_loop(names, sources):
    """All of them shown at once, at first and second order."""
    found = uj.sensitivity(*problem(), [UPDATES], "log_norm", names, order=2, sources=sources)
    table = found.isel(observable=0, time=0)
    assert table["value"].values == pytest.approx(log_norm({}), rel=1e-12)
    for name in names:
        assert table["first"].sel(parameter=name).values == pytest.approx(first_difference(name, 1.0), abs=1e-8)
    for one, other in itertools.combinations_with_replacement(names, 2):
        want = second_difference(one, other)
        for a, b in ((one, other), (other, one)):
            shown = table["second"].sel(parameter=a, parameter_2=b).values
            assert shown == pytest.approx(want, abs=1e-6 * max(1.0, abs(want))), (a, b)


# Weights whose sum is not 1 are not normalised: factors apply as given, as `weighted(normalise=False)` applies them.
@pytest.mark.long
@pytest.mark.parametrize("total", [2.5, 1.0])
def test_arrays_beside_numbers_that_share_them(total):
    wanted = [*ARRAYS, "noise", "decay"]
    table = uj.sensitivity(*problem(total), [UPDATES], "log_norm", wanted, sources=["simulated"])
    assert table["value"].item() == pytest.approx(log_norm({}, total), rel=1e-12)
    for name in ARRAYS:
        step = np.random.default_rng(1).normal(size=np.shape(BASE[name]))
        found = np.sum(table[f"first_{name}"].values * step)
        assert found == pytest.approx(first_difference(name, step, total), abs=1e-7), name
    want = first_difference("decay", 1.0, total)
    assert table["first"].sel(parameter="decay").item() == pytest.approx(want, abs=1e-7)


def _tangents(wanted, start):
    """The derivative of every number of the problem in every parameter, tried along fixed directions."""
    theta = {p.name: jnp.asarray(p.value, float) for p in wanted}
    found = {}
    for p in wanted:
        step = {name: jnp.zeros_like(x) for name, x in theta.items()}
        step[p.name] = jnp.cos(1.0 + jnp.arange(theta[p.name].size)).reshape(theta[p.name].shape)

        def leaves(theta):
            model, dynamics, state = together(start, wanted, theta)
            return [
                model.loss.gamma, model.decay_H, model.decay_W, model.labels.probabilities(), model.labels.weights,
                dynamics.rate_H, dynamics.rate_W, jax.tree.leaves(dynamics.schedule), state.H, state.W, state.b,
            ]  # fmt: skip

        def floats(theta, leaves=leaves):
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), leaves(theta))

        value, found[p.name] = jax.jvp(floats, (theta,), (step,))
    return value, found


@pytest.mark.long
@pytest.mark.parametrize("total", [1.0, 2.5])
def test_a_pair_moves_the_problem_by_what_each_moves_alone(total):
    """Every pair in both orders, of weights that are normalised and of weights that are not."""
    start = problem(total, uj.cosine(0.5, horizon=9.0), uj.Flow, rtol=1e-6)
    known = available(*start)
    value, alone = None, {}
    for name in known:
        value, found = _tangents([known[name]], start)
        alone |= found
    for pair in itertools.permutations(known, 2):
        if {"rate_H", "s", "decay", "decay_H", "class_weights", "sample_weights", "noise"}.isdisjoint(pair):
            continue
        shown, found = _tangents(chosen(pair, start), start)
        chex.assert_trees_all_close(shown, value, rtol=1e-12, atol=1e-15)
        chex.assert_trees_all_close(found, {name: alone[name] for name in pair}, rtol=1e-12, atol=1e-14)


@pytest.mark.long
def test_the_default_call_has_the_derivative_in_the_decay():
    """Two equal decays act along a flow like a factor e^(-decay zeta): here zeta(5) = 2.5."""
    model = uj.regularized(uj.balanced(C, 4), 5, gamma=0.3, decay=0.05)
    table = uj.sensitivity(model, uj.Flow(0.5), model.init(jax.random.key(0)), [5.0], "log_norm")
    np.testing.assert_allclose(table["first"].sel(parameter="decay").values, -2.5, rtol=1e-6)
    halves = table["first"].sel(parameter="decay_H") + table["first"].sel(parameter="decay_W")
    np.testing.assert_allclose(halves.values, -2.5, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("pair", [("decay", "decay_W"), ("decay_H", "decay"), ("s", "rate_H"), ("rate_W", "s")])
def test_pairs_shown_alone_from_both_sources(pair):
    table = uj.sensitivity(*problem(), [UPDATES], "log_norm", pair, order=2).isel(observable=0, time=0)
    for name in pair:
        np.testing.assert_allclose(table["first"].sel(parameter=name), first_difference(name, 1.0), rtol=1e-8)
    mixed = table["second"].sel(parameter=pair[0], parameter_2=pair[1])
    np.testing.assert_allclose(mixed, second_difference(*pair), rtol=1e-6)


def test_what_cannot_be_added_is_named():
    start = problem()
    own = uj.Parameter("shape", 0.5, lambda p, v: (p[0], uj.Descent(lambda k: v / (1 + k)), p[2]))
    moved_problem = together(start, chosen([own, "gamma"], start), {"shape": 0.25, "gamma": 0.7})
    assert float(moved_problem[1].schedule(0)) == 0.25 and float(moved_problem[0].loss.gamma) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="'eta' and 'shape' replace the same part"):
        together(start, chosen(["eta", own], start), {"shape": 0.25, "eta": 0.7})
