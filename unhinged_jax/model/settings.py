"""Settings of a model as they are given, and what they mean: which parts move, whose decay is whose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

Decay = ArrayLike | Sequence[ArrayLike]
"""One decay for both parts, or a pair of them: of H, of W."""


class Moves(NamedTuple):
    """Whether H, W and b move. Prototypes and biases move together, so b moves where W does and there is a bias."""

    H: bool
    W: bool
    b: bool

    @property
    def coupled(self) -> bool:
        """Whether H and W both move, so that each drives the other."""
        return self.H and self.W


class Decays(NamedTuple):
    """Weight decay on H, W and b."""

    H: Any
    W: Any
    b: Any


def pair(decay: Decay) -> tuple[Any, Any]:
    """Decays of H and of W, given as one number or as two."""
    if isinstance(decay, (tuple, list)):
        if len(decay) != 2:
            raise ValueError(f"decay must be one number or a pair (for H, for W), but got {len(decay)} numbers.")
        return decay[0], decay[1]
    return decay, decay


STRUCTURE = ("features_move", "prototypes_move", "spherical")


def decays(decay: Decay, features_move: bool, prototypes_move: bool, spherical: bool) -> tuple[Any, Any]:
    """Decays of H and of W from a pair, or from one number for the parts to which it applies."""
    if isinstance(decay, (tuple, list)):
        return pair(decay)
    return decay if features_move else 0.0, decay if prototypes_move and not spherical else 0.0


def split_rescale(q: float | jax.Array) -> tuple[int, Any]:
    """(rescale, exponent): whole numbers are structure, which is faster; all others are data."""
    return (q, None) if isinstance(q, int) else (0, q)
