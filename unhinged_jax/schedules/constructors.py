"""The constructors: they check arguments that the classes accept unchecked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.tree_util import Partial

from unhinged_jax import _check, _numbers
from unhinged_jax._values import registered
from unhinged_jax.schedules.checks import ascending, check_function, sequence
from unhinged_jax.schedules.integrated import Numeric
from unhinged_jax.schedules.quadrature import Number
from unhinged_jax.schedules.schedule import Schedule
from unhinged_jax.schedules.shapes import Constant, Cosine, Exponential, Piecewise, Polynomial

ScheduleLike = Schedule | Number | Callable[[Array], Any]
"""What `as_schedule` makes a schedule of: a schedule, a number, or a function of time."""


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
    return Constant(_numbers.real("value", value))


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
    return Cosine(*_numbers.reals(peak=peak, horizon=horizon, floor=floor))


def exponential(initial: Number, rate: Number) -> Exponential:
    """Exponential decay, eta(t) = initial exp(-rate t).

    zeta(t) = initial (1 - exp(-rate t))/rate, which is exact, with its derivatives, also at rate = 0.

    Args:
        initial: eta(0) >= 0.
        rate: decay per unit of time; 0 gives a constant rate, a negative value a growing one.

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
    return Exponential(*_numbers.reals(initial=initial, rate=rate))


def polynomial(initial: Number, horizon: Number, power: Number = 1.0, final: Number = 0.0) -> Polynomial:
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
    return Polynomial(*_numbers.reals(initial=initial, horizon=horizon, power=power, final=final))


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
    values, boundaries = sequence("values", values), sequence("boundaries", boundaries)
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"piecewise needs one more value than boundaries, but got {len(values)} values and "
            f"{len(boundaries)} boundaries; also give the rate before the first boundary."
        )
    _check.non_negative("values", values, array=True)
    return Piecewise(values, ascending("boundaries", boundaries))


def numeric(function: Callable[[Any], Any], breaks: Sequence[Any] | Array = ()) -> Numeric:
    """Any optax schedule or callable eta(t), integrated by adaptive Gauss-Legendre quadrature.

    The interval from 0 to the latest requested time is cut into panels, denser towards 0 and towards each break, and
    halved where the 16-point rule and its two halves differ. All requested times share the panels. If eta >= 0 is
    smooth between breaks, zeta has a relative error of 1e-12 in float64 and 1e-5 in float32; its derivative with
    respect to t is `function(t)` itself. A feature much narrower than 1/500 of the interval, far from 0 and from every
    break, can be missed, so state a break there. Breaks are held fixed under differentiation.

    Args:
        function: takes one traced scalar time and returns one real scalar; its parameters are differentiable when they
            are closed over, and also survive `jit` and `vmap` as leaves when the callable is a pytree (for example
            `jax.tree_util.Partial`). A plain function is compiled once and found again by its identity, so a number
            that it reads from a global or an attribute keeps the value of the first run. Make such a number a field of
            a dataclass with a `__call__`.
        breaks: times > 0 at which the function is not smooth, strictly ascending (default none).

    Returns:
        A schedule with these breaks. Outside `jit`, `vmap` and `grad` its `integral` warns with `QuadratureWarning` if
        it does not reach the precision above, and raises `ValueError` if the function is negative. Inside them it
        returns the best value, and `error` an estimate of its error.

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
    if jax.tree_util.all_leaves([registered(function)]):
        # A plain function is not a pytree; Partial makes it static structure.
        function = Partial(function)
    check_function(function)
    return Numeric(function, tuple(ascending("breaks", sequence("breaks", breaks))))


def as_schedule(x: ScheduleLike, name: str = "a constant rate") -> Schedule:
    """Make a schedule of a number (`constant`), a callable (`numeric`) or a schedule (itself).

    Args:
        x: a real number or 0-d array, a callable eta(t) such as an optax schedule, or a schedule.
        name: what messages call a number.

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
        _check.non_negative(name, x)
        return constant(x)
    way = "see unhinged_jax.schedules for the constructors."
    if np.ndim(x):
        way = "for a batch of rates, build it inside the function that jax.vmap maps over them."
    raise TypeError(f"A schedule must be a number, a callable eta(t) or a schedule, but got {_check.given(x)}; {way}")
