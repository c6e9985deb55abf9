"""Training: epochs, observations between them, and the resulting record."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.collapse import METRICS
from unhinged_jax.precision import scope
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.learner import Learner
from unhinged_jax.training.programs import apply_all, collapse_of_all, epoch_of_all
from unhinged_jax.training.settings import Settings
from unhinged_jax.training.setup import material_of, mesh_of, recipe_of, shape_of, start
from unhinged_jax.training.size import refuse_large

_CHUNK = 512  # images evaluated at a time


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outputs of a network for some images: logits (seeds, n, C) and norms of the features (seeds, n)."""

    logits: np.ndarray
    norms: np.ndarray

    def accuracy(self, labels: np.ndarray) -> np.ndarray:
        """Share of images classified correctly, shape (seeds,)."""
        return np.mean(np.argmax(self.logits, axis=-1) == labels, axis=-1)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training run, finished or stopped.

    Attributes:
        settings: The settings of the run.
        history: Name -> values, shape (epochs, seeds); NaN after a seed was stopped, and where an observable was not
            requested.
        learners: Networks and heads, with a leading axis for the seeds.
        stopped: Epoch in which each seed was stopped before its numbers left their range, or -1, shape (seeds,).
        seconds: Time of each epoch.
    """

    settings: Settings
    history: dict[str, np.ndarray]
    learners: Learner
    stopped: np.ndarray
    seconds: list[float]

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.seconds)

    def last(self, name: str) -> np.ndarray:
        """Last value of each seed, shape (seeds,).

        Raises:
            KeyError: for a quantity that was not observed.
        """
        return self.history[name][-1]


class Trainer:
    """Trains the networks of all seeds on one data set; `step` is one epoch.

    Args:
        settings: What to train.
        data: The data set, whose training part is used as it is, including imbalance and noise.
        room: Number of rows for the training images on the device, so that sets of different sizes share one program;
            default: the number of images.

    Raises:
        ValueError: for a class count that does not match, p < C - 1 with an ETF, or a batch that the devices cannot
            share evenly.
        MemoryError: for a run that the machine cannot hold.

    Source: Zhou et al. 2023, Appendix C.2.
    """

    def __init__(self, settings: Settings, data: Dataset, room: int | None = None) -> None:
        expected = settings.data.classes
        if expected is not None and expected != data.classes:
            raise ValueError(
                f"[data] classes is {expected}, but {data.name} has {data.classes}; correct or drop the key."
            )
        self.settings, self.data = settings, data
        self.precision = "float64" if settings.train.precision == "float64" else "float32"
        together = settings.train.together
        self._together = settings.network.kind == "mlp" if together is None else together
        with scope(self.precision):
            refuse_large(
                settings, data, room, self._together
            )  # with an error if it cannot be built, before files are made
            self._mesh = mesh_of(settings)
            self.recipe = recipe_of(settings, data, self._mesh)
            self.material = material_of(settings, data, room)
            self._clean = data.train_y if data.clean_y is None else data.clean_y
            self._rows = self._watched_rows()

    def _watched_rows(self) -> np.ndarray | None:
        """The rows in which neural collapse is measured; None if one of the classes has none among them."""
        size = self._clean.size
        rows = np.linspace(0, size - 1, min(self.settings.watch.samples, size)).astype(int)
        without = np.setdiff1d(np.arange(self.data.classes), self._clean[rows])
        if not without.size:
            return rows
        if self.settings.watch.collapse:
            warnings.warn(
                f"of the {rows.size} training images in which neural collapse is measured, none is of class "
                f"{', '.join(map(str, without))}, so its observables are NaN; raise [watch] samples, fill the classes, "
                "or set [watch] collapse = false.",
                stacklevel=4,
            )
        return None

    def start(self) -> Learner:
        """The learners of all seeds before the first update."""
        with scope(self.precision):
            seeds = jnp.asarray(self.settings.seeds)
            learners = start(seeds, shape_of(self.settings), self.data.image, self.data.classes)
            if self._mesh is not None:
                everywhere = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())
                arrays, static = eqx.partition(learners, eqx.is_array)
                learners = eqx.combine(jax.device_put(arrays, everywhere), static)
        return learners

    def step(self, learners: Learner, epoch: int) -> tuple[Learner, dict[str, np.ndarray]]:
        """One epoch of every seed, and the observations: name -> (seeds,)."""
        with scope(self.precision):
            learners, seen = epoch_of_all(self.recipe, learners, self.material, jnp.asarray(epoch), self._together)
            stopped = np.asarray(learners.halted)
            facts = {name: np.asarray(value, float) for name, value in seen.items()}
            facts["test_accuracy"] = self.evaluate(learners, self.data.test_x).accuracy(self.data.test_y)
            lengths = np.linalg.norm(np.asarray(learners.model.head.prototypes, float), axis=-1)
            facts["norm_W"] = np.linalg.norm(lengths, axis=-1)
            facts["prototype_ratio"] = lengths.max(axis=-1) / lengths.min(axis=-1)
            watch = self.settings.watch
            last = epoch == self.settings.train.epochs - 1
            if watch.collapse:
                seen_now = epoch % watch.every == watch.every - 1 or last
                facts |= self._collapse(learners, seen_now)
        made = facts["feature_norm"] > 0
        return learners, {name: np.where(made | ~stopped, value, np.nan) for name, value in facts.items()}

    def evaluate(self, learners: Learner, images: np.ndarray) -> Evaluation:
        """Logits and feature norms of images (n, c, h, w), without augmentation."""
        with scope(self.precision):
            _, logits, norms = self._apply(learners, images)
        return Evaluation(np.asarray(logits, np.float64), np.asarray(norms, np.float64))

    def run(
        self,
        *,
        told: Callable[[int, dict[str, np.ndarray]], None] | None = None,
        before: Trained | None = None,
        keep: Callable[[Trained], None] | None = None,
    ) -> Trained:
        """All epochs; see `train`."""
        opt, seeds = self.settings.train, len(self.settings.seeds)
        run = before or Trained(self.settings, {}, self.start(), np.full(seeds, -1), [])
        for epoch in range(run.epochs, opt.epochs):
            if np.all(run.stopped >= 0):
                break
            begin = time.perf_counter()
            learners, facts = self.step(run.learners, epoch)
            run = _longer(run, learners, facts, time.perf_counter() - begin)
            if told is not None:
                told(epoch, facts)
            last = run.epochs == opt.epochs or bool(np.all(run.stopped >= 0))
            if keep is not None and (last or run.epochs % opt.checkpoint_every == 0):
                keep(run)
        return run

    def _apply(self, learners: Learner, images: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
        chunk = min(_CHUNK, len(images))
        return apply_all(learners, jnp.asarray(images), self.material, self.recipe.compute, chunk, self._together)

    def _collapse(self, learners: Learner, now: bool) -> dict[str, np.ndarray]:
        if self._rows is None or not now:
            return {name: np.full(len(self.settings.seeds), np.nan) for name in METRICS}
        features, logits, _ = self._apply(learners, self.data.train_x[self._rows])
        W, labels = learners.model.head.prototypes, jnp.asarray(self._clean[self._rows])
        values = collapse_of_all(features, logits, W, labels, self.data.classes)
        return {name: np.asarray(value, float) for name, value in values.items()}


def _longer(run: Trained, learners: Learner, facts: dict[str, np.ndarray], seconds: float) -> Trained:
    """The run with one more epoch; NaN where a quantity was not observed, earlier or now."""
    unseen = np.full((run.epochs + 1, run.stopped.size), np.nan)
    history = {
        name: np.concatenate([run.history.get(name, unseen[:-1]), facts.get(name, unseen[-1])[None]])
        for name in [*run.history, *(name for name in facts if name not in run.history)]
    }
    halted = np.asarray(learners.halted)
    stopped = np.where((run.stopped < 0) & halted, run.epochs, run.stopped)
    return Trained(run.settings, history, learners, stopped, [*run.seconds, seconds])


def train(
    settings: Settings,
    data: Dataset,
    *,
    room: int | None = None,
    told: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    before: Trained | None = None,
    keep: Callable[[Trained], None] | None = None,
) -> Trained:
    """Train every seed of the settings.

    Args:
        settings, data, room: As `Trainer`.
        told: Called after each epoch with its number and the observations.
        before: A run of the same settings to continue.
        keep: Called with the run so far every `checkpoint_every` epochs, and at the end.

    Returns:
        A `Trained`. A seed whose numbers were about to leave their range is stopped at its last good update; when all
        seeds have stopped, the run ends.

    Raises:
        ValueError, MemoryError: as `Trainer`.

    Source: Zhou et al. 2023, Section 4 and Appendix C.2.

    Example:
        >>> from unhinged_jax.training.data import load
        >>> train(Settings.of({"train": {"epochs": 1}}), load("digits")).epochs  # doctest: +SKIP
        1
    """
    return Trainer(settings, data, room).run(told=told, before=before, keep=keep)
