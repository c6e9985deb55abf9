"""The limit of spherical features: each feature turns to its target, or comes to rest before it gets there."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax._request.compiling import compiled
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.limits.factors import factor
from unhinged_jax.limits.result import OVERSHOOTS, SHORT, SWINGS, Limit
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.observables.features import row_lengths
from unhinged_jax.observables.plane_features import PlaneFeatures, plane_features
from unhinged_jax.special import greatest

_MOST = 2**20  # updates after which the steps of a descent count as small in any case


@compiled()
def spherical(model: LayerPeeled, dynamics: Dynamics, state: State, target: str, rests: bool = True) -> Limit:
    """The limit by Theorem 7, with decay and any rescaling: a feature of length r turns at a rate like r^(q - 2).

    `rests` says whether features may come to rest before they reach their targets.
    """
    dtype = state.W.dtype
    G = model.signal().times(state.W)
    plane, pull = plane_features(state.H, G), row_lengths(G)[:, 0]
    slack = 2 - jnp.asarray(model.rescaling, dtype)
    # The given W and lengths are to be multiplied by e^log_scale.
    shared = jnp.exp((1 - slack) * jnp.asarray(state.log_scale, dtype))
    strength = dynamics.rate_H * pull * jnp.hypot(plane.along, plane.across) ** (-slack) * shared
    decay = jnp.asarray(dynamics.rate_H * model.decay_H, dtype)
    fading = factor(dynamics, -decay)
    pace = -slack * fading.log  # growth of the logarithm of the rate of turning; 0 where lengths settle
    turns = pull > 0
    if isinstance(dynamics, Flow):
        speed = jnp.where(pace > 0, jnp.inf, jnp.where(pace < 0, 0.0, strength))
        left = jnp.exp(-strength / jnp.where(pace < 0, -pace, 1.0))
        half = jnp.arctan2(plane.across, plane.along) / 2
        angle = 2 * jnp.arctan2(jnp.sin(half) * left, jnp.cos(half))
        ending = jnp.where(jnp.any((pace < 0) & turns), SHORT, 0)
    else:
        assert isinstance(dynamics, Descent)
        speed, swings = _descent_speed(model, dynamics, plane, strength, decay, slack)
        speed = jnp.where(pace < 0, 0.0, speed)
        angle = jnp.full_like(strength, jnp.nan)
        if rests:
            angle = _where_descent_rests(dynamics, plane, strength, decay, slack, pace)
        ending = jnp.where(jnp.any(swings & turns), SWINGS, 0)
        ending = jnp.where(pace > 0, OVERSHOOTS, jnp.where(pace < 0, SHORT, ending))
    angle = jnp.where(turns, jnp.where(pace < 0, angle, 0.0), jnp.pi / 2)  # a feature without target is transverse
    H = jnp.cos(angle)[:, None] * plane.target + jnp.sin(angle)[:, None] * plane.transverse
    rate = -greatest(-jnp.where(turns, speed, jnp.inf))
    none = jnp.full((), jnp.inf, dtype)
    direction = State(H, multiplied(state)[1], state.b)
    # A length grows like its decay alone, because the contribution of the turning comes to an end.
    return Limit(direction, rate, rate, none, fading.log, none, none, fading.angle, ending, moving="lengths")


def _descent_speed(
    model: LayerPeeled, descent: Descent, plane: PlaneFeatures, strength: jax.Array, decay: jax.Array, slack: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """-log |1 - alpha| at the worst possible alpha_inf (Theorem 7, sharpened), and whether |1 - alpha| > 1, (n,) each.

    alpha = eta kappa r^(q-2) / (1 - eta decay) is exact for q = 2. Otherwise lengths r grow, at most by the factor
    1 + loss.
    """
    eta = jnp.asarray(descent.schedule(0), strength.dtype)
    keep = 1 - eta * decay
    alpha = eta * strength / keep
    cosine = plane.along / jnp.hypot(plane.along, plane.across)
    fits = (alpha < 2) & (keep > 0)
    loss = alpha * (1 - cosine) / jnp.where(fits, 1 - alpha / 2, 1.0) / (2 if model.rescale == 1 else 1)
    least = jnp.where(fits, alpha / (1 + loss), 0.0)
    shorter = jnp.maximum(jnp.abs(1 - least), jnp.minimum(jnp.abs(1 - alpha), 1.0))
    longer = jnp.where(fits & (alpha * (1 + loss) ** jnp.abs(slack) < 1), 1 - alpha, 1.0)
    # An update that reverses a feature puts its target behind it; the next update puts it in front again.
    equal = jnp.where(keep > 0, jnp.abs(1 - alpha), jnp.sqrt(jnp.abs(1 - alpha**2)))
    worst = jnp.where(slack > 0, shorter, jnp.where(slack < 0, longer, equal))
    speed = -jnp.log(jnp.maximum(worst, jnp.finfo(alpha.dtype).tiny))
    return jnp.maximum(speed, 0.0), worst > 1


def _where_descent_rests(
    descent: Descent, plane: PlaneFeatures, strength: jax.Array, decay: jax.Array, slack: jax.Array, pace: jax.Array
) -> jax.Array:
    """The final angles after an even number of updates, (n,), if updates turn features less and less (pace < 0).

    Updates are made until all later ones turn features by small angles, whose sum is that of a geometric series.
    """
    eta = jnp.asarray(descent.schedule(0), strength.dtype)
    start = jnp.arctan2(plane.across, plane.along)
    given = start, eta * strength, 1 - eta * decay, slack, pace
    return _settled(*jnp.broadcast_arrays(*given))


@jax.custom_jvp
def _settled(*given: jax.Array) -> jax.Array:
    """The final angles from (start, push, keep, slack, pace), (n,) each.

    Each feature depends on its own five numbers alone, so five forward passes give all slopes. They do not depend on
    the tangents, which makes reverse derivatives of such a long loop possible.
    """
    return _rest(*given)


@_settled.defjvp
def _settled_jvp(given: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    units = [jnp.zeros((len(given), *x.shape), x.dtype).at[k].set(1.0) for k, x in enumerate(given)]
    slopes = jax.vmap(lambda *unit: jax.jvp(_rest, given, unit)[1])(*units)
    moved = [slope * tangent for slope, tangent in zip(slopes, tangents, strict=True)]
    return _settled(*given), sum(moved, jnp.zeros_like(given[0]))


def _rest(start: jax.Array, push: jax.Array, keep: jax.Array, slack: jax.Array, pace: jax.Array) -> jax.Array:
    """The final angles, (n,), by updates in pairs from the angles at the start."""
    eps = jnp.finfo(start.dtype).eps
    fall = 1 - jnp.exp(jnp.minimum(pace, -eps))
    small = jnp.where(keep > 0, jnp.sqrt(eps * fall), eps)

    def turn(longer: jax.Array) -> jax.Array:
        return push * jnp.exp(-slack * longer)

    def update(angle: jax.Array, longer: jax.Array) -> tuple[jax.Array, jax.Array]:
        pushed = turn(longer) * jnp.sin(angle)
        angle = angle - jnp.arctan2(pushed, keep)
        return jnp.arctan2(jnp.sin(angle), jnp.cos(angle)), longer + jnp.log(jnp.hypot(keep, pushed))

    def going(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        turns = (pace < 0) & (turn(carry[1]) > small * jnp.abs(keep))
        return (carry[2] < _MOST) & jnp.any(turns)

    def two(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        return *update(*update(*carry[:2])), carry[2] + 2

    angle, longer, _ = jax.lax.while_loop(going, two, (start, jnp.zeros_like(start), jnp.zeros((), jnp.int32)))
    rest = jnp.where(keep > 0, turn(longer) / (jnp.abs(keep) * fall), 0.0)
    return 2 * jnp.arctan2(jnp.sin(angle / 2) * jnp.exp(-rest), jnp.cos(angle / 2))
