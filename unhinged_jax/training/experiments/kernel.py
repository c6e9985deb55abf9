"""The width sweep of the tangent-kernel prediction."""

from __future__ import annotations

import dataclasses
import json
import time
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax._files import whole
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import Labels, from_labels
from unhinged_jax.runs.files import versions
from unhinged_jax.training import ntk
from unhinged_jax.training.data import load
from unhinged_jax.training.experiments import kernel_report
from unhinged_jax.training.experiments.kernel_plan import FACTS, KernelSection, times_of
from unhinged_jax.training.experiments.plan import Experiment
from unhinged_jax.training.progress import Progress

_LENGTH = 8.0  # of every input, about that of a standard normal one of 64 entries


def run_kernel(experiment: Experiment, out: Path, *, force: bool, command: str) -> list[Path]:
    """Train networks of every width and seed, predict each from its kernel, and write the comparison."""
    asked = _config.read_section(KernelSection, experiment.kernel or {}, f"{experiment.name}: [kernel]")
    _check_section(asked)
    found = {}
    inputs, labels = problem(asked)
    (out / "cases").mkdir(parents=True, exist_ok=True)
    with Progress(len(asked.widths) * asked.seeds) as progress:
        for width in asked.widths:
            for seed in range(asked.seeds):
                progress.start(f"width {width}, seed {seed}", 1)
                found[width, seed] = _case(asked, width, seed, inputs, labels, out / "cases", force)
                progress.told(0, {})
    exact_error = linear_error(asked, inputs, labels)
    spent = sum(float(values["processor_seconds"]) for values in found.values())
    facts = {"command": command, "processor_seconds": round(spent, 1), "versions": versions()}
    return kernel_report.write(experiment, asked, found, exact_error, out, facts)


def _check_section(asked: KernelSection) -> None:
    if any(type(width) is not int or width < 1 for width in asked.widths) or len(asked.widths) < 2:
        raise ValueError(f"[kernel] widths must be two or more whole numbers, but is {asked.widths}.")
    for name in ("classes", "per_class", "features", "seeds", "updates", "fixed"):
        _check.whole(f"[kernel] {name}", getattr(asked, name), 1)
    if asked.fixed > asked.updates:
        raise ValueError(f"[kernel] fixed is {asked.fixed}, beyond the {asked.updates} updates; lower it.")


def problem(asked: KernelSection) -> tuple[np.ndarray, Labels]:
    """The first images of the first classes, centred, all of one length."""
    data = load(asked.data)
    rows = np.concatenate([np.flatnonzero(data.train_y == c)[: asked.per_class] for c in range(asked.classes)])
    x = data.train_x[rows].reshape(rows.size, -1) / 255.0
    x = x - x.mean(axis=0)
    x = x * (_LENGTH / np.linalg.norm(x, axis=1, keepdims=True))
    return x, from_labels(data.train_y[rows], asked.classes)


def compared(
    network: ntk.Network,
    parameters: PyTree,
    W: jax.Array,
    inputs: np.ndarray,
    labels: Labels,
    rate: float,
    times: np.ndarray,
) -> dict[str, np.ndarray]:
    """A network's own training and its prediction, at every time: relative errors, losses, accuracies.

    Errors are relative to how far the predicted features, or prototypes, have moved. NaN after the network's own
    training left the range of numbers.
    """
    dynamics = Descent(rate)
    whole = ntk.predict(network, parameters, W, inputs, labels, dynamics, times)
    means = ntk.predict(network, parameters, W, inputs, labels, dynamics, times, form="class_kernel", observe=())
    H, Wt, reached = ntk.descend(network, parameters, W, inputs, labels, rate, times)
    assert whole.states is not None and means.states is not None
    pooled = np.einsum("cn,tnp->tcp", ntk.class_averages(labels), H)
    logits = np.einsum("tnp,tcp->tnc", H, Wt)
    index, gamma = np.asarray(labels.index), 1 / (labels.classes - 1)
    own = np.take_along_axis(logits, index[None, :, None], axis=2)[..., 0]
    values = {
        "features": _relative(H, np.asarray(whole.states.H)),
        "class_kernel": _relative(pooled, np.asarray(means.states.H)),
        "prototypes": _relative(Wt, np.asarray(whole.states.W)),
        "loss": np.mean(gamma * logits.sum(axis=2) - (1 + gamma) * own, axis=1),
        "accuracy": np.mean(logits.argmax(axis=2) == index, axis=1),
        "moved": np.linalg.norm(H - H[0], axis=(1, 2)) / np.linalg.norm(H[0]),
    }
    values = {name: np.where(reached, value, np.nan) for name, value in values.items()}
    predicted = {f"{name}_predicted": np.asarray(whole[name], float) for name in ("loss", "accuracy")}
    return values | predicted


def _relative(seen: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    moved = np.linalg.norm(predicted - predicted[0], axis=(1, 2))
    return np.linalg.norm(seen - predicted, axis=(1, 2)) / np.where(moved > 0, moved, 1.0)


def _case(
    asked: KernelSection, width: int, seed: int, inputs: np.ndarray, labels: Labels, folder: Path, force: bool
) -> dict[str, np.ndarray]:
    path = folder / f"width{width}-seed{seed}.npz"
    settings = {k: v for k, v in dataclasses.asdict(asked).items() if k not in ("widths", "seeds")}
    identity = json.dumps(settings, sort_keys=True)
    if not force:
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["identity"]) == identity:
                    return {name: file[name] for name in (*FACTS, "processor_seconds")}
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
            pass  # missing or not whole, so it is computed again
    begin = time.process_time()
    with jax.enable_x64(True):
        key, other = jax.random.split(jax.random.key(seed))
        network, parameters = ntk.ntk_network(key, inputs.shape[1], width, asked.features)
        W = jax.random.normal(other, (asked.classes, asked.features))
        values = compared(network, parameters, W, inputs, labels, asked.rate, times_of(asked))
    values["processor_seconds"] = np.asarray(time.process_time() - begin)
    with whole(path) as part, part.open("wb") as file:
        np.savez(file, identity=identity, **values)  # type: ignore[arg-type]
    return values


def linear_error(asked: KernelSection, inputs: np.ndarray, labels: Labels) -> float:
    """Largest relative error of features and prototypes of a model that is linear in its parameters."""
    with jax.enable_x64(True):
        key, other = jax.random.split(jax.random.key(0))
        theta = jax.random.normal(key, (inputs.shape[1], asked.features)) / np.sqrt(inputs.shape[1])
        W = jax.random.normal(other, (asked.classes, asked.features))
        scale = np.sqrt(inputs.shape[1])
        times = np.array([0, asked.fixed])
        found = compared(_linear_model, theta, W, inputs / scale, labels, asked.rate, times)
    return float(max(found["features"][-1], found["prototypes"][-1]))


def _linear_model(theta: jax.Array, inputs: jax.Array) -> jax.Array:
    return inputs @ theta
