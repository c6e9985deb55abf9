"""All theories, in the order of the comparison page."""

from __future__ import annotations

from collections.abc import Iterable

from unhinged_jax.theories import (
    frozen,
    label_noise,
    log_time,
    mse_decay,
    near_origin,
    off_path,
    on_the_path,
    perils,
    within_class,
)
from unhinged_jax.theories.theory import Finding, Theory

THEORIES: dict[str, Theory] = {theory.name: theory for theory in (frozen.THEORY, perils.THEORY, label_noise.THEORY, log_time.THEORY, on_the_path.THEORY, off_path.THEORY, near_origin.THEORY, mse_decay.THEORY, within_class.THEORY)}


def chosen(names: Iterable[str]) -> list[Theory]:
    """Theories of the given names in the order of the page; all of them if none is named.

    Raises:
        ValueError: for a name that is not there, with those that are.

    Example:
        >>> [theory.name for theory in chosen(["frozen"])]
        ['frozen']
    """
    names = list(names)
    for name in names:
        if name not in THEORIES:
            raise ValueError(f"there is no theory {name!r}; choose from {', '.join(THEORIES)}.")
    return [theory for name, theory in THEORIES.items() if name in names or not names]


def run(name: str) -> Finding:
    """Run one theory by name and return its checks and curves.

    Raises:
        ValueError: for a name that is not there.

    Source: beyond the paper; the paper's Table 1 names most of the results.

    Example:
        >>> run("frozen").passed
        True
    """
    return chosen([name])[0].run()
