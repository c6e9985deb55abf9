"""Tables of label noise and smoothing, and labels drawn from one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.labels.fields import Fields, wide


def symmetric(classes: int, rate: ArrayLike) -> Any:
    """With probability `rate` a label becomes any of the others, (C, C)."""
    rate = wide("noise rate", rate)
    xp, off = (np if _check.concrete(rate) else jnp), rate / (classes - 1)
    if xp is np:
        return np.full((classes, classes), off) + np.eye(classes) * (1 - rate - off)
    return off + jnp.eye(classes) * (1 - rate - off)


def asymmetric(classes: int, rate: ArrayLike) -> Any:
    """With probability `rate` class c becomes c + 1 (mod C), (C, C)."""
    xp, rate = (np if _check.concrete(rate) else jnp), wide("noise rate", rate)
    eye = xp.eye(classes)
    return (1 - rate) * eye + rate * xp.roll(eye, 1, axis=1)


def smoothing(classes: int, amount: ArrayLike) -> Any:
    """Targets (1 - amount) one-hot + amount / C, (C, C)."""
    xp, amount = (np if _check.concrete(amount) else jnp), wide("amount of smoothing", amount)
    return (1 - amount) * xp.eye(classes) + amount / classes


def changes_of(labels: Fields, table: ArrayLike, key: jax.Array | None) -> dict[str, Any]:
    """The fields that a transition table changes; see `Labels.transition`."""
    if labels.kind != "hard":
        raise ValueError(
            f"label noise and smoothing need one-hot labels, but these are of kind {labels.kind!r}; combine "
            "the targets yourself and pass them to `soft` or `targets`."
        )
    table = _numbers.array("transition table", table)
    if key is not None:
        _check.key("key", key)
    _check.shape("transition table", table, (labels.classes, labels.classes), "classes x classes")
    _check.non_negative("transition table", table, "a noise rate lies between 0 and 1", array=True)
    if _check.concrete(table) and not np.allclose(np.sum(np.asarray(table, np.float64), axis=1), 1.0, atol=1e-6):
        raise ValueError("every row of a transition table must sum to 1; a noise rate lies between 0 and 1.")
    if key is None:
        return {"targets": table, "kind": "table"}
    index = jnp.asarray(labels.index)
    drawn = jax.random.categorical(key, jnp.log(jnp.asarray(table))[index])
    return {"index": drawn, "clean": labels.truth}
