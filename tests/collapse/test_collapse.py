"""Collapse metrics against dense NumPy formulas, at their ideal values and degenerate ends."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from unhinged_jax import collapse, references

COUNTS = (7, 4, 1, 6, 5)
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(5), COUNTS))


def _simplex(classes, dim):
    """Unit rows with pairwise cosine −1/(C−1)."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, classes)))[0].T
    return (basis - basis.mean(0)) * np.sqrt(classes / (classes - 1))


def _evaluate(H, labels, W, b):
    stats = collapse.class_statistics(H, labels, W.shape[0])
    logits = jnp.matmul(H, W.T, precision="highest") + b  # accelerators round the factors of a product otherwise
    return collapse.collapse_metrics(stats, W, logits)


_jitted = jax.jit(_evaluate)


def metrics(H, labels, W, b=0.0):
    with jax.enable_x64(True):
        values = _jitted(*(jnp.asarray(x) for x in (H, labels, W, np.zeros(len(W)) + b)))
        return {name: float(value) for name, value in values.items()}


def random_state(dim, seed=0, labels=LABELS):
    rng = np.random.default_rng(seed)
    classes = labels.max() + 1
    means, W = 2 * rng.normal(size=(classes, dim)) + 3, rng.normal(size=(classes, dim))
    return means[labels] + 0.8 * rng.normal(size=(labels.size, dim)), W, rng.normal(size=classes)


def assert_equal(got, want, rtol=1e-12, atol=1e-13, only=collapse.METRICS):
    for name in only:
        np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("dim", [9, 2], ids=["C<=p+1", "C>p+1"])
def test_matches_dense_formulas_with_imbalanced_classes(dim):
    H, W, b = random_state(dim)
    want = oracles.collapse_metrics(H, LABELS, W, b)
    assert 0 < want["nc4"] < 1, "the state should separate NC4 from a constant"
    assert_equal(metrics(H, LABELS, W, b), want)


def test_table_names_every_entry_and_singles_agree_with_the_whole():
    H, W, b = random_state(9)
    with jax.enable_x64(True):
        stats = collapse.class_statistics(H, LABELS, 5)
        given = {"stats": stats, "W": W, "logits": H @ W.T + b}
        singles = {
            name: info.function(*(given[argument] for argument in info.takes))
            for name, info in collapse.METRICS.items()
        }
        without = collapse.collapse_metrics(stats)
    assert_equal(singles, metrics(H, LABELS, W, b), rtol=1e-13, atol=1e-14)
    assert all(name == info.name for name, info in collapse.METRICS.items())
    assert list(without) == [n for n, i in collapse.METRICS.items() if i.takes == ("stats",)]


def test_options():
    H, W, _ = random_state(9)
    with jax.enable_x64(True):
        stats = collapse.class_statistics(H, LABELS, 5)
        pairs = itertools.combinations(W / np.linalg.norm(W, axis=1)[:, None], 2)
        kernel = np.array([-math.log(np.linalg.norm(u - v)) for u, v in pairs])
        np.testing.assert_allclose(collapse.gnc2(W, "mean"), kernel.mean(), rtol=1e-12)
        variation = kernel.std() / abs(kernel.mean())
        np.testing.assert_allclose(collapse.gnc2(W, "variation"), variation, rtol=1e-12)
        bare = collapse.nc1(stats, normalise=False)
        np.testing.assert_allclose(bare, 5 * collapse.nc1(stats), rtol=1e-14)
        A = np.array(stats.means) - H.mean(0)
        cosines = np.sum(A * W, 1) / np.linalg.norm(A, axis=1) / np.linalg.norm(W, axis=1)
        spread = collapse.unc3(stats, W, normalise=False)
        np.testing.assert_allclose(spread, cosines.std(), rtol=1e-12)
        weights = np.array(COUNTS) / sum(COUNTS)
        between, within = (A.T * weights) @ A, np.cov((H - np.array(stats.means)[LABELS]).T, ddof=0)
        spectrum = np.sort(np.linalg.eigvalsh(between))[::-1]
        cut = (spectrum[1] + spectrum[2]) / 2 / spectrum[0]
        want = np.trace(within @ np.linalg.pinv(between, rcond=cut)) / 5
        np.testing.assert_allclose(collapse.nc1(stats, rtol=cut), want, rtol=1e-11)


def test_invariances():
    H, W, b = random_state(9)
    want = metrics(H, LABELS, W, b)
    rng = np.random.default_rng(2)
    Q = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    assert_equal(metrics(H @ Q, LABELS, W @ Q, b), want)
    order, rename = rng.permutation(len(H)), rng.permutation(5)
    assert_equal(metrics(H[order], LABELS[order], W, b), want)
    old = np.argsort(rename)
    assert_equal(metrics(H, rename[LABELS], W[old], b[old]), want)


@pytest.mark.parametrize("scale", [1e-100, 1e-20, 3e7, 1e100])
def test_scale_invariance(scale):
    H, W, _ = random_state(9)
    want = metrics(H, LABELS, W)
    features, prototypes = metrics(scale * H, LABELS, W), metrics(H, LABELS, scale * W)
    for got in (features, prototypes):
        for name in ("margin_min", "margin_mean"):
            got[name] /= scale
        assert_equal(got, want)


@pytest.mark.parametrize(
    ("classes", "dim"), [(5, 9), pytest.param(5, 4, marks=pytest.mark.long), pytest.param(2, 1, marks=pytest.mark.long)]
)
def test_ideal_values_at_exact_collapse_with_finite_gradients(classes, dim):
    simplex = _simplex(classes, dim + 1)
    basis = np.linalg.svd(simplex)[2][: max(classes - 1, dim)][:dim]
    simplex = simplex @ basis.T
    labels = np.repeat(np.arange(classes), 4)
    H, W = 1.7 * simplex[labels], 0.3 * simplex
    got = metrics(H, labels, W)
    for name, info in collapse.METRICS.items():
        if not name.startswith("margin"):
            # arccos would miss the angle π of two classes by 1e-8.
            np.testing.assert_allclose(got[name], info.ideal(classes), atol=3e-15, err_msg=name)
    assert got["nc1"] == got["nc1_trace_ratio"] == got["cdnv"] == 0
    np.testing.assert_allclose(got["margin_min"], 1.7 * 0.3 * classes / (classes - 1), rtol=1e-14)
    if dim != classes - 1 or dim == 1:  # another compilation would tell nothing new
        _assert_finite_gradients(H, labels, W)


_jacobian = jax.jit(lambda H, labels, W: jax.jacrev(_evaluate, argnums=(0, 2))(H, labels, W, jnp.zeros(len(W))))


def _assert_finite_gradients(H, labels, W):
    with jax.enable_x64(True):
        for name, parts in _jacobian(jnp.asarray(H), jnp.asarray(labels), jnp.asarray(W)).items():
            assert all(np.all(np.isfinite(part)) for part in parts), name


@pytest.mark.parametrize("offset", [0.0, 1 / 3])
def test_everything_on_one_point(offset):
    """All features equal, all prototypes equal (or zero): defined values, no NaN."""
    H, W = np.full((23, 9), offset), np.full((5, 9), offset)
    got = metrics(H, LABELS, W)
    energies = ("gnc2", "riesz_energy_means", "riesz_energy_prototypes")
    for name in ("nc1", "nc1_trace_ratio", "cdnv", "nc2_equinorm_means", "unc3", *energies):
        assert got[name] == math.inf, name
    np.testing.assert_allclose(got["nc0"], 1 if offset else math.inf, rtol=1e-15)
    assert got["ncc_accuracy"] == got["accuracy"] == np.mean(LABELS == 0)  # of equal classes the lowest is chosen
    for which in ("means", "prototypes"):
        if which == "means" or not offset:
            np.testing.assert_allclose(got[f"seli_distance_{which}"], math.sqrt(2), rtol=1e-14)
        np.testing.assert_allclose(got[f"etf_distance_{which}"], math.sqrt(2), rtol=1e-14)
        np.testing.assert_allclose(got[f"nc2_equiangularity_{which}"], 1.25, rtol=1e-14)
        np.testing.assert_allclose(got[f"minimal_angle_{which}"], 0, atol=1e-15)
    np.testing.assert_allclose(got["nc3_self_duality"], math.sqrt(2), rtol=1e-14)
    assert got["nc2_equinorm_prototypes"] == (0 if offset else math.inf)
    assert got["nc4"] == 1 and got["margin_min"] == got["margin_mean"] == 0
    _assert_finite_gradients(H, LABELS, W)


def test_equal_means_with_spread_features():
    """Means that agree up to rounding carry no class structure: inf, and not noise over noise."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(5, 2, 9))
    labels = np.repeat(np.arange(5), 4)
    H = np.concatenate([half, -half], 1).reshape(20, 9) + 1 / 3
    W = half[:, 0]
    got = metrics(H, labels, W)
    assert got["nc1"] == got["nc1_trace_ratio"] == got["cdnv"] == math.inf
    assert not any(math.isnan(value) for value in got.values())
    _assert_finite_gradients(H, labels, W)


def test_means_that_are_lost_beside_the_deviations_are_unknown():
    """Means of 1e-9 of features of 1 in float32: their sums hold rounding of 1e-8, of which no metric may be made."""
    H, W, b = random_state(9)
    H -= np.array([H[c == LABELS].mean(axis=0) for c in range(5)])[LABELS]
    H, W, b = (np.asarray(part, np.float32) for part in (H + 1e-9 * W[LABELS], W, b))
    got = _jitted(*(jnp.asarray(part) for part in (H, LABELS.astype(np.int32), W, b)))
    known = {"accuracy", "margin_min", "margin_mean", "seli_distance_prototypes"}
    known |= {name for name, info in collapse.METRICS.items() if info.takes == ("W",)}
    assert {name for name, value in got.items() if np.isfinite(value)} == known
    stats = collapse.class_statistics(H, LABELS, 5)
    assert stats.lost and np.isnan(collapse.one_vs_rest_distance(stats))
    spread = [np.mean(np.sum(H[c == LABELS] ** 2, axis=1)) for c in range(5)]
    np.testing.assert_allclose(stats.variances, spread, rtol=1e-5, atol=1e-13)


def test_two_coincident_means():
    """Minority collapse carried to its end: two of five class means are one point."""
    H, W, b = random_state(9)
    H[LABELS == 2] = H[LABELS == 1].mean(0)
    W[2] = W[1]
    H[LABELS == 1] = H[LABELS == 1].mean(0)
    got = metrics(H, LABELS, W, b)
    assert got["cdnv"] == got["gnc2"] == math.inf
    for name in ("minimal_angle_means", "minimal_angle_prototypes"):
        np.testing.assert_allclose(got[name], 0, atol=2e-16)
    with np.errstate(all="ignore"):
        want = oracles.collapse_metrics(H, LABELS, W, b)
    assert_equal(got, want, only=["nc1", "nc1_trace_ratio", "etf_distance_means", "unc3"])
    _assert_finite_gradients(H, LABELS, W)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-12])
def test_close_means_keep_their_digits(gap):
    """Two means `gap` apart: the Gram matrix alone would lose their distance below 1e-8."""
    means = np.array([[1.0, 0, 0], [1, gap, 0], [0, 1, 0], [0, 0, 1], [0, 0, -2]])
    labels = np.repeat(np.arange(5), 2)
    spread = np.array([0, 0, 2.0**-40])
    H = (np.stack([means + spread, means - spread], 1)).reshape(10, 3)
    got = metrics(H, labels, means)
    exact = np.asarray(means, np.longdouble)
    distances = [np.sum((u - v) ** 2) for u, v in itertools.combinations(exact, 2)]
    want = float(np.mean([np.longdouble(2) ** -80 / d for d in distances]))
    # The centred means are rounded at 1e-16, and so their difference at 1e-16/gap.
    rtol = 1e-13 + 2e-16 / gap
    np.testing.assert_allclose(got["cdnv"], want, rtol=4 * rtol)
    np.testing.assert_allclose(got["minimal_angle_prototypes"], math.atan(gap), rtol=4 * rtol)
    centred = exact - exact.mean(0)
    unit = centred / np.sqrt(np.sum(centred**2, 1))[:, None]
    logs = [-np.log(np.sum((u - v) ** 2)) / 2 for u, v in itertools.combinations(unit, 2)]
    excess = float(np.mean(logs) + np.log(np.longdouble(2.5)) / 2)
    np.testing.assert_allclose(got["gnc2"], excess, rtol=1e-13, atol=4 * rtol)


def test_vectors_of_very_different_size():
    H, W, _ = random_state(9)
    sizes = np.array([1e-170, 1e-3, 1.0, 1e80, 1e150])
    want, got = metrics(H, LABELS, W), metrics(H, LABELS, sizes[:, None] * W)
    names = ["nc2_equiangularity_prototypes", "minimal_angle_prototypes", "unc3"]
    assert_equal(got, want, only=names)


@pytest.mark.parametrize("dim", [9, pytest.param(2, marks=pytest.mark.long)], ids=["C<=p+1", "C>p+1"])
def test_gradients_match_finite_differences(dim):
    H, W, b = random_state(dim)
    direction = np.random.default_rng(3).normal(size=H.shape)
    turn = np.random.default_rng(4).normal(size=W.shape)
    with jax.enable_x64(True):
        point, tangent = (jnp.asarray(H), jnp.asarray(W)), (direction, turn)
        _, slope = jax.jvp(lambda H, W: _jitted(H, jnp.asarray(LABELS), W, b), point, tangent)
        gradient = _jacobian(jnp.asarray(H), jnp.asarray(LABELS), jnp.asarray(W))
    step = 1e-4

    def shifted(k):
        return metrics(H + k * step * direction, LABELS, W + k * step * turn, b)

    near, far = (shifted(1), shifted(-1)), (shifted(2), shifted(-2))
    for name in collapse.METRICS:
        difference = 8 * (near[0][name] - near[1][name]) - (far[0][name] - far[1][name])
        # Fourth-order difference: error 1e-16/step from rounding, step⁴ from curvature.
        want = difference / (12 * step)
        np.testing.assert_allclose(slope[name], want, rtol=1e-8, atol=1e-9, err_msg=name)
        if not name.startswith(("margin", "nc4")):  # these were taken without bias
            by_H, by_W = (np.asarray(part) for part in gradient[name])
            reverse = np.sum(by_H * direction) + np.sum(by_W * turn)
            np.testing.assert_allclose(reverse, slope[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_nc1_gradient_where_all_eigenvalues_coincide():
    """At simplex means Σ_B has one repeated eigenvalue; eigenvector derivatives would be NaN."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(5), 4)
    noise = rng.normal(size=(5, 4, 9))
    H = 0.1 * (noise - noise.mean(1, keepdims=True)).reshape(20, 9) + _simplex(5, 9)[labels]
    direction = rng.normal(size=H.shape)
    with jax.enable_x64(True):

        @jax.jit
        def value(t):
            return collapse.nc1(collapse.class_statistics(H + t * direction, labels, 5))

        points = [float(value(t)) for t in (1e-4, -1e-4, 2e-4, -2e-4)]
        slope = float(jax.grad(value)(0.0))
    want = (8 * (points[0] - points[1]) - (points[2] - points[3])) / 12e-4
    np.testing.assert_allclose(slope, want, rtol=1e-8)


def test_nc1_second_derivative_where_means_span_a_plane():
    """Σ_B of five classes in the plane has a null space that turns as the means move."""
    H = random_state(2)[0]
    direction = np.random.default_rng(8).normal(size=H.shape)
    with jax.enable_x64(True):

        @jax.jit
        @jax.value_and_grad
        def slope(t):
            return jax.grad(lambda t: collapse.nc1(collapse.class_statistics(H + t * direction, LABELS, 5)))(t)

        points = [float(slope(t)[0]) for t in (1e-4, -1e-4, 2e-4, -2e-4)]
        curvature = float(slope(0.0)[1])
    want = (8 * (points[0] - points[1]) - (points[2] - points[3])) / 12e-4
    np.testing.assert_allclose(curvature, want, rtol=1e-7)


def test_nc4_finds_the_nearest_centre_of_overlapping_classes():
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(5), 60)
    H = rng.normal(size=(5, 3))[labels] + 2 * rng.normal(size=(300, 3))
    means = np.array([H[labels == c].mean(0) for c in range(5)])
    distances = np.linalg.norm(H[:, None] - means, axis=2)
    assert np.mean(distances.argmin(1) == labels) < 0.6
    with jax.enable_x64(True):
        stats = collapse.class_statistics(H, labels, 5)
        assert collapse.nc4(stats, -distances) == 1
        assert collapse.nc4(stats, distances) == 0


def test_excess_energy_is_positive_away_from_the_simplex():
    H, W, _ = random_state(2)
    assert metrics(H, LABELS, W)["gnc2"] > 0.1  # no simplex of 5 classes in the plane
    with jax.enable_x64(True):
        polygon = np.exp(2j * np.pi * np.arange(5) / 5)
        points = np.stack([polygon.real, polygon.imag], 1)
        # Product of the chords from one of C roots of unity is C.
        want = -math.log(5) / 4 + math.log(2.5) / 2
        np.testing.assert_allclose(collapse.gnc2(points), want, rtol=1e-13)


def test_riesz_energy_of_another_power_and_near_power_0():
    W = random_state(9)[1]
    with jax.enable_x64(True):
        pairs = itertools.combinations(W / np.linalg.norm(W, axis=1)[:, None], 2)
        want = np.mean([np.linalg.norm(u - v) ** -3 for u, v in pairs]) * 2.5**1.5
        np.testing.assert_allclose(collapse.riesz_energy(W, 3), want, rtol=1e-13)
        np.testing.assert_allclose(np.log(collapse.riesz_energy(W, 1e-7)) / 1e-7, collapse.gnc2(W), rtol=1e-6)
        with pytest.raises(ValueError, match="power must be finite and above 0"):
            collapse.riesz_energy(W, 0)


def test_imbalanced_classes_reach_seli_and_not_a_simplex():
    """Features and prototypes whose logits are the labels less 1/C, with the least norms."""
    labels_less = np.array([np.eye(5)[y] - 1 / 5 for y in LABELS]).T
    U, S, Vt = np.linalg.svd(labels_less, full_matrices=False)
    S[4] = 0  # up to rounding, whose root is not small
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0][:5]
    H, W = 3 * (Vt.T * np.sqrt(S)) @ turn, 0.2 * (U * np.sqrt(S)) @ turn
    got = metrics(H + 7, LABELS, W, -7 * W.sum(1))  # features may have an offset
    for which in ("means", "prototypes"):
        np.testing.assert_allclose(got[f"seli_distance_{which}"], 0, atol=1e-14)
        assert got[f"etf_distance_{which}"] > 0.05
    assert got["nc1"] < 1e-25 and got["nc0"] < 1e-14 and got["accuracy"] == 1


def test_seli_is_the_simplex_for_balanced_classes():
    labels = np.repeat(np.arange(5), 3)
    H, W, _ = random_state(9, labels=labels)
    got = metrics(H, labels, W)
    for which in ("means", "prototypes"):
        np.testing.assert_allclose(got[f"seli_distance_{which}"], got[f"etf_distance_{which}"], rtol=1e-12)


def _polygon(classes):
    angles = 2 * np.pi * np.arange(classes) / classes
    return np.stack([np.cos(angles), np.sin(angles)], 1)


GEOMETRY = ("etf_distance", "gnc2", "riesz_energy", "minimal_angle")


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        *((name, _polygon(7)) for name in GEOMETRY),
        ("etf_distance", _simplex(7, 7) @ np.linalg.svd(_simplex(7, 7))[2][:4].T),
        ("minimal_angle", np.concatenate([np.eye(4), -np.eye(4)])),
        ("minimal_angle", np.array([[1.0], [-1.0], [2.0]])),
        ("riesz_energy", np.array([[1.0], [-1.0], [2.0]])),
        ("gnc2", np.array([[1.0], [-1.0], [2.0]])),
    ],
)
def test_ideal_values_where_no_simplex_fits_are_reached_and_not_passed(name, vectors):
    info = collapse.METRICS[name if name in collapse.METRICS else f"{name}_prototypes"]
    best = info.ideal(*vectors.shape)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        assert best != info.ideal(len(vectors))
        np.testing.assert_allclose(info.function(vectors), best, rtol=1e-7)
        near = [vectors + size * rng.normal(size=vectors.shape) for size in (0.01, 0.1, 1) for _ in range(3)]
        others = np.array([info.function(other) for other in near])
    assert np.all(others <= best if name == "minimal_angle" else others >= best)


def test_ideal_values_that_nobody_knows_are_none():
    for name, info in collapse.METRICS.items():
        unknown = name.startswith(("nc2_equiangularity", "seli", "gnc2", "riesz", "minimal"))
        assert math.isnan(info.ideal(20, 3)) == unknown, name
        assert info.ideal(4, 3) == info.ideal(4), name


def test_papers_of_metrics_are_in_the_references():
    for info in collapse.METRICS.values():
        fields = references.fields(info.key)
        first, year = info.reference.split()[0].strip(","), info.reference.split()[-1]
        assert fields["author"].startswith(f"{first}, ") and fields["year"] == year, info.name


def test_vmap_agrees_with_a_loop():
    states = [random_state(9, seed) for seed in range(3)]
    states[1][0][LABELS == 2] = states[1][0][LABELS == 1].mean(0) + 1e-9  # takes the other branch
    with jax.enable_x64(True):
        H, W, b = (jnp.stack([jnp.asarray(s[i]) for s in states]) for i in range(3))
        mapped = jax.vmap(_jitted, in_axes=(0, None, 0, 0))(H, jnp.asarray(LABELS), W, b)
    for k, state in enumerate(states):
        want = metrics(state[0], LABELS, *state[1:])
        assert_equal({name: value[k] for name, value in mapped.items()}, want, rtol=1e-11)


def test_float32_agrees_with_float64():
    H, W, b = (np.asarray(x, np.float32) for x in random_state(9))
    got = _jitted(*(jnp.asarray(x) for x in (H, LABELS.astype(np.int32), W, b)))
    assert all(value.dtype == jnp.float32 for value in got.values())
    assert_equal(got, metrics(*(H.astype(float), LABELS, W.astype(float), b)), 2e-5, 2e-6)


def test_class_statistics_survive_a_common_offset():
    """Integers on a lattice of 2^-20 around 2^30: every mean is exact, every square below 2^53."""
    rng = np.random.default_rng(6)
    lattice = rng.integers(-64, 64, size=(20, 4)) * 2.0**-20
    labels = rng.permutation(np.repeat(np.arange(5), 4))
    with jax.enable_x64(True):
        plain = collapse.class_statistics(lattice, labels, 5)
        moved = collapse.class_statistics(lattice + 2.0**30, labels, 5)
    means = np.array([lattice[labels == c].mean(0) for c in range(5)])
    np.testing.assert_array_equal(plain.means, means)
    np.testing.assert_array_equal(moved.means, means + 2.0**30)
    deviations = lattice - means[labels]
    squares = [np.mean(np.sum(deviations[labels == c] ** 2, 1)) for c in range(5)]
    for stats in (plain, moved):
        np.testing.assert_array_equal(stats.counts, [4] * 5)
        np.testing.assert_allclose(stats.variances, squares, rtol=1e-15)
        want = deviations @ (means - lattice.mean(0)).T
        np.testing.assert_allclose(stats.projections, want, rtol=1e-14, atol=1e-14 * np.abs(want).max())


def test_identical_rows_have_zero_variance():
    rows = np.random.default_rng(7).normal(size=(5, 9))
    stats = collapse.class_statistics(rows.astype(np.float32)[LABELS], LABELS, 5)
    assert np.all(np.array(stats.variances) == 0) and np.all(np.array(stats.projections) == 0)
    np.testing.assert_array_equal(stats.means, rows.astype(np.float32))


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _shapes(inner)


def test_no_array_of_samples_or_features_squared():
    n, p, C = 211, 97, 5
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, p), (C, p), (C,))]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)
    gradient = jax.make_jaxpr(jax.jacrev(lambda H, W, b, y: _evaluate(H, y, W, b)["nc1"]))
    forward = jax.make_jaxpr(lambda H, W, b, y: _evaluate(H, y, W, b))
    for traced in (forward(*arguments, labels), gradient(*arguments, labels)):
        shapes = set(_shapes(traced.jaxpr))
        assert (n, C) in shapes and (C, C) in shapes
        assert max(math.prod(shape) for shape in shapes) == n * p
        assert not any(shape.count(n) > 1 or shape.count(p) > 1 for shape in shapes)


@pytest.mark.parametrize(
    ("H", "labels", "classes", "error", "message"),
    [
        (np.ones(3), np.zeros(3, int), 2, ValueError, "Expected features"),
        (np.ones((3, 2)), np.zeros(4, int), 2, ValueError, "one label for each row"),
        (np.ones((3, 2)), np.zeros(3), 2, TypeError, "Labels must be integers"),
        (np.ones((3, 2)), np.array([0, 1, 2]), 2, ValueError, r"0\.\.1, got 0\.\.2"),
        (np.ones((3, 2)), np.array([0, 1, -1]), 2, ValueError, r"got -1\.\.1"),
        (np.ones((3, 2)), np.array([0, 1, 1]), 4, ValueError, "2 of 4 classes have no sample"),
        (np.ones((3, 2)), np.zeros(3, int), 1, ValueError, "at least 2 classes"),
    ],
)
def test_bad_features_and_labels(H, labels, classes, error, message):
    with pytest.raises(error, match=message):
        collapse.class_statistics(H, labels, classes)


def test_bad_prototypes_and_logits():
    stats = collapse.class_statistics(np.eye(3), np.arange(3), 3)
    with pytest.raises(ValueError, match=r"Prototypes have shape \(2, 3\)"):
        collapse.nc3_self_duality(stats, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"Logits have shape \(3, 2\)"):
        collapse.nc4(stats, np.ones((3, 2)))
    with pytest.raises(ValueError, match="C ≥ 2"):
        collapse.nc2_equinorm(np.ones(3))
    with pytest.raises(ValueError, match="Unknown reduction 'sum'"):
        collapse.gnc2(np.eye(3), "sum")


_OF_LABELS = ("accuracy", "margin_min", "margin_mean", "seli_distance_prototypes", "nc0")
"""Metrics that take from the statistics only labels, and how many classes there are."""


@pytest.mark.parametrize("what", ["W", "H", "logits"])
def test_what_is_not_known_makes_a_metric_unknown(what):
    """A NaN in features, prototypes or logits reaches every metric that looks at them, and no other."""
    H, W, _ = random_state(4)
    given = {"H": H, "W": W, "logits": H @ W.T}
    known = collapse.collapse_metrics(collapse.class_statistics(H, LABELS, 5), W, given["logits"])
    given[what] = given[what].copy()
    given[what][1, 2] = np.nan
    found = collapse.collapse_metrics(collapse.class_statistics(given["H"], LABELS, 5), given["W"], given["logits"])
    name = {"W": "W", "H": "stats", "logits": "logits"}[what]
    for metric, value in found.items():
        if name in collapse.METRICS[metric].takes and not (what == "H" and metric in _OF_LABELS):
            assert np.isnan(value), metric
        else:
            np.testing.assert_allclose(value, known[metric], rtol=1e-6, err_msg=metric)
