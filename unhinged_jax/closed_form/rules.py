"""What an optimiser makes of a gradient g that never changes: update k subtracts the rate times weight(k) u.

A moment of first order is then (1 - beta^k) g, one of second order (1 - beta^k) g^2, so that in Adam, whose bias
correction removes these factors,

    u = g / (|g| + eps),    weight = 1,

whatever the betas. Signs, polar factors and norms of g are constants, too. Only what sums or averages squares without
correction (Adagrad, RMSProp), and a run that begins with the memory of another one, has weights that differ from entry
to entry; they are known for every k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from unhinged_jax import optimizers
from unhinged_jax.closed_form.modes import sum_of_powers
from unhinged_jax.optimizers.constructors import clipped, direction_of, normalized
from unhinged_jax.special import safe_sqrt

Parts = dict[str, jax.Array]
"""One array for each part of a state, "H", "W" and "b", or some of them."""

Given = Mapping[str, Any]
"""All arguments of a constructor, by name."""


class Rule(NamedTuple):
    """What is done with a constant gradient.

    Attributes:
        direction: u of each part.
        weight: k -> a number (), or an array of the shape of u for each part.
        even: Whether the weight is 1 at every update.
        settled: What weight(k) u tends to; only its direction if the weight tends to 0.
    """

    direction: Parts
    weight: Callable[[jax.Array], Any]
    even: bool
    settled: Parts


class Kind(NamedTuple):
    """An optimiser.

    Attributes:
        at_rest: (g, arguments) -> the rule of a run that begins without memory.
        kept: Accumulator -> (g, its value before, n, arguments) -> its value n updates later.
        move: (g, (accumulator, n) -> its value after n updates, k, number of updates before the run, arguments) ->
            weight(k) u of a run that begins with memory; None if there is no memory.
    """

    at_rest: Callable[[Parts, Given], Rule]
    kept: Mapping[str, Callable[[jax.Array, jax.Array, jax.Array, Given], jax.Array]] = {}
    move: Callable[[jax.Array, Callable[..., jax.Array], jax.Array, jax.Array, Given], jax.Array] | None = None


def _fixed(direction: Parts) -> Rule:
    return Rule(direction, lambda k: 1.0, True, direction)


def _power(beta: ArrayLike, n: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.asarray(beta, like.dtype) ** n


def _average(g: jax.Array, begin: jax.Array, n: jax.Array, beta: ArrayLike) -> jax.Array:
    """beta^n begin + (1 - beta^n) g."""
    left = _power(beta, n, g)
    return left * begin + (1 - left) * g


def _root(a: jax.Array, more: ArrayLike) -> jax.Array:
    """sqrt(a^2 + more) for a, more >= 0 of any size; its derivative at 0 is 0."""
    more = jnp.broadcast_to(jnp.asarray(more, a.dtype), a.shape)
    unit = jax.lax.stop_gradient(jnp.maximum(a, jnp.sqrt(more)))
    there = unit > 0
    unit = jnp.where(there, unit, 1.0)
    square = (a / unit) ** 2 + more / unit / unit
    return unit * jnp.sqrt(jnp.where(there, square, 1.0)) * there


def _over(x: jax.Array, size: jax.Array) -> jax.Array:
    return x / jnp.where(size > 0, size, 1.0)


def _plain(g: Parts, given: Given) -> Rule:
    """Gradient descent, with optax's momentum t <- g + beta t."""
    beta = given["momentum"]
    if beta is None:
        return _fixed(g)
    one = jnp.ones((), next(iter(g.values())).dtype)

    def weight(k: jax.Array) -> jax.Array:
        trace = _traced(one, 0 * one, k + 1, given)
        return one + beta * trace if given["nesterov"] else trace

    return Rule(g, weight, False, g)


def _traced(g: jax.Array, begin: jax.Array, n: jax.Array, given: Given) -> jax.Array:
    """beta^n begin + (1 + beta + ... + beta^(n - 1)) g."""
    beta = jnp.asarray(given["momentum"], g.dtype)
    return _power(beta, n, g) * begin + sum_of_powers(beta, n) * g


def _with_trace(g: jax.Array, after: Callable[..., jax.Array], k: jax.Array, count: jax.Array, given: Given) -> Any:
    trace = after("trace", k + 1)
    return g + given["momentum"] * trace if given["nesterov"] else trace


def _lion(g: jax.Array, after: Callable[..., jax.Array], k: jax.Array, count: jax.Array, given: Given) -> jax.Array:
    b1 = jnp.asarray(given["b1"], g.dtype)
    return jnp.sign((1 - b1) * g + b1 * after("mu", k))


def _adam_at_rest(g: Parts, given: Given) -> Rule:
    settled = jax.tree.map(lambda g: _over(g, _root(jnp.abs(g), given["eps_root"]) + given["eps"]), g)
    if not given["nesterov"]:
        return _fixed(settled)
    like = next(iter(g.values()))

    def weight(k: jax.Array) -> jax.Array:
        of_moment, of_gradient = _ahead(k + 1, like, given)
        return of_moment * (1 - _power(given["b1"], k + 1, like)) + of_gradient

    return Rule(settled, weight, False, settled)


def _ahead(n: jax.Array, like: jax.Array, given: Given) -> tuple[jax.Array, Any]:
    """What moment and gradient are multiplied by in update number n."""
    left, b1 = _power(given["b1"], n, like), jnp.asarray(given["b1"], like.dtype)
    if not given["nesterov"]:
        return 1 / (1 - left), 0.0
    return b1 / (1 - left * b1), (1 - b1) / (1 - left)


def _adam(g: jax.Array, after: Callable[..., jax.Array], k: jax.Array, count: jax.Array, given: Given) -> jax.Array:
    n = k + 1 + count
    of_moment, of_gradient = _ahead(n, g, given)
    size = safe_sqrt(after("nu", k + 1) / (1 - _power(given["b2"], n, g)) + given["eps_root"])
    return _over(of_moment * after("mu", k + 1) + of_gradient * g, size + given["eps"])


def _adamax(g: jax.Array, after: Callable[..., jax.Array], k: jax.Array, count: jax.Array, given: Given) -> jax.Array:
    mean = after("mu", k + 1) / (1 - _power(given["b1"], k + 1 + count, g))
    return _over(mean, after("nu", k + 1))


def _adagrad_at_rest(g: Parts, given: Given) -> Rule:
    """g / sqrt(a + k g^2 + eps), whose sum grows like the square root of the number of updates."""
    first = given["initial_accumulator_value"]

    def weight(k: jax.Array) -> Parts:
        def of(g: jax.Array) -> jax.Array:
            size = _root(jnp.abs(g) * jnp.sqrt(k + 1.0).astype(g.dtype), first + given["eps"])
            return jnp.where((first > 0) | (g != 0), _over(jnp.ones_like(g), size), 0.0)

        return jax.tree.map(of, g)

    return Rule(g, weight, False, jax.tree.map(jnp.sign, g))


def _adagrad(g: jax.Array, after: Callable[..., jax.Array], k: jax.Array, count: jax.Array, given: Given) -> jax.Array:
    return _over(g, safe_sqrt(after("sum_of_squares", k + 1) + given["eps"]))


def _rms_at_rest(g: Parts, given: Given) -> Rule:
    def over(g: jax.Array, share: Any, rest: Any) -> jax.Array:
        """1 over the root of an average, which is share g^2 + rest."""
        size = jnp.abs(g) * jnp.sqrt(share)
        eps = given["eps"]
        return _over(jnp.ones_like(g), _root(size, rest + eps) if given["eps_in_sqrt"] else _root(size, rest) + eps)

    def weight(k: jax.Array) -> Parts:
        left = _power(given["decay"], k + 1, next(iter(g.values())))
        share, rest = 1 - left, left * given["initial_scale"]
        if given["bias_correction"]:
            share, rest = jnp.ones_like(share), rest / share
        return jax.tree.map(lambda g: over(g, share, rest), g)

    return Rule(g, weight, False, jax.tree.map(lambda g: g * over(g, 1.0, 0.0), g))


def _rms(g: jax.Array, after: Callable[..., jax.Array], k: jax.Array, count: jax.Array, given: Given) -> jax.Array:
    square = after("nu", k + 1)
    if given["bias_correction"]:
        square = square / (1 - _power(given["decay"], k + 1 + count, g))
    eps = given["eps"]
    return _over(g, safe_sqrt(square + eps) if given["eps_in_sqrt"] else safe_sqrt(square) + eps)


def _of(beta: str, square: bool = False) -> Callable[..., jax.Array]:
    """An average of gradients, or of their squares."""
    return lambda g, begin, n, given: _average(g * g if square else g, begin, n, given[beta])


_ADAM = Kind(_adam_at_rest, {"mu": _of("b1"), "nu": _of("b2", True)}, _adam)
_ADAMAX = Kind(
    lambda g, given: _fixed(jax.tree.map(lambda g: _over(g, jnp.abs(g) + given["eps"]), g)),
    {
        "mu": _of("b1"),
        "nu": lambda g, begin, n, given: jnp.where(
            n > 0, jnp.maximum(_power(given["b2"], n, g) * begin, jnp.abs(g) + given["eps"]), begin
        ),
    },
    _adamax,
)
KINDS: dict[Any, Kind] = {
    optax.sgd: Kind(_plain, {"trace": _traced}, _with_trace),
    optax.sign_sgd: Kind(lambda g, given: _fixed(jax.tree.map(jnp.sign, g))),
    optax.lion: Kind(lambda g, given: _fixed(jax.tree.map(jnp.sign, g)), {"mu": _of("b2")}, _lion),
    optax.adam: _ADAM,
    optax.adamw: _ADAM,
    optax.adamax: _ADAMAX,
    optax.adamaxw: _ADAMAX,
    optax.adagrad: Kind(
        _adagrad_at_rest, {"sum_of_squares": lambda g, begin, n, given: begin + n.astype(g.dtype) * g * g}, _adagrad
    ),
    optax.rmsprop: Kind(_rms_at_rest, {"nu": _of("decay", True)}, _rms),
    optimizers.spectral_descent: Kind(lambda g, given: _fixed(jax.tree.map(direction_of, g))),
    optimizers.normalized_descent: Kind(lambda g, given: _fixed(normalized(g))),
    optimizers.clipped_descent: Kind(lambda g, given: _fixed(clipped(g, given["max_norm"]))),
}
"""What is known, by constructor."""
