"""The loss of squared error where it is so small that Y - H W^T, computed as a difference, would be rounding.

Without decay, in the eigenbasis of `squared_error`, let a be the rows of mu+ = omega, b those of mu- = -omega, and 0
the rest, whose eigenvalue is kappa/2. Let N_o = 1 + (integrals of e^(2 mu t), times products of rows) over b and 0
alone, Y = X N_o^(-1/2), phi = (e^(2 omega T) - 1)/(2 omega), S = 1/phi + Y_a Y_a^T and rho = e^(omega T)/phi. Then,
with the cosines c and sines s of `angle`, the residual along (u, v) is

    c (rho S^-1 rho - e^(-omega T) rho) s - c P_ab c + s P_ba s + s P_bb c,    and -(P_0a s + P_0b c)

along what Y does not see, with

    P_ab = rho S^-1 Y_a Y_b^T e^(-omega T),    P_bb = e^(-omega T) Y_b (1 - Y_a^T S^-1 Y_a) Y_b^T e^(-omega T),

and likewise P_0a and P_0b with e^(kappa T/2), in which every term is as small as the residual.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from unhinged_jax.special import largest, phi1, safe_log, safe_norm


class SmallLoss(NamedTuple):
    """A loss mantissa e^log, and whether it holds at this moment."""

    mantissa: Float[jax.Array, ""]
    log: Float[jax.Array, ""]
    holds: Bool[jax.Array, ""]


def small_loss(
    omega: Float[jax.Array, "k"],
    angle: Float[jax.Array, "k"],
    kappa: Float[jax.Array, ""],
    rows: Float[jax.Array, "2k d"],
    rest: Float[jax.Array, "n d"],
    rest_root: Float[jax.Array, "m d"],
    T: Float[jax.Array, ""],
    weight: Float[jax.Array, ""],
) -> SmallLoss:
    """The loss after T.

    Args:
        omega, angle: Those of the singular values of the targets.
        kappa: How far H^T H and W^T W differ.
        rows: The rows of mu+, and then those of mu-, in the turned feature space.
        rest, rest_root: What the targets do not see, and an R with R^T R = rest^T rest.
        T: The time; 0 and values of omega that are 0 are taken for 1.
        weight: Of a sample.
    """
    count, dtype = omega.shape[0], rows.dtype
    most = float(jnp.finfo(dtype).max) ** (1 / 4)  # squares of squares stay in range
    edges = jnp.abs(jnp.diagonal(rest_root))
    full = (edges.size == rows.shape[1]) & (jnp.min(edges) > jnp.finfo(dtype).eps ** 0.75 * jnp.max(edges))
    nu = jnp.where((kappa > 0) & (largest(rest) > 0), kappa / 2, 0.0)
    fine = ((nu * T < np.log(most)) | full) & (largest(rows, rest) < most)
    holds = (T > 0) & jnp.all(omega > 0) & fine
    rows, rest, rest_root = (jnp.where(fine, part, 0.0) for part in (rows, rest, rest_root))
    T, omega, nu = jnp.where(holds, T, 1.0), jnp.where(omega > 0, omega, 1.0), jnp.where(fine, nu, 0.0)
    up, down = rows[:count], rows[count:]
    fade = jnp.sqrt(T * phi1(2 * omega * T))  # of the weights of mu-; those of mu+ are e^(2 omega T) times as large
    # N_o is divided by e^(2 nu T), what the rest grows by. In dimensions that it does not reach this is bounded.
    of_rest = jnp.sqrt(T * phi1(jnp.where(kappa >= 0, kappa, -kappa) * T))
    one = jnp.exp(-jnp.minimum(nu * T, np.log(most))) * jnp.eye(rows.shape[1], dtype=dtype)
    faded, rested = (down * fade[:, None]) @ one, rest * of_rest
    stack = [rest_root * of_rest, faded, one]
    root = root_of(faded.T @ faded + rested.T @ rested + one * one, jax.lax.stop_gradient(jnp.concatenate(stack)))

    def over(rows: jax.Array, root: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(root, rows.T, trans=1).T

    least, shrink = jnp.min(omega), jnp.exp(-nu * T)
    small = jnp.exp(-(omega - least) * T)  # e^(-omega T) over that of the least omega
    a, b, rest = over(up, root), over(down, root) * (small * shrink)[:, None], over(rest, root)
    edge = jnp.diag(jnp.exp(-(omega - nu) * T) / fade)
    inner = root_of(a @ a.T + edge * edge, jax.lax.stop_gradient(jnp.concatenate([a.T, edge])))
    half = over(a.T, inner)  # Y_a^T S^-1 Y_a = half half^T
    rho = over(jnp.diag(small / fade**2), inner)  # rho S^-1 rho = rho rho^T
    across = rho @ half.T
    free = b - (b @ half) @ half.T
    mixed = shrink * across @ b.T
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    along = cos * (rho @ rho.T - jnp.diag((small * shrink / fade) ** 2)) * sin.T - cos * mixed * cos.T
    along = along + sin * mixed.T * sin.T + sin * (free @ b.T) * cos.T
    unseen = sin * (across @ rest.T) + shrink * cos * (free @ rest.T)
    logs = [safe_log(safe_norm(along)) - 2 * (least - nu) * T, safe_log(safe_norm(unseen)) + (kappa / 2 - least) * T]
    common = jax.lax.stop_gradient(jnp.maximum(*logs))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    return SmallLoss(weight / 2 * jnp.sum(jnp.exp(2 * (jnp.stack(logs) - common))), 2 * common, holds)


@jax.custom_jvp
def root_of(N: jax.Array, stack: jax.Array) -> jax.Array:
    """R with R^T R = N = stack^T stack and a positive diagonal, from `stack`, with the derivative of the root of N.

    Half the digits of small pivots would be lost if R came from N; and the square roots in `stack` have no derivative
    at time 0.
    """
    R = jnp.linalg.qr(stack, mode="r")
    return R * jnp.where(jnp.diagonal(R) < 0, -1.0, 1.0)[:, None]


@root_of.defjvp
def _root_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> Any:
    R = root_of(*primals)
    half = jax.scipy.linalg.solve_triangular(R, tangents[0], trans=1)
    whole = jax.scipy.linalg.solve_triangular(R, half.T, trans=1)
    return R, (jnp.triu(whole, 1) + jnp.diag(jnp.diagonal(whole)) / 2) @ R
