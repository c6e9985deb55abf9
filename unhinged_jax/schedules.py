"""Learning-rate schedules eta(t) with their exact integral zeta(t) = int_0^t eta(s) ds.

Gradient flow depends on time only through zeta, so every schedule carries its integral beside
its value. Both act elementwise on arrays of times and are differentiable in the time and in the
schedule's parameters, which are the leaves of a frozen pytree: sweeping one never recompiles.

A schedule is also an optax schedule: called with an integer step count it gives the rate of that
step. Use the lower-case constructors; they check what the classes take as given.
"""

from __future__ import annotations

import abc
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap
from jax.tree_util import Partial
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.special import phi1

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "Numeric",
    "Piecewise",
    "Polynomial",
    "QuadratureWarning",
    "Schedule",
    "Warmup",
    "as_schedule",
    "constant",
    "cosine",
    "exponential",
    "numeric",
    "piecewise",
    "polynomial",
    "warmup",
]


Number: TypeAlias = float | Array


class Schedule(abc.ABC):
    """A learning rate eta(t) >= 0 for t >= 0, with its integral.

    Times that are not traced are checked: a negative, infinite or NaN time raises `ValueError`.
    """

    def __call__(self, t: ArrayLike) -> Array:
        """The rate eta(t), continuous from the right where it jumps.

        Args:
            t: times or integer step counts, any shape.

        Returns:
            Rates, of the shape of `t`.
        """
        return self._rate(_times(t))

    def integral(self, t: ArrayLike) -> Array:
        """The integrated rate zeta(t) = int_0^t eta(s) ds.

        Args:
            t: times or integer step counts, any shape, in any order.

        Returns:
            Integrals, of the shape of `t`; their derivative in `t` is eta(t).
        """
        return self._integral(_times(t))

    @property
    @abc.abstractmethod
    def breaks(self) -> tuple[Number, ...]:
        """Times, ascending, at which eta is not smooth."""

    @abc.abstractmethod
    def _rate(self, t: Array) -> Array: ...

    @abc.abstractmethod
    def _integral(self, t: Array) -> Array: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """eta(t) = value; see `constant`."""

    value: Number

    @property
    def breaks(self) -> tuple[Number, ...]:
        return ()

    def _rate(self, t: Array) -> Array:
        return self.value * jnp.ones_like(t)

    def _integral(self, t: Array) -> Array:
        return self.value * t


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `peak` down to `floor`; see `cosine`."""

    peak: Number
    horizon: Number
    floor: Number = 0.0

    @property
    def breaks(self) -> tuple[Number, ...]:
        return (self.horizon,)

    def _rate(self, t: Array) -> Array:
        # (1 + cos(pi u/T))/2 as a square: it loses no digits where the rate vanishes.
        left = self.horizon - jnp.minimum(t, self.horizon)
        fraction = jnp.sin(jnp.pi / 2 * left / self.horizon) ** 2
        return self.floor + (self.peak - self.floor) * fraction

    def _integral(self, t: Array) -> Array:
        u = jnp.minimum(t, self.horizon)
        wave = self.horizon / jnp.pi * jnp.sin(jnp.pi * u / self.horizon)
        return self.floor * t + (self.peak - self.floor) / 2 * (u + wave)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """eta(t) = initial exp(-rate t); see `exponential`."""

    initial: Number
    rate: Number

    @property
    def breaks(self) -> tuple[Number, ...]:
        return ()

    def _rate(self, t: Array) -> Array:
        return self.initial * jnp.exp(-self.rate * t)

    def _integral(self, t: Array) -> Array:
        return self.initial * t * phi1(self.rate * t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """Power-law decay from `initial` to `final`, held there; see `polynomial`."""

    initial: Number
    horizon: Number
    power: Number = 1.0
    final: Number = 0.0

    @property
    def breaks(self) -> tuple[Number, ...]:
        return (self.horizon,)

    def _rate(self, t: Array) -> Array:
        inside = t < self.horizon
        left = jnp.where(inside, (self.horizon - t) / self.horizon, 1.0)
        decay = jnp.where(inside, left**self.power, 0.0)
        return self.final + (self.initial - self.final) * decay

    def _integral(self, t: Array) -> Array:
        order = self.power + 1.0
        inside = t < self.horizon
        # 1 - (1 - u/T)^order without the cancellation at small u.
        u = jnp.where(inside, t / self.horizon, 0.0)
        done = jnp.where(inside, -jnp.expm1(order * jnp.log1p(-u)), 1.0)
        return self.final * t + (self.initial - self.final) * self.horizon / order * done


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """Constant between boundaries; see `piecewise`."""

    values: Sequence[Any] | Array
    boundaries: Sequence[Any] | Array

    @property
    def breaks(self) -> tuple[Number, ...]:
        return tuple(self.boundaries)

    def _pieces(self, t: Array) -> tuple[Array, Array, Array]:
        dtype = jnp.result_type(t, *jax.tree_util.tree_leaves((self.values, self.boundaries)))
        values = jnp.asarray(self.values, dtype)
        starts = jnp.append(jnp.zeros(1, dtype), jnp.asarray(self.boundaries, dtype))
        index = jnp.searchsorted(starts[1:], t.astype(dtype), side="right")
        return values, starts, index

    def _rate(self, t: Array) -> Array:
        values, _, index = self._pieces(t)
        return values[index]

    def _integral(self, t: Array) -> Array:
        values, starts, index = self._pieces(t)
        before = jnp.concatenate([starts[:1], jnp.cumsum(values[:-1] * jnp.diff(starts))])
        return before[index] + values[index] * (t - starts[index])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise, then another schedule with its own clock; see `warmup`."""

    length: Number
    schedule: Schedule
    start: Number = 0.0

    @property
    def breaks(self) -> tuple[Number, ...]:
        return (self.length, *(self.length + b for b in self.schedule.breaks))

    def _phases(self, t: Array) -> tuple[Array, Array, Array]:
        """Whether t is in the rise, the fraction of the rise done, and the time since its end."""
        rising = t < self.length
        length = jnp.where(jnp.equal(self.length, 0), 1.0, self.length)
        return (
            rising,
            jnp.where(rising, t / length, 1.0),
            jnp.where(rising, 0.0, t - self.length),
        )

    def _climb(self, t: Array) -> Array:
        return self.schedule(jnp.zeros((), t.dtype)) - self.start

    def _rate(self, t: Array) -> Array:
        rising, done, rest = self._phases(t)
        return jnp.where(rising, self.start + self._climb(t) * done, self.schedule(rest))

    def _integral(self, t: Array) -> Array:
        rising, done, rest = self._phases(t)
        risen = jnp.where(rising, t, self.length)
        return risen * (self.start + self._climb(t) * done / 2) + self.schedule.integral(rest)


class QuadratureWarning(UserWarning):
    """The integral of a `numeric` schedule did not reach the precision of its dtype."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numeric(Schedule):
    """Any callable as a schedule, integrated by adaptive quadrature; see `numeric`."""

    function: Callable[[Any], Any]
    breaks: tuple[Number, ...] = ()

    def _rate(self, t: Array) -> Array:
        return _pointwise(self.function)(t)

    def _integral(self, t: Array) -> Array:
        zeta, error, seen = _quadrature(self.function, self.breaks, t)
        if _check.concrete(zeta):
            _judge(error, seen)
        return zeta

    def error(self, t: ArrayLike) -> Array:
        """Estimated relative error of `integral(t)`, an upper estimate; NaN if eta is not finite.

        Under `jit`, `vmap` and `grad` this is the way to learn what `integral` warns of outside.
        """
        return _quadrature(self.function, self.breaks, _times(t))[1]


def constant(value: Number) -> Constant:
    """The constant rate eta(t) = value, zeta(t) = value t.

    Args:
        value: the rate, >= 0.

    Returns:
        A schedule without breaks.

    Raises:
        ValueError: if `value` is negative or not finite.

    Source: the paper's Figure 1 setting.

    Example:
        >>> from unhinged_jax.schedules import constant
        >>> print(constant(0.5).integral(4))
        2.0
    """
    _check.non_negative("value", value)
    return Constant(value)


def cosine(peak: Number, horizon: Number, floor: Number = 0.0) -> Cosine:
    """Cosine annealing, held at its floor from the horizon T on.

    eta(t) = floor + (peak - floor)(1 + cos(pi t/T))/2 for t < T, and floor for t >= T;
    zeta(T) = (peak + floor) T/2.

    Args:
        peak: the rate at t = 0, >= 0.
        horizon: the time T > 0 at which the floor is reached.
        floor: the last rate, >= 0 (default 0).

    Returns:
        A schedule with one break, at `horizon`.

    Raises:
        ValueError: if a rate is negative, the horizon is not positive, or one is not finite.

    Source: Loshchilov & Hutter 2017 (SGDR) without restarts; beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import cosine
        >>> print(cosine(0.1, horizon=5_000).integral(5_000))
        250.0
    """
    _check.non_negative("peak", peak)
    _check.positive("horizon", horizon)
    _check.non_negative("floor", floor)
    return Cosine(peak, horizon, floor)


def exponential(initial: Number, rate: Number) -> Exponential:
    """Exponential decay, eta(t) = initial exp(-rate t).

    zeta(t) = initial (1 - exp(-rate t))/rate, exact with its derivatives through rate = 0.

    Args:
        initial: eta(0) >= 0.
        rate: decay per unit of time; 0 is a constant, a negative one grows.

    Returns:
        A schedule without breaks.

    Raises:
        ValueError: if `initial` is negative or a number is not finite.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import exponential
        >>> print(exponential(0.5, rate=0.0).integral(4))
        2.0
    """
    _check.non_negative("initial", initial)
    _check.finite("rate", rate)
    return Exponential(initial, rate)


def polynomial(
    initial: Number, horizon: Number, power: Number = 1.0, final: Number = 0.0
) -> Polynomial:
    """Polynomial decay, held at its final rate from the horizon T on.

    eta(t) = final + (initial - final)(1 - t/T)^power for t < T, and final for t >= T;
    zeta(T) = (initial + power final) T/(power + 1).

    Args:
        initial: eta(0) >= 0.
        horizon: the time T > 0 at which `final` is reached.
        power: exponent > 0 (default 1, a straight line).
        final: the last rate, >= 0 (default 0).

    Returns:
        A schedule with one break, at `horizon`.

    Raises:
        ValueError: if a rate is negative, horizon or power is not positive, or one is not finite.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import polynomial
        >>> print(polynomial(0.5, horizon=4).integral([2.0, 4.0, 8.0]))
        [0.75 1.   1.  ]
    """
    _check.non_negative("initial", initial)
    _check.positive("horizon", horizon)
    _check.positive("power", power)
    _check.non_negative("final", final)
    return Polynomial(initial, horizon, power, final)


def piecewise(values: Sequence[Any] | Array, boundaries: Sequence[Any] | Array) -> Piecewise:
    """Piecewise constant: values[i] from boundaries[i-1] up to, not including, boundaries[i].

    Args:
        values: the k + 1 rates, each >= 0.
        boundaries: the k times > 0 at which the rate changes, strictly ascending.

    Returns:
        A schedule whose breaks are the boundaries.

    Raises:
        ValueError: if the lengths do not match, a rate is negative, or the boundaries do not
            ascend from above 0.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import piecewise
        >>> print(piecewise([1.0, 0.5], [2.0]).integral([1.0, 2.0, 4.0]))
        [1. 2. 3.]
    """
    values, boundaries = _sequence("values", values), _sequence("boundaries", boundaries)
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"piecewise needs one value more than boundaries, but got {len(values)} values and "
            f"{len(boundaries)} boundaries; give the rate before the first boundary, too."
        )
    _check.non_negative("values", values)
    return Piecewise(values, _ascending("boundaries", boundaries))


def warmup(length: Number, schedule: Any, start: Number = 0.0) -> Warmup:
    """A linear rise from `start` to schedule(0) over `length`, then `schedule` with t - length.

    Args:
        length: duration of the rise, >= 0; 0 is no rise.
        schedule: what follows: a schedule, a number, or a callable (see `as_schedule`).
        start: eta(0) >= 0 (default 0).

    Returns:
        A schedule with a break at `length` and the shifted breaks of `schedule`.

    Raises:
        ValueError: if `length` or `start` is negative or not finite.
        TypeError: if `schedule` cannot be made a schedule.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import cosine, warmup
        >>> schedule = warmup(100, cosine(0.5, horizon=900))
        >>> print(f"{schedule.integral(1_000):.2f}", schedule.breaks)
        250.00 (100, 1000)
    """
    _check.non_negative("length", length)
    _check.non_negative("start", start)
    return Warmup(length, as_schedule(schedule), start)


def numeric(function: Callable[[Any], Any], breaks: Sequence[Any] | Array = ()) -> Numeric:
    """Any optax schedule or callable eta(t), integrated by adaptive Gauss-Legendre quadrature.

    The interval from 0 to the latest requested time is cut into panels, denser towards 0 and
    towards each break, and halved where the 16-point rule and its two halves differ. All requested
    times share the panels. For eta >= 0 smooth between breaks, zeta is good to 1e-12 relative
    in float64 and 1e-5 in float32; the derivative in t is `function(t)` itself. A feature much
    narrower than 1/500 of the interval, far from 0 and from every break, can be missed: state a
    break there. Breaks are held fixed under differentiation.

    Args:
        function: takes one traced scalar time and returns one real scalar; its parameters are
            differentiable when they are closed over, and also survive `jit` and `vmap` as leaves
            when the callable is a pytree (for instance `jax.tree_util.Partial`).
        breaks: times > 0 at which the function is not smooth, strictly ascending (default none).

    Returns:
        A schedule with these breaks. Outside of `jit`, `vmap` and `grad` its `integral` warns with
        `QuadratureWarning` where the precision above is missed, and raises `ValueError` where the
        function is negative; inside them it returns the best value, and `error` its estimate.

    Raises:
        ValueError: if the breaks do not ascend from above 0.
        TypeError: if `function` cannot be traced by JAX or does not map a scalar to a real scalar.

    Source: beyond the paper.

    Example:
        >>> import optax
        >>> from unhinged_jax.schedules import numeric
        >>> schedule = numeric(optax.linear_schedule(1.0, 0.0, 10), breaks=[10.0])
        >>> print(f"{schedule.integral(20):.5f}")
        5.00000
    """
    if not callable(function):
        raise TypeError(
            f"numeric needs a callable eta(t), but got {type(function).__name__}; give an optax "
            "schedule or a function of one time."
        )
    if jax.tree_util.all_leaves([function]):
        # A plain function is not a pytree; Partial makes it static structure.
        function = Partial(function)
    _check_function(function)
    return Numeric(function, tuple(_ascending("breaks", _sequence("breaks", breaks))))


def as_schedule(x: Any) -> Schedule:
    """Make a schedule of a number (`constant`), a callable (`numeric`) or a schedule (itself).

    Args:
        x: a real number or 0-d array, a callable eta(t) such as an optax schedule, or a schedule.

    Returns:
        The schedule.

    Raises:
        ValueError: if a number is negative or not finite.
        TypeError: if `x` is none of these.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import as_schedule
        >>> as_schedule(0.1)
        Constant(value=0.1)
    """
    if isinstance(x, Schedule):
        return x
    if callable(x):
        return numeric(x)
    if isinstance(x, (int, float, np.number, np.ndarray, Array)) and np.ndim(x) == 0:
        return constant(cast(Number, x))
    raise TypeError(
        f"A schedule must be a number, a callable eta(t) or a schedule, but got "
        f"{type(x).__name__}; see unhinged_jax.schedules for the constructors."
    )


# --- checks -----------------------------------------------------------------------------------


def _sequence(name: str, x: Any) -> Any:
    """A one-dimensional array as it is, any other sequence as a tuple."""
    if isinstance(x, (np.ndarray, Array)):
        if x.ndim != 1:
            raise ValueError(f"`{name}` must be one-dimensional, but has shape {x.shape}.")
        return x
    try:
        return tuple(x)
    except TypeError:
        raise TypeError(f"`{name}` must be a sequence of numbers, but is {x!r}.") from None


def _ascending(name: str, times: Any) -> Any:
    """The times themselves, if they exceed 0 and ascend. Traced times pass unchecked."""
    _check.positive(name, times, "use times after 0")
    if _check.concrete(times) and np.any(np.diff(np.asarray(times, dtype=np.float64)) <= 0):
        raise ValueError(
            f"{name} must be strictly ascending, but got {times}; sort them and drop repeats."
        )
    return times


def _times(t: ArrayLike) -> Array:
    """Times as a floating array; integer step counts take the precision of what they meet."""
    _check.non_negative("t", t, "use times from 0 on")
    times = jnp.asarray(t)
    return times if jnp.issubdtype(times.dtype, jnp.floating) else times * 1.0


def _check_function(function: Callable[[Any], Any]) -> None:
    """Trace the callable once, so that a function JAX cannot use fails here and says why."""
    advice = "write it with jax.numpy (jnp.where instead of if) for one scalar time."
    try:
        out = jax.eval_shape(function, jnp.zeros(()))
    except Exception as problem:
        raise TypeError(f"The callable schedule cannot be traced by JAX: {advice}") from problem
    shape, kind = getattr(out, "shape", None), np.dtype(getattr(out, "dtype", object)).kind
    if shape != () or kind not in "fiuV":
        raise TypeError(
            f"The callable schedule must return one real scalar, but returns {out}: {advice}"
        )
    try:
        hash(jax.tree_util.tree_structure(function))
    except TypeError as problem:
        raise TypeError(
            "The callable schedule is not hashable: use a function, or register its class as a "
            "pytree so that its parameters become leaves."
        ) from problem


def _judge(error: Array, seen: Array) -> None:
    """Raise for a negative rate, warn for an imprecise integral; both are concrete."""
    largest, low = np.asarray(seen)
    if low < -1e-6 * largest:
        raise ValueError(
            f"The callable schedule must not be negative, but falls to {low:.3g}; clip it at 0 or "
            "ask for earlier times."
        )
    bound = max(1e-12, 84 * float(jnp.finfo(error.dtype).eps))
    worst = float(np.max(np.asarray(error), initial=0.0))
    if not worst <= bound:
        warnings.warn(
            f"The integral of the callable schedule has an estimated relative error "
            f"of {worst:.1e}, more than {bound:.0e}; state where it is not smooth as `breaks`.",
            QuadratureWarning,
            stacklevel=4,
        )


# --- quadrature ---------------------------------------------------------------------------------


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_DYADIC = 2.0 ** np.arange(-20, -4)
_GRADING = np.concatenate([[0.0], _DYADIC, np.arange(2, 15) / 16, 1 - _DYADIC[::-1]])
"""Left ends of the first panels, as fractions of a smooth piece: rates often have layers at its
ends, which a uniform partition would miss without noticing."""
_PANELS = 1024
_BATCH = 64


def _pointwise(function: Callable) -> Callable:
    """Elementwise on arrays: some optax schedules take scalars only, or forget the shape of t."""

    def apply(t: Array) -> Array:
        values = jax.vmap(function)(t.reshape(-1)).reshape(t.shape)
        return values * 1.0 if jnp.issubdtype(values.dtype, jnp.integer) else values

    return apply


def _quadrature(function: Callable, breaks: tuple[Number, ...], t: Array) -> tuple:
    """zeta(t), its estimated relative error, and the largest |eta| and lowest eta seen."""
    leaves, tree = jax.tree.flatten(function)
    start = jnp.zeros((), t.dtype)
    closed = jax.make_jaxpr(lambda x, s: jax.tree.unflatten(tree, x)(s))(leaves, start)
    # The cache of a compiled function would keep closed-over tracers beyond their trace.
    integrate = _compiled if _check.concrete(closed.consts) else _integrate
    return integrate(function, breaks, t)


def _integrate(function: Callable, breaks: tuple[Number, ...], t: Array) -> tuple:
    rate = jax.eval_shape(function, jnp.zeros((), t.dtype))
    dtype = jnp.promote_types(jnp.promote_types(t.dtype, rate.dtype), jnp.float32)
    t = t.astype(dtype)
    # With what it closes over made explicit, the mesh can ignore derivatives and see `vmap`.
    explicit = eqx.filter_closure_convert(
        lambda s: jnp.asarray(function(s), dtype), jnp.zeros((), dtype)
    )
    parameters, rest = eqx.partition(explicit, eqx.is_inexact_array)
    indices, structure = eqx.partition(rest, eqx.is_array)
    rest = Partial(lambda i, s, p: eqx.combine(p, i, structure)(s), indices)
    fixed = jax.lax.stop_gradient((t, jnp.asarray(breaks, dtype).reshape(-1), parameters))
    edges, totals, errors, seen = _mesh(jnp.max(fixed[0], initial=0.0), fixed[1], fixed[2], rest)
    zeta = _cumulative(_evaluate, edges, t, parameters, rest)
    # Within a panel the error is taken to grow as zeta does.
    size = jnp.abs(jax.lax.stop_gradient(zeta))
    missed = jnp.interp(size, totals, errors)
    error = jnp.where(missed == 0, 0.0, missed / size)
    return zeta, error, seen


_compiled = jax.jit(_integrate)


def _evaluate(s: Array, parameters: Any, rest: Any) -> Array:
    return rest(s, parameters)


def _gauss(integrand: Callable, left: Array, right: Array) -> tuple[Array, Array]:
    """The 16-point rule on each panel, and the values that it used (last axis)."""
    half = (right - left)[..., None] / 2
    points = left[..., None] + half * (1 + jnp.asarray(_NODES, left.dtype))
    values = jax.vmap(integrand)(points.reshape(-1)).reshape(points.shape)
    return jnp.sum(jnp.asarray(_WEIGHTS, left.dtype) * half * values, axis=-1), values


def _panel(edges: Array, t: Array) -> Array:
    return jnp.clip(jnp.searchsorted(edges, t, side="right") - 1, 0, edges.size - 2)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _cumulative(function: Callable, edges: Array, t: Array, parameters: Any, rest: Any) -> Array:
    """int_0^t function ds: the whole panels before t, then the rest of t's own panel."""

    def integrand(s: Array) -> Array:
        return function(s, parameters, rest)

    panels, _ = _gauss(integrand, edges[:-1], edges[1:])
    before = jnp.append(jnp.zeros(1, panels.dtype), jnp.cumsum(panels))
    index = _panel(edges, t)
    return before[index] + _gauss(integrand, edges[index], t)[0]


@_cumulative.defjvp
def _cumulative_jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # Leibniz' rule, so that the derivative in t is eta itself and not that of the rule.
    (edges, t, parameters, rest), (_, dt, direction, _) = primals, tangents

    def variation(s: Array, both: tuple, rest: Any) -> Array:
        return jax.jvp(lambda p: function(s, p, rest), both[:1], both[1:])[1]

    rate = jax.vmap(lambda s: function(s, parameters, rest))(t.reshape(-1)).reshape(t.shape)
    inner = _cumulative(variation, edges, t, (parameters, direction), rest)
    return _cumulative(function, edges, t, parameters, rest), inner + rate * dt


@custom_vmap
def _mesh(end: Array, breaks: Array, parameters: Any, rest: Any) -> tuple[Array, ...]:
    return _refine(lambda s: _evaluate(s, parameters, rest), end, breaks)


@_mesh.def_vmap
def _mesh_vmap(size: int, batched: Any, end: Array, *others: Any) -> tuple[tuple, tuple]:
    """Lanes that differ only in their end share a mesh: `vmap` over times refines one, not many."""
    if any(jax.tree.leaves(batched[1:])):
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        refine = jax.vmap(lambda *x: _refine(lambda s: _evaluate(s, *x[2:]), *x[:2]), axes)
        return refine(end, *others), (True,) * 4
    return _mesh(jnp.max(end, axis=0), *others), (False,) * 4


class _Panels(NamedTuple):
    """Panels of the mesh in no order; those not in use are empty and lie at the end."""

    left: Array
    right: Array
    lower: Array  # the rule on each half
    upper: Array
    mass: Array  # int |eta|
    error: Array  # difference between the rule and that of the halves
    seen: Array  # largest |eta| and lowest eta


def _measure(integrand: Callable, left: Array, right: Array, whole: Array) -> _Panels:
    """Panels with the rule on their halves, given the rule on the whole."""
    middle = (left + right) / 2
    lower, first = _gauss(integrand, left, middle)
    upper, second = _gauss(integrand, middle, right)
    values = jnp.concatenate([first, second], axis=-1)
    mass = jnp.mean(jnp.abs(values), axis=-1) * (right - left)
    seen = jnp.stack([jnp.max(jnp.abs(values), axis=-1), jnp.min(values, axis=-1)], axis=-1)
    return _Panels(left, right, lower, upper, mass, jnp.abs(lower + upper - whole), seen)


def _defect(panels: _Panels) -> Array:
    """How bad a panel is: its error relative to int |eta| up to it, or -1 when that is good.

    With this scale every zeta(t), not only the last, is good relative to itself. A panel too narrow
    to halve counts as good.
    """
    order = jnp.argsort(panels.left)
    total = jnp.zeros_like(panels.mass).at[order].set(jnp.cumsum(panels.mass[order]))
    ratio = panels.error / jnp.where(total > 0, total, 1.0)
    middle = (panels.left + panels.right) / 2
    divisible = (panels.left < middle) & (middle < panels.right)
    good = (ratio <= 32 * jnp.finfo(ratio.dtype).eps) | ~divisible
    return jnp.where(good, -1.0, jnp.where(jnp.isnan(ratio), jnp.inf, ratio))


def _halve(integrand: Callable, used: Array, defect: Array, panels: _Panels) -> tuple:
    """Replace a batch of the worst panels by their halves, as far as there is room."""
    room = panels.left.size
    worst, index = jax.lax.top_k(defect, _BATCH)
    slot = used + jnp.arange(_BATCH)
    chosen = (worst > 0) & (slot < room)
    old = jax.tree.map(lambda x: x[index], panels)
    middle = (old.left + old.right) / 2
    halves = _measure(
        integrand,
        jnp.concatenate([old.left, middle]),
        jnp.concatenate([middle, old.right]),
        jnp.concatenate([old.lower, old.upper]),
    )
    # Those not chosen are written past the end, which drops them.
    place = jnp.where(jnp.tile(chosen, 2), jnp.concatenate([index, slot]), room)
    panels = jax.tree.map(lambda x, new: x.at[place].set(new, mode="drop"), panels, halves)
    return used + jnp.sum(chosen), _defect(panels), panels


def _first_panels(end: Array, breaks: Array) -> tuple[Array, Array]:
    """Left and right ends: every smooth piece of [0, end], graded towards both of its ends."""
    stops = jnp.clip(jnp.concatenate([jnp.zeros(1, end.dtype), breaks, end[None]]), 0, end)
    left = stops[:-1, None] + jnp.diff(stops)[:, None] * jnp.asarray(_GRADING, end.dtype)
    left = jnp.minimum(left, stops[1:, None]).reshape(-1)
    edges = jnp.full(max(_PANELS, 2 * left.size) + 1, end).at[: left.size].set(left)
    return edges[:-1], edges[1:]


def _refine(integrand: Callable, end: Array, breaks: Array) -> tuple[Array, ...]:
    """Halve the worst panels until each is good or there is no room for more.

    Returns:
        The edges of the half panels, int |eta| and the errors summed up to each edge, and the
        largest |eta| and lowest eta seen.
    """
    left, right = _first_panels(end, breaks)
    panels = _measure(integrand, left, right, _gauss(integrand, left, right)[0])
    used = jnp.asarray(_GRADING.size * (breaks.size + 1))
    _, _, panels = jax.lax.while_loop(
        lambda state: (state[0] < left.size) & jnp.any(state[1] > 0),
        lambda state: _halve(integrand, *state),
        (used, _defect(panels), panels),
    )
    order = jnp.argsort(panels.left)
    panels = jax.tree.map(lambda x: x[order], panels)

    def interleaved(x: Array, y: Array) -> Array:
        return jnp.stack([x, y], axis=1).reshape(-1)

    def sums(x: Array) -> Array:
        return jnp.append(jnp.zeros(1, x.dtype), jnp.cumsum(x))

    middle = (panels.left + panels.right) / 2
    return (
        jnp.append(interleaved(panels.left, middle), end),
        sums(jnp.abs(interleaved(panels.lower, panels.upper))),
        sums(jnp.repeat(panels.error / 2, 2)),
        jnp.stack([jnp.max(panels.seen[:, 0]), jnp.min(panels.seen[:, 1])]),
    )
