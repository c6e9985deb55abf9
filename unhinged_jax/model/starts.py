"""Random states of a model, drawn part by part or balanced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _memory, _numbers, initial
from unhinged_jax.initial.group_starts import check_group, drawn_spectrum
from unhinged_jax.labels import Labels
from unhinged_jax.model.state import State
from unhinged_jax.precision import scope


class Sizes(NamedTuple):
    """n, C and p."""

    samples: int
    classes: int
    dim: int


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


def drawn(key: jax.Array, labels: Labels, dim: int, wanted: Wanted, precision: str | None) -> State:
    """The state, see `LayerPeeled.init`."""
    _check.key("key", key)
    _check.non_negative("scale", wanted.scale)
    sizes = n, C, p = Sizes(labels.samples, labels.classes, dim)
    _memory.refuse(4 * (n + C) * p, f"a state of {n} x {p} features")
    key_H, key_W = jax.random.split(key)
    with scope(precision):
        dtype = jnp.result_type(float)
        kappa, first = wanted.balanced, "both"
        if wanted.group is not None:
            H, W = _permuted((key_H, key_W), labels, dim, wanted)
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
        b = np.zeros(C) if wanted.bias is None else _numbers.array("bias", wanted.bias)
        return State(H=H, W=W, b=jnp.asarray(b, dtype))


def _permuted(
    keys: tuple[jax.Array, jax.Array], labels: Labels, dim: int, wanted: Wanted
) -> tuple[jax.Array, jax.Array]:
    """H and W of a start that a group permutes."""
    asked = {"features": (wanted.features, "normal"), "prototypes": (wanted.prototypes, "normal")}
    asked["balanced"] = wanted.balanced, None
    for name, (given, default) in asked.items():
        if given is not default and not (isinstance(given, str) and given == default):
            raise ValueError(
                f"with a group, features and prototypes follow from the spectrum, so {name} cannot be given as "
                f"{_check.given(given)}; leave `{name}` out, or `group`."
            )
    check_group(wanted.group, labels.classes)
    assert wanted.group is not None
    counts = labels.classified and _check.known(labels.counts())
    if counts is not None and np.ptp(counts) != 0:
        raise ValueError(
            "a group permutes classes with the same number of samples each, but here some have more; use `balanced` "
            "labels, or leave `group` out."
        )
    spectrum = wanted.spectrum
    if spectrum is None:
        spectrum = drawn_spectrum(keys[0], labels.classes, wanted.group)
    _check.shape("spectrum", spectrum, (labels.classes,), "one entry per class")
    W = wanted.scale * initial.group_prototypes(keys[1], spectrum, dim, wanted.group)
    return W[jnp.asarray(labels.by_class)] / (labels.samples / labels.classes) ** 0.5, W


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
    n, C, p = sizes
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
