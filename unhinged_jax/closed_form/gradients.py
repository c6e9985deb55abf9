"""The norm of the gradient of a linear loss, from its modes: no array of features or prototypes is formed.

A state is a start times coefficients (see `modes`), and so is its gradient G Z at unit rates, in the same arrays:

    H = h H_0 + M (x W_0 + y F_0),    W = u W_0 + v F_0,    F_0 = M^T H_0.

Its squared norm is h^2 ||H_0||^2 and a sum over the modes of functions of g times <F_0, F_0>, <F_0, W_0>, <W_0, W_0>.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.closed_form.modes import BiasCoefficients, Coefficients
from unhinged_jax.labels.held_out import of_training
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import Spectrum
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import drift, largest, power_of_two, safe_log

Jets = tuple[Any, ...]
"""Something that depends on the squared singular values, mode by mode, and its derivatives; see `jets_of`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Start:
    """What the norm of a gradient needs of a start, divided by e^log_scale except for the biases.

    Attributes:
        model, spectrum: The problem, and the spectrum of G = M^T M.
        products: <F_0, F_0>, <F_0, W_0> and <W_0, W_0> as `Spectrum.products` has them.
        square_H: ||H_0||^2 without samples that are held out, ().
        b, drift_b: b_0 and M^T 1, (C,).
        log_scale: See above, ().
    """

    model: LayerPeeled
    spectrum: Spectrum
    products: tuple[jax.Array, jax.Array, jax.Array]
    square_H: Float[jax.Array, ""]
    b: Float[jax.Array, "C"]
    drift_b: Float[jax.Array, "C"]
    log_scale: Float[jax.Array, ""]

    def log_norm(
        self, jets: Jets, h: Float[jax.Array, ""], log: Float[jax.Array, ""], bias: Float[jax.Array, "C"]
    ) -> Float[jax.Array, ""]:
        """The logarithm of the norm of a state, or of a gradient, (); -inf for one of zeros.

        Args:
            jets: What `squares` gives for its coefficients divided by e^log, with its derivatives.
            h: The coefficient of H_0 in H, over e^log.
            log: See above.
            bias: Its biases, (C,).
        """
        square = h**2 * self.square_H
        for i, product in enumerate(self.products):
            square = square + self.spectrum.trace(jets[0][i], jnp.stack([jet[i] for jet in jets[-2:]]), product)
        of_bias = jnp.sum(bias**2) if self.model.moves.b else jnp.zeros_like(h)
        # Two logarithms, because the state may be too small or too large for its square to be a number.
        both = jnp.stack([safe_log(jnp.maximum(square, 0.0)) + 2 * (log + self.log_scale), safe_log(of_bias)])
        top = jax.lax.stop_gradient(jnp.max(both))
        both, safe = jnp.where(jnp.isfinite(top), both, 0.0), jnp.where(jnp.isfinite(top), top, 0.0)
        return jnp.where(jnp.isfinite(top), (safe + jnp.log(jnp.sum(jnp.exp(both - safe)))) / 2, top)

    def downhill_b(self, bias: BiasCoefficients) -> Float[jax.Array, "C"]:
        """Minus the gradient with respect to the biases, (C,)."""
        decay = self.model.decays.b
        return (1 - decay * bias.b_from_drift) * self.drift_b - decay * bias.b_from_b * self.b


def start_of(model: LayerPeeled, space: RowSpace, spectrum: Spectrum, state: State) -> Start:
    """What the norms of gradients need of a start."""
    dtype = state.W.dtype
    power = drift(largest(state.H, state.W), 0)
    info = jnp.finfo(dtype)
    unit = power_of_two(jnp.clip(-power, 2 - info.maxexp, info.maxexp - 2), dtype)
    H, W = unit * state.H, unit * state.W
    F = space.signal.transpose_times(H)
    products = spectrum.products(F, F), spectrum.products(F, W), spectrum.products(W, W)
    log_scale = jnp.asarray(state.log_scale, dtype) - jnp.log(unit)
    drift_b = space.signal.column_sums(dtype)
    square_H = jnp.sum(of_training(model.labels, H) ** 2)
    return Start(model, spectrum, products, square_H, state.b, drift_b, log_scale)


def jets_of(function: Callable[[Any, jax.Array], Any], jets: Jets, spectrum: Spectrum) -> Jets:
    """function(x, g) and its first and second derivatives with respect to the squared singular values, one by one.

    Args:
        function: Acts mode by mode.
        jets: x, and its derivatives; or x alone where derivatives are not read.
        spectrum: The spectrum with the values g.
    """
    g = spectrum.values
    if len(jets) == 1:
        return (function(jets[0], g),)

    def shifted(by: jax.Array) -> Any:
        x = jax.tree.map(lambda x, first, second: x + by * first + by**2 / 2 * second, *jets)
        return function(x, g + by)

    def along(function: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
        return lambda by: jax.jvp(function, (by,), (jnp.ones_like(by),))

    zero = jnp.zeros((), g.dtype)
    found, first = along(shifted)(zero)
    _, second = along(lambda by: along(shifted)(by)[1])(zero)
    return found, first, second


def constant(x: Any, slopes: bool) -> Jets:
    """x with derivatives of 0, if there are to be `slopes`, as `jets_of` takes it."""
    zero = jax.tree.map(jnp.zeros_like, x)
    return (x, zero, zero) if slopes else (x,)


def sloped(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(slopes, *arguments), where `slopes` says whether it is differentiated.

    Only then the norms need the derivatives of coefficients with respect to singular values, which are most of the
    program. Balanced modes never do.
    """
    leaves, structure = jax.tree.flatten(arguments)  # a dynamics would refuse what equinox puts in place of its numbers
    return _sloped(function, structure, leaves)


@eqx.filter_custom_jvp
def _sloped(function: Callable[..., Any], structure: Any, leaves: list[Any]) -> Any:
    return function(False, *jax.tree.unflatten(structure, leaves))


@_sloped.def_jvp
def _sloped_jvp(primals: tuple, tangents: tuple) -> Any:
    function, structure, leaves = primals
    return eqx.filter_jvp(
        lambda leaves: function(True, *jax.tree.unflatten(structure, leaves)), (leaves,), (tangents[2],)
    )


def squares(c: Coefficients, g: Float[jax.Array, "k"]) -> Float[jax.Array, "3 k"]:
    """What <F_0, F_0>, <F_0, W_0> and <W_0, W_0> are multiplied by in ||Z||^2 - h^2 ||H_0||^2."""
    x, y, h = c.H_from_W, c.H_from_F, c.H_from_H
    of_F = 2 * h * y + g * y**2 + c.W_from_F**2
    of_both = 2 * h * x + 2 * g * x * y + 2 * c.W_from_W * c.W_from_F
    return jnp.stack([of_F, of_both, g * x**2 + c.W_from_W**2])
