"""A run described by a TOML file: read strictly into dataclasses, then built into a model, dynamics and a state."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect
import sys
import tomllib
import types
import typing
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import jax
import numpy as np
import optax

from unhinged_jax import _check, initial, labels, losses, model, observables, schedules
from unhinged_jax.dynamics import Descent, Dynamics, Flow, logspaced, steps
from unhinged_jax.labels import Labels
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.precision import scope

__all__ = ["Config", "ConfigError", "Problem", "build", "read_config"]

Array = str | list
"""Numbers in the file, or the path of a .npy or .npz file, which may end in ":key"."""


class ConfigError(ValueError):
    """A configuration that cannot be; the message names the file and the key."""


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
    """[run]: when to look and at what."""

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
    """The five sections of a file, and the file, to which paths inside it are relative."""

    path: Path
    model: ModelSection
    labels: LabelsSection
    state: StateSection
    dynamics: DynamicsSection
    run: RunSection

    def as_dict(self) -> dict[str, Any]:
        """What the file says, without keys it leaves out; JSON can hold it."""
        sections = dataclasses.asdict(self)
        del sections["path"]
        return {name: _without_none(section) for name, section in sections.items()}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of `simulate` and `exact`, and the SHA-256 of every array file they came from."""

    model: LayerPeeled
    dynamics: Dynamics
    state: State
    times: np.ndarray
    observe: Any
    states: bool
    target: str
    precision: str
    inputs: dict[str, str]


def read_config(path: str | Path) -> Config:
    """Read a TOML file strictly: every key must be known and every value of its type.

    Args:
        path: The file, with sections [model], [labels], [state] (may be left out), [dynamics], [run].

    Returns:
        A `Config`; nothing is built or loaded yet.

    Raises:
        ConfigError: for bad TOML, an unknown or missing key or a value of a wrong type.
        OSError: if the file cannot be read.

    Source: beyond the paper.

    Example:
        >>> read_config("examples/regularized.toml").model.case  # doctest: +SKIP
        'regularized'
    """
    return config_of(read_tables(path), path)


def read_tables(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file, unchecked.

    Raises:
        ConfigError: for bad TOML.
        OSError: if the file cannot be read.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error


def config_of(tables: dict[str, Any], path: str | Path = "") -> Config:
    """`read_config` from tables in memory; `path` is named in messages, and its folder is where array files lie.

    Raises:
        ConfigError: for an unknown or missing key or a value of a wrong type.

    Example:
        >>> config_of({"model": {"case": "frozen"}}, "small.toml")
        Traceback (most recent call last):
        unhinged_jax.config.ConfigError: small.toml: [model]: the key 'dim' is missing.
    """
    path = Path(path)
    sections = {f.name: f for f in dataclasses.fields(Config) if f.name != "path"}
    for name in tables:
        if name not in sections:
            raise ConfigError(f"{path}: {_unknown('section', name, sections)}")
    kinds = typing.get_type_hints(Config)
    with placed(str(path)):
        read = {name: read_section(kinds[name], tables.get(name, {}), f"[{name}]") for name in sections}
    return Config(path, **read)


def build(config: Config, precision: str | None = None) -> Problem:
    """Load the arrays that a configuration names and build what it describes.

    Args:
        config: From `read_config`.
        precision: "float32" or "float64" instead of the one in [run].

    Returns:
        A `Problem`. A seed gives the same noisy labels in either precision.

    Raises:
        ConfigError: naming file and section, with what was given and what was expected.

    Source: beyond the paper.

    Example:
        >>> build(read_config("examples/regularized.toml")).model.dim  # doctest: +SKIP
        64
    """
    problem = build_stateless(config, precision)
    files = _Files(config.path.parent)
    with placed(f"{config.path}: [state]"):
        state = _state(config.state, problem.model, problem.precision, files)
    return dataclasses.replace(problem, state=state, inputs=problem.inputs | files.digests)


def build_stateless(config: Config, precision: str | None = None) -> Problem:
    """`build` without drawing the state, which stays None: enough to check every other setting."""
    precision = precision or config.run.precision
    files = _Files(config.path.parent)
    with placed(f"{config.path}: [labels]"):
        layout = _labels(config.labels, files)
    with placed(f"{config.path}: [model]"):
        problem = _model(config.model, layout, files)
    with placed(f"{config.path}: [dynamics]"):
        moves = _dynamics(config.dynamics, files)
    with placed(f"{config.path}: [run]"):
        _check.choice("precision", precision, ("float32", "float64"))
        times = _times(config.run, isinstance(moves, Descent), files)
    run = config.run
    observe: Any = run.observe or observables.paper_observables
    if isinstance(observe, str):
        observe = _OBSERVED.get(observe, (observe,))
    none: Any = None
    return Problem(problem, moves, none, times, observe, run.states, run.target, precision, files.digests)


_OBSERVED = {
    "paper": observables.paper_observables,
    "collapse": observables.collapse_observables,
    "all": observables.all_observables,
}


# --- strict reading ---------------------------------------------------------------------------


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Say where in the file an error comes from."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from error


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    listed = f" Known: {', '.join(known)}." if len(known) <= 20 else ""
    return f"unknown {what} {name!r}{guess}{listed}"


def read_section(kind: type, table: Any, place: str) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{place} must be a table of keys, but is {table!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types_of = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{place}: {_unknown('key', key, fields)}")
        values[key] = _value(types_of[key], value, f"{place} {key}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise ConfigError(f"{place}: the key {name!r} is missing.")
    return kind(**values)


_NAMES = {float: "a number", int: "a whole number", str: "a string", list: "an array",
          dict: "a table", bool: "true or false"}  # fmt: skip


def _value(hint: Any, value: Any, place: str) -> Any:
    """A value checked against a type; a whole number passes as a number, true and false as neither."""
    union = isinstance(hint, types.UnionType)
    options = [o for o in (typing.get_args(hint) if union else (hint,)) if o is not type(None)]
    for option in options:
        if dataclasses.is_dataclass(option):
            return read_section(option, value, place)  # type: ignore[arg-type]
        if type(value) is option or (option is float and type(value) is int):
            return value
        if option is float and isinstance(value, jax.core.Tracer):
            return value  # of a sweep, which builds a configuration with a number that varies
    expected = " or ".join(_NAMES[option] for option in options)
    raise ConfigError(f"{place} must be {expected}, but is {value!r}.")


def _given(section: Any, *names: str) -> dict[str, Any]:
    """The named keys of a section that the file sets."""
    values = {name: getattr(section, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _pick(what: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(_unknown(what, name, table))
    return table[name]


def _call(function: Callable, given: dict[str, Any], what: str) -> Any:
    """Call a constructor with the keys of a table; a key that it does not take or lacks is an error."""
    parameters = inspect.signature(function).parameters
    for key in given:
        if key not in parameters:
            raise ValueError(f"{what}: {_unknown('key', key, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"{what} needs the key {name!r}.")
    return function(**given)


class _Files:
    """Arrays and functions that the file names; relative to its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}

    def array(self, name: str, value: Array) -> np.ndarray:
        """An array given in place or by path; a traced one, of a design, passes as it is."""
        if isinstance(value, jax.core.Tracer):
            return value
        if isinstance(value, list):
            try:
                array = np.asarray(value)
            except ValueError:
                raise ValueError(f"{name} must have rows of one length.") from None
        else:
            array = self._load(name, value)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise ValueError(f"{name} must hold numbers, but holds {array.dtype}.")
        return array

    def _load(self, name: str, spec: str) -> np.ndarray:
        file, key = spec, ""
        if ".npz:" in spec:
            file, _, key = spec.rpartition(":")
        path = self.folder / file
        if path.suffix not in (".npy", ".npz"):
            raise ValueError(f"{name} must be the path of a .npy or .npz file, but is {spec!r}.")
        try:
            self.digests[file] = hashlib.sha256(path.read_bytes()).hexdigest()
            loaded = np.load(path, allow_pickle=False)
        except OSError as error:
            raise ValueError(f"{name}: cannot read {path}: {error.strerror or error}") from error
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{name}: {path} is not a file of plain arrays: {error}") from error
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if not key and len(loaded.files) == 1:
                key = loaded.files[0]
            if key not in loaded.files:
                found = ", ".join(loaded.files)
                raise ValueError(f"{name}: say which array of {path} to take, as {file}:KEY; it has {found}.")
            return loaded[key]

    def function(self, spec: str) -> Callable:
        """The callable "module:name"; modules beside the file are found, too."""
        module, _, name = spec.partition(":")
        sys.path.insert(0, str(self.folder.resolve()))
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{spec!r} cannot be imported: {error}") from error
        finally:
            sys.path.remove(str(self.folder.resolve()))
        if not callable(found):
            raise ValueError(f"{spec!r} is not callable.")
        return found


# --- building ---------------------------------------------------------------------------------


_LAYOUTS: dict[str, tuple[Callable, dict[str, str]]] = {
    "balanced": (labels.balanced, {}),
    "counts": (labels.from_counts, {}),
    "long_tailed": (labels.long_tailed, {}),
    "step": (labels.step_imbalanced, {}),
    "labels": (labels.from_labels, {"labels": "index"}),
    "soft": (labels.soft, {}),
}
_NOT_ARGUMENTS = ("layout", "noise", "smoothing", "class_weights", "weight_exponent", "sample_weights")


def _labels(section: LabelsSection, files: _Files) -> Labels:
    constructor, renamed = _pick("layout", section.layout, _LAYOUTS)
    names = [field.name for field in dataclasses.fields(section) if field.name not in _NOT_ARGUMENTS]
    given = _given(section, *names)
    takes = [*inspect.signature(constructor).parameters, *renamed]
    for name in given:
        if name not in takes:
            raise ValueError(f"layout {section.layout!r}: {_unknown('key', name, takes)}")
    for name in ("counts", "labels", "targets", "truth"):
        if name in given:
            given[name] = files.array(name, given[name])
    arguments = {renamed.get(name, name): value for name, value in given.items()}
    result = clean = _call(constructor, arguments, f"layout {section.layout!r}")
    if section.noise is not None:
        result = _noisy(result, section.noise, files)
    if section.smoothing is not None:
        result = result.smoothed(section.smoothing)
    given_weights = _given(section, "class_weights", "sample_weights")
    weights = {key: files.array(key, value) for key, value in given_weights.items()}
    if section.weight_exponent is not None:
        if "class_weights" in weights:
            raise ValueError("give class_weights or weight_exponent (class weights n_c^-exponent), not both.")
        counts = np.bincount(np.asarray(clean.truth), minlength=clean.classes).astype(float)
        weights["class_weights"] = counts**-section.weight_exponent
    if weights:
        result = result.weighted(classes=weights.get("class_weights"), samples=weights.get("sample_weights"))
    return result


def _noisy(clean: Labels, noise: NoiseTable, files: _Files) -> Labels:
    kinds = {
        "symmetric": clean.symmetric_noise,
        "asymmetric": clean.asymmetric_noise,
        "transition": clean.transition,
    }
    method = _pick("noise kind", noise.kind, kinds)
    wanted, other = ("table", "rate") if noise.kind == "transition" else ("rate", "table")
    if getattr(noise, wanted) is None or getattr(noise, other) is not None:
        raise ValueError(f"noise of kind {noise.kind!r} takes {wanted!r}, and not {other!r}.")
    if (noise.seed is not None) == bool(noise.expected):
        raise ValueError("noise takes either a seed (one drawn set of labels) or expected = true.")
    amount = noise.rate if noise.table is None else files.array("table", noise.table)
    # One precision for the draw, so that a seed names the same labels in every run.
    if noise.seed is not None and isinstance(amount, jax.core.Tracer):
        amount = amount.astype("float32")
    with scope("float32"):
        return method(amount, None if noise.seed is None else jax.random.key(noise.seed))


_CASES = {
    function.__name__: function
    for function in (model.unconstrained, model.regularized, model.anchored, model.frozen, model.spherical,
                     model.ntk_invariant)
}  # fmt: skip


def _model(section: ModelSection, layout: Labels, files: _Files) -> LayerPeeled:
    constructor = _pick("case", section.case, _CASES)
    given = _given(section, *(f.name for f in dataclasses.fields(section) if f.name != "case"))
    if isinstance(section.decay, list):
        if section.case in ("anchored", "frozen"):
            raise ValueError(f"decay of case {section.case!r} must be one number: only one part moves.")
        given["decay"] = tuple(_value(float, entry, "decay") for entry in section.decay)
    if section.kernel is not None:
        given["kernel"] = files.array("kernel", section.kernel)
    if section.loss is not None:
        given["loss"] = _loss(section.loss, files)
        if isinstance(section.loss, dict) and "gamma" in section.loss and section.gamma is not None:
            raise ValueError("gamma is given twice, in [model] and in the loss; drop one of them.")
    return _call(constructor, {"labels": layout, **given}, f"case {section.case!r}")


def _split(spec: str | dict, name_key: str, what: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of something given as a name or as a table."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec.get(name_key), str):
        raise ValueError(f"{what} needs the key {name_key!r}, a name.")
    return spec[name_key], {key: value for key, value in spec.items() if key != name_key}


def _loss(spec: str | dict, files: _Files) -> Any:
    name, arguments = _split(spec, "name", "loss")
    if ":" in name:
        function = files.function(name)
        return partial(function, **arguments) if arguments else function
    return _call(_pick("loss", name, losses.NAMED), arguments, f"loss {name!r}")


_SCHEDULES = {
    function.__name__: function
    for function in (schedules.constant, schedules.cosine, schedules.exponential, schedules.polynomial,
                     schedules.piecewise, schedules.warmup, schedules.numeric)
}  # fmt: skip


def _schedule(spec: float | str | dict, files: _Files) -> Any:
    """A number, a callable "module:name", or a table whose kind is a constructor here or "module:name"."""
    if isinstance(spec, str) and ":" not in spec:
        raise ValueError(f"a schedule is a number, 'module:function' or a table with a kind, but got {spec!r}.")
    if isinstance(spec, str):
        return schedules.as_schedule(files.function(spec))
    if not isinstance(spec, dict):
        return spec
    kind, arguments = _split(spec, "kind", "schedule")
    constructor = files.function(kind) if ":" in kind else _pick("schedule kind", kind, _SCHEDULES)
    if kind == "warmup" and "schedule" in arguments:
        arguments["schedule"] = _schedule(arguments["schedule"], files)
    if kind == "numeric" and isinstance(arguments.get("function"), str):
        arguments["function"] = files.function(arguments["function"])
    return _call(constructor, arguments, f"schedule {kind!r}")


_ONLY = {"flow": ("solver", "rtol", "atol", "max_steps", "steady"), "descent": ("momentum", "nesterov", "optimizer")}


def _dynamics(section: DynamicsSection, files: _Files) -> Dynamics:
    _check.choice("kind", section.kind, tuple(_ONLY))
    other = "descent" if section.kind == "flow" else "flow"
    for name in _given(section, *_ONLY[other]):
        raise ValueError(f"{name} belongs to kind = {other!r}, but kind is {section.kind!r}.")
    given = _given(section, *_ONLY[section.kind])
    for name, spec in _given(section, "schedule", "rate_H", "rate_W").items():
        given[name] = _schedule(spec, files)
    if "solver" in given:
        given["solver"] = _solver(given["solver"])
    if "optimizer" in given:
        given["optimizer"] = _optimizer(given["optimizer"], files)
    if given.get("max_steps", 1) < 1:
        raise ValueError(f"max_steps must be at least 1, but is {given['max_steps']}.")
    return Flow(**given) if section.kind == "flow" else Descent(**given)


def _solver(name: str) -> Any:
    """A diffrax solver of ordinary differential equations that estimates its error."""
    known = {
        key: kind
        for key, kind in vars(diffrax).items()
        if inspect.isclass(kind)
        and issubclass(kind, diffrax.AbstractAdaptiveSolver)
        and not (inspect.isabstract(kind) or issubclass(kind, (diffrax.AbstractSRK, diffrax.HalfSolver)))
        and not key.startswith("Abstract")
    }
    return _pick("solver", name, known)()


def _optimizer(spec: str | dict, files: _Files) -> optax.GradientTransformation:
    name, arguments = _split(spec, "name", "optimizer")
    known = {key: value for key, value in vars(optax).items() if inspect.isfunction(value)}
    factory = files.function(name) if ":" in name else _pick("optax optimizer", name, known)
    made = _call(factory, arguments, f"optimizer {name!r}")
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(f"optimizer {name!r} gives {type(made).__name__}, not an optax optimiser such as optax.adam.")
    return made


def optimizer_of(spec: str | dict, folder: Path) -> optax.GradientTransformation:
    """An optax optimiser from its name, or from a table with its name and arguments."""
    return _optimizer(spec, _Files(folder))


_STARTS: dict[str, dict[str, Callable[[], np.ndarray] | None]] = {
    "features": {"normal": None, "kaiming": None, "paper": initial.paper_features},
    "prototypes": {
        "normal": None,
        "kaiming": None,
        "etf": None,
        "paper": initial.paper_prototypes,
        "paper_anchors": initial.paper_anchors,
        "paper_anchors_centred": partial(initial.paper_anchors, centred=True),
    },
}


def _state(section: StateSection, problem: LayerPeeled, precision: str, files: _Files) -> State:
    given = _given(section, "scale")
    if section.scale is not None:
        _check.positive("scale", section.scale)
    for part, known in _STARTS.items():
        spec = getattr(section, part)
        if spec is None:
            continue
        if isinstance(spec, str) and spec in known:
            draw = known[spec]
            given[part] = draw() if draw is not None else spec
        elif isinstance(spec, str) and not spec.partition(":")[0].endswith((".npy", ".npz")):
            raise ValueError(f"{part}: {_unknown('start', spec, known)} A path ends in .npy or .npz.")
        else:
            given[part] = files.array(part, spec)
    if section.bias is not None:
        given["bias"] = files.array("bias", section.bias)
    return problem.init(jax.random.key(section.seed), precision=precision, **given)


def _times(section: RunSection, descent: bool, files: _Files) -> np.ndarray:
    if (section.until is None) == (section.times is None):
        raise ValueError("give either `until` (with `points` and `spacing`) or `times`.")
    if section.times is not None:
        return files.array("times", section.times)
    _check.choice("spacing", section.spacing, ("linear", "log"))
    _check.positive("until", section.until)
    until: Any = section.until
    if descent:
        if until != int(until):
            raise ValueError(f"until of a descent is a number of updates, so whole, but is {until}.")
        until = int(until)
    points = _check.whole("points", section.points, 2)
    if section.spacing == "linear":
        if section.first is not None:
            raise ValueError("first belongs to spacing = 'log'; linear spacing starts at 0.")
        return steps(until, points) if descent else np.linspace(0.0, until, points)
    first: Any = section.first
    if descent:
        return logspaced(1 if first is None else _check.whole("first", first, 1), until, points)
    return logspaced(until * 1e-4 if first is None else first, float(until), points)
