"""The keys of a table as arguments of a constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from unhinged_jax import _check
from unhinged_jax._values import RegisteredValue
from unhinged_jax.config.files import Files
from unhinged_jax.config.reading import unknown


def given_keys(section: object, *names: str) -> dict[str, Any]:
    """The named keys of a section that the file sets."""
    values = {name: getattr(section, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def pick(what: str, name: str, table: dict[str, Any]) -> Any:
    """table[name], or an error that suggests what was meant."""
    if name not in table:
        raise ValueError(unknown(what, name, table))
    return table[name]


def call(function: Callable, given: dict[str, Any], what: str) -> Any:
    """Call a constructor with the keys of a table; a key that it does not take or lacks is an error."""
    check_arguments(function, given, what)
    return function(**given)


def check_arguments(function: Callable, given: dict[str, Any], what: str) -> None:
    """Raise unless a constructor can be called with the keys of a table."""
    parameters = inspect.signature(function).parameters
    for key in given:
        if key not in parameters:
            raise ValueError(f"{what}: {unknown('key', key, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"{what} needs the key {name!r}.")


def own(name: str, arguments: dict[str, Any], files: Files, what: str) -> Any:
    """Something of one's own, "module:name": an object of a class, or a function, with these arguments filled in."""
    found = files.function(name)
    if isinstance(found, type):
        if issubclass(found, RegisteredValue):
            found.become_dataclass()
        return call(found, arguments, f"{what} {name!r}")
    if arguments and not files.data:
        known = inspect.signature(found).parameters
        for key in arguments:
            if key not in known:
                raise ValueError(f"{what} {name!r}: {unknown('key', key, known)}")
    return partial(found, **arguments) if arguments else found


def name_and_arguments(spec: str | dict, name_key: str, what: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of something given as a name or as a table."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, dict):
        raise ValueError(f"{what} must be a name or a table with a {name_key}, but is {_check.given(spec)}.")
    if not isinstance(spec.get(name_key), str):
        raise ValueError(f"{what} needs the key {name_key!r}, a name.")
    return spec[name_key], {key: value for key, value in spec.items() if key != name_key}
