"""The map of the second moment of a stochastic descent: three operators that are symmetric in the right units.

An update multiplies Z = (H, W) by 1 + eta A with a random A = [[-r_1 lambda_1, r_1 D X], [r_2 X^T D, -r_2 lambda_2]].
In units of the square roots of r_1 and r_2, A is symmetric. So is then the map of the second moment,

    E Z Z^T  <-  E (1 + eta A) Z Z^T (1 + eta A) = [1 + eta (L + eta (Q + c N))] Z Z^T,    c = kappa/m.

Q holds the noise of fresh labels, N that of batches.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from unhinged_jax.closed_form.moments import Draws, Groups, Moments, change
from unhinged_jax.dynamics import PartRates
from unhinged_jax.model.settings import Decays
from unhinged_jax.special import safe_sqrt

Vector = Float[jax.Array, "d"]

FEW = 64
"""Numbers in a vector up to which the operators are written out as matrices."""


class MapNumbers(NamedTuple):
    """The numbers that the map of the second moment depends on; rates are those of one unit of eta."""

    groups: Groups
    rate_H: jax.Array
    rate_W: jax.Array
    decay_H: jax.Array
    decay_W: jax.Array
    eta: jax.Array
    c: jax.Array


class Coordinates:
    """Moments as vectors whose product is that of the matrices E Z Z^T, in units in which A is symmetric.

    If all classes are alike, the vector has seven numbers: the parts of FF, FW and WW in contrasts and in the mean of
    classes, and that of `within`.
    """

    def __init__(self, p: MapNumbers, alike: bool) -> None:
        self.counts = n = p.groups.counts
        self.alike = alike
        self.G, self.C = p.groups.signal.shape
        self.several = n > 1  # a sample alone is its mean
        roots = jnp.sqrt(n)
        self.FF, self.FW = (
            p.rate_H * roots[:, None] * roots,
            jnp.sqrt(p.rate_H * p.rate_W / 2) * roots[:, None] * jnp.ones(self.C, n.dtype),
        )
        self.WW, self.within = p.rate_W, p.rate_H * jnp.sqrt(jnp.where(self.several, n - 1, 1.0))
        mean = np.full((self.C, self.C), 1 / self.C)
        self.parts = jnp.asarray(np.stack([(np.eye(self.C) - mean) / np.sqrt(max(self.C - 1, 1)), mean]), n.dtype)

    def vector(self, s: Moments) -> Vector:
        """The coordinates of moments."""
        within = jnp.where(self.several, s.within / self.within, 0.0)
        FF, FW, WW = s.FF / self.FF, s.FW / self.FW, s.WW / self.WW
        if self.alike:
            along = [jnp.tensordot(self.parts, matrix) for matrix in (FF, FW, WW)]
            return jnp.concatenate([*along, jnp.sum(within, keepdims=True) / np.sqrt(self.C)])
        half = [matrix[np.triu_indices(len(matrix))] * _weights(len(matrix)) for matrix in (FF, WW)]
        return jnp.concatenate([half[0], FW.ravel(), half[1], within])

    @property
    def unused(self) -> Vector:
        """1 at the places of `within` of groups of one sample, else 0."""
        rest = 6 if self.alike else self.G * (self.G + 1) // 2 + self.G * self.C + self.C * (self.C + 1) // 2
        alone = jnp.where(self.several, 0.0, 1.0)[: 1 if self.alike else None]
        return jnp.concatenate([jnp.zeros(rest, alone.dtype), alone])

    def moments(self, v: Vector) -> Moments:
        """The moments with these coordinates; those of the bias are 0."""
        if self.alike:
            FF, FW, WW = (jnp.tensordot(v[2 * i : 2 * i + 2], self.parts, 1) for i in range(3))
            within = jnp.full(self.G, v[6] / np.sqrt(self.C))
        else:
            ends = np.cumsum([self.G * (self.G + 1) // 2, self.G * self.C, self.C * (self.C + 1) // 2])
            f, m, w, within = jnp.split(v, ends)
            FF, FW, WW = _symmetric(f, self.G), m.reshape(self.G, self.C), _symmetric(w, self.C)
        within = jnp.where(self.several, within * self.within, 0.0)
        none = jnp.zeros(self.C, v.dtype)
        return Moments(FF * self.FF, FW * self.FW, WW * self.WW, within, none, none[0])

    def identity(self) -> Vector:
        """The coordinates of the unit matrix."""
        one_F, one_W = (jnp.eye(size, dtype=self.FF.dtype) for size in (self.G, self.C))
        within = self.within * jnp.sqrt(self.counts - 1)
        return self.vector(Moments(one_F * self.FF, self.FW * 0, one_W * self.WW, within, one_W[0], one_W[0, 0]))


def _weights(size: int) -> np.ndarray:
    i, j = np.triu_indices(size)
    return np.where(i == j, 1.0, np.sqrt(2.0))


def _symmetric(half: jax.Array, size: int) -> jax.Array:
    """The symmetric matrix whose upper triangle has these coordinates."""
    place = np.zeros((size, size), int)
    place[np.triu_indices(size)] = np.arange(size * (size + 1) // 2)
    place = np.maximum(place, place.T)
    return (half / _weights(size).astype(half.dtype))[place]


class SecondMoment:
    """The parts L, Q and N of the map as one operator on coordinates, (d,) -> (3, d)."""

    def __init__(self, p: MapNumbers, alike: bool) -> None:
        self.p, self.at = p, Coordinates(p, alike)
        self.start = self.at.identity()
        self.parts = self._parts
        if self.start.size <= FEW:
            matrices = jax.vmap(self._parts, out_axes=2)(jnp.eye(self.start.size, dtype=p.eta.dtype))
            self.parts = lambda v: matrices @ v

    @property
    def size(self) -> jax.Array:
        """About the size of A, which is that of L, too, ()."""
        p = self.p
        pull = p.rate_H * p.rate_W * jnp.sum(p.groups.counts[:, None] * p.groups.signal**2)
        size = p.rate_H * p.decay_H + p.rate_W * p.decay_W + safe_sqrt(pull)
        return jax.lax.stop_gradient(size)

    def _parts(self, v: Vector) -> Float[jax.Array, "3 d"]:
        p, moments, n = self.p, self.at.moments(v), self.p.groups.counts
        none, one, total = jnp.zeros_like(p.eta), jnp.ones_like(p.eta), jnp.sum(n)
        # Odd and even parts of a polynomial of degree 2, at a rate for which both are of the same size.
        unit = jnp.where(self.size > 0, 1 / jnp.where(self.size > 0, self.size, 1.0), 1.0)

        def added(rate: jax.Array, same: jax.Array, other: jax.Array, decays: Decays) -> Vector:
            rates = PartRates(rate * p.rate_H, rate * p.rate_W, none)
            return self.at.vector(change(moments, p.groups, Draws(same, other), rates, decays))

        shrinks = Decays(jnp.stack([p.decay_H, none]), jnp.stack([p.decay_W, none]), jnp.zeros((2,), v.dtype))
        draws = jnp.stack([one, total - 1]), jnp.stack([one, -one])
        up, down = (jax.vmap(added, (None, 0, 0, 0))(rate, *draws, shrinks) for rate in (unit, -unit))
        first, second = (up - down)[0] / (2 * unit), (up + down) / (2 * unit**2)
        # The place of `within` of a sample alone decays like a feature; at 0 it would lead if all others decay.
        unused, fading = self.at.unused * v, p.rate_H * p.decay_H
        return jnp.stack([first - 2 * fading * unused, second[0] + fading**2 * unused, second[1]])
