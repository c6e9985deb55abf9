"""The metrics of a network beside the values of exact collapse: a table to print, save and cite."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from unhinged_jax import _check, _html
from unhinged_jax._files import whole
from unhinged_jax.collapse import MEASURED

if TYPE_CHECKING:
    import pandas


_HEAD = ("metric", "value", "ideal", "meaning")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Metrics of neural collapse, each with its ideal value; `measurement["nc1"]` is one of them.

    Attributes:
        values: Name -> value, in the order of `unhinged_jax.collapse.MEASURED`.
        left_out: Name -> why that metric was not computed.
        samples, classes, dim: n, C and p.

    Source: beyond the paper; `to_dataframe` names the paper of each metric.

    Example:
        >>> found = Measurement({"nc1": 0.25, "nc4": 1.0}, {}, samples=60, classes=3, dim=8)
        >>> found
        Neural collapse of 60 samples, 3 classes, 8 dimensions
          metric  value  ideal  meaning
          nc1      0.25      0  within-class variability
          nc4         1      1  agreement with the nearest class mean
    """

    values: dict[str, float]
    left_out: dict[str, str]
    samples: int
    classes: int
    dim: int

    @property
    def ideals(self) -> dict[str, float]:
        """Name -> value at exact collapse (inf where larger is better without a bound, NaN where it is not known).

        If C > p + 1, no simplex fits into p dimensions, and it is the best value of any arrangement.
        """
        return {name: MEASURED[name].ideal(self.classes, self.dim) for name in self.values}

    @property
    def references(self) -> tuple[str, ...]:
        """BibTeX keys of the papers of these metrics, for `citation`."""
        return tuple(dict.fromkeys(MEASURED[name].key for name in self.values))

    def __getitem__(self, name: str) -> float:
        if name in self.left_out:
            raise KeyError(f"{name} was left out: {self.left_out[name]}.")
        if name not in self.values:
            raise KeyError(f"there is no metric {name!r}{_check.nearest(str(name), self.values) or '.'}")
        return self.values[name]

    def __repr__(self) -> str:
        rows = [_HEAD, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {ideal:>{widths[2]}}  {meaning}"
                 for name, value, ideal, meaning in rows]  # fmt: skip
        return "\n".join([self._title(), *lines, *self._notes()])

    def _repr_html_(self) -> str:
        """What a notebook shows: a row per metric."""
        notes = [("note", " ".join(note.split())) for note in self._notes()]
        return _html.page(self._title(), _HEAD, self._rows(), notes)

    def _title(self) -> str:
        return f"Neural collapse of {self.samples:,} samples, {self.classes:,} classes, {self.dim:,} dimensions"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (name, _short(self.values[name]), _short(ideal), MEASURED[name].meaning)
            for name, ideal in self.ideals.items()
        ]

    def _notes(self) -> list[str]:
        notes = []
        if self.classes > self.dim + 1:
            notes.append(
                f"A simplex of {self.classes} classes needs {self.classes - 1} dimensions, so ideal is the best value "
                "of any arrangement, or ? where that is not known."
            )
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(name)
        notes += [f"Left out, because {reason}: {', '.join(names)}." for reason, names in reasons.items()]
        return [textwrap.fill(note, 100, subsequent_indent="  ") for note in notes]

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per metric: value, ideal, meaning and reference."""
        import pandas

        rows = [
            {"value": self.values[name], "ideal": ideal, "meaning": MEASURED[name].meaning,
             "reference": MEASURED[name].reference}
            for name, ideal in self.ideals.items()
        ]  # fmt: skip
        return pandas.DataFrame(rows, index=pandas.Index(self.values, name="metric"))

    def to_json(self, path: str | Path | None = None) -> str:
        """The sizes, every metric with value, ideal, meaning and reference, and what was left out, as JSON.

        JSON has no infinity and no NaN; both are null.

        Args:
            path: A file that it is also written to; an existing one is replaced.

        Returns:
            The text.
        """
        sizes = {"samples": self.samples, "classes": self.classes, "dim": self.dim}
        metrics = {
            name: {
                "value": _finite(self.values[name]),
                "ideal": _finite(ideal),
                "meaning": MEASURED[name].meaning,
                "reference": MEASURED[name].reference,
            }
            for name, ideal in self.ideals.items()
        }
        text = json.dumps({**sizes, "metrics": metrics, "left_out": self.left_out}, indent=1, ensure_ascii=False)
        if path is not None:
            with whole(_check.path("path", path)) as part:
                part.write_text(text + "\n", encoding="utf-8")
        return text

    def to_csv(self, path: str | Path, *, force: bool = True) -> None:
        """Write the table of `to_dataframe` to a CSV file.

        Args:
            path: The file.
            force: Replace an existing file (default); otherwise it is refused.
        """
        with whole(_check.path("path", path), force=force) as part:
            self.to_dataframe().to_csv(part)


def _short(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "?" if math.isnan(value) else f"{value:.5g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
