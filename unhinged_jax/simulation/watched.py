"""A run in pieces, between which it tells how far it is and looks whether it was interrupted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from unhinged_jax import _check, _interrupt, _loop, _memory
from unhinged_jax._terminal import ProgressBar
from unhinged_jax.simulation.choose import moving_numbers
from unhinged_jax.simulation.in_pieces import InPieces, is_over
from unhinged_jax.simulation.programs import Job, descend, integrate
from unhinged_jax.trajectory import RunResult, Trajectory, concat

_SECONDS = 0.5  # what a piece should take
_GROWTH = 4  # largest ratio of the sizes of two pieces
_FIRST = 1 << 18  # numbers that are computed in the first piece, about: a tenth of a second
_STAGES = 16  # velocities in a step of a solver, about
_GROUPS = 20  # pieces of a batch, about


def wanted(progress: bool, given: PyTree) -> bool:
    """Whether to run in pieces; raise if that is asked for inside a function that JAX transforms."""
    if not _check.flag("progress", progress):
        return False
    if not (_check.untransformed() and _check.concrete(given)):
        raise ValueError(
            "progress=True belongs to a run outside jax.jit, jax.vmap, jax.grad and similar functions, which never "
            "come back to Python in between; leave it out, or give it where a batch that jax.vmap returned goes on."
        )
    return True


class _Stage(NamedTuple):
    """How far a run is: in the unit in which it is cut, in the unit that is shown, and whether nothing is left."""

    made: int
    shown: float
    over: bool


def descend_in_pieces(job: Job, times: jax.Array, reads: _loop.Reads) -> Trajectory:
    """The descent, and where it stops exactly if it leaves the floating-point range."""

    def go(piece: _loop.Piece) -> Any:
        after: Any = descend(job, times, reads, piece.ends, piece)
        if piece.until is not None and not bool(after.going):
            after = descend(job, times, reads, to_the_last=True, piece=piece)
        return after

    def stage(now: _loop.Paused) -> _Stage:
        count, updates = int(now.blocks), int(now.carry.updates)
        return _Stage(count, updates, not bool(now.going) or count >= reads.blocks)

    return _in_pieces(go, stage, _at_first(job, reads.block), reads.updates, "updates")


def integrate_in_pieces(job: Job, times: np.ndarray) -> Trajectory:
    """The flow. How far it is shows in times that were reached, and a share of the next."""
    asked = np.asarray(times)
    marks, places = np.concatenate([[float(job.first)], times]), np.arange(len(times) + 1)

    def go(piece: _loop.Piece) -> Any:
        return integrate(job, asked, InPieces(*piece))

    def stage(now: Any) -> _Stage:
        end = float(np.asarray(times[-1], now.tprev.dtype))
        over = is_over(now, end, job.dynamics.max_steps)
        return _Stage(int(now.num_steps), float(np.interp(float(now.tprev), marks, places)), over)

    return _in_pieces(go, stage, _at_first(job, _STAGES), len(times), "times", job.dynamics.max_steps)


def _at_first(job: Job, velocities: int) -> int:
    """How many blocks, or steps of a solver, of so many velocities each make up the first piece."""
    return max(1, _FIRST // (velocities * moving_numbers(job.model, job.choice)))


def _in_pieces(
    go: Callable[[_loop.Piece], Any],
    stage: Callable[[Any], _Stage],
    size: int,
    total: int,
    unit: str,
    most: int = 2**31 - 1,
) -> Trajectory:
    """Run to the end or to an interruption, in pieces whose size follows from how long they take."""
    with ProgressBar(total, "Compiling", unit=unit) as bar:
        # Compiled here, so that an interruption ends a run at once; no step is made before one is noted.
        paused, before, count, over = go(_loop.Piece(until=np.asarray(0, np.int32))), None, 0, False
        go(_loop.Piece(paused))
        with _interrupt.noted() as interrupted:
            while not (over or interrupted()):
                begun = time.monotonic()
                until = min(count + size, most)
                paused = before = go(_loop.Piece(before, np.asarray(until, np.int32)))
                count, shown, over = stage(paused)
                _interrupt.finished()
                bar.update(completed=shown, description="Simulating")
                speed = _SECONDS / max(time.monotonic() - begun, 1e-9)
                size = max(1, round(size * min(max(speed, 1 / _GROWTH), _GROWTH)))
        run: Trajectory = go(_loop.Piece(paused))
    return run if over else _marked_interrupted(run)


def batch_in_pieces(
    batch: Trajectory, times: npt.ArrayLike, go_on: Callable[[Trajectory, np.ndarray], Trajectory]
) -> Trajectory:
    """A batch of runs that goes on, some times at a time."""
    asked = np.asarray(times)
    if asked.ndim != 1 or np.any(np.diff(asked) <= 0):
        return go_on(batch, asked)  # which says what is wrong
    runs, size = [batch], -(-len(asked) // _GROUPS)
    with ProgressBar(len(asked), "Compiling", unit="times") as bar, _interrupt.noted() as interrupted:
        for place in range(0, len(asked), size):
            after = go_on(runs[-1], asked[place : place + size])
            if np.any(_memory.read(after.code) != RunResult.COMPLETED):
                # Some members have ended, and the others cannot continue from there together with them.
                runs.append(go_on(runs[-1], asked[place:]))
                break
            runs.append(after)
            done = min(place + size, len(asked))
            bar.update(completed=done, description="Simulating")
            if done < len(asked) and interrupted():
                return _marked_interrupted(_padded(concat(runs[1:]), asked))
    return concat(runs[1:])


def _marked_interrupted(run: Trajectory) -> Trajectory:
    code = _memory.read(run.code)
    return dataclasses.replace(run, code=np.full_like(code, RunResult.INTERRUPTED))


def _padded(run: Trajectory, times: np.ndarray) -> Trajectory:
    """The run with rows for all times, those that it has not reached blank."""
    axis, missing = len(run.batch), len(times) - np.shape(run.times)[-1]

    def longer(leaf: npt.ArrayLike) -> np.ndarray:
        rows = _memory.read(leaf)
        blank = np.nan if np.issubdtype(rows.dtype, np.inexact) else 0
        return np.concatenate(
            [rows, np.full((*rows.shape[:axis], missing, *rows.shape[axis + 1 :]), blank, rows.dtype)], axis
        )

    observables, reached, states = jax.tree.map(longer, (run.observables, run.reached, run.states))
    every = np.broadcast_to(times, (*run.batch, len(times)))
    return dataclasses.replace(run, times=every, observables=observables, reached=reached, states=states)
