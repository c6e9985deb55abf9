"""Expectations over the draws of a stochastic descent: every observable that is quadratic in the state, and its loss.

The moments of `unhinged_jax.closed_form.moments` are carried from update to update, divided by a power of two of their
own, so that neither growth nor decay leaves the range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Int

from unhinged_jax import _loop
from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.carriers import Alike, General, Membership, Setting, setting_of
from unhinged_jax.closed_form.moments import Moments, draws_of, moments_of, squares_of
from unhinged_jax.dynamics import (
    RATES,
    Descent,
    Diffusion,
    Dynamics,
    Flow,
    Noisy,
    PartRates,
    carried_by,
    rates_at,
    why_too_large,
)
from unhinged_jax.labels.fields import why_not_drawn
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import ObservablePlan
from unhinged_jax.schedules.shapes import Constant, Piecewise
from unhinged_jax.special import drift, largest, power_of_two, safe_log


class Read(NamedTuple):
    """What is read of the moments.

    Attributes:
        moments: Those of H and W divided by 2^power.
        power: A whole number, ().
    """

    moments: Moments
    power: Int[jax.Array, ""]


def why_noise_rules_out(model: LayerPeeled, dynamics: Noisy, expectations: bool) -> str | None:
    """What rules a closed form out, in words, or None if there are `expectations` and they count as one.

    The loss is linear.
    """
    if getattr(dynamics, "optimizer", None) is not None:
        return "an optimiser bends the noise of batches and labels, so no moments close; use `simulate` and average."
    if not expectations and isinstance(dynamics, Diffusion):
        return "a Diffusion is random; its mean is the Flow of the same schedule, with a closed form."
    if not expectations:
        return "the descent draws batches or labels; its mean is the descent without them, with a closed form."
    if dynamics.replacement == "epochs":
        return "batches of one epoch depend on one another, so the moments do not close; use `simulate` and average."
    if isinstance(dynamics, Diffusion) and not in_pieces(dynamics):
        return (
            "the rate of a diffusion is the temperature of its noise, so generators at different times commute only if "
            "`schedule` is constant or `piecewise` and the other rates are numbers; use such ones, a Descent, or "
            "`simulate` and average."
        )
    if carried := carried_by(dynamics):
        return f"moments of a descent with {carried} are not offered; use `simulate` and average."
    if model.spherical:
        return "spherical features are not linear once prototypes meet noise; use `simulate` and average."
    if model.kernel is not None:
        return "a kernel mixes the samples of a batch with all others; use `simulate` and average."
    if dynamics.fresh_labels and (why := why_not_drawn(model.labels)):
        return why
    return why_too_large(dynamics.batch, dynamics.replacement, model.labels.training_samples)


def mean_of(dynamics: Noisy) -> Dynamics:
    """The dynamics of the mean, without noise."""
    if isinstance(dynamics, Diffusion):
        return Flow(dynamics.schedule, dynamics.rate_H, dynamics.rate_W, rate_b=dynamics.rate_b)
    return dataclasses.replace(dynamics, batch=None, fresh_labels=False)


def in_pieces(diffusion: Diffusion) -> bool:
    """Whether the rates of a diffusion are constant, or constant between breaks."""
    numbers = not any(callable(getattr(diffusion, name)) for name in RATES)
    return numbers and isinstance(diffusion.schedule, (Constant, Piecewise))


# --- what is read -----------------------------------------------------------------------------------------------------

Parts = tuple[jax.Array, ArrayLike]
"""(share that scales like H and W, rest), whose sum is the observable."""


def _loss(s: Moments, at: Setting) -> Parts:
    dtype = s.WW.dtype
    push = at.groups.counts @ at.observed
    constant = at.model.loss_of_logits(jnp.zeros((at.model.samples, at.model.classes), dtype))
    return -jnp.sum(at.observed * s.FW), constant - push @ s.b


def _objective(s: Moments, at: Setting) -> Parts:
    decays, (scaled, rest) = at.model.decays, _loss(s, at)
    return scaled + decays.H * _of_H(s, at) / 2 + decays.W * jnp.trace(s.WW) / 2, rest + decays.b * _of_b(s) / 2


def _of_b(s: Moments) -> jax.Array:
    return jnp.sum(s.b**2) + s.spread


def _of_H(s: Moments, at: Setting) -> jax.Array:
    return jnp.sum(squares_of(s, at.groups))


def _means(s: Moments, at: Setting) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum_c n_c E |mean of class c|^2, n E |mean of all|^2, the scatter of the means of groups within a class)."""
    C, n = at.model.classes, at.groups.counts
    member = (at.classes[:, None] == jnp.arange(C)).astype(s.FF.dtype)
    counts = n @ member
    of_classes = jnp.sum(member * (s.FF @ member), axis=0) / jnp.where(counts > 0, counts, 1.0)
    of_groups = jnp.diagonal(s.FF) / n
    alone = jnp.sum(member, axis=0) == 1  # a class of one group has no such scatter, not even by rounding
    between = jnp.where(alone, 0.0, of_groups @ member - of_classes)
    return jnp.sum(of_classes), jnp.sum(s.FF) / jnp.sum(n), jnp.sum(between)


OF_MOMENTS: dict[str, Callable[[Moments, Setting], Parts]] = {
    "loss": _loss,
    "objective": _objective,
    "square_norm": lambda s, at: (_of_H(s, at) + jnp.trace(s.WW), 0.0),
    "square_norm_H": lambda s, at: (_of_H(s, at), 0.0),
    "square_norm_W": lambda s, at: (jnp.trace(s.WW), 0.0),
    "square_norm_b": lambda s, at: (jnp.zeros_like(s.spread), _of_b(s)),
    "within_scatter": lambda s, at: (jnp.sum(s.within) + _means(s, at)[2], 0.0),
    "between_scatter": lambda s, at: (_means(s, at)[0] - _means(s, at)[1], 0.0),
}
"""Observables whose expectation is known: name -> its parts. Their logarithms are those of the expectations."""


OF_MEAN = ("test_loss",)
"""Observables whose expectation is that of the run without noise: samples held out do not move but decay, so that what
is linear in their logits is linear in what noise moves."""


def known_of(plan: ObservablePlan) -> tuple[tuple[str, ...], str | None]:
    """The observables of a plan whose expectation is known, and the first other one or None."""
    unsigned = {name for name in OF_MOMENTS if name not in ("loss", "objective", "square_norm_b")}
    there = {*OF_MOMENTS, *OF_MEAN, *(f"log_{name}" for name in unsigned)}
    names = tuple(name for name, function in plan if function is None and name in there)
    return names, next((name for name, function in plan if function is not None or name not in there), None)


def unknown(name: str) -> str:
    """Why the expectation of an observable is not known."""
    return (
        f"the expectation of {name!r} is not known, because it is not quadratic in the state; observe some of "
        f"{', '.join(OF_MOMENTS)}, or `simulate` and average."
    )


# --- the run ----------------------------------------------------------------------------------------------------------


class _Carry(NamedTuple):
    """Moments over 2^power, what rounding lost of them, and the power."""

    moments: Any
    lost: Any
    power: jax.Array


def expectations(
    model: LayerPeeled,
    descent: Descent,
    state: State,
    first: Any,
    updates: Any,
    names: tuple[str, ...],
    membership: Membership,
) -> dict[str, jax.Array]:
    """The expectation of each observable after the requested updates: name -> (T,)."""
    reads = _loop.reads_at(updates, first)
    return _evolved(model, descent, state, jnp.asarray(first), reads, names, membership)


@compiled()
def _evolved(
    model: LayerPeeled,
    descent: Descent,
    state: State,
    first: jax.Array,
    reads: _loop.Reads,
    names: tuple[str, ...],
    membership: Membership,
) -> dict[str, jax.Array]:
    dtype = state.W.dtype
    setting = setting_of(model, membership, descent.fresh_labels, dtype)
    short, body, power = begun(model, descent, state, membership, setting)
    carry = _rescaled(_Carry(body, jax.tree.map(jnp.zeros_like, body), power))

    def step(carry: _Carry, k: jax.Array) -> _Carry:
        rates = rates_at(descent, (first + k).astype(dtype), dtype)
        added = jax.tree.map(jnp.add, short.change(carry.moments, moving(rates, model)), carry.lost)
        moved = jax.tree.map(jnp.add, carry.moments, added)
        lost = jax.tree.map(lambda by, new, old: by - (new - old), added, moved, carry.moments)
        return _rescaled(_Carry(moved, jax.lax.stop_gradient(lost), carry.power))

    def read(needed: Read) -> dict[str, jax.Array]:
        return values_of(names, short.whole(needed.moments), setting, needed.power, state)  # type: ignore[arg-type]

    _, values, _ = _loop.run(step, carry, reads, read, needs=lambda carry: Read(carry.moments, carry.power))
    found: dict[str, jax.Array] = values
    return found


def begun(
    model: LayerPeeled, dynamics: Noisy, state: State, membership: Membership, setting: Setting
) -> tuple[General | Alike, Any, jax.Array]:
    """What carries the moments, those of the start over a power of two, and the power."""
    dtype = state.W.dtype
    draws = draws_of(model.samples, dynamics, dtype)
    start, power = moments_of_start(state, membership)
    update = isinstance(dynamics, Descent)
    alike = membership.alike
    short = Alike(model, setting, draws, dtype, update) if alike else General(model, setting, draws, update)
    return short, short.shortened(start), power


def moments_of_start(state: State, membership: Membership) -> tuple[Moments, jax.Array]:
    """The moments of a given state, without its `log_scale`: (those of H and W divided by 2^power, power)."""
    power = drift(largest(state.H, state.W))
    H, W = (power_of_two(-power, part.dtype) * part for part in (state.H, state.W))
    return moments_of(H, W, state.b, membership.group, membership.first.shape[0]), 2 * power


def moving(rates: PartRates, model: LayerPeeled) -> PartRates:
    """The rates, 0 for a part that stays."""
    return PartRates(*(rate if moves else jnp.zeros_like(rate) for rate, moves in zip(rates, model.moves, strict=True)))


def values_of(
    names: tuple[str, ...], moments: Moments, setting: Setting, power: jax.Array, state: State
) -> dict[str, jax.Array]:
    """The observables of moments over 2^power, of a run from this state."""
    dtype = state.W.dtype
    log = power.astype(dtype) * jnp.log(jnp.asarray(2.0, dtype)) + 2 * state.log_scale
    return {name: _value(name, moments, setting, log) for name in names}


def _value(name: str, moments: Moments, setting: Setting, log: jax.Array) -> jax.Array:
    """An observable of moments that stand for e^log times those of H and W."""
    scaled, rest = OF_MOMENTS[name.removeprefix("log_")](moments, setting)
    if name.startswith("log_"):
        return safe_log(scaled) + log
    return jnp.where(scaled == 0, 0.0, scaled * jnp.exp(log)) + rest


def _rescaled(carry: _Carry) -> _Carry:
    """The carry with a power of two taken out of the moments of H and W."""
    parts = None
    if isinstance(carry.moments, Moments):
        parts = [carry.moments.within, jnp.diagonal(carry.moments.FF), jnp.diagonal(carry.moments.WW)]
    size = jnp.max(jnp.abs(carry.moments[0])) if parts is None else jnp.max(jnp.concatenate(parts))
    power = drift(size, beyond=0)
    factor = power_of_two(-power, size.dtype)

    def scaled(tree: Any) -> Any:
        if not isinstance(tree, Moments):
            return (tree[0] * factor, *tree[1:])
        return Moments(tree.FF * factor, tree.FW * factor, tree.WW * factor, tree.within * factor, tree.b, tree.spread)

    return _Carry(scaled(carry.moments), scaled(carry.lost), carry.power + power)
