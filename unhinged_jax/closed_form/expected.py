"""Expectations over the draws of a stochastic descent: every observable that is quadratic in the state, and its loss.

The moments of `unhinged_jax.closed_form.moments` are carried from update to update, divided by a power of two of their
own, so that neither growth nor decay leaves the range. If all classes are alike, permuting them changes nothing that is
read, so every C x C matrix may be replaced by its mean over permutations, alpha I + beta 11^T: seven numbers in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Int

from unhinged_jax import _check, _loop
from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.moments import Draws, Groups, Moments, change, draws_of, moments_of
from unhinged_jax.dynamics import Descent, rates_at
from unhinged_jax.labels import Labels
from unhinged_jax.losses import Unhinged
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.special import power_of_two, safe_log

_TIDY_EVERY = 8  # updates; no moment grows by more than a few powers of two in one


class Read(NamedTuple):
    """What is read of the moments.

    Attributes:
        moments: Those of H and W divided by 2^power.
        power: A whole number, ().
    """

    moments: Moments
    power: Int[jax.Array, ""]


class Membership(NamedTuple):
    """The group of each sample, (n,), and the first sample of each group, (G,)."""

    group: Int[jax.Array, "n"]
    first: Int[jax.Array, "G"]


class Setting(NamedTuple):
    """What does not change during a run.

    Attributes:
        model: The problem.
        groups: Samples with the same expected signal.
        classes: The class of each group, (G,).
    """

    model: LayerPeeled
    groups: Groups
    classes: Int[jax.Array, "G"]


def why_no_expectation(model: LayerPeeled, descent: Descent) -> str | None:
    """The setting that rules out expectations in closed form, in words, or None; for a loss that is linear."""
    if descent.replacement == "epochs":
        return "batches of one epoch depend on one another, so the moments do not close; use `simulate` and average."
    if descent.momentum is not None:
        return "moments of a descent with momentum are not offered; use `simulate` and average."
    if model.spherical:
        return "spherical features are not linear once prototypes meet noise; use `simulate` and average."
    if model.kernel is not None:
        return "a kernel mixes the samples of a batch with all others; use `simulate` and average."
    if descent.fresh_labels and model.labels.kind == "hard":
        return "fresh_labels draws labels from the targets, but these are one-hot; describe the noise first."
    return None


# --- what is read -----------------------------------------------------------------------------------------------------

Parts = tuple[jax.Array, ArrayLike]
"""(share that scales like H and W, rest), whose sum is the observable."""


def _loss(s: Moments, at: Setting) -> Parts:
    dtype = s.WW.dtype
    drift = at.groups.counts @ at.groups.signal
    constant = at.model.loss_of_logits(jnp.zeros((at.model.samples, at.model.classes), dtype))
    return -jnp.sum(at.groups.signal * s.FW), constant - drift @ s.b


def _objective(s: Moments, at: Setting) -> Parts:
    decays, (scaled, rest) = at.model.decays, _loss(s, at)
    return scaled + decays.H * jnp.sum(s.squares) / 2 + decays.W * jnp.trace(s.WW) / 2, rest + decays.b * _of_b(s) / 2


def _of_b(s: Moments) -> jax.Array:
    return jnp.sum(s.b**2) + s.spread


def _means(s: Moments, at: Setting) -> tuple[jax.Array, jax.Array]:
    """(sum_c n_c E |mean of class c|^2, n E |mean of all|^2)."""
    C, n = at.model.classes, at.groups.counts
    member = (at.classes[:, None] == jnp.arange(C)).astype(s.FF.dtype)
    sums = jnp.sum(member * (s.FF @ member), axis=0)
    return jnp.sum(sums / (n @ member)), jnp.sum(s.FF) / jnp.sum(n)


OF_MOMENTS: dict[str, Callable[[Moments, Setting], Parts]] = {
    "loss": _loss,
    "objective": _objective,
    "square_norm": lambda s, at: (jnp.sum(s.squares) + jnp.trace(s.WW), 0.0),
    "square_norm_H": lambda s, at: (jnp.sum(s.squares), 0.0),
    "square_norm_W": lambda s, at: (jnp.trace(s.WW), 0.0),
    "square_norm_b": lambda s, at: (jnp.zeros_like(s.spread), _of_b(s)),
    "within_scatter": lambda s, at: (jnp.sum(s.squares) - _means(s, at)[0], 0.0),
    "between_scatter": lambda s, at: (_means(s, at)[0] - _means(s, at)[1], 0.0),
}
"""Observables whose expectation is known: name -> its parts. Their logarithms are those of the expectations."""


def known(name: str) -> bool:
    """Whether the expectation of an observable, or its logarithm, is known."""
    stem = name.removeprefix("log_")
    return stem in OF_MOMENTS and (stem == name or stem not in ("loss", "objective", "square_norm_b"))


# --- the run ----------------------------------------------------------------------------------------------------------


class _Carry(NamedTuple):
    """Moments over 2^power, what rounding lost of them, and the power."""

    moments: Any
    lost: Any
    power: jax.Array


def expectations(
    model: LayerPeeled, descent: Descent, state: State, first: jax.Array, reads: _loop.Reads, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """The expectation of each observable after the requested updates: name -> (T,)."""
    return _evolved(model, descent, state, first, reads, names, grouped(model), alike(model))


@compiled
def _evolved(
    model: LayerPeeled,
    descent: Descent,
    state: State,
    first: jax.Array,
    reads: _loop.Reads,
    names: tuple[str, ...],
    membership: Membership,
    symmetric: bool,
) -> dict[str, jax.Array]:
    dtype = state.W.dtype
    setting = _setting(model, membership, descent.fresh_labels, dtype)
    batch, replacement = (model.samples, False) if descent.batch is None else (descent.batch, bool(descent.replacement))
    draws = Draws(*(jnp.asarray(value, dtype) for value in draws_of(model.samples, batch, replacement)))
    H, W = multiplied(state)
    start = moments_of(H, W, state.b, membership.group, membership.first.shape[0])
    short = _Alike(model, setting, draws, dtype) if symmetric else _General(model, setting, draws)
    body = short.shortened(start)
    carry = _rescaled(_Carry(body, jax.tree.map(jnp.zeros_like, body), jnp.zeros((), jnp.int32)))

    def step(carry: _Carry, k: jax.Array) -> _Carry:
        rates = rates_at(descent, (first + k).astype(dtype), dtype)
        x, y, z = (rate if moves else jnp.zeros((), dtype) for rate, moves in zip(rates, model.moves, strict=True))
        added = jax.tree.map(jnp.add, short.change(carry.moments, x, y, z), carry.lost)
        moved = jax.tree.map(jnp.add, carry.moments, added)
        lost = jax.tree.map(lambda by, new, old: by - (new - old), added, moved, carry.moments)
        return _Carry(moved, jax.lax.stop_gradient(lost), carry.power)

    def read(needed: Read) -> dict[str, jax.Array]:
        moments = short.whole(needed.moments)
        return {name: _value(name, moments, setting, needed.power) for name in names}

    _, values, _ = _loop.run(
        step, carry, reads, read, needs=lambda carry: Read(carry.moments, carry.power), tidy=(_TIDY_EVERY, _rescaled)
    )
    found: dict[str, jax.Array] = values
    return found


def _value(name: str, moments: Moments, setting: Setting, power: jax.Array) -> jax.Array:
    scaled, rest = OF_MOMENTS[name.removeprefix("log_")](moments, setting)
    log = power.astype(scaled.dtype) * jnp.log(jnp.asarray(2.0, scaled.dtype))
    if name.startswith("log_"):
        return safe_log(scaled) + log
    return jnp.where(scaled == 0, 0.0, scaled * jnp.exp(log)) + rest


def _rescaled(carry: _Carry) -> _Carry:
    """The carry with a power of two taken out of the moments of H and W."""
    parts = [carry.moments.squares, jnp.diagonal(carry.moments.WW)] if isinstance(carry.moments, Moments) else None
    size = jnp.max(jnp.abs(carry.moments[0])) if parts is None else jnp.max(jnp.concatenate(parts))
    ready = (size > 0) & jnp.isfinite(size)
    power = jax.lax.stop_gradient(jnp.round(jnp.log2(jnp.where(ready, size, 1.0))).astype(jnp.int32))
    factor = power_of_two(-power, size.dtype)

    def scaled(tree: Any) -> Any:
        if not isinstance(tree, Moments):
            return (tree[0] * factor, *tree[1:])
        return Moments(tree.FF * factor, tree.FW * factor, tree.WW * factor, tree.squares * factor, tree.b, tree.spread)

    return _Carry(scaled(carry.moments), scaled(carry.lost), carry.power + power)


class _General(NamedTuple):
    """Any labels: the moments themselves."""

    model: LayerPeeled
    setting: Setting
    draws: Draws

    def shortened(self, moments: Moments) -> Moments:
        return moments

    def whole(self, moments: Moments) -> Moments:
        return moments

    def change(self, moments: Moments, x: jax.Array, y: jax.Array, z: jax.Array) -> Moments:
        decays = self.model.decays
        return change(moments, self.setting.groups, self.draws, x, y, decays.H, decays.W, (z, decays.b))


class _Alike:
    """Classes that are all alike: (7 numbers of H and W, b, spread).

    The numbers are alpha and beta of FF, FW and WW, and one entry of `squares`. What an update adds to them is a
    polynomial in the rates x and y without a constant, whose five matrices are found by evaluating `change`.
    """

    def __init__(self, model: LayerPeeled, setting: Setting, draws: Draws, dtype: DTypeLike) -> None:
        self.general, self.dtype = _General(model, setting, draws), dtype
        self.C = model.classes
        zero = jnp.zeros((), dtype)

        def at(x: float, y: float) -> jax.Array:
            def of(v: jax.Array) -> jax.Array:
                empty = jnp.zeros(self.C, dtype), zero
                found = self.general.change(self.whole((v, *empty)), *(jnp.asarray(r, dtype) for r in (x, y, 0.0)))
                return self.shortened(found)[0]

            return jax.vmap(of, out_axes=1)(jnp.eye(7, dtype=dtype))

        ahead_x, back_x, ahead_y, back_y = at(1, 0), at(-1, 0), at(0, 1), at(0, -1)
        halves = [(ahead_x - back_x) / 2, (ahead_y - back_y) / 2, (ahead_x + back_x) / 2, (ahead_y + back_y) / 2]
        self.terms = jnp.stack([*halves, at(1, 1) - ahead_x - ahead_y])

    def shortened(self, s: Moments) -> tuple[jax.Array, jax.Array, jax.Array]:
        C, numbers = self.C, []
        for matrix in (s.FF, s.FW, s.WW):
            trace, total = jnp.trace(matrix), jnp.sum(matrix)
            beta = (total - trace) / (C * (C - 1))
            numbers += [trace / C - beta, beta]
        return jnp.stack([*numbers, jnp.mean(s.squares)]), s.b, s.spread

    def whole(self, short: tuple[jax.Array, jax.Array, jax.Array]) -> Moments:
        v, b, spread = short
        one, all_ = jnp.eye(self.C, dtype=self.dtype), jnp.ones((self.C, self.C), self.dtype)
        FF, FW, WW = (v[2 * i] * one + v[2 * i + 1] * all_ for i in range(3))
        return Moments(FF, FW, WW, jnp.full(self.C, v[6]), b, spread)

    def change(self, short: tuple[jax.Array, ...], x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
        v, b, spread = short
        map_ = jnp.tensordot(jnp.stack([x, y, x * x, y * y, x * y]), self.terms, 1)
        groups, draws, decay = self.general.setting.groups, self.general.draws, self.general.model.decays.b
        of_b = change(
            Moments(*(jnp.zeros((self.C, self.C), self.dtype),) * 3, jnp.zeros(self.C, self.dtype), b, spread),
            groups, draws, jnp.zeros((), self.dtype), jnp.zeros((), self.dtype), 0.0, 0.0, (z, decay),
        )  # fmt: skip
        return map_ @ v, of_b.b, of_b.spread


# --- groups -----------------------------------------------------------------------------------------------------------


def alike(model: LayerPeeled) -> bool:
    """Whether permuting the classes is known to change nothing: equal counts and weights, symmetric targets."""
    labels = model.labels
    if not isinstance(model.loss, Unhinged):
        return False
    if labels.balanced:
        return True
    if labels.kind != "table" or not _check.concrete((labels.index, labels.weights, labels.targets)):
        return False
    index, weights, table = (np.asarray(part) for part in (labels.index, labels.weights, labels.targets))
    counts = np.bincount(index, minlength=labels.classes)
    apart = table[~np.eye(labels.classes, dtype=bool)]
    even = np.all(counts == counts[0]) and np.all(weights == weights[0])
    return bool(even and np.all(apart == apart[0]) and np.all(np.diagonal(table) == table[0, 0]))


def grouped(model: LayerPeeled) -> Membership:
    """Which samples have the same expected signal; each its own if labels are traced or have targets of their own."""
    labels = model.labels
    if labels.balanced:
        index = jnp.asarray(labels.index)
        first = jnp.argmax(index == jnp.arange(labels.classes)[:, None], axis=1)
        return Membership(index, first)
    if labels.kind == "soft" or not _check.concrete((labels.index, labels.weights)):
        return Membership(jnp.arange(labels.samples), jnp.arange(labels.samples))
    pairs = np.stack([np.asarray(labels.index), np.asarray(labels.weights)], axis=1).astype(float)
    _, first, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    return Membership(jnp.asarray(inverse.ravel()), jnp.asarray(first))


def _setting(model: LayerPeeled, membership: Membership, fresh: bool, dtype: DTypeLike) -> Setting:
    labels, first = model.labels, membership.first
    counts = jnp.bincount(membership.group, length=first.shape[0]).astype(dtype)
    signal, chances, rows = model.signal().dense(dtype)[first], None, None
    if fresh:
        squares = jnp.asarray(labels.weights, dtype)[first, None] ** 2
        chances = labels.probabilities().astype(dtype)[first] * squares
        each = Labels(index=np.arange(labels.classes), weights=np.ones(labels.classes), classes=labels.classes)
        rows = model.loss.signal(each).dense(dtype)
    return Setting(model, Groups(signal, counts, chances, rows), jnp.asarray(labels.index)[first])
