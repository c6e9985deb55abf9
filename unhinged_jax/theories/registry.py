"""All theories, in the order of the comparison page."""

from __future__ import annotations

from collections.abc import Iterable

from unhinged_jax.theories import (
    acceleration,
    ce_decay,
    ce_free,
    depth,
    diffusion_limit,
    dying_classes,
    frames,
    frozen,
    group_starts,
    held_out,
    label_noise,
    log_time,
    minibatch,
    minority,
    mse_decay,
    nc0,
    near_origin,
    noisy_labels,
    off_path,
    on_the_path,
    perils,
    rich_lazy,
    saddles,
    sharpness_aware,
    stochastic_growth,
    this_paper,
    within_class,
)
from unhinged_jax.theories.theory import Finding, Theory

_MODULES = (
    this_paper, minibatch, stochastic_growth, frozen, nc0, held_out, perils, label_noise, log_time, on_the_path,
    off_path, near_origin, rich_lazy, mse_decay, dying_classes, within_class, ce_free, group_starts, ce_decay, frames,
    saddles, sharpness_aware, minority, noisy_labels, diffusion_limit, depth, acceleration,
)  # fmt: skip
THEORIES: dict[str, Theory] = {module.THEORY.name: module.THEORY for module in _MODULES}


def chosen(names: Iterable[str]) -> list[Theory]:
    """Theories of the given names in the order of the page; all of them if none is named.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

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

    Args:
        name: A key of `THEORIES`; see `unhinged theories --help`.

    Returns:
        A `Finding`; `unhinged_jax.citation` prints its references.

    Raises:
        ValueError: for an unknown name.

    Source: beyond the paper; the paper's Table 1 names most of the results.

    Example:
        >>> run("saddles").passed  # doctest: +SKIP
        True
    """
    return chosen([name])[0].run()
