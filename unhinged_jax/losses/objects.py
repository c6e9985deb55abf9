"""Losses as objects that carry their parameters as array leaves, for maps and derivatives over these parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax._values import RegisteredValue, registered
from unhinged_jax.labels import Labels
from unhinged_jax.labels.fields import entries_of
from unhinged_jax.losses.margin import adjusted_margin
from unhinged_jax.losses.of_logits import cooled, cross_entropy, distributions, focal, hinge, mse, unhinged
from unhinged_jax.signal import ClassSignal, DenseSignal, Signal, unhinged_signal

PARAMETERS = ("gamma", "epsilon", "margin", "focusing", "temperature")
"""Names of the numbers of our losses."""


class NotLinear(ValueError):
    """Raised for the signal matrix of a loss that is not linear in the logits."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss(RegisteredValue):
    """A loss of one sample as an object: called with (logits, targets), it gives one value per sample.

    A subclass needs a `__call__`. Its annotated fields are data, and it is registered with JAX by itself. A loss that
    is linear in the logits says `linear = True`, without an annotation, and gets every closed form. One that treats all
    classes alike, so that the same permutation of logits and targets does not change it, and is smooth, may say
    `symmetric = True`: `simulate` then reduces starts that a group permutes, as it does for cross-entropy.

    Raises:
        TypeError: for a class with an `__init__` of its own, or with `linear` or `symmetric` as a field.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in ("linear", "symmetric"):
                raise TypeError(
                    f"`{field.name}` of {type(self).__name__} must not be a field, which is data; write "
                    f"`{field.name} = True` without a type."
                )
        _numbers.settle(self, [name for name in PARAMETERS if hasattr(self, name)], _numbers.number)

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        """Loss of each sample, shape (...)."""
        raise TypeError("Loss is the base class; use Unhinged, CrossEntropy, MSE, Hinge, Focal, ...")

    target_needs = ""  # "distributions", or entries "of at least 0"; "" if any targets have a meaning

    @property
    def linear(self) -> bool:
        """Whether the loss is linear in the logits."""
        return False

    @property
    def symmetric(self) -> bool:
        """Whether the loss says that it is smooth and treats all classes alike."""
        return False

    def check_targets(self, labels: Labels) -> None:
        """Raise ValueError if the loss has no meaning for the targets of these labels."""
        if labels.kind != "values":
            return
        negative = _check.concrete(labels.targets) and bool(np.any(np.asarray(entries_of(labels.targets)) < 0))
        if self.target_needs == "distributions" or (self.target_needs == "of at least 0" and negative):
            raise ValueError(
                f"{type(self).__name__} has no meaning for targets that are not {self.target_needs}; use `soft` for "
                "distributions, or another loss, such as 'mse'."
            )
        if isinstance(self, Unhinged) and self.gamma is None and labels.classes == 1:
            raise ValueError("with a single output the unhinged loss has no default gamma; give one, such as gamma=0.")

    def of_columns(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Loss of each sample, shape (n,), with one sample per column: logits and targets (C, n)."""
        values = self(logits.T, targets.T)
        _check.shape(f"what the loss {type(self).__name__} returns", values, logits.shape[1:], "one value per sample")
        return values

    def pull(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        """Minus the gradient of sum_i weights_i loss_i, with one sample per column: logits, targets and result (C,
        n)."""
        return -jax.grad(lambda logits: jnp.sum(weights * self.of_columns(logits, targets)))(logits)

    def signal(self, labels: Labels) -> Signal:
        """The signal matrix -dL/dS, shape (n, C), for a loss that is linear in the logits: minus its gradient at 0.

        Raises:
            NotLinear: for every other loss.
        """
        if not self.linear:
            raise NotLinear(
                f"{type(self).__name__} is not linear in the logits, so -dL/dS depends on the logits and there is no "
                "constant signal matrix; use the unhinged loss, or `simulate` instead of `exact`."
            )
        targets = labels.targets_of_classes()
        by_class = targets is not None
        targets = jnp.asarray(targets if by_class else labels.probabilities(), jnp.result_type(float))
        pull = -jax.grad(lambda logits: jnp.sum(self(logits, targets)))(jnp.zeros_like(targets))
        if by_class:
            return ClassSignal(labels.index, labels.weights, 0.0, pull, labels.classes)
        return DenseSignal(jnp.asarray(labels.weights, pull.dtype)[:, None] * pull)


class _Separate(Loss):
    """A loss that treats a single sample, of shape (C,), as it treats many."""

    def of_columns(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        # No array is transposed, which would take longer than a softmax.
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
    """`cross_entropy` at a temperature (None: 1)."""

    target_needs = "of at least 0"

    temperature: Any = None

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return cross_entropy(logits, targets, self.temperature)

    def of_columns(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        return -jnp.sum(targets * jax.nn.log_softmax(cooled(logits, self.temperature), axis=0), axis=0)

    def pull(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        # Written out, because its automatic derivative takes three extra passes over the logits.
        colder = weights if self.temperature is None else cooled(weights, self.temperature)
        return colder * (targets - jnp.sum(targets, axis=0) * jax.nn.softmax(cooled(logits, self.temperature), axis=0))


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

    target_needs = "distributions"

    margin: Any = 1.0

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return hinge(logits, targets, self.margin)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Focal(_Separate):
    """`focal` with a focusing exponent."""

    target_needs = "distributions"

    focusing: Any = 2.0

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        return focal(logits, targets, self.focusing)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdjustedMargin(Loss):
    """`adjusted_margin`: depends on features and prototypes, not only on their products; for spherical models."""

    target_needs = "distributions"

    gamma: Any = None
    epsilon: Any = 0.1

    def of_features(
        self, features: jax.Array, prototypes: jax.Array, labels: jax.Array, bias: ArrayLike = 0.0
    ) -> jax.Array:
        """Loss of each sample from features (n, p), prototypes (C, p), labels (n,) or targets (n, C), and a bias."""
        gamma = 1 / (prototypes.shape[0] - 1) if self.gamma is None else self.gamma
        return adjusted_margin(features, prototypes, labels, gamma, self.epsilon, bias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Custom(Loss):
    """Any function (logits, targets) -> one value per sample, with `targets` the (n, C) distributions.

    A function is compiled once and found again by its identity: a number that it reads from a global or an attribute
    keeps the value of the first run. Use a `CustomTree` in that case. An object whose class says `linear = True` is
    linear in the logits, and one that says `symmetric = True` treats all classes alike.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array] = dataclasses.field(metadata={"static": True})

    @property
    def linear(self) -> bool:
        return getattr(type(self.function), "linear", False) is True

    @property
    def symmetric(self) -> bool:
        return getattr(type(self.function), "symmetric", False) is True

    def __call__(self, logits: jax.Array, targets: ArrayLike) -> jax.Array:
        value = self.function(logits, distributions(logits, targets))
        if jnp.shape(value) != logits.shape[:-1]:
            name = getattr(self.function, "__name__", repr(self.function))
            raise ValueError(
                f"the loss {name} must return one value per sample, shape {logits.shape[:-1]}, but returned shape "
                f"{jnp.shape(value)}; leave the mean over samples to the model."
            )
        return value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CustomTree(Custom):
    """The same for a callable that is a pytree: its numbers are data, and new values do not compile anything again."""

    function: Callable[[jax.Array, jax.Array], jax.Array]


NAMED: dict[str, Callable[[], Loss]] = {
    "unhinged": Unhinged,
    "cross_entropy": CrossEntropy,
    "mse": MSE,
    "hinge": Hinge,
    "focal": Focal,
    "adjusted_margin": AdjustedMargin,
}


LossLike = Loss | str | Callable[..., jax.Array]
"""What `as_loss` makes a loss of: a loss, a name, or a function (logits, targets) -> one value per sample."""


def as_loss(loss: LossLike) -> Loss:
    """A `Loss` from a loss, a name, or any callable (logits, targets) -> one value per sample.

    A plain function keeps the numbers that it reads from a global or an attribute in its first run, because the
    compiled program is found again by the function's identity. Put numbers that change into the fields of a dataclass
    with a `__call__`; these are data. `linear = True` in its class says that it is linear in the logits.

    Example:
        >>> as_loss("cross_entropy")
        CrossEntropy(temperature=None)
    """
    if isinstance(loss, Loss):
        _check.takes("loss", loss, ("logits", "targets"))
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            guess = _check.nearest(loss, NAMED) or "."
            raise ValueError(f"loss must be one of {', '.join(NAMED)} or a callable, but got {loss!r}{guess}")
        return NAMED[loss]()
    tree = not jax.tree_util.all_leaves([registered(loss)])
    _check.function("loss", loss, "(logits, targets) -> one value per sample, or a name, or a `Loss`")
    _check.takes("loss", loss, ("logits", "targets"))
    return CustomTree(loss) if tree else Custom(loss)
