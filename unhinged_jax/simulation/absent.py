"""Modes that the start of a linear run has no part in, where classes differ: rounding must not grow in them.

A mode is an eigenvector v of G = M^T Theta M with G v = g v: H = Theta M v x^T / g and W = v y^T stay of this form.
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

_FEW = 64  # classes, up to which two products of (C, C) an update are no matter


class Absent(NamedTuple):
    """Sums over the absent modes, both (C, C): v v^T makes of W, and v v^T / g of M^T H, what is not to be there."""

    of_prototypes: jax.Array
    of_carriers: jax.Array

    def taken_out(self, space: RowSpace, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(H, W), any number of columns, without these modes, with all of their derivatives."""
        stray = space.lift(self.of_carriers @ space.gather(H)), self.of_prototypes @ W
        return H - jax.lax.stop_gradient(stray[0]), W - jax.lax.stop_gradient(stray[1])


def absent_modes(spectrum: Spectrum, F: jax.Array, W: jax.Array) -> Absent:
    """The modes that a start with F = M^T H lacks, of classes that differ."""
    assert isinstance(spectrum, GeneralSpectrum)
    lacks, vectors = _lacking(spectrum, F, W).astype(W.dtype), spectrum.vectors
    per_carrier = lacks / jnp.where(lacks > 0, spectrum.values, 1.0)
    return Absent((vectors * lacks) @ vectors.T, (vectors * per_carrier) @ vectors.T)


def lacks_modes(model: LayerPeeled, state: State, memory: dict[str, jax.Array] | None) -> bool:
    """Whether there are such modes; where nobody can look, in a trace, whether it costs little to say yes."""
    if not model.moves.coupled or (model.labels.balanced and model.kernel is None):
        return False
    given = model, *together(state.H, state.W, memory)
    return bool(_lacks_any(*given)) if _check.concrete(given) else model.classes <= _FEW


def together(H: jax.Array, W: jax.Array, memory: dict[str, jax.Array] | None) -> tuple[jax.Array, jax.Array]:
    """All that a run begins with: features and prototypes beside the velocity of each, if there is one."""
    return (H, W) if memory is None else (jnp.hstack([H, memory["H"]]), jnp.hstack([W, memory["W"]]))


def _lacking(spectrum: GeneralSpectrum, F: jax.Array, W: jax.Array) -> jax.Array:
    """Which modes the start lacks, of those that grow: of others rounding stays what it is."""
    grows = spectrum.values > 16 * jnp.finfo(W.dtype).eps * jnp.max(spectrum.values)
    return grows & ~present_modes(spectrum, F, W)


@eqx.filter_jit
def _lacks_any(model: LayerPeeled, H: jax.Array, W: jax.Array) -> jax.Array:
    signal = model.signal()
    spectrum = spectrum_of(signal, model.kernel, model.samples, model.dim, W.dtype)
    assert isinstance(spectrum, GeneralSpectrum)
    return jnp.any(_lacking(spectrum, signal.transpose_times(H), W))
