"""The loss of squared error where it is so small that Y - H W^T, computed as a difference, would be rounding.

Without decay and kappa, in the eigenbasis of `squared_error`, let a be the rows of mu+ = s, b those of mu- = -s, and 0
the rest. Let N_o = 1 + (integrals of e^(2 mu t), times products of rows) over b and 0 alone, Y = X N_o^(-1/2),
phi = (e^(2 s T) - 1)/(2 s), S = 1/phi + Y_a Y_a^T and rho = e^(s T)/phi. Then the residual along (u, v) is

    (rho S^-1 rho - P_ab + P_ba + P_bb - e^(-s T) rho) / 2,    and -(P_0a + P_0b) / sqrt(2) along what Y does not see,
    P_ab = rho S^-1 Y_a Y_b^T e^(-s T),    P_bb = e^(-s T) Y_b (1 - Y_a^T S^-1 Y_a) Y_b^T e^(-s T),    ...

in which every term is as small as the residual.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from unhinged_jax.special import phi1, safe_log, safe_norm


class SmallLoss(NamedTuple):
    """A loss mantissa e^log, and whether it holds at this moment."""

    mantissa: Float[jax.Array, ""]
    log: Float[jax.Array, ""]
    holds: Bool[jax.Array, ""]


def small_loss(
    s: Float[jax.Array, "k"],
    up: Float[jax.Array, "k k"],
    down: Float[jax.Array, "k k"],
    rest_root: Float[jax.Array, "m k"],
    T: Float[jax.Array, ""],
    weight: Float[jax.Array, ""],
) -> SmallLoss:
    """The loss after T.

    Args:
        s: Singular values of the targets.
        up, down: The rows of mu+ and of mu- in the turned feature space.
        rest_root: R with R^T R that of the rest.
        T: The time; 0 and values s that are 0 are taken for 1.
        weight: Of a sample.
    """
    holds = (T > 0) & jnp.all(s > 0)
    T, s = jnp.where(T > 0, T, 1.0), jnp.where(s > 0, s, 1.0)
    fade = jnp.sqrt(T * phi1(2 * s * T))  # of the weights of mu-; those of mu+ are e^(2 s T) times as large
    stack = [down * fade[:, None], rest_root * jnp.sqrt(T), jnp.eye(up.shape[1], dtype=up.dtype)]
    root = jnp.linalg.qr(jnp.concatenate(stack), mode="r")

    def over(rows: jax.Array, root: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(root, rows.T, trans=1).T

    least = jnp.min(s)
    small = jnp.exp(-(s - least) * T)  # e^(-s T) over that of the least s
    a, b, rest = over(up, root), over(down, root) * small[:, None], over(rest_root, root)
    inner = jnp.linalg.qr(jnp.concatenate([a.T, jnp.diag(jnp.exp(-s * T) / fade)]), mode="r")
    half = over(a.T, inner)  # Y_a^T S^-1 Y_a = half half^T
    rho = over(jnp.diag(small / fade**2), inner)  # rho S^-1 rho = rho rho^T
    across = rho @ half.T
    free = b - (b @ half) @ half.T
    mixed = across @ b.T
    seen = (rho @ rho.T - mixed + mixed.T + free @ b.T - jnp.diag((small / fade) ** 2)) / 2
    unseen = (across @ rest.T + free @ rest.T) / jnp.sqrt(jnp.asarray(2.0, s.dtype))
    logs = jnp.stack([safe_log(safe_norm(seen)) - 2 * least * T, safe_log(safe_norm(unseen)) - least * T])
    common = jax.lax.stop_gradient(jnp.max(logs))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    return SmallLoss(weight / 2 * jnp.sum(jnp.exp(2 * (logs - common))), 2 * common, holds)
