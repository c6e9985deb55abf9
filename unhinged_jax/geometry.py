"""Geometry of the dynamics: the linearised flow map and finite-time Lyapunov exponents."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _entry
from unhinged_jax import precision as _precision
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.exact.run import NoClosedForm, why_no_closed_form
from unhinged_jax.exact.timeline import unit_rates
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.simulate import simulate
from unhinged_jax.trajectory import Trajectory


def push_forward(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: Any,
    tangent: State,
    *,
    precision: str | None = None,
) -> tuple[Trajectory, State]:
    """Jacobian-vector product of the flow map Phi_t: (H_0, W_0, b_0) -> (H_t, W_t, b_t), simulated.

    Args:
        model, dynamics, state, times, precision: as in `simulate`; the product is taken at the last time. Of a
            `Trajectory` to go on from, the map is that from its final state, what it carries held fixed.
        tangent: dH, dW, db with the shapes of the state, in units of e^state.log_scale.

    Returns:
        The trajectory (without observables), and D Phi_t tangent as a `State` with the trajectory's final `log_scale`.

    Raises:
        ValueError: as `simulate`.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 2, decay=0.1)
        >>> state = model.init(jax.random.key(0))
        >>> run, pushed = push_forward(model, uj.Descent(0.1), state, [0, 5], state)
        >>> bool(jnp.allclose(pushed.W, run.final.W, rtol=1e-5))  # a linear flow map
        True
    """
    task = _entry.prepare(model, dynamics, state, times, (), "top", precision, "push_forward")
    with task.context():
        moved, dynamics = _entry.traceable((model, dynamics))
        tangents = [jnp.asarray(part, task.state.W.dtype) for part in (tangent.H, tangent.W, tangent.b)]
        run, pushed = _push(moved, dynamics, task.resumed(task.state), _Times(task.times), tangents)
    return task.finish(run), task.give_back(pushed)


@dataclasses.dataclass(frozen=True)
class _Times:
    """Times that may be static: descents need them so, flows as data."""

    values: Any

    def __hash__(self) -> int:
        return hash(np.asarray(self.values).tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Times) and np.array_equal(self.values, other.values)


def _map(
    model: LayerPeeled, dynamics: Dynamics, state: State | Trajectory, times: Any
) -> tuple[list[jax.Array], Trajectory]:
    adjoint = diffrax.ForwardMode() if isinstance(dynamics, Flow) else None
    run = simulate(model, dynamics, state, times, (), adjoint=adjoint)
    return [run.final.H, run.final.W, run.final.b, run.final.log_scale], run


@eqx.filter_jit
def _push(
    model: LayerPeeled, dynamics: Dynamics, begin: State | Trajectory, times: _Times, tangents: list[jax.Array]
) -> Any:
    state = begin.final if isinstance(begin, Trajectory) else begin

    def final(H: jax.Array, W: jax.Array, b: jax.Array) -> tuple[list[jax.Array], Trajectory]:
        moved = state.replace(H=H, W=W, b=b)
        return _map(
            model,
            dynamics,
            dataclasses.replace(begin, final=moved) if isinstance(begin, Trajectory) else moved,
            times.values,
        )

    parts, moved, run = jax.jvp(final, (state.H, state.W, state.b), tuple(tangents), has_aux=True)
    H, W, b, log_scale = moved
    # The state is e^log_scale (H, W), and the scale may move, too.
    tangent = State(H + parts[0] * log_scale, W + parts[1] * log_scale, b, run.final.log_scale)
    return run, tangent


@dataclasses.dataclass(frozen=True)
class Lyapunov:
    """Finite-time Lyapunov exponents.

    Attributes:
        exponents: (count,), descending: mean growth rates per unit of time (per update) after the transient.
        history: (segments, count): the rate in each segment, the transient included.
        times: (segments + 1,): where segments begin and end.
        transient: How many segments, the first ones, are left out of `exponents`.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 2, decay=0.1)
        >>> found = lyapunov(model, uj.Flow(), model.init(jax.random.key(0)), 10.0, 2, segments=4)
        >>> found.history.shape, found.times.tolist(), found.transient
        ((4, 2), [0.0, 2.5, 5.0, 7.5, 10.0], 1)
    """

    exponents: np.ndarray
    history: np.ndarray
    times: np.ndarray
    transient: int


def lyapunov(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State,
    until: float,
    count: int,
    *,
    segments: int = 20,
    transient: int | None = None,
    seed: int = 0,
    precision: str | None = None,
) -> Lyapunov:
    """Finite-time Lyapunov exponents of a simulated run, by the QR method.

    An orthonormal frame of `count` directions is pushed forward segment by segment and made orthonormal again,
    D Phi Q = Q' R; the exponents are the means of log |R_ii| / (t' - t).

    Args:
        model, dynamics, state, precision: as in `simulate`.
        until: Last time, or number of updates.
        count: How many exponents, the largest first; at most the number of entries of H, W (and b) that move.
        segments: Pieces between two orthonormalisations, each short enough that directions stay apart.
        transient: First segments that are not counted (default a quarter), while the frame turns to its place.
        seed: Of the random frame.

    Returns:
        A `Lyapunov`. For a linear dynamics the exponents tend to the real parts of the spectrum, `exact_exponents`. A
        flow's solver chooses its steps by the state alone: where that has become steady, more segments make the
        exponents more exact.

    Raises:
        ValueError: for counts out of range.

    Source: beyond the paper (Benettin et al. 1980).

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 1, decay=0.1)
        >>> found = lyapunov(model, uj.Descent(0.2), model.init(jax.random.key(0)), 200, 1, precision="float64")
        >>> want = exact_exponents(model, uj.Descent(0.2), 1)
        >>> bool(abs(found.exponents[0] - want[0]) < 1e-9)
        True
    """
    model.check_state(state)
    moving = moving_numbers(model)
    _check.whole("count", count, 1)
    if count > moving:
        raise ValueError(f"count must be at most {moving}, the numbers that move, but is {count}.")
    _check.whole("segments", segments, 1)
    transient = segments // 4 if transient is None else _check.whole("transient", transient, 0)
    if transient >= segments:
        raise ValueError(f"transient must be less than the {segments} segments, but is {transient}.")
    name = precision or _precision.of((state.H, state.W))
    times = np.linspace(0, until, segments + 1)
    if isinstance(dynamics, Descent):
        if until % segments:
            raise ValueError(f"{until} updates do not fall into {segments} equal segments; choose a divisor.")
        times = times.astype(int)
    with _precision.scope(name):
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), state)
        moved, dynamics = _entry.traceable((model, dynamics))
        drawn = np.linalg.qr(np.random.default_rng(seed).normal(size=(moving, count)))[0]
        frame, history = jnp.asarray(drawn, jnp.result_type(float)), []
        run: Any = state
        for start, end in itertools.pairwise(times):
            run, frame, stretch = _segment(moved, dynamics, run, start, end, frame)
            history.append(np.asarray(stretch) / (end - start))
    rates = np.asarray(history)
    return Lyapunov(np.sort(rates[transient:].mean(axis=0))[::-1], rates, times, transient)


def moving_numbers(model: LayerPeeled) -> int:
    """How many entries of H, W and b move."""
    sizes = (
        model.samples * model.dim if model.features_move else 0,
        model.classes * model.dim if model.prototypes_move else 0,
        model.classes if model.prototypes_move and model.bias else 0,
    )
    return sum(sizes)


def _segment(model: LayerPeeled, dynamics: Dynamics, state: State, start: Any, end: Any, frame: jax.Array) -> Any:
    if isinstance(dynamics, Descent):
        dynamics = _later(dynamics, start)
        return _stretch(model, dynamics, state, _Times(np.asarray([end - start])), None, frame)
    return _stretch(model, dynamics, state, None, jnp.asarray([start, end], frame.dtype), frame)


def _later(descent: Descent, start: Any) -> Descent:
    """The descent whose update 0 is update `start` of this one."""
    from unhinged_jax.schedules import Constant, Schedule, numeric

    def shifted(rate: Any) -> Any:
        if not isinstance(rate, Schedule) or isinstance(rate, Constant):
            return rate
        return numeric(jax.tree_util.Partial(lambda rate, begin, k: rate(begin + k), rate, jnp.asarray(float(start))))

    names = ("schedule", "rate_H", "rate_W")
    return dataclasses.replace(descent, **{name: shifted(getattr(descent, name)) for name in names})


@eqx.filter_jit
def _stretch(
    model: LayerPeeled, dynamics: Dynamics, state: State, static: _Times | None, span: Any, frame: jax.Array
) -> tuple[State, jax.Array, jax.Array]:
    """The state at the end, the frame there, and the logarithms of how far its directions were stretched."""
    shapes = [state.H.shape, state.W.shape, state.b.shape]
    moves = [model.features_move, model.prototypes_move, model.prototypes_move and model.bias]

    def parts(column: jax.Array) -> list[jax.Array]:
        found, at = [], 0
        for shape, there in zip(shapes, moves, strict=True):
            size = int(np.prod(shape)) if there else 0
            found.append(column[at : at + size].reshape(shape) if there else jnp.zeros(shape, column.dtype))
            at += size
        return found

    def final(H: jax.Array, W: jax.Array, b: jax.Array) -> tuple[list[jax.Array], State]:
        begin = state.replace(H=H, W=W, b=b)
        if static is None:
            clock = Flow(**{f.name: getattr(dynamics, f.name) for f in dataclasses.fields(dynamics)})
            reached = Trajectory(span, {}, jnp.ones(2, bool), begin, span[0], 0, 0, clock="time")
            ends, run = _map(model, clock, reached, span[1:])
        else:
            ends, run = _map(model, dynamics, begin, static.values)
        return ends, run.final

    def push(column: jax.Array) -> tuple[jax.Array, State]:
        ends, moved, last = jax.jvp(final, (state.H, state.W, state.b), tuple(parts(column)), has_aux=True)
        H, W, b, log_scale = moved
        # Relative to e^log_scale of the start; only ratios of lengths are read.
        grown = jnp.exp(last.log_scale - state.log_scale)
        tangent = [(H + ends[0] * log_scale) * grown, (W + ends[1] * log_scale) * grown, b]
        kept = [part.reshape(-1) for part, there in zip(tangent, moves, strict=True) if there]
        return jnp.concatenate(kept), last

    pushed, last = jax.vmap(push, in_axes=1, out_axes=(1, None))(frame)
    frame, R = jnp.linalg.qr(pushed)
    return last, frame, jnp.log(jnp.abs(jnp.diagonal(R)))


def exact_exponents(model: LayerPeeled, dynamics: Dynamics, count: int | None = None) -> np.ndarray:
    """The spectrum of a linear dynamics: growth rates per unit of zeta(t), or per update at constant rate, descending.

    mu_+- of each mode, p-fold; -r_1 lambda_1 and -r_2 lambda_2 for what is uncoupled, and for the bias; in a descent
    log |1 + eta mu|.

    Args:
        model, dynamics: As in `exact`; a descent without momentum.
        count: How many, the largest first; default all.

    Returns:
        NumPy array of shape (count,), descending.

    Raises:
        NoClosedForm: for a dynamics that is not linear, or a descent with momentum or a kernel.

    Source: Zhou et al. 2023, Theorem 4, for any signal, decays and rates (beyond the paper).

    Example:
        >>> import unhinged_jax as uj
        >>> exact_exponents(uj.unconstrained(uj.balanced(2, 1), 1), uj.Flow()).round(3).tolist()
        [1.0, 0.0, 0.0, -1.0]
    """
    why = why_no_closed_form(model, dynamics) or (None if model.linear else "the dynamics is not linear.")
    if why is None and getattr(dynamics, "momentum", None) is not None:
        why = "with momentum the state is more than H and W."
    if why is None and model.kernel is not None:
        why = "the spectrum with a kernel is not offered."
    if why:
        raise NoClosedForm(f"there is no closed form: {why}")
    with _precision.scope("float64"):
        model, dynamics = _entry.traceable((model, dynamics))
        gram = np.asarray(model.signal().gram(jnp.float64))
        rates = [float(x) for x in dataclasses.astuple(unit_rates(model, dynamics, jnp.float64))]
        eta = None if isinstance(dynamics, Flow) else float(dynamics.schedule(0))
    a, c, r1, r2 = rates
    squares = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    root = np.sqrt(((a - c) / 2) ** 2 + r1 * r2 * squares)
    coupled = np.concatenate([-(a + c) / 2 + root, -(a + c) / 2 - root])
    if not (model.features_move and model.prototypes_move):
        coupled = np.full(model.classes, -a if model.features_move else -c)
    spare = np.full(model.samples - model.classes if model.features_move else 0, -a)
    every = np.repeat(np.concatenate([coupled, spare]), model.dim)
    if model.bias and model.prototypes_move:
        every = np.concatenate([every, np.full(model.classes, -c)])
    if eta is not None:
        every = np.log(np.maximum(np.abs(1 + eta * every), np.finfo(float).tiny))
    return np.sort(every + 0.0)[::-1][:count]  # no -0.0
