"""Checkpoints of a training run: written whole by orbax, read again to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from unhinged_jax import _interrupt
from unhinged_jax.precision import scope
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.extra import require
from unhinged_jax.training.loop import Trained, Trainer
from unhinged_jax.training.settings import Settings

_KEPT = 2
# What a resumed run may change: none of these moves a parameter. The number of epochs sets the schedule.
_FREE = {"train": ("checkpoint_every", "devices"), "data": ("dir",), "watch": ("every", "samples", "collapse")}


class Checkpoints:
    """The checkpoints in a folder; use as a context.

    Args:
        folder: Where they are; made if needed.
        identity: From `identity_of`: what two runs must share to be one.

    Source: beyond the paper.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._orbax = require("orbax.checkpoint")
        self._folder, self._identity = folder, identity
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
        """Write a run; a checkpoint is there when it is complete, and not before."""
        args = self._orbax.args
        parts = {"state": args.StandardSave(_arrays(run)), "identity": args.JsonSave(self._identity)}
        with _interrupt.held():
            self._manager.save(run.epochs, args=args.Composite(**parts))

    def restore(self, trainer: Trainer, settings: Settings) -> Trained:
        """The latest run.

        Raises:
            ValueError: if there is none, if it is damaged, or if it is a run of other settings or data.
        """
        step, args = self.latest, self._orbax.args
        if step is None:
            raise ValueError(f"{self._folder} holds no checkpoint to resume from; run without --resume first.")
        try:
            stored = self._manager.restore(step, args=args.Composite(identity=args.JsonRestore()))["identity"]
            _refuse_other(stored, self._identity, self._folder)
            start = trainer.start()
            raw = self._manager.restore(step, args=args.Composite(state=args.StandardRestore()))["state"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self._folder / str(step)} is damaged ({error}); remove it and resume again.") from error
        with scope(trainer.precision):  # outside, float64 would be cut to float32
            return _run(raw, start, settings)


def identity_of(settings: Settings, data: Dataset) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped; JSON can hold it."""
    import hashlib

    tables = settings.tables()
    for section, names in _FREE.items():
        tables[section] = {name: value for name, value in tables[section].items() if name not in names}
    digest = hashlib.sha256()
    for part in (data.train_x, data.train_y, data.test_x, data.test_y):
        digest.update(np.ascontiguousarray(part).tobytes())
    return {"settings": tables, "data": digest.hexdigest()}


def _refuse_other(stored: Any, asked: dict[str, Any], folder: Path) -> None:
    if stored["data"] != asked["data"]:
        raise ValueError(f"{folder} holds a run on other images or labels; start again with --force.")
    for section, values in asked["settings"].items():
        before = stored["settings"].get(section, {})
        for name in sorted({*before, *values}):
            if before.get(name) != values.get(name):
                raise ValueError(
                    f"{folder} holds a run with [{section}] {name} = {before.get(name)}, but now it is "
                    f"{values.get(name)}; --resume goes on with the same settings, start again with --force."
                )


def _arrays(run: Trained) -> dict[str, Any]:
    leaves = jax.tree.leaves(eqx.filter(run.learners, eqx.is_array))
    return {
        "learners": {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)},
        "history": dict(run.history),
        "stopped": np.asarray(run.stopped),
        "seconds": np.asarray(run.seconds),
    }


def _run(raw: dict[str, Any], start: Any, settings: Settings) -> Trained:
    arrays, static = eqx.partition(start, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    stored = [np.asarray(raw["learners"][str(i)]) for i in range(len(raw["learners"]))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in stored]:
        raise ValueError("the checkpoint does not fit this network; start again with --force.")
    placed = [jax.device_put(new, old.sharding) for new, old in zip(stored, leaves, strict=True)]
    learners = eqx.combine(jax.tree.unflatten(structure, placed), static)
    history = {name: np.asarray(values) for name, values in raw["history"].items()}
    return Trained(settings, history, learners, np.asarray(raw["stopped"]), np.asarray(raw["seconds"]).tolist())
