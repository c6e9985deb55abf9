"""Which optimisers are known, and what one of them does: it is recognised by its constructor and all its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unhinged_jax._values import same
from unhinged_jax.closed_form.rules import KINDS, Parts, Rule
from unhinged_jax.optimizers import Optimizer

_REFUSED = ("mu_dtype", "accumulator_dtype", "mask", "centered")
"""Settings that no `Kind` knows; nor is a momentum of RMSProp known."""


class Memory(NamedTuple):
    """What an optimiser kept of the updates before: their number (), and accumulators by their name in optax."""

    made: jax.Array
    kept: Mapping[str, Parts]


def why_not_known(optimizer: Optimizer) -> str | None:
    """Why it is not known what an optimiser does, in words, or None."""
    names = ", ".join(sorted(kind.__name__ for kind in KINDS))
    make, arguments = _taken_apart(optimizer)
    if isinstance(make, optax.GradientTransformation):
        return (
            "this optimiser is built already, and an optax transformation does not say what it does; give its "
            "constructor and arguments, as in `uj.Optimizer(optax.adam, learning_rate=0.1)`."
        )
    if make not in KINDS:
        name = getattr(make, "__name__", type(make).__name__)
        return f"nothing is known of the optimiser {name!r}; those with a closed form are {names}."
    refused = (*_REFUSED, "momentum") if make is optax.rmsprop else _REFUSED
    for name, entry in inspect.signature(make).parameters.items():
        if name in refused and not same(arguments[name], entry.default):
            return f"the setting `{name}` of the optimiser {make.__name__!r} has none; leave it out."
    return None


def rule_of(optimizer: Optimizer, g: Parts, memory: Memory | None) -> Rule:
    """What a known optimiser does with a constant gradient; with `memory` if the run begins with some."""
    make, given = _taken_apart(optimizer)
    kind = KINDS[make]
    at_rest = kind.at_rest(g, given)
    if memory is None or not memory.kept or kind.move is None:
        return at_rest
    move = kind.move

    def weight(k: jax.Array) -> Parts:
        def of(name: str) -> jax.Array:
            def after(accumulator: str, n: jax.Array) -> jax.Array:
                return kind.kept[accumulator](g[name], memory.kept[accumulator][name], n, given)

            return move(g[name], after, k, memory.made, given)

        return {name: of(name) for name in g}

    return Rule(jax.tree.map(jnp.ones_like, g), weight, False, at_rest.settled)


def always_even(optimizer: Optimizer) -> bool:
    """Whether a known optimiser without memory makes the same update again and again, up to its rate and its decay."""
    make, given = _taken_apart(optimizer)
    plain = make is not optax.sgd or given["momentum"] is None
    return plain and not given.get("nesterov") and make not in (optax.adagrad, optax.rmsprop)


def fading(optimizer: Optimizer) -> bool:
    """Whether the weights of a known optimiser fall like one over the square root of the number of updates."""
    return _taken_apart(optimizer)[0] is optax.adagrad


def kept_after(optimizer: Optimizer, g: Parts, before: Mapping[str, Parts], n: jax.Array) -> dict[str, Parts]:
    """The accumulators of a known optimiser n updates after those given."""
    make, given = _taken_apart(optimizer)
    rules = KINDS[make].kept
    return {name: {part: rules[name](g[part], begin, n, given) for part, begin in parts.items()}
            for name, parts in before.items()}  # fmt: skip


def accumulators(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of what a known optimiser may keep, as optax calls it."""
    return tuple(KINDS[_taken_apart(optimizer)[0]].kept)


def given_to(optimizer: Optimizer, name: str, default: Any = None) -> Any:
    """An argument of the constructor of an optimiser, also one that was left at its default."""
    return _taken_apart(optimizer)[1].get(name, default)


def _taken_apart(optimizer: Optimizer) -> tuple[Any, dict[str, Any]]:
    """The constructor, without arguments that are filled in already, and all arguments by name."""
    make: Any = optimizer.make
    filled: dict[str, Any] = {}
    while isinstance(make, functools.partial) and not make.args:
        make, filled = make.func, {**make.keywords, **filled}
    if isinstance(make, optax.GradientTransformation):
        return make, {}
    defaults = {name: entry.default for name, entry in inspect.signature(make).parameters.items()}
    return make, {**defaults, **filled, **optimizer.numbers, **optimizer.settings}
