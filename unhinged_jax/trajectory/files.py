"""Reading a run back, with the memory of its optimiser in the structure that the dynamics gives it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check
from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow
from unhinged_jax.trajectory import archive
from unhinged_jax.trajectory.results import Asked, Remark
from unhinged_jax.trajectory.run import Trajectory


def load(path: str | Path, dynamics: Dynamics | None = None) -> Trajectory:
    """Read a run, or a batch of runs, that `Trajectory.save` wrote.

    Args:
        path: The file.
        dynamics: The dynamics of the run. Needed only after a descent with an optax optimiser, whose memory is a tree
            that only the optimiser knows; otherwise ignored.

    Returns:
        The `Trajectory` with NumPy arrays, equal bit for bit to the one that was saved, and so is a run that continues
        it.

    Raises:
        ValueError: if the file is damaged or holds something else, if the dynamics is needed and missing, or if its
            optimiser is another one.
        OSError: if the file cannot be read.

    Source: beyond the paper.

    Example:
        >>> import tempfile, jax, unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> descent, state = uj.Descent(0.1, momentum=0.9), model.init(jax.random.key(0))
        >>> run = uj.simulate(model, descent, state, [0, 5], "norm")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run.save(f"{folder}/run.npz")
        ...     again = uj.load(f"{folder}/run.npz")
        >>> again == run
        True
    """
    path = _check.path("path", path)
    if dynamics is not None:
        _check.kind("dynamics", dynamics, Flow, Descent, Diffusion)
    return restored(archive.unpack(path), path, dynamics)


def restored(fields: dict[str, Any], path: Path, dynamics: Dynamics | None) -> Trajectory:
    """The trajectory of fields that were read from a file; others beside these are ignored.

    Raises:
        ValueError: naming the file, as in `load`.
    """
    names = {field.name for field in dataclasses.fields(Trajectory)}
    try:
        run = Trajectory(**{name: value for name, value in fields.items() if name in names})
        run = dataclasses.replace(run, form=Remark(run.form), observed=Asked(own=fields.get("observed", ())))
        batch = run.batch
    except archive.UNREADABLE as error:
        raise ValueError(f"{path} holds no saved run: parts of it are missing, or are of another kind.") from error
    if not isinstance(run.memory, archive.Leaves):
        return run
    if dynamics is None:
        raise ValueError(
            f"{path} holds the memory of an optimizer, whose structure only the optimizer knows; give the dynamics of "
            "the run as well, as in load(path, dynamics)."
        )
    optimizer = dynamics.optimizer if isinstance(dynamics, Descent) else None
    moved = {name: np.zeros(np.shape(part)[len(batch) :]) for name, part in run.final.factors().items()}
    like = None if optimizer is None else jax.eval_shape(optimizer.init, moved)
    shapes = {name: np.shape(leaf)[len(batch) :] for name, leaf in run.memory.items()}
    if optimizer is None or shapes != {name: leaf.shape for name, leaf in archive.Leaves.of(like).items()}:
        raise ValueError(
            f"the memory in {path} does not fit the optimizer of this dynamics; give the dynamics with which it ran."
        )
    return dataclasses.replace(run, memory=jax.tree.unflatten(jax.tree.structure(like), list(run.memory.values())))
