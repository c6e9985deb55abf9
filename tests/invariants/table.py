"""The table itself: every operation on its problems, every change; what is checked in a cell, and why some are empty.

    python tests/invariants/table.py [--all]

prints it: `·` is checked, a letter stands for a reason that is listed below. With --all every cell is checked here and
now, those too that compile a program of their own and are left out of the tests.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))

from invariants.changes import CHANGES, Becomes, Change, Unsaid
from invariants.operations import OPERATIONS
from invariants.problems import problems

ROWS = [(operation, problem) for operation, line in OPERATIONS.items() for problem in line.on]


@functools.cache
def unchanged(operation: str, problem: str) -> dict[str, np.ndarray]:
    found = OPERATIONS[operation].values(problems()[problem])
    return {name: np.asarray(value, float) for name, value in found.items()}


def hole(operation: str, problem: str, change: str, everything: bool = False) -> str | None:
    """Why a cell is empty, or None."""
    line, row = CHANGES[change], OPERATIONS[operation]
    reason = line.no(operation, problems()[problem])
    if not everything and line.costs > (row.affords if problem == row.on[0] else 0):
        reason = reason or "compiles a program more: made in another line, and here with --all"
    if reason is None and _writes_nothing(change, problem):
        return "the problem has no such number"
    return reason


@functools.cache
def _writes_nothing(change: str, problem: str) -> bool:
    line, before = CHANGES[change], problems()[problem]
    if line.values is not None:
        return False
    after = line.make(before)
    return all(getattr(after, name) is getattr(before, name) for name in before.__dataclass_fields__)


def differences(operation: str, problem: str, change: str) -> list[str]:
    """What a cell finds wrong: every number that is not where it must be."""
    line, row, before = CHANGES[change], OPERATIONS[operation], problems()[problem]
    want = unchanged(operation, problem)
    try:
        got = (line.values or (lambda row, problem: row.values(problem)))(row, line.make(before))
    except (TypeError, ValueError) as error:
        if line.may_refuse:
            return []
        return [f"refused: {type(error).__name__}: {error}"]
    if line.values is None and (missing := {*want} - {*got} - _left_out(line, operation, before, want)):
        return [f"not there: {', '.join(sorted(missing))}"]
    found = []
    for name in want:
        move = line.move_of(name, operation, before)
        if isinstance(move, Unsaid) or name not in got:
            continue
        expected = want[move.name] if isinstance(move, Becomes) else move(want[name]) if move else want[name]
        value = np.asarray(got[name], float)
        if row.in_time and line.later:
            value, expected = value[1:], expected[1:]
        found += _apart(name, value, expected, max(row.tolerance, line.tolerance))
    return found


def _left_out(line: Change, operation: str, before: Any, want: dict[str, Any]) -> set[str]:
    return {name for name in want if isinstance(line.move_of(name, operation, before), Unsaid)}


def _apart(name: str, value: np.ndarray, expected: np.ndarray, tolerance: float) -> list[str]:
    """Relative to the largest of a series; logarithms, and numbers that have no size of their own, to at least 1."""
    if value.shape != expected.shape:
        return [f"{name}: shape {value.shape} for {expected.shape}"]
    same = (value == expected) | (np.isnan(value) & np.isnan(expected))
    finite = np.isfinite(expected) & ~same
    size = np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0)
    if not name.startswith(("loss", "objective", "margin", "norm", "gap")) or " by " in name:
        size = max(size, 1.0)
    with np.errstate(invalid="ignore"):
        wrong = ~same & ~(finite & (np.abs(value - expected) <= tolerance * size))
    if not np.any(wrong):
        return []
    return [f"{name}: {np.array2string(value, precision=12)} for {np.array2string(expected, precision=12)}"]


def printed() -> str:
    """The table as text."""
    letters: dict[str, str] = {}
    columns = list(CHANGES)
    lines = [f"{i + 1:3d} {name}" for i, name in enumerate(columns)]
    lines += ["", " " * 40 + "".join(f"{i + 1:3d}" for i in range(len(columns)))]
    for operation, problem in ROWS:
        marks = ""
        for change in columns:
            reason = hole(operation, problem, change)
            mark = "·" if reason is None else letters.setdefault(reason, _letter(len(letters)))
            marks += f"{mark:>3}"
        lines.append(f"{operation + ': ' + problem:40}{marks}")
    lines += ["", *(f"  {letter:2} {reason}" for reason, letter in letters.items())]
    return "\n".join(lines)


def _letter(number: int) -> str:
    first, second = divmod(number, 26)
    return (chr(96 + first) if first else "") + chr(97 + second)


def main() -> int:
    """Print the table; with --all check every cell, those that cost a compilation too."""
    if "--all" not in sys.argv:
        print(printed())
        return 0
    wrong = 0
    for operation, problem in ROWS:
        for change in CHANGES:
            if hole(operation, problem, change, everything=True) is None:
                found = differences(operation, problem, change)
                wrong += bool(found)
                for line in found:
                    print(f"{operation} / {problem} / {change}: {line}", flush=True)
    print(f"{wrong} cells are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
