"""Adaptive Gauss-Legendre quadrature of a rate, elementwise in the upper end and differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap
from jax.tree_util import Partial
from jaxtyping import PyTree

from unhinged_jax import _check

Number = float | Array

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_DYADIC = 2.0 ** np.arange(-20, -4)
_GRADING = np.concatenate([[0.0], _DYADIC, np.arange(2, 15) / 16, 1 - _DYADIC[::-1]])
"""Left ends of the first panels, as fractions of a smooth piece: rates often have layers at its
ends, which a uniform partition would miss without noticing."""
PANELS = 1024
_BATCH = 64


def pointwise(function: Callable) -> Callable:
    """Apply elementwise to arrays, because some optax schedules take only scalars or lose the shape of t."""

    def apply(t: Array) -> Array:
        values = jax.vmap(function)(t.reshape(-1)).reshape(t.shape)
        return values * 1.0 if jnp.issubdtype(values.dtype, jnp.integer) else values

    return apply


def quadrature(function: Callable, breaks: tuple[Number, ...], t: Array) -> tuple:
    """zeta(t), its estimated relative error, and the largest |eta| and lowest eta seen."""
    leaves, tree = jax.tree.flatten(function)
    start = jnp.zeros((), t.dtype)
    closed = jax.make_jaxpr(lambda x, s: jax.tree.unflatten(tree, x)(s))(leaves, start)
    # The cache of a compiled function would keep closed-over tracers after their trace has ended.
    integrate = _compiled if _check.concrete(closed.consts) else _integrate
    return integrate(function, breaks, t)


def _integrate(function: Callable, breaks: tuple[Number, ...], t: Array) -> tuple:
    rate = jax.eval_shape(function, jnp.zeros((), t.dtype))
    dtype = jnp.promote_types(jnp.promote_types(t.dtype, rate.dtype), jnp.float32)
    t = t.astype(dtype)
    # With the closed-over values made explicit, the mesh can ignore derivatives and take part in `vmap`.
    explicit = eqx.filter_closure_convert(lambda s: jnp.asarray(function(s), dtype), jnp.zeros((), dtype))
    parameters, rest = eqx.partition(explicit, eqx.is_inexact_array)
    indices, structure = eqx.partition(rest, eqx.is_array)
    rest = Partial(lambda i, s, p: eqx.combine(p, i, structure)(s), indices)
    fixed = jax.lax.stop_gradient((t, jnp.asarray(breaks, dtype).reshape(-1), parameters))
    edges, totals, errors, seen = _mesh(jnp.max(fixed[0], initial=0.0), fixed[1], fixed[2], rest)
    zeta = _cumulative(_evaluate, edges, t, parameters, rest)
    # Within a panel the error is assumed to grow as zeta does.
    size = jnp.abs(jax.lax.stop_gradient(zeta))
    missed = jnp.interp(size, totals, errors)
    error = jnp.where(missed == 0, 0.0, missed / size)
    return zeta, error, seen


_compiled = jax.jit(_integrate)


def _evaluate(s: Array, parameters: PyTree, rest: Callable[[Array, PyTree], Array]) -> Array:
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
def _cumulative(
    function: Callable, edges: Array, t: Array, parameters: PyTree, rest: Callable[[Array, PyTree], Array]
) -> Array:
    """int_0^t function ds: the whole panels before t, then the rest of t's own panel."""

    def integrand(s: Array) -> Array:
        return function(s, parameters, rest)

    panels, _ = _gauss(integrand, edges[:-1], edges[1:])
    before = jnp.append(jnp.zeros(1, panels.dtype), jnp.cumsum(panels))
    index = _panel(edges, t)
    return before[index] + _gauss(integrand, edges[index], t)[0]


@_cumulative.defjvp
def _cumulative_jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # Leibniz' rule, so that the derivative with respect to t is eta itself and not that of the rule.
    (edges, t, parameters, rest), (_, dt, direction, _) = primals, tangents

    def variation(s: Array, both: tuple, rest: Callable[[Array, PyTree], Array]) -> Array:
        return jax.jvp(lambda p: function(s, p, rest), both[:1], both[1:])[1]

    rate = jax.vmap(lambda s: function(s, parameters, rest))(t.reshape(-1)).reshape(t.shape)
    inner = _cumulative(variation, edges, t, (parameters, direction), rest)
    return _cumulative(function, edges, t, parameters, rest), inner + rate * dt


@custom_vmap
def _mesh(end: Array, breaks: Array, parameters: PyTree, rest: Callable[[Array, PyTree], Array]) -> tuple[Array, ...]:
    return _refine(lambda s: _evaluate(s, parameters, rest), end, breaks)


@_mesh.def_vmap
def _mesh_vmap(_size: int, batched: Sequence[PyTree], end: Array, *others: Any) -> tuple[tuple, tuple]:
    """Lanes that differ only in their end share a mesh, so `vmap` over times refines only one."""
    if any(jax.tree.leaves(batched[1:])):
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        refine = jax.vmap(lambda *x: _refine(lambda s: _evaluate(s, *x[2:]), *x[:2]), axes)
        return refine(end, *others), (True,) * 4
    return _mesh(jnp.max(end, axis=0), *others), (False,) * 4


class _Panels(NamedTuple):
    """Panels of the mesh in no particular order; unused panels are empty and lie at the end."""

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
    """The error of a panel relative to int |eta| up to it, or -1 if the error is small enough.

    With this scale every zeta(t), not only the last, has a small relative error. A panel too narrow to halve counts as
    good.
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
    # Panels that are not chosen are written past the end, which drops them.
    place = jnp.where(jnp.tile(chosen, 2), jnp.concatenate([index, slot]), room)
    panels = jax.tree.map(lambda x, new: x.at[place].set(new, mode="drop"), panels, halves)
    return used + jnp.sum(chosen), _defect(panels), panels


def _first_panels(end: Array, breaks: Array) -> tuple[Array, Array]:
    """Left and right ends: every smooth piece of [0, end], graded towards both of its ends."""
    stops = jnp.clip(jnp.concatenate([jnp.zeros(1, end.dtype), breaks, end[None]]), 0, end)
    left = stops[:-1, None] + jnp.diff(stops)[:, None] * jnp.asarray(_GRADING, end.dtype)
    left = jnp.minimum(left, stops[1:, None]).reshape(-1)
    edges = jnp.full(max(PANELS, 2 * left.size) + 1, end).at[: left.size].set(left)
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
