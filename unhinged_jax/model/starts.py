"""Random states of a model, drawn part by part or balanced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _check, _memory, _numbers, initial
from unhinged_jax.initial.group_starts import check_group, drawn_spectrum
from unhinged_jax.labels import Labels
from unhinged_jax.model.state import State
from unhinged_jax.precision import scope


class Sizes(NamedTuple):
    """n, C and p, and the depth."""

    samples: int
    classes: int
    dim: int
    depth: int = 2


_FRAMES: dict[str, Callable[[jax.Array, int, int], jax.Array]] = {
    "etf": lambda _key, classes, dim: initial.simplex_etf(classes, dim),
    "orthoplex": lambda _key, classes, dim: initial.orthoplex(classes, dim),
    "softmax_code": lambda key, classes, dim: initial.softmax_code(classes, dim, key),
}


class Wanted(NamedTuple):
    """What `LayerPeeled.init` is asked for, with its arguments."""

    features: str | ArrayLike
    prototypes: str | ArrayLike
    bias: ArrayLike | None
    scale: ArrayLike
    balanced: ArrayLike | None
    group: str | None
    spectrum: ArrayLike | None
    spectral: npt.ArrayLike | None = None


Pull = Callable[[jax.Array], jax.Array]
"""Minus the gradient of the loss with respect to logits, both (n, C)."""


def drawn(key: jax.Array, labels: Labels, sizes: Sizes, wanted: Wanted, precision: str | None, pull: Pull) -> State:
    """The state, see `LayerPeeled.init`."""
    _check.key("key", key)
    if wanted.spectral is not None:
        return _spectral(key, sizes, wanted, precision, pull)
    if sizes.depth > 2 and not (wanted.balanced is None and wanted.group is None):
        raise ValueError(
            "balanced starts are those of depth 2, and so are those that a group permutes; for a deeper model give "
            "`spectral`, or leave `balanced` and `group` out."
        )
    _check.non_negative("scale", wanted.scale)
    n, C, p, depth = sizes
    _memory.refuse(4 * (n + C + p * (depth - 2)) * p, f"a state of {n} x {p} features")
    key_H, key_W = jax.random.split(key)
    with scope(precision):
        dtype = jnp.result_type(float)
        kappa, first = wanted.balanced, "both"
        if wanted.group is not None:
            H, W = _permuted((key_H, key_W), labels, p, wanted)
            first = "none"
        elif wanted.spectrum is not None:
            raise ValueError("spectrum belongs to a group; give group='cyclic' or group='hadamard' as well.")
        elif kappa is not None:
            first = _first_part(sizes, wanted, kappa)
        if first in ("both", "features"):
            H = jnp.asarray(_part("features", wanted.features, key_H, sizes, wanted.scale), dtype)
        if first in ("both", "prototypes"):
            W = jnp.asarray(_part("prototypes", wanted.prototypes, key_W, sizes, wanted.scale), dtype)
        if kappa is not None and first == "prototypes":
            H = initial.balanced_partner(key_H, W, n, kappa)
        elif kappa is not None and first == "features":
            W = initial.balanced_partner(key_W, H, C, -float(np.asarray(kappa)))
        inner = None
        if depth > 2:
            key_inner = jax.random.fold_in(key, 2)
            inner = wanted.scale * initial.normal(key_inner, (depth - 2, p, p)).astype(dtype) / np.sqrt(p)
        return State(H, W, _bias(wanted, C, dtype), inner=inner)


def _spectral(key: jax.Array, sizes: Sizes, wanted: Wanted, precision: str | None, pull: Pull) -> State:
    """The balanced spectral start, whose singular vectors are those of `pull` at logits of 0, (n, C)."""
    given = {"features": wanted.features, "prototypes": wanted.prototypes, "scale": wanted.scale}
    for name, usual in {"features": "normal", "prototypes": "normal", "scale": 1.0}.items():
        if not (type(given[name]) is type(usual) and given[name] == usual):
            raise ValueError(
                f"with `spectral` all factors follow from its sizes, so {name} cannot be given; leave `{name}` out, or "
                "`spectral`."
            )
    if wanted.balanced is not None:
        raise ValueError("spectral starts are balanced already, with kappa = 0; leave `balanced` out, or `spectral`.")
    if wanted.group is not None or wanted.spectrum is not None:
        raise ValueError("give either `spectral` or a `group` and its `spectrum`: both decide all of H and W.")
    with scope(precision):
        dtype = jnp.result_type(float)
        M = pull(jnp.zeros((sizes.samples, sizes.classes), dtype))
        H, W, inner = initial.spectral_factors(key, M, sizes.dim, sizes.depth, wanted.spectral)  # type: ignore[arg-type]
        return State(H, W, _bias(wanted, sizes.classes, dtype), inner=inner if sizes.depth > 2 else None)


def _bias(wanted: Wanted, classes: int, dtype: DTypeLike) -> jax.Array:
    b = np.zeros(classes) if wanted.bias is None else _numbers.array("bias", wanted.bias)
    return jnp.asarray(b, dtype)


def _permuted(
    keys: tuple[jax.Array, jax.Array], labels: Labels, dim: int, wanted: Wanted
) -> tuple[jax.Array, jax.Array]:
    """H and W of a start that a group permutes."""
    for name in ("features", "prototypes", "balanced"):
        given = getattr(wanted, name)
        if given is not None and not (isinstance(given, str) and given == "normal"):
            raise ValueError(
                f"with a group, features and prototypes follow from the spectrum, so {name} cannot be given as "
                f"{_check.given(given)}; leave `{name}` out, or `group`."
            )
    check_group(wanted.group, labels.classes)
    assert wanted.group is not None
    counts = _check.known(labels.counts())
    if counts is not None and np.ptp(counts) != 0:
        raise ValueError(
            "a group permutes classes with the same number of samples each, but here some have more; use `balanced` "
            "labels, or leave `group` out."
        )
    spectrum = wanted.spectrum
    if spectrum is None:
        spectrum = drawn_spectrum(keys[0], labels.classes, wanted.group)
    _check.shape("spectrum", spectrum, (labels.classes,), "one entry per class")
    W = jnp.asarray(wanted.scale) * initial.group_prototypes(keys[1], spectrum, dim, wanted.group)
    return W[jnp.asarray(labels.by_class)] / (labels.training_samples / labels.classes) ** 0.5, W


def _part(name: str, kind: str | ArrayLike, key: jax.Array, sizes: Sizes, scale: ArrayLike) -> Any:
    """H or W as named or given."""
    shape = (sizes.samples if name == "features" else sizes.classes, sizes.dim)
    if not isinstance(kind, str):
        array = _numbers.array(name, kind)
        _check.shape(name, array, shape, "one row per sample" if name == "features" else "one row per class")
        return array
    _check.choice("initial state", kind, ("normal", "kaiming", *_FRAMES))
    if kind in _FRAMES:
        if name == "features":
            raise ValueError(f"{kind!r} is an initial state of the prototypes; give features as 'normal' or an array.")
        return _FRAMES[kind](key, *shape)
    return scale * initial.kaiming_uniform(key, shape) if kind == "kaiming" else initial.normal(key, shape, scale=scale)


def _first_part(sizes: Sizes, wanted: Wanted, kappa: ArrayLike) -> str:
    """The part with which a balanced start begins, "prototypes" or "features"; the other one is its partner."""
    n, C, p, _ = sizes
    _check.finite("balanced", kappa)
    _check.shape("balanced", kappa, (), "one number")
    value = float(np.asarray(kappa)) if _check.concrete(kappa) else 1.0
    first = value > 0 or (value == 0 and n >= min(C, p))
    if value != 0 and (n if first else C) < p:
        few, what, sign = (n, "samples", ">") if first else (C, "classes", "<")
        raise ValueError(
            f"a start with H^T H - W^T W = kappa I and kappa {sign} 0 needs at least as many {what} as dimensions, but "
            f"there are {few} {what} and {p} dimensions; lower dim, or give balanced=0.0."
        )
    partner, name, other = (
        (wanted.features, "features", "prototypes") if first else (wanted.prototypes, "prototypes", "features")
    )
    if not (isinstance(partner, str) and partner == "normal"):
        raise ValueError(
            f"with balanced={_check.given(kappa)} the {name} follow from the {other}, so they cannot be given as "
            f"{_check.given(partner)}; leave `{name}` out, or `balanced`."
        )
    return "prototypes" if first else "features"
