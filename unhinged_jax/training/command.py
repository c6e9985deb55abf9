"""`unhinged train` and `unhinged experiment`."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax import _interrupt
from unhinged_jax._files import make_room, whole

if TYPE_CHECKING:
    from unhinged_jax.training.data import Dataset
    from unhinged_jax.training.loop import Evaluation, Trained

STOPPED = 3
_FILES = ("history.csv", "history.png", "history.svg", "run.json")
_COLUMNS = ("feature_norm", "loss", "train_accuracy", "test_accuracy", "norm_W", "prototype_ratio")


def train(config: Path, out: Path, *, force: bool, resume: bool, data_dir: Path | None, check: bool = False) -> int:
    """Train the networks of a TOML file; see `unhinged train --help`."""
    from unhinged_jax.training.checkpoints import Checkpoints, identity_of
    from unhinged_jax.training.loop import Trainer
    from unhinged_jax.training.prepare import dataset
    from unhinged_jax.training.progress import Progress
    from unhinged_jax.training.settings import Settings

    if force and resume:
        raise ValueError("--force starts again and --resume continues; give one of them.")
    settings = Settings.read(config)
    if data_dir is not None:
        settings = settings.changed(data={"dir": str(data_dir)})
    data = dataset(settings)
    trainer = Trainer(settings, data)
    if check:
        print(f"{config}: {data.name}, {data.train_y.size} training images, {data.classes} classes: ready to train.")
        return 0
    _make_room(out, force, resume)

    def left() -> str:
        if kept.latest is None:
            return f"no epoch is kept in {out}; begin again with --force."
        return f"{kept.latest} of {settings.train.epochs} epochs are kept in {out}; the same with --resume continues."

    with Checkpoints(out / "checkpoints", identity_of(settings, data)) as kept, _interrupt.left(left):
        for note in kept.notes:
            print(f"unhinged: note: {note}", file=sys.stderr)
        before = kept.restore(trainer, settings) if resume else None
        with Progress(settings.train.epochs) as progress:
            progress.start(config.stem, settings.train.epochs, 0 if before is None else before.epochs)
            run = trainer.run(told=progress.told, before=before, keep=kept.save)
    evaluation = trainer.evaluate(run.learners, data.test_x)
    _write(out, run, data, evaluation)
    return _told(run, data, evaluation)


def experiment(
    name: str,
    out: Path | None,
    *,
    force: bool,
    data: str | None,
    data_dir: Path | None,
    seeds: int | None,
    epochs: int | None,
) -> int:
    """Run an experiment; see `unhinged experiment --help`."""
    from unhinged_jax.training.experiments import Experiment, run_experiment

    changes: dict[str, dict[str, Any]] = {"data": {}, "train": {}, "kernel": {}}
    command = ["unhinged experiment", name]
    for section, key, option, value in (
        ("data", "name", "--data", data), ("data", "dir", "--data-dir", None if data_dir is None else str(data_dir)),
        ("train", "seeds", "--seeds", seeds), ("train", "epochs", "--epochs", epochs),
    ):  # fmt: skip
        if value is not None:
            changes[section][key] = value
            command += [option, str(value) if key != "dir" else "DIR"]
    if seeds is not None:
        changes["kernel"]["seeds"] = seeds
    plan = Experiment.read(name, **{key: keys for key, keys in changes.items() if keys})
    out = out or Path("experiments") / plan.name
    for path in run_experiment(plan, out, force=force, command=" ".join(command)):
        print(path)
    return 0


def _make_room(out: Path, force: bool, resume: bool) -> None:
    if resume and not (out / "checkpoints").is_dir():
        raise ValueError(f"{out} holds no checkpoint to resume from; run without --resume first.")
    found = make_room(out, (*_FILES, "checkpoints"), "a run", force=force, resume=resume, needs="checkpoints")
    if force:
        for name in found:
            place = out / name
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def _write(out: Path, run: Trained, data: Dataset, evaluation: Evaluation) -> None:
    from unhinged_jax.runs.files import versions
    from unhinged_jax.training.experiments.figures import save
    from unhinged_jax.training.metrics import expected_calibration_error, probabilities_of
    from unhinged_jax.training.pictures import history

    # In one order, wherever the run was interrupted, because a checkpoint sorts names, and so does JAX.
    names = [*(name for name in _COLUMNS if name in run.history), *sorted({*run.history} - {*_COLUMNS})]
    with whole(out / "history.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "seed", *names])
        for epoch in range(run.epochs):
            for place, seed in enumerate(run.settings.seeds):
                writer.writerow([epoch + 1, seed, *(f"{run.history[name][epoch, place]:.9g}" for name in names)])
    save(history(run), out, "history")
    probabilities = probabilities_of(evaluation.logits)
    record = {
        "settings": run.settings.tables(),
        "licence": data.licence,
        "images": {"training": int(data.train_y.size), "test": int(data.test_y.size), "classes": data.classes},
        "seeds": list(run.settings.seeds),
        "stopped_in_epoch": [int(e) + 1 if e >= 0 else None for e in run.stopped],
        "test_accuracy": evaluation.accuracy(data.test_y).tolist(),
        "ece": [expected_calibration_error(p, data.test_y) for p in probabilities],
        "seconds": round(float(np.sum(run.seconds)), 3),
        "versions": versions(),
    }
    with whole(out / "run.json") as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _told(run: Trained, data: Dataset, evaluation: Evaluation) -> int:
    accuracy = 100 * evaluation.accuracy(data.test_y)
    shown = ", ".join(f"{value:.2f}" for value in accuracy)
    print(f"{run.epochs} epochs in {np.sum(run.seconds):.1f} s; test accuracy {shown} %")
    print(f"data: {data.licence}")
    if np.any(run.stopped >= 0):
        ended = zip(run.settings.seeds, run.stopped, strict=True)
        which = ", ".join(f"seed {seed} in epoch {int(epoch) + 1}" for seed, epoch in ended if epoch >= 0)
        print(
            f"unhinged: stopped before overflow: {which}; features or parameters grew past their bounds. Anchor the "
            "prototypes (kind = 'pal'), penalise the features, or lower the rate.",
            file=sys.stderr,
        )
        return STOPPED
    return 0
