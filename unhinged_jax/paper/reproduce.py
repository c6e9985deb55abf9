"""Run the paper's figures, simulated and exact, write their data, draw them, and compare them with the published
ones."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax._files import make_folder, refuse_there, whole
from unhinged_jax._terminal import ProgressBar
from unhinged_jax.closed_form import exact
from unhinged_jax.model import State
from unhinged_jax.paper import published
from unhinged_jax.paper.draw import draw
from unhinged_jax.paper.figures import FIGURES, UPDATES, Curve, Figure, Panel, Reproduction, start
from unhinged_jax.simulation import simulate

_GRID = 440  # evenly and logarithmically spaced indices in every panel, besides the published ones
_COMMON = ("5", "6", "7", "8")  # figures whose panels are alike: equal numbers of indices share compiled programs


def figure_numbers(names: Iterable[str]) -> list[str]:
    """Checked figure numbers in the paper's order; all of them if none are named."""
    names = list(names)
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r} to reproduce; choose from {', '.join(FIGURES)}.")
    return [number for number in FIGURES if number in names or not names]


def read_indices(path: Path) -> dict[str, set[int]]:
    """Extra indices by panel from a CSV file with columns `figure` (such as 6b) and `t`."""
    wanted: dict[str, set[int]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if not {"figure", "t"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} must have the columns figure and t, but has {reader.fieldnames}.")
        for line, row in enumerate(reader, start=2):
            panel, text = row["figure"].strip(), row["t"].strip()
            number = re.fullmatch(r"(\d+)([a-z])", panel)
            known = number and number[1] in FIGURES and number[2] in {p.letter for p in FIGURES[number[1]]().panels}
            if not known:
                raise ValueError(
                    f"{path}, line {line}: there is no panel {panel!r}; write a figure and a letter, such as 6b."
                )
            try:
                index = int(text)
            except ValueError:
                raise ValueError(f"{path}, line {line}: t must be a whole number, but is {text!r}.") from None
            if not 0 <= index < UPDATES:
                raise ValueError(f"{path}, line {line}: t must lie in 0 ... {UPDATES - 1}, but is {index}.")
            wanted.setdefault(panel, set()).add(index)
    return wanted


def indices(figure: Figure, extra: dict[str, set[int]], after: int) -> np.ndarray:
    """Indices at which the panels of a figure taken before (0) or after (1) an update are evaluated."""
    chosen = set(np.unique(np.round(np.linspace(0, UPDATES - 1, _GRID)).astype(int)).tolist())
    chosen |= set(np.round(np.geomspace(1, UPDATES - 1, 60)).astype(int).tolist())
    for panel in figure.panels:
        if panel.after == after:
            name = figure.number + panel.letter
            chosen |= extra.get(name, set())
            for t, _ in published.vertices(name).values():
                chosen |= set(t.tolist())
    return np.array(sorted(chosen))


def padded(points: np.ndarray, count: int) -> np.ndarray:
    """The indices with further ones between them, `count` in all."""
    free = np.setdiff1d(np.arange(UPDATES), points)
    more = free[np.round(np.linspace(0, free.size - 1, count - points.size)).astype(int)] if count > points.size else []
    return np.union1d(points, more).astype(int)


def plan_indices(figures: Sequence[Figure], extra: dict[str, set[int]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(before, after) indices of every figure, equally many in figures that can share compiled programs."""
    plans = {figure.number: (indices(figure, extra, 0), indices(figure, extra, 1)) for figure in figures}
    alike = [plans[number] for number in _COMMON if number in plans]
    counts = [max((plan[side].size for plan in alike), default=0) for side in (0, 1)]
    for number in _COMMON:
        if number in plans:
            before, after = (padded(points, count) for points, count in zip(plans[number], counts, strict=True))
            plans[number] = (before, after)
    return plans


def run_curve(
    solve: Callable[..., Any],
    figure: Figure,
    curve: Curve,
    panels: Sequence[Panel],
    before: np.ndarray,
    after: np.ndarray,
    state: State,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One curve of every panel in which a run appears: letter -> (indices, values)."""
    result = {}
    for side, points in ((0, before), (1, after)):
        wanted = [panel for panel in panels if panel.after == side]
        needs = list(dict.fromkeys(name for panel in wanted for name in panel.needs))
        if not wanted:
            continue
        run = solve(curve.model, curve.descent, state, points + side, needs, target=figure.target, precision="float64")
        for panel in wanted:
            if curve.label not in panel.omit:
                values = panel.value(*(np.asarray(run[name]) for name in panel.needs))
                result[panel.letter] = (points, np.asarray(values, dtype=float))
    return result


def run_figures(
    figures: Sequence[Figure],
    extra: dict[str, set[int]],
    seed: int | None,
    advance: Callable[[str], None] = lambda label: None,
    workers: int | None = None,
) -> list[Reproduction]:
    """All curves of the figures, simulated and exact, in parallel on the available cores."""
    plans = plan_indices(figures, extra)
    outcomes = [Reproduction(figure, {}, {}) for figure in figures]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        jobs = {}
        for outcome in outcomes:
            figure = outcome.figure
            state, (before, after) = start(figure, seed), plans[figure.number]
            for panels, curve in figure.runs():
                for kind, solve in (("simulated", simulate), ("exact", exact)):
                    job = pool.submit(run_curve, solve, figure, curve, panels, before, after, state)
                    jobs[job] = (getattr(outcome, kind), curve.label, f"figure {figure.number}, {curve.label}, {kind}")
        for job in as_completed(jobs):
            curves, label, text = jobs[job]
            for letter, points in job.result().items():
                curves.setdefault(letter, {})[label] = points
            advance(text)
    return outcomes


def write_csv(path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]], order: Sequence[str]) -> None:
    """`curve,t,value`, with every digit."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["curve", "t", "value"])
        for label in order:
            if label in curves:
                writer.writerows([label, int(t), repr(float(value))] for t, value in zip(*curves[label], strict=True))


def summarise(outcome: Reproduction, from_paper: bool) -> dict[str, Any]:
    """Agreement of simulated, exact and published, panel by panel."""
    figure, panels = outcome.figure, {}
    for panel in figure.panels:
        name, rows = figure.number + panel.letter, dict[str, dict[str, Any]]()
        for label, (t, simulated) in outcome.simulated[panel.letter].items():
            closed = outcome.exact[panel.letter][label][1]
            # An accuracy near 0 is a few samples, or rounding if all logits are equal, so its difference is absolute.
            shares = np.all((closed >= 0) & (closed <= 1)) and "accuracy" in panel.title.lower()
            size = 1.0 if shares else np.maximum(np.abs(closed), np.finfo(float).tiny)
            rows[label] = {
                "points": int(t.size),
                "simulated_minus_exact": float(np.max(np.abs(simulated - closed) / size)),
                "last": float(closed[-1]),
            }
            if from_paper:
                for kind, values in (("simulated", simulated), ("exact", closed)):
                    compared = published.deviation(name, label, t, values)
                    if compared:
                        rows[label][f"published_{kind}"] = compared
        panels[name] = {"title": panel.title, "curves": rows}
    return {"title": figure.title, "notes": figure.notes, "panels": panels}


def main(
    figures: Sequence[str] = (),
    out: Path = Path("figures"),
    at: Path | None = None,
    seed: int | None = None,
    force: bool = False,
) -> int:
    """Reproduce figures into a folder; 0 if all agree with the published ones, 1 if any does not.

    Args:
        figures: Numbers such as "1" and "15"; all by default.
        out: Folder for figN.png, figN.svg, figN<panel>.csv, figN<panel>_exact.csv and summary.json.
        at: CSV file (columns figure, t) with further indices to evaluate.
        seed: Start from this seed instead of the paper's own state.
        force: Replace results of these figures; those of others are always kept.
    """
    began = time.monotonic()
    chosen = [FIGURES[number]() for number in figure_numbers(figures)]
    extra = read_indices(Path(at)) if at is not None else {}
    out = Path(out)
    before = _before(out, chosen, seed, force)
    make_folder(out)
    total = sum(2 * len(figure.runs()) for figure in chosen)
    with ProgressBar(total, "compiling", unit="runs") as bar:
        outcomes = run_figures(chosen, extra, seed, lambda text: bar.update(advance=1, description=text))
        bar.update(description="drawing")
        source = "the paper's" if seed is None else f"seed {seed}"
        summary: dict[str, Any] = {"seed": seed, "start": source, "figures": {}}
        for outcome in outcomes:
            number = outcome.figure.number
            order = [curve.label for _, curve in outcome.figure.runs()]
            for panel in outcome.figure.panels:
                write_csv(out / f"fig{number}{panel.letter}.csv", outcome.simulated[panel.letter], order)
                write_csv(out / f"fig{number}{panel.letter}_exact.csv", outcome.exact[panel.letter], order)
            draw(outcome, out, with_published=seed is None)
            summary["figures"][number] = summarise(outcome, seed is None)
        bar.update(description="done")
    summary["seconds"] = round(time.monotonic() - began, 1)
    kept = {**summary, "figures": {**before, **summary["figures"]}}
    with whole(out / "summary.json") as part:
        part.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report(summary, out)


def _before(out: Path, chosen: Sequence[Figure], seed: int | None, force: bool) -> dict[str, Any]:
    """What summary.json says about other figures; refuses to replace existing results."""
    page = out / "summary.json"
    try:
        told = json.loads(page.read_text(encoding="utf-8")) if page.exists() else {"seed": seed, "figures": {}}
        same, others = told["seed"] == seed, dict(told["figures"])
    except (ValueError, KeyError, TypeError):
        same, others = False, {}
    if not force:
        names = [f"fig{figure.number}{kind}" for figure in chosen for kind in (".png", ".svg")]
        names += [f"fig{f.number}{p.letter}{kind}.csv" for f in chosen for p in f.panels for kind in ("", "_exact")]
        refuse_there([*(out / name for name in names), *(() if same else (page,))])
    return others if same else {}


def report(summary: dict[str, Any], out: Path) -> int:
    """Print one line per panel; 1 if a published vertex is missed."""
    from rich.console import Console
    from rich.table import Table

    table = Table("panel", "what", "simulated − exact", "published vertices", "worst deviation / allowed")
    missed = False
    for figure in summary["figures"].values():
        for name, panel in figure["panels"].items():
            rows = panel["curves"].values()
            compared = [row[key] for row in rows for key in ("published_simulated", "published_exact") if key in row]
            worst = max((c["worst"] for c in compared), default=None)
            missed |= not all(c["worst"] <= 1 for c in compared)  # so that NaN counts as a miss
            table.add_row(
                name,
                panel["title"],
                f"{max(row['simulated_minus_exact'] for row in rows):.1e}",
                str(sum(c["points"] for c in compared) // 2) if compared else "–",
                "–" if worst is None else f"{worst:.2g}",
            )
    console = Console()
    console.print(table)
    count = len(summary["figures"])
    verdict = "a published vertex is missed" if missed else "no published vertex is missed"
    console.print(f"{count} figure{'s' * (count != 1)} in {out}: {verdict}; {summary['seconds']} s")
    return int(missed)
