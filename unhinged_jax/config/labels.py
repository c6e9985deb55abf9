"""[labels]: a layout, then noise, smoothing, what is held out, and weights."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import jax
import numpy as np

from unhinged_jax import _check, labels
from unhinged_jax.config.files import Files
from unhinged_jax.config.reading import unknown
from unhinged_jax.config.sections import LabelsSection, NoiseTable
from unhinged_jax.config.tables import call, given_keys, pick
from unhinged_jax.labels import Labels
from unhinged_jax.labels.held_out import of_training
from unhinged_jax.precision import scope

_LAYOUTS: dict[str, tuple[Callable, dict[str, str]]] = {
    "balanced": (labels.balanced, {}),
    "counts": (labels.from_counts, {}),
    "long_tailed": (labels.long_tailed, {}),
    "step": (labels.step_imbalanced, {}),
    "labels": (labels.from_labels, {"labels": "index"}),
    "soft": (labels.soft, {}),
    "targets": (labels.targets, {"targets": "values"}),
}
_NOT_ARGUMENTS = (
    "layout", "noise", "smoothing", "held_out", "held_out_per_class", "class_weights", "weight_exponent",
    "sample_weights",
)  # fmt: skip


def build_labels(section: LabelsSection, files: Files) -> Labels:
    """Labels of a section: a layout, to which noise, smoothing, a choice of what is held out, and weights are applied;
    class weights count the clean labels to train on."""
    constructor, renamed = pick("layout", section.layout, _LAYOUTS)
    names = [field.name for field in dataclasses.fields(section) if field.name not in _NOT_ARGUMENTS]
    given = given_keys(section, *names)
    takes = [*inspect.signature(constructor).parameters, *renamed]
    for name in given:
        if name not in takes:
            raise ValueError(f"layout {section.layout!r}: {unknown('key', name, takes)}")
    for name in ("counts", "labels", "targets", "truth"):
        if name in given:
            given[name] = files.array(name, given[name])
    arguments = {renamed.get(name, name): value for name, value in given.items()}
    result = clean = call(constructor, arguments, f"layout {section.layout!r}")
    if section.noise is not None:
        result = _noisy(result, section.noise, files)
    if section.smoothing is not None:
        result = result.smoothed(section.smoothing)
    if section.held_out is not None and section.held_out_per_class is not None:
        raise ValueError("give held_out or held_out_per_class, not both.")
    if section.held_out is not None or section.held_out_per_class is not None:
        held = None if section.held_out is None else files.array("held_out", section.held_out)
        result = result.hold_out(held, per_class=section.held_out_per_class)
    given_weights = given_keys(section, "class_weights", "sample_weights")
    weights = {key: files.array(key, value) for key, value in given_weights.items()}
    if section.weight_exponent is not None:
        if "class_weights" in weights:
            raise ValueError("give class_weights or weight_exponent (class weights n_c^-exponent), not both.")
        truth = np.asarray(of_training(result, np.asarray(clean.truth)))
        counts = np.bincount(truth, minlength=clean.classes).astype(float)
        weights["class_weights"] = counts**-section.weight_exponent
    if weights:
        result = result.weighted(classes=weights.get("class_weights"), samples=weights.get("sample_weights"))
    return result


def _noisy(clean: Labels, noise: NoiseTable, files: Files) -> Labels:
    kinds = {
        "symmetric": clean.symmetric_noise,
        "asymmetric": clean.asymmetric_noise,
        "transition": clean.transition,
    }
    method = pick("noise kind", noise.kind, kinds)
    wanted, other = ("table", "rate") if noise.kind == "transition" else ("rate", "table")
    if getattr(noise, wanted) is None or getattr(noise, other) is not None:
        raise ValueError(f"noise of kind {noise.kind!r} takes {wanted!r}, and not {other!r}.")
    if (noise.seed is not None) == bool(noise.expected):
        raise ValueError("noise takes either a seed (one drawn set of labels) or expected = true.")
    amount = noise.rate if noise.table is None else files.array("table", noise.table)
    if noise.seed is None:
        return method(amount, None)
    # One precision for the draw, so that a seed names the same labels in every run.
    if isinstance(amount, jax.core.Tracer):
        amount = amount.astype("float32")
    with scope("float32"):
        return method(amount, jax.random.key(_check.seed("seed", noise.seed)))
