"""What may be changed in a problem, and how its numbers must move: one line each in `CHANGES`.

Every number that a change does not name in `moves` must stay as it is. Where a change says nothing, of an operation
(`no`) or of a number (`Unsaid`), the reason stands beside it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from invariants import problems as written
from invariants.operations import OPERATIONS, Operation, observed
from invariants.problems import C, P, Problem

import unhinged_jax as uj

# --- how numbers move -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Times:
    """Multiplied."""

    factor: float

    def __call__(self, value: Any) -> Any:
        return value * self.factor


@dataclasses.dataclass(frozen=True)
class Plus:
    """Shifted."""

    shift: float

    def __call__(self, value: Any) -> Any:
        return value + self.shift


@dataclasses.dataclass(frozen=True)
class Becomes:
    """Another number's."""

    name: str


@dataclasses.dataclass(frozen=True)
class Unsaid:
    """The change says nothing of this number."""

    reason: str


Move = Times | Plus | Becomes | Unsaid
Moves = Mapping[str, Move]
No = Callable[[str, Problem], str | None]


def never(operation: str, problem: Problem) -> str | None:
    return None


@dataclasses.dataclass(frozen=True)
class Change:
    """A line: the changed problem, how numbers move (by name or pattern), and where it says nothing."""

    make: Callable[[Problem], Problem]
    moves: Moves | Callable[[str, Problem], Moves] = dataclasses.field(default_factory=dict)
    no: No = never
    values: Callable[[Operation, Problem], dict[str, Any]] | None = None
    """Computes the numbers in another way; those that it leaves out are not compared."""
    later: bool = False
    """Only the last two of three times are the problem's."""
    may_refuse: bool = False
    """A clear ValueError or TypeError is as good as the right number."""
    tolerance: float = 0.0
    costs: int = 0
    """0: the same compiled program, or none; 1, 2: compiles anew, and is made only where that is afforded."""

    def move_of(self, name: str, operation: str, problem: Problem) -> Move | None:
        moves = self.moves(operation, problem) if callable(self.moves) else self.moves
        head, _, parameter = name.partition(" by ")
        for place in (" pushed", " of run", " of limit", " of modes"):
            head = head.removesuffix(place)
        for pattern, move in moves.items():
            if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(head, pattern):
                # A logarithmic derivative of what is shifted stays.
                return None if parameter and isinstance(move, Plus) and name != pattern else move
        return None


# --- symmetries -----------------------------------------------------------------------------------------------------

_RNG = np.random.default_rng(3)
_TURN = np.linalg.qr(_RNG.normal(size=(P, P)))[0]
_CLASSES = np.array([2, 0, 1])
_FILES = ("sweep", "design")
_THEORIES = ("off_path", "snr_singular_values", "linearised")
_ONE_STATE = ("observe_state", "collapse_metrics", "hessian_spectrum", *_THEORIES)


def permuted(problem: Problem) -> Problem:
    order = np.random.default_rng(4).permutation(problem.samples)
    return problem.but(
        index=problem.index[order],
        H=problem.H[order],
        weights=None if problem.weights is None else problem.weights[order],
        kernel=None if problem.kernel is None else problem.kernel[np.ix_(order, order)],
    )


def relabelled(problem: Problem) -> Problem:
    back = np.argsort(_CLASSES)
    table = None if problem.table is None else problem.table[np.ix_(back, back)]
    return problem.but(index=_CLASSES[problem.index], W=problem.W[back], b=problem.b[back], table=table)


def embedded(problem: Problem) -> Problem:
    wider = ((0, 0), (0, 2))
    return problem.but(H=np.pad(problem.H, wider), W=np.pad(problem.W, wider))


def copied(problem: Problem, k: int = 2) -> Problem:
    (rate_H, *rates), (decay_H, *decays) = problem.rates, problem.decay
    return problem.but(
        index=np.repeat(problem.index, k),
        H=np.repeat(problem.H, k, axis=0),
        weights=np.repeat(problem.q, k) / k,
        rates=(k * rate_H, *rates),
        decay=(decay_H / k, *decays),
    )


def exchanged(problem: Problem, a: float = 2.0) -> Problem:
    (rate_H, rate_W), (decay_H, decay_W) = problem.rates, problem.decay
    return problem.but(
        H=a * problem.H,
        W=problem.W / a,
        rates=(a**2 * rate_H, rate_W / a**2),
        decay=(decay_H / a**2, a**2 * decay_W),
    )


def faster(problem: Problem, c: float = 4.0) -> Problem:
    return problem.but(rates=tuple(c * rate for rate in problem.rates), eta=problem.eta / c)


def sooner(problem: Problem, c: float = 2.0) -> Problem:
    return problem.but(eta=c * problem.eta, horizon=problem.horizon / c, times=tuple(t / c for t in problem.times))


def costlier(problem: Problem, c: float = 2.0) -> Problem:
    return problem.but(weights=c * problem.q, decay=tuple(c * decay for decay in problem.decay), eta=problem.eta / c)


def scaled(problem: Problem, power: int) -> Problem:
    """By a power of two, which rounds nothing."""
    return problem.but(H=problem.H * 2.0**power, W=problem.W * 2.0**power)


def scale_apart(problem: Problem, power: int = 9) -> Problem:
    return scaled(problem, -power).but(log_scale=power * np.log(2.0))


def transposed(problem: Problem) -> Problem:
    return problem.but(H=problem.W, W=problem.H, rates=problem.rates[::-1], decay=problem.decay[::-1])


def noise_for_gamma(problem: Problem, rate: float = 0.25) -> Problem:
    """Expected symmetric noise, with the gamma and the factor of the loss that make up for it."""
    other = rate / (C - 1)
    gamma = (other + problem.gamma * (1 - rate)) / (1 - other + problem.gamma * rate)
    right = (1 + gamma) * (1 - rate) - gamma
    table = np.full((C, C), other) + (1 - rate - other) * np.eye(C)
    return problem.but(table=table, gamma=gamma, weights=problem.q / right)


def _sized(power: int) -> Moves:
    log_a, both = power * np.log(2.0), Times(2.0 ** (2 * power))
    return {
        "log_norm*": Plus(log_a), "square_*": both, "norm_W": Times(2.0**power), "gap_W": Times(2.0**power),
        "loss": both, "objective": both, "margin_*": both, "log_abs_loss": Plus(2 * log_a),
    }  # fmt: skip


def _rates(c: float, squared: float = 1.0) -> Callable[[str, Problem], Moves]:
    """Of `limit`: rates of a flow are those of zeta, of a descent per update."""

    def moves(operation: str, problem: Problem) -> Moves:
        always: dict[str, Move] = {"threshold": Times(squared), "excess": Times(squared)}
        per_zeta: dict[str, Move] = {name: Times(c) for name in ("rate*", "exponent")}
        return always | (per_zeta if problem.kind == "flow" else {})

    return moves


def _with(first: Moves, second: Callable[[str, Problem], Moves]) -> Callable[[str, Problem], Moves]:
    return lambda operation, problem: {**first, **second(operation, problem)}


_TOGETHER = Unsaid("the norms of H and W, which move differently, are taken together")
_APART: dict[str, Move] = {"log_norm": _TOGETHER, "log_distance": _TOGETHER, "share of H*": _TOGETHER}


def only_if(*conditions: tuple[Callable[[str, Problem], bool], str]) -> No:
    """Nothing is said where one of the conditions fails, for its reason."""

    def no(operation: str, problem: Problem) -> str | None:
        return next((reason for holds, reason in conditions if not holds(operation, problem)), None)

    return no


def no_case(*cases: str) -> Callable[[str, Problem], bool]:
    return lambda operation, problem: problem.case not in cases


def not_of(*operations: str) -> Callable[[str, Problem], bool]:
    return lambda operation, problem: operation not in operations


_NO_BIAS = (lambda operation, problem: not problem.bias, "a bias does not scale with the logits")
_LINEAR = (lambda operation, problem: problem.linear, "the loss is not linear in the features")
_UNIT = (no_case("spherical"), "features of unit length do not scale")
_METRIC = (not_of("hessian_spectrum"), "another measure of length in the space of states has another curvature")
_CONFIG = (not_of(*_FILES), "a file cannot say it")
_UNIT_RATES = (not_of("off_path", "linearised"), "theirs are the rates 1 and the weights 1/n")
_NUMBERS = (not_of("exact_exponents"), "they are those of rates that are numbers")


SYMMETRIES: dict[str, Change] = {
    "samples permuted": Change(permuted),
    "classes relabelled": Change(relabelled),
    "space rotated": Change(lambda problem: problem.but(H=problem.H @ _TURN, W=problem.W @ _TURN)),
    "space embedded": Change(
        embedded,
        no=only_if(
            (not_of("lyapunov", "exact_exponents"), "the new directions have exponents of their own"),
            (not_of("off_path", "snr_singular_values"), "features that leave a direction out have no such number"),
            (not_of("hessian_spectrum"), "the new directions have curvatures of their own"),
        ),
    ),
    "samples doubled": Change(
        copied,
        {
            **_APART, "log_norm_H": Plus(np.log(2.0) / 2), "square_H": Times(2.0), "threshold": Times(0.5),
            "excess": Times(0.5),
        },
        only_if(
            _UNIT,
            (no_case("kernel"), "a kernel counts samples"),
            (not_of("lyapunov", "exact_exponents"), "the new samples have exponents of their own"),
            _UNIT_RATES,
            _METRIC,
        ),
    ),
    "scales exchanged": Change(
        exchanged,
        {
            **_APART, "log_norm_H": Plus(np.log(2.0)), "log_norm_W": Plus(-np.log(2.0)), "norm_W": Times(0.5),
            "gap_W": Times(0.5), "square_H": Times(4.0), "square_W": Times(0.25),
        },
        only_if(_NO_BIAS, _UNIT, _METRIC),
    ),
    "rates × c, schedule / c": Change(faster, _rates(4.0)),
    "flow: time / c": Change(
        sooner,
        {"time": Times(0.5), "slope": Times(2.0)},
        only_if(
            (lambda operation, problem: problem.kind == "flow", "a descent counts updates"),
            (not_of(*_ONE_STATE), "no time passes"),
        ),
    ),
    "loss × c": Change(
        costlier,
        _with(
            {"loss": Times(2.0), "objective": Times(2.0), "log_abs_loss": Plus(np.log(2.0)), "curvature": Times(2.0)},
            _rates(2.0, 4.0),
        ),
        only_if((not_of(*_FILES), "the weights in a file are made to sum to 1"), _UNIT_RATES),
    ),
    "size 1e150": Change(lambda problem: scaled(problem, 498), _sized(498), only_if(_LINEAR, _NO_BIAS)),
    "size 1e-150": Change(lambda problem: scaled(problem, -498), _sized(-498), only_if(_LINEAR, _NO_BIAS)),
    "scale beside the arrays": Change(
        scale_apart, no=only_if(_CONFIG, (not_of("collapse_metrics"), "it takes arrays, which have no scale"))
    ),
    "H and W exchanged": Change(
        transposed,
        {
            "log_norm_H": Becomes("log_norm_W"), "log_norm_W": Becomes("log_norm_H"),
            "log_distance_H": Becomes("log_distance_W"), "log_distance_W": Becomes("log_distance_H"),
            **{name: Unsaid("names one of the two") for name in
               ("norm_W", "gap_W", "accuracy*", "margin_*", "nc*", "cdnv", "gnc2")},
        },
        lambda operation, problem: None if len(problem.index) == C else "there is more than one sample a class",
    ),
    "noise for gamma": Change(
        noise_for_gamma,
        {"* by gamma": Unsaid("gamma is another one")},
        only_if(
            (lambda operation, problem: problem.loss == "unhinged", "of the unhinged loss alone"),
            (lambda operation, problem: problem.table is None, "the targets are a table already"),
            _CONFIG,
        ),
    ),
}  # fmt: skip


# --- one thing written in several ways ------------------------------------------------------------------------------


def types(**changes: Callable[[Any], Any]) -> Callable[[Problem], Problem]:
    """Fields of the problem passed through functions, pairs entry by entry; what is None stays so."""

    def make(problem: Problem) -> Problem:
        made = {}
        for name, change in changes.items():
            value = getattr(problem, name)
            if value is not None:
                pair = name in ("decay", "rates")
                made[name] = tuple(map(change, value)) if pair else change(value)
        return problem.but(**made)

    return make


def _strided(array: np.ndarray) -> np.ndarray:
    """The same numbers, every second one of an array twice as long along each axis, and backwards."""
    array = np.asarray(array)
    wide = np.zeros([2 * size for size in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


def _state_of(parts: Callable[[Any], Any]) -> Callable[[Problem], Any]:
    return lambda problem: uj.State(parts(problem.H), parts(problem.W), parts(problem.b), problem.log_scale)


def _state(change: Callable[[Any], Any]) -> Change:
    return Change(types(H=change, W=change, b=change), no=_FROM_ARRAYS)


_TYPED = (not_of(*_FILES), "a file holds numbers, which have no type")
_FROM_ARRAYS = only_if(_TYPED)
_IN_JAX = ("collapse_metrics", "snr_singular_values", "linearised")
_OF_A_STATE = only_if(_TYPED, (not_of(*_IN_JAX), "functions of arrays compute in their types, as JAX does"))
_single = np.float32


def _jax32(value: Any) -> Any:
    return jnp.asarray(value, "float32")


def _jax64(value: Any) -> Any:
    with jax.enable_x64(True):
        return jnp.asarray(value, "float64")


NUMBERS: dict[str, Change] = {
    "state big-endian": dataclasses.replace(_state(lambda part: np.asarray(part).astype(">f8")), no=_OF_A_STATE),
    "state in strided views": _state(_strided),
    "state in Fortran's order": _state(np.asfortranarray),
    "state in JAX": _state(_jax64),
    "H in float32 beside W in float64": Change(types(H=lambda H: H.astype("float32")), no=_OF_A_STATE),
    "W in float32 beside H in float64": Change(types(W=lambda W: W.astype("float32")), no=_OF_A_STATE),
    "b in float32": Change(types(b=lambda b: b.astype("float32")), no=_OF_A_STATE),
    "state in longdouble": dataclasses.replace(
        _state(lambda part: np.asarray(part).astype(np.longdouble)), may_refuse=True
    ),
    "labels uint8": Change(types(index=lambda index: index.astype("uint8")), no=_FROM_ARRAYS),
    "labels int64, big-endian": Change(types(index=lambda index: index.astype(">i8")), no=_OF_A_STATE),
    "labels in JAX": Change(types(index=jnp.asarray), no=_FROM_ARRAYS),
    "weights float32": Change(types(weights=lambda q: np.asarray(q, "float32")), no=_FROM_ARRAYS),
    "weights big-endian": Change(types(weights=lambda q: np.asarray(q).astype(">f8")), no=_FROM_ARRAYS),
    "weights in JAX, float32": Change(types(weights=_jax32), no=_FROM_ARRAYS),
    "noise table float32": Change(types(table=lambda table: table.astype("float32")), no=_FROM_ARRAYS),
    "noise table in JAX, float32": Change(types(table=_jax32), no=_FROM_ARRAYS),
    "kernel float32": Change(types(kernel=lambda kernel: kernel.astype("float32")), no=_FROM_ARRAYS),
    "kernel in JAX, float32": Change(types(kernel=_jax32), no=_FROM_ARRAYS),
    "gamma float32": Change(types(gamma=_single), no=_FROM_ARRAYS),
    "gamma in JAX, float32": Change(types(gamma=_jax32), no=_FROM_ARRAYS),
    "decay float32": Change(types(decay=_single), no=_FROM_ARRAYS),
    "decay in JAX, float32": Change(types(decay=_jax32), no=_FROM_ARRAYS),
    "rates float32": Change(types(rates=_single, eta=_single), no=_FROM_ARRAYS),
    "rates in JAX, float32": Change(types(rates=_jax32, eta=_jax32), no=_FROM_ARRAYS),
    "momentum float32": Change(types(momentum=_single), no=_FROM_ARRAYS),
    "momentum in JAX, float32": Change(types(momentum=_jax32), no=_FROM_ARRAYS),
    "horizon in JAX, float32": Change(types(horizon=_jax32), no=_FROM_ARRAYS),
    "times float32": Change(types(times=lambda times: np.asarray(times, "float32")), no=_FROM_ARRAYS),
    "times unsigned": Change(types(times=lambda times: np.asarray(times, "uint16")), no=_FROM_ARRAYS),
    "times in JAX": Change(types(times=jnp.asarray), no=_FROM_ARRAYS),
}


def _soft(problem: Problem) -> Any:
    table = np.eye(problem.classes) if problem.table is None else problem.table
    labels = uj.soft(np.asarray(table)[problem.index], truth=problem.index)
    return labels.weighted(samples=problem.q * problem.samples, normalise=False)


def _after(refine: Callable[[Any], Any]) -> Callable[[Problem], Any]:
    return lambda problem: refine(written.written_labels(problem))


def _replaced_weights(problem: Problem) -> Any:
    return written.written_labels(problem.but(weights=None)).replace(weights=problem.q)


def _replaced_index(problem: Problem) -> Any:
    """From labels of equal counts, where there are as many samples."""
    other = written.written_labels(problem.but(index=np.arange(problem.samples) % problem.classes))
    return other.replace(index=np.asarray(problem.index))


def _replaced_labels(problem: Problem, labels: Any) -> Any:
    other = np.arange(problem.samples) % problem.classes
    return written.written_model(problem, uj.from_labels(other, problem.classes)).replace(labels=labels)


def _replaced_numbers(problem: Problem, labels: Any) -> Any:
    changes: dict[str, Any] = dict(zip(("decay_H", "decay_W", "decay_b"), problem.decay, strict=False))
    changes = {} if problem.case in ("anchored", "frozen", "spherical") else changes
    if problem.loss == "unhinged":
        changes["gamma"] = problem.gamma
    other = problem.but(gamma=1.75, decay=problem.decay if not changes.get("decay_H") else (0.5, 0.25))
    return written.written_model(other, labels).replace(**changes)


def _replaced_loss(problem: Problem, labels: Any) -> Any:
    other = problem.but(loss="mse" if problem.loss == "unhinged" else "unhinged")
    loss = uj.losses.Unhinged(problem.gamma) if problem.loss == "unhinged" else uj.losses.as_loss(problem.loss)
    return written.written_model(other, labels).replace(loss=loss)


def _replaced_dynamics(problem: Problem, schedule: Any) -> Any:
    other = problem.but(rates=(2.0, 3.0), momentum=None if problem.momentum is None else 0.125)
    made = {"schedule": schedule, **dict(zip(("rate_H", "rate_W", "rate_b"), problem.rates, strict=False))}
    if problem.momentum is not None:
        made["momentum"] = problem.momentum
    return dataclasses.replace(written.written_dynamics(other, 0.125), **made)


def _replaced_state(problem: Problem) -> Any:
    return uj.State(problem.H * 0, problem.W * 0, problem.b * 0, 1.0).replace(
        H=problem.H, W=problem.W, b=problem.b, log_scale=problem.log_scale
    )


def _direct(problem: Problem, labels: Any) -> Any:
    """The class itself, with its fields as they are."""
    loss = uj.losses.Unhinged(problem.gamma) if problem.loss == "unhinged" else uj.losses.as_loss(problem.loss)
    kernel = None if problem.kernel is None else uj.kernel.as_kernel(problem.kernel, problem.samples, P)
    decay_H = 0.0 if problem.case == "frozen" else problem.decay[0]
    decay_W = 0.0 if problem.case in ("anchored", "spherical") else problem.decay[1]
    return uj.LayerPeeled(
        labels, loss, decay_H, decay_W, kernel, dim=np.shape(problem.W)[1], features_move=problem.case != "frozen",
        prototypes_move=problem.case not in ("anchored", "spherical"), bias=problem.bias,
        spherical=problem.case == "spherical", decay_b=problem.own(problem.decay),
    )  # fmt: skip


def _as_kernel(kernel: Callable[[Problem], Any]) -> Callable[[Problem, Any], Any]:
    return lambda problem, labels: uj.ntk_invariant(
        labels, np.shape(problem.W)[1], kernel(problem), decay=problem.decay, gamma=problem.gamma
    )


def _schedules(make: Callable[[Any], Any]) -> Callable[[Problem], Problem]:
    return lambda problem: problem.but(schedule_as=lambda p: make(p.eta))


def _rate_of(problem: Problem) -> Callable[[Any], Any]:
    eta, horizon = problem.eta, problem.horizon
    return lambda t: eta * (1 + jnp.cos(jnp.pi * jnp.minimum(t, horizon) / horizon)) / 2


_RUNS_ONLY = (lambda operation, problem: operation not in _ONE_STATE, "no time passes")
_ALL_AT_ONE_RATE = (lambda operation, problem: problem.horizon is None, "the rate is not constant")
_CURVED = (lambda operation, problem: problem.horizon is not None, "the rate is constant")
_PLAIN = (lambda operation, problem: problem.momentum is None and problem.kind == "descent", "no plain descent")
_NOT_BY_NAME = (lambda operation, problem: "sensitivity" not in operation, "its parameters have other names")
_UNHINGED = (lambda operation, problem: problem.loss == "unhinged", "no unhinged loss")
_BOTH_MOVE = (no_case("anchored", "frozen", "spherical", "kernel"), "another case")


def labels_by(make: Callable[[Problem], Any], *conditions: Any) -> Change:
    return Change(lambda problem: problem.but(labels_as=make), no=only_if(_CONFIG, *conditions))


def model_by(make: Callable[[Problem, Any], Any], *conditions: Any, **more: Any) -> Change:
    return Change(lambda problem: problem.but(model_as=make), no=only_if(_CONFIG, *conditions), **more)


def schedule_by(make: Callable[[Any], Any], *conditions: Any) -> Change:
    return Change(
        _schedules(make), no=only_if(_CONFIG, _NUMBERS, _RUNS_ONLY, _ALL_AT_ONE_RATE, _NOT_BY_NAME, *conditions)
    )


_CONSTANT = only_if(_CONFIG, _RUNS_ONLY)
_CLEAN = (lambda operation, problem: problem.table is None, "the targets are a table already")
_KERNEL = (lambda operation, problem: problem.case == "kernel", "no kernel")

WRITINGS: dict[str, Change] = {
    "labels: soft": labels_by(_soft),
    "labels: smoothed(0)": labels_by(_after(lambda labels: labels.smoothed(0.0)), _CLEAN),
    "labels: symmetric_noise(0)": labels_by(_after(lambda labels: labels.symmetric_noise(0.0)), _CLEAN),
    "labels: equal class weights": labels_by(_after(lambda labels: labels.weighted(classes=np.ones(C)))),
    "labels: from_counts": labels_by(
        lambda problem: uj.from_counts(np.bincount(problem.index)),
        (lambda operation, problem: problem.weights is None and problem.table is None, "other weights or targets"),
        (lambda operation, problem: bool(np.all(np.diff(problem.index) >= 0)), "classes do not come in blocks"),
    ),
    "labels: balanced": labels_by(
        lambda problem: uj.balanced(C, problem.samples // C, order="cyclic"),
        (lambda operation, problem: bool(np.all(problem.index == np.arange(problem.samples) % C)), "not in cycles"),
    ),
    "replace: weights": labels_by(_replaced_weights),
    "replace: index": labels_by(_replaced_index),
    "replace: labels": model_by(_replaced_labels),
    "replace: gamma and decay": model_by(_replaced_numbers),
    "replace: loss": model_by(_replaced_loss),
    "replace: dynamics": Change(lambda problem: problem.but(dynamics_as=_replaced_dynamics), no=only_if(_CONFIG)),
    "replace: state": Change(lambda problem: problem.but(state_as=_replaced_state), no=only_if(_CONFIG)),
    "LayerPeeled itself": model_by(_direct),
    "kernel: identity": model_by(_as_kernel(lambda problem: np.eye(problem.samples)), _UNHINGED, _BOTH_MOVE, _NO_BIAS,
                                 (not_of("design"), "a file cannot say it"),
                                 (not_of("exact_exponents"), "not offered for a kernel")),
    "kernel: a factor": model_by(_as_kernel(lambda problem: written.FACTOR), _KERNEL),
    "kernel: between coordinates": model_by(
        _as_kernel(lambda problem: np.kron(problem.kernel, np.eye(P))),
        _KERNEL,
        (lambda operation, problem: operation != "limit", "not offered for a kernel between coordinates"),
    ),
    "schedule: equal pieces": schedule_by(lambda eta: uj.piecewise([eta, eta], [2.0])),
    "schedule: warm-up of length 0": schedule_by(lambda eta: uj.warmup(0.0, eta)),
    "schedule: joined equals": schedule_by(lambda eta: uj.join([eta, uj.constant(eta)], [2.0])),
    "schedule: cosine that stays": schedule_by(lambda eta: uj.cosine(eta, 4.0, eta)),
    "schedule: function": schedule_by(lambda eta: lambda t: eta + 0 * t),
    "schedule: optax": schedule_by(optax.constant_schedule),
    "schedule: cosine as a function": Change(
        lambda problem: problem.but(schedule_as=_rate_of), no=only_if(_CONFIG, _RUNS_ONLY, _CURVED, _NOT_BY_NAME),
        tolerance=1e-9,
    ),
    "momentum 0": Change(
        lambda problem: problem.but(momentum=0.0), no=only_if(_CONFIG, _RUNS_ONLY, _PLAIN, _UNIT,
        (not_of("lyapunov", "exact_exponents"), "its state has no momentum")),
    ),
    "optax.sgd": Change(
        lambda problem: problem.but(limits=False, dynamics_as=lambda p, schedule: uj.Descent(
            schedule, *p.rates[:2], optimizer=optax.sgd(1.0), rate_b=p.own(p.rates))),
        {"log_distance*": Unsaid("an optimiser has no limit"), "gap_W": Unsaid("an optimiser has no limit")},
        only_if(_CONFIG, _PLAIN, (lambda operation, problem: operation.startswith("simulate"), "only simulated")),
    ),
}  # fmt: skip


# --- one run in several ways ----------------------------------------------------------------------------------------


def loop(operation: Operation, problem: Problem) -> dict[str, Any]:
    """Plain steps in NumPy with the gradients written out, and the norms and the loss that they lead to."""
    H, W, b = (np.array(part, dtype=np.longdouble) for part in (problem.H, problem.W, problem.b))
    targets = np.eye(C)[problem.index] if problem.table is None else problem.table[problem.index]
    q, (l1, l2, lb), moves = problem.q[:, None], problem.of_all(problem.decay), problem.case
    l1, l2 = (0 if moves == "frozen" else l1), (0 if moves in ("anchored", "spherical") else l2)
    r1, r2, rb = (r * problem.eta for r in problem.of_all(problem.rates))
    r1, r2 = (0 if moves == "frozen" else r1), (0 if moves in ("anchored", "spherical") else r2)
    kernel = np.eye(problem.samples) if problem.kernel is None else problem.kernel
    beta, trace, found = problem.momentum or 0, [0 * H, 0 * W, 0 * b], []
    for k in range(problem.times[-1] + 1):
        lengths = np.linalg.norm(np.asarray(H, float), axis=1)[:, None] if moves == "spherical" else 1
        seen = H / np.sqrt(np.sum(H**2, axis=1, keepdims=True)) if moves == "spherical" else H
        S = seen @ W.T + b
        if problem.loss == "unhinged":
            pull, loss = (1 + problem.gamma) * targets - problem.gamma, None
            loss = -np.sum(q * pull * S)
        elif problem.loss == "cross_entropy":
            log_sum = np.log(np.sum(np.exp(S), axis=1, keepdims=True))
            pull, loss = targets - np.exp(S - log_sum), np.sum(q * targets * (log_sum - S))
        else:
            pull, loss = targets - S, np.sum(q * (S - targets) ** 2) / 2
        if k in problem.times:
            objective = loss + (l1 * np.sum(H**2) + l2 * np.sum(W**2) + lb * np.sum(b**2)) / 2
            norms = [np.log(np.sqrt(np.sum(part**2))) for part in (H, W)]
            found.append([float(x) for x in (loss, objective, *norms)])
        push = kernel @ (q * pull) @ W
        if moves == "spherical":
            push = (push - np.sum(push * seen, axis=1, keepdims=True) * seen) / lengths
        down = [push - l1 * H, (q * pull).T @ seen - l2 * W, problem.bias * (np.sum(q * pull, axis=0) - lb * b)]
        trace = [d + beta * v for d, v in zip(down, trace, strict=True)]
        step = [d + beta * v for d, v in zip(down, trace, strict=True)] if problem.nesterov else trace
        H, W, b = H + r1 * step[0], W + r2 * step[1], b + rb * step[2]
    return dict(zip(("loss", "objective", "log_norm_H", "log_norm_W"), np.transpose(found), strict=True))


def batched(*sizes: int) -> Callable[[Operation, Problem], dict[str, Any]]:
    """The problem as the last member of a batch of starts."""

    def values(operation: Operation, problem: Problem) -> dict[str, Any]:
        rng = np.random.default_rng(6)
        with jax.enable_x64(True):
            parts = []
            for own in (problem.H, problem.W):
                others = jnp.asarray(rng.normal(size=(*sizes, *np.shape(own))))
                parts.append(others.at[(-1,) * len(sizes)].set(own))
            mapped = lambda H, W: operation.values(problem.but(H=H, W=W, b=jnp.asarray(problem.b)))  # noqa: E731
            for _ in sizes:
                mapped = jax.vmap(mapped)
            return {name: np.asarray(value)[(-1,) * len(sizes)] for name, value in mapped(*parts).items()}

    return values


def compiled(operation: Operation, problem: Problem) -> dict[str, Any]:
    with jax.enable_x64(True):
        return jax.jit(lambda H, W, b: operation.values(problem.but(H=H, W=W, b=b)))(
            *map(jnp.asarray, (problem.H, problem.W, problem.b))
        )


def one_by_one(operation: Operation, problem: Problem) -> dict[str, Any]:
    """A few of the observables, each asked for alone."""
    names = ("log_norm_W", "accuracy", "gnc2", "objective")
    return {name: operation.values(problem.but(observe=(name,)))[name] for name in names}


def _cut(problem: Problem, by: str) -> Problem:
    """From between the first two times; gone on with, the run is looked at there, too."""
    at = problem.times[1] / 2 if problem.kind == "flow" else problem.times[1] // 2
    return problem.but(cut=at, cut_by=by, times=(at, *problem.times[1:]), seen=observed(problem))


def _other_times(problem: Problem) -> Problem:
    between = 1.0 if problem.kind == "flow" else 1
    return problem.but(times=(between, *problem.times[1:]))


_RUN = (lambda operation, problem: OPERATIONS[operation].in_time, "it does not run along times")
_TRACED = (lambda operation, problem: OPERATIONS[operation].traced, "it computes in NumPy, one start at a time")
_RUNNING = (lambda operation, problem: operation not in _ONE_STATE, "it looks at one state")
_SIMULATED = (lambda operation, problem: operation.startswith("simulate,"), "not simulated")
_GOES_ON = (
    _CONFIG, _RUNNING,
    (not_of("lyapunov", "limit_sensitivity"), "it takes a state"),
    (not_of("exact_exponents"), "it takes no state"),
    (not_of("push_forward"), "the tangent belongs to the first start"),
    (not_of("sensitivity, exact", "sensitivity, simulated"), "what was run before depends on the parameters, too"),
)  # fmt: skip
_AT_REST = (
    lambda operation, problem: operation != "limit" or problem.momentum is None, "a limit is that of a run from rest"
)  # fmt: skip
_HAS_FORM = (lambda operation, problem: problem.loss == "unhinged", "no closed form")
_SHARPENS = (
    lambda operation, problem: operation != "limit" or problem.case != "spherical" or problem.kind == "flow",
    "the rate of a spherical descent is a bound, which is sharper from a later state",
)

RUNS: dict[str, Change] = {
    "dense": Change(
        lambda problem: problem.but(reduce=False),
        no=only_if(_SIMULATED),
        moves={"log_distance*": Unsaid("not measured without reduction"), "gap_W": Unsaid("not measured without it")},
    ),
    "closed form": Change(lambda problem: problem.but(solver="exact"), no=only_if(_SIMULATED, _HAS_FORM)),
    "a loop in NumPy": Change(
        lambda problem: problem, values=loop,
        no=only_if(_RUN, _CONFIG, (lambda operation, problem: problem.kind == "descent", "a flow is no loop")),
    ),
    "cut, simulated and gone on": Change(lambda problem: _cut(problem, "simulate"), later=True, no=only_if(
        *_GOES_ON, (not_of("limit"), "it takes a state from wherever: from closed forms, which compile less"))),
    "cut, exact and gone on": Change(
        lambda problem: _cut(problem, "exact"), later=True, no=only_if(*_GOES_ON, _HAS_FORM, _AT_REST, _SHARPENS)
    ),
    "other times beside": Change(_other_times, no=only_if(_RUN), later=True),
    "one observable at a time": Change(lambda problem: problem, values=one_by_one, no=only_if(
        (lambda operation, problem: operation == "observe_state" or OPERATIONS[operation].in_time, "no choice"))),
    "jit": Change(lambda problem: problem, values=compiled, no=only_if(_TRACED)),
    "vmap of 1": Change(lambda problem: problem, values=batched(1), no=only_if(_TRACED)),
    "vmap of 3": Change(lambda problem: problem, values=batched(3), no=only_if(_TRACED)),
    "vmap of 2 x 3": Change(lambda problem: problem, values=batched(2, 3), no=only_if(_TRACED)),
}  # fmt: skip

_DEAR = {
    1: ("space embedded", "samples doubled", "schedule: cosine as a function", "jit", "vmap of 2 x 3", "labels: s*(0)",
        "cut, simulated and gone on"),
    2: ("noise for gamma", "labels: soft", "kernel: identity", "schedule: *", "momentum 0", "one observable at a time",
        "vmap of 1", "vmap of 3"),
}  # fmt: skip
"""What changes cost; all others cost no compilation, or are made in every line for what they look at."""


def _costs(name: str) -> int:
    return next((cost for cost, known in _DEAR.items() if any(fnmatch.fnmatch(name, one) for one in known)), 0)


CHANGES: dict[str, Change] = {
    name: dataclasses.replace(change, costs=_costs(name))
    for name, change in {**SYMMETRIES, **NUMBERS, **WRITINGS, **RUNS}.items()
}
