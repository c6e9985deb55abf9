"""A training run described by a TOML file: read strictly into dataclasses."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from unhinged_jax import _check, _memory
from unhinged_jax import config as _config
from unhinged_jax.config import ConfigError
from unhinged_jax.config.tables import name_and_arguments
from unhinged_jax.training import heads, networks, penalties

PRECISIONS = ("float32", "bfloat16", "float64")
_KNOWN_LOSSES = ("unhinged", "cross_entropy", "mse", "hinge", "focal", "adjusted_margin")


@dataclasses.dataclass(frozen=True)
class DataSection:
    """[data]: the data set and the changes to its training part.

    `classes` is checked against the set; `held_out` leaves its last classes out; `seed` draws imbalance and noise.
    """

    name: str = "mnist5k"
    dir: str | None = None
    size: int = 32
    classes: int | None = None
    held_out: int = 0
    imbalance: str | None = None
    ratio: float = 1.0
    noise: float = 0.0
    noise_kind: str = "symmetric"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class NetworkSection:
    """[network]: see `make_network`."""

    kind: str = "mlp"
    features: int = 64
    width: int | None = None
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class HeadSection:
    """[head]: the head, the loss and its penalties.

    `rescale` is q of the rescaled learning rate, `feature_penalty` lambda of explicit feature regularisation, and
    `weight_exponent` gives class weights n_c^-exponent, `effective_number` those of Cui et al. instead.
    """

    kind: str = "pal"
    loss: str | dict = "unhinged"
    prototypes: str | None = None
    scale: float = 1.0
    bias: bool = True
    rescale: int = 0
    feature_penalty: float = 0.0
    weight_exponent: float = 0.0
    effective_number: float | None = None


@dataclasses.dataclass(frozen=True)
class TrainSection:
    """[train]: stochastic gradient descent; `seeds` is a number of seeds 0, 1, ... or a list of them.

    `largest_norm` stops a seed whose features grow beyond it; `together` trains the seeds as one batched program
    (default for the MLP) or one after the other.
    """

    epochs: int = 40
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    shift: int = 2
    flip: bool | None = None
    precision: str = "float32"
    seeds: int | list = 1
    devices: int | None = None
    largest_norm: float = 1e8
    together: bool | None = None
    checkpoint_every: int = 1


@dataclasses.dataclass(frozen=True)
class WatchSection:
    """[watch]: neural-collapse observables of the training features, every few epochs, on at most `samples`."""

    collapse: bool = True
    every: int = 1
    samples: int = 10_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a training run needs, section by section; every key has a default.

    Example:
        >>> Settings.of({"head": {"kind": "fnpal", "rescale": 1}}).head.rescale
        1
    """

    data: DataSection = DataSection()
    network: NetworkSection = NetworkSection()
    head: HeadSection = HeadSection()
    train: TrainSection = TrainSection()
    watch: WatchSection = WatchSection()

    @classmethod
    def of(cls, tables: dict[str, Any], path: str | Path = "settings") -> Settings:
        """Settings from tables as in the TOML file; `path` is named in messages.

        Raises:
            ConfigError: for an unknown section or key, or a value that is not allowed.
        """
        kinds = typing.get_type_hints(cls)
        unknown = [name for name in tables if name not in kinds]
        if unknown:
            raise ConfigError(f"{path}: unknown section {unknown[0]!r}. Known: {', '.join(kinds)}.")
        with _config.placed(str(path)):
            read = {name: _config.read_section(kind, tables.get(name, {}), f"[{name}]") for name, kind in kinds.items()}
            settings = cls(**read)
            _check_settings(settings)
        return settings

    @classmethod
    def read(cls, path: str | Path) -> Settings:
        """Settings from a TOML file.

        Raises:
            ConfigError: naming file and key.
            OSError: if the file cannot be read.
        """
        return cls.of(_config.read_tables(path), path)

    def changed(self, **changes: Any) -> Settings:
        """A copy with keys changed: `changed(head={"kind": "pal"}, train={"epochs": 3})`.

        Example:
            >>> Settings().changed(train={"epochs": 3}).train.epochs
            3
        """
        tables = self.tables()
        for section, keys in changes.items():
            tables[section] = {**tables.get(section, {}), **keys}
        return Settings.of(tables)

    def tables(self) -> dict[str, Any]:
        """The settings as tables for `of`, which JSON can hold."""
        sections = dataclasses.asdict(self)
        return {name: {k: v for k, v in keys.items() if v is not None} for name, keys in sections.items()}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds; each is a separate run."""
        given = self.train.seeds
        if not isinstance(given, int):
            return tuple(given)
        _memory.refuse(40 * given, f"a list of {given:,} seeds")
        return tuple(range(given))


def _check_settings(settings: Settings) -> None:
    data, head, train, watch = settings.data, settings.head, settings.train, settings.watch
    _check.choice("[network] kind", settings.network.kind, networks.KINDS)
    _check.choice("[head] kind", head.kind, heads.KINDS)
    _check.choice("[head] rescale", head.rescale, penalties.EXPONENTS)
    name, _ = name_and_arguments(head.loss, "name", "[head] loss")
    _check.choice("[head] loss", name, _KNOWN_LOSSES)
    if name == "adjusted_margin" and head.kind != "fnpal":
        raise ValueError("[head] the adjusted margin loss is defined on unit features; use kind = 'fnpal'.")
    _check.non_negative("[head] feature_penalty", head.feature_penalty)
    if head.effective_number is not None and head.weight_exponent:
        raise ValueError("[head] give weight_exponent or effective_number, not both.")
    if data.imbalance is not None:
        _check.choice("[data] imbalance", data.imbalance, ("long_tailed", "step"))
    for name, value in (("epochs", train.epochs), ("batch", train.batch), ("checkpoint_every", train.checkpoint_every)):
        _check.whole(f"[train] {name}", value, 1)
    _check.whole("[train] shift", train.shift, 0)
    _check.whole("[watch] every", watch.every, 1)
    _check.positive("[train] rate", train.rate)
    _check.positive("[train] largest_norm", train.largest_norm)
    _check.non_negative("[train] weight_decay", train.weight_decay)
    if not 0 <= train.momentum < 1:
        raise ValueError(f"[train] momentum must lie in [0, 1), but is {train.momentum}.")
    _check.choice("[train] schedule", train.schedule, ("cosine", "constant"))
    _check.choice("[train] precision", train.precision, PRECISIONS)
    seeds = settings.seeds
    for seed in seeds:
        _check.seed("[train] a seed", seed)
    _check.seed("[data] seed", settings.data.seed)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"[train] seeds must be a number of seeds or different whole numbers, but is {train.seeds}.")
