"""Random problems against an oracle written apart: plain NumPy in long double, matrix exponentials, SciPy's DOP853.

    python tests/scripts/random_problems.py [--structures 56] [--draws 8] [--jobs N] [--only I [J]]

What is static – case, loss, kind of labels, shapes, number types, updates – is drawn once a structure, and numbers anew
for every problem, since numbers do not compile. Prints the worst difference of every family in units of its bound, and
every miss with the numbers that draw it again. Exit status 1 if there is one. Structures 40 to 47 are squared error
from balanced starts, whose closed form is compared up to a rotation of the feature space; in those from 48 on two
samples are held out.

Bounds are those of the arithmetic: 1e-9 relative for closed forms and descents in float64, 1e-6 for flows solved at
rtol 1e-10, 2e-4 and 5e-3 (at rtol 1e-5) in float32. The loss is compared in units of the sum of its absolute terms.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import unhinged_jax as uj

Long = np.longdouble
BOUNDS = {("float64", False): 1e-9, ("float64", True): 1e-6, ("float32", False): 2e-4, ("float32", True): 5e-3}
"""By precision, and whether a solver chooses the steps."""
RTOL = {"float64": 1e-10, "float32": 1e-5}
OBSERVED = ("log_norm_H", "log_norm_W", "log_abs_loss", "loss_sign", "accuracy")

# --- what is drawn --------------------------------------------------------------------------------------------------

LABELS = ("balanced", "counts", "sample weights", "class weights", "expected noise", "drawn noise", "smoothed", "soft")
UNWEIGHTED, BALANCED = ("balanced", "counts", "expected noise", "drawn noise", "smoothed", "soft"), 40
"""Labels of squared error from balanced starts, and the first structure of them."""
HELD_OUT, TESTED = 48, ("test_loss_sign", "test_log_abs_loss", "test_accuracy")
"""The first structure with samples held out, and what is observed of these."""
LINEAR = ("unconstrained", "regularized", "anchored", "frozen", "kernel", "factor", "coordinates")
ANY_LOSS = ("unconstrained", "regularized", "anchored", "frozen", "free sphere")
SCHEDULES = ("constant", "cosine", "piecewise", "exponential")
NUMBERS: dict[str, Callable[[float], Any]] = {
    "Python": float, "NumPy float64": np.float64, "NumPy float32": np.float32,
    "JAX float32": lambda x: jnp.asarray(x, "float32"), "NumPy 0-d": lambda x: np.asarray(x, "float64"),
}  # fmt: skip
INDICES: dict[str, Callable[[np.ndarray], Any]] = {
    "int64": lambda index: index, "uint8": lambda index: index.astype("uint8"), "list": lambda index: index.tolist(),
    "int32, big-endian": lambda index: index.astype(">i4"), "JAX": jnp.asarray,
}  # fmt: skip
STATES: dict[str, Callable[[np.ndarray], Any]] = {
    "C order": np.ascontiguousarray, "Fortran's order": np.asfortranarray, "big-endian": lambda x: x.astype(">f8"),
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Structure:
    """What is static in a problem."""

    case: str
    loss: str
    labels: str
    kind: str
    schedule: str
    precision: str
    bias: bool
    own: bool
    """Whether the biases have a decay and a rate of their own."""
    lanes: int
    number: str
    index: str
    written: str
    counts: tuple[int, ...]
    dim: int
    dense: bool
    cut: bool
    exact_first: bool
    updates: tuple[int, ...]
    """At which a descent is looked at: a program is compiled for a number of updates."""
    held_out: bool = False
    """Whether a sample of each of the first two classes is held out."""

    @property
    def flow(self) -> bool:
        return self.kind == "flow"

    @property
    def linear(self) -> bool:
        return self.loss == "unhinged" and "sphere" not in self.case

    @property
    def closed(self) -> bool:
        """Whether `exact` takes it."""
        if self.case == "balanced start":
            return True
        momentum_on_sphere = self.case == "sphere" and self.kind in ("momentum", "Nesterov")
        return self.loss == "unhinged" and self.case != "free sphere" and not momentum_on_sphere

    @property
    def family(self) -> str:
        return f"{self.case}, {self.loss}, {self.kind}"


def structure(number: int) -> Structure:
    """Structure i: every case and kind of labels in turn, all else drawn."""
    if number >= HELD_OUT:  # most of them with a kernel, through which samples held out move
        kind = structure((6, 7, 9, 19, 30, 37, 34, 20)[number % 8])
        labels = "counts" if kind.labels == "drawn noise" else kind.labels  # a class would have none left
        counts = tuple(n + 1 for n in kind.counts)
        return dataclasses.replace(kind, labels=labels, counts=counts, held_out=True)
    rng = np.random.default_rng([18, number])

    def pick(names: Any) -> Any:
        return list(names)[rng.integers(len(list(names)))]

    if number >= BALANCED:
        return _balanced_structure(number, rng)
    linear = number % 3 != 2
    case = (*LINEAR, "sphere")[(number - number // 3) % 8] if linear else ANY_LOSS[number // 3 % 5]
    kind = ("flow", "descent", "momentum", "Nesterov", "flow", "descent")[rng.integers(6)]
    layout = LABELS[number % 8]
    classes = int(rng.integers(2, 5))
    counts = (2,) * classes if layout == "balanced" else tuple(int(n) for n in rng.integers(1, 5, classes))
    single = rng.random() < 0.2
    own = rng.spawn(1)[0].random() < 0.5
    return Structure(
        case=case, loss="unhinged" if linear else pick(("cross_entropy", "mse")), labels=layout, kind=kind,
        schedule=pick(SCHEDULES), precision="float32" if single else "float64",
        bias=case not in ("anchored", "sphere", "free sphere") and rng.random() < 0.5, own=own,
        lanes=3 if rng.random() < 0.25 else 0, number=pick(NUMBERS), index=pick(INDICES),
        written="C order" if single else pick(STATES), counts=counts, dim=int(rng.integers(2, 6)),
        dense=rng.random() < 0.3, cut=rng.random() < 0.5, exact_first=rng.random() < 0.3,
        updates=tuple(int(k) for k in np.sort(rng.choice(np.arange(1, rng.integers(12, 60)), 4, replace=False))),
    )  # fmt: skip


def _balanced_structure(number: int, rng: np.random.Generator) -> Structure:
    """Squared error: more and fewer dimensions than classes and samples, in turn."""
    classes = int(rng.integers(2, 5))
    layout = UNWEIGHTED[number % 6]
    counts = (2,) * classes if layout == "balanced" else tuple(int(n) for n in rng.integers(1, 5, classes))
    return Structure(
        case="balanced start", loss="mse", labels=layout, kind="flow", schedule=SCHEDULES[number % 4],
        precision="float32" if number % 8 == 7 else "float64", bias=False, own=False, lanes=3 if number % 4 == 1 else 0,
        number="Python", index="int64", written="C order", counts=counts, dim=(2, 3, 5, 9)[number % 4], dense=False,
        cut=rng.random() < 0.3, exact_first=rng.random() < 0.5, updates=(1, 2, 3, 4),
    )  # fmt: skip


def _balanced_start(n: int, C: int, p: int, rates: tuple[float, ...], rich: bool, rng: np.random.Generator) -> Any:
    """H and W with r_2 H^T H - r_1 W^T W = kappa I, where kappa is 0 if `rich`, and above or below 0 if it can be."""
    signs = [sign for sign, rows in ((1, n), (-1, C)) if rows >= p]
    sign = 0 if rich or not signs else int(rng.choice(signs))
    first = sign > 0 or (sign == 0 and n >= min(C, p))
    V = rng.normal(size=(C if first else n, p))
    rows = n if first else C
    values, vectors = np.linalg.eigh(V.T @ V + abs(sign) * rng.uniform(0.1, 2) * np.eye(p))
    keep = slice(p - min(rows, p, p if sign else len(V)), p)
    axes = np.linalg.qr(rng.normal(size=(rows, len(values[keep]))))[0]
    X = axes @ (np.sqrt(np.maximum(values[keep], 0))[:, None] * vectors.T[keep])
    by = (rates[0] / rates[1]) ** 0.25
    return (by * X, V / by) if first else (by * V, X / by)


@dataclasses.dataclass
class Problem:
    """The numbers of one problem, as float64 and long double see them, and the same as the library is given them."""

    model: Any
    dynamics: Any
    M: Callable[[Any], Any]
    loss: Callable[[Any], tuple[Any, Any]]
    truth: np.ndarray
    starts: list[tuple[Any, Any, Any]]
    log_scale: float
    times: np.ndarray
    rate: Callable[[int], float]
    zeta: Callable[[float], float]
    rates: tuple[float, float, float]
    decay: tuple[float, float, float]
    momentum: float
    theta: np.ndarray | None
    trained: np.ndarray
    tested: np.ndarray
    test_loss: Callable[[Any], tuple[Any, Any]]


def problem(kind: Structure, rng: np.random.Generator) -> Problem:
    n, C, p = sum(kind.counts), len(kind.counts), kind.dim
    number = NUMBERS[kind.number]

    def drawn(low: float, high: float, rng: np.random.Generator = rng) -> tuple[Any, float]:
        """As it is given, and what it is."""
        given = number(np.exp(rng.uniform(np.log(low), np.log(high))))
        return given, float(given)

    labels, q, targets, truth = _labels(kind, rng, number)
    tested = np.array([np.flatnonzero(truth == c)[0] for c in (0, 1)] if kind.held_out else [], int)
    trained, of_test = np.delete(np.arange(n), tested), targets[tested]
    if kind.held_out:
        labels, total = labels.hold_out(tested), np.sum(q)
        q[tested] = 0
        q = q / np.sum(q) * total
        of_test = of_test if kind.labels == "soft" else np.eye(C, dtype=Long)[truth[tested]]
    gamma, gamma_is = drawn(0.05, 2.0)
    # In some, the signal maps the mean of the classes to 0 and the prototypes have none, as before a simplex ETF.
    centred = rng.spawn(1)[0].random() < 0.3
    if centred:
        gamma = number(1 / (C - 1))
        gamma_is = float(gamma)
    given, decay = zip(drawn(1e-3, 0.2), drawn(1e-3, 0.2), strict=True)
    loss = {"gamma": gamma} if kind.loss == "unhinged" else {"loss": kind.loss}
    beside = rng.spawn(1)[0]
    decay_b, rate_b = drawn(1e-3, 0.5, beside), drawn(0.3, 3.0, beside)
    own = kind.own and kind.bias
    with_bias = {"bias": kind.bias, "decay_b": decay_b[0] if own else None}
    theta: Any = None
    match kind.case:
        case "unconstrained":
            model, decay = uj.unconstrained(labels, p, bias=kind.bias, **loss), (0.0, 0.0)
        case "regularized":
            model = uj.regularized(labels, p, decay=given, **with_bias, **loss)
        case "anchored":
            model, decay = uj.anchored(labels, p, decay=given[0], **loss), (decay[0], 0.0)
        case "balanced start":
            model = uj.regularized(labels, p, decay=given, **loss)
        case "frozen":
            model, decay = uj.frozen(labels, p, decay=given[1], **with_bias, **loss), (0.0, decay[1])
        case "sphere":
            model, decay = uj.spherical(labels, p, decay=given[0], **loss), (decay[0], 0.0)
        case "free sphere":
            model = uj.spherical(labels, p, decay=given, free_prototypes=True, **loss)
        case _:
            side = n * p if kind.case == "coordinates" else n
            J = rng.normal(size=(side, n + 1)) / np.sqrt(n)
            theta = J @ J.T
            model = uj.ntk_invariant(labels, p, J if kind.case == "factor" else theta, decay=given, **with_bias, **loss)
    rates = [drawn(0.3, 2.0) for _ in "HW"]
    rates.append(rate_b if own else rates[1])
    own_rate = {"rate_b": rate_b[0] if own else None}
    # Without a decay of H and W there is none of b: `unconstrained` takes none.
    decay = (*decay, decay_b[1] if own and kind.case != "unconstrained" else decay[1])
    momentum = drawn(0.1, 0.8) if kind.kind in ("momentum", "Nesterov") else (None, 0.0)
    peak = drawn(0.02, (0.6 if kind.loss != "mse" else 0.15) * (1 if momentum[0] is None else 0.3))
    last = float(rng.uniform(3, 25)) if kind.flow else kind.updates[-1]
    times = np.array(kind.updates)
    if kind.flow:
        times = np.sort(rng.choice(np.arange(1, 200), 4, replace=False)) * last / 200
    schedule, rate, zeta = _schedule(kind.schedule, peak, last, number, rng)
    if kind.flow:
        dynamics: Any = uj.Flow(schedule, rates[0][0], rates[1][0], rtol=RTOL[kind.precision], **own_rate)
    else:
        dynamics = uj.Descent(
            schedule, rates[0][0], rates[1][0], momentum=momentum[0], nesterov=kind.kind == "Nesterov", **own_rate
        )
    log_scale = _log_size(kind, rng)
    starts, numbers = [], tuple(r for _, r in rates)
    if kind.case == "balanced start":
        rich = rng.random() < 0.5
        model, decay = _evenly(model, decay, numbers, rich)
        for _ in range(max(kind.lanes, 1)):
            both = _balanced_start(n, C, p, numbers, rich, rng)
            starts.append((*(part.astype(kind.precision) for part in both), np.zeros(C, kind.precision)))
    for _ in range(max(kind.lanes, 1) - len(starts)):
        H, W, b = (rng.normal(size=shape).astype(kind.precision) for shape in ((n, p), (C, p), (C,)))
        W = W - W.mean(axis=0) if centred else W
        starts.append((H, W, b if kind.bias else 0 * b))
    signal, value = _loss(kind.loss, q[:, None], targets, gamma_is)
    test_loss = _loss(kind.loss, Long(1) / max(len(tested), 1), of_test, gamma_is)[1]
    return Problem(
        model, dynamics, signal, value, truth, starts, log_scale, times, rate, zeta, tuple(r for _, r in rates), decay,
        momentum[1], theta, trained, tested, test_loss,
    )  # fmt: skip


def _evenly(model: Any, decay: tuple, rates: tuple[float, ...], rich: bool) -> tuple[Any, tuple]:
    """The model with decays that keep a start balanced: r_1 lambda_1 = r_2 lambda_2, and none unless kappa is 0."""
    even = (decay[0] * rates[1], decay[0] * rates[0]) if rich else (0.0, 0.0)
    return model.replace(decay=even), (*even, 0.0)


def _log_size(kind: Structure, rng: np.random.Generator) -> float:
    """Of H and W: anything that a float can be for linear losses, ordinary sizes for the others."""
    if not kind.linear:
        return float(rng.uniform(-2, 1))
    # In float32 the scale stands beside the arrays, so any size is fine; beside a bias of size 1, too. A kernel between
    # coordinates is simulated densely: there the type must hold H W^T, and float32 ends at e^88.
    widest = 30 if kind.case == "coordinates" and kind.precision == "float32" else 345
    return float(rng.choice([0.0, rng.uniform(-widest, widest)]))


def _labels(kind: Structure, rng: np.random.Generator, number: Callable) -> tuple[Any, Any, Any, np.ndarray]:
    """(labels, weights, targets, truth), the last three as they are meant."""
    C, n = len(kind.counts), sum(kind.counts)
    index = rng.permutation(np.repeat(np.arange(C), kind.counts))
    labels, q, targets = uj.from_labels(INDICES[kind.index](index), C), np.full(n, 1 / n), np.eye(C)[index]
    single = "float32" in kind.number
    array = np.float32 if single else np.float64
    rate = number(rng.uniform(0.05, 0.4))
    match kind.labels:
        case "sample weights":
            given = rng.uniform(0.2, 2, n).astype(array)
            labels, q = labels.weighted(samples=given), np.asarray(given, float) / np.sum(np.asarray(given, float))
        case "class weights":
            given = rng.uniform(0.2, 2, C).astype(array)
            q = np.asarray(given, float)[index]
            labels, q = labels.weighted(classes=given), q / np.sum(q)
        case "expected noise":
            labels, rate = labels.symmetric_noise(rate), float(rate)
            table = np.full((C, C), rate / (C - 1))
            np.fill_diagonal(table, 1 - rate)
            targets = table[index]
        case "drawn noise":
            labels = labels.symmetric_noise(rate, jax.random.key(int(rng.integers(1000))))
            targets = np.eye(C)[np.asarray(labels.index)]
        case "smoothed":
            labels, rate = labels.smoothed(rate), float(rate)
            targets = (1 - rate) * targets + rate / C
        case "soft":
            given = rng.dirichlet(np.full(C, 0.7), n).astype(array)
            labels, targets = uj.soft(given, truth=INDICES[kind.index](index)), np.asarray(given, float)
    return labels, Long(q), Long(targets), index


def _schedule(
    name: str, peak: tuple[Any, float], last: float, number: Callable, rng: np.random.Generator
) -> tuple[Any, Callable[[int], float], Callable[[float], float]]:
    """(as the library takes it, eta(t), its integral from 0)."""
    given, eta = peak
    match name:
        case "constant":
            return given, lambda t: eta, lambda t: eta * t
        case "cosine":
            horizon = number(last * rng.uniform(0.6, 2))
            T = float(horizon)
            return (
                uj.cosine(given, horizon=horizon),
                lambda t: eta * (1 + np.cos(np.pi * min(t, T) / T)) / 2,
                lambda t: eta * (min(t, T) + T / np.pi * np.sin(np.pi * min(t, T) / T)) / 2,
            )
        case "piecewise":
            at, later = float(int(last * rng.uniform(0.3, 0.7))) + 0.5, number(eta * rng.uniform(0.1, 1))
            second = float(later)
            return (
                uj.piecewise([given, later], [at]),
                lambda t: eta if t < at else second,
                lambda t: eta * min(t, at) + second * max(t - at, 0),
            )
        case "exponential":
            given_rate = number(rng.uniform(0.5, 2) / last)
            falls = float(given_rate)
            return (
                uj.exponential(given, given_rate),
                lambda t: eta * np.exp(-falls * t),
                lambda t: eta * -np.expm1(-falls * t) / falls,
            )
    raise AssertionError(name)


# --- the oracle: nothing of the package's own algebra ---------------------------------------------------------------


def _loss(name: str, q: Any, Y: Any, gamma: float) -> tuple[Callable, Callable]:
    """S -> -dL/dS, and S -> (L, the sum of the absolute values of its terms)."""
    if name == "unhinged":
        constant = q * ((1 + gamma) * Y - gamma)
        return lambda S: constant, lambda S: (-np.sum(constant * S), np.sum(np.abs(constant * S)))
    if name == "mse":
        return lambda S: q * (Y - S), lambda S: (np.sum(q * (S - Y) ** 2) / 2,) * 2

    def log_sum(S: Any) -> Any:
        top = np.max(S, axis=1, keepdims=True)
        return top + np.log(np.sum(np.exp(S - top), axis=1, keepdims=True))

    def value(S: Any) -> tuple[Any, Any]:
        terms = q * Y * (log_sum(S) - S)
        return np.sum(terms), np.sum(np.abs(terms)) + np.sum(np.abs(q * S))

    return lambda S: q * (Y - np.exp(S - log_sum(S))), value


def field(kind: Structure, drawn: Problem, H: Any, W: Any, b: Any) -> tuple[Any, Any, Any]:
    """(H', W', b') per unit of zeta."""
    lengths = np.sqrt(np.sum(H**2, axis=1, keepdims=True))
    seen = H / lengths if "sphere" in kind.case else H
    M = drawn.M(seen @ W.T + b)
    push = M @ W
    if "sphere" in kind.case:
        push = (push - np.sum(push * seen, axis=1, keepdims=True) * seen) / lengths
    if drawn.theta is not None:
        push = (drawn.theta @ push.ravel()).reshape(push.shape) if kind.case == "coordinates" else drawn.theta @ push
    (r1, r2, rb), (l1, l2, lb) = drawn.rates, drawn.decay
    if kind.case == "frozen":
        r1 = 0
    if kind.case in ("anchored", "sphere"):
        r2 = 0
    return r1 * (push - l1 * H), r2 * (M.T @ seen - l2 * W), rb * kind.bias * (np.sum(M, axis=0) - lb * b)


def oracle(kind: Structure, drawn: Problem, start: tuple[Any, Any, Any]) -> list[tuple[Any, Any, Any]]:
    """States at the times."""
    grown = np.exp(Long(drawn.log_scale))
    parts = (grown * start[0].astype(Long), grown * start[1].astype(Long), start[2].astype(Long))
    if not kind.flow:
        return _loop(kind, drawn, parts)
    taus = [drawn.zeta(t) for t in drawn.times]
    return _linear_flow(kind, drawn, parts, taus) if kind.linear else _solved(kind, drawn, parts, taus)


def _loop(kind: Structure, drawn: Problem, parts: tuple) -> list[tuple]:
    trace, found, beta = [0 * part for part in parts], [], drawn.momentum
    for k in range(int(drawn.times[-1]) + 1):
        if k in drawn.times:
            found.append(parts)
        down = field(kind, drawn, *parts)
        trace = [d + beta * v for d, v in zip(down, trace, strict=True)]
        step = [d + beta * v for d, v in zip(down, trace, strict=True)] if kind.kind == "Nesterov" else trace
        parts = tuple(part + Long(drawn.rate(k)) * move for part, move in zip(parts, step, strict=True))
    return found


def _linear_flow(kind: Structure, drawn: Problem, parts: tuple, taus: list[float]) -> list[tuple]:
    """The field is affine: its matrix, column by column, and the exponential of it."""
    sizes, shapes = [part.size for part in parts], [part.shape for part in parts]
    ends = np.cumsum(sizes)

    def flat(vector: Any) -> Any:
        split = [piece.reshape(shape) for piece, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]
        return np.concatenate([part.ravel() for part in field(kind, drawn, *split)])

    # The bias enters neither H' nor W', so columns of any size are fine; the last one is the drift.
    drift = flat(np.zeros(ends[-1], Long))
    A = np.zeros((ends[-1] + 1,) * 2, Long)
    for j in range(ends[-1]):
        unit = np.zeros(ends[-1], Long)
        unit[j] = 1
        A[:-1, j] = flat(unit) - drift
    A[:-1, -1] = drift
    begin = np.append(np.concatenate([part.ravel() for part in parts]), Long(1))
    found = []
    for tau in taus:
        now = _grown(A * Long(tau), begin)[:-1]
        found.append(tuple(piece.reshape(s) for piece, s in zip(np.split(now, ends[:-1]), shapes, strict=True)))
    return found


def _grown(A: Any, vector: Any) -> Any:
    """exp(A) vector: Taylor series in pieces of norm below 1."""
    pieces = max(1, int(np.ceil(np.max(np.sum(np.abs(A), axis=1)))))
    A = A / pieces
    for _ in range(pieces):
        term = vector
        for k in range(1, 26):
            term = A @ term / k
            vector = vector + term
    return vector


def _solved(kind: Structure, drawn: Problem, parts: tuple, taus: list[float]) -> list[tuple]:
    shapes = [part.shape for part in parts]
    ends = np.cumsum([part.size for part in parts])

    def split(vector: Any) -> list[Any]:
        return [piece.reshape(shape) for piece, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]

    def velocity(tau: float, vector: Any) -> Any:
        return np.concatenate([np.asarray(part, float).ravel() for part in field(kind, drawn, *split(vector))])

    begin = np.concatenate([np.asarray(part, float).ravel() for part in parts])
    apart, where = np.unique(taus, return_inverse=True)  # a schedule that has come to its end stands still
    run = solve_ivp(velocity, (0, taus[-1]), begin, "DOP853", apart, rtol=1e-12, atol=1e-14)
    assert run.success, run.message
    return [tuple(Long(part) for part in split(run.y[:, i])) for i in where]


# --- the comparison -------------------------------------------------------------------------------------------------


def given_state(kind: Structure, drawn: Problem, start: tuple[Any, Any, Any], apart: bool) -> Any:
    """The start as the library takes it: its scale in the arrays, or beside them."""
    H, W, b = start
    if apart or kind.precision == "float32":
        return uj.State(H, W, b, drawn.log_scale)
    write = STATES[kind.written]
    grown = np.exp(Long(drawn.log_scale))
    return uj.State(*(write(np.asarray(grown * part, float)) for part in (H, W)), write(b))


def runs(kind: Structure, drawn: Problem, rng: np.random.Generator) -> dict[str, Any]:
    """Name -> (observables and state at the last two of the times, the oracle's index of them)."""
    ways: dict[str, Any] = {"simulate": (uj.simulate, {})}
    if kind.closed:
        ways["exact"] = (uj.exact, {})
    if kind.dense and abs(drawn.log_scale) < 20:
        ways["dense"] = (uj.simulate, {"reduce": False})
    # Inside a batch the updates that a descent has made are traced, and going on from there is refused.
    cut, apart = kind.cut and (kind.flow or not kind.lanes), rng.random() < 0.5
    exact_first = kind.exact_first and kind.closed and not drawn.momentum
    early, late = drawn.times[:2], drawn.times[2:]
    observed = OBSERVED + TESTED * kind.held_out

    def solve(name: str, state: Any) -> Any:
        by, extra = ways[name]
        if cut and not (name == "exact" and drawn.momentum):
            first = uj.exact if exact_first and name != "dense" else by
            state = first(drawn.model, drawn.dynamics, state, early, observed, **({} if first is uj.exact else extra))
        return by(drawn.model, drawn.dynamics, state, late, observed, **extra)

    found = {}
    for name in ways:
        how = f"{name}{' in two legs' if cut else ''}"
        if not kind.lanes:
            found[how] = [solve(name, given_state(kind, drawn, drawn.starts[0], apart))]
            continue
        with jax.enable_x64(kind.precision == "float64"):
            H, W, b = (jnp.stack([jnp.asarray(start[i]) for start in drawn.starts]) for i in range(3))
            mapped = jax.vmap(lambda H, W, b, name=name: solve(name, uj.State(H, W, b, drawn.log_scale)))(H, W, b)
            found[f"{how}, batched"] = [
                jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], mapped) for i in range(kind.lanes)
            ]
    return found


def wrong(kind: Structure, drawn: Problem, run: Any, states: list[tuple]) -> dict[str, float]:
    """Quantity -> difference in the unit of the bound."""
    found: dict[str, float] = {}

    def note(name: str, difference: Any) -> None:
        value = float(difference)
        found[name] = max(found.get(name, 0.0), value if np.isfinite(value) else np.inf)

    for i, (H, W, b) in enumerate(states):
        for part, array in (("H", H[drawn.trained]), ("W", W)):
            note(f"log_norm_{part}", abs(Long(run[f"log_norm_{part}"][i]) - np.log(np.sqrt(np.sum(array**2)))))
        seen = H / np.sqrt(np.sum(H**2, axis=1, keepdims=True)) if "sphere" in kind.case else H
        S = seen @ W.T + b
        for test, rows in (("", drawn.trained), ("test_", drawn.tested)):
            if not len(rows):
                continue
            loss, size = drawn.test_loss(S[rows]) if test else drawn.loss(S)
            got = Long(run[f"{test}loss_sign"][i]) * np.exp(Long(run[f"{test}log_abs_loss"][i]) - np.log(size))
            note(f"{test}loss", abs(got - loss / size))
            right, unclear = _accuracy(S[rows], drawn.truth[rows], 1e-7 if kind.precision == "float64" else 1e-3)
            count = float(run[f"{test}accuracy"][i]) * len(rows)
            note(f"{test}accuracy", max(abs(count - right) - unclear - 1e-4, 0) * 1e9)
    if kind.case == "balanced start":  # the same products of rows, whatever their space is turned by
        Z = np.vstack(states[-1][:2])
        got = np.vstack([run.final.H, run.final.W]).astype(Long) * np.exp(Long(run.final.log_scale))
        note("final products", np.sqrt(np.sum((got @ got.T - Z @ Z.T) ** 2)) / np.sum(Z**2))
        return found
    for part, array in zip("HWb", states[-1], strict=True):
        size = np.sqrt(np.sum(array**2))
        shift = Long(run.final.log_scale) if part != "b" else Long(0)
        got = np.asarray(getattr(run.final, part)).astype(Long) * np.exp(shift)
        note(f"final {part}", np.sqrt(np.sum((got - array) ** 2)) / size if size else np.max(np.abs(got)))
    return found


def _accuracy(S: Any, truth: np.ndarray, slack: float) -> tuple[int, int]:
    """Samples classified right, and those whose margin is too small to tell."""
    own = S[np.arange(len(S)), truth]
    others = np.where(np.eye(S.shape[1], dtype=bool)[truth], -np.inf, S)
    margin = own - np.max(others, axis=1)
    unclear = np.abs(margin) <= slack * np.max(np.abs(S), axis=1)
    return int(np.sum((margin > 0) & ~unclear) + np.sum(unclear) / 2), int(np.ceil(np.sum(unclear) / 2))


def check(number: int, draw: int) -> dict[tuple[str, str, str], float]:
    """One problem: (family, how, quantity) -> difference over bound."""
    kind, rng = structure(number), np.random.default_rng([18, number, draw])
    drawn = problem(kind, rng)
    if kind.lanes and kind.number.startswith("JAX"):
        drawn.log_scale = float(np.clip(drawn.log_scale, -345, 345))
    truth = [oracle(kind, drawn, start)[2:] for start in drawn.starts]
    found: dict[tuple[str, str, str], float] = {}
    for how, ran in runs(kind, drawn, rng).items():
        solved = kind.flow and not how.startswith("exact")
        bound = BOUNDS[kind.precision, solved or (kind.flow and "legs" in how)]
        for run, states in zip(ran, truth, strict=True):
            for name, value in wrong(kind, drawn, run, states).items():
                key = (kind.family, f"{how}, {kind.precision}", name)
                found[key] = max(found.get(key, 0.0), value / bound)
    return found


def checked(number: int, draws: list[int]) -> tuple[dict[tuple[str, str], float], list[str]]:
    """All problems of a structure: (family, how) -> the worst, and what was missed."""
    kind, worst, misses = structure(number), {}, []
    for draw in draws:
        try:
            found = check(number, draw)
        except Exception as error:  # a refusal is a miss, and the others are still looked at
            found = {(kind.family, "refused", f"{type(error).__name__}: {error}"): np.inf}
        for (family, how, name), value in found.items():
            worst[family, how] = max(worst.get((family, how), 0.0), value)
            if not value <= 1:
                misses.append(f"--only {number} {draw}: {family}, {how}: {name}: {value:.3g} bounds")
    jax.clear_caches()
    return worst, [*misses, f"  {kind}"] if misses else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=56)
    parser.add_argument("--draws", type=int, default=8, help="problems of each structure")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", type=int, nargs="+", help="one structure, and perhaps one draw")
    arguments = parser.parse_args()
    numbers = arguments.only[:1] if arguments.only else list(range(arguments.structures))
    draws = arguments.only[1:] if arguments.only and arguments.only[1:] else list(range(arguments.draws))
    began = time.monotonic()
    if arguments.jobs == 1:
        results = [checked(number, draws) for number in numbers]
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(arguments.jobs, context) as executor:
            results = list(executor.map(checked, numbers, [draws] * len(numbers)))
    worst: dict[tuple[str, str], float] = {}
    for one, _ in results:
        for key, value in one.items():
            worst[key] = max(worst.get(key, 0.0), value)
    misses = [line for _, lines in results for line in lines]
    print("worst difference in units of its bound")
    for (family, how), value in sorted(worst.items()):
        print(f"{family + ': ' + how:90} {value:9.2g}")
    print(*misses, sep="\n")
    missed = sum(line.startswith("--only") for line in misses)
    print(f"{len(numbers) * len(draws)} problems, {missed} numbers missed, {time.monotonic() - began:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
