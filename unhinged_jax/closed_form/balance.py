"""When squared error has a closed form: which problems, and from which starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _memory
from unhinged_jax.dynamics import Dynamics, Flow
from unhinged_jax.losses import MSE
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import ObservablePlan

_EVEN = 1e-6  # how far weights of samples may differ, relative to the largest


class Form(NamedTuple):
    """What is known of a start before anything compiles.

    Attributes:
        one_hot: Whether the targets, less a bias that stays, are one-hot, so that no decomposition is needed.
        even: Whether kappa is known to be 0, so that H and W span the same C dimensions at most.
        known: Whether the start is known at all, and was found balanced.
    """

    one_hot: bool
    even: bool
    known: bool


class Balance(NamedTuple):
    """How far a start is from a balanced one, r_2 H^T H - r_1 W^T W = kappa I.

    Attributes:
        kappa: The mean of the diagonal of r_2 H^T H - r_1 W^T W, ().
        apart: The Frobenius norm of what is left without kappa I, ().
        size: r_2 |H|^2 + r_1 |W|^2, ().
    """

    kappa: Any
    apart: Any
    size: Any


def balance_of(flow: Flow, H: Any, W: Any) -> Balance:
    """The balance of features (n, p) and prototypes (C, p), NumPy or JAX arrays."""
    xp: Any = np if _check.concrete((flow.rate_H, flow.rate_W, H, W)) and isinstance(H, np.ndarray) else jnp
    of_H, of_W = flow.rate_W * (H.T @ H), flow.rate_H * (W.T @ W)
    kappa = xp.mean(xp.diagonal(of_H - of_W))
    apart = of_H - of_W - kappa * xp.eye(H.shape[1], dtype=H.dtype)
    return Balance(kappa, xp.sqrt(xp.sum(apart**2)), xp.trace(of_H + of_W))


def tolerance(dtype: Any) -> float:
    """How far from balanced a start may be, relative to its squared norm: 1.5e-8 in float64, 3.5e-4 in float32.

    The type is that in which the start was given.
    """
    return float(jnp.finfo(dtype).eps) ** 0.5


def valid(model: LayerPeeled, flow: Flow, balance: Balance) -> jax.Array:
    """Whether numbers that may be traced are those of a closed form, ()."""
    slack = tolerance(jnp.asarray(balance.apart).dtype)
    first, second = flow.rate_H * model.decay_H, flow.rate_W * model.decay_W
    equal = jnp.abs(first - second) <= slack * jnp.maximum(first, second)
    still = (jnp.abs(balance.kappa) <= slack * balance.size) | (jnp.maximum(first, second) == 0)
    weights = jnp.asarray(model.labels.weights)
    even = jnp.ptp(weights) <= _EVEN * jnp.max(weights)
    return even & equal & still & (balance.apart <= slack * balance.size)


def explained(why: str | None) -> str | None:
    """A reason why squared error has no closed form, and where it is said what has one."""
    page = "The section 'Squared error from balanced starts' of docs/exact-solutions.md says what is solved."
    return None if why is None else f"{why} {page}"


def why_not_squared(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    """The setting that rules out a closed form for a loss that is not linear in the logits, in words, or None."""
    if isinstance(model.loss, MSE):
        return explained(_what_unbalances(model, dynamics))
    return f"the loss {type(model.loss).__name__} is not linear in the logits; use `simulate`, or the unhinged loss."


def _what_unbalances(model: LayerPeeled, dynamics: Dynamics) -> str | None:
    """The setting that does not keep a start balanced, in words, or None."""
    of = "squared error has a closed form"
    if not isinstance(dynamics, Flow):
        return f"{of} for a Flow only, because a step of a descent does not keep a start balanced; use `simulate`."
    if dynamics.paced:
        return f"{of} for plain gradients only, neither sharpness-aware, clipped nor normalised; use `simulate`."
    if model.spherical or model.kernel is not None:
        what = "spherical features" if model.spherical else "a kernel"
        return f"{of} without {what} only; use `simulate`."
    if not model.moves.coupled:
        return f"{of} if features and prototypes both move; use `simulate`."
    if model.moves.b:
        return f"{of} without a bias that moves, which shifts the targets; give bias=False, or use `simulate`."
    if not dynamics.proportional:
        return f"{of} for rates of H and W that are proportional; use `simulate`."
    if model.labels.held_out is not None:
        return f"{of} without samples that are held out, which keep no start balanced; use `simulate`."
    weights = model.labels.weights
    if _check.concrete(weights) and np.ptp(np.asarray(weights)) > _EVEN * np.max(np.asarray(weights)):
        return f"{of} for samples of equal weight; here weights differ, and H^T H is not W^T W where it counts."
    given = (dynamics.rate_H, model.decay_H, dynamics.rate_W, model.decay_W)
    if _check.concrete(given):
        r1, l1, r2, l2 = (float(x) for x in given)
        if abs(r1 * l1 - r2 * l2) > tolerance("float64") * max(r1 * l1, r2 * l2):
            return (
                f"{of} for decays with rate_H decay_H = rate_W decay_W, which keep a start balanced, but these are "
                f"{r1 * l1:g} and {r2 * l2:g}; use `simulate`."
            )
    return None


def why_not_balanced(model: LayerPeeled, flow: Dynamics, state: State) -> str | None:
    """Why squared error has no closed form from this start, in words, or None.

    A start that is traced, or is none for this model, is not looked at.
    """
    sizes = ((model.samples, model.dim), (model.classes, model.dim))
    if not _check.concrete((model, flow, state)) or (np.shape(state.H), np.shape(state.W)) != sizes:
        return None
    return explained(_how_far(flow, state, float(model.decay_H)))


def _how_far(flow: Any, state: State, decay: float) -> str | None:
    """How far a start is from those that squared error is solved from, in words, or None."""
    found, dtype = _known_balance(flow, state), _type(state)
    slack = tolerance(dtype)
    if not found.apart <= slack * found.size:
        turned = "" if float(flow.rate_H) == float(flow.rate_W) else (
            ", with H times (rate_H/rate_W)^(1/4) and W divided by it,"
        )  # fmt: skip
        return (
            "squared error has a closed form from balanced starts only, where rate_W H^T H - rate_H W^T W is a "
            f"multiple of the identity; here it is off by {found.apart / found.size:.2g} of the squared norm, and "
            f"{slack:.2g} is allowed. Draw a start by `model.init(key, balanced=0.0)`{turned} or use `simulate`."
        )
    if decay > 0 and abs(found.kappa) > slack * found.size:
        return (
            f"with decay, squared error has a closed form from starts with H^T H = W^T W only, but here kappa is "
            f"{found.kappa:.3g}; give `balanced=0.0` to `model.init`, leave out the decay, or use `simulate`."
        )
    return None


def why_not_read(model: LayerPeeled, flow: Dynamics, state: State, plan: ObservablePlan, states: bool) -> str | None:
    """Why what is asked of a run of squared error has no closed form, in words, or None."""
    known = "squared error is solved up to a rotation of the feature space"
    if states:
        return explained(f"{known}, so there are no states at the times; leave `states` out, or use `simulate`.")
    own = [name for name, function in plan if function is not None]
    if own:
        return explained(
            f"{known}, and the function {own[0]!r} of the state may depend on it; observe built-in names, which "
            "do not, or use `simulate`."
        )
    return why_not_balanced(model, flow, state)


def why_not_along(names: Sequence[str]) -> str | None:
    """Why there is no closed form beside a balanced problem if one of these parameters moves, in words, or None."""
    for name in names:
        if name not in ("decay", "eta") and not name.startswith("schedule."):
            return (
                f"squared error has a closed form only where H^T H stays W^T W, which it does not if {name!r} alone "
                "changes; ask for 'decay', 'eta' and numbers of the schedule, or for sources='simulated'."
            )
    return None


def form_of(model: LayerPeeled, flow: Dynamics, state: State) -> Form:
    """What is known of the start."""
    one_hot = model.labels.kind == "hard" and _check.concrete(state.b) and not np.any(np.asarray(state.b))
    if not _check.concrete((model, flow, state)):
        return Form(one_hot, False, False)
    even = no_kappa(_known_balance(flow, state), float(model.decay_H), model.dim, _type(state))
    return Form(one_hot, bool(even), True)


def no_kappa(balance: Balance, decay: Any, dim: int, dtype: Any) -> Any:
    """Whether kappa is 0, up to rounding, or with decay up to what a closed form allows, ()."""
    rounding = 16 * dim * float(jnp.finfo(dtype).eps)
    slack = (decay == 0) * rounding + (decay != 0) * tolerance(dtype)
    return abs(balance.kappa) <= slack * balance.size


def _type(state: State) -> str:
    """The narrower type of H and W."""
    return "float32" if "float32" in (str(state.H.dtype), str(state.W.dtype)) else "float64"


def _known_balance(flow: Dynamics, state: State) -> Balance:
    """The balance in float64, of a start divided by its largest entry."""
    H, W = (_memory.read(part).astype(float) for part in (state.H, state.W))
    size = max(np.max(np.abs(H)), np.max(np.abs(W))) or 1.0
    rates = Flow(rate_H=float(flow.rate_H), rate_W=float(flow.rate_W))
    return balance_of(rates, H / size, W / size)
