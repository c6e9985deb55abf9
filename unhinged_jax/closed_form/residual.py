"""The loss of squared error where it is so small that Y - H W^T, computed as a difference, would be rounding.

In the eigenbasis of `squared_error`, let a be the rows of mu+ = omega - lambda, b those of mu- = -omega - lambda, and
0 the rest, whose eigenvalue is kappa/2 - lambda. Let N_o = 1 + (integrals of e^(2 mu t), times products of rows) over
b and 0 alone, Y = X N_o^(-1/2), phi = (e^(2 mu+ T) - 1)/(2 mu+), S = 1/phi + Y_a Y_a^T and rho = e^(mu+ T)/phi. Then,
with the cosines c and sines s of `angle`, the residual along (u, v) is

    c (2 lambda + rho S^-1 rho - e^(-mu+ T) rho) s - c P_ab c + s P_ba s + s P_bb c,    and -(P_0a s + P_0b c)

along what Y does not see, with

    P_ab = rho S^-1 Y_a Y_b^T e^(mu- T),    P_bb = e^(mu- T) Y_b (1 - Y_a^T S^-1 Y_a) Y_b^T e^(mu- T),

and likewise P_0a and P_0b with e^((kappa/2 - lambda) T). Without decay, where this is used, every term is as small as
the residual; lambda = 0 is there for its derivative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from unhinged_jax.special import largest, phi1, safe_log, safe_norm


class SmallLoss(NamedTuple):
    """A loss mantissa e^log, whether it holds at this moment, and the loss of logits that are 0, all ()."""

    mantissa: Float[jax.Array, ""]
    log: Float[jax.Array, ""]
    holds: Bool[jax.Array, ""]
    unit: Float[jax.Array, ""]


class Eigenbasis(NamedTuple):
    """A start in the eigenbasis and in the turned feature space.

    Attributes:
        omega, angle: Of each singular value of the targets, (k,) each.
        decay, kappa: lambda, and how far H^T H and W^T W differ, () each.
        rows: The rows of mu+, and then those of mu-, (2k, d).
        rest, rest_root: What the targets do not see, (n, d), and an R with R^T R = rest^T rest.
    """

    omega: Float[jax.Array, "k"]
    angle: Float[jax.Array, "k"]
    decay: Float[jax.Array, ""]
    kappa: Float[jax.Array, ""]
    rows: Float[jax.Array, "2k d"]
    rest: Float[jax.Array, "n d"]
    rest_root: Float[jax.Array, "m d"]


def residual(
    at: Eigenbasis, T: Float[jax.Array, ""], possible: Bool[jax.Array, ""]
) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""], Bool[jax.Array, ""]]:
    """Half the squared norm of Y - H W^T after T, as (mantissa, logarithm of its scale), and whether it holds.

    It does not where time is so short that each term is much larger than their sum, where a row of mu+ is missing (as
    `possible` may say), or where the rest grows in some dimensions only, so that rounding grows in the others.
    """
    dtype, count = at.rows.dtype, at.omega.shape[0]
    edges = jnp.abs(jnp.diagonal(at.rest_root))
    full = (edges.size == at.rows.shape[1]) & (jnp.min(edges) > jnp.finfo(dtype).eps ** 0.75 * jnp.max(edges))
    growth = at.kappa / 2 - at.decay  # of the rest
    nu = jnp.where((growth > 0) & (largest(at.rest) > 0), growth, 0.0)
    in_range = largest(at.rows, at.rest) < float(jnp.finfo(dtype).max) ** (1 / 4)  # squares of squares, too
    late = jnp.min(at.omega) * T >= 1
    holds = jax.lax.stop_gradient(possible & in_range & late & (at.decay == 0) & (full | (nu * T < 2)))
    # Elsewhere numbers are used of which no derivative is NaN.
    T, omega = jnp.where(holds, T, 1.0), jnp.where(holds, at.omega, 1.0)
    nu, growth, decay = (jnp.where(holds, x, 0.0) for x in (nu, growth, at.decay))
    rows, rest, rest_root = (jnp.where(holds, part, 0.0) for part in (at.rows, at.rest, at.rest_root))
    up, down, plus, minus = rows[:count], rows[count:], omega - decay, omega + decay
    # Square roots of integrals: of mu+ over e^(mu+ T), of mu-, of the rest over e^(nu T), which also divides N_o^(1/2).
    fade, share = jnp.sqrt(T * phi1(2 * plus * T)), jnp.sqrt(T * phi1(2 * minus * T))
    rested = jnp.sqrt(T * phi1(2 * jnp.where(nu > 0, growth, -growth) * T))
    shrink = jnp.exp(-nu * T)
    one, faded, rest_now = shrink * jnp.eye(rows.shape[1], dtype=dtype), shrink * share[:, None] * down, rest * rested
    stack = [rest_root * rested, faded, one]
    root = root_of(faded.T @ faded + rest_now.T @ rest_now + one * one, jax.lax.stop_gradient(jnp.concatenate(stack)))

    def over(rows: jax.Array, root: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(root, rows.T, trans=1).T

    least = jax.lax.stop_gradient(jnp.min(omega))
    small, smaller = jnp.exp(-(plus - least) * T), jnp.exp(-(minus - least) * T)  # over e^(-least T)
    a, b, rest = over(up, root), over(down, root) * (smaller * shrink)[:, None], over(rest, root)
    edge = jnp.diag(jnp.exp(-(plus - nu) * T) / fade)
    inner = root_of(a @ a.T + edge * edge, jax.lax.stop_gradient(jnp.concatenate([a.T, edge])))
    half = over(a.T, inner)  # Y_a^T S^-1 Y_a = half half^T
    rho = over(jnp.diag(small / fade**2), inner)  # rho S^-1 rho = rho rho^T
    across = rho @ half.T
    free = b - (b @ half) @ half.T
    mixed = shrink * across @ b.T
    cos, sin = jnp.cos(at.angle)[:, None], jnp.sin(at.angle)[:, None]
    logs = -2 * (least - nu) * T, (growth - least) * T
    most = float(np.log(jnp.finfo(dtype).max)) / 3
    lag = 2 * decay * jnp.exp(jnp.minimum(jax.lax.stop_gradient(-logs[0]), most))
    along = cos * (rho @ rho.T + jnp.diag(lag - (small * shrink / fade) ** 2)) * sin.T - cos * mixed * cos.T
    along = along + sin * mixed.T * sin.T + sin * (free @ b.T) * cos.T
    unseen = sin * (across @ rest.T) + shrink * cos * (free @ rest.T)
    sizes = [safe_log(safe_norm(part)) + log for part, log in zip((along, unseen), logs, strict=True)]
    common = jax.lax.stop_gradient(jnp.maximum(*sizes))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    units = [jnp.exp(jnp.minimum(log - common, most)) for log in logs]
    squares = jnp.sum((units[0] * along) ** 2) + jnp.sum((units[1] * unseen) ** 2)
    return squares / 2, 2 * common, holds


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
