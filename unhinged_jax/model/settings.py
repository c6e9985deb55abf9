"""Settings of a model as they are given, and what they mean: which parts move, whose decay is whose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from unhinged_jax import _check

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


def check_changes(changes: dict[str, Any], loss: object, known: Sequence[str]) -> None:
    """Put gamma, if it is among the changes of a model, into its loss; raise for a name that is no field of a model."""
    if "gamma" in changes:
        gamma, loss = changes.pop("gamma"), changes.get("loss", loss)
        if not (dataclasses.is_dataclass(loss) and any(field.name == "gamma" for field in dataclasses.fields(loss))):
            raise ValueError(f"{type(loss).__name__} has no gamma; choose the unhinged loss to set one.")
        _check.non_negative("gamma", gamma)
        changes["loss"] = dataclasses.replace(loss, gamma=gamma)  # type: ignore[type-var]
    for name in changes:
        if name not in known:
            near = _check.nearest(name, [*known, "decay", "gamma"]) or "."
            raise ValueError(
                f"a model has no field {name!r}{near} It has {', '.join(known)}; decay and gamma may be set, too."
            )


ACTIVATIONS = ("linear", "relu")


def check_depth(depth: object, activation: object, others: Mapping[str, bool]) -> None:
    """Raise unless a depth and an activation are allowed; `others` says what a deep model cannot have."""
    depth = _check.whole("depth", depth, 2)
    if _check.choice("activation", activation, ACTIVATIONS) != "linear" and depth == 2:
        raise ValueError(
            f"activation={activation!r} acts between the factors W_2, ..., W_L, and a model of depth 2 has W_2 = W "
            "alone; give depth=3 or more, or leave the activation out."
        )
    for what, there in others.items():
        if there and depth > 2:
            raise ValueError(
                f"a model of depth {depth} cannot have {what}: all its factors move, on plain features; give depth=2, "
                f"or leave that out."
            )


def split_rescale(q: float | jax.Array) -> tuple[int, Any]:
    """(rescale, exponent): whole numbers are structure, which is faster; all others are data."""
    return (q, None) if isinstance(q, int) else (0, q)
