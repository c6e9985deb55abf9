"""Expectations of stochastic descents: every path enumerated, ensembles of simulated runs, and two ways that agree."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.closed_form import carriers
from unhinged_jax.precision import traceable

NAMES = list(uj.moment_observables)


def read(labels, signal, decays, H, W, b):
    """The quadratic observables of one state in NumPy; the loss is that of the mean signal."""
    index, C = np.asarray(labels.index), labels.classes
    means = np.stack([H[index == c].mean(0) for c in range(C)])
    counts = np.bincount(index, minlength=C)
    loss = -np.sum(signal * (H @ W.T + b))
    squares = [np.sum(part**2) for part in (H, W, b)]
    return {
        "loss": loss,
        "objective": loss + sum(d * s for d, s in zip(decays, squares, strict=True)) / 2,
        "square_norm": squares[0] + squares[1],
        "square_norm_H": squares[0],
        "square_norm_W": squares[1],
        "square_norm_b": squares[2],
        "within_scatter": np.sum((H - means[index]) ** 2),
        "between_scatter": np.sum(counts[:, None] * (means - H.mean(0)) ** 2),
    }


def enumerated(model, descent, state, updates):
    """The mean over every path of batches and labels, (updates + 1) values of each observable."""
    labels, n, C = model.labels, model.samples, model.classes
    gamma, q = model.loss.trade_off(C), np.asarray(labels.weights, float)
    targets = np.asarray(labels.probabilities(), float)
    m = descent.batch
    if m is None:
        draws = [np.ones(n)]
    else:
        pick = itertools.product if descent.replacement else None
        chosen = pick(range(n), repeat=m) if pick else itertools.permutations(range(n), m)
        draws = [np.bincount(one, minlength=n) * n / m for one in chosen]

    def signal(rows):
        return q[:, None] * ((1 + gamma) * rows - gamma)

    if descent.fresh_labels:
        every = list(itertools.product(range(C), repeat=n))
        chances = [np.prod([targets[i, c] for i, c in enumerate(one)]) for one in every]
        rows = [(chance, np.eye(C)[list(one)]) for chance, one in zip(chances, every, strict=True) if chance > 0]
    else:
        rows = [(1.0, targets)]
    decays = tuple(float(d) for d in model.decays)
    eta = [float(descent.schedule(k)) for k in range(updates)]
    r_H, r_W = float(descent.rate_H) * model.moves.H, float(descent.rate_W) * model.moves.W
    paths = [(1.0, *(np.asarray(part, float) for part in (state.H, state.W, state.b)))]
    found = []
    for k in range(updates + 1):
        values = [(p, read(labels, signal(targets), decays, *rest)) for p, *rest in paths]
        found.append({name: sum(p * value[name] for p, value in values) for name in values[0][1]})
        if k == updates:
            break
        x, y, after = eta[k] * r_H, eta[k] * r_W, []
        for (p, H, W, b), D, (chance, drawn) in itertools.product(paths, draws, rows):
            DM = D[:, None] * signal(drawn)
            moved = b + model.moves.b * y * (DM.sum(0) - decays[2] * b)
            after.append((
                p * chance / len(draws), H + x * (DM @ W - decays[0] * H), W + y * (DM.T @ H - decays[1] * W), moved,
            ))  # fmt: skip
        paths = after
    return {name: np.array([one[name] for one in found]) for name in found[0]}


UNEVEN = uj.from_counts([1, 3]).weighted(samples=np.array([0.4, 0.1, 0.2, 0.3]))
PROBLEMS = {
    "batch": (uj.balanced(classes=2, per_class=2), {"batch": 2}, 3),
    "without replacement": (uj.balanced(classes=2, per_class=2), {"batch": 2, "replacement": False}, 3),
    "uneven": (UNEVEN, {"batch": 2}, 3),
    "uneven, without replacement": (UNEVEN, {"batch": 3, "replacement": False}, 3),
    "fresh labels": (uj.balanced(classes=2, per_class=2).symmetric_noise(0.3), {"fresh_labels": True}, 3),
    "fresh, three classes": (uj.balanced(classes=3, per_class=1).symmetric_noise(0.3), {"fresh_labels": True}, 2),
    "fresh, uneven": (uj.from_counts([1, 2]).transition([[0.9, 0.1], [0.3, 0.7]]), {"fresh_labels": True}, 3),
    "soft labels": (uj.soft([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]]), {"fresh_labels": True}, 3),
    "both": (uj.from_counts([1, 2]).asymmetric_noise(0.2), {"fresh_labels": True, "batch": 2}, 2),
    "both, alike": (uj.balanced(2, 2).symmetric_noise(0.2), {"fresh_labels": True, "batch": 1}, 2),
    "one sample": (uj.balanced(classes=2, per_class=1), {"batch": 1}, 3),
}


FIRST = [
    ("batch", "bias"),
    ("uneven, without replacement", "regularized"),
    ("both", "bias"),
    ("both, alike", "anchored"),
]
EVERY = [
    pair for pair in itertools.product(PROBLEMS, ("regularized", "bias", "frozen", "anchored")) if pair not in FIRST
]


@pytest.mark.long_for("both, alike-anchored", "uneven, without replacement-regularized", "both-bias")
@pytest.mark.parametrize(("name", "case"), [*FIRST, *(pytest.param(*pair, marks=pytest.mark.long) for pair in EVERY)])
def test_expectations_are_those_of_every_path(name, case):
    labels, drawn, updates = PROBLEMS[name]
    with jax.enable_x64(True):
        make = {
            "regularized": lambda: uj.regularized(labels, dim=2, gamma=0.4, decay=(0.3, 0.2)),
            "bias": lambda: uj.regularized(labels, dim=2, gamma=0.4, decay=(0.3, 0.2), bias=True, decay_b=0.5),
            "frozen": lambda: uj.frozen(labels, dim=2, gamma=0.4, decay=0.2),
            "anchored": lambda: uj.anchored(labels, dim=2, gamma=0.4, decay=0.3),
        }
        model = make[case]()
        rng = np.random.default_rng(3)
        bias = rng.normal(size=labels.classes) if case == "bias" else None
        state = model.init(
            jax.random.key(1), prototypes=rng.normal(size=(labels.classes, 2)), bias=bias
        )  # fmt: skip
        descent = uj.Descent(uj.exponential(0.5, 0.2), rate_H=0.7, rate_W=1.2, **drawn)
        want = enumerated(model, descent, state, updates)
        names = NAMES + (["square_norm_b"] if case == "bias" else [])
        run = uj.exact(model, descent, state, np.arange(updates + 1), names)
        assert run.kind == "expected"
        for one in names:
            scale = np.max(np.abs(want["square_norm"])) if one != "square_norm_b" else np.max(want[one])
            np.testing.assert_allclose(run[one], want[one], rtol=1e-12, atol=1e-12 * scale, err_msg=one)


def problem(labels=None, dim=5, **settings):
    labels = uj.balanced(classes=4, per_class=3) if labels is None else labels
    model = uj.regularized(labels, dim=dim, decay=(0.1, 0.2), **settings)
    return model, model.init(jax.random.key(0))


@pytest.mark.long_for("False")
@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.long)])
def test_seven_numbers_are_as_good_as_all_moments(fresh):
    labels = uj.balanced(classes=4, per_class=3)
    labels = labels.symmetric_noise(0.2) if fresh else labels
    with jax.enable_x64(True):
        model, state = problem(labels, bias=True)
        descent = uj.Descent(0.2, rate_H=1.5, batch=4, fresh_labels=fresh)
        assert carriers.alike(model)
        short = uj.exact(model, descent, state, [0, 5, 200], uj.moment_observables)
        # Labels that are traced: every sample is a group of its own.
        whole = jax.jit(lambda labels: uj.exact(model.replace(labels=labels), descent, state, [0, 5, 200]).observables)(
            labels.replace(index=labels.index, weights=np.array(labels.weights))
        )
        permuted = np.random.default_rng(0).permutation(12)
        other = model.replace(labels=labels.replace(index=np.asarray(labels.index)[permuted]))
        moved = uj.exact(other, descent, state.replace(H=state.H[permuted]), [0, 5, 200])
    for name in NAMES:
        np.testing.assert_allclose(short[name], whole[name], rtol=1e-11, err_msg=name)
        np.testing.assert_allclose(short[name], moved[name], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("dynamics", [uj.Descent(0.2, batch=4), uj.Diffusion(0.2, batch=4)])
def test_classes_that_are_alike_are_so_inside_jit_too(dynamics):
    """No matrix over samples is computed, although the weights are rounded to float32 there."""
    labels = uj.balanced(classes=4, per_class=3)
    model = uj.regularized(labels, dim=5, decay=0.1)
    state, names = model.init(jax.random.key(0)), ["square_norm", "between_scatter"]

    def found(state):
        assert traceable(model).labels.balanced
        return uj.exact(model, dynamics, state, [5, 9], names).observables

    assert "12,12]" not in str(jax.make_jaxpr(found)(state))


def test_all_samples_without_replacement_are_the_full_batch():
    with jax.enable_x64(True):
        model, state = problem()
        times = [0, 10, 100]
        run = uj.exact(model, uj.Descent(0.3, batch=12, replacement=False), state, times)
        plain = uj.exact(model, uj.Descent(0.3), state, times, NAMES)
        for name in NAMES:
            np.testing.assert_allclose(run[name], plain[name], rtol=1e-11, err_msg=name)
        np.testing.assert_allclose(run.final.H, plain.final.H, rtol=1e-12)


@pytest.mark.long
def test_moments_far_beyond_the_range_of_numbers_are_known_by_their_logarithms():
    model = uj.unconstrained(uj.balanced(classes=3, per_class=4), dim=5)
    state = model.init(jax.random.key(0))
    descent, times, names = uj.Descent(0.5, batch=3), [0, 4000, 8000, 12000], ["log_square_norm", "log_within_scatter"]
    narrow = uj.exact(model, descent, state, times, names)
    wide = uj.exact(model, descent, state, times, names, precision="float64")
    assert float(wide["log_square_norm"][-1]) > 800
    for name in names:
        np.testing.assert_allclose(narrow[name], wide[name], rtol=1e-5, err_msg=name)
    rise = np.diff(wide["log_square_norm"])
    np.testing.assert_allclose(rise[1], rise[2], rtol=1e-9)  # one rate of growth, and above that of the mean
    assert rise[2] > 2 * np.diff(uj.exact(model, uj.Descent(0.5), state, times, ["log_norm"])["log_norm"])[2]


@pytest.mark.long
def test_small_rates_lose_nothing_in_float32():
    model, state = problem()
    descent, times = uj.Descent(1e-7, batch=3), [0, 100_000]
    narrow = uj.exact(model, descent, state, times)
    wide = uj.exact(model, descent, state, times, precision="float64")
    for name in NAMES:
        moved = float(wide[name][1] - wide[name][0])
        np.testing.assert_allclose(narrow[name][1], wide[name][1], atol=0.01 * abs(moved), err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("of", ["batch", "rate", "noise", "decay"])
def test_derivatives_of_expectations(of):
    def value(number):
        batch, rate, noise, decay = (number if of == name else x for name, x in DEFAULT.items())
        labels = uj.from_counts([2, 3]).symmetric_noise(noise)
        model = uj.regularized(labels, dim=3, decay=decay)
        descent = uj.Descent(rate, batch=batch, fresh_labels=True)
        return uj.exact(model, descent, state, [20], ["objective"])["objective"][0]

    with jax.enable_x64(True):
        state = uj.regularized(uj.from_counts([2, 3]), dim=3, decay=0.1).init(jax.random.key(0))
        at, h = DEFAULT[of], 1e-5 * DEFAULT[of]
        slope = float(jax.grad(value)(at))
        np.testing.assert_allclose(slope, float(value(at + h) - value(at - h)) / (2 * h), rtol=1e-6)
        np.testing.assert_allclose(float(jax.jvp(value, (at,), (1.0,))[1]), slope, rtol=1e-10)


DEFAULT = {"batch": 2.5, "rate": 0.3, "noise": 0.2, "decay": 0.1}


@pytest.mark.long
def test_a_batch_of_problems():
    model, state = problem()
    found = jax.vmap(lambda m: uj.exact(model, uj.Descent(0.3, batch=m), state, [10], ["loss"])["loss"])(
        jnp.arange(1, 4)
    )
    each = [uj.exact(model, uj.Descent(0.3, batch=m), state, [10], ["loss"])["loss"] for m in (1, 2, 3)]
    np.testing.assert_allclose(found, each, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "observe", "message"),
    [
        ({"batch": 3, "replacement": "epochs"}, None, "batches of one epoch"),
        ({"batch": 3, "momentum": 0.9}, None, "momentum"),
        ({"fresh_labels": True}, None, "one-hot"),
        ({"batch": 3}, ["accuracy"], "'accuracy' is not known"),
        ({"batch": 3}, {"mine": lambda model, state: state.W.sum()}, "'mine' is not known"),
    ],
)
def test_what_has_no_expectation_in_closed_form(settings, observe, message):
    model, state = problem()
    with pytest.raises(uj.NoClosedForm, match=message):
        uj.exact(model, uj.Descent(0.1, **settings), state, [5], observe)


def test_other_problems_without_moments():
    labels = uj.balanced(classes=3, per_class=2)
    sphere = uj.spherical(labels, dim=4)
    with pytest.raises(uj.NoClosedForm, match="spherical"):
        uj.exact(sphere, uj.Descent(0.1, batch=2), sphere.init(jax.random.key(0)), [5])
    tangent = uj.ntk_invariant(labels, dim=4, kernel=np.eye(6))
    with pytest.raises(uj.NoClosedForm, match="kernel"):
        uj.exact(tangent, uj.Descent(0.1, batch=2), tangent.init(jax.random.key(0)), [5])
    entropy = uj.unconstrained(labels, dim=4, loss="cross_entropy")
    with pytest.raises(uj.NoClosedForm, match="linear"):
        uj.exact(entropy, uj.Descent(0.1, batch=2), entropy.init(jax.random.key(0)), [5])


def test_expectations_are_not_a_run_to_continue():
    model, state = problem()
    run = uj.exact(model, uj.Descent(0.1, batch=2), state, [5])
    with pytest.raises(ValueError, match="expectations are not a run"):
        uj.simulate(model, uj.Descent(0.1), run, [10])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["balanced", "long tail", "noisy"])
def test_the_mean_of_many_runs(kind):
    labels, drawn = {
        "balanced": (uj.balanced(classes=10, per_class=5), {"batch": 8}),
        "long tail": (uj.long_tailed(classes=10, largest=20, ratio=20), {"batch": 8, "replacement": False}),
        "noisy": (uj.balanced(classes=10, per_class=5).symmetric_noise(0.3), {"batch": 16, "fresh_labels": True}),
    }[kind]
    model = uj.regularized(labels, dim=32, decay=0.1)
    state = model.init(jax.random.key(0))
    descent, times, runs = uj.Descent(0.5, **drawn), np.arange(1, 11) * 4, 20_000
    run = uj.exact(model, descent, state, times, precision="float64")
    sampled = jax.jit(jax.vmap(lambda key: uj.simulate(model, descent, state, times, NAMES, key=key).observables))
    keys = jax.random.split(jax.random.key(7), runs).reshape(20, -1)
    parts = [sampled(some) for some in keys]
    for name in NAMES:
        values = np.concatenate([np.asarray(part[name], float) for part in parts])
        error = values.std(axis=0) / np.sqrt(runs)
        assert np.all(np.abs(values.mean(axis=0) - run[name]) < 4 * error), name


# --- the rim ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-80, -40, 40, 80])
@pytest.mark.parametrize("beside", [False, True])
def test_small_and_large_starts(power, beside):
    model, state = problem(uj.from_counts([3, 1, 2]))
    factor = 2.0**power
    if beside:
        start = state.replace(log_scale=power * np.log(2.0))
    else:
        start = state.replace(H=state.H * factor, W=state.W * factor)
    descent = uj.Descent(0.3, batch=2)
    names = ["log_square_norm", "log_within_scatter", "log_between_scatter"]
    got, want = (uj.exact(model, descent, s, [0, 5, 50], names) for s in (start, state))
    for name in names:
        np.testing.assert_allclose(got[name], want[name] + 2 * power * np.log(2.0), rtol=2e-6, err_msg=name)


def test_growth_by_many_powers_of_ten_in_one_update():
    model, state = problem()
    for rate in (1e3, 1e7):
        narrow, wide = (
            uj.exact(model, uj.Descent(rate, batch=1), state, [1, 5, 20, 100], ["log_square_norm"], precision=precision)
            for precision in ("float32", "float64")
        )
        np.testing.assert_allclose(narrow["log_square_norm"], wide["log_square_norm"], rtol=1e-5)


@pytest.mark.long
def test_only_weight_times_rate_matters():
    def at(scale, precision):
        labels = uj.balanced(classes=4, per_class=5).symmetric_noise(0.2)
        labels = labels.replace(weights=np.asarray(labels.weights) * scale)
        model = uj.regularized(labels, dim=4, decay=0.01 * scale)
        assert carriers.alike(model)
        descent, state = uj.Descent(0.1 / scale, batch=1), model.init(jax.random.key(0))
        return uj.exact(model, descent, state, [1000], ["log_square_norm"], precision=precision)["log_square_norm"]

    want = at(1.0, "float64")
    for scale in (1.0, 1e-8):
        np.testing.assert_allclose(at(scale, "float32"), want, rtol=2e-6)


def test_a_small_scatter_beside_large_means_keeps_its_digits():
    model = uj.unconstrained(uj.balanced(classes=3, per_class=3), dim=4)
    state = model.init(jax.random.key(0))
    run = uj.exact(model, uj.Descent(1.0, batch=9, replacement=False), state, [0, 60, 160], ["within_scatter"])
    # e^x with x near 60 has a relative error of 60 roundings.
    np.testing.assert_allclose(run["within_scatter"], run["within_scatter"][0], rtol=1e-5)


class Squared(uj.losses.Loss):
    """Linear in the logits and not in the targets."""

    @property
    def linear(self):
        return True

    def __call__(self, logits, targets):
        return -jnp.sum(logits * targets**2, axis=-1)


def test_a_loss_that_is_not_linear_in_the_targets():
    labels = uj.balanced(classes=2, per_class=1).symmetric_noise(0.3)
    with jax.enable_x64(True):
        model = uj.anchored(labels, dim=2, loss=Squared())
        state = model.init(jax.random.key(0), prototypes=np.array([[1.0, 0.5], [-0.2, 0.8]]))
        run = uj.exact(model, uj.Descent(0.5, fresh_labels=True), state, [0, 1], ["square_norm_H"])
        H, W, want = np.asarray(state.H), np.asarray(state.W), 0.0
        for drawn in itertools.product(range(2), repeat=2):
            chance = np.prod([0.7 if drawn[i] == i else 0.3 for i in range(2)])
            want += chance * np.sum((H + 0.5 * 0.5 * np.eye(2)[list(drawn)] @ W) ** 2)
    np.testing.assert_allclose(run["square_norm_H"][1], want, rtol=1e-12)


def test_targets_that_are_values():
    values = np.array([[1.0, -2.0], [0.3, 0.2], [1.0, 0.0]])
    with jax.enable_x64(True):
        model = uj.frozen(uj.targets(values), dim=2, decay=0.1, loss="unhinged")
        state = model.init(jax.random.key(0))
        run = uj.exact(model, uj.Descent(0.5, batch=1), state, [0, 1], ["loss", "square_norm_W"])
        M = np.asarray(model.signal().dense("float64"))
        H, W = np.asarray(state.H), np.asarray(state.W)
        ends = [W + 0.5 * (3 * np.outer(M[i], H[i]) - 0.1 * W) for i in range(3)]
        np.testing.assert_allclose(run["square_norm_W"][1], np.mean([np.sum(end**2) for end in ends]), rtol=1e-12)
        path = uj.simulate(model, uj.Descent(0.5, batch=1), state, [1], [], key=jax.random.key(2)).final.W
        assert min(np.max(np.abs(path - end)) for end in ends) < 1e-12


def test_a_class_without_samples_has_no_scatter():
    labels = uj.Labels(index=[0, 0, 2, 2], weights=np.full(4, 0.25), classes=3)
    model, state = problem(labels)
    run = uj.exact(model, uj.Descent(0.1, batch=2), state, [0], ["within_scatter", "between_scatter"])
    H = np.asarray(state.H)
    means = np.stack([H[:2].mean(0), H[2:].mean(0)])
    np.testing.assert_allclose(run["within_scatter"][0], np.sum((H - np.repeat(means, 2, 0)) ** 2), rtol=1e-5)
    np.testing.assert_allclose(run["between_scatter"][0], 2 * np.sum((means - H.mean(0)) ** 2), rtol=1e-5)


def test_more_samples_than_there_are_cannot_be_drawn():
    model, state = problem()
    with pytest.raises(uj.NoClosedForm, match="13 cannot be drawn from 12"):
        uj.exact(model, uj.Descent(0.1, batch=13, replacement=False), state, [5])
    odd = model.labels.replace(targets=np.eye(4) * 2, kind="table")
    with pytest.raises(uj.NoClosedForm, match="at least 0 and sum to 1"):
        uj.exact(model.replace(labels=odd), uj.Descent(0.1, fresh_labels=True), state, [5])
