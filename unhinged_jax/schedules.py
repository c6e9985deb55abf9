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
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax._quadrature import Number, pointwise, quadrature
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
        return pointwise(self.function)(t)

    def _integral(self, t: Array) -> Array:
        zeta, error, seen = quadrature(self.function, self.breaks, t)
        if _check.concrete(zeta):
            _judge(error, seen)
        return zeta

    def error(self, t: ArrayLike) -> Array:
        """Estimated relative error of `integral(t)`, an upper estimate; NaN if eta is not finite.

        Under `jit`, `vmap` and `grad` this is the way to learn what `integral` warns of outside.
        """
        return quadrature(self.function, self.breaks, _times(t))[1]


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
