"""The modes that the start of a linear run lacks if classes differ; rounding must not grow in them.

A mode is an eigenvector v of G = M^T Theta M with G v = g v. A state H = Theta M v x^T / g, W = v y^T keeps this form.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax.linear.leading_part import present_modes
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import GeneralSpectrum, Spectrum, spectrum_of
from unhinged_jax.model import LayerPeeled, State

_FEW = 64  # classes; up to here two products with (C, C) matrices per update cost next to nothing

_MOST = 4096  # classes; the modes of more are not worked out for this alone, which would take minutes


class Absent(NamedTuple):
    """The absent modes, as two sums over their eigenvectors v of eigenvalue g.

    Attributes:
        of_prototypes: The sum of v v^T, (C, C); times W it is the part of W that should be 0.
        of_carriers: The sum of v v^T / g, (C, C); times M^T H it is the carrier of the part of H that should be 0.
    """

    of_prototypes: jax.Array
    of_carriers: jax.Array

    def taken_out(self, space: RowSpace, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(H, W) without these modes; the derivatives are those of the H and W that were given.

        Args:
            space: The row space of H.
            H: Rows of that space, (rows, columns) for any number of columns.
            W: Prototypes, (C, columns).
        """
        stray = space.lift(self.of_carriers @ space.gather(H)), self.of_prototypes @ W
        return H - jax.lax.stop_gradient(stray[0]), W - jax.lax.stop_gradient(stray[1])


def absent_modes(spectrum: Spectrum, F: jax.Array, W: jax.Array) -> Absent:
    """The modes that a start with F = M^T H, (C, columns), and W, (C, columns), lacks, if classes differ."""
    assert isinstance(spectrum, GeneralSpectrum)
    lacks, vectors = _lacking(spectrum, F, W).astype(W.dtype), spectrum.vectors
    per_carrier = lacks / jnp.where(lacks > 0, spectrum.values, 1.0)
    return Absent((vectors * lacks) @ vectors.T, (vectors * per_carrier) @ vectors.T)


def lacks_modes(model: LayerPeeled, state: State, memory: dict[str, jax.Array] | None) -> bool:
    """Whether the start lacks modes. In a trace, where the numbers are unknown, whether assuming so costs little."""
    if not model.moves.coupled or (model.labels.balanced and model.kernel is None):
        return False
    if model.classes > _MOST:
        return False
    given = model, *together(state.H, state.W, memory)
    return bool(_lacks_any(*given)) if _check.concrete(given) else model.classes <= _FEW


def together(H: jax.Array, W: jax.Array, memory: dict[str, jax.Array] | None) -> tuple[jax.Array, jax.Array]:
    """Everything a run begins with: features (n, p) and prototypes (C, p), side by side with what else is given.

    That is a velocity, (n, p) and (C, p), or several slots of a memory, (slots, n, p) and (slots, C, p).
    """
    if memory is None:
        return H, W
    beside_H, beside_W = (jnp.hstack([*jnp.reshape(memory[k], (-1, *x.shape))]) for k, x in (("H", H), ("W", W)))
    return jnp.hstack([H, beside_H]), jnp.hstack([W, beside_W])


def _lacking(spectrum: GeneralSpectrum, F: jax.Array, W: jax.Array) -> jax.Array:
    """Which modes with a singular value above rounding the start lacks, (k,). In other modes rounding does not grow."""
    grows = spectrum.values > 16 * jnp.finfo(W.dtype).eps * jnp.max(spectrum.values)
    return grows & ~present_modes(spectrum, F, W)


@eqx.filter_jit
def _lacks_any(model: LayerPeeled, H: jax.Array, W: jax.Array) -> jax.Array:
    signal = model.signal()
    spectrum = spectrum_of(signal, model.kernel, model.samples, model.dim, W.dtype)
    assert isinstance(spectrum, GeneralSpectrum)
    return jnp.any(_lacking(spectrum, signal.transpose_times(H), W))
