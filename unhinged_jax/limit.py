"""Where a run goes, how fast it gets there, and whether it grows or shrinks on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _request
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.exact.modes import log_factor
from unhinged_jax.exact.run import NoClosedForm, why_no_closed_form
from unhinged_jax.exact.timeline import unit_rates
from unhinged_jax.features import plane_features, row_lengths
from unhinged_jax.leading import growth, leading
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.rowspace import row_space
from unhinged_jax.special import faint, largest, safe_norm
from unhinged_jax.spectrum import BalancedSpectrum
from unhinged_jax.trajectory import Trajectory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limit:
    """The asymptotics of a run.

    Attributes:
        direction: The limit of (H, W)/||(H, W)|| and the limit of the bias (infinite where it grows without bound). For
            anchored prototypes, frozen features and spherical features: the limit direction of the part that moves, at
            norm 1 (each row at norm 1 if spherical), beside the part that stays.
        rate: The direction error decays like e^(-rate zeta(t)) in a flow, e^(-rate k) in a descent of constant step; 0
            where it decays like a power only. For spherical descent a lower bound.
        rate_H, rate_W: The same for H and for W alone.
        exponent: The norm grows like e^(exponent zeta(t)), or e^(exponent k); of spherical features each length does,
            once its direction has settled.
        threshold: sigma^2, the largest squared singular value: growth iff lambda_1 lambda_2 < threshold. Infinite where
            one part stays.
        excess: threshold - lambda_1 lambda_2.
        moving: "both" parts, the one that is "driven" by the other, or the "lengths" of spherical features: whose norm
            the exponent is that of.

    Source: Zhou et al. 2023, Corollaries 3 and 5, Theorems 6 and 7; any signal, decays, rates, descent: beyond the
    paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(classes=4, per_class=4), dim=8, decay=0.2)
        >>> found = uj.limit(model, uj.Flow(), model.init(jax.random.key(0)))
        >>> found.side, round(float(found.threshold), 4), round(float(found.excess), 4)
        ('shrinks', 0.0278, -0.0122)
    """

    direction: State
    rate: jax.Array
    rate_H: jax.Array
    rate_W: jax.Array
    exponent: jax.Array
    threshold: jax.Array
    excess: jax.Array
    moving: str = dataclasses.field(default="both", metadata={"static": True})

    @property
    def side(self) -> str:
        """Whether the norm "grows", "stays" or "shrinks"; a part with a limit of its own "converges".

        Raises:
            ValueError: for a batch, whose members have one each, and where the limit is being traced.
        """
        if not _check.concrete(self) or np.ndim(self.rate):
            raise ValueError(
                "`side` belongs to one limit whose numbers are known; of what jax.vmap returns take a member with "
                "`jax.tree.map(lambda leaf: leaf[0], limit)`, and of what is traced look at `excess` and `exponent`."
            )
        if self.moving != "both":
            if float(self.exponent) != 0:
                return "grows" if float(self.exponent) > 0 else "shrinks"
            return "grows" if self.moving == "driven" and float(self.rate) == 0 else "converges"
        slack = 1e-12 if np.asarray(self.excess).dtype == np.float64 else 1e-6
        if abs(float(self.excess)) <= slack * float(self.threshold):
            return "stays"
        return "grows" if float(self.excess) > 0 else "shrinks"

    def __repr__(self) -> str:
        if not _check.concrete(self):
            return "Limit(traced)"
        if np.ndim(self.rate):
            return f"Limit: a batch of shape {np.shape(self.rate)}; `jax.tree.map(lambda leaf: leaf[0], limit)` is one"
        threshold, excess = float(self.threshold), float(self.excess)
        where = "above" if excess < 0 else "below"
        decays = f"lambda_1 lambda_2 is {abs(excess):.4g} {where} the threshold {threshold:.4g} of growth"
        whose = "norm of the driven part" if self.moving == "driven" else "norm"
        size = "every feature's length" if self.moving == "lengths" else f"the {whose}"
        exponent, rate, rate_H, rate_W = (
            f"{float(value) + 0.0:.6g}"  # no -0
            for value in (self.exponent, self.rate, self.rate_H, self.rate_W)
        )
        return (
            f"Limit: {size} {self.side}, exponent {exponent}; the direction error "
            f"{'rises' if float(self.rate) < 0 else 'falls'}, rate {rate} (H {rate_H}, W {rate_W})\n"
            "  (both per unit of zeta in a flow, per update in a descent)"
            + (f"\n  {decays}" if np.isfinite(threshold) else "")
        )


def limit(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    *,
    target: str = "top",
    precision: str | None = None,
) -> Limit:
    """Direction, rate, growth exponent and threshold of a run from `state`.

    Args:
        model, dynamics, state: as in `exact`. Of a `Trajectory`: the limit of the run that goes on from its end. The
            rate of a descent is that of the update that comes next.
        target: "top" (default): the modes that win; "contrast" or "mean": that subspace of balanced labels.
        precision: "float32" or "float64"; default: that of the state.

    Returns:
        A `Limit`.

    Raises:
        NoClosedForm: where `exact` has none, and for rates that are not proportional.
        ValueError: for a state of another shape, or an unknown target.

    Source: Zhou et al. 2023, Corollaries 3 and 5, Theorems 6 and 7; any signal, decays, rates, descent: beyond the
    paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=4, per_class=4), dim=8)
        >>> found = uj.limit(model, uj.Flow(), model.init(jax.random.key(0)))
        >>> found.side, round(float(found.rate), 4)
        ('grows', 0.1667)
    """
    why = why_no_closed_form(model, dynamics)
    if why is None and not dynamics.proportional:
        why = "the rates of H and W are not proportional, so no direction stays the same."
    if why is None and model.kernel is not None and model.kernel.kind == "coordinates":
        why = "the limit is not offered for a kernel between feature coordinates."
    if why:
        raise NoClosedForm(f"there is no limit in closed form: {why}")
    begin: Any = [0]
    if isinstance(state, Trajectory):
        if state.carries:
            raise NoClosedForm(
                "there is no limit in closed form: the trajectory carries a velocity; give its `final` for the limit "
                "of a run that starts there at rest."
            )
        if _check.concrete(state.elapsed):
            begin = np.atleast_1d(np.asarray(state.elapsed))
    task = _request.prepare(model, dynamics, state, begin, (), target, precision, "limit")
    with task.context():
        solve: Callable[..., Limit] = _spherical if model.spherical else _driven if _one_part_stays(model) else _coupled
        model, dynamics = _request.traceable((model, dynamics))
        if isinstance(dynamics, Descent):  # the asymptotics of equal updates, as large as the next one
            dynamics = dataclasses.replace(dynamics, schedule=dynamics.schedule(task.first))
        found = solve(model, dynamics, task.state, target)
        found = jax.tree.map(lambda leaf: jnp.asarray(leaf, task.state.W.dtype), found)
        return task.give_back(found)


def _one_part_stays(model: LayerPeeled) -> bool:
    return not (model.features_move and model.prototypes_move)


def _step_growth(dynamics: Dynamics, node: jax.Array) -> jax.Array:
    """Growth of p at a node of K: per unit of zeta in a flow, per update in a descent."""
    if isinstance(dynamics, Flow):
        return node
    eta = jnp.asarray(dynamics.schedule(0), node.dtype)
    if dynamics.momentum is None:
        return log_factor(eta * node)
    beta = dynamics.momentum
    push = eta * node * (1 + beta if dynamics.nesterov else 1)
    trace, det = 1 + push + beta, beta * (1 + (eta * node if dynamics.nesterov else 0 * node))
    disc = trace**2 - 4 * det
    real = (jnp.abs(trace) + jnp.sqrt(jnp.maximum(disc, 0))) / 2
    return jnp.where(disc >= 0, jnp.log(real), jnp.log(jnp.where(disc < 0, det, 1.0)) / 2)


@eqx.filter_jit
def _coupled(model: LayerPeeled, dynamics: Dynamics, state: State, target: str) -> Limit:
    dtype = state.W.dtype
    space = row_space(model, dtype)
    part = leading(model, space.signal, model.kernel, dynamics.rate_H, dynamics.rate_W, state.H, state.W, target)
    top, rates = part.growth, unit_rates(model, dynamics, dtype)
    assert top is not None and part.spectrum is not None and part.mask is not None and part.square is not None
    values = part.spectrum.eigenvalues()
    alive = values > jnp.finfo(dtype).eps ** 0.6 * jnp.max(values)
    rival = alive & (part.mask == 0)
    if target == "top":  # larger ones are those that the start has no part in
        rival = rival & (values <= jnp.max(jnp.where(part.mask > 0, values, 0.0)))
    multiplicity = (
        jnp.asarray([model.classes - 1, 1]) if isinstance(part.spectrum, BalancedSpectrum) else jnp.ones_like(values)
    )
    rank = jnp.sum(alive * multiplicity)
    winner = _step_growth(dynamics, top.plus)

    other = growth(values, rates.a, rates.c, rates.r1, rates.r2)
    if isinstance(dynamics, Flow):
        gaps = rates.r1 * rates.r2 * (part.square - values) / (top.d + other.d)
        own_gap = 2 * top.d
        loose_H, loose_W = top.rising, top.falling  # mu+ + a = d + delta, mu+ + c = d - delta
    else:
        rivals = jnp.maximum(_step_growth(dynamics, other.plus), _step_growth(dynamics, other.minus))
        gaps = winner - rivals
        own_gap = winner - _step_growth(dynamics, top.minus)
        loose_H = winner - _step_growth(dynamics, jnp.asarray(-rates.a))
        loose_W = winner - _step_growth(dynamics, jnp.asarray(-rates.c))
    rate = jnp.minimum(jnp.min(jnp.where(rival, gaps, jnp.inf)), own_gap)
    rate_H = jnp.where(rank < model.samples, jnp.minimum(rate, loose_H), rate)
    rate_W = jnp.where(rank < model.classes, jnp.minimum(rate, loose_W), rate)

    H = _features_of(model, space, part.carrier)
    W = part.prototypes
    size = safe_norm(H, W)
    size = jnp.where(size > 0, size, 1.0)
    direction = State(H / size, W / size, _bias_limit(model, state))
    # Where the signal vanishes nothing leads: both parts only fade, and no direction is approached.
    led = jnp.sum(part.mask) > 0
    winner = jnp.where(led, winner, _step_growth(dynamics, -jnp.minimum(rates.a, rates.c)))
    rate_H, rate_W, threshold = (jnp.where(led, value, 0.0) for value in (rate_H, rate_W, part.square))
    excess = threshold - model.decay_H * model.decay_W
    return Limit(direction, jnp.minimum(rate_H, rate_W), rate_H, rate_W, winner, threshold, excess)


def _features_of(model: LayerPeeled, space: Any, carrier: jax.Array) -> jax.Array:
    """Theta M carrier, shape (n, p)."""
    lifted = space.signal.times(carrier)
    return lifted if model.kernel is None else model.kernel.apply(lifted)


def _bias_limit(model: LayerPeeled, state: State) -> jax.Array:
    if not (model.bias and model.prototypes_move):
        return state.b
    drift = model.signal().column_sums(state.b.dtype)
    decay = jnp.asarray(model.decay_W, state.b.dtype)
    still = jnp.abs(drift) <= 8 * jnp.finfo(drift.dtype).eps
    runs_away = jnp.where(still, state.b, jnp.sign(drift) * jnp.inf)
    return jnp.where(decay > 0, drift / jnp.where(decay > 0, decay, 1.0), runs_away)


def _with_scale(state: State) -> tuple[jax.Array, ...]:
    """H and W with their scale, each as it is given where that does not fit its type."""

    def fitting(part: jax.Array, moved: jax.Array) -> jax.Array:
        size = largest(moved)
        return jnp.where(jnp.isfinite(size) & (size > faint(part.dtype)), moved, part)

    return tuple(fitting(*both) for both in zip((state.H, state.W), multiplied(state), strict=True))


@eqx.filter_jit
def _driven(model: LayerPeeled, dynamics: Dynamics, state: State, target: str) -> Limit:
    """Theorem 6 and its mirror image: one part stays and pulls the other along a line."""
    dtype = state.W.dtype
    space, rates = row_space(model, dtype), unit_rates(model, dynamics, dtype)
    moving_W = model.prototypes_move
    H = state.H if moving_W else _features_of(model, space, state.W)
    W = space.signal.transpose_times(state.H) if moving_W else state.W
    decay = rates.c if moving_W else rates.a
    rate = 0.0 - _step_growth(dynamics, jnp.asarray(-decay))
    part = W if moving_W else H
    size = safe_norm(part)
    unit = part / jnp.where(size > 0, size, 1.0)
    still_H, still_W = _with_scale(state)
    direction = State(still_H if moving_W else unit, unit if moving_W else still_W, _bias_limit(model, state))
    none = jnp.full((), jnp.inf, dtype)
    rate_H, rate_W = (none, rate) if moving_W else (rate, none)
    # The fixed point repels a descent whose steps are too large.
    return Limit(direction, rate, rate_H, rate_W, jnp.maximum(-rate, 0.0), none, none, "driven")


@eqx.filter_jit
def _spherical(model: LayerPeeled, dynamics: Dynamics, state: State, target: str) -> Limit:
    dtype = state.W.dtype
    G = model.signal().times(state.W)
    plane, pull = plane_features(state.H, G), row_lengths(G)[:, 0]
    slack = 2 - model.rescaling
    # W and lengths are e^log_scale of what is given.
    shared = jnp.exp((1 - slack) * jnp.asarray(state.log_scale, dtype))
    strength = dynamics.rate_H * pull * jnp.hypot(plane.along, plane.across) ** (-slack) * shared
    decay = jnp.asarray(dynamics.rate_H * model.decay_H, dtype)
    if isinstance(dynamics, Flow):
        # With decay the lengths shrink and the angular rate grows without bound.
        speed = jnp.where((decay > 0) & (slack > 0), jnp.inf, strength)
    else:
        speed = _spherical_descent_speed(model, dynamics, plane, strength)
    rate = jnp.min(jnp.where(pull > 0, speed, jnp.inf))
    direction = State(plane.target, _with_scale(state)[1], state.b)
    none = jnp.full((), jnp.inf, dtype)
    # A length that only fades: what its direction adds to it comes to an end.
    return Limit(direction, rate, rate, none, _step_growth(dynamics, 0.0 - decay), none, none, "lengths")


def _spherical_descent_speed(model: LayerPeeled, descent: Descent, plane: Any, strength: jax.Array) -> jax.Array:
    """-log |1 - alpha| at a lower bound of alpha_inf (Theorem 7 sharpened); exact for q = 2."""
    eta = jnp.asarray(descent.schedule(0), strength.dtype)
    alpha = eta * strength / (1 - eta * descent.rate_H * model.decay_H)
    if model.rescale == 2:
        return -jnp.log(jnp.maximum(jnp.abs(1 - alpha), jnp.finfo(alpha.dtype).tiny))
    cosine = plane.along / jnp.hypot(plane.along, plane.across)
    room = 1 - alpha / 2
    loss = alpha * (1 - cosine) / jnp.where(room > 0, room, 1.0) / (2 if model.rescale == 1 else 1)
    bound = jnp.where(room > 0, alpha / (1 + loss), 0.0)
    return -jnp.log(jnp.maximum(jnp.abs(1 - bound), jnp.finfo(alpha.dtype).tiny))
