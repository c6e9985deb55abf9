"""Features in the planes of their samples: h_i = along_i e_i + across_i f_i, with e_i along the target of sample i."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.observables.features import DenseFeatures, Features, affordable, row_lengths
from unhinged_jax.special import safe_norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlaneFeatures(Features):
    """h_i = along_i e_i + aside_i f_i in the plane of the target direction e_i and the start; e_i, f_i orthonormal.

    aside = e^log_unit across, so that it may be smaller than any number of its type; log_unit, (n,), is 0 by default.
    `with_prototypes` = (W e^T, W f^T), two (C, n) arrays, may be given if the prototypes do not move.
    """

    along: Float[jax.Array, "n"]
    across: Float[jax.Array, "n"]
    target: Float[jax.Array, "n p"]
    transverse: Float[jax.Array, "n p"]
    with_prototypes: tuple[Float[jax.Array, "C n"], Float[jax.Array, "C n"]] | None = None
    log_unit: Float[jax.Array, "n"] | None = None

    @property
    def aside(self) -> Float[jax.Array, "n"]:
        """e^log_unit across, shape (n,), which may underflow."""
        return self.across if self.log_unit is None else jnp.exp(self.log_unit) * self.across

    def dense(self) -> Float[jax.Array, "n p"]:
        return self.along[:, None] * self.target + self.aside[:, None] * self.transverse

    def products(self, V: Float[jax.Array, "rows p"]) -> Float[jax.Array, "n rows"]:
        return self.along[:, None] * (self.target @ V.T) + self.aside[:, None] * (self.transverse @ V.T)

    def scores(self, W: Float[jax.Array, "C p"]) -> Float[jax.Array, "C n"]:
        if self.with_prototypes is None:
            return self.products(W).T
        along, across = self.with_prototypes
        return self.along * along + self.aside * across

    def rows(self, take: Callable[..., jax.Array]) -> PlaneFeatures:
        known = None
        if self.with_prototypes is not None:
            along, across = self.with_prototypes
            known = take(along, 1), take(across, 1)
        rows = jax.tree.map(take, dataclasses.replace(self, with_prototypes=None))
        return dataclasses.replace(rows, with_prototypes=known)

    def scaled(self, factor: Float[jax.Array, ""], factor_W: Float[jax.Array, ""]) -> PlaneFeatures:
        known = self.with_prototypes
        known = None if known is None else (known[0] * factor_W, known[1] * factor_W)
        return dataclasses.replace(self, along=factor * self.along, across=factor * self.across, with_prototypes=known)

    def row_norms(self) -> Float[jax.Array, "n"]:
        return jnp.hypot(self.along, self.aside)

    def norm(self) -> Float[jax.Array, ""]:
        return safe_norm(self.along, self.aside)


def with_products(plane: PlaneFeatures, W: Float[jax.Array, "C p"]) -> PlaneFeatures:
    """The plane with its products with fixed prototypes, if these fit into memory."""
    if not affordable(plane.along.shape[0], W.shape[0]):
        return plane
    return dataclasses.replace(plane, with_prototypes=(W @ plane.target.T, W @ plane.transverse.T))


def plane_features(H: Float[jax.Array, "n p"], G: Float[jax.Array, "n p"]) -> PlaneFeatures:
    """H (n, p) in the planes spanned by each row and its target row of G; a zero row of G has a zero target."""
    pull = row_lengths(G)
    target = G / jnp.where(pull > 0, pull, 1.0)
    along = jnp.sum(H * target, axis=1, keepdims=True)
    rest = H - along * target
    across = row_lengths(rest)
    transverse = rest / jnp.where(across > 0, across, 1.0)
    return PlaneFeatures(along[:, 0], across[:, 0], target, transverse)


def unit(features: Features) -> Features:
    """The features divided by their own length, sample by sample."""
    length = features.row_norms()
    if isinstance(features, PlaneFeatures):
        return dataclasses.replace(features, along=features.along / length, across=features.across / length)
    return DenseFeatures(features.dense() / length[:, None])
