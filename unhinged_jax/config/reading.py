"""TOML read strictly into dataclasses: an unknown key or a wrong type is an error that says where it is."""

from __future__ import annotations

import dataclasses
import importlib.resources
import tomllib
import types
import typing
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from unhinged_jax import _check
from unhinged_jax.config.sections import Config


class ConfigError(ValueError):
    """A configuration that is not allowed; the message names the file and the key."""


_COMMANDS = ("sweep", "design")
"""Sections of plans; each belongs to the command of its name."""


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
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    for name, table in tables.items():
        _refuse_huge(table, f"{path}: {name}")
    return tables


def _refuse_huge(value: object, place: str) -> None:
    """Raise ConfigError for a whole number that no computation could take."""
    if isinstance(value, (dict, list)):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_huge(one, f"{place}.{name}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        digits = len(str(abs(value)))
        raise ConfigError(
            f"{place} must fit 64 bits, but is a whole number of {digits} digits; write 1e{digits - 1} if that is "
            "meant."
        )


def shipped_or_file(
    path: str | Path, shipped: Collection[str], package: str, folder: str
) -> tuple[dict[str, Any], Path]:
    """The tables of a TOML file, or of a shipped one by its name; and the path to name in messages.

    Args:
        path: A file, or one of `shipped`. A file of that name takes precedence.
        shipped: Names of the files NAME.toml that come with the package.
        package, folder: Where those are.

    Raises:
        ConfigError: for bad TOML.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    if str(path) not in shipped and not path.suffix and not path.exists():
        guess = _check.nearest(str(path), shipped)
        listed = ", ".join(shipped)
        raise ConfigError(f"there is no file {str(path)!r}, and none is shipped{guess or '.'} Shipped: {listed}.")
    if str(path) not in shipped or path.exists():
        return read_tables(path), path
    with importlib.resources.as_file(importlib.resources.files(package) / folder / f"{path}.toml") as file:
        return read_tables(file), Path(f"{path}.toml")


def config_of(tables: dict[str, Any], path: str | Path = "", beside: str = "") -> Config:
    """`read_config` from tables in memory; `path` is named in messages, and its folder is where array files lie.

    `beside`: a section that the file may have beside those of a run, read elsewhere.

    Raises:
        ConfigError: for an unknown or missing key or a value of a wrong type.

    Example:
        >>> config_of({"model": {"case": "frozen"}}, "small.toml")
        Traceback (most recent call last):
        unhinged_jax.config.reading.ConfigError: small.toml: [model]: the key 'dim' is missing.
    """
    path = Path(path)
    for name, table in tables.items():
        _refuse_huge(table, f"{path}: {name}")
    sections = {f.name: f for f in dataclasses.fields(Config) if f.name != "path"}
    for name, table in tables.items():
        if name in _COMMANDS:
            raise ConfigError(f"{path}: [{name}] belongs to a plan; run it with `unhinged {name}`.")
        if name not in sections and not isinstance(table, (dict, list)):
            raise ConfigError(f"{path}: the key {name!r} is outside every section; write it below one.")
        if name not in sections:
            raise ConfigError(f"{path}: {unknown('section', name, [*sections, *filter(None, [beside])])}")
    kinds = typing.get_type_hints(Config)
    with placed(str(path)):
        read = {name: read_section(kinds[name], tables.get(name, {}), f"[{name}]") for name in sections}
    return Config(path, **read)


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Say where in the file an error comes from."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from error


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """What to say about an unknown name: the nearest known one, and all of them if they are few."""
    listed = f" Known: {', '.join(known)}." if len(known) <= 20 else ""
    return f"unknown {what} {name!r}{_check.nearest(name, known) or '.'}{listed}"


def read_section(kind: type, table: object, place: str) -> Any:
    """A table as the dataclass `kind`, every key known and of its type; `place` is named in messages."""
    if not isinstance(table, dict):
        raise ConfigError(f"{place} must be a table of keys, but is {table!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types_of = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{place}: {unknown('key', key, fields)}")
        values[key] = checked_value(types_of[key], value, f"{place} {key}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise ConfigError(f"{place}: the key {name!r} is missing.")
    return kind(**values)


NAMES: dict[type, str] = {float: "a number", int: "a whole number", str: "a string", list: "an array",
         dict: "a table", bool: "true or false"}  # fmt: skip


def _bare(text: str) -> bool:
    """Whether a string is a TOML number or truth value in quotes."""
    try:
        return not isinstance(tomllib.loads(f"value = {text}")["value"], str)
    except ValueError:
        return False


def checked_value(hint: type | types.UnionType, value: object, place: str) -> Any:
    """A value checked against a type; a whole number counts as a number, true and false count as neither."""
    union = isinstance(hint, types.UnionType)
    options = [o for o in (typing.get_args(hint) if union else (hint,)) if o is not type(None)]
    for option in options:
        if dataclasses.is_dataclass(option):
            return read_section(option, value, place)  # type: ignore[arg-type]
        if type(value) is option or (option is float and type(value) is int):
            return value
        if option is float and isinstance(value, jax.core.Tracer):
            return value  # of a sweep, which builds a configuration with a number that varies
    expected = " or ".join(NAMES[option] for option in options)
    quoted = isinstance(value, str) and not {float, int, bool}.isdisjoint(options)
    advice = f" Write it without quotes: {value}." if quoted and _bare(str(value)) else ""
    raise ConfigError(f"{place} must be {expected}, but is {value!r}.{advice}")
