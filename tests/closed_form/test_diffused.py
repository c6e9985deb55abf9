"""Expectations of diffusions: the equation of all second moments, descents at small rates, and ensembles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from closed_form.test_expected import NAMES, PROBLEMS

import unhinged_jax as uj
from unhinged_jax.closed_form.exponential import Scaled, acted, exponential


def draws(model, drawn):
    """(probability, signal matrix) of every batch and every set of labels, in NumPy."""
    labels, n, C, m = model.labels, model.samples, model.classes, drawn.get("batch")
    q, targets = np.asarray(labels.weights, float), np.asarray(labels.probabilities(), float)
    gamma = model.loss.trade_off(C)
    weights = [np.ones(n)]
    if m is not None:
        chosen = itertools.product(range(n), repeat=m)
        if drawn.get("replacement") is False:
            chosen = itertools.permutations(range(n), m)
        weights = [np.bincount(one, minlength=n) * n / m for one in chosen]
    rows = [(1.0, targets)]
    if drawn.get("fresh_labels"):
        rows = [
            (np.prod([targets[i, c] for i, c in enumerate(one)]), np.eye(C)[list(one)])
            for one in itertools.product(range(C), repeat=n)
        ]
    for D, (chance, Y) in itertools.product(weights, rows):
        yield chance / len(weights), (D * q)[:, None] * ((1 + gamma) * Y - gamma)


def whole_moments(model, drawn, state, pieces, rates):
    """E z z^T for z = (H, W, b, 1), after each of the pieces (duration, rate), by `scipy.linalg.expm` of its equation.

    It holds all products of all numbers, and N(S) = sum over draws of chance (A - mean) S (A - mean)^T.
    """
    n, C, p = model.samples, model.classes, model.dim
    d = (n + C) * p + C + 1
    moves = np.repeat([model.moves.H * rates[0], model.moves.W * rates[1], model.moves.b * rates[1], 0.0],
                      [n * p, C * p, C, 1])  # fmt: skip
    decays = np.repeat([*(float(x) for x in model.decays), 0.0], [n * p, C * p, C, 1])

    def matrix(M):
        A = np.zeros((d, d))
        A[: n * p, n * p : (n + C) * p] = np.kron(M, np.eye(p))
        A[n * p : (n + C) * p, : n * p] = np.kron(M.T, np.eye(p))
        A[(n + C) * p : -1, -1] = M.sum(axis=0)
        return moves[:, None] * A

    every = [(chance, matrix(M)) for chance, M in draws(model, drawn)]
    mean = sum(chance * A for chance, A in every)
    noise = sum(chance * np.kron(A - mean, A - mean) for chance, A in every)
    K, one = mean - np.diag(moves * decays), np.eye(d)
    z = np.concatenate([*(np.asarray(part, float).ravel() for part in (state.H, state.W, state.b)), [1.0]])
    S, found = np.outer(z, z), []
    for duration, eta in pieces:
        flow = eta * (np.kron(K, one) + np.kron(one, K)) + eta**2 * noise
        S = (scipy.linalg.expm(duration * flow) @ S.ravel()).reshape(d, d)
        found.append(S)
    return found


def read(model, S):
    """The quadratic observables of E z z^T."""
    n, C, p = model.samples, model.classes, model.dim
    index = np.asarray(model.labels.index)
    HH = S[: n * p, : n * p].reshape(n, p, n, p).trace(axis1=1, axis2=3)
    HW = S[: n * p, n * p : (n + C) * p].reshape(n, p, C, p).trace(axis1=1, axis2=3)
    squares = [
        np.trace(HH),
        np.trace(S[n * p : (n + C) * p, n * p : (n + C) * p]),
        np.trace(S[-1 - C : -1, -1 - C : -1]),
    ]
    M = sum(chance * M for chance, M in draws(model, {}))
    loss = -np.sum(M * (HW + S[-1, -1 - C : -1]))
    same = (index[:, None] == index) / np.bincount(index, minlength=C)[index]
    between = np.trace(same @ HH) - HH.sum() / n
    decays = [float(x) for x in model.decays]
    return {
        "loss": loss,
        "objective": loss + sum(d * s for d, s in zip(decays, squares, strict=True)) / 2,
        "square_norm": squares[0] + squares[1],
        "square_norm_H": squares[0],
        "square_norm_W": squares[1],
        "square_norm_b": squares[2],
        "within_scatter": np.trace(HH) - np.trace(same @ HH),
        "between_scatter": between,
    }


FIRST = [("both", "bias")]
EVERY = [
    pair for pair in itertools.product(PROBLEMS, ("regularized", "bias", "frozen", "anchored")) if pair not in FIRST
]


@pytest.mark.parametrize(("name", "case"), [*FIRST, *(pytest.param(*pair, marks=pytest.mark.long) for pair in EVERY)])
def test_expectations_solve_the_equation_of_all_second_moments(name, case):
    labels, drawn, _ = PROBLEMS[name]
    with jax.enable_x64(True):
        make = {
            "regularized": lambda: uj.regularized(labels, dim=1, gamma=0.4, decay=(0.3, 0.2)),
            "bias": lambda: uj.regularized(labels, dim=1, gamma=0.4, decay=(0.3, 0.2), bias=True, decay_b=0.5),
            "frozen": lambda: uj.frozen(labels, dim=1, gamma=0.4, decay=0.2),
            "anchored": lambda: uj.anchored(labels, dim=1, gamma=0.4, decay=0.3),
        }
        model, rng = make[case](), np.random.default_rng(3)
        bias = rng.normal(size=labels.classes) if case == "bias" else None
        state = model.init(jax.random.key(1), prototypes=rng.normal(size=(labels.classes, 1)), bias=bias)
        pieces = [(1.5, 0.5), (2.5, 0.5), (3.0, 0.2), (3.5, 0.2)]
        diffusion = uj.Diffusion(uj.piecewise([0.5, 0.2], [4.0]), rate_H=0.7, rate_W=1.2, **drawn)
        moments = whole_moments(model, drawn, state, pieces, (0.7, 1.2))
        names = NAMES + (["square_norm_b"] if case == "bias" else [])
        run = uj.exact(model, diffusion, state, np.cumsum([duration for duration, _ in pieces]), names)
        assert run.kind == "expected" and run.clock == "time"
        for k, S in enumerate(moments):
            want = read(model, S)
            for one in names:
                size = abs(want["square_norm" if one != "square_norm_b" else one])
                np.testing.assert_allclose(run[one][k], want[one], rtol=1e-12, atol=1e-12 * size, err_msg=one)


def test_exponentials_with_a_scale_of_their_own():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        A, v = rng.normal(size=(6, 6)), rng.normal(size=6)
        for t in (0.0, 1e-9, 0.7, 40.0):
            want = scipy.linalg.expm(t * A)
            whole = exponential(jnp.asarray(A), jnp.asarray(t))
            np.testing.assert_allclose(whole.array * 2.0**whole.power, want, atol=1e-12 * np.max(np.abs(want)))
            by_series = acted(lambda x: A @ x, jnp.asarray(t), Scaled(jnp.asarray(v), jnp.zeros(())))
            np.testing.assert_allclose(
                by_series.array * 2.0**by_series.power, want @ v, atol=1e-12 * np.max(np.abs(want @ v))
            )
        far = exponential(jnp.asarray([[3.0, 1.0], [0.0, 1.0]]), jnp.asarray(2.0**30))
        np.testing.assert_allclose(far.power * np.log(2) + np.log(far.array[0, 0]), 3 * 2.0**30, rtol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["batch", "fresh labels"])
def test_the_gap_to_the_descent_falls_like_the_rate_and_that_of_steps_like_the_step(kind):
    # A step of length h makes the moments of an update at the rate h eta with a batch of h m.
    labels, names = uj.from_counts([4, 2, 3]), ["loss", "square_norm_W", "between_scatter"]
    labels, drawn = (
        (labels, {"batch": 4.0}) if kind == "batch" else (labels.symmetric_noise(0.2), {"fresh_labels": True})
    )
    with jax.enable_x64(True):
        model = uj.regularized(labels, dim=3, decay=(0.1, 0.2))
        state = model.init(jax.random.key(0))

        def slopes(pairs):
            gaps = [
                [float(uj.exact(model, descent, state, [updates], names)[name][0] -
                       uj.exact(model, diffusion, state, [time], names)[name][0]) for name in names]
                for descent, updates, diffusion, time in pairs
            ]  # fmt: skip
            return np.log2(np.divide(*gaps))

        # Rates so small that the gap of the loss, whose first order happens to be small, is in its first order.
        in_rate = [(uj.Descent(5 / k, **drawn), k, uj.Diffusion(5 / k, **drawn), k) for k in (800, 1600)]
        np.testing.assert_allclose(slopes(in_rate), 1, atol=0.1)
        if kind == "batch":
            path = uj.Diffusion(0.25, batch=4.0)
            in_step = [(uj.Descent(5 / k, batch=80 / k), k, path, 20) for k in (200, 400)]
            np.testing.assert_allclose(slopes(in_step), 1, atol=0.1)


@pytest.mark.long
def test_moments_far_beyond_the_range_of_numbers_and_of_many_groups():
    # Labels that are traced make every sample a group of its own: 1,088 numbers in place of seven, without a matrix.
    model = uj.unconstrained(uj.balanced(classes=4, per_class=5), dim=5)
    state, diffusion = model.init(jax.random.key(0)), uj.Diffusion(0.5, batch=1)
    names, times = ["log_square_norm", "log_within_scatter"], [0.0, 4000.0, 8000.0, 12000.0, 1e5]
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), state)
        wide = uj.exact(model, diffusion, state, times, names)
        many = jax.jit(
            lambda index: uj.exact(model.replace(labels=model.labels.replace(index=index)), diffusion, state, times[:3],
                                   names).observables
        )(jnp.asarray(model.labels.index))  # fmt: skip
    assert float(wide["log_square_norm"][3]) > 800
    rise = np.diff(wide["log_square_norm"])
    np.testing.assert_allclose(rise[2], rise[3] * 4000 / 88000, rtol=1e-9)
    for name in names:
        np.testing.assert_allclose(many[name], wide[name][:3], rtol=1e-10, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("of", ["batch", "rate", "until"])
def test_derivatives_of_expectations(of):
    default = {"batch": 2.5, "rate": 0.3, "until": 20.0}

    def value(number):
        batch, rate, until = (number if of == name else x for name, x in default.items())
        diffusion = uj.Diffusion(rate, batch=batch, fresh_labels=True)
        times = [until / 2, until] if of != "until" else jnp.stack([until / 2, until])
        return uj.exact(model, diffusion, state, times, ["objective"])["objective"][1]

    with jax.enable_x64(True):
        model = uj.regularized(uj.from_counts([2, 3]).symmetric_noise(0.2), dim=3, decay=0.1)
        state = model.init(jax.random.key(0))
        at, h = default[of], 1e-5 * default[of]
        slope = float(jax.grad(value)(at))
        np.testing.assert_allclose(slope, float(value(at + h) - value(at - h)) / (2 * h), rtol=1e-6)
        if of != "batch":  # two tests of the three, because each takes seconds
            np.testing.assert_allclose(float(jax.jvp(value, (at,), (1.0,))[1]), slope, rtol=1e-10)


def test_the_mean_is_the_flow_and_runs_are_continued():
    model = uj.regularized(uj.from_counts([2, 3]), dim=3, decay=0.1)
    state, diffusion = model.init(jax.random.key(0)), uj.Diffusion(0.3, batch=2)
    run = uj.exact(model, diffusion, state, [7.3], ["loss"])
    np.testing.assert_array_equal(run.final.W, uj.exact(model, uj.Flow(0.3), state, [7.3], ()).final.W)
    path = uj.exact(model, uj.Flow(0.3), state, [2.0], ())
    later = uj.exact(model, diffusion, path, [5.0], ["loss"])  # the expectation given where this path is at time 2
    afresh = uj.exact(model, diffusion, path.final, [3.0], ["loss"])
    np.testing.assert_allclose(later["loss"], afresh["loss"], rtol=1e-6)
    with pytest.raises(ValueError, match="expectations are not a run"):
        uj.simulate(model, diffusion, run, [10], key=jax.random.key(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": uj.cosine(0.1, horizon=9)}, "generators at different times commute only if"),
        ({"rate_H": uj.cosine(0.1, horizon=9)}, "generators at different times commute only if"),
        ({"batch": 6, "replacement": False}, "6 cannot be drawn from 5"),
        ({"fresh_labels": True}, "one-hot"),
    ],
)
def test_what_has_no_expectation_in_closed_form(settings, message):
    model = uj.regularized(uj.from_counts([2, 3]), dim=3, decay=0.1)
    with pytest.raises(uj.NoClosedForm, match=message):
        uj.exact(model, uj.Diffusion(**{"schedule": 0.1, "batch": 2, **settings}), model.init(jax.random.key(0)), [5])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["balanced", "long tail", "noisy"])
def test_the_mean_of_many_runs(kind):
    labels, drawn, step = {
        "balanced": (uj.balanced(classes=4, per_class=5), {"batch": 4}, 0.25),
        "long tail": (uj.long_tailed(classes=4, largest=8, ratio=8), {"batch": 4, "replacement": False}, 0.25),
        "noisy": (uj.balanced(classes=4, per_class=3).symmetric_noise(0.3), {"batch": 4, "fresh_labels": True}, 0.05),
    }[kind]
    model = uj.regularized(labels, dim=8, decay=0.1)
    state, times, runs = model.init(jax.random.key(0)), np.arange(1, 6) * 4, 20_000
    diffusion = uj.Diffusion(0.5, step=step, **drawn)
    sampled = jax.jit(jax.vmap(lambda key: uj.simulate(model, diffusion, state, times, NAMES, key=key).observables))
    parts = [sampled(some) for some in jax.random.split(jax.random.key(7), runs).reshape(10, -1)]
    if (
        kind == "noisy"
    ):  # what the steps add is of first order: about that part of the gap to the descent, whose step is 1
        want, other = (
            uj.exact(model, one, state, times, precision="float64") for one in (diffusion, uj.Descent(0.5, **drawn))
        )
        slack = {name: 2 * step * np.abs(other[name] - want[name]) for name in NAMES}
    else:
        n, m = model.samples, drawn["batch"]
        kappa = 1 if drawn.get("replacement", True) else (n - m) / (n - 1)
        steps = uj.Descent(step * 0.5, batch=step * m / kappa)  # of the same moments
        want = uj.exact(model, steps, state, np.round(times / step).astype(int), precision="float64")
        slack = dict.fromkeys(NAMES, 0.0)
    for name in NAMES:
        values = np.concatenate([np.asarray(part[name], float) for part in parts])
        error = values.std(axis=0) / np.sqrt(runs)
        assert np.all(np.abs(values.mean(axis=0) - want[name]) < 4 * error + slack[name]), name
