"""Why a run ended, and words about runs."""

from __future__ import annotations

import enum


class RunResult(enum.IntEnum):
    """Why a run ended.

    Source: beyond the paper.

    Example:
        >>> RunResult(1).message
        'steady: the rate of change fell below the tolerances; later times were not needed.'
    """

    COMPLETED = 0
    STEADY = 1
    OVERFLOW = 2
    MAX_STEPS = 3
    SOLVER_FAILED = 4
    UNDERFLOW = 5
    INTERRUPTED = 6

    @property
    def message(self) -> str:
        """The code in words, and what to do about it."""
        return _MESSAGES[self]


_MESSAGES = {
    RunResult.COMPLETED: "completed: every requested time was reached.",
    RunResult.STEADY: "steady: the rate of change fell below the tolerances; later times were not needed.",
    RunResult.OVERFLOW: "overflow: the state was about to leave the floating-point range; "
    "lower the rate, add decay, or stop earlier.",
    RunResult.MAX_STEPS: "max_steps: the solver used all its steps; raise `max_steps`, loosen the tolerances, or give "
    "a stiff flow an implicit solver, such as diffrax.Kvaerno5().",
    RunResult.SOLVER_FAILED: "failed: the solver could not meet its tolerances; loosen them or use float64.",
    RunResult.UNDERFLOW: "underflow: the state was about to become too small for the floating-point range to hold its "
    "digits; use float64, lower the decay, or stop earlier.",
    RunResult.INTERRUPTED: "interrupted: later times were not reached; give the run in place of a state to go on.",
}


class Remark:
    """Words beside a run that do not make it another kind of tree: runs that took different ways can be stacked."""

    def __init__(self, words: object = "") -> None:
        self.words = str(words)

    def __repr__(self) -> str:
        return self.words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remark)

    def __hash__(self) -> int:
        return hash(Remark)


def batch_message(what: str, shape: tuple[int, ...]) -> str:
    """The end of a sentence: that something is a batch, and how to take a member of it."""
    return f"this is a batch of {what} of shape {shape}; take a member with `{member(shape)}`"


def member(shape: tuple[int, ...]) -> str:
    """How to take a member of a batch of trajectories of some shape."""
    return f"jax.tree.map(lambda leaf: leaf[{', '.join('0' for _ in shape)}], trajectory)"
