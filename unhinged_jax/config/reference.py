"""Every key of a file, read off the dataclasses of its sections: as a page, and as a JSON schema for editors."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from unhinged_jax.config.reading import NAMES
from unhinged_jax.config.sections import Config, NoiseTable


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a section.

    Attributes:
        name: As it is written in a file.
        kinds: The Python types that its value may have.
        default: Its default; None if it may be left out and then means what `meaning` says.
        needed: Whether a file must give it.
        meaning: What it is, in words.
    """

    name: str
    kinds: tuple[type, ...]
    default: Any
    needed: bool
    meaning: str


def run_sections() -> dict[str, type]:
    """The sections of a run by their headings in a file.

    Example:
        >>> list(run_sections())
        ['model', 'labels', 'labels.noise', 'state', 'dynamics', 'run']
    """
    hints = {name: kind for name, kind in typing.get_type_hints(Config).items() if name != "path"}
    found: dict[str, type] = {}
    for name, kind in hints.items():
        found[name] = kind
        if name == "labels":
            found["labels.noise"] = NoiseTable
    return found


def keys_of(section: type) -> list[Key]:
    """The keys of a section, a dataclass whose docstring describes its attributes.

    Raises:
        ValueError: if the docstring leaves a key out.

    Example:
        >>> from unhinged_jax.config.sections import StateSection
        >>> [key.name for key in keys_of(StateSection)][:2], keys_of(StateSection)[0].default
        (['seed', 'features'], 0)
    """
    meanings, hints = dict(_meanings(section)), typing.get_type_hints(section)
    found = []
    for field in dataclasses.fields(section):
        if field.name not in meanings:
            raise ValueError(f"the docstring of {section.__name__} says nothing about {field.name!r}.")
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if field.default is dataclasses.MISSING else field.default
        found.append(Key(field.name, _kinds(hints[field.name]), default, needed, meanings[field.name]))
    return found


def _meanings(section: type) -> Iterator[tuple[str, str]]:
    """Name and description of everything under "Attributes:" in a docstring; several names may share one."""
    text = inspect.getdoc(section) or ""
    listed = text.partition("Attributes:\n")[2]
    listed = re.split(r"\n(?=\S)", listed)[0]
    for entry in re.split(r"\n(?=    \w)", "\n" + listed):
        names, _, meaning = entry.strip().partition(": ")
        for name in names.split(", "):
            yield name, " ".join(meaning.split())


def _kinds(hint: Any) -> tuple[type, ...]:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(option for option in options if option is not type(None))


def in_words(key: Key) -> str:
    """The type of a key's value, such as "a number or a table"."""
    kinds = [kind for kind in key.kinds if kind is not int or float not in key.kinds]
    return " or ".join(NAMES.get(kind, "a table") for kind in kinds)


def choices(key: Key) -> list[str]:
    """The texts that a key may be, if its meaning begins with two or more of them and it may be nothing else.

    Example:
        >>> from unhinged_jax.config.sections import RunSection
        >>> {key.name: choices(key) for key in keys_of(RunSection) if choices(key)}["spacing"]
        ['linear', 'log']
    """
    begins = re.match(r'("\w+"( \(default\))?(, | or )?)+', key.meaning)
    listed = re.findall(r'"(\w+)"', begins[0]) if begins and key.kinds == (str,) else []
    return listed if len(listed) > 1 else []


def page(sections: dict[str, type]) -> str:
    """A Markdown table of keys for every section."""
    parts = []
    for name, section in sections.items():
        summary = (inspect.getdoc(section) or "").splitlines()[0].partition(": ")[2]
        rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
        for key in keys_of(section):
            default = default_of(key)
            shown = f"`{default}`" if default and not key.needed else default
            rows.append(f"| `{key.name}` | {in_words(key)} | {shown} | {_escaped(key.meaning)} |")
        parts += [f"## [{name}]", summary[:1].upper() + summary[1:], "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def default_of(key: Key) -> str:
    """The default of a key as it would be written in a file; empty if it has none."""
    if key.needed:
        return "must be given"
    if isinstance(key.default, bool):
        return str(key.default).lower()
    return "" if key.default is None else repr(key.default).replace("'", '"')


def _escaped(text: str) -> str:
    return re.sub(r'("[^"]*"|\{[^}]*\})', r"`\1`", text).replace("|", "\\|")


_JSON = {float: "number", int: "integer", str: "string", bool: "boolean", list: "array", dict: "object"}


def schema(sections: dict[str, type]) -> dict[str, Any]:
    """The sections as a JSON schema, with which editors complete and check keys.

    Example:
        >>> found = schema(run_sections())
        >>> found["properties"]["model"]["required"], found["properties"]["run"]["properties"]["points"]["default"]
        (['case', 'dim'], 200)
    """
    whole: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    whole |= {"additionalProperties": False, "properties": {}}
    for name, section in sections.items():
        place = whole
        *outer, last = name.split(".")
        for part in outer:
            place = place["properties"][part]
        place["properties"][last] = _table(section)
    return whole


def _table(section: type) -> dict[str, Any]:
    keys = keys_of(section)
    needed = [key.name for key in keys if key.needed]
    table: dict[str, Any] = {"type": "object", "additionalProperties": False}
    table["properties"] = {key.name: _property(key) for key in keys}
    return {**table, **({"required": needed} if needed else {})}


def _property(key: Key) -> dict[str, Any]:
    kinds = [_JSON.get(kind, "object") for kind in key.kinds]
    described: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds, "description": key.meaning}
    if listed := choices(key):
        described["enum"] = listed
    return {**described, **({} if key.default is None else {"default": key.default})}
