"""`unhinged design`: read a plan, run it with a progress bar, write the results."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax._files import make_folder, make_room, placed
from unhinged_jax._terminal import ProgressBar
from unhinged_jax.designs.optimise import DesignOutcome, design
from unhinged_jax.designs.picture import draw
from unhinged_jax.designs.plan import DesignPlan
from unhinged_jax.runs.files import versions

NOT_MET = 3
FILES = ("design.json", "path.csv", "path.png", "path.svg")


def run(plan: str, out: Path, *, steps: int | None, force: bool) -> int:
    """Run a design and write its files; exit status 3 if it ends further than 2 % from its reference."""
    import dataclasses

    read = DesignPlan.read(plan)
    if steps is not None:
        read = dataclasses.replace(read, design=dataclasses.replace(read.design, steps=steps))
    make_room(out, FILES, "a design", force=force)
    make_folder(out)
    outcome = _with_progress(read)
    with placed(out), tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as folder:
        _write(Path(folder), read, outcome)
        for name in FILES:
            os.replace(Path(folder) / name, out / name)
    print(outcome)
    return 0 if outcome.met in (None, True) else NOT_MET


def _with_progress(plan: DesignPlan) -> DesignOutcome:
    with ProgressBar(plan.design.steps, "Compiling", unit="steps", transient=True) as bar:

        def tell(step: int, objective: float) -> None:
            bar.update(completed=step, description=f"Objective {objective:.6g}")

        return design(plan, progress=tell)


def _write(folder: Path, plan: DesignPlan, outcome: DesignOutcome) -> None:
    (folder / "design.json").write_text(json.dumps(_record(plan, outcome), indent=1), encoding="utf-8")
    _table(outcome).to_csv(folder / "path.csv", index_label="step")
    draw(outcome, folder, plan.design.title or plan.config.path.stem)


def _record(plan: DesignPlan, outcome: DesignOutcome) -> dict[str, Any]:
    reference = outcome.reference
    told: dict[str, Any] = {
        "plan": plan.config.as_dict() | {"design": _plain(plan)},
        "values": {key: x.tolist() for key, x in outcome.values.items()},
        "objective": outcome.objective,
        "objective_at_start": float(outcome.objectives[0]),
        "measured": outcome.measured,
        "versions": versions(),
    }
    if reference is not None:
        values = None if reference.values is None else {k: np.asarray(x).tolist() for k, x in reference.values.items()}
        told["reference"] = {"source": reference.source, "objective": reference.objective, "values": values}
        told |= {"gap": outcome.gap, "distance": outcome.distance, "within_2_percent": outcome.met}
    return told


def _plain(plan: DesignPlan) -> dict[str, Any]:
    import dataclasses

    return {key: value for key, value in dataclasses.asdict(plan.design).items() if value is not None}


def _table(outcome: DesignOutcome) -> Any:
    """One row per outer step: the objective and every free number; arrays of more than 16 numbers by their norm."""
    import pandas

    columns: dict[str, np.ndarray] = {"objective": outcome.objectives}
    for key, path in outcome.path.items():
        flat = path.reshape(len(path), -1)
        if flat.shape[1] > 16:
            columns[f"norm of {key}"] = np.linalg.norm(flat, axis=1)
        elif flat.shape[1] == 1:
            columns[key] = flat[:, 0]
        else:
            columns |= {f"{key}.{i}": flat[:, i] for i in range(flat.shape[1])}
    return pandas.DataFrame(columns)
