"""`unhinged measure`: the table of one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unhinged_jax._files import refuse_there
from unhinged_jax.measurement.files import read
from unhinged_jax.measurement.run import measure


def run(
    path: Path, named: Mapping[str, str | None], *, json: bool = False, csv: Path | None = None, force: bool = False
) -> int:
    """Print the metrics of a file, and write them to a CSV file if requested; 0."""
    if csv is not None and not force:
        refuse_there([csv])
    arrays = read(path, named)
    try:
        found = measure(**arrays._asdict())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if csv is not None:
        found.to_csv(csv, force=force)
    print(found.to_json() if json else found)
    return 0
