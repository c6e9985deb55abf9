"""Checkpoints of a training run, which orbax writes whole and which can be read to continue it.

A file with digests of everything that orbax writes is written last. It is compared before anything is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from unhinged_jax import _interrupt, _memory
from unhinged_jax._files import whole
from unhinged_jax.precision import scope
from unhinged_jax.runs.identity import refuse_other
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.extra import require
from unhinged_jax.training.learner import Learner
from unhinged_jax.training.loop import Trained, Trainer
from unhinged_jax.training.settings import Settings

_KEPT = 2
_DIGESTS, _ASIDE = "digests.json", "damaged-"
# What a resumed run may change: none of these affects a parameter. The number of epochs determines the schedule.
_FREE = {"train": ("checkpoint_every", "devices"), "data": ("dir",), "watch": ("every", "samples", "collapse")}


class Checkpoints:
    """The checkpoints in a folder; use as a context.

    Args:
        folder: The folder of the checkpoints; made if needed.
        identity: From `identity_of`: what two runs must have in common to be one.

    Attributes:
        notes: Messages about damaged checkpoints that were set aside because an earlier one is whole, and about
            unchecked ones.

    Raises:
        ValueError: if there are checkpoints, and none of them is whole; the message names what is damaged.

    Source: beyond the paper.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._orbax = require("orbax.checkpoint")
        self._folder, self._identity = folder, identity
        self.notes = _set_aside(
            folder
        )  # before orbax reads the folder, because damaged files make it fail with tracebacks
        options = self._orbax.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = self._orbax.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Epochs of the latest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, run: Trained) -> None:
        """Write a run; a checkpoint appears only when it is complete.

        Raises:
            OSError: if it cannot be written; earlier ones are kept.
        """
        args, place = self._orbax.args, self._folder / str(run.epochs)
        parts = {"state": args.StandardSave(_arrays(run)), "identity": args.JsonSave(self._identity)}
        try:
            with _interrupt.held():
                self._manager.save(run.epochs, args=args.Composite(**parts))
                with whole(place / _DIGESTS) as part:
                    files = _digests(place)
                    record = {"epochs": run.epochs, "files": files, "digest": _seal(run.epochs, files)}
                    part.write_text(json.dumps(record), encoding="utf-8")
        except (OSError, ValueError, RuntimeError) as error:
            full = "No space left on device"
            why = full if full in str(error) else str(error).partition("\n")[0][:200]
            raise OSError(
                f"{place} could not be written ({why}); earlier checkpoints are kept, and --resume continues."
            ) from error

    def restore(self, trainer: Trainer, settings: Settings) -> Trained:
        """The latest run.

        Raises:
            ValueError: if there is none, if it cannot be read, or if it belongs to other settings or data.
        """
        step, args = self.latest, self._orbax.args
        if step is None:
            raise ValueError(f"{self._folder} holds no checkpoint to resume from; run without --resume first.")
        try:
            stored = self._manager.restore(step, args=args.Composite(identity=args.JsonRestore()))["identity"]
            raw = self._manager.restore(step, args=args.Composite(state=args.StandardRestore()))["state"]
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            why = str(error).partition("\n")[0][:200]
            raise ValueError(f"{self._folder / str(step)} is damaged ({why}); remove it and resume again.") from error
        _refuse_other(stored, self._identity, self._folder)
        with scope(trainer.precision):  # outside this context float64 would be cut to float32
            return _run(raw, trainer.start(), settings)


def _set_aside(folder: Path) -> list[str]:
    """Rename damaged checkpoints that follow a whole one; returns messages about them."""
    notes: list[str] = []
    damaged: list[tuple[Path, str]] = []
    there = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    for place in sorted(there, key=lambda path: int(path.name), reverse=True):
        if not (place / _DIGESTS).is_file():
            notes.append(f"{place} has no {_DIGESTS}: an older version made it, or it was cut off; it is not checked.")
            break
        if not (broken := _broken(place)):
            break
        damaged.append((place, broken))
    else:
        if damaged:
            place, broken = damaged[0]
            raise ValueError(
                f"{place / broken}: missing or altered after it was written, and no other checkpoint is whole; restore "
                "it from a copy, or start again with --force."
            )
    for place, broken in damaged:
        aside, count = folder / f"{_ASIDE}{place.name}", 1
        while aside.exists():
            aside, count = folder / f"{_ASIDE}{place.name}-{count}", count + 1
        place.rename(aside)
        notes.append(
            f"{place / broken}: missing or altered after it was written; this checkpoint is now {aside.name}, and the "
            "one before it is used."
        )
    return notes


def _broken(place: Path) -> str:
    """A file of a checkpoint that differs from what was written; empty if there is none."""
    try:
        written = json.loads((place / _DIGESTS).read_bytes())
        epochs, files = written["epochs"], dict(written["files"])
        whole_record = written["digest"] == _seal(epochs, files) and str(epochs) == place.name
    except (OSError, ValueError, KeyError, TypeError):
        whole_record = False
    if not whole_record:
        return _DIGESTS
    found = _digests(place)
    return next((name for name in files if found.get(name) != files[name]), "")


def _seal(epochs: int, files: dict[str, str]) -> str:
    return hashlib.blake2b(json.dumps([epochs, files], sort_keys=True).encode()).hexdigest()


def _digests(place: Path) -> dict[str, str]:
    """BLAKE2 of every file in a folder, by its path there."""
    found = {}
    for path in sorted(path for path in place.rglob("*") if path.is_file() and path.name != _DIGESTS):
        with path.open("rb") as file:
            found[path.relative_to(place).as_posix()] = hashlib.file_digest(file, "blake2b").hexdigest()
    return found


def identity_of(settings: Settings, data: Dataset) -> dict[str, Any]:
    """What two runs must have in common for one to continue the other; JSON can hold it."""
    tables = settings.tables()
    for section, names in _FREE.items():
        tables[section] = {name: value for name, value in tables[section].items() if name not in names}
    digest = hashlib.sha256()
    for part in (data.train_x, data.train_y, data.test_x, data.test_y):
        digest.update(np.ascontiguousarray(part).tobytes())
    return {"settings": tables, "data": digest.hexdigest()}


def _refuse_other(stored: Mapping[str, Any], asked: dict[str, Any], folder: Path) -> None:
    if stored["data"] != asked["data"]:
        raise ValueError(f"{folder} holds a run on other images or labels; start again with --force.")
    refuse_other(stored["settings"], asked["settings"], folder)


def _arrays(run: Trained) -> dict[str, Any]:
    leaves = jax.tree.leaves(eqx.filter(run.learners, eqx.is_array))
    return {
        "learners": {str(i): _memory.read(leaf) for i, leaf in enumerate(leaves)},
        "history": dict(run.history),
        "stopped": np.asarray(run.stopped),
        "seconds": np.asarray(run.seconds),
    }


def _run(raw: dict[str, Any], start: Learner, settings: Settings) -> Trained:
    arrays, static = eqx.partition(start, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    stored = [np.asarray(raw["learners"][str(i)]) for i in range(len(raw["learners"]))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in stored]:
        raise ValueError("the checkpoint does not fit this network; start again with --force.")
    placed = [jax.device_put(new, old.sharding) for new, old in zip(stored, leaves, strict=True)]
    learners = eqx.combine(jax.tree.unflatten(structure, placed), static)
    history = {name: np.asarray(values) for name, values in raw["history"].items()}
    return Trained(settings, history, learners, np.asarray(raw["stopped"]), np.asarray(raw["seconds"]).tolist())
