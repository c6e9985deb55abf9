"""How fast the second moment of a stochastic descent grows, and the batch size and the rate from which on it dies."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.carriers import Membership, setting_of
from unhinged_jax.closed_form.expected import moments_of_start
from unhinged_jax.closed_form.moments import draws_of
from unhinged_jax.dynamics import Descent
from unhinged_jax.limits.factors import factor
from unhinged_jax.limits.leading_vectors import Sought, ratio, sought
from unhinged_jax.limits.second_moment import MapNumbers, SecondMoment
from unhinged_jax.linear.leading_part import growth
from unhinged_jax.linear.rates import unit_rates
from unhinged_jax.linear.row_space import row_space
from unhinged_jax.linear.spectrum import spectrum_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import greatest


class Noise(NamedTuple):
    """What a stochastic descent adds to a `Limit`; see there."""

    second_moment_growth: Any
    mean_growth: Any
    critical_batch: Any
    critical_rate: Any
    generic: Any


def noise(model: LayerPeeled, descent: Descent, state: State, membership: Membership) -> Noise:
    """The growths and thresholds of a descent whose rate is that of update 0."""
    return _coupled(model, descent, state, membership) if model.moves.coupled else _driven(model, descent, state)


@compiled()
def _coupled(model: LayerPeeled, descent: Descent, state: State, membership: Membership) -> Noise:
    """Those of H and W if both move."""
    dtype, n = state.W.dtype, model.samples
    groups = setting_of(model, membership, descent.fresh_labels, dtype).groups
    numbers = (descent.rate_H, descent.rate_W, model.decay_H, model.decay_W, descent.schedule(0))
    c = 1 - draws_of(n, descent, dtype).other
    p = MapNumbers(groups, *(jnp.asarray(x, dtype) for x in (*numbers, c)))
    one, none = jnp.ones_like(c), jnp.zeros_like(c)

    def wanted(eta: jax.Array, c: jax.Array) -> Sought:
        """Of the map, of that of full batches and that of vanishing rates; of the thresholds in c and in eta."""
        maps = [[one, eta, eta * c], [one, eta, none], [one, none, none]]
        slopes = [[none] * 3] * 3 + [[none, none, eta], [none, one, c]]
        return Sought(jnp.array(maps + maps[1:]), jnp.array(slopes))

    # The derivative of an eigenvalue does not depend on that of its vector.
    still = SecondMoment(jax.lax.stop_gradient(p), membership.alike)
    rows = jax.lax.stop_gradient(wanted(p.eta, p.c))
    vectors = jax.lax.map(lambda row: sought(still.parts, still.start, row), rows)
    whole, rows = SecondMoment(p, membership.alike), wanted(p.eta, p.c)
    found = jnp.concatenate([vectors[:, None], jax.vmap(whole.parts)(vectors)], axis=1)
    values = jnp.einsum("mi,mid,md->m", rows.base, found[:, 1:], vectors)
    dies = (p.eta > 0) & (values[1:3] < -8 * jnp.finfo(dtype).eps * whole.size)
    c, rate = jnp.where(dies, jax.vmap(ratio)(found[3:], *(part[3:] for part in rows)), 0.0)
    safe = jnp.where((c > 0) & (c < jnp.inf), c, 1.0)
    batch = n / (1 + (n - 1) * safe) if descent.batch is not None and not descent.replacement else 1 / safe
    batch = jnp.where(c > 0, jnp.where(c < jnp.inf, batch, 0.0), jnp.inf)

    given = whole.at.vector(moments_of_start(state, membership)[0])
    size = jnp.linalg.norm(given)
    part = jnp.dot(vectors[0], given / jnp.where(size > 0, size, 1.0))
    generic = jax.lax.stop_gradient(jnp.abs(part) > 256 * jnp.finfo(dtype).eps)
    return Noise(jnp.log1p(p.eta * values[0]), _of_mean(model, descent, dtype), batch, rate, generic)


def _of_mean(model: LayerPeeled, descent: Descent, dtype: DTypeLike) -> jax.Array:
    """Twice the logarithm of the largest modulus of an eigenvalue of the update of the mean."""
    rates = unit_rates(model, descent, dtype)
    values = spectrum_of(row_space(model, dtype).signal, None, model.samples, model.dim, dtype).eigenvalues()
    modes = growth(values, rates)
    nodes = jnp.concatenate([modes.plus, modes.minus, jnp.stack([-rates.a, -rates.c])])
    return 2 * greatest(factor(descent, nodes).log)


def _driven(model: LayerPeeled, descent: Descent, state: State) -> Noise:
    """Those of one part if the other stays and drives it: noise is then added, not multiplied, and feeds no growth."""
    dtype, of_W = state.W.dtype, model.moves.W
    rate, decay = (descent.rate_W, model.decay_W) if of_W else (descent.rate_H, model.decay_H)
    fading = jnp.asarray(rate * decay, dtype)
    log = jnp.where(fading > 0, factor(descent, -fading).log, 0.0)
    growth = 2 * jnp.maximum(log, 0.0)
    critical = jnp.where(fading > 0, 2 / jnp.where(fading > 0, fading, 1.0), jnp.inf)
    return Noise(growth, growth, jnp.where(log > 0, jnp.inf, 0.0), critical, jnp.ones((), bool))
