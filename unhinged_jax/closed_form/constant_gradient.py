"""Descent by an optimiser where the gradient is constant: a linear loss, and either features or prototypes stay.

Spectral descent with both free has a constant direction instead, from aligned starts (`aligned`).

With the rule of the optimiser (`rules`), its rate l_k and its decoupled decay lambda_k, and the rate eta_k of the
descent, update k is

    W <- (1 - eta_k l_k lambda_k) W - eta_k l_k weight(k) u,    so that    W_k = keep(k) W_0 - push(k) u.

For equal rates and a weight of 1 both factors have a closed form, with x = eta l lambda:

    keep = (1 - x)^k,    push = eta l (1 - (1 - x)^k) / x;

otherwise they are carried from update to update, one number for each part, or one for each entry where weights differ.

Source: beyond the paper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from unhinged_jax import _check, _loop
from unhinged_jax.closed_form.aligned import aligns, as_given, slack, turn_of
from unhinged_jax.closed_form.modes import log_factor, power, quotient
from unhinged_jax.closed_form.recognised import (
    Memory,
    accumulators,
    always_even,
    given_to,
    kept_after,
    rule_of,
    why_not_known,
)
from unhinged_jax.closed_form.rules import Parts, Rule
from unhinged_jax.closed_form.timeline import Updates
from unhinged_jax.dynamics import Descent, rates_at
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.optimizers import clipped_descent, normalized_descent
from unhinged_jax.optimizers.optimizer import resumed
from unhinged_jax.schedules import Constant
from unhinged_jax.special import drift, largest, power_of_two

_BEYOND = 30  # powers of two that what is carried may grow before it is rescaled


def why_not_constant(model: LayerPeeled, descent: Descent) -> str | None:
    """Why a descent by an optimiser has no closed form, in words, or None."""
    of = "a descent by an optimiser has a closed form where its gradient is constant"
    if model.spherical:
        return f"{of}, which that of spherical features is not; use `simulate`."
    if model.moves.coupled and descent.optimizer.make in (clipped_descent, normalized_descent):
        how = "clip_norm" if descent.optimizer.make is clipped_descent else "normalized=True"
        return f"{of}, or as a setting of the descent itself: leave out the optimiser and give `Descent` {how}."
    if model.moves.coupled and not aligns(model, descent):
        return f"{of}: with features frozen or prototypes anchored; use one of these, plain descent or `simulate`."
    for name, decay in _moving(model, model.decays._asdict()).items():
        if _check.concrete(decay) and float(decay) != 0:
            return (
                f"{of}, but decay_{name} = {float(decay):g} is part of the gradient; give the decay to the optimiser, "
                "as in optax.adamw, or use `simulate`."
            )
    why = why_not_known(descent.optimizer)
    return None if why is None else f"{why} Or use `simulate`."


def why_not_beside(names: Iterable[str], coupled: bool = False) -> str | None:
    """Why there is no closed form beside such a problem if one of these parameters moves, in words, or None.

    If both parts move (`coupled`), the direction stays only if nothing but rates changes.
    """
    for name in names:
        if coupled and name not in ("eta", "s") and not name.startswith(("rate_", "schedule.", "optimizer.")):
            return (
                f"spectral descent keeps its direction only if nothing but rates changes, and not {name!r}; leave it "
                "out, or use sources='simulated'."
            )
        if name.removeprefix("model.").startswith("decay"):
            return f"the gradient of an optimiser is no longer constant if {name!r} changes; leave it out, or simulate."
    return None


def at_once(descent: Descent, memory: PyTree) -> bool:
    """Whether the factors have a closed form that needs no update before."""
    numbers = (*descent.rates, *(given_to(descent.optimizer, name) for name in ("learning_rate", "weight_decay")))
    equal = isinstance(descent.schedule, Constant) and not any(map(callable, numbers))
    return equal and always_even(descent.optimizer) and (memory is None or not accumulators(descent.optimizer))


class Start(NamedTuple):
    """The problem and its start, with the scale multiplied in.

    Attributes:
        model, descent, state: As given.
        gradient: g of the parts that move, at the start.
        rule: What the optimiser makes of it.
        memory: The memory of the optimiser at the start, as optax keeps it.
        made: How many updates are in that memory, ().
        first: The number of updates made before the run, ().
    """

    model: LayerPeeled
    descent: Descent
    state: State
    gradient: Parts
    rule: Rule
    memory: PyTree
    made: jax.Array
    first: jax.Array


def start_of(model: LayerPeeled, descent: Descent, state: State, memory: PyTree, first: jax.Array) -> Start:
    """The start of a run, which continues another one if there is `memory`."""
    H, W = multiplied(state)
    state = State(H, W, state.b)
    gradient = gradient_of(model, state)
    if aligns(model, descent):
        turned = turn_of(model, H, W) > slack(W.dtype)
        gradient = {name: as_given(jnp.where(turned, jnp.nan, part)) for name, part in gradient.items()}
    begin = resumed(descent.optimizer.built(), {"H": H, "W": W, "b": state.b}, memory)
    counts = optax.tree_utils.tree_get_all_with_path(begin, "count")
    made = jnp.asarray(counts[0][1] if counts else 0)
    kept = None if memory is None else Memory(made, _kept(descent, begin))
    return Start(model, descent, state, gradient, rule_of(descent.optimizer, gradient, kept), begin, made, first)


def gradient_of(model: LayerPeeled, state: State) -> Parts:
    """The gradient of the parts that move, at the start."""
    signal, W = model.signal(), state.W
    parts: dict[str, Any] = {"H": None, "W": None, "b": None}
    if model.moves.H:
        lifted = signal.times(W)
        parts["H"] = -(lifted if model.kernel is None else model.kernel.apply(lifted))
    if model.moves.W:
        parts |= {"W": -signal.transpose_times(state.H), "b": -signal.column_sums(W.dtype)}
    return _moving(model, parts)


@jax.custom_jvp
def without_decay(decay: jax.Array) -> jax.Array:
    """0, with a derivative of NaN, for a decay of 0; else NaN."""
    return jnp.where(decay == 0, 0.0, jnp.nan)


@without_decay.defjvp
def _without_decay_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return without_decay(*primals), jnp.nan * tangents[0]


def _moving(model: LayerPeeled, parts: dict[str, Any]) -> dict[str, Any]:
    return {name: parts[name] for name, moves in model.moves._asdict().items() if moves}


def _kept(descent: Descent, memory: PyTree) -> dict[str, Parts]:
    found = ((name, optax.tree_utils.tree_get_all_with_path(memory, name)) for name in accumulators(descent.optimizer))
    return {name: leaves[0][1] for name, leaves in found if leaves}


def memory_after(start: Start, updates: jax.Array) -> Any:
    """The memory of the optimiser after so many updates, as optax keeps it."""
    optimizer, W = start.descent.optimizer, start.state.W
    parts = {"H": start.state.H, "W": W, "b": start.state.b}
    gradient = {name: start.gradient.get(name, jnp.zeros_like(part)) for name, part in parts.items()}
    known: dict[str, Any] = {**kept_after(optimizer, gradient, _kept(start.descent, start.memory), updates)}
    if optax.tree_utils.tree_get_all_with_path(start.memory, "count"):
        most = jnp.iinfo(jnp.int32).max
        known["count"] = jnp.minimum(updates + start.made, most).astype(jnp.int32)  # as optax counts
    return optax.tree_utils.tree_set(start.memory, **known)


class Factors(NamedTuple):
    """The state at one moment, W = 2^scale (keep W_0 - push u), part by part.

    Attributes:
        keep: One number for each part that moves, ().
        push: The same, or an array of the shape of the part.
        scale: A logarithm for each part that moves, () >= 0; a bias need not grow as its prototypes do.
    """

    keep: Parts
    push: Parts
    scale: Parts


def view_of(start: Start, factors: Factors) -> View:
    """The state at one moment."""
    parts = {"H": start.state.H, "W": start.state.W, "b": start.state.b}
    moving = [factors.scale[name] for name in ("H", "W") if name in factors.scale]
    scale = functools.reduce(jnp.maximum, moving)
    for name, u in start.rule.direction.items():
        parts[name] = factors.keep[name] * parts[name] - factors.push[name] * u
    parts |= {name: jnp.exp(factors.scale.get(name, 0.0) - scale) * parts[name] for name in ("H", "W")}
    b = parts["b"] * jnp.exp(factors.scale["b"]) if "b" in factors.keep else parts["b"]
    return View(start.model, DenseFeatures(parts["H"]), parts["W"], b, scale)


def factors_at(start: Start, number: jax.Array, odd: jax.Array) -> Factors:
    """The factors after some equal updates, without those before."""
    dtype = start.state.W.dtype
    count, zero = number.astype(dtype), jnp.zeros((), dtype)
    rates = rates_of(start, jnp.zeros((), jnp.int32))
    scale = {name: jax.lax.stop_gradient(jnp.maximum(count * log_factor(-x), 0)) for name, (_, x) in rates.items()}
    keep = {name: power(-x, count, scale[name], odd) for name, (_, x) in rates.items()}
    push = {name: eta * quotient(zero, -x, x, jnp.ones((), dtype), count, scale[name], odd)
            for name, (eta, x) in rates.items()}  # fmt: skip
    return Factors(keep, push, scale)


def rates_of(start: Start, k: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """For each part that moves its rate eta_k l_k and its shrinkage eta_k l_k lambda_k, () each, at update k.

    Both are NaN if a decay of the model, which is part of the gradient, is traced and not 0; and if a shrinkage above 1
    turns the gradient of a part that the other one follows.
    """
    dtype, optimizer = start.state.W.dtype, start.descent.optimizer

    def value(name: str) -> jax.Array:
        given = given_to(optimizer, name, 0.0)
        return jnp.asarray(given(start.made + k) if callable(given) else given, dtype)

    outside = rates_at(start.descent, (start.first + k).astype(dtype), dtype)._asdict()
    inside, decay, coupled = value("learning_rate"), value("weight_decay"), start.model.decays._asdict()
    rates = {name: outside[name] * inside + without_decay(jnp.asarray(coupled[name], dtype)) for name in start.gradient}
    if aligns(start.model, start.descent):
        rates |= {name: jnp.where(rates[name] * decay > 1, jnp.nan, rates[name]) for name in ("H", "W")}
    return {name: (rate, rate * decay) for name, rate in rates.items()}


def values(
    start: Start, reads: _loop.Reads | Updates | None, read: Callable[[View], PyTree]
) -> tuple[View, PyTree, jax.Array]:
    """The state at the last read, what is read of all, and how many updates the last comes after."""
    if isinstance(reads, Updates):

        def view_at(number: jax.Array, odd: jax.Array) -> View:
            return view_of(start, factors_at(start, number, odd))

        saved = jax.lax.map(jax.checkpoint(lambda moment: read(view_at(*moment))), tuple(reads))
        return view_at(reads.number[-1], reads.odd[-1]), saved, reads.number[-1]
    assert reads is not None
    step, carry = carried(start)
    last, saved, _ = _loop.run(step, carry, reads, lambda carry: read(view_of(start, factors_of(carry))))
    return view_of(start, factors_of(last)), saved, last.updates


class Carry(NamedTuple):
    """What goes from update to update: factors of each part over a power of two, and its exponent, ()."""

    keep: Parts
    push: Parts
    power: Parts
    updates: jax.Array


def carried(start: Start) -> tuple[Any, Carry]:
    """(update, what it begins with) of a loop that carries the factors."""
    dtype = start.state.W.dtype
    zero, most = jnp.zeros((), jnp.int32), jnp.finfo(dtype).maxexp - 2
    shapes = jax.eval_shape(start.rule.weight, zero)
    one = {name: jnp.ones((), dtype) for name in start.gradient}
    single = not isinstance(shapes, dict)
    push = {name: jnp.zeros(() if single else shapes[name].shape, dtype) for name in start.gradient}

    def step(carry: Carry, k: jax.Array) -> Carry:
        weights = start.rule.weight(k)
        keep, push, powers = {}, {}, {}
        for name, (eta, x) in rates_of(start, k).items():
            weight, before = jnp.asarray(weights if single else weights[name], dtype), carry.power[name]
            by = jnp.where(before < most, power_of_two(-jnp.minimum(before, most), dtype), 0.0)
            kept = carry.keep[name] - x * carry.keep[name]
            pushed = carry.push[name] + (eta * weight * by - x * carry.push[name])
            more = jnp.maximum(drift(largest(kept, pushed), _BEYOND), 0)
            less = power_of_two(-more, dtype)
            keep[name], push[name], powers[name] = kept * less, pushed * less, before + more
        return Carry(keep, push, powers, carry.updates + 1)

    return step, Carry(one, push, dict.fromkeys(one, zero), zero)


def factors_of(carry: Carry) -> Factors:
    """The factors that a loop carries."""
    dtype = next(iter(carry.push.values())).dtype
    two = jnp.log(jnp.asarray(2.0, dtype))
    return Factors(carry.keep, carry.push, {name: power.astype(dtype) * two for name, power in carry.power.items()})
