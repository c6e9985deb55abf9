"""Commands that check the installation, the library and the paper."""

from __future__ import annotations

import importlib
from pathlib import Path

from unhinged_jax._terminal import spinner
from unhinged_jax.cli.application import app


@app.command
def doctor(*, json: bool = False) -> int:
    """Check versions, devices and precision, and that compiled programs compute correct numbers.

    Parameters
    ----------
    json
        Print one JSON object instead of tables.
    """
    with spinner("Checking"):
        from unhinged_jax.diagnosis import doctor as module
    return module.main(json=json)


@app.command
def verify(*, json: Path | None = None, force: bool = False) -> int:
    """Compare every simulated dynamics with its closed form. Exit status 1 if any bound is missed.

    Parameters
    ----------
    json
        Also write the certificate to this file.
    force
        Replace that file if it exists.
    """
    return int(importlib.import_module("unhinged_jax.certificate").main(json=json, **_asked(force)))


@app.command
def reproduce(
    *figures: str,
    out: Path = Path("figures"),
    at: Path | None = None,
    seed: int | None = None,
    force: bool = False,
) -> int:
    """Compute and draw the numerical figures of Zhou et al. (2023), simulated and exact.

    Parameters
    ----------
    figures
        Numbers of figures, such as 1 9 15; all of them if none is given.
    out
        Folder for the results.
    at
        CSV file with columns figure,t that lists additional indices to evaluate.
    seed
        Start from a random state with this seed instead of the paper's own start.
    force
        Replace existing results of these figures.
    """
    module = importlib.import_module("unhinged_jax.paper.reproduce")
    return int(module.main(figures=figures, out=out, at=at, seed=seed, **_asked(force)))


@app.command
def theories(*names: str, page: Path = Path("theories.md"), force: bool = False) -> int:
    """Run other known results, compare each with its prediction, and draw them.

    Exit status 1 if any check misses its bound.

    Parameters
    ----------
    names
        Theories to run; all of them if none is given.
    page
        Markdown page to write; figures go into the folder of the same name without its suffix.
    force
        Replace an existing page and its figures.
    """
    with spinner("Loading"):
        module = importlib.import_module("unhinged_jax.theories.command")
    return int(module.main(names=names, out=page, **_asked(force)))


def _asked(force: bool) -> dict[str, bool]:
    return {"force": True} if force else {}
