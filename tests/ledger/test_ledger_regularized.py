"""Ledger, Sections 3.2 and 3.3: Theorem 4, Corollary 5, Theorem 6."""

import numpy as np
import oracles
import paper_columns as columns
import pytest
from scipy.integrate import quad
from scipy.linalg import expm
from verdicts import corrected, holds

import unhinged_jax as uj

# sigma, lambda_1, lambda_2, zeta_1, zeta_2
SCALARS = [(1.0, 0.0, 0.0, 1.0, 1.0), (0.4, 0.3, 0.1, 2.0, 1.0), (-0.4, 0.1, 0.5, 1.0, 3.0), (0.7, 0.2, 0.2, 1.5, 1.5)]
# C, N, gamma, s with |sigma_2| < sigma_1
SETTINGS = [(4, 2, 0.2, 1.0), (4, 2, 0.5, 0.3), (3, 3, 1.2, 2.0), (2, 2, 3.0, 0.6)]


def block(sigma, l1, l2, z1, z2):
    """S of Eq. 63."""
    return np.array([[-l1 * z1, sigma * z1], [sigma * z2, -l2 * z2]])


def roots(sigma, l1, l2, z1, z2):
    """theta_1 and theta_2 of Eq. 66."""
    middle, spread = -(l1 * z1 + l2 * z2), ((l1 * z1 - l2 * z2) ** 2 + 4 * sigma**2 * z1 * z2) ** 0.5
    return (middle - spread) / 2, (middle + spread) / 2


def printed_a(sigma, l1, l2, z1, z2):
    low, high = roots(sigma, l1, l2, z1, z2)
    inner = (sigma * z1 - l1 * z1 - low) - (sigma * z1 - l1 * z1 - high) * np.exp(low - high)
    return np.exp(high) / (high - low) * inner


def b_of_eq_69(sigma, l1, l2, z1, z2, sign):
    """Printed with sign = +1; the sign of the second term is to be -1 and that of sigma zeta_2 in it +1."""
    low, high = roots(sigma, l1, l2, z1, z2)
    inner = (l1 * z1 + high + sigma * z2) + sign * (l1 * z1 + low - sign * sigma * z2) * np.exp(low - high)
    return np.exp(high) / (high - low) * inner


def test_eq_66_and_67():
    """Eigenvalues, and P and its inverse."""
    worst = 0.0
    for setting in SCALARS:
        sigma, l1, _, z1, _ = setting
        S, (low, high) = block(*setting), roots(*setting)
        P = np.array([[1, 1], [(l1 * z1 + low) / (sigma * z1), (l1 * z1 + high) / (sigma * z1)]])
        inverse = sigma * z1 / (high - low) * np.array([[P[1, 1], -1], [-P[1, 0], 1]])
        worst = max(worst, columns.relative(P @ np.diag([low, high]) @ inverse, S))
        worst = max(worst, columns.relative(P @ inverse, np.eye(2)))
    holds("eq-66-and-67", worst, within=1e-13)


def test_eq_68():
    printed_off, right_off = [], 0.0
    for setting in SCALARS[1:]:
        sigma, l1, _, z1, z2 = setting
        low, high = roots(*setting)
        top = [
            (l1 * z1 + high) * np.exp(low) - (l1 * z1 + low) * np.exp(high),
            sigma * z1 * (np.exp(high) - np.exp(low)),
        ]
        first = (l1 * z1 + high) * np.exp(high) - (l1 * z1 + low) * np.exp(low)
        second = sigma * z2 * (np.exp(high) - np.exp(low))
        truth = expm(block(*setting))
        printed_off.append(columns.relative(np.array([top, [first, second]]) / (high - low), truth))
        right_off = max(right_off, columns.relative(np.array([top, [second, first]]) / (high - low), truth))
    corrected("eq-68", printed=min(printed_off), off=0.15, right=right_off, within=1e-13)


def test_eq_69_a():
    worst = max(abs(printed_a(*setting) / (expm(block(*setting)) @ [1, 1])[0] - 1) for setting in SCALARS)
    holds("eq-69-a", worst, within=1e-13)


def test_eq_69_b():
    """At sigma = zeta = 1 without decay: 2 sinh 1 instead of e."""
    assert b_of_eq_69(*SCALARS[0], sign=1) == pytest.approx(2 * np.sinh(1), rel=1e-14)
    printed, right = (
        [abs(b_of_eq_69(*setting, sign=sign) / (expm(block(*setting)) @ [1, 1])[1] - 1) for setting in SCALARS]
        for sign in (1, -1)
    )
    corrected("eq-69-b", printed=min(printed), off=0.1, right=max(right), within=1e-13)


def omegas(sigma, decay1, decay2, s):
    """omega_1 and omega_2 under Eq. 74, for two decays: exponents per unit of zeta_2."""
    spread = ((s * decay1 - decay2) ** 2 + 4 * s * sigma**2) ** 0.5
    return (-(s * decay1 + decay2) - spread) / 2, (-(s * decay1 + decay2) + spread) / 2


def test_eq_75():
    """b(t) with omega for theta: the same sign as in Eq. 69."""
    printed, right = [], []
    for sigma, decay, s, zeta in ((0.4, 0.3, 2.0, 1.0), (0.4, 0.1, 0.5, 2.0), (-0.3, 0.2, 1.5, 1.0)):
        low, high = omegas(sigma, decay, decay, s)
        truth = (expm(block(sigma, decay, decay, s * zeta, zeta)) @ [1, 1])[1]
        for errors, sign in ((printed, 1), (right, -1)):
            second = sign * (s * decay + low - sign * sigma) * np.exp((low - high) * zeta)
            value = np.exp(high * zeta) / (high - low) * (s * decay + high + sigma + second)
            errors.append(abs(value / truth - 1))
    corrected("eq-75", printed=min(printed), off=0.1, right=max(right), within=1e-13)


def test_theorem_4():
    """Eq. 13 with the scalars of Eq. 71, against the exponential of the whole matrix and the package."""
    worst = 0.0
    for seed, (C, N, gamma, s) in enumerate(SETTINGS):
        H, W = columns.start(3, C, N, seed)
        l1, l2, zeta = 0.1, 0.25, 3.0
        parts, sigma = columns.projections(H, W), columns.sigmas(C, N, gamma)
        out = np.zeros((3, C * (N + 1)))
        for key, part in parts.items():
            k, sign = key if isinstance(key, tuple) else (3, 0)
            value = sign * sigma[k - 1] if k < 3 else 0.0
            a, b = expm(block(value, l1, l2, s * zeta, zeta)) @ [1, 1]
            out += columns.joined(part) * np.concatenate([np.full(C * N, a), np.full(C, b)])
        truth = columns.flow(columns.signal(C, N, gamma), H, W, s * zeta, zeta, l1, l2)
        worst = max(worst, columns.relative(out, truth))
    run = uj.exact(
        uj.regularized(uj.balanced(C, N), 3, gamma=gamma, decay=(l1, l2)),
        uj.Flow(rate_H=s),
        uj.State(H.T, W.T, np.zeros(C)),
        [zeta],
        "norm",
        precision="float64",
    )
    worst = max(worst, columns.relative((run.final.H.T, run.final.W.T), truth))
    holds("theorem-4", worst, within=1e-12)


def test_theorem_4_bias():
    """psi integrates eta_2, not zeta_2: at eta_2 = 1, lambda_2 = 0, t = 1 the printed one is 1/2, the right one 1."""
    C, N, gamma, decay, t = 4, 2, 0.1, 0.3, 5.0
    drift, b = (1 + gamma - gamma * C) / C, np.array([0.3, -0.5, 1.0, 0.2])
    rows = oracles.one_hot(np.repeat(np.arange(C), N), C)
    truth = oracles.flow_bias(oracles.signal_matrix(np.full(C * N, 1 / (C * N)), rows, gamma), b, decay, 1.0, t)

    def solved(integrand):
        return np.exp(-decay * t) * (b + drift * quad(integrand, 0, t, epsabs=1e-13)[0])

    assert quad(lambda u: u, 0, 1)[0] == pytest.approx(0.5) and quad(lambda u: 1.0, 0, 1)[0] == 1
    printed = columns.relative(solved(lambda u: u * np.exp(decay * u)), truth)
    right = columns.relative(solved(lambda u: np.exp(decay * u)), truth)
    model = uj.regularized(uj.balanced(C, N), 3, gamma=gamma, decay=decay, bias=True)
    H, W = columns.start(3, C, N, 0)
    run = uj.exact(model, uj.Flow(), uj.State(H.T, W.T, b), [t], "norm_b", precision="float64")
    right = max(right, columns.relative(run.final.b, truth))
    corrected("theorem-4-bias", printed=printed, off=0.5, right=right, within=1e-12)


def test_eq_57():
    """The commutator of two times for rates that are not proportional: the lower left entry."""
    C, N, l1, l2 = 3, 2, 0.3, 0.7
    M = columns.signal(C, N, 0.4)
    rates = ((1.0, 2.0), (0.5, 3.0))  # (eta_1, eta_2) at two times

    def A(e1, e2):
        return np.block([[-l1 * e1 * np.eye(C * N), e2 * M.T], [e1 * M, -l2 * e2 * np.eye(C)]])

    (e1, e2), (f1, f2) = rates
    entry = (A(e1, e2) @ A(f1, f2) - A(f1, f2) @ A(e1, e2))[C * N :, : C * N]
    printed, right = l2 * (f2 * f1 - e2 * f1) * M, l2 * (f2 * e1 - e2 * f1) * M
    # With proportional rates the commutator vanishes, as the proof needs it to; the printed entry does not.
    assert np.max(np.abs(A(1.0, 1.0) @ A(2.0, 2.0) - A(2.0, 2.0) @ A(1.0, 1.0))) < 1e-15 and 2 * 2 - 1 * 2 != 0
    corrected(
        "eq-57", printed=columns.relative(printed, entry), off=0.5, right=columns.relative(right, entry), within=1e-14
    )


def case_of(decay, C, N, gamma, s, decay2=None, seed=0):
    H, W = columns.start(3, C, N, seed)
    return columns.Modes(columns.signal(C, N, gamma), H, W, s, decay, decay if decay2 is None else decay2), H, W


def test_corollary_5():
    """The three cases of the decay, and the limit at the critical one."""
    worst = 0.0
    for seed, (C, N, gamma, s) in enumerate(SETTINGS):
        critical = columns.sigmas(C, N, gamma)[0]
        for factor, sign in ((0.8, 1), (1.0, 0), (1.2, -1)):
            modes, H, W = case_of(factor * critical, C, N, gamma, s, seed=seed)
            assert (0 if abs(modes.growth) < 1e-12 else np.sign(modes.growth)) == sign
            if sign == 0:
                parts = columns.projections(H, W)
                (Hp, Wp), (Hm, Wm) = parts[1, 1], parts[1, -1]
                printed = Hp + (1 - s) / (1 + s) * Hm, Wp - (1 - s) / (1 + s) * Wm
                worst = max(worst, columns.relative(printed, modes.limit))
    # Different decays: the threshold is lambda_1 lambda_2 = sigma_1^2, whatever s.
    for ratio, s in ((4.0, 0.3), (0.25, 3.0)):
        for factor, sign in ((0.99, 1), (1.01, -1)):
            modes, *_ = case_of(factor * critical * ratio, C, N, gamma, s, decay2=factor * critical / ratio)
            assert np.sign(modes.growth) == sign
    holds("corollary-5", worst, within=1e-12)


def test_eq_79():
    """The constants pi of the limit direction."""
    worst = 0.0
    for seed, (C, N, gamma, s) in enumerate(SETTINGS):
        sigma = columns.sigmas(C, N, gamma)[0]
        for decay in (0.05, 0.5):
            low, high = omegas(sigma, decay, decay, s)
            modes, H, W = case_of(decay, C, N, gamma, s, seed=seed)
            parts = columns.projections(H, W)
            gap = high - low
            H_limit = sum((sign * s * sigma - s * decay - low) / gap * parts[1, sign][0] for sign in (1, -1))
            W_limit = sum((s * decay + high + sign * sigma) / gap * parts[1, sign][1] for sign in (1, -1))
            worst = max(worst, columns.relative((H_limit, W_limit), modes.limit))
    found = uj.limit(
        uj.regularized(uj.balanced(C, N), 3, gamma=gamma, decay=decay),
        uj.Flow(rate_H=s),
        uj.State(H.T, W.T, np.zeros(C)),
        precision="float64",
    )
    direction = (found.direction.H.T, found.direction.W.T)
    worst = max(worst, columns.relative(direction, columns.unit(np.hstack([H_limit, W_limit]))))
    holds("eq-79", worst, within=1e-12)


def test_corollary_5_signs():
    """Proof, p. 35: omega_2 > 0 for lambda > lambda*. The eigenvalues say the opposite."""
    printed, right = [], []
    for C, N, gamma, s in SETTINGS:
        critical = columns.sigmas(C, N, gamma)[0]
        for factor in (0.5, 0.9, 1.1, 2.0):
            growth = case_of(factor * critical, C, N, gamma, s)[0].growth
            assert growth == pytest.approx(omegas(critical, factor * critical, factor * critical, s)[1], abs=1e-12)
            printed.append(np.sign(growth) != np.sign(factor - 1))
            right.append(np.sign(growth) != np.sign(1 - factor))
    corrected("corollary-5-signs", printed=float(np.mean(printed)), off=1.0, right=float(np.mean(right)), within=0)


def test_corollary_5_rate():
    """The exponent after Eq. 79 and 80, divided by C sqrt(N) as printed, and without."""
    printed, right = [], []
    for seed, (C, N, gamma, s) in enumerate(SETTINGS):
        for decay in (0.05, 0.3):
            sigma1, sigma2 = columns.sigmas(C, N, gamma)
            gap = omegas(sigma1, decay, decay, s)[1] - omegas(abs(sigma2), decay, decay, s)[1]
            measured = case_of(decay, C, N, gamma, s, seed=seed)[0].rate()
            printed.append(1 - gap / (C * N**0.5) / measured)
            right.append(abs(gap / measured - 1))
    corrected("corollary-5-rate", printed=min(printed), off=0.6, right=max(right), within=1e-6)


def test_eq_73():
    """The second denominator holds H; without it being W the limit has no unit norm."""
    C, N, gamma, s, decay = 4, 2, 0.2, 0.3, 0.05
    sigma = columns.sigmas(C, N, gamma)[0]
    low, high = omegas(sigma, decay, decay, s)
    modes, H, W = case_of(decay, C, N, gamma, s)
    (Hp, Wp), (Hm, Wm) = (columns.projections(H, W)[1, sign] for sign in (1, -1))
    plus, minus = ((s * decay + high + sign * sigma) / (high - low) for sign in (1, -1))
    top = plus * Wp + minus * Wm
    limit = columns.unit(modes.limit[:, C * N :])
    printed = np.linalg.norm(limit - top / np.linalg.norm(plus * Hp + minus * Hm))
    corrected("eq-73", printed=printed, off=0.1, right=columns.relative(columns.unit(top), limit), within=1e-12)


def test_self_duality():
    """p. 11: pi_h+/pi_w+ = -pi_h-/pi_w- and hence self-duality, "for example when lambda = lambda*": at every decay."""
    off = []
    for C, N, gamma, s in SETTINGS:
        sigma = columns.sigmas(C, N, gamma)[0]
        for decay in (0.0, 0.3 * sigma, sigma, 4 * sigma):
            low, high = omegas(sigma, decay, decay, s)
            h = [(sign * s * sigma - s * decay - low) for sign in (1, -1)]
            w = [(s * decay + high + sign * sigma) for sign in (1, -1)]
            off.append(abs(h[0] * w[1] + h[1] * w[0]) / abs(h[0] * w[0]))  # without the quotients, which may be 0/0
            modes, *_ = case_of(decay, C, N, gamma, s)
            means = modes.limit[:, : C * N].reshape(3, C, N).mean(axis=2)
            off.append(np.linalg.norm(columns.unit(means) - columns.unit(modes.limit[:, C * N :])))
    holds("self-duality", max(off), within=1e-12)


def test_theorem_6():
    """Solution, and that the distance to (1/lambda) W M is exactly e^(-lambda zeta) times its first value."""
    C, N, gamma, decay, zeta = 4, 2, 0.2, 0.3, 7.0
    H, W = columns.start(3, C, N, 0)
    M = columns.signal(C, N, gamma)
    printed = np.exp(-decay * zeta) * H + (1 - np.exp(-decay * zeta)) / decay * W @ M
    truth, _ = columns.flow(M, H, W, zeta, 0.0, decay, 0.0)
    away, first = (np.linalg.norm(X - W @ M / decay) for X in (truth, H))
    worst = max(columns.relative(printed, truth), abs(away / first / np.exp(-decay * zeta) - 1))
    one = (W[:, 0] - gamma * (W.sum(axis=1) - W[:, 0])) / (decay * C * N)  # the class that the text names
    worst = max(worst, columns.relative(one, (W @ M / decay)[:, 0]))
    run = uj.exact(
        uj.anchored(uj.balanced(C, N), 3, gamma=gamma, decay=decay),
        uj.Flow(),
        uj.State(H.T, W.T, np.zeros(C)),
        [zeta],
        "norm",
        precision="float64",
    )
    worst = max(worst, columns.relative(run.final.H.T, truth))
    free = columns.flow(M, H, W, zeta, 0.0)[0]
    worst = max(worst, columns.relative(H + zeta * W @ M, free))
    holds("theorem-6", worst, within=1e-12)


def test_feature_decay_speeds_up():
    """Section 4.2: the direction of H reaches that of WM the sooner the larger the decay. The tangent of the angle
    between them is |H0 across| over <H0, direction> + |WM| (e^(lambda zeta) - 1)/lambda."""
    C, N, gamma, zeta = 4, 2, 0.2, 200.0
    H, W = columns.start(3, C, N, 0)
    M = columns.signal(C, N, gamma)
    size, target = np.linalg.norm(W @ M), columns.unit(W @ M)
    along = np.sum(H * target)
    across, worst, previous = np.linalg.norm(H - along * target), 0.0, np.inf
    for decay in (0.0, 0.01, 0.03, 0.1):
        error = np.linalg.norm(columns.unit(columns.flow(M, H, W, zeta, 0.0, decay, 0.0)[0]) - target)
        gain = np.expm1(decay * zeta) / decay if decay else zeta
        worst = max(worst, abs(error / (2 * np.sin(np.arctan2(across, along + size * gain) / 2)) - 1))
        worst = max(worst, error - previous)  # positive if more decay were slower
        previous = error
    holds("feature-decay-speeds-up", worst, within=1e-7)
