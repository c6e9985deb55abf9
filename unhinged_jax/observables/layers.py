"""What a deep model looks like layer by layer: functions (model, state) -> one number per layer, to be observed.

F_1 = H and F_l = s(F_{l-1} W_l^T) are the features after each factor, l = 2, ..., L-1, and W_L = W. All of them take
models of depth 2 too, where F_1 = H alone enters the logits, and look at the samples to train on.
"""

from __future__ import annotations

import itertools
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax import _check, collapse
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.model.held_out import trained
from unhinged_jax.observables.view import layer_features, of_ordinary_size
from unhinged_jax.special import safe_norm

Parts: TypeAlias = list[tuple[jax.Array, jax.Array]]
"""Arrays over a scale of their own, and the logarithms of the scales."""


def _checked(model: LayerPeeled, state: State, classes: bool = False) -> tuple[LayerPeeled, State]:
    """The model and the state of the samples to train on; raise unless they fit, and have classes if these count."""
    _check.kind("model", model, LayerPeeled)
    model.check_state(state)
    if classes and not model.labels.classified:
        raise ValueError("this function needs samples that have classes; give `truth` to `targets`.")
    return trained(model, state)


def _factors(state: State) -> Parts:
    """H, W_2, ..., W_L."""
    named = state.factors()
    inner = [named[name] for name in named if name.startswith("inner_")]
    arrays = [jnp.asarray(part) for part in (named["H"], *inner, named["W"])]
    return [of_ordinary_size(array, jnp.asarray(state.log_scale, array.dtype)) for array in arrays]


def _features(model: LayerPeeled, state: State) -> Parts:
    """F_1, ..., F_{L-1}."""
    H = jnp.asarray(state.H)
    inner = jnp.zeros((0, model.dim, model.dim), H.dtype) if state.inner is None else jnp.asarray(state.inner)
    return layer_features(model, H, inner, jnp.asarray(state.log_scale, H.dtype))


def layer_norms(model: LayerPeeled, state: State) -> Float[jax.Array, "L"]:
    """Norms of the factors H, W_2, ..., W_L.

    Args:
        model, state: A model of any depth L, and a state of it.

    Returns:
        The Frobenius norms, (L,).

    Raises:
        ValueError: for a state of another shape.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(2, 3), 4, depth=3)
        >>> [round(float(x), 3) for x in layer_norms(model, model.init(jax.random.key(0), spectral=[3.0, 4.0]))]
        [5.0, 5.0, 5.0]
    """
    _, state = _checked(model, state)
    return jnp.stack([safe_norm(array) * jnp.exp(log) for array, log in _factors(state)])


def layer_scatter_ratios(model: LayerPeeled, state: State) -> Float[jax.Array, "L-1"]:
    """Within-class over between-class scatter of the features after each factor: NC1, layer by layer.

    Args:
        model, state: A model of any depth L with samples that have classes, and a state of it.

    Returns:
        The trace ratio `collapse.nc1_trace_ratio` of F_1, ..., F_{L-1}, (L-1,); 0 at collapse.

    Raises:
        ValueError: for a state of another shape, and for targets without classes.

    Source: Súkeník, Mondelli & Lampert 2023 (collapse of every layer); the ratio of traces as in Tirer et al. 2023.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(2, 3), 4, depth=3)
        >>> layer_scatter_ratios(model, model.init(jax.random.key(0), spectral=1.0)).shape
        (2,)
    """
    model, state = _checked(model, state, classes=True)
    labels = model.labels
    index = jnp.asarray(labels.index)
    found = [collapse.class_statistics(F, index, labels.classes) for F, _ in _features(model, state)]
    return jnp.stack([collapse.nc1_trace_ratio(stats) for stats in found])


def layer_alignments(model: LayerPeeled, state: State) -> Float[jax.Array, "L-1"]:
    """Share of each factor that looks at the class means of the features before it: NC3, layer by layer.

    Args:
        model, state: A model of any depth L with samples that have classes, and a state of it.

    Returns:
        ||W_l P_l||^2 / ||W_l||^2 for l = 2, ..., L, (L-1,), with P_l the projection on the span of the class means of
        F_{l-1}; 1 if no row of W_l leaves that span, and NaN for a factor of zeros.

    Raises:
        ValueError: for a state of another shape, and for targets without classes.

    Source: Súkeník, Mondelli & Lampert 2023 (in the minimum, rows of every factor are combinations of class means).

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(2, 3), 4, depth=3)
        >>> [round(float(x), 3) for x in layer_alignments(model, model.init(jax.random.key(0), spectral=1.0))]
        [1.0, 1.0]
    """
    model, state = _checked(model, state, classes=True)
    factors, labels = _factors(state)[1:], model.labels
    index, found = jnp.asarray(labels.index), []
    for (F, _), (W, _) in zip(_features(model, state), factors, strict=True):
        means = jax.ops.segment_sum(F, index, labels.classes)
        _, sizes, rows = jnp.linalg.svd(means, full_matrices=False)
        there = sizes > max(means.shape) * jnp.finfo(F.dtype).eps * sizes[0]
        whole = jnp.sum(W**2)
        share = jnp.sum(jnp.where(there, (W @ rows.T) ** 2, 0.0)) / jnp.where(whole > 0, whole, 1.0)
        found.append(jnp.where(whole > 0, share, jnp.nan))
    return jnp.stack(found)


def layer_unbalance(model: LayerPeeled, state: State) -> Float[jax.Array, "L-1"]:
    """How far each pair of neighbouring factors is from balanced: 0 at balanced starts, and there forever.

    Args:
        model, state: A model of any depth L, and a state of it.

    Returns:
        ||W_{l+1}^T W_{l+1} - W_l W_l^T|| / (||W_{l+1}||^2 + ||W_l||^2) for l = 1, ..., L-1, (L-1,), with H^T in place
        of W_1. A flow of linear factors at equal rates conserves the difference without decay.

    Raises:
        ValueError: for a state of another shape.

    Source: Arora, Cohen & Hazan 2018 (what linear factors conserve).

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(2, 3), 4, depth=3)
        >>> bool(jnp.all(layer_unbalance(model, model.init(jax.random.key(0), spectral=1.0)) < 1e-6))
        True
    """
    _, state = _checked(model, state)
    factors, found = _factors(state), []
    factors[0] = (factors[0][0].T, factors[0][1])
    for (before, log_before), (after, log_after) in itertools.pairwise(factors):
        common = jnp.maximum(log_before, log_after)
        before, after = before * jnp.exp(log_before - common), after * jnp.exp(log_after - common)
        size = jnp.sum(before**2) + jnp.sum(after**2)
        apart = safe_norm(after.T @ after - before @ before.T)
        found.append(apart / jnp.where(size > 0, size, 1.0))
    return jnp.stack(found)
