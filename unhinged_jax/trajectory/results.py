"""Why a run ended, and words about runs."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable
from typing import Any

from unhinged_jax import _check


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
    RunResult.UNDERFLOW: "underflow: the state, or a part of it beside the rest, was about to become too small for the "
    "floating-point range to hold its digits; use float64, lower the decay, or stop earlier.",
    RunResult.INTERRUPTED: "interrupted: later times were not reached; give the run in place of a state to go on.",
}


STEPS = "Euler-Maruyama steps"
"""The end of the remark beside a simulated diffusion, which tells it from a flow, whose clock it has."""


class Aside:
    """What is kept beside a run and does not make it another kind of tree: runs that differ in it can be stacked."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class Remark(Aside):
    """Words about a run."""

    def __init__(self, words: object = "") -> None:
        self.words = str(words)

    def __repr__(self) -> str:
        return self.words


class Asked(Aside):
    """What a run was asked to observe, which a run that continues it observes again.

    Args:
        observe: The argument of `simulate`, or None where functions are not at hand: after a run was read from a file
            or pickled, and if they hold values that JAX traced.
        own: The names among them that stand for functions of one's own.
    """

    def __init__(self, observe: Any = None, own: Iterable[str] = ()) -> None:
        self.observe, self.own = observe, tuple(own)

    @classmethod
    def of(cls, observe: Any, plan: Iterable[tuple[str, Any]]) -> Asked:
        """That of a request, whose plan has the functions by name, and None for those that are built in."""
        functions = dict(plan)
        own = {name: function for name, function in functions.items() if function is not None}
        if not own:
            return cls(observe if isinstance(observe, tuple) else list(functions))
        cells = (cell for function in own.values() for cell in getattr(function, "__closure__", None) or ())
        held = [cell.cell_contents for cell in cells if cell != types.CellType()]
        return cls(functions if _check.concrete((list(own.values()), held)) else None, own)

    def __repr__(self) -> str:
        return f"Asked({self.observe!r}, own={self.own!r})"

    def __reduce__(self) -> tuple[type, tuple[None, tuple[str, ...]]]:
        return Asked, (None, self.own)  # functions need not be importable where this is read


def batch_message(what: str, shape: tuple[int, ...]) -> str:
    """The end of a sentence: that something is a batch, and how to take a member of it."""
    return f"this is a batch of {what} of shape {shape}; take a member with `{member(shape)}`"


def member(shape: tuple[int, ...]) -> str:
    """How to take a member of a batch of trajectories of some shape."""
    return f"jax.tree.map(lambda leaf: leaf[{', '.join('0' for _ in shape)}], trajectory)"
