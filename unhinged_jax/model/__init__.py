"""The layer-peeled model: one problem whose settings are the cases of the paper."""

from unhinged_jax.model.cases import anchored, frozen, ntk_invariant, regularized, spherical, unconstrained
from unhinged_jax.model.held_out import trained
from unhinged_jax.model.layer_peeled import LayerPeeled, checked
from unhinged_jax.model.state import State, multiplied, must_fit, settled

__all__ = [
    "LayerPeeled",
    "State",
    "anchored",
    "checked",
    "frozen",
    "multiplied",
    "must_fit",
    "ntk_invariant",
    "regularized",
    "settled",
    "spherical",
    "trained",
    "unconstrained",
]
