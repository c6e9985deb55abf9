"""Which settings of a model are allowed together."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.kernel import Kernel, check_shape
from unhinged_jax.labels import Labels
from unhinged_jax.losses import AdjustedMargin, Loss
from unhinged_jax.model.settings import check_depth

LARGEST_DIM = 2**31 - 1


def check_parts_of_logits(depth: int, H: ArrayLike, W: ArrayLike, b: ArrayLike, inner: ArrayLike | None) -> None:
    """Raise a ValueError unless these are the parts of one state of a model of this depth."""
    if (depth > 2) != (inner is not None):
        needs = "`inner`, as in model.logits(H, W, b, state.inner)" if depth > 2 else "no `inner`"
        raise ValueError(f"the logits of a model of depth {depth} need {needs}.")
    given = {"H": (H, 2), "W": (W, 2), "b": (b, 1), **({} if inner is None else {"inner": (inner, 3)})}
    for name, (part, axes) in given.items():
        if not isinstance(part, jax.Array):
            _check.real(name, part, array=True)
        if len(_check.shape_of(name, part)) != axes:
            raise ValueError(
                f"logits are those of one state, H (n, p), W (C, p) and b (C,), but {name} has shape "
                f"{_check.shape_of(name, part)}; map over a batch of states with jax.vmap."
            )
    (_, dim), (classes, width), (biases,) = np.shape(H), np.shape(W), np.shape(b)
    if dim != width or biases != classes:
        raise ValueError(
            f"H (n, p), W (C, p) and b (C,) of one state must fit together, but have the shapes {np.shape(H)}, "
            f"{np.shape(W)} and {np.shape(b)}."
        )


def check_settings(model: SimpleNamespace, bias_moves: bool) -> None:
    """Raise a ValueError that names a setting that is not allowed, of a model with these fields."""
    _check.kind("labels", model.labels, Labels)
    _check.kind("loss", model.loss, Loss)
    _check.whole("dim", model.dim, 1, most=LARGEST_DIM)
    for name in ("features_move", "prototypes_move", "bias", "spherical", "unit_prototypes"):
        _check.flag(name, getattr(model, name))
    model.loss.check_targets(model.labels)
    check_depth(model.depth, model.activation, {
        "a kernel": model.kernel is not None, "spherical features": model.spherical,
        "parts that stay": not (model.features_move and model.prototypes_move),
    })  # fmt: skip
    for name, needed in {"decay_H": True, "decay_W": True, "decay_b": False, "exponent": False}.items():
        value = _numbers.number(name, getattr(model, name))
        if needed or value is not None:
            _check.non_negative("rescale" if name == "exponent" else name, value)
    if model.decay_b is not None and not bias_moves:
        raise ValueError("decay_b belongs to a bias, but this model has none that moves; drop it, or give bias=True.")
    for name, check in (
        ("gamma", _check.non_negative), ("focusing", _check.non_negative), ("temperature", _check.positive),
    ):  # fmt: skip
        if (value := getattr(model.loss, name, None)) is not None:
            check(name, value)
    _check.choice("rescale", model.rescale, (0, 1, 2))
    if (model.rescale or model.exponent is not None) and not model.spherical:
        raise ValueError("rescaling by the feature norm requires spherical features; use `spherical(..., rescale=q)`.")
    if model.kernel is not None:
        _check.kind("kernel", model.kernel, Kernel)
        check_shape(model.kernel, model.labels.samples, model.dim)
    if model.kernel is not None and model.spherical:
        raise ValueError("a feature kernel and spherical features cannot be combined; drop one of them.")
    if isinstance(model.loss, AdjustedMargin) and (model.unit_prototypes or not model.spherical):
        raise ValueError(
            "the adjusted margin loss is defined on unit features and prototypes of any length; use it with "
            "`spherical(...)`, without `unit_prototypes`."
        )
    if model.unit_prototypes and not (model.spherical and model.prototypes_move):
        raise ValueError("unit prototypes need spherical features and move; give `free_prototypes=True` as well.")
    if not (model.features_move or model.prototypes_move):
        raise ValueError("neither features nor prototypes move; let at least one of them move.")
