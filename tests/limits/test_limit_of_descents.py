"""`limit` of descents with any step, with momentum too, against the eigenvectors of their update and against loops."""

import jax
import numpy as np
import oracles
import pytest

import unhinged_jax as uj

C, P, N = 3, 2, 5
LABELS = uj.from_counts([2, 2, 1])
RNG = np.random.default_rng(5)
START = uj.State(RNG.normal(size=(N, P)), RNG.normal(size=(C, P)), np.zeros(C))
A = RNG.normal(size=(N, N))
KERNEL = A @ A.T / N
MODELS = {
    "unconstrained": uj.unconstrained(LABELS, P, gamma=0.3),
    "regularized": uj.regularized(LABELS, P, gamma=0.3, decay=(0.6, 0.9)),
    "weakly regularized": uj.regularized(LABELS, P, gamma=0.3, decay=0.02),
    "kernel": uj.ntk_invariant(LABELS, P, KERNEL, gamma=0.3),
    "anchored": uj.anchored(LABELS, P, gamma=0.3, decay=0.2),
    "frozen": uj.frozen(LABELS, P, gamma=0.3, decay=0.3),
}
HOW = {
    "plain": {}, "heavy .5": {"momentum": 0.5}, "heavy .9": {"momentum": 0.9},
    "Nesterov .5": {"momentum": 0.5, "nesterov": True}, "Nesterov .9": {"momentum": 0.9, "nesterov": True},
}  # fmt: skip
FACTORS = (1e-3, 0.1, 0.47, 0.97, 1.1, 2.0, 3.7, 30.0, 1e3)
"""Of the largest step at which plain descent does not throw its fastest part back farther than it was."""
RATES = (0.7, 1.8)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def generator(name):
    """Z' = A Z of (H, W) as one column, the parts that stay included."""
    model = MODELS[name]
    M = oracles.signal_matrix(np.full(N, 1 / N), oracles.one_hot(LABELS.index, C), 0.3)
    A = np.zeros((N + C, N + C))
    if model.features_move:
        A[:N, N:] = RATES[0] * (KERNEL @ M if name == "kernel" else M)
        A[:N, :N] = -RATES[0] * model.decay_H * np.eye(N)
    if model.prototypes_move:
        A[N:, :N], A[N:, N:] = RATES[1] * M.T, -RATES[1] * model.decay_W * np.eye(C)
    return A


def update_matrix(A, eta, momentum=0.0, nesterov=False):
    """(Z, V) -> the next: V <- A Z + beta V, Z <- Z + eta V, or Z + eta (A Z + beta V) for Nesterov."""
    one, none = np.eye(len(A)), np.zeros_like(A)
    velocity = np.hstack([A, momentum * one])
    step = np.hstack([A, none]) + momentum * velocity if nesterov else velocity
    return np.vstack([np.hstack([one, none]) + eta * step, velocity])


def loop(name, eta, how, updates):
    """H and W after each update, divided by a common factor, and the logarithm of that."""
    A, beta = generator(name), how.get("momentum", 0.0)
    Z, V, log, path = np.concatenate([START.H, START.W]), np.zeros((N + C, P)), 0.0, []
    for _ in range(updates):
        force = A @ Z
        V = force + beta * V
        Z = Z + eta * (force + beta * V if how.get("nesterov") else V)
        size = np.linalg.norm(Z)
        Z, V, log = Z / size, V / size, log + np.log(size)
        path.append((Z, log))
    return path


def eigen(name, eta, how):
    """Exponent, angle, rate and direction (but for its sign) from all eigenvectors of the update."""
    values, vectors = np.linalg.eig(update_matrix(generator(name), eta, **how))
    parts = np.linalg.solve(vectors, np.concatenate([START.H, START.W, np.zeros((N + C, P))]))
    logs = np.log(np.abs(values) + 1e-300)
    present = np.max(np.abs(parts), axis=1) > 1e-9
    top = present & (logs > np.max(logs[present]) - 1e-9)
    where = vectors[: N + C]
    basis = np.linalg.svd(where[:, top], full_matrices=False)
    basis = basis[0][:, basis[1] > 1e-6 * basis[1][0]]
    beside = np.linalg.norm(where - basis @ (basis.conj().T @ where), axis=0) > 1e-7 * np.linalg.norm(where, axis=0)
    rivals = present & ~top & beside
    one = where[:, top] @ parts[top] if np.all(values[top].imag == 0) else where[:, top][:, :1] @ parts[top][:1]
    place = np.unravel_index(np.argmax(np.abs(one)), one.shape)
    one = one * np.abs(one[place]) / one[place] if np.any(np.abs(one.imag) > 1e-12) else one
    angles = np.abs(np.angle(values[top]))
    rate = np.max(logs[top]) - np.max(logs[rivals]) if np.any(rivals) else np.inf
    return np.max(logs[top]), angles, rate, one.real / np.linalg.norm(one)


CASES = [(name, how) for name in ("unconstrained", "regularized", "weakly regularized", "kernel") for how in HOW]
QUICK = [("regularized", "Nesterov .9"), ("unconstrained", "plain")]


@pytest.mark.parametrize(
    ("name", "how"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.long) for case in CASES]
)
def test_the_winner_is_the_eigenvalue_of_largest_modulus_of_the_update(name, how):
    model, A = MODELS[name], generator(name)
    stable = 2 / -np.min(np.linalg.eigvals(A).real)
    for factor in FACTORS:
        eta = float(factor * stable)
        found = uj.limit(model, uj.Descent(eta, *RATES, **HOW[how]), START)
        exponent, angles, rate, direction = eigen(name, eta, HOW[how])
        assert float(found.exponent) == pytest.approx(exponent, rel=1e-9, abs=1e-12), factor
        assert found.side == ("grows" if exponent > 0 else "shrinks"), factor
        if np.ptp(angles) > 1e-6:  # pairs of equal modulus: none of them leads
            assert float(found.rate) == pytest.approx(0, abs=1e-12)
            continue
        assert float(found.angle) == pytest.approx(angles[0], abs=1e-7), factor
        assert ("its sign changes with every update" in repr(found)) == (angles[0] == np.pi)
        assert ("oscillates" in repr(found)) == (0 < angles[0] < np.pi)
        assert float(found.rate) == pytest.approx(rate, rel=1e-8, abs=1e-12), factor
        seen = np.concatenate([found.direction.H, found.direction.W])
        if 0 < angles[0] < np.pi:
            seen = seen * np.sign(np.sum(seen * direction))
        np.testing.assert_allclose(seen, direction, atol=1e-8)
        if rate > 0.03:
            (_, first), (last, second) = (loop(name, eta, HOW[how], 1402)[k] for k in (1399, 1401))
            if angles[0] in (0, np.pi):
                assert float(found.exponent) == pytest.approx((second - first) / 2, rel=1e-9, abs=1e-12)
                np.testing.assert_allclose(np.concatenate([found.direction.H, found.direction.W]), last, atol=1e-9)


def test_a_long_exact_run_grows_as_its_limit_says():
    model, descent = MODELS["regularized"], uj.Descent(1.5, momentum=0.9, nesterov=True)
    found = uj.limit(model, descent, START)
    logs = np.asarray(uj.exact(model, descent, START, [2000, 3000], "log_norm")["log_norm"])
    assert float(found.exponent) == pytest.approx((logs[1] - logs[0]) / 1000, rel=1e-6)
    assert found.side == ("grows" if logs[1] > logs[0] else "shrinks")


@pytest.mark.parametrize("how", ["plain", pytest.param("heavy .9", marks=pytest.mark.long),
                                 pytest.param("Nesterov .9", marks=pytest.mark.long)])  # fmt: skip
@pytest.mark.parametrize("name", ["anchored", "frozen"])
def test_a_part_pulled_along_a_line_is_thrown_back_by_large_steps(name, how):
    model = MODELS[name]
    a = RATES[0] * model.decay_H if name == "anchored" else RATES[1] * model.decay_W
    part = slice(0, N) if name == "anchored" else slice(N, N + C)
    for factor in FACTORS:
        eta = 2 / a * factor
        found = uj.limit(model, uj.Descent(eta, *RATES, **HOW[how]), START)
        seen = np.concatenate([found.direction.H, found.direction.W])[part]
        assert np.linalg.norm(seen) == pytest.approx(1, rel=1e-12)
        single = update_matrix(np.array([[-a]]), eta, **HOW[how])
        modulus = np.max(np.abs(np.linalg.eigvals(single)))
        assert float(found.rate) == pytest.approx(abs(np.log(modulus)), rel=1e-9), factor
        assert float(found.exponent) == pytest.approx(max(np.log(modulus), 0), rel=1e-9, abs=1e-15)
        assert found.side == ("converges" if modulus < 1 else "grows")
        if factor < 0.1 or (factor < 2 and how != "plain"):
            continue
        A, beta = generator(name), HOW[how].get("momentum", 0.0)
        Z, V = np.concatenate([START.H, START.W]), 0.0
        for _ in range(2 * round(min(150, 8 / abs(np.log(modulus)) + 6))):
            force = A @ Z
            V = force + beta * V
            Z = Z + eta * (force + beta * V if HOW[how].get("nesterov") else V)
        np.testing.assert_allclose(seen, Z[part] / np.linalg.norm(Z[part]), atol=1e-4)


def test_a_step_of_twice_the_inverse_decay_goes_to_and_fro_for_ever():
    found = uj.limit(MODELS["anchored"], uj.Descent(10.0), START)
    assert float(found.rate) == 0 and float(found.exponent) == 0 and found.side == "oscillates"


def test_biases_that_are_thrown_back_run_away():
    model = uj.regularized(LABELS, P, gamma=0.3, decay=0.5, bias=True)
    drift = np.asarray(model.signal().dense("float64")).sum(axis=0)
    for eta, want in ((0.5, drift / 0.5), (10.0, np.inf * np.sign(0.0 - drift))):
        np.testing.assert_allclose(uj.limit(model, uj.Descent(eta), START).direction.b, want, rtol=1e-12)


@pytest.mark.long_for("0.5-True")
@pytest.mark.parametrize(("eta", "falls"), [(0.5, True), (12.0, False)])
def test_distances_are_those_from_the_limit_of_the_flow_whatever_the_steps(eta, falls):
    """A loop of plain updates beside the direction of mu_+ by NumPy: of the largest eigenvalue, not of the factor."""
    model, descent = uj.regularized(LABELS, P, gamma=0.3, decay=(0.6, 0.9)), uj.Descent(eta)
    q, Y = np.asarray(LABELS.weights)[:, None], np.eye(LABELS.classes)[np.asarray(LABELS.index)]
    M = q * (1.3 * Y - 0.3)
    n = len(M)
    K = np.block([[-0.6 * np.eye(n), M], [M.T, -0.9 * np.eye(LABELS.classes)]])
    values, vectors = np.linalg.eigh(K)
    top = vectors[:, values > values[-1] - 1e-9]
    Z = np.concatenate([START.H, START.W])
    lead = top @ (top.T @ Z)
    want = []
    for _ in range(41):
        want.append(np.log(np.linalg.norm(Z / np.linalg.norm(Z) - lead / np.linalg.norm(lead))))
        Z = Z + eta * K @ Z
    for solve in (uj.exact, uj.simulate):
        found = solve(model, descent, START, [0, 20, 40], "log_distance")["log_distance"]
        np.testing.assert_allclose(found, [want[0], want[20], want[40]], atol=1e-9)
    factor = float(np.exp(uj.limit(model, descent, START).exponent))
    assert factor == pytest.approx(np.max(np.abs(1 + eta * values)), rel=1e-9)
    assert (want[40] < want[20] - 0.5) == falls == (factor == pytest.approx(abs(1 + eta * values[-1]), rel=1e-9))
