"""Commands about real networks."""

from __future__ import annotations

from pathlib import Path

from unhinged_jax._terminal import spinner
from unhinged_jax.cli.application import app


@app.command
def train(
    config: Path,
    /,
    *,
    out: Path,
    force: bool = False,
    resume: bool = False,
    data_dir: Path | None = None,
    check: bool = False,
) -> int:
    """Train the networks that a TOML file describes, one for each seed.

    Writes history.csv, history.png, history.svg, run.json and checkpoints.
    Exit status: 0 if it completed, 3 if a seed was stopped before overflow, 1 for bad input.

    Parameters
    ----------
    config
        The file; every key has a default, so it may be empty.
    out
        Folder for the results.
    force
        Replace existing results; try a run that seems too large for the memory.
    resume
        Continue from the latest checkpoint.
    data_dir
        Folder with the standard files of the data set, instead of `dir` in [data].
    check
        Only read the file and the data, and say whether they match.
    """
    from unhinged_jax import _memory
    from unhinged_jax.training import command

    with _memory.any_size(force):
        return command.train(config, out, force=force, resume=resume, data_dir=data_dir, check=check)


@app.command
def experiment(
    name: str,
    /,
    *,
    out: Path | None = None,
    force: bool = False,
    data: str | None = None,
    data_dir: Path | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
) -> int:
    """Run an experiment on real networks: tables, figures and report.md. Finished cases are not run again.

    Parameters
    ----------
    name
        fig2, imbalance, ood, blowup, weights, noise or ntk; or a TOML file of that kind.
    out
        Folder for the results; default experiments/NAME.
    force
        Run finished cases again; try a run that seems too large for the memory.
    data
        Data set to use instead: digits, cifar10, cifar100, svhn, mnist, folder.
    data_dir
        Folder with its standard files.
    seeds
        Number of seeds instead of the one in the file.
    epochs
        Number of epochs instead of the one in the file.
    """
    from unhinged_jax import _memory
    from unhinged_jax.training import command

    with _memory.any_size(force):
        return command.experiment(
            name, out, force=force, data=data, data_dir=data_dir, seeds=seeds, epochs=epochs
        )  # fmt: skip


@app.command
def measure(
    file: Path,
    /,
    *,
    features: str | None = None,
    labels: str | None = None,
    prototypes: str | None = None,
    bias: str | None = None,
    ood: str | None = None,
    json: bool = False,
    csv: Path | None = None,
    force: bool = False,
) -> int:
    """Print every metric of neural collapse of a trained network beside its ideal value.

    The file is .npz, .pt or .pth with arrays features (n, p) and labels (n,), and if they are known prototypes (C, p),
    bias (C,) and ood (m, p), features of samples from outside the training distribution; or .csv with a column of
    labels and a column per feature. No file can run code.

    Parameters
    ----------
    file
        The file.
    features
        Name of the features in it; default features or H. Dots lead into nested dictionaries.
    labels
        Name of the labels, in a CSV file of their column; default labels, y, label or targets.
    prototypes
        Name of the weight of the last layer; default prototypes, W or weight.
    bias
        Name of its bias; default bias or b.
    ood
        Name of the features from outside the training distribution; default ood. Only NC5 needs them.
    json
        Print one JSON object instead of a table. There, a value that is not finite is null.
    csv
        Also write the table to this file.
    force
        Replace that file if it exists.
    """
    with spinner("Loading"):
        from unhinged_jax.measurement import command
    named = {"features": features, "labels": labels, "prototypes": prototypes, "bias": bias, "ood": ood}
    with spinner("Measuring"):
        return command.run(file, named, json=json, csv=csv, force=force)
