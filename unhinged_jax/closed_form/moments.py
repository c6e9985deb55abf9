"""Mean and second moments of stochastic gradient descent under a loss that is linear in the logits.

    H <- (1 - a) H + x D X W,  W <- (1 - b) W + y X^T D H,  a = x lambda_1, b = y lambda_2, x = eta r_1, y = eta r_2

D is diagonal: n/m times how often each sample is in the batch. Row i of X is the signal of the label of sample i, drawn
again at each update or fixed. D and X are independent of each other and from update to update, with E D = 1 and

    E D_ii^2 = same,    E D_ii D_jj = other,    E x_i = r_g,    Cov x_i = Sigma_g    (sample i in group g)

so the mean is gradient descent, and the second moments of the sums F_g of the features of a group, of W, and of the
squared lengths in a group are closed under the update: a linear map of few numbers, whatever n and p are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from unhinged_jax.dynamics import Noisy, PartRates
from unhinged_jax.model.settings import Decays
from unhinged_jax.special import segment_sum


class Groups(NamedTuple):
    """Samples with the same expected signal.

    Attributes:
        signal: The row r_g of the signal matrix that the samples of a group share, (G, C).
        counts: Samples of a group, (G,).
        chances: Probability of each label times the squared weight of a sample, (G, C); None for fixed labels.
        rows: The row of the signal matrix of one sample of weight 1 with each label, (C, C), so that
            Sigma_g = sum_c chances_gc rows_c rows_c^T - r_g r_g^T; None for fixed labels.
    """

    signal: Float[jax.Array, "G C"]
    counts: Float[jax.Array, "G"]
    chances: Float[jax.Array, "G C"] | None = None
    rows: Float[jax.Array, "C C"] | None = None

    def traced(self, S: Float[jax.Array, "C C"]) -> Float[jax.Array, "G"]:
        """tr(Sigma_g S) of every group."""
        if self.chances is None or self.rows is None:
            return jnp.zeros_like(self.counts)
        of_labels = jnp.sum((self.rows @ S) * self.rows, axis=1)
        return self.chances @ of_labels - jnp.sum((self.signal @ S) * self.signal, axis=1)

    def summed(self, w: Float[jax.Array, "G"]) -> Float[jax.Array, "C C"]:
        """sum_g w_g Sigma_g."""
        if self.chances is None or self.rows is None:
            return jnp.zeros((self.signal.shape[1],) * 2, self.signal.dtype)
        return (self.rows.T * (w @ self.chances)) @ self.rows - (self.signal.T * w) @ self.signal

    def applied(self, V: Float[jax.Array, "G C"]) -> Float[jax.Array, "G C"]:
        """V_g Sigma_g, row by row."""
        if self.chances is None or self.rows is None:
            return jnp.zeros_like(V)
        own = jnp.sum(V * self.signal, axis=1, keepdims=True)
        return (self.chances * (V @ self.rows.T)) @ self.rows - own * self.signal


class Draws(NamedTuple):
    """Moments of D: E D_ii^2 = same, E D_ii D_jj = other."""

    same: Float[jax.Array, ""]
    other: Float[jax.Array, ""]


class Moments(NamedTuple):
    """Expected products, summed over the p coordinates, and those of the bias.

    Attributes:
        FF, FW, WW: E F F^T (G, G), E F W^T (G, C), E W W^T (C, C).
        within: E sum_{i in g} |h_i - mean of g|^2, (G,).
        b: E b, (C,).
        spread: E |b|^2 - |E b|^2, ().
    """

    FF: Float[jax.Array, "G G"]
    FW: Float[jax.Array, "G C"]
    WW: Float[jax.Array, "C C"]
    within: Float[jax.Array, "G"]
    b: Float[jax.Array, "C"]
    spread: Float[jax.Array, ""]


def squares_of(s: Moments, groups: Groups) -> Float[jax.Array, "G"]:
    """E sum_{i in g} |h_i|^2."""
    return s.within + jnp.diagonal(s.FF) / groups.counts


def draws_of(samples: int, dynamics: Noisy, dtype: DTypeLike) -> Draws:
    """Moments of D for batches of m of n samples; m may be any positive number, and without a batch it is n.

    Cov(D_ii, D_jj) = kappa (n delta_ij - 1)/m with kappa = 1 with replacement and (n - m)/(n - 1) without.
    """
    whole = dynamics.batch is None
    batch = jnp.asarray(samples if whole else dynamics.batch, dtype)
    kappa = 1.0 if dynamics.replacement and not whole else (samples - batch) / max(samples - 1, 1)
    return Draws(1 + kappa * (samples - 1) / batch, 1 - kappa / batch)


def moments_of(
    H: Float[jax.Array, "n p"],
    W: Float[jax.Array, "C p"],
    b: Float[jax.Array, "C"],
    groups: Float[jax.Array, "n"],
    count: int,
) -> Moments:
    """The moments of a given state, whose samples belong to the groups 0 ... count - 1."""
    F = segment_sum(H, groups, count)
    counts = segment_sum(jnp.ones((H.shape[0], 1), H.dtype), groups, count)
    apart = H - (F / counts)[groups]
    within = segment_sum(jnp.sum(apart * apart, axis=1, keepdims=True), groups, count)[:, 0]
    return Moments(F @ F.T, F @ W.T, W @ W.T, within, b, jnp.zeros((), W.dtype))


def change(s: Moments, groups: Groups, draws: Draws, rates: PartRates, decays: Decays, update: bool = True) -> Moments:
    """What one update adds to the moments, at the rates of H, W and b (0 for a part that stays).

    The increments are what is computed, not the moments after the update: 1 - a would round to 1 for a small rate.

    If not `update`, the same without the square of the mean step: dS/dt = K S + S K^T + N(S), what the diffusion of the
    same noise adds to the moments in a unit of time, a linear map of H and W and an affine one of b.
    """
    x, y, z = rates
    R, n = groups.signal, groups.counts
    a, b, shrinks = (rate * jnp.asarray(decay) for rate, decay in zip(rates, decays, strict=True))
    whole, other = (1.0, draws.other) if update else (0.0, draws.other - 1)
    # (1 - a)^2 - 1, (1 - b)^2 - 1, (1 - a)(1 - b) - 1 of an update
    loss_H, loss_W, both = a * (whole * a - 2), b * (whole * b - 2), whole * a * b - a - b
    X = R @ s.WW @ R.T  # r_g WW r_h
    Y = s.FW @ R.T  # E f_g . (R W)_h
    own, extra, squares = jnp.diagonal(Y), draws.same - draws.other, squares_of(s, groups)
    drawn = groups.traced(s.WW)
    at_once = n * (extra * jnp.diagonal(X) + draws.same * drawn)
    FF = loss_H * s.FF + (1 - whole * a) * x * (n * Y + (n * Y).T)
    FF += x**2 * (other * n[:, None] * X * n + jnp.diag(at_once))
    WW = loss_W * s.WW + (1 - whole * b) * y * (s.FW.T @ R + R.T @ s.FW)
    WW += y**2 * (other * R.T @ s.FF @ R + extra * (R.T * squares) @ R + draws.same * groups.summed(squares))
    FW = both * s.FW + (1 - whole * a) * y * s.FF @ R + (1 - whole * b) * x * n[:, None] * (R @ s.WW)
    FW += x * y * (other * n[:, None] * (Y.T @ R) + extra * own[:, None] * R + draws.same * groups.applied(s.FW))
    # Without the moments of the means, from which it would be a small difference of large numbers.
    within = loss_H * s.within + x**2 * (n - 1) * (extra * jnp.diagonal(X) + draws.same * drawn)
    noise = extra * jnp.sum(n * jnp.sum(R * R, axis=1)) + (draws.other - 1) * jnp.sum((n @ R) ** 2)
    noise += draws.same * jnp.sum(n * groups.traced(jnp.eye(R.shape[1], dtype=R.dtype)))
    mean, spread = z * (n @ R) - shrinks * s.b, shrinks * (whole * shrinks - 2) * s.spread + z**2 * noise
    return Moments(FF, FW, WW, within, mean, spread)
