"""Base classes of objects made of arrays: they compare by value, and JAX treats them as trees of their numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _html


class Value:
    """A frozen dataclass that is compared by value, with its arrays entry by entry; `==` gives True or False.

    Arrays are equal if their entries are, whatever their type and whether they are NumPy's or JAX's; NaN equals NaN. A
    traced array equals only itself. The hash is that of the fields; an object with an array field has none. It prints
    in one line, with arrays as their types and shapes.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Point(Value):
        ...     place: Any
        >>> Point(np.ones(2)) == Point(np.ones(2)), Point(np.ones(2)) == Point(np.zeros(2)), Point(1) == 1
        (True, False, False)
        >>> Point(np.ones((2, 3)))
        Point(place=float64[2, 3])
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name in ("__eq__", "__hash__", "__repr__"):  # in the class itself, because `dataclass` would write its own
            if name not in cls.__dict__:
                setattr(cls, name, getattr(Value, name))

    def __eq__(self, other: object) -> bool:
        return same(self, other) if type(self) is type(other) else NotImplemented

    def __repr__(self) -> str:
        return in_a_line(self)

    def __hash__(self) -> int:
        return hash((type(self), *(None if _is_nan(value) else value for value in _fields(self))))


class Tabled(Value):
    """The same, which a notebook shows as a table with a row per entry of `rows`, by default per field."""

    def rows(self) -> dict[str, str]:
        """Names and what is said of them."""
        return {field.name: brief(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def _repr_html_(self) -> str | None:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return None
        return _html.page(type(self).__name__, (), self.rows().items())


class RegisteredValue(Value):
    """The same, and also a pytree whose leaves are its fields, registered with JAX when the first one is built.

    A class that is registered by `jax.tree_util.register_dataclass` is unchanged. A class that is not a dataclass
    becomes one, because attributes that its own `__init__` sets would be lost whenever JAX takes it apart.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        cls.become_dataclass()
        thing = object.__new__(cls)
        if jax.tree_util.all_leaves([thing]):
            jax.tree_util.register_dataclass(cls)
        return thing

    @classmethod
    def become_dataclass(cls) -> None:
        """Make the annotated fields of a class the arguments of its constructor, if that is not done yet."""
        if "__dataclass_fields__" not in cls.__dict__:
            if "__init__" in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__} has an `__init__` of its own, so JAX does not know its numbers; declare them as "
                    "fields, with @dataclasses.dataclass(frozen=True) above the class, and leave `__init__` out."
                )
            dataclasses.dataclass(frozen=True)(cls)


def brief(value: Any) -> str:
    """A value in one line: arrays by type and shape, functions by name.

    Example:
        >>> brief({"weights": np.ones((2, 3)), "rate": 0.1, "loss": np.mean})
        "{'weights': float64[2, 3], 'rate': 0.1, 'loss': mean}"
    """
    if isinstance(value, (np.ndarray, jax.Array)) and (np.ndim(value) or isinstance(value, jax.core.Tracer)):
        return f"{value.dtype}{list(np.shape(value))}"
    if isinstance(value, (np.ndarray, jax.Array)):
        return str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {brief(part)}' for key, part in value.items())}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value).__name__
    if type(value) in (list, tuple):
        inside = ", ".join(map(brief, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
    return " ".join((getattr(value, "__name__", "") or repr(value)).split())


def in_a_line(value: Any) -> str:
    """A dataclass by its fields, each of them brief; those with `metadata={"rare": True}` only if they are not None."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    rare = {field.name for field in dataclasses.fields(value) if field.metadata.get("rare")}
    parts = (f"{name}={brief(given)}" for name, given in fields.items() if given is not None or name not in rare)
    return f"{type(value).__name__}({', '.join(parts)})"


F = TypeVar("F")


def registered(function: F) -> F:
    """The callable itself, whose class is registered with JAX if it is a dataclass of numbers, which then are data.

    Fields with `metadata={"static": True}` may hold anything. A class with other fields that are no numbers, or with a
    `__post_init__`, which JAX would call with placeholders, stays as it is.
    """
    if dataclasses.is_dataclass(function) and jax.tree_util.all_leaves([function]):
        fields = [field for field in dataclasses.fields(function) if not field.metadata.get("static", False)]
        numbers = jax.tree.leaves([getattr(function, field.name) for field in fields], is_leaf=lambda x: x is None)
        plain = not hasattr(function, "__post_init__") and all(field.init for field in dataclasses.fields(function))
        if plain and all(_is_array(number) and not isinstance(number, bool) for number in numbers):
            jax.tree_util.register_dataclass(type(function))
    return function


def same(one: Any, other: Any) -> bool:
    """Whether two objects have the same type and the same entries; see `Value`."""
    if one is other:
        return True
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):
        return False
    if _is_array(one) and _is_array(other):
        return _same_entries(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return all(map(same, _fields(one), _fields(other)))
    try:
        return bool(one == other)
    except Exception:  # any exception that a foreign comparison raises
        return False


def _fields(thing: Any) -> tuple[Any, ...]:
    return tuple(getattr(thing, field.name) for field in dataclasses.fields(thing))


def _is_array(value: object) -> TypeGuard[ArrayLike]:
    return isinstance(value, (np.ndarray, np.generic, jax.Array, int, float, complex))


def _same_entries(one: ArrayLike, other: ArrayLike) -> bool:
    one, other = (_entries(value) for value in (one, other))
    return one.shape == other.shape and bool(np.all((one == other) | ((one != one) & (other != other))))


def _entries(value: ArrayLike) -> np.ndarray:
    keyed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if keyed else value)


def _is_nan(value: object) -> bool:
    return isinstance(value, (float, np.floating)) and bool(value != value)
