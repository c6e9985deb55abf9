"""Running an experiment case by case, keeping each when it is finished, and writing the report at the end."""

from __future__ import annotations

import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unhinged_jax._files import make_folder, whole
from unhinged_jax.runs.files import versions
from unhinged_jax.training import prepare
from unhinged_jax.training.checkpoints import identity_of
from unhinged_jax.training.data import load, outside_images
from unhinged_jax.training.experiments import report
from unhinged_jax.training.experiments.kernel import run_kernel
from unhinged_jax.training.experiments.outcome import ExperimentOutcome
from unhinged_jax.training.experiments.plan import Case, Experiment
from unhinged_jax.training.loop import Trained, Trainer
from unhinged_jax.training.progress import Progress

_OUTSIDE_COUNT = 2000
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def run_experiment(experiment: Experiment, out: Path, *, force: bool = False, command: str = "") -> list[Path]:
    """Run the missing cases, and write tables, figures and `report.md`.

    Args:
        experiment: What to run.
        out: Folder for the results; finished cases in it are read instead of run.
        force: Run every case again.
        command: The command, named in the report.

    Returns:
        The files of the report.

    Raises:
        ValueError: for settings or data that are not allowed.
        OSError: if a file cannot be read or written.

    Source: Zhou et al. 2023, Section 4 and Appendix C.2-C.4.
    """
    begin = time.perf_counter()
    make_folder(out)
    if experiment.about.report == "kernel":
        return run_kernel(experiment, out, force=force, command=command)
    outcomes = []
    epochs = sum(case.settings.train.epochs for case in experiment.cases)
    with Progress(epochs) as progress:
        for case in experiment.cases:
            progress.start(f"{case.variant} {case.point}".strip(), case.settings.train.epochs)
            outcomes.append(_outcome(experiment, case, out / "cases", force, progress.told))
    facts = {
        "command": command,
        "seconds": round(time.perf_counter() - begin, 1),
        "processor_seconds_of_cases": round(sum(outcome.seconds for outcome in outcomes), 1),
        "devices": [device.device_kind for device in jax.local_devices()],
        "cores": os.cpu_count(),
        "versions": versions(),
    }
    return report.write(experiment, outcomes, out, facts)


def _outcome(
    experiment: Experiment, case: Case, folder: Path, force: bool, told: Callable[[int, Any], None]
) -> ExperimentOutcome:
    data, novel = prepare.novel_classes(case.settings)
    full = load(case.settings.data.name, case.settings.data.dir, case.settings.data.size)
    room = full.train_y.size if case.settings.data.imbalance else None
    sources = experiment.outside(case.settings.data.name)
    identity = json.dumps({**identity_of(case.settings, data), "outside": sources}, sort_keys=True)
    path = folder / f"{case.slug}.npz"
    found = None if force else _read(path, identity, case)
    if found is not None:
        told(case.settings.train.epochs, {})
        return found
    begin = time.process_time()
    trainer = Trainer(case.settings, data, room)
    outcome = _observed(case, trainer, novel, trainer.run(told=told), sources, begin)
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, identity, outcome)
    return outcome


def _observed(
    case: Case, trainer: Trainer, novel: np.ndarray | None, run: Trained, sources: list[str], begin: float
) -> ExperimentOutcome:
    data = trainer.data
    inside = trainer.evaluate(run.learners, data.test_x)
    outside = {}
    for name in sources:
        images = outside_images(name, data.image, _OUTSIDE_COUNT, case.settings.data.dir, case.settings.data.seed)
        seen = trainer.evaluate(run.learners, images)
        outside[name] = (seen.logits, seen.norms)
    if novel is not None and sources:
        seen = trainer.evaluate(run.learners, novel)
        outside["novel classes"] = (seen.logits, seen.norms)
    return ExperimentOutcome(
        case.variant, case.point, run.history, data.test_y, inside.logits, inside.norms, outside, run.stopped,
        data.counts(), time.process_time() - begin,
    )  # fmt: skip


def _write(path: Path, identity: str, outcome: ExperimentOutcome) -> None:
    arrays: dict[str, Any] = {
        "identity": identity, "labels": outcome.labels, "logits": outcome.logits.astype(np.float32),
        "norms": outcome.norms.astype(np.float32), "stopped": outcome.stopped, "counts": outcome.counts,
        "processor_seconds": outcome.seconds,
    }  # fmt: skip
    arrays |= {f"history.{name}": values for name, values in outcome.history.items()}
    for name, (logits, norms) in outcome.outside.items():
        arrays |= {f"outside.{name}.logits": logits.astype(np.float32), f"outside.{name}.norms": norms}
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _read(path: Path, identity: str, case: Case) -> ExperimentOutcome | None:
    """The outcome in a file, if it belongs to these settings and data."""
    try:
        with np.load(path, allow_pickle=False) as file:
            saved = dict(file)
        if str(saved["identity"]) != identity:
            return None
        outside = {
            name[8:-7]: (saved[name].astype(float), saved[f"{name[:-7]}.norms"])
            for name in saved
            if name.startswith("outside.") and name.endswith(".logits")
        }
        history = {name[8:]: values for name, values in saved.items() if name.startswith("history.")}
        return ExperimentOutcome(
            case.variant, case.point, history, saved["labels"], saved["logits"].astype(float),
            saved["norms"].astype(float), outside, saved["stopped"], saved["counts"],
            float(saved.get("processor_seconds", np.nan)),
        )  # fmt: skip
    except _UNREADABLE:
        return None
