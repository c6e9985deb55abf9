"""What the points of a sweep compute, and which of them share one program."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Output:
    """One array of a point.

    Attributes:
        dims, shape: Its own axes, beside those of the sweep: names and lengths.
        dtype: Name of its NumPy number type.
        meaning: What it is, in words.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    meaning: str

    @property
    def fill(self) -> Any:
        """What a point that has not been computed holds: NaN, or 0 where the number type has no NaN."""
        return np.dtype(self.dtype).type(np.nan if np.dtype(self.dtype).kind in "fc" else 0).item()


@dataclasses.dataclass(frozen=True)
class Group:
    """Points that share one program.

    Attributes:
        places: Index of its first point along the dimensions that separate groups.
        outputs: Every array of a point that has a meaning here.
        coordinates: Values along the arrays' own axes, as far as they are known.
        bytes: Memory of one point, roughly; a block that needs more than there is is halved.
        adaptive: Entries of H and W together if points may take different numbers of steps, as simulated flows do;
            otherwise, and if nothing is known about it, None.
        least: Memory that a point takes at the very least: what it begins with, what it ends with, and its results.
        inputs: SHA-256 of every file that it reads.
        arrays: Numbers that labels read from files, by their name in the plan, so that pictures need not open the
            files.
    """

    places: tuple[int, ...]
    outputs: dict[str, Output]
    coordinates: dict[str, np.ndarray]
    bytes: int
    least: int
    adaptive: int | None = None
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)
    arrays: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Grouping:
    """How a sweep is divided into programs.

    Attributes:
        traced: Keys that are data, for each dimension; all others are structure.
        separate: Whether a dimension holds structure, so that its points are never in one program call.
        groups: One for each different structure.
        which: Index along the separate dimensions -> group.
    """

    traced: tuple[tuple[str, ...], ...]
    separate: tuple[bool, ...]
    groups: tuple[Group, ...]
    which: dict[tuple[int, ...], int]

    @property
    def outputs(self) -> dict[str, Output]:
        """Every array of any group, in the requested order.

        Raises:
            ValueError: if two groups have one of different shape.
        """
        found: dict[str, Output] = {}
        for group in self.groups:
            for name, output in group.outputs.items():
                if (known := found.setdefault(name, output)) != output:
                    raise ValueError(
                        f"{name!r} has the shape {known.shape} ({known.dtype}) at some points and {output.shape} "
                        f"({output.dtype}) at others; all points of a sweep share one."
                    )
        return found

    @property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of every file that any group reads."""
        return {name: digest for group in self.groups for name, digest in group.inputs.items()}
