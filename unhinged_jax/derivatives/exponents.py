"""Lyapunov exponents, which say how fast nearby runs separate: simulated, and in closed form for linear dynamics.

    lambda_j = (1/t) log of the j-th singular value of the derivative of the flow map over the time t

See docs/gradients.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check, _memory, _request
from unhinged_jax import precision as _precision
from unhinged_jax._request.compiling import compiled
from unhinged_jax._values import Value
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.closed_form.timeline import closed
from unhinged_jax.derivatives.flow_map import Times, flow_map
from unhinged_jax.dynamics import RATES, Descent, Dynamics, Flow, carried_by
from unhinged_jax.linear.rates import bias_rates, unit_rates
from unhinged_jax.model import LayerPeeled, State, must_fit
from unhinged_jax.simulation import scale_must_fit
from unhinged_jax.trajectory import RunResult, Trajectory


@dataclasses.dataclass(frozen=True)
class Lyapunov(Value):
    """Finite-time Lyapunov exponents.

    Attributes:
        exponents: (count,), descending: mean growth rates per unit of time (per update) after the transient.
        history: (segments, count): the rate in each segment, including the transient.
        times: (segments + 1,): where segments begin and end.
        transient: How many of the first segments are left out of `exponents`.

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
    state: State | Trajectory,
    until: float,
    count: int,
    *,
    segments: int = 20,
    transient: int | None = None,
    seed: int = 0,
    precision: str | None = None,
) -> Lyapunov:
    """Finite-time Lyapunov exponents of a simulated run, by the QR method.

    An orthonormal frame of `count` directions is pushed forward segment by segment and made orthonormal again, D Phi Q
    = Q' R; the exponents are the means of log |R_ii| / (t' - t). The directions are those of the whole state of the
    dynamics: of H, W and b, and of the velocity of momentum or of a flow with damping, or the memory of an optimiser,
    which are carried from segment to segment.

    Args:
        model, dynamics, state, precision: as in `simulate`.
        until: Last time, or number of updates.
        count: How many exponents, the largest first; at most the number of entries of H, W (and b) that move, twice as
            many with momentum or damping, and with an optimiser the number of entries that it remembers in addition.
        segments: Pieces between two orthonormalisations, each short enough that the directions remain distinct.
        transient: Number of first segments that are not counted (default a quarter), in which the frame turns to its
            final directions.
        seed: Seed of the random frame.

    Returns:
        A `Lyapunov`. For a linear dynamics the exponents tend to the real parts of the spectrum, `exact_exponents`. A
        flow's solver chooses its steps from the state alone; if that has become steady, more segments make the
        exponents more accurate.

    Raises:
        ValueError: for counts out of range, a run that stops before its end, or a scale of the start that does not fit,
            if arrays with a scale are measured together with arrays without one (a bias, the memory of an optimiser).

    Source: beyond the paper (Benettin et al. 1980).

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 1, decay=0.1)
        >>> state = model.init(jax.random.key(0))
        >>> found = lyapunov(model, uj.Descent(0.2), state, 200, 1, precision="float64")
        >>> want = exact_exponents(model, uj.Descent(0.2), 1)
        >>> bool(abs(found.exponents[0] - want[0]) < 1e-9)
        True
    """
    _request.one_at_a_time("lyapunov", model, dynamics, state)
    task = _request.prepare(model, dynamics, state, [until], (), target="top", precision=precision, caller="lyapunov")
    if carried_by(dynamics) == "memory":
        raise ValueError("lyapunov takes a dynamics without `memory`, whose exponents are those of the run itself.")
    begin, memory = task.first, task.memory
    _check.seed("seed", seed)
    _check.whole("count", count, 1)
    _check.whole("segments", segments, 1)
    transient = segments // 4 if transient is None else _check.whole("transient", transient, 0)
    if transient >= segments:
        raise ValueError(f"transient must be less than the {segments} segments, but is {transient}.")
    if not until > begin:
        raise ValueError(f"until must lie after the start of the run, {begin}, but is {until}.")
    times = np.linspace(begin, until, segments + 1)
    if isinstance(dynamics, Descent):
        if (until - begin) % segments:
            raise ValueError(f"{until - begin} updates do not fall into {segments} equal segments; choose a divisor.")
        times = times.astype(int)
    with _precision.scope(task.precision):
        begun = task.state
        scale_must_fit(model, dynamics, begun)
        moved, dynamics = _request.traceable((model, dynamics))
        memory = _start_memory(dynamics, begun) if memory is None else jax.tree.map(jnp.asarray, memory)
        there = _moving(moved, dynamics, begun, memory)
        if not (model.linear or all(there.scaled)):  # arrays of different kinds, whose lengths are compared
            must_fit(begun, task.precision)
        moving = sum(int(part.size) for part in there.parts)
        if count > moving:
            raise ValueError(f"count must be at most {moving}, the numbers that move, but is {count}.")
        drawn = np.linalg.qr(np.random.default_rng(seed).normal(size=(moving, count)))[0]
        frame, history = jnp.asarray(drawn, jnp.result_type(float)), []
        for start, end in itertools.pairwise(times):
            (begun, memory), frame, stretch, code = _segment(moved, dynamics, begun, memory, start, end, frame)
            if int(code) != RunResult.COMPLETED:
                raise ValueError(f"the run stops between {start} and {end}: {RunResult(int(code)).message}")
            history.append(_memory.read(stretch) / (end - start))
    rates = np.asarray(history)
    return Lyapunov(np.sort(rates[transient:].mean(axis=0))[::-1], rates, times, transient)


def _start_memory(dynamics: Dynamics, state: State) -> Any:
    """What a descent remembers at its start: a velocity of zero, or the optimiser's initial memory; else None."""
    parts = {"H": state.H, "W": state.W, "b": state.b}
    if carried_by(dynamics) in ("momentum", "velocity"):
        return jax.tree.map(jnp.zeros_like, parts)
    optimizer = _optimizer(dynamics)
    if optimizer is None:
        return None
    grown = jnp.exp(state.log_scale)
    return optimizer.init({**parts, "H": grown * state.H, "W": grown * state.W})


class _Moving(NamedTuple):
    """The arrays of a state and its memory that move; which of them are divided by the state's scale; (arrays) ->
    both."""

    parts: list[jax.Array]
    scaled: list[bool]
    put: Callable[[Any], tuple[Any, Any]]


def _moving(model: LayerPeeled, dynamics: Dynamics, state: State, memory: PyTree) -> _Moving:
    moves = model.moves._asdict()
    found, form = jax.tree_util.tree_flatten_with_path(({name: getattr(state, name) for name in moves}, memory))
    names = [[entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)] for path, _ in found]

    def free(keys: list[str], leaf: jax.Array) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.inexact) and all(moves.get(key, True) for key in keys)

    which = [free(keys, leaf) for keys, (_, leaf) in zip(names, found, strict=True)]
    # An optimiser remembers its inputs with their scale; a velocity is divided by the scale of the state.
    over = [keys in (["H"], ["W"]) and (_optimizer(dynamics) is None or path[0].idx == 0)
            for keys, (path, _) in zip(names, found, strict=True)]  # fmt: skip

    def put(parts: Iterable[jax.Array]) -> tuple[State, Any]:
        pieces = iter(parts)
        leaves = [next(pieces) if there else leaf for (_, leaf), there in zip(found, which, strict=True)]
        arrays, kept = jax.tree.unflatten(form, leaves)
        return state.replace(**arrays), kept

    parts = [leaf for (_, leaf), there in zip(found, which, strict=True) if there]
    return _Moving(parts, [one for one, there in zip(over, which, strict=True) if there], put)


def _optimizer(dynamics: Dynamics) -> Any:
    return getattr(dynamics, "optimizer", None)


def _segment(
    model: LayerPeeled, dynamics: Dynamics, state: State, memory: PyTree, start: float, end: float, frame: jax.Array
) -> Any:
    if isinstance(dynamics, Descent):
        dynamics = _later(dynamics, start)
        return _stretch(model, dynamics, state, memory, Times((0, np.asarray([end - start]))), None, frame)
    assert isinstance(dynamics, Flow)
    dynamics = dataclasses.replace(dynamics, steady=False)
    return _stretch(model, dynamics, state, memory, None, jnp.asarray([start, end], frame.dtype), frame)


def _later(descent: Descent, start: float) -> Descent:
    """The descent whose update 0 is update `start` of this one."""
    from unhinged_jax.schedules import Constant, Schedule, numeric

    def shifted(rate: Schedule | ArrayLike) -> Any:
        if not isinstance(rate, Schedule) or isinstance(rate, Constant):
            return rate
        return numeric(jax.tree_util.Partial(lambda rate, begin, k: rate(begin + k), rate, jnp.asarray(float(start))))

    names = ("schedule", *RATES)
    return dataclasses.replace(descent, **{name: shifted(getattr(descent, name)) for name in names})


@compiled()
def _stretch(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State,
    memory: PyTree,
    static: Times | None,
    span: Any,
    frame: jax.Array,
) -> tuple[tuple[State, Any], jax.Array, jax.Array, jax.Array]:
    """State and memory at the end, the frame there, the logarithms of how far it was stretched, and how it ended."""
    if model.linear and _optimizer(dynamics) is None:
        # The directions of a linear dynamics depend neither on H and W nor on their size.
        state = state.replace(log_scale=jnp.zeros_like(state.log_scale))
    begun, unit = _moving(model, dynamics, state, memory), state.log_scale
    sizes = np.cumsum([part.size for part in begun.parts])[:-1]

    def final(*arrays: jax.Array) -> tuple[Any, Any]:
        begin, kept = begun.put(arrays)
        first, times = (span[0], span[1:]) if static is None else static.values
        ends, run = flow_map(model, dynamics, begin, first, times, kept)
        ended = _moving(model, dynamics, State(*ends), run.memory)
        # In units of e^unit, since only ratios of lengths are read.
        factors = jnp.exp(-unit), jnp.exp(ends[3] - unit)
        return [factors[scaled] * part for part, scaled in zip(ended.parts, ended.scaled, strict=True)], run

    def push(column: jax.Array) -> tuple[jax.Array, Any]:
        pieces = zip(jnp.split(column, sizes), begun.parts, begun.scaled, strict=True)
        tangents = [piece.reshape(part.shape) * (1 if scaled else jnp.exp(unit)) for piece, part, scaled in pieces]
        _, moved, run = jax.jvp(final, tuple(begun.parts), tuple(tangents), has_aux=True)
        return jnp.concatenate([part.reshape(-1) for part in moved]), run

    pushed, run = jax.vmap(push, in_axes=1, out_axes=(1, None))(frame)
    frame, R = jnp.linalg.qr(pushed)
    return (run.final, run.memory), frame, jnp.log(jnp.abs(jnp.diagonal(R))), run.code


def exact_exponents(model: LayerPeeled, dynamics: Dynamics, count: int | None = None) -> np.ndarray:
    """The spectrum of a linear dynamics: growth rates per unit of zeta(t), or per update at constant rate, descending.

    mu_+- of each mode, p-fold; -r_1 lambda_1 and -r_2 lambda_2 for uncoupled parts, and minus rate times decay of the
    bias; in a descent log |1 + eta mu|.

    Args:
        model, dynamics: As in `exact`; a descent without momentum, at a constant rate.
        count: How many exponents, the largest first; default all.

    Returns:
        NumPy array of shape (count,), descending.

    Raises:
        NoClosedForm: for a dynamics that is not linear, momentum, damping, a descent with a schedule, or a kernel.

    Source: Zhou et al. 2023, Theorem 4, for any signal, decays and rates (beyond the paper).

    Example:
        >>> import unhinged_jax as uj
        >>> exact_exponents(uj.unconstrained(uj.balanced(2, 1), 1), uj.Flow()).round(3).tolist()
        [1.0, 0.0, 0.0, -1.0]
    """
    why = why_no_closed_form(model, dynamics) or (None if model.linear else "the dynamics is not linear.")
    if why is None and (carried_by(dynamics) or getattr(dynamics, "optimizer", None) is not None):
        why = "with momentum, damping or an optimiser the state holds more than H and W."
    if why is None and dynamics.paced:
        why = "a gradient whose norm decides how long a step is does not act linearly."
    if why is None and model.kernel is not None:
        why = "the spectrum with a kernel is not implemented."
    if why is None and isinstance(dynamics, Descent) and not closed(dynamics):
        why = "the exponents of a descent are per update at a constant rate; give a number as its schedule and rates."
    if why:
        raise NoClosedForm(f"there is no closed form: {why}")
    _request.one_at_a_time("exact_exponents", model, dynamics)
    if count is not None:
        _check.whole("count", count, 1)
    with _precision.scope("float64"):
        model, dynamics = _request.traceable((model, dynamics))
        gram = _memory.read(model.signal().gram(jnp.float64))
        rates = unit_rates(model, dynamics, jnp.float64)
        of_bias = float(bias_rates(model, dynamics, rates).decay)
        eta = None if isinstance(dynamics, Flow) else float(dynamics.schedule(0))
    a, c, r1, r2 = (float(rate) for rate in dataclasses.astuple(rates))
    pairs = min(model.samples, model.classes)
    squares = np.maximum(np.linalg.eigvalsh(gram), 0.0)[model.classes - pairs :]
    root = np.sqrt(((a - c) / 2) ** 2 + r1 * r2 * squares)
    modes = [-(a + c) / 2 + root, -(a + c) / 2 - root]
    modes += [np.full(model.samples - pairs, -a), np.full(model.classes - pairs, -c)]
    if not model.moves.coupled:
        modes = [np.full(model.samples, -a) if model.moves.H else np.full(model.classes, -c)]
    every = np.repeat(np.concatenate(modes), model.dim)
    if model.moves.b:
        every = np.concatenate([every, np.full(model.classes, -of_bias)])
    if eta is not None:
        every = np.log(np.maximum(np.abs(1 + eta * every), np.finfo(float).tiny))
    return np.sort(every + 0.0)[::-1][:count]  # no -0.0
