"""What carries the moments of noise: all of them, or seven numbers if all classes are alike.

`General.update` says whether they change from update to update of a descent or, per unit of time, in a diffusion.

Permuting classes that are alike changes nothing that is read, so every C x C matrix may be replaced by its mean over
permutations, alpha I + beta 11^T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unhinged_jax import _check
from unhinged_jax.closed_form.moments import Draws, Groups, Moments, change
from unhinged_jax.dynamics import PartRates
from unhinged_jax.labels import Labels
from unhinged_jax.labels.fields import PER_SAMPLE
from unhinged_jax.losses import Unhinged
from unhinged_jax.model import LayerPeeled


class Membership(NamedTuple):
    """The group of each sample, (n,), the first sample of each group, (G,), and whether all classes are alike."""

    group: Int[jax.Array, "n"]
    first: Int[jax.Array, "G"]
    alike: bool


class Setting(NamedTuple):
    """What does not change during a run.

    Attributes:
        model: The problem.
        groups: Samples with the same expected signal.
        classes: The class of each group, (G,).
        observed: The rows of the signal matrix of the targets themselves, (G, C), to which the loss refers.
    """

    model: LayerPeeled
    groups: Groups
    classes: Int[jax.Array, "G"]
    observed: Float[jax.Array, "G C"]


class General(NamedTuple):
    """Any labels: the moments themselves."""

    model: LayerPeeled
    setting: Setting
    draws: Draws
    update: bool = True

    def shortened(self, moments: Moments) -> Moments:
        return moments

    def whole(self, moments: Moments) -> Moments:
        return moments

    def change(self, moments: Moments, rates: PartRates) -> Moments:
        return change(moments, self.setting.groups, self.draws, rates, self.model.decays, self.update)


class Alike:
    """Classes that are all alike: (7 numbers of H and W, b, spread).

    The numbers are alpha and beta of FF, FW and WW, and one entry of `within`. What an update adds to them is a
    polynomial in the rates x and y without a constant, whose five matrices are the derivatives of `change` at 0.
    """

    def __init__(
        self, model: LayerPeeled, setting: Setting, draws: Draws, dtype: DTypeLike, update: bool = True
    ) -> None:
        self.general, self.dtype = General(model, setting, draws, update), dtype
        self.C = model.classes
        zero = jnp.zeros((), dtype)

        def added(xy: jax.Array) -> jax.Array:
            def of(v: jax.Array) -> jax.Array:
                found = self.general.change(
                    self.whole((v, jnp.zeros(self.C, dtype), zero)), PartRates(xy[0], xy[1], zero)
                )
                return self.shortened(found)[0]

            return jax.vmap(of, out_axes=1)(jnp.eye(7, dtype=dtype))

        none = jnp.zeros(2, dtype)  # derivatives, because differences of values would cancel for a small signal
        slopes, bends = jax.jacfwd(added)(none), jax.jacfwd(jax.jacfwd(added))(none)
        terms = [slopes[..., 0], slopes[..., 1], bends[..., 0, 0] / 2, bends[..., 1, 1] / 2, bends[..., 0, 1]]
        self.terms = jnp.stack(terms)

    def shortened(self, s: Moments) -> tuple[jax.Array, jax.Array, jax.Array]:
        C, numbers = self.C, []
        for matrix in (s.FF, s.FW, s.WW):
            trace, total = jnp.trace(matrix), jnp.sum(matrix)
            beta = (total - trace) / (C * (C - 1))
            numbers += [trace / C - beta, beta]
        return jnp.stack([*numbers, jnp.mean(s.within)]), s.b, s.spread

    def whole(self, short: tuple[jax.Array, jax.Array, jax.Array]) -> Moments:
        v, b, spread = short
        one, all_ = jnp.eye(self.C, dtype=self.dtype), jnp.ones((self.C, self.C), self.dtype)
        FF, FW, WW = (v[2 * i] * one + v[2 * i + 1] * all_ for i in range(3))
        return Moments(FF, FW, WW, jnp.full(self.C, v[6]), b, spread)

    def change(self, short: tuple[jax.Array, ...], rates: PartRates) -> tuple[jax.Array, ...]:
        v, b, spread = short
        x, y, z = rates
        total = jnp.tensordot(jnp.stack([x, y, x * x, y * y, x * y]), self.terms, 1)
        none = jnp.zeros((self.C, self.C), self.dtype)
        still = Moments(none, none, none, none[0], b, spread)
        of_b = self.general.change(still, PartRates(jnp.zeros_like(x), jnp.zeros_like(y), z))
        return total @ v, of_b.b, of_b.spread


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
        return Membership(index, first, alike(model))
    if labels.kind in PER_SAMPLE or not _check.concrete((labels.index, labels.weights)):
        return Membership(jnp.arange(labels.samples), jnp.arange(labels.samples), False)
    pairs: Any = np.stack([np.asarray(labels.index), np.asarray(labels.weights)], axis=1).astype(float)
    _, at, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    return Membership(jnp.asarray(inverse.ravel()), jnp.asarray(at), alike(model))


def setting_of(model: LayerPeeled, membership: Membership, fresh: bool, dtype: DTypeLike) -> Setting:
    """The problem with its groups; of fresh labels also how they vary."""
    labels, first = model.labels, membership.first
    counts = jnp.bincount(membership.group, length=first.shape[0]).astype(dtype)
    observed = model.signal().dense(dtype)[first]
    groups = Groups(observed, counts)
    if fresh:
        weights, chances = jnp.asarray(labels.weights, dtype)[first, None], labels.probabilities().astype(dtype)[first]
        each = Labels(index=np.arange(labels.classes), weights=np.ones(labels.classes), classes=labels.classes)
        rows = model.loss.signal(each).dense(dtype)
        groups = Groups(weights * (chances @ rows), counts, chances * weights**2, rows)
    return Setting(model, groups, jnp.asarray(labels.index)[first], observed)
