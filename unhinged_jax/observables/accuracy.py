"""How well the labels are fitted: loss, objective, accuracy and margins, on a log scale where it matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax._platform import on_accelerator
from unhinged_jax.losses import AdjustedMargin
from unhinged_jax.observables.features import Features, map_samples, row_lengths
from unhinged_jax.observables.view import View, of_ordinary_size
from unhinged_jax.special import greatest, over_all, safe_log, safe_norm

_ROWS_AT_ONCE = 1 << 15  # logits; of more of them two reductions take half the time of one that finds everything
_SMALL = 1e-8
"""The loss, over that of logits of 0, below which a difference of logits and targets has lost half of its digits."""


def in_common_units(view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(c, factor, bias): logits are e^c (factor H W^T + bias), and neither term over- or underflows for both small."""
    size = jnp.max(jnp.abs(view.b))
    tiny = jnp.finfo(size.dtype).tiny
    log_bias = jnp.where(size > 0, safe_log(jnp.maximum(size, tiny)), -jnp.inf)
    common = jnp.maximum(view.logit_scale(), jnp.minimum(log_bias, 0.0))
    factor = jnp.exp(view.logit_scale() - common)
    return common, factor, view.b * jnp.exp(-jnp.where(size > 0, common, 0.0))


def _linear_loss(view: View) -> tuple[jax.Array, jax.Array]:
    """(mantissa, logarithm of scale) of the data term of a loss linear in the logits."""
    common, factor, bias = view.once(in_common_units)
    inner = over_all(jnp.sum, view.signal_features() * view.prototypes())
    return -(inner * factor + jnp.sum(bias * view.model.signal().column_sums(view.W.dtype))), common


def loss_parts(view: View) -> tuple[jax.Array, jax.Array]:
    """The data loss as (mantissa, logarithm of its scale)."""
    if view.model.loss.linear:
        return _linear_loss(view)
    model = view.model
    if isinstance(model.loss, AdjustedMargin):
        value = model.data_loss(view.seen().dense(), jnp.exp(view.log_scale) * view.W, view.b)
    else:
        # As large as finite logits can be. A loss that is 0 there is 0 beyond, and one that is large is infinite.
        size = jnp.sqrt(1.0 * model.samples) if model.spherical else view.normal().features.norm()
        of_W = safe_norm(view.prototypes()) if model.unit_prototypes else view.normal().norm_W
        bound = jnp.maximum(size * of_W, 1.0)
        most = jax.lax.stop_gradient(jnp.log(jnp.finfo(bound.dtype).max) - jnp.log(bound) - 2.0)
        scale = view.logit_scale()
        logits = jnp.exp(jnp.minimum(scale, most)) * view.seen().scores(view.prototypes()) + view.b[:, None]
        value = model.loss_of_columns(logits)
        huge = (value > jnp.exp(most / 2)) | jnp.isnan(value)  # NaN: differences of infinite numbers
        value = jnp.where((scale > most) & huge, jnp.inf, value)
    if view.small_loss is None:
        return value, jnp.zeros_like(value)
    mantissa, log_scale, holds, unit = view.small_loss
    better = jax.lax.stop_gradient(holds & (value < _SMALL * unit))
    return jnp.where(better, mantissa, value), jnp.where(better, log_scale, 0.0)


def _scaled(mantissa: jax.Array, log_scale: jax.Array) -> jax.Array:
    """mantissa e^log_scale, where 0 stays 0 even if the scale is beyond the range."""
    factor = jnp.exp(log_scale)
    return mantissa * jnp.where((mantissa == 0) & jnp.isinf(factor), 0.0, factor)


def loss(view: View) -> jax.Array:
    """The data loss, without decay."""
    return _scaled(*view.once(loss_parts))


def log_abs_loss(view: View) -> jax.Array:
    """Logarithm of the absolute value of the data loss."""
    mantissa, log_scale = view.once(loss_parts)
    return safe_log(jnp.abs(mantissa)) + log_scale


def objective(view: View) -> jax.Array:
    """The data loss and the decay of H, W and b."""
    model = view.model

    def in_full(size: jax.Array) -> jax.Array:
        return _scaled(*of_ordinary_size(size, view.log_scale))

    def term(decay: ArrayLike, *sizes: jax.Array) -> jax.Array:
        squares = sum(size**2 for size in sizes)
        return jnp.where(jnp.asarray(decay) == 0, 0.0, decay * squares)  # even if the norm is infinite

    decay = term(model.decay_H, in_full(view.features.norm()))
    size_W = view.norm_W() if view.inner is None else safe_norm(view.W, view.inner)
    of_W, of_b = in_full(size_W), safe_norm(view.b)
    if model.decay_b is None:
        decay = decay + term(model.decay_W, of_W, of_b)
    else:
        decay = decay + term(model.decay_W, of_W) + term(model.decay_b, of_b)
    data, decay = loss(view), decay / 2
    total = data + decay
    # Two infinite terms of opposite signs: the one with the larger logarithm.
    sizes = ((model.decay_H, view.features.norm()), (model.decay_W, size_W))
    squares = [safe_log(jnp.asarray(rate, total.dtype)) + 2 * (safe_log(size) + view.log_scale) for rate, size in sizes]
    wins = jax.lax.stop_gradient(log_abs_loss(view) > jnp.logaddexp(*squares) - jnp.log(2.0))
    return jnp.where(jnp.isinf(data) & jnp.isinf(decay), jnp.where(wins, data, decay), total)


def margins(view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Margin s_y - max_{j != y} s_j of every sample (in units of e^common), whether it is classified correctly,
    common."""
    common, product, bias = view.once(in_common_units)
    prototypes = view.prototypes()

    def block(features: Features, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
        own, rival, right = _compared(product * features.scores(prototypes) + bias[:, None], truth)
        return own - rival, right

    truth = jnp.asarray(view.model.labels.truth)
    margin, right = map_samples(block, view.seen(), view.model.classes, truth)
    return margin, right, common


@jax.custom_jvp
def _compared(logits: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The logit of the true class, the largest of another class, and whether the first of the largest is the true one.

    All in one pass, or from one copy of the logits, because XLA may compute an entry twice and round it differently;
    ties must stay ties.
    """
    least = jnp.asarray(-jnp.inf, logits.dtype)

    def sides(row: jax.Array, logits: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jnp.where(side, logits, least) for side in (row == truth, row < truth, row > truth))

    if logits.size <= _ROWS_AT_ONCE or on_accelerator():
        found = jax.lax.reduce(sides(jnp.arange(logits.shape[0])[:, None], logits), (least,) * 3, _larger, (0,))
    else:
        kept = jax.lax.optimization_barrier(logits)
        row = jnp.arange(logits.shape[0])[:, None]
        before, after = (jnp.max(jnp.where(side, kept, least), axis=0) for side in (row < truth, row > truth))
        found = jnp.take_along_axis(kept, jnp.clip(truth, 0, logits.shape[0] - 1)[None, :], axis=0)[0], before, after
    own, before, after = found
    own = jnp.where((truth >= 0) & (truth < logits.shape[0]), own, jnp.nan)  # labels that are traced are not checked
    return own, jnp.maximum(before, after), (own > before) & (own >= after)


def _larger(one: Any, other: Any) -> Any:
    return tuple(jnp.maximum(x, y) for x, y in zip(one, other, strict=True))


@_compared.defjvp
def _compared_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, Any]) -> tuple[Any, Any]:
    logits, truth = primals
    found, own = _compared(logits, truth), jnp.arange(logits.shape[0])[:, None] == truth
    _, moved = jax.jvp(lambda logits: greatest(jnp.where(own, -jnp.inf, logits)), (logits,), (tangents[0],))
    own_moved = jnp.take_along_axis(tangents[0], truth[None, :], axis=0)[0]
    return found, (own_moved, moved, np.zeros(found[2].shape, jax.dtypes.float0))


def accuracy(view: View) -> jax.Array:
    """Share of samples whose largest logit is that of their label; NaN if a logit is."""
    margin, right, _ = view.once(margins)
    # Behind a barrier, because XLA would multiply by a rounded 1/n; k/n must be exactly k/n.
    count = jax.lax.optimization_barrier(jnp.asarray(right.shape[0], view.W.dtype))
    share = jnp.sum(right).astype(view.W.dtype) / count
    share = jnp.where(jnp.any(jnp.isnan(margin)), jnp.nan, share)
    return share if view.unless_lost is None else share * view.unless_lost


def reduced_margin(reduce: Callable[[jax.Array], jax.Array]) -> Callable[[View], jax.Array]:
    """An observable: the margins of all samples, reduced to one number."""

    def margin(view: View) -> jax.Array:
        values, _, common = view.once(margins)

        def at_infinity() -> jax.Array:
            # A tie of logits beyond the range is due to rounding, and its margin is unknown, unless they are all 0.
            inside = view.inside()
            nothing = (inside.seen().row_norms() == 0) | (inside.norm_W() == 0)
            return jnp.where((values == 0) & ~nothing, jnp.nan, values)

        known = jax.lax.cond(jnp.isinf(jnp.exp(common)), at_infinity, lambda: values)
        return _scaled(reduce(known), common)

    return margin


def accuracy_margin(view: View) -> jax.Array:
    """Least margin over the norm of the feature times the largest norm of a prototype."""
    values, _, common = view.once(margins)
    lengths = view.seen().row_norms() * greatest(row_lengths(view.prototypes()))
    sizes = lengths * jnp.exp(view.logit_scale() - common)
    # With only a bias, margins are infinite in units of the norms.
    without_size = jnp.where(values == 0, 0.0, jnp.sign(values) * jnp.inf)
    return -greatest(-jnp.where(sizes > 0, values / jnp.where(sizes > 0, sizes, 1.0), without_size))
