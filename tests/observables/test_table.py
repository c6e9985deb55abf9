"""Every observable of every form of features against plain NumPy formulas of H, W and b.

The same state is given in each form that a solver may hold it in, beside a scale of its own; what is expected is
computed from the arrays alone, with loops over samples and pairs.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import unhinged_jax as uj
from unhinged_jax.collapse import METRICS
from unhinged_jax.observables import NEEDS, OBSERVABLES, View, evaluate, features, plane_features, resolve
from unhinged_jax.observables.distance import Split

C, GAMMA, DECAY, LOG_SCALE = 3, 0.3, (0.4, 0.25), 0.7
SPLIT = ("distance", "distance_H", "distance_W", "gap_H", "gap_W")
ENERGIES = ("energy_1_plus", "energy_1_minus", "energy_2_plus", "energy_2_minus", "energy_3")
EVEN, CYCLIC = uj.balanced(C, 4), uj.balanced(C, 4, order="cyclic")
UNEVEN = uj.from_counts([5, 3, 4]).weighted(samples=np.linspace(0.5, 2.0, 12))
HELD = UNEVEN.hold_out([0, 3, 7, 9, 10])
MODELS = {
    "balanced": lambda dim: uj.regularized(EVEN, dim, decay=DECAY, gamma=GAMMA, bias=True),
    "cyclic": lambda dim: uj.regularized(CYCLIC, dim, decay=DECAY, gamma=GAMMA, bias=True),
    "unbalanced": lambda dim: uj.regularized(UNEVEN, dim, decay=DECAY, gamma=GAMMA, bias=True),
    "cross-entropy": lambda dim: uj.regularized(UNEVEN, dim, decay=DECAY, loss="cross_entropy", bias=True),
    "spherical": lambda dim: uj.spherical(UNEVEN, dim, decay=0.4, gamma=GAMMA),
    "margin": lambda dim: uj.spherical(UNEVEN, dim, decay=0.4, loss=uj.losses.AdjustedMargin(GAMMA)),
    "held out": lambda dim: uj.regularized(HELD, dim, decay=DECAY, gamma=GAMMA, bias=True),
    "held out, kernel": lambda dim: uj.ntk_invariant(HELD, dim, np.eye(12), decay=DECAY, gamma=GAMMA, bias=True),
    "held out, cross-entropy": lambda dim: uj.regularized(HELD, dim, decay=DECAY, loss="cross_entropy", bias=True),
    "held out, spherical": lambda dim: uj.spherical(HELD, dim, decay=0.4, gamma=GAMMA),
}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def arrays(labels, dim, size=1.0):
    """A state of which some samples are classified right and some wrong, and no two numbers are alike.

    `size`: features are so much larger, prototypes so much smaller.
    """
    rng = np.random.default_rng(2)
    W = rng.normal(size=(C, dim)) + 0.4
    H = 0.7 * W[np.asarray(labels.index)] + 1.3 * rng.normal(size=(labels.samples, dim))
    return size * H, W / size, np.array([0.7, -0.4, 0.15])


# --- the forms ------------------------------------------------------------------------------------------------------


def class_features(model, H, W, factor=0.6, known=(), **settings):
    """h_i = q_i S_c / D_c + factor r_i, by sums over the samples of each class."""
    index, q = np.asarray(model.labels.index), np.asarray(model.labels.weights)
    S = np.array([sum(q[i] * H[i] for i in np.flatnonzero(index == c)) for c in range(C)])
    D = np.array([sum(q[i] ** 2 for i in np.flatnonzero(index == c)) for c in range(C)])
    residual = np.array([H[i] - q[i] * S[c] / D[c] for i, c in enumerate(index)]) / factor
    R = np.linalg.qr(residual, mode="r")
    products = {"with_prototypes": W @ residual.T, "with_sums": S @ residual.T, "scatter": S @ R.T}
    given = {name: jnp.asarray(products[name]) for name in known}
    of_classes = [jnp.asarray(x) for x in (index, q, D, residual, S, factor)]
    return features.ClassFeatures(*of_classes, **given, even=model.labels.balanced, **settings)


def plane(model, H, W, log_unit=None, watched=False):
    """h_i in the plane of itself and its target, the row of M W."""
    G = np.asarray(model.signal().dense("float64")) @ W
    length = np.linalg.norm(G, axis=1)[:, None]
    target = G / np.where(length > 0, length, 1)  # 0 for a sample that is held out
    along = np.sum(H * target, axis=1)
    across = H - along[:, None] * target
    aside = np.linalg.norm(across, axis=1)
    transverse, unit = across / aside[:, None], np.zeros(len(H)) if log_unit is None else log_unit
    known = (jnp.asarray(W @ target.T), jnp.asarray(W @ transverse.T)) if watched else None
    parts = [jnp.asarray(x) for x in (along, aside * np.exp(-unit), target, transverse)]
    return plane_features.PlaneFeatures(*parts, known, None if log_unit is None else jnp.asarray(log_unit))


def dense(model, H, W):
    return features.DenseFeatures(jnp.asarray(H))


def dense_with_factor(model, H, W):
    return features.DenseFeatures(jnp.asarray(H / 1.7), jnp.asarray(1.7))


def scored(model, H, W):
    """The products and the norm are handed over; the features themselves are only read for what asks of them."""
    known = {"known_scores": jnp.asarray(W @ H.T), "known_norm": jnp.asarray(np.linalg.norm(H))}
    return features.ScoredFeatures(jnp.asarray(H / 1.7), jnp.asarray(1.7), **known)


ALL = ("with_prototypes", "with_sums", "scatter")
FORMS = {
    "dense": dense, "dense, factor": dense_with_factor, "scored": scored,
    "class sums": class_features,
    "class sums, known": functools.partial(class_features, known=ALL[:2]),
    "class sums, cyclic": functools.partial(class_features, known=ALL, cyclic=True),
    "plane": plane, "plane, watched": functools.partial(plane, watched=True),
    "plane, small unit": functools.partial(plane, log_unit=np.linspace(-6.0, 1.0, 12)),
}  # fmt: skip
LARGE = 1.3 * 2.0**32  # beyond what is left where it is: powers of two are taken out of H and of W
ROWS = [
    ("balanced", "class sums", 2, 1.0),
    ("balanced", "class sums, known", 5, LARGE),
    ("cyclic", "class sums, cyclic", 5, 1.0),
    ("unbalanced", "class sums", 5, LARGE),
    ("unbalanced", "dense", 2, 1.0),
    ("cross-entropy", "scored", 5, LARGE),
    ("cross-entropy", "state", 2, 1.0),
    ("spherical", "plane", 5, LARGE),
    ("margin", "dense", 5, 1.0),
    ("held out", "class sums", 5, LARGE),
]
LONG = [
    ("balanced", "dense, factor", 2, LARGE), ("spherical", "plane, small unit", 2, 1.0), ("spherical", "dense", 5, 1.0),
    ("spherical", "plane, watched", 5, 1 / LARGE), ("held out, kernel", "dense", 2, 1.0),
    ("held out", "dense, factor", 5, 1 / LARGE), ("held out, cross-entropy", "state", 5, 1.0),
    ("held out, cross-entropy", "scored", 2, 1.0),
    ("held out, spherical", "plane, watched", 5, LARGE), ("held out, spherical", "dense", 2, 1.0),
]  # fmt: skip


def start_of(model, size):
    """How much of the direction the start is, and the sign with which the state has it now."""
    return (0.8 if size == 1 else 2.7), (-1.0 if model.labels is UNEVEN else 1.0)


def split(H, W, sign):
    """A direction, and the state as +-1.9 times it plus e^0.2 times a rest.

    A residual that is across the direction is given by its length alone, as solvers do.
    """
    rng = np.random.default_rng(5)
    direction = [x + np.abs(x).max() * rng.normal(size=x.shape) for x in (H, W)]
    size = np.sqrt(sum(np.sum(x**2) for x in direction))
    direction = [sign * x / size for x in direction]
    rest = [(x - sign * 1.9 * d) * np.exp(-0.2) for x, d in zip((H, W), direction, strict=True)]
    across = rng.normal(size=H.shape)
    across -= np.sum(across * direction[0]) / np.sum(direction[0] ** 2) * direction[0]
    across *= np.sum(across * rest[0]) / np.sum(across**2)
    length = np.linalg.norm(across)
    kept = [rest[0] - across, length, rest[1]], [H - np.exp(0.2) * across, np.exp(0.2) * length, W]
    lists = [[jnp.asarray(x) for x in part] for part in ([direction[0], 0.0, direction[1]], *kept)]
    logs = [jnp.asarray(x) for x in (np.log(1.9) + LOG_SCALE, sign, 0.2 + LOG_SCALE)]
    return direction, Split(lists[0], lists[1], *logs, lists[2])


def view_of(model, form, H, W, b, size=1.0):
    state = [jnp.asarray(x) for x in (W, b, LOG_SCALE)]
    if not model.linear:
        return View(model, FORMS[form](model, H, W), *state)
    start, sign = start_of(model, size)
    moved = split(H[trained_on(model)], W, sign)[1]
    return View(model, FORMS[form](model, H, W), *state, moved, jnp.log(start) + LOG_SCALE)


# --- what is expected -----------------------------------------------------------------------------------------------


def energies(H, W, index):
    """Shares of ||Z||^2 in E_1^+-, E_2^+- and E_3, by orthonormal vectors of each subspace of the rows of Z."""
    Z, n = np.concatenate([H, W]), len(H)
    of_class = np.array([(index == c) / np.sqrt(np.sum(index == c)) for c in range(C)])
    contrast = np.linalg.svd(np.ones((1, C)))[2][1:]
    found = {}
    for number, patterns in ((1, contrast), (2, np.ones((1, C)) / np.sqrt(C))):
        for name, sign in (("plus", 1.0), ("minus", -1.0)):
            basis = np.hstack([patterns @ of_class, sign * patterns]) / np.sqrt(2)
            found[f"energy_{number}_{name}"] = np.sum((basis @ Z) ** 2) / np.sum(Z**2)
    within = [H[i] - H[index == index[i]].mean(0) for i in range(n)]
    return {**found, "energy_3": np.sum(np.square(within)) / np.sum(Z**2)}


def losses(model, S, index, q):
    """The data term, sample by sample."""
    total = 0.0
    for s, y, weight in zip(S, index, q, strict=True):
        if isinstance(model.loss, uj.losses.CrossEntropy):
            total += weight * (np.log(np.sum(np.exp(s))) - s[y])
        else:  # above its margin the adjusted one is the unhinged one
            total -= weight * ((1 + GAMMA) * s[y] - GAMMA * np.sum(s))
    return total


def trained_on(model):
    """The numbers of the samples that are not held out."""
    held = model.labels.held_out
    return np.array([i for i in range(12) if held is None or i not in held])


def expected(model, H, W, b):
    """Every observable of (H, W, b), plain arrays without a scale."""
    rows, held = trained_on(model), model.labels.held_out
    index, q = np.asarray(model.labels.index), np.asarray(model.labels.weights)
    found = expected_of(model, H[rows], W, b, index[rows], q[rows])
    if held is None:
        return found
    of_test = expected_of(model, H[held], W, b, index[held], np.full(len(held), 1 / len(held)))
    names = ("loss", "loss_sign", "log_abs_loss", "accuracy", "accuracy_margin", "margin_min", "margin_mean")
    return found | {f"test_{name}": of_test[name] for name in names}


def expected_of(model, H, W, b, index, q):
    """The same of some samples with their labels and weights."""
    seen = H / np.linalg.norm(H, axis=1)[:, None] if model.spherical else H
    S = seen @ W.T + b
    margins = np.array([s[y] - max(np.delete(s, y)) for s, y in zip(S, index, strict=True)])
    longest = max(np.linalg.norm(w) for w in W)
    norms = {"norm": np.sqrt(np.sum(H**2) + np.sum(W**2)), "norm_H": np.linalg.norm(H), "norm_W": np.linalg.norm(W)}
    means = np.array([H[index == c].mean(axis=0) for c in range(C)])
    squares = {"square_norm": np.sum(H**2) + np.sum(W**2), "square_norm_H": np.sum(H**2), "square_norm_W": np.sum(W**2)}
    scatters = {
        "within_scatter": sum(np.sum((h - means[y]) ** 2) for h, y in zip(H, index, strict=True)),
        "between_scatter": sum(np.sum((means[y] - H.mean(axis=0)) ** 2) for y in index),
    }
    loss = losses(model, S, index, q)
    decay = model.decay_H * np.sum(H**2) + model.decay_W * (np.sum(W**2) + np.sum(b**2))
    found = {
        "loss": loss,
        "loss_sign": np.sign(loss),
        "log_abs_loss": np.log(abs(loss)),
        "objective": loss + decay / 2,
        "accuracy": np.mean(S.argmax(axis=1) == index),
        "accuracy_margin": min(m / np.linalg.norm(h) / longest for m, h in zip(margins, seen, strict=True)),
        "margin_min": margins.min(),
        "margin_mean": margins.mean(),
        **norms,
        **squares,
        **scatters,
        "square_norm_b": np.sum(b**2),
        "norm_sum_W": np.linalg.norm([sum(w[j] for w in W) for j in range(W.shape[1])]),
        "norm_b": np.sqrt(np.sum(b**2)),
        "bias_ratio": max(b) / min(b),
        **{name: x for name, x in oracles.collapse_metrics(seen, index, W, b).items() if not name.startswith("margin")},
    }
    if model.linear and model.labels.balanced:
        found |= energies(H, W, index)
    return found


def distances(model, H, W, size):
    """Distances between unit vectors, and norms of what is left of the start, by plain differences."""
    H = H[trained_on(model)]
    if model.spherical:
        if not model.loss.linear:
            return {}
        G = np.asarray(model.signal().dense("float64"))[trained_on(model)] @ W
        unit, target = (X / np.linalg.norm(X, axis=1)[:, None] for X in (H, G))
        return dict.fromkeys(("distance", "distance_H"), np.linalg.norm(unit - target))
    if not model.linear:
        return {}
    start, sign = start_of(model, size)
    direction, _ = split(H, W, sign)
    found = {}
    pairs = {"_H": (H, direction[0]), "_W": (W, direction[1])}
    pairs[""] = tuple(np.concatenate(both) for both in zip(*pairs.values(), strict=True))
    for name, (x, d) in pairs.items():
        found["distance" + name] = np.linalg.norm(x / np.linalg.norm(x) - d / np.linalg.norm(d))
        found["gap" + name] = np.exp(LOG_SCALE) * np.linalg.norm(x - start * d)
    return {name: value for name, value in found.items() if name in SPLIT}


def with_logarithms(values, there):
    logs = {f"log_{name}": np.log(value) for name, value in values.items() if f"log_{name}" in there}
    return {name: np.asarray(value, float) for name, value in {**logs, **values}.items()}


@pytest.mark.parametrize(
    ("problem", "form", "dim", "size"),
    [*ROWS, *(pytest.param(*row, marks=pytest.mark.long) for row in LONG)],
    ids=[f"{row[0]}-{row[1]}" for row in ROWS + LONG],
)
def test_every_observable_is_its_formula(problem, form, dim, size):
    model = MODELS[problem](dim)
    H, W, b = arrays(model.labels, dim, size)
    plan = resolve(uj.all_observables, model, splittable=True)
    if form == "state":  # all that need no run
        got = jax.jit(lambda state: uj.observe_state(model, state))(uj.State(H, W, b, LOG_SCALE))
    else:
        got = jax.jit(lambda view: evaluate(plan, view))(view_of(model, form, H, W, b, size))
    scale = np.exp(LOG_SCALE)
    want = with_logarithms(
        {**expected(model, scale * H, scale * W, b), **distances(model, H, W, size)}, uj.all_observables
    )
    assert want.keys() == got.keys()
    assert 0 < want["accuracy"] < 1 and 0 < want["nc4"] < 1
    chex.assert_trees_all_close(dict(got), want, rtol=1e-11, atol=1e-12)


def test_only_the_metrics_that_are_asked_for_are_computed(monkeypatch):
    def refused(*_):
        raise AssertionError("nobody asked for it")

    model, asked = MODELS["unbalanced"](4), ("nc1", "nc3_self_duality", "margin_mean")
    state = model.init(jax.random.key(0))
    want = uj.observe_state(model, state, asked)
    for name in {*METRICS} - {*asked}:
        monkeypatch.setitem(METRICS, name, dataclasses.replace(METRICS[name], function=refused))
    assert uj.observe_state(model, state, asked) == want
    with pytest.raises(AssertionError, match="nobody asked"):
        uj.observe_state(model, state, "gnc2")


@pytest.mark.parametrize(("problem", "form"), [
    ("unbalanced", "class sums"), ("cyclic", "class sums, cyclic"), ("unbalanced", "dense, factor"),
    ("cross-entropy", "scored"), ("spherical", "plane, small unit"), ("spherical", "plane, watched"),
])  # fmt: skip
def test_margins_are_the_same_block_by_block(problem, form, monkeypatch):
    """Nine samples a block, so that two blocks overlap: what is of every sample is taken of those in the block."""
    monkeypatch.setattr(features, "_BLOCK", 29)
    model = MODELS[problem](5)
    H, W, b = arrays(model.labels, 5)
    names = ("accuracy", "accuracy_margin", "margin_min", "margin_mean")
    plan = resolve(names, model, splittable=True)
    got = jax.jit(lambda view: evaluate(plan, view))(view_of(model, form, H, W, b))
    want = expected(model, np.exp(LOG_SCALE) * H, np.exp(LOG_SCALE) * W, b)
    chex.assert_trees_all_close(dict(got), {name: want[name] for name in names}, rtol=1e-11, atol=1e-12)


def test_where_there_is_nothing_to_divide_by():
    """No smallest bias, no norm of which there are shares, no loss: what is said then."""
    H, W, _ = arrays(EVEN, 2)
    names = ("accuracy", "bias_ratio", "loss_sign", "log_abs_loss", "accuracy_margin", *ENERGIES)

    def seen(*state, names=names):
        return {name: float(x) for name, x in uj.observe_state(MODELS["balanced"](2), uj.State(*state), names).items()}

    zeros = seen(0 * H, 0 * W, np.zeros(C))
    assert zeros["bias_ratio"] == np.inf and zeros["loss_sign"] == 0 and zeros["log_abs_loss"] == -np.inf
    assert zeros["accuracy"] == 1 / 3  # of equal logits the first wins
    assert zeros["accuracy_margin"] == 0 and all(np.isnan(zeros[name]) for name in ENERGIES)
    alone = seen(0 * H, 0 * W, np.array([0.0, 1.0, 3.0]))
    assert alone["bias_ratio"] == np.inf and alone["accuracy_margin"] == -np.inf
    assert seen(H, W, np.array([-2.0, -1.0, -4.0]))["bias_ratio"] == 0.25
    plain, tiny = (
        seen(H, W, np.zeros(C), log_scale, names=["accuracy", "accuracy_margin"]) for log_scale in (0.0, -400.0)
    )
    assert tiny == pytest.approx(plain, rel=1e-14) and 1 / 3 < plain["accuracy"] < 1


@pytest.mark.parametrize(("log_scale", "size"), [(-400.0, 1.0), (-300.0, 1e-200), (0.0, 1e-200)])
def test_logits_and_biases_of_any_size_beside_one_another(log_scale, size):
    """Of logits of 1e-347 beside biases of 1, of both near the smallest number, and of biases of nothing."""
    H, W, b = arrays(EVEN, 2)
    model, index = MODELS["balanced"](2), np.asarray(EVEN.index)
    S = np.exp(2 * log_scale) / size * H @ W.T + b  # over `size`
    margins = [s[y] - max(np.delete(s, y)) for s, y in zip(S, index, strict=True)]
    want = {"margin_min": min(margins), "margin_mean": np.mean(margins), "loss": losses(model, S, index, EVEN.weights)}
    got = uj.observe_state(model, uj.State(H, W, size * b, log_scale), [*want, "accuracy"])
    assert float(got.pop("accuracy")) == np.mean(S.argmax(axis=1) == index)
    chex.assert_trees_all_close({name: value / size for name, value in got.items()}, want, rtol=1e-11)


def test_the_objective_of_parts_that_are_zero_or_small_on_a_scale_beyond_the_range():
    H, W, b = arrays(EVEN, 2)
    H, log_scale = 1e-300 * H, 1000.0

    def seen(H, W, **decay):
        model = MODELS["balanced"](2).replace(**decay)
        return float(uj.observe_state(model, uj.State(H, W, 0 * b, log_scale), "objective")["objective"])

    log_norm = np.log(np.linalg.norm(1e300 * H)) - 300 * np.log(10) + log_scale
    assert seen(H, 0 * W, decay_H=0.1, decay_W=0.1) == pytest.approx(0.05 * np.exp(2 * log_norm), rel=1e-11)
    assert seen(0 * H, 0 * W, decay_H=0.1, decay_W=0.1) == 0 == seen(0 * H, W, decay_H=0.1, decay_W=0.0)
    assert seen(0 * H, W, decay_H=0.1, decay_W=0.1) == np.inf


def test_margins_have_the_derivatives_of_their_formula():
    model, names, h = MODELS["unbalanced"](2), ("margin_min", "margin_mean", "accuracy_margin"), 1e-6
    H, W, b = arrays(UNEVEN, 2)
    way = np.random.default_rng(7).normal(size=W.shape)

    def seen(x):
        return uj.observe_state(model, uj.State(H, W + x * way, b), names)

    up, down = (expected(model, H, W + x * way, b) for x in (h, -h))
    want = {name: (up[name] - down[name]) / (2 * h) for name in names}
    chex.assert_trees_all_close(jax.jit(jax.jacfwd(seen))(0.0), want, rtol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_state_is_observed_in_its_own_precision(precision):
    model = MODELS["balanced"](2)
    state = model.init(jax.random.key(0), precision=precision)
    assert uj.observe_state(model, state, "norm_W")["norm_W"].dtype == precision


def test_what_an_observable_needs_is_said_in_words():
    assert {entry.needs for entry in OBSERVABLES.values()} == set(NEEDS)


# --- sizes far apart ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1e37, 1e-4), (1e35, 1e-3), (1e-36, 1e4)])
def test_logits_of_features_and_prototypes_far_apart(sizes):
    """In float32 neither factor may be multiplied by the scale of the other alone."""
    model = uj.unconstrained(EVEN, 3)
    H, W, b = arrays(EVEN, 3)
    single = uj.State(*(np.asarray(part, np.float32) for part in (sizes[0] * H, sizes[1] * W, 0 * b)))
    found = uj.observe_state(model, single, ["margin_min", "accuracy", "accuracy_margin"])
    wanted = uj.observe_state(model, uj.State(H, W, 0 * b), ["margin_min", "accuracy", "accuracy_margin"])
    assert float(found["margin_min"]) == pytest.approx(float(wanted["margin_min"]) * sizes[0] * sizes[1], rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(float(wanted["accuracy"]))
    assert float(found["accuracy_margin"]) == pytest.approx(float(wanted["accuracy_margin"]), rel=1e-5)


def test_lost_prototypes_leave_no_metric_of_them():
    """Anchored prototypes of 1e-37 e^90 in float32: unknown, with held-out samples, too; features are known."""
    model = uj.anchored(uj.balanced(C, 3).hold_out(per_class=1), 3)
    H, W, b = (np.asarray(part, np.float32) for part in arrays(model.labels, 3))
    state = uj.State(H, np.float32(1e-37) * W, 0 * b, log_scale=90.0)
    read = ["nc0", "nc3_self_duality", "nc4", "accuracy", "test_accuracy", "norm_W", "nc1", "minimal_angle_means"]
    run = uj.exact(model, uj.Flow(), state, [0.0], read, precision="float32")
    unknown = [name for name in read if np.isnan(run[name][0])]
    assert unknown == ["nc0", "nc3_self_duality", "nc4", "accuracy", "test_accuracy", "norm_W"]


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_class_means_and_residual_of_sizes_far_apart(size):
    """Classes of different sizes in float32, with weights that are equal within each: sums and residual are both known
    where the features, which are their sum, would have lost the smaller one."""
    labels = uj.from_counts([5, 3, 4])
    model, index = uj.unconstrained(labels, 5), np.asarray(labels.index)
    H, W, b = arrays(labels, 5)
    means = np.array([H[index == c].mean(axis=0) for c in range(C)])
    apart = [
        np.sum((means[y] * size - means * size) * ((means[y] - means) * size + 2 * d), axis=1)
        for y, d in zip(index, H - means[index], strict=True)
    ]  # |h - mean c|^2 less |h - mean of its class|^2
    found = oracles.collapse_metrics(H, index, W, 0 * b)
    want = {name: x / size**2 if name in ("nc1", "nc1_trace_ratio", "cdnv") else x for name, x in found.items()}
    want["ncc_accuracy"] = np.mean(np.argmin(apart, axis=1) == index)
    del want["accuracy"], want["nc4"], want["margin_min"], want["margin_mean"]  # of other logits
    want["log_within_scatter"] = 2 * np.log(np.linalg.norm(H - means[index]))
    want["log_between_scatter"] = 2 * np.log(size * np.linalg.norm(means[index] - H.mean(axis=0)))
    held = class_features(model, H, W, factor=1.0)
    parts = dataclasses.replace(held, sums=size * held.sums), W, 0 * b, 0.0
    parts = jax.tree.map(lambda x: jnp.asarray(x, "float32" if np.result_type(x).kind == "f" else None), parts)
    view = View(model, *parts)
    got = jax.jit(lambda view: evaluate(resolve(list(want), model, splittable=True), view))(view)
    chex.assert_trees_all_close({name: np.float64(x) for name, x in got.items()}, want, rtol=3e-5, atol=0)


def test_within_scatter_beside_far_larger_means():
    """It stays as it is without decay, however far the class means have grown, for classes of any size."""
    for labels, precision in ((uj.from_counts([2, 5, 3]), "float64"), (uj.balanced(C, 4), "float32")):
        model = uj.unconstrained(labels, 5)
        state = model.init(jax.random.key(0), precision=precision)
        for solve in (uj.exact, uj.simulate):
            found = solve(model, uj.Flow(), state, [0.0, 150.0], "log_within_scatter")["log_within_scatter"]
            assert float(found[1]) == pytest.approx(float(found[0]), abs=1e-5)


def test_the_sum_of_prototypes_is_that_of_the_parameters():
    """Also where logits see them normalised."""
    model = uj.spherical(EVEN, 4, free_prototypes=True, unit_prototypes=True)
    H, W, b = arrays(EVEN, 4)
    for size in (1.0, 1e8):
        found = uj.observe_state(model, uj.State(H, size * W, 0 * b), ["norm_sum_W"])["norm_sum_W"]
        assert float(found) == pytest.approx(size * np.linalg.norm(W.sum(0)), rel=1e-12)


def test_a_class_without_samples_has_no_mean():
    labels = uj.soft([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])  # none of class 2
    model = uj.unconstrained(labels, 3)
    state = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="class 2 has no sample"):
        uj.exact(model, uj.Flow(), state, [0.0], ["nc1"])
    assert "nc1" not in uj.exact(model, uj.Flow(), state, [0.0], uj.all_observables).observables


@pytest.mark.parametrize("label", [-1, 3])
def test_traced_labels_that_are_no_class_have_no_accuracy(label):
    """Labels are not checked while they are traced."""
    labels, W = uj.from_labels([0, 1, 2]), jnp.eye(3)

    @jax.jit
    def seen(index):
        model = uj.unconstrained(labels.replace(index=index), 3)
        return uj.observe_state(model, uj.State(2 * W, W, jnp.zeros(3)), ["accuracy", "margin_min"])

    assert {name: float(value) for name, value in seen(jnp.arange(3)).items()} == {"accuracy": 1, "margin_min": 2}
    assert all(np.isnan(value) for value in seen(jnp.array([0, 1, label])).values())
