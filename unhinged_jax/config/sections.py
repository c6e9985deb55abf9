"""The keys a file may have: a dataclass for each section, and the file as a whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

Array = str | list
"""Numbers in the file, or the path of a .npy or .npz file, which may end in ":key"."""


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """[model]: the case and its settings."""

    case: str
    dim: int
    gamma: float | None = None
    loss: str | dict | None = None
    decay: float | list | None = None
    bias: bool | None = None
    rescale: int | float | None = None
    free_prototypes: bool | None = None
    kernel: Array | None = None


@dataclasses.dataclass(frozen=True)
class NoiseTable:
    """noise = {...}: label noise, its expectation unless a seed draws it."""

    kind: str
    rate: float | None = None
    table: Array | None = None
    seed: int | None = None
    expected: bool | None = None


@dataclasses.dataclass(frozen=True)
class LabelsSection:
    """[labels]: the layout, the arguments of its constructor, noise, smoothing and weights."""

    layout: str
    classes: int | None = None
    per_class: int | None = None
    order: str | None = None
    counts: Array | None = None
    largest: int | None = None
    ratio: float | None = None
    majority: int | None = None
    labels: Array | None = None
    targets: Array | None = None
    truth: Array | None = None
    noise: NoiseTable | None = None
    smoothing: float | None = None
    class_weights: Array | None = None
    weight_exponent: float | None = None
    sample_weights: Array | None = None


@dataclasses.dataclass(frozen=True)
class StateSection:
    """[state]: where the run starts."""

    seed: int = 0
    features: Array | None = None
    prototypes: Array | None = None
    bias: Array | None = None
    scale: float | None = None


@dataclasses.dataclass(frozen=True)
class DynamicsSection:
    """[dynamics]: flow or descent, its rates, its optimiser or its solver."""

    kind: str
    schedule: float | str | dict | None = None
    rate_H: float | str | dict | None = None
    rate_W: float | str | dict | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    optimizer: str | dict | None = None
    solver: str | None = None
    rtol: float | None = None
    atol: float | None = None
    max_steps: int | None = None
    steady: bool | None = None


@dataclasses.dataclass(frozen=True)
class RunSection:
    """[run]: when to observe and what."""

    until: float | None = None
    points: int = 200
    spacing: str = "linear"
    first: float | None = None
    times: Array | None = None
    observe: str | list | None = None
    states: bool = False
    target: str = "top"
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Config:
    """The five sections of a file, and the path of the file, to which paths inside it are relative."""

    path: Path
    model: ModelSection
    labels: LabelsSection
    state: StateSection
    dynamics: DynamicsSection
    run: RunSection

    def as_dict(self) -> dict[str, Any]:
        """The content of the file, without keys that it leaves out; JSON can hold it."""
        sections = dataclasses.asdict(self)
        del sections["path"]
        return {name: _without_none(section) for name, section in sections.items()}


def _without_none(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
