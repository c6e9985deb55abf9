"""One-sided derivatives of functions with kinks, such as the asymptotics of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _request
from unhinged_jax import precision as _precision
from unhinged_jax._request.compiling import lean
from unhinged_jax.derivatives.chosen import Choice, chosen
from unhinged_jax.derivatives.parameters import Problem, is_ours
from unhinged_jax.dynamics import Dynamics
from unhinged_jax.limits import limit
from unhinged_jax.model import LayerPeeled, State

if TYPE_CHECKING:
    import xarray

_BESIDE = {"float64": 1e-3, "float32": 3e-2}
"""Relative distance from the point at which one-sided slopes are taken before extrapolation; `limit` takes singular
values below 1e-5 of the largest (5e-3 in float32) for zero."""


def one_sided(function: Callable[[Any], Any], x: float, *, least: float = -math.inf) -> tuple[Any, Any]:
    """Left and right derivative at x of a function that is smooth on either side and may have a kink at x.

        f'(x+) = 4 f'(x + h) - 6 f'(x + 2h) + 4 f'(x + 3h) - f'(x + 4h) + O(h^4),  h = 1e-3 max(|x|, 0.01)

    Args:
        function: A number -> a number or a tree of numbers, differentiable on both sides of x.
        x: The point.
        least: The function is not defined below this; if the left side has no room for four points, its derivative is
            NaN.

    Returns:
        (left, right), with the structure of the function's value.

    Raises:
        ValueError: for a point that is not one number.

    Source: beyond the paper.

    Example:
        >>> left, right = one_sided(lambda x: jnp.abs(x - 1), 1.0)
        >>> round(float(left), 3), round(float(right), 3)
        (-1.0, 1.0)
    """
    for name, value in (("x", x), ("least", least)):
        if np.ndim(_check.real(name, value)) or np.isnan(value):
            raise ValueError(f"{name} must be one number, but got {_check.given(value)}.")
    if not callable(function):
        raise ValueError(f"function must be a function of one number, but got {_check.given(function)}.")
    return _sides(jax.jit(jax.vmap(jax.jacfwd(function))), x, least)


def _sides(slopes_at: Callable[[jax.Array], Any], x: float, least: float) -> tuple[Any, Any]:
    """Left and right derivative at x, from a function that gives the slopes at several points."""
    dtype = jnp.result_type(float)
    h = _BESIDE[str(np.dtype(dtype))] * max(abs(float(x)), 0.01)
    away = h * jnp.arange(1, 5, dtype=dtype)
    slopes = slopes_at(jnp.concatenate([x - away, x + away]))
    weights = jnp.asarray([4.0, -6.0, 4.0, -1.0], dtype)
    room = x - 4 * h >= least
    left = jax.tree.map(lambda s: weights @ s[:4] if room else jnp.full_like(s[0], jnp.nan), slopes)
    return left, jax.tree.map(lambda s: weights @ s[4:], slopes)


def limit_sensitivity(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State,
    parameters: Iterable[Choice] | Choice | None = None,
    *,
    target: str = "top",
    precision: str | None = None,
) -> xarray.Dataset:
    """One-sided derivatives of the quantities of `limit`, which have kinks where another mode takes over.

    The rate of Corollary 3, min(gamma C, 2 + 2 gamma - gamma C)/(C sqrt(N)), has a kink at gamma = 1/(C-1).

    Args:
        model, dynamics, state, target, precision: as in `limit`.
        parameters: Names or `Parameter`s of scalars; default every scalar one.

    Returns:
        A Dataset with `value` (quantity), `left`, `right` (quantity, parameter), `kink` (whether they differ by more
        than 1e-6 of the larger, 1e-2 in float32) and `theta`. The derivative is NaN on a side where the parameter would
        be negative, and for a quantity that is infinite.

    Raises:
        NoClosedForm, ValueError: as `limit`; for a parameter that is not a number.

    Source: Zhou et al. 2023, Corollaries 3 and 5; the derivatives are beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(4, 4), 8)
        >>> state = model.init(jax.random.key(0))
        >>> table = limit_sensitivity(model, uj.Flow(), state, ["gamma"], precision="float64")
        >>> [round(table[side].sel(quantity="rate").item(), 8) for side in ("left", "right")]
        [0.5, -0.25]
    """
    import xarray

    _request.check_kinds(model, dynamics)
    _request.one_at_a_time("limit_sensitivity", model, dynamics, state)
    model.check_state(state)
    problem: Problem = (model, dynamics, state)
    wanted = chosen(parameters, problem)
    for p in wanted:
        if np.ndim(p.value):
            raise ValueError(f"{p.name!r} is an array, but one-sided derivatives need single numbers.")
    name = _precision.of((state.H, state.W)) if precision is None else precision
    name = _check.choice("precision", name, _precision.NAMES)
    with _precision.scope(name):
        value = {q: float(v) for q, v in _quantities(problem, target, name).items()}
        traced = _precision.traceable(problem)
        sides = []
        for p in wanted:
            # What somebody else's `put` reads from elsewhere may have changed since the last call.
            program = _slopes if is_ours(p) else lean(_slopes_along)
            slopes_at = functools.partial(program, p.put, traced, target, name)
            left, right = _sides(slopes_at, float(p.value), 0.0)
            sides.append([[float(side[q]) for q in value] for side in (left, right)])
    table = np.asarray(sides).transpose(1, 2, 0)
    infinite = ~np.isfinite(np.asarray([value[q] for q in value]))
    table[:, infinite] = np.nan
    slack = 1e-6 if name == "float64" else 1e-2
    apart = np.abs(table[1] - table[0]) > slack * np.maximum(np.abs(table[0]), np.abs(table[1])) + 1e-12
    both = ("quantity", "parameter")
    return xarray.Dataset(
        {
            "value": ("quantity", [value[q] for q in value]),
            "left": (both, table[0]),
            "right": (both, table[1]),
            "kink": (both, apart),
            "theta": ("parameter", [float(p.value) for p in wanted]),
        },
        coords={"quantity": list(value), "parameter": [p.name for p in wanted]},
    )


def _quantities(problem: Problem, target: str, precision: str) -> dict[str, jax.Array]:
    return limit(*problem, target=target, precision=precision).quantities


def _slopes_along(
    put: Callable[[Problem, Any], Problem], problem: Problem, target: str, precision: str, points: jax.Array
) -> dict[str, jax.Array]:
    """Derivatives of the quantities of `limit` at values of one parameter, (points,) each."""

    def along(x: jax.Array) -> dict[str, jax.Array]:
        return _quantities(put(problem, x), target, precision)

    return jax.vmap(jax.jacfwd(along))(points)


_slopes = lean(_slopes_along)
