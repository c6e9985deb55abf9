"""The problem without the samples that are held out, which do not influence the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax.kernel import Kernel
from unhinged_jax.labels.held_out import training_rows
from unhinged_jax.model.layer_peeled import LayerPeeled
from unhinged_jax.model.state import State


def trained(model: LayerPeeled, state: State) -> tuple[LayerPeeled, State]:
    """The model and the state of the samples to train on: both as they are if no sample is held out.

    Their features, prototypes and biases move as in the whole problem.
    """
    labels = model.labels
    if labels.held_out is None:
        return model, state
    rows, kernel = training_rows(labels), model.kernel
    if kernel is not None:
        kernel = Kernel(_part(kernel, rows, model.dim), kernel.kind)
    alone = dataclasses.replace(model, labels=labels.training(), kernel=kernel)
    return alone, dataclasses.replace(state, H=_rows(state.H, rows))


def _part(kernel: Kernel, rows: Any, dim: int) -> Any:
    """The kernel between some samples."""
    if kernel.kind == "coordinates":
        xp: Any = np if _check.concrete(rows) else jnp
        rows = (dim * xp.asarray(rows)[:, None] + np.arange(dim)).reshape(-1)
    matrix = _rows(kernel.matrix, rows)
    return matrix if kernel.kind == "factor" else matrix[:, rows]


def _rows(array: Any, rows: Any) -> Any:
    return array[rows] if _check.concrete(rows) else jnp.asarray(array)[rows]
