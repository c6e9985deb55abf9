"""Commands that check the installation, the library and the paper."""

from __future__ import annotations

import importlib
from pathlib import Path

from unhinged_jax._spinner import spinner
from unhinged_jax.cli.application import app


@app.command
def doctor(*, json: bool = False) -> int:
    """Check versions, devices and precision, and that compiled programs compute right numbers.

    Parameters
    ----------
    json
        Print one JSON object instead of tables.
    """
    with spinner("Checking"):
        from unhinged_jax import doctor as module
    return module.main(json=json)


@app.command
def verify(*, json: Path | None = None) -> int:
    """Compare every simulated dynamics with its closed form. Exit status 1 if any bound is missed.

    Parameters
    ----------
    json
        Also write the certificate to this file.
    """
    return int(importlib.import_module("unhinged_jax.verify").main(json=json))


@app.command
def reproduce(
    *figures: str,
    out: Path = Path("figures"),
    at: Path | None = None,
    seed: int | None = None,
) -> int:
    """Compute and draw the numerical figures of Zhou et al. (2023), simulated and exact.

    Parameters
    ----------
    figures
        Numbers of figures, such as 1 9 15; all of them if none is given.
    out
        Folder for the results.
    at
        CSV file with columns figure,t: more indices to evaluate.
    seed
        Start from a random state of this seed instead of the paper's own.
    """
    module = importlib.import_module("unhinged_jax.paper.reproduce")
    return int(module.main(figures=figures, out=out, at=at, seed=seed))


@app.command
def theories(*names: str, page: Path = Path("theories.md")) -> int:
    """Run other known results beside this one, check each against its prediction, draw them.

    Exit status 1 if any check misses its bound.

    Parameters
    ----------
    names
        Theories to run; all of them if none is given.
    page
        Markdown page to write; figures go into the folder of the same name without its suffix.
    """
    with spinner("Loading"):
        module = importlib.import_module("unhinged_jax.theories.command")
    return int(module.main(names=names, out=page))
