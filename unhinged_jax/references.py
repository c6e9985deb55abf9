"""What to cite: the entries of the package's BibTeX file, and those that a run needs."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources
from typing import Protocol

import numpy as np

from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow
from unhinged_jax.model import LayerPeeled
from unhinged_jax.trajectory import STEPS, Trajectory

_PAPER, _DIFFRAX, _OPTAX = "zhou2023unhinged", "kidger2021on", "deepmind2020jax"
_SHARPNESS = "foret2021sharpness"
_DIFFUSION = ("li2017stochastic", "li2019stochastic")


@functools.cache
def entries() -> dict[str, str]:
    """Key -> BibTeX entry, as in `references.bib`.

    Example:
        >>> "zhou2023unhinged" in entries()
        True
    """
    text = resources.files("unhinged_jax").joinpath("references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{(\S+),\n.*?^\}\n", text, flags=re.MULTILINE | re.DOTALL)
    bodies = re.findall(r"^@\w+\{\S+,\n.*?^\}\n", text, flags=re.MULTILINE | re.DOTALL)
    return dict(zip(found, bodies, strict=True))


def bibtex(keys: Iterable[str]) -> str:
    """The entries of the given keys, each once, separated by blank lines.

    Raises:
        ValueError: for a key that is not in the file.

    Example:
        >>> bibtex(["kidger2021on"]).splitlines()[0]
        '@phdthesis{kidger2021on,'
    """
    known = entries()
    wanted = list(dict.fromkeys(keys))
    missing = [key for key in wanted if key not in known]
    if missing:
        raise ValueError(f"there is no reference {missing[0]!r}; known are {', '.join(known)}.")
    return "\n".join(known[key] for key in wanted)


def fields(key: str) -> dict[str, str]:
    """Fields of one entry without braces, `type` included.

    Example:
        >>> fields("zhou2023unhinged")["year"]
        '2023'
    """
    entry = bibtex([key])
    pairs = re.findall(r"^  (\w+) = \{(.*)\},$", entry, flags=re.MULTILINE)
    kind = re.match(r"@(\w+)", entry)
    assert kind is not None
    return {"type": kind[1], **{name: value.replace("{", "").replace("}", "") for name, value in pairs}}


def in_words(key: str) -> str:
    """One entry as a line of text: authors, title, venue, year.

    Example:
        >>> in_words("kidger2021on")
        'Patrick Kidger. On Neural Differential Equations. University of Oxford, 2021.'
    """
    parts = fields(key)
    names = [" ".join(reversed(name.split(", "))) for name in parts["author"].split(" and ")]
    names = ["et al." if name == "others" else name for name in names]
    venue = next(parts[name] for name in ("journal", "booktitle", "school", "url") if name in parts)
    issue = parts.get("volume", "") + (f"({parts['number']})" if "number" in parts else "")
    place = ":".join(part.replace("--", "–") for part in (issue, parts.get("pages", "")) if part)
    where = f"{venue} {place}" if place else venue
    return f"{', '.join(names)}. {parts['title']}. {where}, {parts['year']}."


class Cites(Protocol):
    """An object that names its own references, such as the finding of a theory."""

    @property
    def references(self) -> tuple[str, ...]:
        """Keys of the BibTeX file."""


def citation(used: Trajectory | Dynamics | LayerPeeled | Cites | None = None) -> str:
    """BibTeX entries for what a run used.

    The paper that solves the model is always among them; diffrax if a flow was integrated; optax if a descent was
    simulated; the papers on the equation if a diffusion was; that on sharpness-aware minimisation for a dynamics with a
    `sam_radius`; for the run of a theory, the papers of the theory and the libraries that it used; for what `measure`
    returns, the papers of its metrics.

    Args:
        used: A `Trajectory` of `simulate` or `exact`, or the dynamics given to `simulate`; or a `Finding` of
            `unhinged_jax.theories.run`, or a `Measurement`. A model alone names neither library. Default: what
            `simulate` may use.

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
    if not isinstance(used, (Trajectory, Flow, Descent, Diffusion, LayerPeeled)):
        raise TypeError(
            f"cannot tell what to cite for a {type(used).__name__}; give a Trajectory, a Flow, a Descent, a Diffusion, "
            "a LayerPeeled, the Finding of a theory, a Measurement or nothing."
        )
    if isinstance(used, LayerPeeled) or (isinstance(used, Trajectory) and used.kind != "simulated"):
        return bibtex([_PAPER])
    if isinstance(used, Diffusion) or (isinstance(used, Trajectory) and STEPS in str(used.form)):
        return bibtex((_PAPER, *_DIFFUSION))
    sharp = (_SHARPNESS,) if getattr(used, "sam_radius", None) is not None else ()
    return bibtex((_PAPER, _DIFFRAX if _flows(used) else _OPTAX, *sharp))


def _flows(used: Trajectory | Dynamics) -> bool:
    """Whether time is continuous: the times of a descent are whole numbers of updates."""
    if isinstance(used, Trajectory):
        return not np.issubdtype(used.times.dtype, np.integer)
    return isinstance(used, Flow)
