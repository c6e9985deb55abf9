"""What to cite for a run."""

from __future__ import annotations

import numpy as np

from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.model import LayerPeeled
from unhinged_jax.trajectory import Trajectory

_PAPER = """\
@article{zhou2023unhinged,
  title = {On the Dynamics Under the Unhinged Loss and Beyond},
  author = {Zhou, Xiong and Liu, Xianming and Wang, Hanzhang and Zhai, Deming and Jiang, Junjun and Ji, Xiangyang},
  journal = {Journal of Machine Learning Research},
  volume = {24},
  number = {376},
  pages = {1--62},
  year = {2023},
  url = {http://jmlr.org/papers/v24/23-0771.html},
}
"""

_DIFFRAX = """\
@phdthesis{kidger2021on,
  title = {{O}n {N}eural {D}ifferential {E}quations},
  author = {Kidger, Patrick},
  school = {University of Oxford},
  year = {2021},
}
"""

_OPTAX = """\
@software{deepmind2020jax,
  title = {The {D}eep{M}ind {JAX} {E}cosystem},
  author = {{DeepMind}},
  year = {2020},
  url = {http://github.com/google-deepmind},
}
"""


def citation(used: Trajectory | Flow | Descent | LayerPeeled | None = None) -> str:
    """BibTeX entries for what a run used.

    The paper that solves the model is always among them; diffrax where a flow was integrated; optax where a descent was
    stepped.

    Args:
        used: A `Trajectory` of `simulate` or `exact`, or the dynamics given to `simulate`. A model alone names neither
            library. Default: everything there is.

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
        return "\n".join((_PAPER, _DIFFRAX, _OPTAX))
    if not isinstance(used, (Trajectory, Flow, Descent, LayerPeeled)):
        raise TypeError(
            f"cannot tell what to cite for a {type(used).__name__}; give a Trajectory, a Flow, a Descent, a "
            "LayerPeeled or nothing."
        )
    if isinstance(used, LayerPeeled) or (isinstance(used, Trajectory) and used.kind == "exact"):
        return _PAPER
    return "\n".join((_PAPER, _DIFFRAX if _flows(used) else _OPTAX))


def _flows(used: Trajectory | Flow | Descent) -> bool:
    """Whether time is continuous: the times of a descent are whole numbers of updates."""
    if isinstance(used, Trajectory):
        return not np.issubdtype(used.times.dtype, np.integer)
    return isinstance(used, Flow)
