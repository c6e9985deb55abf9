"""What an observable is given: the state at one time of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.model.deep import next_features
from unhinged_jax.observables.distance import Orthonormal, Reference, Split, turned
from unhinged_jax.observables.features import ClassFeatures, DenseFeatures, Features, row_lengths
from unhinged_jax.observables.plane_features import unit
from unhinged_jax.signal import ClassSignal
from unhinged_jax.special import drift, power_of_two, safe_norm


class Normal(NamedTuple):
    """Features and prototypes, each over a power of two of its own, so that no product of them leaves the range, the
    norm of these prototypes, and the logarithms of the scales."""

    features: Features
    W: Float[jax.Array, "C p"]
    norm_W: Float[jax.Array, ""]
    log_H: Float[jax.Array, ""]
    log_W: Float[jax.Array, ""]


def _normal(view: View) -> Normal:
    if view.inner is not None:
        return _normal_of_last(view, view.inner)
    norm_W = view.norm_W()
    powers = [drift(size) for size in (view.features.norm(), norm_W)]
    dtype = view.W.dtype
    info = jnp.finfo(dtype)
    powers = [jnp.clip(power, 2 - info.maxexp, info.maxexp - 2) for power in powers]
    factor_H, factor_W = (power_of_two(-power, dtype) for power in powers)
    log_H, log_W = (view.log_scale + power.astype(dtype) * jnp.log(jnp.asarray(2.0, dtype)) for power in powers)
    return Normal(view.features.scaled(factor_H, factor_W), factor_W * view.W, factor_W * norm_W, log_H, log_W)


def _normal_of_last(view: View, inner: jax.Array) -> Normal:
    """The features that the prototypes of a deep model see; each factor is made of ordinary size before it multiplies,
    which an activation allows that is homogeneous."""
    features, log = layer_features(view.model, view.features.dense(), inner, view.log_scale)[-1]
    W, log_W = of_ordinary_size(view.W, view.log_scale)
    return Normal(DenseFeatures(features), W, safe_norm(W), log, log_W)


def layer_features(
    model: LayerPeeled, H: jax.Array, inner: jax.Array, log_scale: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """F_1, ..., F_{L-1} of factors in units of e^log_scale, each over its own scale, and the scales' logarithms."""
    found = [of_ordinary_size(H, log_scale)]
    for factor in inner:
        (features, log), (factor, log_factor) = found[-1], of_ordinary_size(factor, log_scale)
        found.append(of_ordinary_size(next_features(model, features, factor), log + log_factor))
    return found


def of_ordinary_size(array: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An array over a power of two, and the logarithm of the scale that the result is to be multiplied by."""
    info = jnp.finfo(array.dtype)
    power = jnp.clip(drift(safe_norm(array)), 2 - info.maxexp, info.maxexp - 2)
    log = log_scale + power.astype(array.dtype) * jnp.log(jnp.asarray(2.0, array.dtype))
    return array * power_of_two(-power, array.dtype), log


def _norm_W(view: View) -> jax.Array:
    return safe_norm(view.W) if view.known_norm_W is None else view.known_norm_W


def _unit_prototypes(view: View) -> jax.Array:
    W = view.normal().W
    lengths = row_lengths(W)
    return W / jnp.where(lengths > 0, lengths, 1.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
    """One moment of a run, as observables see it: e^log_scale (features, W), b, and its split along the limit.

    `log_start` is the logarithm of the norm of the leading part at the start. In a continued run it refers to the start
    of the first run, whose leading part is e^log_start (direction + `beside`). `small_loss` is the loss, as (mantissa,
    logarithm of its scale, whether it holds, loss of logits of 0), of a run that knows it better than the difference of
    logits and targets.
    `inner` are the factors between H and W of a deep model, each e^log_scale times the array, (L-2, p, p).
    `unless_lost` is NaN if features or prototypes are too small beside the others to be known, else 1.
    `known_norm_W` is the norm of W if a solver has it more cheaply than by a pass over W.
    """

    model: LayerPeeled
    features: Features
    W: Float[jax.Array, "C p"]
    b: Float[jax.Array, "C"]
    log_scale: Float[jax.Array, ""]
    split: Split | None = None
    log_start: Float[jax.Array, ""] | None = None
    beside: Orthonormal | None = None
    small_loss: tuple[jax.Array, jax.Array, jax.Array, jax.Array] | None = None
    inner: Float[jax.Array, "l p p"] | None = None
    unless_lost: Float[jax.Array, ""] | None = None
    known_norm_W: Float[jax.Array, ""] | None = None

    def once(self, compute: Callable[[View], Any]) -> Any:
        """compute(view), evaluated only once, because XLA does not merge factorisations."""
        memo = self.__dict__.setdefault("_memo", {})
        if compute not in memo:
            memo[compute] = compute(self)
        return memo[compute]

    def inside(self) -> View:
        """The same moment in a branch of `lax.cond`, whose values are unknown outside: it knows what `once` has found
        so far, and what it finds is not remembered here."""
        inside = dataclasses.replace(self)
        inside.__dict__["_memo"] = dict(self.__dict__.get("_memo", {}))
        return inside

    def referred(self, reference: Reference | None) -> View:
        """The same moment of a continued run, seen from the start of the first one."""
        if reference is None:
            return self
        assert self.split is not None
        split = turned(self.split, reference.turn)
        return dataclasses.replace(self, split=split, log_start=reference.log_start, beside=reference.beside)

    def state(self) -> State:
        """The state, dense."""
        return State(self.features.dense(), self.W, self.b, self.log_scale, self.inner)

    def seen(self) -> Features:
        """Features as they enter the logits (of a deep model the last): of unit length if spherical, else `normal`."""
        features = self.normal().features
        return unit(features) if self.model.spherical else features

    def normal(self) -> Normal:
        """Features and prototypes of ordinary size, with the logarithms of their scales."""
        return self.once(_normal)

    def prototypes(self) -> Float[jax.Array, "C p"]:
        """W as it enters the logits, (C, p): unit rows if they are normalised, else over its scale in `normal`."""
        return self.once(_unit_prototypes) if self.model.unit_prototypes else self.normal().W

    def norm_W(self) -> Float[jax.Array, ""]:
        """Frobenius norm of W."""
        return self.once(_norm_W)

    def signal_features(self) -> Float[jax.Array, "C p"]:
        """M^T H of the features seen, shape (C, p)."""
        signal, seen = self.model.signal(), self.seen()
        if isinstance(seen, ClassFeatures) and isinstance(signal, ClassSignal):
            return signal.gather(seen.sums)
        return signal.transpose_times(seen.dense())

    def logit_scale(self) -> Float[jax.Array, ""]:
        """Logarithm of the scale of the logits of `seen` features and `prototypes`."""
        normal = self.normal()
        if self.model.unit_prototypes:  # so are features
            return jnp.zeros_like(normal.log_W)
        return normal.log_W + (0.0 if self.model.spherical else normal.log_H)
