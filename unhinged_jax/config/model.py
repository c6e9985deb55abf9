"""[model] and [state]: a case with its loss, and the start of its run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check, initial, losses, model
from unhinged_jax.config.files import Files
from unhinged_jax.config.reading import checked_value, unknown
from unhinged_jax.config.sections import ModelSection, StateSection
from unhinged_jax.config.tables import call, given_keys, name_and_arguments, own, pick
from unhinged_jax.labels import Labels
from unhinged_jax.model import LayerPeeled, State

_CASES = {
    function.__name__: function
    for function in (model.unconstrained, model.regularized, model.anchored, model.frozen, model.spherical,
                     model.ntk_invariant)
}  # fmt: skip


def build_model(section: ModelSection, layout: Labels, files: Files) -> LayerPeeled:
    """The named case with the keys that the section sets."""
    constructor = pick("case", section.case, _CASES)
    given = given_keys(section, *(f.name for f in dataclasses.fields(section) if f.name != "case"))
    if isinstance(section.decay, list):
        if section.case in ("anchored", "frozen"):
            raise ValueError(f"decay of case {section.case!r} must be one number: only one part moves.")
        given["decay"] = tuple(checked_value(float, entry, "decay") for entry in section.decay)
    if section.kernel is not None:
        given["kernel"] = files.array("kernel", section.kernel)
    if section.loss is not None:
        given["loss"] = _loss(section.loss, files)
        if isinstance(section.loss, dict) and "gamma" in section.loss and section.gamma is not None:
            raise ValueError("gamma is given twice, in [model] and in the loss; drop one of them.")
    return call(constructor, {"labels": layout, **given}, f"case {section.case!r}")


def _loss(spec: str | dict, files: Files) -> Any:
    name, arguments = name_and_arguments(spec, "name", "loss")
    if ":" in name:
        return own(name, arguments, files, "loss")
    return call(pick("loss", name, losses.NAMED), arguments, f"loss {name!r}")


_STARTS: dict[str, dict[str, Callable[[], np.ndarray] | None]] = {
    "features": {"normal": None, "kaiming": None, "paper": initial.paper_features},
    "prototypes": {
        "normal": None,
        "kaiming": None,
        "etf": None,
        "orthoplex": None,
        "softmax_code": None,
        "paper": initial.paper_prototypes,
        "paper_anchors": initial.paper_anchors,
        "paper_anchors_centred": partial(initial.paper_anchors, centred=True),
    },
}


def build_state(section: StateSection, problem: LayerPeeled, precision: str, files: Files) -> State:
    """The start of a run: parts are drawn by name, read from a file or given; the others have their defaults."""
    given = given_keys(section, "scale", "balanced", "group", "spectral")
    if section.scale is not None:
        _check.positive("scale", section.scale)
    for part, known in _STARTS.items():
        spec = getattr(section, part)
        if spec is None:
            continue
        if isinstance(spec, str) and spec in known:
            draw = known[spec]
            given[part] = draw() if draw is not None else spec
        elif isinstance(spec, str) and not spec.partition(":")[0].endswith((".npy", ".npz")):
            raise ValueError(f"{part}: {unknown('start', spec, known)} A path ends in .npy or .npz.")
        else:
            given[part] = files.array(part, spec)
    for name in ("bias", "spectrum"):
        if getattr(section, name) is not None:
            given[name] = files.array(name, getattr(section, name))
    return problem.init(jax.random.key(_check.seed("seed", section.seed)), precision=precision, **given)
