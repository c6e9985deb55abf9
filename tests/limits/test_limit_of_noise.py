"""Growth of second moments and its thresholds in batch size and rate, beside NumPy's eigenvalues of enumerated maps."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import unhinged_jax as uj

UNEVEN = uj.from_counts([1, 3]).weighted(samples=np.array([0.4, 0.1, 0.2, 0.3]))
NOISY = uj.balanced(classes=2, per_class=2).symmetric_noise(0.3)
PROBLEMS = {
    "alike": (uj.balanced(classes=2, per_class=2), {"batch": 2}),
    "without replacement": (UNEVEN, {"batch": 3, "replacement": False}),
    "fresh labels": (NOISY, {"fresh_labels": True}),
    "both, uneven": (uj.from_counts([1, 2]).asymmetric_noise(0.2), {"fresh_labels": True, "batch": 2}),
    "one sample of a class": (uj.balanced(classes=3, per_class=1), {"batch": 1}),
}
RATES = (0.7, 1.2)


def some(names, *first):
    """The first ones of the names, and all others in the long run."""
    return [name if name in first else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def updates(model, descent):
    """Every update matrix of (H, W) at a rate, with its probability, as a function of the rate."""
    labels, n, C = model.labels, model.samples, model.classes
    gamma, q, m = model.loss.trade_off(C), np.asarray(labels.weights, float), descent.batch
    targets = np.asarray(labels.probabilities(), float)
    pick = (lambda: itertools.product(range(n), repeat=m)) if descent.replacement else (
        lambda: itertools.combinations(range(n), m)
    )  # fmt: skip
    draws = [np.ones(n)] if m is None else [np.bincount(one, minlength=n) * n / m for one in pick()]
    rows = [(1.0, targets)]
    if descent.fresh_labels:
        every = itertools.product(range(C), repeat=n)
        rows = [(np.prod([targets[i, c] for i, c in enumerate(one)]), np.eye(C)[list(one)]) for one in every]

    def at(eta):
        x, y = eta * float(descent.rate_H), eta * float(descent.rate_W)
        for D, (chance, drawn) in itertools.product(draws, rows):
            M = D[:, None] * q[:, None] * ((1 + gamma) * drawn - gamma)
            yield chance / len(draws), np.block([
                [(1 - x * model.decay_H) * np.eye(n), x * M], [y * M.T, (1 - y * model.decay_W) * np.eye(C)],
            ])  # fmt: skip

    return at


def growths(at, eta):
    """Logarithms of the spectral radii of the map of second moments, and of the square of that of means."""
    pairs = list(at(eta))
    both, mean = sum(p * np.kron(A, A) for p, A in pairs), sum(p * A for p, A in pairs)
    return [np.log(np.max(np.abs(np.linalg.eigvals(both)))), 2 * np.log(np.max(np.abs(np.linalg.eigvals(mean))))]


def by_covariance(model, eta, m, replacement=True, rates=RATES):
    """The second growth from the covariance of D, for fixed labels and any number m."""
    labels, n, C = model.labels, model.samples, model.classes
    gamma, q = model.loss.trade_off(C), np.asarray(labels.weights, float)
    M = q[:, None] * ((1 + gamma) * np.asarray(labels.probabilities(), float) - gamma)
    x, y = eta * rates[0], eta * rates[1]
    parts = [np.diag(np.r_[np.full(n, 1 - x * model.decay_H), np.full(C, 1 - y * model.decay_W)])]
    for i in range(n):
        part = np.zeros((n + C, n + C))
        part[i, n:], part[n:, i] = x * M[i], y * M[i]
        parts.append(part)
    mean = sum(parts)
    kappa = 1.0 if replacement else (n - m) / (n - 1)
    noise = (kappa / m) * (n * sum(np.kron(B, B) for B in parts[1:]) - np.kron(mean - parts[0], mean - parts[0]))
    # Symmetric in units of the roots of the rates.
    unit = np.sqrt(np.r_[np.full(n, x), np.full(C, y)])
    both = (np.kron(mean, mean) + noise) * np.kron(unit, unit) / np.kron(unit, unit)[:, None]
    np.testing.assert_allclose(both, both.T, atol=1e-12)
    return np.log(np.max(np.abs(np.linalg.eigvalsh(both))))


def found_in(problem, gamma, decay, rate=0.5, dim=2):
    labels, drawn = problem
    model = uj.regularized(labels, dim=dim, gamma=gamma, decay=decay)
    descent = uj.Descent(rate, rate_H=RATES[0], rate_W=RATES[1], **drawn)
    return model, descent, uj.limit(model, descent, model.init(jax.random.key(0)))


@pytest.mark.parametrize("name", some(PROBLEMS, "alike", "both, uneven"))
def test_growths_and_the_critical_rate_are_those_of_enumerated_maps(name):
    model, descent, found = found_in(PROBLEMS[name], 0.9 if name != "one sample of a class" else 0.5, (1.0, 0.8))
    at = updates(model, descent)
    second, mean = growths(at, 0.5)
    np.testing.assert_allclose([found.second_moment_growth, found.mean_growth], [second, mean], atol=1e-12)
    assert second > mean + 1e-4
    critical = scipy.optimize.brentq(lambda eta: growths(at, eta)[0], 1e-2, 50.0, xtol=1e-14, rtol=1e-14)
    np.testing.assert_allclose(found.critical_rate, critical, rtol=1e-11)


BATCHES = ("alike", "uneven", "alike, no sample twice", "uneven, no sample twice")


@pytest.mark.parametrize("kind", some(BATCHES, BATCHES[-1]))
def test_the_critical_batch_is_where_the_second_moment_stops_growing(kind):
    labels, replacement = (uj.balanced(2, 3) if "alike" in kind else UNEVEN), "twice" not in kind
    model, _, found = found_in((labels, {"batch": 2, "replacement": replacement}), 0.9, (1.0, 0.8), rate=1.2)
    m = scipy.optimize.brentq(lambda m: by_covariance(model, 1.2, m, replacement), 1e-3, model.samples, xtol=1e-14)
    np.testing.assert_allclose(found.critical_batch, m, rtol=1e-11)


MANY = uj.from_counts([5, 4, 3, 2, 2, 1])


@pytest.mark.long
def test_many_unequal_classes():
    """Too many numbers for all eigenvectors."""
    model, descent, found = found_in((MANY, {"batch": 2}), 0.15, (0.2, 0.17), rate=3.0)
    np.testing.assert_allclose(found.second_moment_growth, by_covariance(model, 3.0, 2), atol=1e-12)
    assert found.mean_growth < -0.1
    assert abs(by_covariance(model, 3.0, float(found.critical_batch))) < 1e-11
    assert abs(by_covariance(model, float(found.critical_rate), 2)) < 1e-11
    narrow = uj.limit(model, descent, model.init(jax.random.key(0)), precision="float32")
    for name in ("second_moment_growth", "mean_growth", "critical_batch", "critical_rate"):
        np.testing.assert_allclose(getattr(narrow, name), getattr(found, name), rtol=1e-5, err_msg=name)


@pytest.mark.long
def test_a_line_of_thresholds_in_float32_is_that_in_float64():
    """Many climbs from many starts, the last of each from where it ends: what is left there is rounding."""
    model = uj.regularized(MANY, dim=2, gamma=0.15, decay=(0.2, 0.17))

    def thresholds(batch):
        found = uj.limit(model, uj.Descent(3.0, batch=batch), state)
        return jnp.stack([found.critical_batch, found.critical_rate, found.second_moment_growth])

    lines = {}
    for wide in (False, True):
        with jax.enable_x64(wide):
            state = model.init(jax.random.key(0))
            lines[wide] = np.asarray(jax.jit(jax.vmap(thresholds))(jnp.geomspace(1.0, 50.0, 25)), float)
    np.testing.assert_allclose(lines[False][:, :2], lines[True][:, :2], rtol=1e-4)
    np.testing.assert_allclose(lines[False][:, 2], lines[True][:, 2], atol=1e-5)
    assert np.ptp(lines[True][:, 0]) < 1e-9 and np.all(np.diff(lines[True][:, 1:], axis=0) * [1, -1] > 0)


@pytest.mark.parametrize("kind", some(["alike", "uneven"]))
def test_expectations_grow_at_that_rate_in_the_end(kind):
    labels = uj.balanced(classes=4, per_class=3) if kind == "alike" else uj.from_counts([3, 1, 2])
    model = uj.regularized(labels, dim=5, decay=(0.1, 0.2), bias=True)
    descent, state = uj.Descent(0.7, batch=2, rate_H=1.3), model.init(jax.random.key(0))
    found = uj.limit(model, descent, state)
    late = uj.exact(model, descent, state, [4000, 4100], ["log_square_norm"])["log_square_norm"]
    np.testing.assert_allclose((late[1] - late[0]) / 100, found.second_moment_growth, rtol=1e-9)
    np.testing.assert_allclose(found.mean_growth, 2 * found.exponent, rtol=1e-12)


QUANTITIES = ("second_moment_growth", "mean_growth", "critical_batch", "critical_rate")
AT = {"batch": 2.5, "rate": 1.5, "noise": 0.2, "decay": 0.35}


@pytest.mark.long
@pytest.mark.parametrize("labels", [uj.balanced(classes=3, per_class=2), MANY], ids=["alike", "many"])
def test_derivatives_with_respect_to_batch_rate_noise_and_decay(labels):
    gamma = 0.45 if labels.classes == 3 else 0.15  # 1/(C - 1) has a kink
    state = uj.regularized(labels, dim=2, decay=0.1).init(jax.random.key(0))

    def values(theta):
        model = uj.regularized(labels.symmetric_noise(theta[2]), dim=2, gamma=gamma, decay=theta[3])
        found = uj.limit(model, uj.Descent(theta[1], batch=theta[0], fresh_labels=True), state)
        return jnp.stack([getattr(found, name) for name in QUANTITIES])

    at = jnp.array(list(AT.values()))
    slopes = jax.jit(jax.jacrev(values))(at)
    steps = 1e-5 * jnp.diag(at)
    around = jax.jit(jax.vmap(values))(jnp.concatenate([at + steps, at - steps]))
    want = ((around[:4] - around[4:]) / (2e-5 * at)[:, None]).T
    assert np.all(np.isfinite(around))
    np.testing.assert_allclose(slopes, want, rtol=2e-6, atol=1e-8)
    forward = jax.jit(jax.jacfwd(values))(at)
    np.testing.assert_allclose(forward, slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.long
def test_one_sided_derivatives_know_them():
    model = uj.regularized(uj.balanced(classes=3, per_class=2), dim=2, decay=0.3)
    problem = model, uj.Descent(0.5, batch=2.0), model.init(jax.random.key(0))
    table = uj.limit_sensitivity(*problem, ["batch", "eta"])
    for quantity in QUANTITIES:
        np.testing.assert_allclose(table["value"].sel(quantity=quantity), getattr(uj.limit(*problem), quantity))
    assert float(table["left"].sel(quantity="second_moment_growth", parameter="batch")) < 0
    assert not table["kink"].sel(quantity="critical_rate").values.any()


# --- where there is no threshold, or no growth ------------------------------------------------------------------------


@pytest.mark.long
def test_the_mean_grows_so_no_batch_and_no_rate_lets_runs_die():
    _, _, found = found_in(PROBLEMS["alike"], 0.4, 0.01)
    assert np.isposinf(found.critical_batch) and found.critical_rate == 0
    words = [f"the second moment grows at any {what}, because the mean grows" for what in ("batch size", "rate")]
    assert repr(found).endswith("\n  {}\n  {}".format(*words))
    assert [found.rows()[name] for name in ("critical_batch", "critical_rate")] == words
    assert "none" not in repr(found) and "any" not in repr(
        dataclasses.replace(found, critical_batch=2.0, critical_rate=1.0)
    )
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), found)
    assert many.rows()["critical_batch"] == "inf"


@pytest.mark.parametrize(
    ("change", "batch", "rate"),
    [
        ({}, "grows at any batch size, because the mean grows", "grows at any rate, because the mean grows"),
        ({"mean_growth": -0.1}, "grows at any batch size, because the noise of labels suffices", ""),
        ({"mean_growth": 0.0}, "does not die at any batch size, because the mean does not die", ""),
        ({"ending": 1}, "because the run stops", "because the run stops"),
        ({"critical_batch": 0.0, "critical_rate": np.inf}, "dies at any batch size", "dies at any rate"),
    ],
)
def test_words_where_there_is_no_threshold(change, batch, rate):
    zero = np.zeros(())
    state = uj.State(np.ones((2, 2)), np.ones((2, 2)))
    found = uj.Limit(state, zero, zero, zero, np.ones(()), zero, zero, second_moment_growth=0.3, mean_growth=0.2,
                     critical_batch=np.inf, critical_rate=0.0 if rate else 0.4, generic=True)  # fmt: skip
    rows, text = (one := dataclasses.replace(found, **change)).rows(), repr(one)
    assert rows["critical_batch"].endswith(batch) and rows["critical_batch"] in text
    assert rows["critical_rate"].endswith(rate or "0.4") and rows["critical_rate"] in text


@pytest.mark.long
def test_labels_alone_make_the_second_moment_grow():
    """All samples at once are no draw, so what grows beside a mean that dies is the noise of labels."""
    model = uj.regularized(NOISY, dim=3, decay=0.3)
    found = uj.limit(model, uj.Descent(1.0, fresh_labels=True), model.init(jax.random.key(0)))
    assert found.mean_growth < 0 < found.second_moment_growth and np.isposinf(found.critical_batch)
    assert "at any batch size, because the noise of labels suffices" in repr(found)
    assert "rate below which the second moment dies: 0.312411" in repr(found)


@pytest.mark.long
def test_words_where_noise_wins():
    labels = uj.balanced(classes=4, per_class=5)
    model = uj.regularized(labels, dim=8, decay=0.16)
    found = uj.limit(model, uj.Descent(1.0, batch=1), model.init(jax.random.key(0)))
    assert found.side == "shrinks"
    assert "E||(H, W)||^2 grows" in repr(found) and "||E(H, W)||^2 shrinks" in repr(found)
    assert f"dies: {float(found.critical_batch):.6g}\n" in repr(found)
    many = jax.vmap(lambda m: uj.limit(model, uj.Descent(1.0, batch=m), model.init(jax.random.key(0))))(
        jnp.arange(1, 3)
    )
    assert " to " in many.rows()["second_moment_growth"]


@pytest.mark.long
def test_no_noise_has_no_critical_batch():
    """One sample is always drawn, and all samples at once are no draw."""
    one = uj.Labels(index=[0], weights=np.ones(1), classes=2)
    for labels, drawn in ((one, {"batch": 1}), (one, {"batch": 1, "replacement": False})):
        model = uj.regularized(labels, dim=2, gamma=0.5, decay=2.0)
        found = uj.limit(model, uj.Descent(0.1, **drawn), model.init(jax.random.key(0)))
        assert found.critical_batch == 0 and 0 < found.critical_rate < np.inf
        np.testing.assert_allclose(found.second_moment_growth, found.mean_growth, rtol=1e-12)
    assert "the second moment dies at any batch size" in repr(found)


@pytest.mark.long
def test_a_start_outside_the_mode_that_grows():
    """Without a trade-off classes do not meet, and a start in a small class never reaches the large one."""
    model = uj.regularized(uj.from_counts([5, 1]), dim=2, gamma=0.0, decay=0.05)
    state, descent = model.init(jax.random.key(0)), uj.Descent(1.0, batch=2)
    first = np.arange(6) < 5
    apart = state.replace(H=np.where(first[:, None], 0, state.H), W=np.where([[True], [False]], 0, state.W))
    everywhere, alone = uj.limit(model, descent, state), uj.limit(model, descent, apart)
    assert everywhere.generic and not alone.generic and "no part in the mode" in alone.note
    np.testing.assert_allclose(alone.second_moment_growth, everywhere.second_moment_growth)
    for start, grows in ((state, True), (apart, False)):
        late = uj.exact(model, descent, start, [2000, 2100], ["log_square_norm"])["log_square_norm"]
        slope = float(late[1] - late[0]) / 100
        assert (abs(slope - everywhere.second_moment_growth) < 1e-6) == grows
    nothing = state.replace(H=state.H * 0, W=state.W * 0)
    assert not uj.limit(model, descent, nothing).generic


def test_size_of_a_start_does_not_matter():
    model = uj.regularized(uj.from_counts([2, 1]), dim=2, decay=0.05)
    state, descent = model.init(jax.random.key(0), precision="float32"), uj.Descent(0.3, batch=2)
    for unit in (1.0, 1e-25, 1e25):
        sized = state.replace(H=np.float32(unit) * state.H, W=np.float32(unit) * state.W)
        assert uj.limit(model, descent, sized).generic


@pytest.mark.parametrize("case", some(["frozen", "anchored"], "frozen"))
def test_noise_that_is_added_feeds_no_growth(case):
    model = getattr(uj, case)(uj.balanced(classes=3, per_class=2), dim=3, decay=0.5)
    state = model.init(jax.random.key(0))
    for rate, grows in ((1.0, False), (5.0, True)):
        descent = uj.Descent(rate, batch=2)
        found = uj.limit(model, descent, state)
        names = ["log_square_norm_W" if case == "frozen" else "log_square_norm_H"]
        late = uj.exact(model, descent, state, [300, 310], names)[names[0]]
        np.testing.assert_allclose(float(late[1] - late[0]) / 10, found.second_moment_growth, atol=1e-9)
        assert (found.second_moment_growth > 0) == grows and found.critical_rate == 4.0
        assert "added to the driven part" in repr(found) and "critical_batch" not in found.rows()


@pytest.mark.long
def test_only_weight_times_rate_matters():
    def at(scale, precision):
        labels = uj.balanced(classes=4, per_class=5)
        labels = labels.replace(weights=np.asarray(labels.weights) * scale)
        model = uj.regularized(labels, dim=4, decay=0.16 * scale)
        found = uj.limit(model, uj.Descent(1.0 / scale, batch=1), model.init(jax.random.key(0)), precision=precision)
        return np.array(
            [found.second_moment_growth, found.mean_growth, found.critical_batch, found.critical_rate * scale]
        )

    for scale in (1.0, 1e-8):
        np.testing.assert_allclose(at(scale, "float32"), at(1.0, "float64"), rtol=2e-5)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        ("regularized", {"batch": 2, "replacement": "epochs"}, "batches of one epoch"),
        ("regularized", {"batch": 2, "momentum": 0.9}, "momentum"),
        ("regularized", {"batch": 9, "replacement": False}, "cannot be drawn"),
        ("regularized", {"batch": 2, "rate_H": lambda k: 1.0}, "not proportional"),
        ("spherical", {"batch": 2}, "spherical"),
        ("tangent", {"batch": 2}, "kernel"),
        ("entropy", {"batch": 2}, "not linear in the logits"),
    ],
)
def test_what_has_no_such_limit(make, settings, message):
    labels = uj.balanced(classes=2, per_class=2)
    model = {
        "regularized": lambda: uj.regularized(labels, dim=2, decay=0.1),
        "spherical": lambda: uj.spherical(labels, dim=2),
        "tangent": lambda: uj.ntk_invariant(labels, dim=2, kernel=np.eye(4)),
        "entropy": lambda: uj.regularized(labels, dim=2, decay=0.1, loss="cross_entropy"),
    }[make]()
    with pytest.raises(uj.NoClosedForm, match=message):
        uj.limit(model, uj.Descent(0.1, **settings), model.init(jax.random.key(0)))


@pytest.mark.long
def test_a_rate_of_zero_stops():
    model = uj.regularized(uj.balanced(classes=2, per_class=2), dim=2, decay=0.1)
    found = uj.limit(model, uj.Descent(lambda k: 0.0 * k, batch=2), model.init(jax.random.key(0)))
    assert found.side == "stops" and found.second_moment_growth == found.mean_growth == 0
    assert np.isposinf(found.critical_batch)
