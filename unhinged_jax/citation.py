"""What to cite for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.model import LayerPeeled
from unhinged_jax.references import bibtex
from unhinged_jax.trajectory import Trajectory

if TYPE_CHECKING:
    from unhinged_jax.theories.theory import Finding

_PAPER, _DIFFRAX, _OPTAX = "zhou2023unhinged", "kidger2021on", "deepmind2020jax"


def citation(used: Trajectory | Flow | Descent | LayerPeeled | Finding | None = None) -> str:
    """BibTeX entries for what a run used.

    The paper that solves the model is always among them; diffrax where a flow was integrated; optax where a descent was
    stepped; for the run of a theory the papers it comes from and the libraries it used.

    Args:
        used: A `Trajectory` of `simulate` or `exact`, or the dynamics given to `simulate`; or a `Finding` of
            `unhinged_jax.theories.run`. A model alone names neither library. Default: what `simulate` may use.

    Returns:
        BibTeX entries, separated by blank lines.

    Raises:
        TypeError: for anything else.

    Source: beyond the paper.

    Example:
        >>> print(citation(Flow()).splitlines()[-5])
          title = {{O}n {N}eural {D}ifferential {E}quations},
    """
    if used is None:
        return bibtex((_PAPER, _DIFFRAX, _OPTAX))
    keys = getattr(used, "references", None)
    if isinstance(keys, tuple):
        return bibtex((_PAPER, *keys))
    if not isinstance(used, (Trajectory, Flow, Descent, LayerPeeled)):
        raise TypeError(
            f"cannot tell what to cite for a {type(used).__name__}; give a Trajectory, a Flow, a Descent, a "
            "LayerPeeled, the Finding of a theory or nothing."
        )
    if isinstance(used, LayerPeeled) or (isinstance(used, Trajectory) and used.kind == "exact"):
        return bibtex([_PAPER])
    return bibtex((_PAPER, _DIFFRAX if _flows(used) else _OPTAX))


def _flows(used: Trajectory | Flow | Descent) -> bool:
    """Whether time is continuous: the times of a descent are whole numbers of updates."""
    if isinstance(used, Trajectory):
        return not np.issubdtype(used.times.dtype, np.integer)
    return isinstance(used, Flow)
