"""Losses on (logits, targets), one value a sample, in optax's signature.

`logits` has shape (..., C). `targets` are distributions of the same shape, or integer labels of shape (...). The
functions can be used alone; `Loss` objects carry their parameters as array leaves, so that a model can be mapped over
and differentiated in them. A loss that is linear in the logits also gives its signal matrix.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.labels import Labels
from unhinged_jax.precision import follows_arrays
from unhinged_jax.signal import Signal, unhinged_signal


class NotLinear(ValueError):
    """Asked for the signal matrix of a loss that is not linear in the logits."""


def _distributions(logits: jax.Array, targets: ArrayLike) -> jax.Array:
    targets = targets if isinstance(targets, jax.Array) else np.asarray(targets)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = _numbers.whole("targets", targets)
    targets = jnp.asarray(targets)
    if targets.shape == logits.shape and jnp.issubdtype(targets.dtype, jnp.floating):
        return targets.astype(logits.dtype)
    if targets.shape == logits.shape[:-1] and jnp.issubdtype(targets.dtype, jnp.integer):
        classes = logits.shape[-1]
        _check.labels("targets", targets, classes)
        known = (targets >= 0) & (targets < classes)  # traced labels cannot be refused; their loss is NaN
        return jnp.where(known[..., None], jax.nn.one_hot(targets, classes, dtype=logits.dtype), jnp.nan)
    raise ValueError(
        f"targets must be distributions of shape {logits.shape} or integer labels of shape {logits.shape[:-1]}, "
        f"but got {targets.dtype} of shape {targets.shape}."
    )


def _factor(name: str, value: ArrayLike, allowed: tuple[tuple[int, ...], ...]) -> None:
    """Raise for an array that would be taken along another axis than that of the samples."""
    if np.shape(value) not in allowed:
        shapes = " or ".join(str(shape) for shape in dict.fromkeys(allowed))
        raise ValueError(f"{name} must have shape {shapes}, but got {np.shape(value)}; map over others with jax.vmap.")


def _of_logits(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function of logits as a floating-point array, in float64 wherever an array that it is given is."""

    @follows_arrays
    @functools.wraps(function)
    def wrapped(logits: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        logits = jnp.asarray(logits)
        floating = jnp.issubdtype(logits.dtype, jnp.floating)
        return function(logits if floating else _numbers.floats(logits, "logits"), *args, **kwargs)

    return wrapped


@_of_logits
def unhinged(
    logits: jax.Array, targets: ArrayLike, gamma: ArrayLike | None = None, weights: ArrayLike = 1.0
) -> jax.Array:
    """Unhinged loss: -s_y + gamma sum_{j != y} s_j, for soft targets its expectation.

    Args:
        logits: Shape (..., C).
        targets: Distributions (..., C) or integer labels (...).
        gamma: Trade-off, at least 0; default 1/(C-1), which makes it minus the mean one-vs-other margin.
        weights: Factor on each sample's loss, shape (...) or a scalar.

    Returns:
        Loss of each sample, shape (...).

    Raises:
        ValueError: for gamma < 0 or targets of a wrong shape.

    Source: Zhou et al. 2023, Eq. 1; for two classes van Rooyen et al. 2015. Soft and weighted: beyond the paper.

    Example:
        >>> unhinged(jnp.array([2.0, 1.0, 0.0]), jnp.array(0), gamma=0.5)
        Array(-1.5, dtype=float32)
    """
    gamma = 1 / (logits.shape[-1] - 1) if gamma is None else gamma
    _check.non_negative("gamma", gamma)
    _factor("gamma", gamma, ((),))
    _factor("weights", weights, ((), logits.shape[:-1]))
    gamma = _numbers.like(gamma, logits.dtype)  # before 1 + gamma, which would be rounded to a narrower type
    targets = _distributions(logits, targets)
    return -jnp.asarray(weights) * jnp.sum(((1 + gamma) * targets - gamma) * logits, axis=-1)


@_of_logits
def cross_entropy(logits: jax.Array, targets: ArrayLike) -> jax.Array:
    """Softmax cross-entropy, shape (...).

    Example:
        >>> cross_entropy(jnp.zeros(2), jnp.array(0)).round(4)
        Array(0.6931, dtype=float32)
    """
    return optax.losses.softmax_cross_entropy(logits, _distributions(logits, targets))


@_of_logits
def mse(logits: jax.Array, targets: ArrayLike) -> jax.Array:
    """Squared error 1/2 ||s - y||^2 against the target distribution, shape (...).

    Source: Han, Papyan & Donoho 2022.

    Example:
        >>> mse(jnp.array([1.0, 1.0]), jnp.array(0))
        Array(0.5, dtype=float32)
    """
    return jnp.sum(optax.losses.l2_loss(logits, _distributions(logits, targets)), axis=-1)


@_of_logits
def hinge(logits: jax.Array, targets: ArrayLike, margin: ArrayLike = 1.0) -> jax.Array:
    """Multi-class hinge loss max(0, margin + max_{j != y} s_j - s_y), its mean over soft targets.

    Source: Crammer & Singer 2001.

    Example:
        >>> hinge(jnp.array([2.0, 1.5]), jnp.array(0))
        Array(0.5, dtype=float32)
    """
    targets = _distributions(logits, targets)
    _factor("margin", margin, ((),))
    return jnp.sum(targets * jnp.maximum(0, margin - runner_up_margins(logits)), axis=-1)


@_of_logits
def focal(logits: jax.Array, targets: ArrayLike, focusing: ArrayLike = 2.0) -> jax.Array:
    """Focal loss -(1 - p_y)^focusing log p_y with p = softmax(s), its mean over soft targets.

    Source: Lin et al. 2017.

    Example:
        >>> focal(jnp.zeros(2), jnp.array(0), focusing=0.0).round(4)
        Array(0.6931, dtype=float32)
    """
    targets = _distributions(logits, targets)
    _factor("focusing", focusing, ((),))
    log_p = jax.nn.log_softmax(logits)
    # Floored, because the gradient of 0 ** focusing is not finite for focusing < 1.
    miss = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).tiny)
    return -jnp.sum(targets * miss**focusing * log_p, axis=-1)


@follows_arrays
def adjusted_margin(
    features: jax.Array,
    prototypes: jax.Array,
    labels: jax.Array,
    gamma: ArrayLike,
    epsilon: ArrayLike = 0.1,
    bias: ArrayLike = 0.0,
) -> jax.Array:
    """Adjusted sample margin loss: the unhinged loss with a pull that does not vanish opposite to the prototype.

    Where the cosine of h and w_y is at least -1 + epsilon this is the unhinged loss of the unit feature. Below, it is
    -(1 + gamma) <w_y + delta, h>, with delta (no gradient) orthogonal to h and such that the cosine of w_y + delta and
    h is -1 + epsilon. For soft targets it is the mean over them.

    Args:
        features: Features h of any non-zero length, shape (n, p); they enter normalised.
        prototypes: W, shape (C, p).
        labels: Integer labels, shape (n,), or distributions over the classes, shape (n, C).
        gamma: Trade-off, at least 0.
        epsilon: In (0, 1).
        bias: b, shape (C,), added to the logits; default none.

    Returns:
        Loss of each sample, shape (n,).

    Raises:
        ValueError: for epsilon outside (0, 1), gamma < 0, or labels out of range.

    Source: Zhou et al. 2023, Eq. 104, with delta = -(1 + beta sqrt(1-(1-eps)^2) / ((1-eps) sqrt(1-beta^2)))
    (w - h h^T w); the printed plus sign does not give the stated cosine. Soft targets and bias: beyond the paper.

    Example:
        >>> h, w = jnp.array([[-0.8, 0.6]]), jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> adjusted_margin(h, w, jnp.array([0]), gamma=0.0, epsilon=0.5).round(3)
        Array([0.8], dtype=float32)
    """
    _check.non_negative("gamma", gamma)
    if _check.concrete(epsilon) and not np.all((np.asarray(epsilon) > 0) & (np.asarray(epsilon) < 1)):
        raise ValueError(f"epsilon must lie strictly between 0 and 1, but got {epsilon}.")
    labels = jnp.asarray(_numbers.whole("labels", labels))
    features, prototypes = _numbers.floats(features, "features"), _numbers.floats(prototypes, "prototypes")
    gamma, epsilon = (_numbers.like(value, features.dtype) for value in (gamma, epsilon))
    unit = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
    logits = unit @ prototypes.T + jnp.asarray(bias)
    labels, epsilon = jnp.asarray(labels), jnp.asarray(epsilon, unit.dtype)
    targets = _distributions(logits, labels)
    fixed = jax.lax.stop_gradient((unit, prototypes))
    if labels.ndim == 1:
        own = fixed[1][labels]
        below = _opposite(fixed[0], own, epsilon)
        shift, adjusted = _margin_shift(fixed[0], own, epsilon) * below[:, None], below * jnp.sum(targets, axis=-1)
    else:
        shift, adjusted = _mean_shift(*fixed, targets, epsilon)
    own = jnp.sum(targets * logits, axis=-1) + jnp.sum(shift * unit, axis=-1)
    gamma = jnp.asarray(gamma)
    return -(1 + gamma) * own + gamma * (jnp.sum(targets, axis=-1) - adjusted) * jnp.sum(logits, axis=-1)


def _mean_shift(
    unit: jax.Array, prototypes: jax.Array, targets: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean of delta over the targets, (n, p), and the share of them that is adjusted, (n,); one class after another."""

    def add(total: tuple, of_class: tuple) -> tuple[tuple, None]:
        own, share = of_class[0], of_class[1] * _opposite(unit, of_class[0][None], epsilon)
        return (total[0] + share[:, None] * _margin_shift(unit, own[None], epsilon), total[1] + share), None

    start = (jnp.zeros_like(unit), jnp.zeros_like(targets[:, 0]))
    return jax.lax.stop_gradient(jax.lax.scan(add, start, (prototypes, targets.T))[0])


def _opposite(unit: jax.Array, own: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Whether the cosine between unit features and prototypes is below -1 + epsilon; 1 + cos without cancellation."""
    own = own / jnp.linalg.norm(own, axis=-1, keepdims=True)
    return jnp.sum((unit + own) ** 2, axis=-1) / 2 < epsilon


def _margin_shift(unit: jax.Array, own: jax.Array, epsilon: jax.Array) -> jax.Array:
    """delta of Eq. 104 (corrected). At exactly -1 the tangent direction is free: the axis least along h is taken."""
    along = jnp.sum(own * unit, axis=-1, keepdims=True)
    tangent = own - along * unit
    length = jnp.linalg.norm(tangent, axis=-1, keepdims=True)
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(unit), axis=-1), unit.shape[-1], dtype=unit.dtype)
    spare = axis - jnp.sum(axis * unit, axis=-1, keepdims=True) * unit
    spare = spare / jnp.linalg.norm(spare, axis=-1, keepdims=True)
    lost = length <= 4 * jnp.finfo(unit.dtype).eps * jnp.abs(along)
    direction = jnp.where(lost, spare, tangent / jnp.where(lost, 1.0, length))
    return jnp.abs(along) * jnp.sqrt(epsilon * (2 - epsilon)) / (1 - epsilon) * direction - tangent


def runner_up_margins(logits: jax.Array) -> jax.Array:
    """s_c - max_{j != c} s_j for every class c, shape (..., C); without sorting, which is slow on CPUs."""
    first = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True)
    top = jnp.max(logits, axis=-1, keepdims=True)
    second = jnp.max(jnp.where(first, -jnp.inf, logits), axis=-1, keepdims=True)
    rival = jnp.where(first, second, top)
    return logits - rival


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of one sample as an object: called with (logits, targets), gives one value a sample."""

    def __post_init__(self) -> None:
        ours = [name for name in ("gamma", "epsilon", "margin", "focusing") if hasattr(self, name)]
        _numbers.settle(self, ours, _numbers.real)

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        """Loss of each sample, shape (...)."""
        raise TypeError("Loss is the base class; use Unhinged, CrossEntropy, MSE, Hinge, Focal, ...")

    @property
    def linear(self) -> bool:
        """Whether the loss is linear in the logits."""
        return False

    def of_columns(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Loss of each sample, shape (n,), with one sample a column: logits and targets (C, n)."""
        values = self(logits.T, targets.T)
        _check.shape(f"what the loss {type(self).__name__} returns", values, logits.shape[1:], "one value a sample")
        return values

    def pull(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        """Minus the gradient of sum_i weights_i loss_i, with one sample a column: logits, targets and result (C, n)."""
        return -jax.grad(lambda logits: jnp.sum(weights * self.of_columns(logits, targets)))(logits)

    def signal(self, labels: Labels) -> Signal:
        """The signal matrix -dL/dS, shape (n, C), for a loss that is linear in the logits.

        Raises:
            NotLinear: for every other loss.
        """
        if self.linear:
            raise NotLinear(
                f"{type(self).__name__} says that it is linear but has no `signal(labels)`, minus its gradient in the "
                "logits; add one, or leave `linear` out."
            )
        raise NotLinear(
            f"{type(self).__name__} is not linear in the logits, so -dL/dS depends on the logits and there is no "
            "constant signal matrix; use the unhinged loss, or `simulate` instead of `exact`."
        )


class _Separate(Loss):
    """A loss that takes one sample alone, of shape (C,), as it takes many."""

    def of_columns(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        # Without turning an array, which takes longer than a softmax.
        return jax.vmap(self, in_axes=1)(logits, targets)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unhinged(Loss):
    """`unhinged` with trade-off gamma (None: 1/(C-1)).

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> Unhinged(gamma=1.0).signal(balanced(classes=2, per_class=1)).column_sums("float32")
        Array([0., 0.], dtype=float32)
    """

    gamma: Any = None

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return unhinged(logits, targets, self.gamma)

    @property
    def linear(self) -> bool:
        return True

    def signal(self, labels: Labels) -> Signal:
        return unhinged_signal(labels, self.trade_off(labels.classes))

    def trade_off(self, classes: int) -> Any:
        """gamma as a number."""
        return 1 / (classes - 1) if self.gamma is None else self.gamma


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CrossEntropy(_Separate):
    """`cross_entropy`."""

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return cross_entropy(logits, targets)

    def of_columns(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=0), axis=0)

    def pull(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        # Written out, because its automatic derivative takes three passes over the logits more.
        return weights * (targets - jnp.sum(targets, axis=0) * jax.nn.softmax(logits, axis=0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MSE(_Separate):
    """`mse`."""

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return mse(logits, targets)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hinge(_Separate):
    """`hinge` with a margin."""

    margin: Any = 1.0

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return hinge(logits, targets, self.margin)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Focal(_Separate):
    """`focal` with a focusing exponent."""

    focusing: Any = 2.0

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return focal(logits, targets, self.focusing)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdjustedMargin(Loss):
    """`adjusted_margin`: sees features and prototypes, not only their products; for spherical models."""

    gamma: Any = None
    epsilon: Any = 0.1

    def of_features(self, features: jax.Array, prototypes: jax.Array, labels: jax.Array, bias: Any = 0.0) -> jax.Array:
        """Loss of each sample from features (n, p), prototypes (C, p), labels (n,) or targets (n, C), and a bias."""
        gamma = 1 / (prototypes.shape[0] - 1) if self.gamma is None else self.gamma
        return adjusted_margin(features, prototypes, labels, gamma, self.epsilon, bias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Custom(Loss):
    """Any function (logits, targets) -> one value a sample, with `targets` the (n, C) distributions.

    A function is compiled once and found again by its identity: a number that it reads from a global or an attribute
    keeps the value of the first run. Give a `CustomTree` in that case.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array] = dataclasses.field(metadata={"static": True})

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        value = self.function(logits, _distributions(logits, targets))
        if jnp.shape(value) != logits.shape[:-1]:
            name = getattr(self.function, "__name__", repr(self.function))
            raise ValueError(
                f"the loss {name} must return one value a sample, shape {logits.shape[:-1]}, but returned shape "
                f"{jnp.shape(value)}; leave the mean over samples to the model."
            )
        return value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CustomTree(Custom):
    """The same of a callable that is a pytree: its numbers are data, and other ones compile nothing again."""

    function: Callable[[jax.Array, jax.Array], jax.Array]


NAMED: dict[str, Callable[[], Loss]] = {
    "unhinged": Unhinged,
    "cross_entropy": CrossEntropy,
    "mse": MSE,
    "hinge": Hinge,
    "focal": Focal,
    "adjusted_margin": AdjustedMargin,
}


def as_loss(loss: Loss | str | Callable[..., jax.Array]) -> Loss:
    """A `Loss` from a loss, a name, or any callable (logits, targets) -> one value a sample.

    A plain function keeps the numbers that it reads from a global or an attribute in its first run, because the
    compiled program is found again by the function's identity. Numbers that change belong into the fields of a
    dataclass with a `__call__`, registered with `jax.tree_util.register_dataclass`: those are data.

    Example:
        >>> as_loss("cross_entropy")
        CrossEntropy()
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(f"loss must be one of {', '.join(NAMED)} or a callable, but got {loss!r}.")
        return NAMED[loss]()
    if callable(loss):
        return Custom(loss) if jax.tree_util.all_leaves([loss]) else CustomTree(loss)
    raise ValueError(f"loss must be a name, a Loss or a callable (logits, targets) -> (n,), but got {loss!r}.")
