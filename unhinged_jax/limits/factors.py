"""The factor z by which one update, or one unit of zeta, multiplies the part of a state that belongs to an eigenvalue x
of K:

    z = e^x (flow),    z = 1 + eta x (descent),    z^2 - (1 + beta + eta x) z + beta = 0 (momentum)

A flow of second order has z = e^s per unit of time, with s^2 + c s = eta x (heavy ball) or s^2 = eta x (Nesterov,
beside a power of time). If there are two roots, the one of largest modulus counts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax.closed_form.modes import log_factor
from unhinged_jax.dynamics import Dynamics, Flow, Nesterov
from unhinged_jax.special import safe_log


class Factor(NamedTuple):
    """The factor z, and the other root if there are two. Every entry has the shape of the eigenvalue.

    Attributes:
        log: log |z| for the root z of largest modulus.
        angle: The argument of z; in a flow of second order the imaginary part of s.
        other: log |z| of the other root; -inf for a flow and for plain descent, which have one root.
    """

    log: jax.Array
    angle: jax.Array
    other: jax.Array


def factor(dynamics: Dynamics, node: jax.Array) -> Factor:
    """The factor at an eigenvalue x of K: e^x per unit of zeta in a flow, a root of the update in a descent.

    With momentum z solves z^2 - trace z + det = 0 with trace = 1 + beta + eta x and det = beta; in Nesterov's form
    trace = (1 + beta)(1 + eta x) and det = beta (1 + eta x). Complex roots come in pairs of equal modulus.

    Source: beyond the paper.
    """
    nothing = jnp.zeros_like(node)
    if isinstance(dynamics, Flow) and dynamics.damping is not None:
        return _damped(dynamics, node)
    if isinstance(dynamics, Flow):
        return Factor(node, nothing, nothing - jnp.inf)
    push = jnp.asarray(dynamics.schedule(0), node.dtype) * node
    if dynamics.momentum is None:
        return Factor(log_factor(push), jnp.where(push < -1, jnp.pi, nothing), nothing - jnp.inf)
    beta = jnp.asarray(dynamics.momentum, node.dtype)
    ahead = beta * push if dynamics.nesterov else nothing
    trace, det = 1 + beta + push + ahead, beta + ahead
    square = trace**2 - 4 * det
    pair = square < 0
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    # A positive root is computed as 1 + w, where w^2 + lean w - push = 0.
    lean = 1 - beta - push - ahead
    safe = jnp.where(lean > 0, lean + root, 1.0)
    beyond = jnp.where(lean > 0, 2 * push / safe, (root - lean) / 2)
    positive = (trace > 0) & ~pair
    real = jnp.where(positive, jnp.log1p(jnp.where(positive, beyond, 0.0)), safe_log((jnp.abs(trace) + root) / 2))
    log = jnp.where(pair, safe_log(jnp.where(pair, det, 1.0)) / 2, real)
    other = jnp.where(pair, log, safe_log(jnp.abs(det)) - log)
    turn = jnp.arctan2(jnp.sqrt(jnp.where(pair, -square, 1.0)), trace)
    return Factor(log, jnp.where(pair, turn, jnp.where(trace < 0, jnp.pi, 0.0)), other)


def _damped(flow: Flow, node: jax.Array) -> Factor:
    """The factor e^s of a flow of second order per unit of time."""
    push = jnp.asarray(flow.schedule(0), node.dtype) * node
    half = jnp.asarray(0.0 if isinstance(flow.damping, Nesterov) else flow.damping, node.dtype) / 2
    square = push + half**2
    root = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    log = jnp.where(square > 0, push / (half + root), -half)  # without cancellation
    turn = jnp.where(square < 0, jnp.sqrt(jnp.where(square < 0, -square, 1.0)), 0.0)
    return Factor(log, turn, -2 * half - log)
