"""When a stack of factors has a closed form: which problems, and from which starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _check, _memory
from unhinged_jax.closed_form.balance import tolerance
from unhinged_jax.closed_form.constant_gradient import without_decay
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.losses import MSE
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.precision import of, scope

_PAGE = "The section 'Deep models from balanced spectral starts' of docs/exact-solutions.md says what is solved."


class Frames(NamedTuple):
    """Singular vectors that the factors of a stack have in common, m of them, the largest size first.

    Attributes:
        size: The singular values of W, (m,); 0 where they are rounding.
        left, right: Those of H on the side of the samples, (n, m), and of W on that of the classes, (C, m).
        between: Those in the p dimensions that each factor shares with the next one, from H on, (p, m) each.
        pull: left^T M right, (m, m), and 0 where a size is 0.
        apart: How far the factors are from those with these vectors and sizes, over their norm, ().
        astray: How far M is from one with these vectors that commutes with the sizes, over its norm, ().
    """

    size: Any
    left: Any
    right: Any
    between: tuple[Any, ...]
    pull: Any
    apart: Any
    astray: Any


def frames_of(M: Any, H: Any, inner: Sequence[Any], W: Any, xp: Any = jnp) -> Frames:
    """The frames of factors in units in which all of them have the same singular values; NumPy's arrays or JAX's.

    From mode to mode each factor sends the vectors on, W^T first. Rounding that a small mode takes along from a large
    one is removed by orthonormalising them in the order of their sizes.
    """
    modes = min(*M.shape, W.shape[1])
    right, size, last = xp.linalg.svd(W, full_matrices=False)
    right, size, between = right[:, :modes], size[:modes], [last[:modes].T]
    there = size > 8 * max(W.shape) * xp.finfo(W.dtype).eps * size[0]
    size = xp.where(there, size, 0.0)
    for factor in (*reversed(inner), H):
        between.append(_orthonormal(factor.T @ between[-1] if factor is not H else H @ between[-1], xp))
    left = between.pop()
    chain = [right, *between, left]
    factors = [W, *(factor for factor in reversed(inner)), H.T]
    gaps = [factor - (one * size) @ other.T for factor, one, other in zip(factors, chain[:-1], chain[1:], strict=True)]
    total = xp.sqrt(sum(xp.sum(factor**2) for factor in factors))
    pull = xp.where(there[:, None] & there, left.T @ M @ right, 0.0)
    weighed = pull * size
    off = [(M @ right) * size - left @ weighed, (M.T @ left) * size - right @ (pull.T * size)]
    off += [weighed - weighed.T, weighed - size[:, None] * pull]
    whole = xp.sqrt(xp.sum(M**2)) * total
    apart, astray = (xp.sqrt(sum(xp.sum(gap**2) for gap in found)) for found in (gaps, off))
    nothing = xp.where(total > 0, total, 1.0)
    return Frames(
        size, left, right, tuple(reversed(between)), pull, apart / nothing, astray / xp.where(whole > 0, whole, 1.0)
    )


def _orthonormal(X: Any, xp: Any) -> Any:
    Q, R = xp.linalg.qr(X)
    return Q * xp.where(xp.diagonal(R) < 0, -1.0, 1.0)


def why_not_deep(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    """The setting that rules out a closed form of a model of more than two factors, in words, or None."""
    why = _what_rules_out(model, dynamics)
    return None if why is None else f"a deep model has a closed form {why}; use `simulate`. {_PAGE}"


def _what_rules_out(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    if model.activation != "linear":
        return "without an activation only"
    if not (model.loss.linear or isinstance(model.loss, MSE)):
        return "for a loss that is linear in the logits, or squared error, only"
    if dynamics.stochastic:
        return "without noise only, because its logits are products of factors that all draw"
    if not dynamics.proportional or (model.moves.b and callable(dynamics.rate_b)):
        return "for rates that are numbers only"
    if dynamics.paced or (isinstance(dynamics, Flow) and dynamics.damping is not None):
        return "for plain gradients without inertia only"
    if isinstance(dynamics, Descent) and (dynamics.momentum is not None or dynamics.optimizer is not None):
        return "for a Flow and for a plain Descent only"
    given = (dynamics.rate_H, model.decay_H, dynamics.rate_W, model.decay_W)
    if _check.concrete(given):
        r1, l1, r2, l2 = (float(x) for x in given)
        if abs(r1 * l1 - r2 * l2) > tolerance("float64") * max(r1 * l1, r2 * l2):
            return (
                "for decays with rate_H decay_H = rate_W decay_W only, which keep all factors of one size, but these "
                f"are {r1 * l1:g} and {r2 * l2:g}"
            )
    return None if model.loss.linear else _what_rules_out_squared(model, dynamics)


def _what_rules_out_squared(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    of = "under squared error"
    if model.moves.b:
        return f"{of} without a bias that moves only, which shifts the targets"
    weights = model.labels.weights
    if model.labels.held_out is not None or (_check.concrete(weights) and not _even(np.asarray(weights))):
        return f"{of} for samples of equal weight only, because others turn the singular vectors of what is left"
    decays = (model.decay_H, model.decay_W)
    if isinstance(dynamics, Flow) and _check.concrete(decays) and any(float(decay) != 0 for decay in decays):
        return (
            f"{of} for a flow without decay only, because with it time is the integral of one over a polynomial in the "
            "size, whose zeros have no formula; a Descent may have any"
        )
    return None


def _even(weights: Any) -> Any:
    return np.ptp(weights) <= 1e-6 * np.max(weights)


def none_unless_alike(model: LayerPeeled, dynamics: Dynamics) -> jax.Array:
    """0, or NaN unless samples have equal weights, and a flow no decay; its derivative with respect to that is NaN."""
    weights = jnp.asarray(model.labels.weights)
    even = jnp.where(jnp.ptp(weights) <= 1e-6 * jnp.max(weights), 0.0, jnp.nan)
    decays = jnp.asarray(model.decay_H) + jnp.asarray(model.decay_W)
    return even + without_decay(decays) if isinstance(dynamics, Flow) else even


def pull_at_zero(model: LayerPeeled, b: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Minus the gradient with respect to the logits where they are nothing but the bias, (n, C)."""
    if model.loss.linear:
        return model.signal().dense(dtype)
    weights = jnp.asarray(model.labels.weights, dtype)
    return weights[:, None] * (model.labels.probabilities().astype(dtype) - jnp.asarray(b, dtype))


def why_not_aligned(model: LayerPeeled, dynamics: Dynamics, state: State) -> str | None:
    """Why a model of more than two factors has no closed form from this start, in words, or None.

    A start that is traced, or is none for this model, is not looked at.
    """
    if not _check.concrete((model, dynamics, state)) or not _fits(model, state):
        return None
    with scope("float64"):
        M = _memory.read(pull_at_zero(model, _memory.read(state.b).astype(float), "float64"))
    H, W, inner = (_memory.read(part).astype(float) for part in (state.H, state.W, state.inner))
    size = max(np.max(np.abs(part), initial=0.0) for part in (H, W, inner)) or 1.0
    r1, r2 = float(dynamics.rate_H) ** 0.5, float(dynamics.rate_W) ** 0.5
    found = frames_of(M, H / size / r1, list(inner / size / r2), W / size / r2, np)
    slack = tolerance(of((state.H, state.W)))
    ways = "draw a start by `model.init(key, spectral=0.5)`, or use `simulate`"
    if not found.apart <= slack:
        turned = "" if r1 == r2 else ", with H times sqrt(rate_H/rate_W),"
        return (
            "a deep model has a closed form from starts only whose factors have the same singular values and send one "
            f"another's vectors on; these are off by {found.apart:.2g} of their norm, and {slack:.2g} is allowed; "
            f"{ways}{turned}. {_PAGE}"
        )
    if not found.astray <= slack:
        return (
            "a deep model has a closed form from starts only that share the singular vectors of minus the gradient of "
            f"the loss at logits of 0; these are off by {found.astray:.2g} of its norm, and {slack:.2g} is allowed; "
            f"{ways}. {_PAGE}"
        )
    return None


def why_not_beside(names: Sequence[str], decays: bool = True) -> str | None:
    """Why a deep model has no closed form beside a spectral start if one of these parameters moves, in words, or None.

    Derivatives of the closed form are those at fixed singular vectors, which the others turn; `decays` says whether
    there is one with decay.
    """
    fine = ("decay", "eta", "rate_b", "decay_b") if decays else ("eta",)
    for name in names:
        if name not in fine and not name.startswith("schedule."):
            return (
                "a deep model has a closed form only where its factors keep one size and the singular vectors of minus "
                f"the gradient, which they need not if {name!r} alone changes; ask for "
                f"{' and '.join(map(repr, fine[:2]))} and numbers of the schedule, or for sources='simulated'."
                if decays or name != "decay"
                else "the flow of a deep model under squared error has a closed form without decay only, so it has no "
                "derivative with respect to 'decay'; ask for sources='simulated'."
            )
    return None


def _fits(model: LayerPeeled, state: State) -> bool:
    n, C, p = model.samples, model.classes, model.dim
    shapes = tuple(np.shape(part) for part in (state.H, state.W, state.inner) if part is not None)
    return shapes == ((n, p), (C, p), (model.depth - 2, p, p))
