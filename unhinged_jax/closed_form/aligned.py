"""Spectral descent with features and prototypes free, from starts whose gradients never turn.

With P = polar(M W_0), Q = polar(M^T H_0) and without decay in the gradient, updates H <- H + eta P, W <- W + eta Q give

    M W_k = M W_0 + zeta M Q = P (P^T M W_0 + zeta P^T M Q),

whose polar factor is P for every zeta if P^T M Q is symmetric and positive semi-definite and P^T P = Q^T Q; likewise Q,
and with a decoupled decay that shrinks a state by a factor 1 - eta lambda >= 0. So the direction of every update is the
first one, and the singular values along it grow by eta each, where plain descent multiplies them. Starts H = V f U^T,
W = Q a U^T with M = V sigma Q^T and f, a > 0, and features that follow from prototypes orthogonal to the mean, are such
starts.

Source: beyond the paper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax import _check, precision
from unhinged_jax.closed_form.recognised import given_to
from unhinged_jax.dynamics import Descent, rates_at
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.optimizers import spectral_descent
from unhinged_jax.special import polar


def aligns(model: LayerPeeled, descent: Descent) -> bool:
    """Whether both parts move under spectral descent, which has a closed form from aligned starts."""
    return model.moves.coupled and model.kernel is None and descent.optimizer.make is spectral_descent


def turn_of(model: LayerPeeled, H: jax.Array, W: jax.Array) -> Float[jax.Array, ""]:
    """How far a start is from an aligned one, relative, ()."""
    signal = model.signal()
    P, Q = polar(signal.times(W)), polar(signal.transpose_times(H))
    S = P.T @ signal.times(Q)
    size = jnp.max(jnp.abs(S))
    down = -jnp.min(jnp.linalg.eigvalsh((S + S.T) / 2))
    worst = jnp.maximum(jnp.max(jnp.abs(S - S.T)), down) / jnp.where(size > 0, size, 1.0)
    return jnp.maximum(worst, jnp.max(jnp.abs(P.T @ P - Q.T @ Q)))


def slack(dtype: jnp.dtype) -> float:
    """How far a start may be from an aligned one."""
    return float(float(jnp.finfo(dtype).eps) ** (2 / 3))


def why_turning(model: LayerPeeled, descent: Descent, state: State) -> str | None:
    """Why spectral descent has no closed form from this start, in words, or None; traced ones are not looked at."""
    sizes = ((model.samples, model.dim), (model.classes, model.dim))
    fits = (jnp.shape(state.H), jnp.shape(state.W)) == sizes
    if not aligns(model, descent) or not fits or not _check.concrete((model, state)):
        return None
    exactly = jax.default_matmul_precision("highest")
    with precision.scope(precision.of((state.H, state.W))), exactly, jax.ensure_compile_time_eval():
        H, W = jnp.asarray(state.H, jnp.result_type(float)), jnp.asarray(state.W, jnp.result_type(float))
        apart, allowed = float(turn_of(model, H, W)), slack(W.dtype)
        shrinks = _shrinkage(descent) if _check.concrete(descent) else 0.0
    if apart <= allowed and shrinks > 1:
        return (
            "spectral descent of both parts keeps its directions if the decay of the optimiser leaves the sign of a "
            f"state as it is, but rate times weight_decay is {shrinks:.3g}, above 1; give a smaller one, or use "
            "`simulate`."
        )
    if apart <= allowed:
        return None
    return (
        "spectral descent with features and prototypes both free has a closed form from starts whose gradients keep "
        f"their singular vectors, but here these turn by {apart:.2g}, and {allowed:.2g} is allowed; draw a start by "
        "`model.init(key, spectral=1.0)`, or use `simulate`."
    )


def _shrinkage(descent: Descent) -> float:
    """By how much the first update shrinks a part through the decay of the optimiser."""
    given = (given_to(descent.optimizer, name, 0.0) for name in ("learning_rate", "weight_decay"))
    inside, decay = (float(number(0)) if callable(number) else float(number) for number in given)
    return inside * decay * max(float(rate) for rate in rates_at(descent, 0, float)[:2])


@jax.custom_jvp
def as_given(gradient: jax.Array) -> jax.Array:
    """The gradient itself, with a derivative of NaN: what changes it may turn it away from the aligned starts."""
    return gradient


@as_given.defjvp
def _as_given_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return as_given(*primals), jnp.nan * tangents[0]
