"""Optax optimisers whose numbers are data."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from unhinged_jax import _check, _numbers, precision
from unhinged_jax._values import Value
from unhinged_jax._values import same as same_value

_BY_ENTRY = (
    optax.adabelief, optax.adadelta, optax.adagrad, optax.adam, optax.adamax, optax.adamaxw, optax.adamw, optax.amsgrad,
    optax.lion, optax.nadam, optax.nadamw, optax.radam, optax.rmsprop, optax.sgd, optax.sign_sgd, optax.yogi,
)  # fmt: skip


class Settings(dict[str, Any]):
    """Arguments that are part of a program: they are compared by value."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and same_value(dict(self), dict(other))

    __ne__ = object.__ne__  # that of a dictionary would not ask `__eq__`


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Optimizer(Value):
    """An optax optimiser that is built inside the compiled program, so that its numbers are data.

    Other numbers compile nothing again, and may be traced: a learning rate, betas, an epsilon or a weight decay can be
    mapped over with `jax.vmap` and differentiated. It is an optax optimiser itself, with `init` and `update`.

    Attributes:
        make: The constructor: a function of optax, such as `optax.adam`, or one of your own that returns an optax
            optimiser, for example a chain of several. An optimiser that is built already is kept as it is, and its
            numbers are part of the program.
        numbers: The arguments that are data, by name: numbers, schedules of `unhinged_jax` and other trees of numbers.
            Numbers that the constructor has as defaults are among them.
        settings: The arguments that are part of the program: everything else, and numbers with which the constructor
            decides something in Python, such as a size. This is found out by tracing one update.

    Args:
        make: See above.
        **arguments: The arguments of the constructor, by name.

    Raises:
        ValueError: if the arguments do not fit the constructor, if it returns no optax optimiser, or if an argument
            that is part of the program is traced.

    Source: beyond the paper.

    Example:
        >>> adam = Optimizer(optax.adam, learning_rate=0.1, b1=0.8)
        >>> adam
        Optimizer(adam, learning_rate=0.1, b1=0.8, b2=0.999, eps=1e-08, eps_root=0.0)
        >>> adam.replace(b1=0.7).numbers["b1"]
        0.7
    """

    make: Any
    numbers: dict[str, Any]
    settings: Settings

    def __init__(
        self, make: Callable[..., Any] | optax.GradientTransformation, /, *unnamed: Any, **arguments: Any
    ) -> None:
        if unnamed:
            example = next(iter(inspect.signature(make).parameters), "rate") if callable(make) else "rate"
            raise ValueError(
                f"an Optimizer takes each argument by its name, as in Optimizer({_name(make)}, {example}=...), but got "
                f"{', '.join(map(_check.given, unnamed))} without a name."
            )
        built = isinstance(make, optax.GradientTransformation)
        if (built and arguments) or not (callable(make) or built) or not _check.hashable(make):
            raise ValueError(
                "an Optimizer takes a constructor, such as optax.adam, and its arguments by name, as in "
                f"Optimizer(optax.adam, learning_rate=0.1), but got {_check.given(make)}"
                f"{', which is built already, and arguments' if built else ''}."
            )
        _fill(self, make, *(({}, Settings()) if built else _divided(make, arguments)))

    def built(self) -> optax.GradientTransformation:
        """The optax optimiser itself."""
        return _built(self.make, self.numbers, self.settings)

    def init(self, params: PyTree) -> Any:
        """The memory before the first update, as in optax."""
        return self.built().init(params)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[Any, Any]:
        """Updates and the memory after them, as in optax."""
        return self.built().update(updates, state, params)

    def replace(self, **arguments: Any) -> Optimizer:
        """The same optimiser with other arguments."""
        if not arguments.keys() <= self.numbers.keys():
            return Optimizer(self.make, **{**self.numbers, **self.settings, **arguments})
        new = {name: _settled(name, value) for name, value in arguments.items()}
        return _fill(object.__new__(Optimizer), self.make, {**self.numbers, **new}, self.settings)

    def why_not_stepped(self, shapes: tuple[tuple[int, ...], ...], precision: str) -> str:
        """Why it needs more than gradients, its memory and the parameters for an update of H, W and b; or ""."""
        leaves, form = jax.tree.flatten(self.numbers)
        return _why_not(self.make, self.settings, form, tuple(map(_kind, leaves)), shapes, precision)

    @property
    def by_entry(self) -> bool:
        """Whether it is known to look at each number alone, and not at a norm or a matrix of many."""
        make: Any = self.make
        while isinstance(make, functools.partial):
            make = make.func
        return make in _BY_ENTRY

    def __hash__(self) -> int:
        return hash((self.make, self.settings, tuple(self.numbers.items())))

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in {**self.numbers, **self.settings}.items())
        return f"Optimizer({', '.join((_name(self.make), *arguments))})"

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], Any]:
        """The numbers as leaves, everything else as structure."""
        named = tuple((jax.tree_util.DictKey(name), value) for name, value in self.numbers.items())
        return named, (self.make, tuple(self.numbers), self.settings)

    @classmethod
    def tree_unflatten(cls, structure: Any, numbers: Iterable[Any]) -> Optimizer:
        """What `tree_flatten_with_keys` took apart."""
        make, names, settings = structure
        return _fill(object.__new__(cls), make, dict(zip(names, numbers, strict=True)), settings)


class _NotAnOptimizer(ValueError):
    """A constructor of something else."""


def resumed(transform: optax.GradientTransformation, body: PyTree, memory: PyTree) -> Any:
    """The memory that a run begins with: that of an earlier run, or None for that before the first update.

    Raises:
        ValueError: if it is the memory of another optimiser.
    """
    if memory is None:
        return transform.init(body)
    begin: Any = jax.eval_shape(transform.init, body)
    expected: Any = jax.tree.structure(begin)
    if isinstance(memory, dict) or jax.tree.structure(memory) != expected:
        raise ValueError(
            "the trajectory ended with the memory of another optimizer; continue with that one, or start again from "
            "`trajectory.final`."
        )
    # An optimiser may keep parts of its memory in a narrower type than that of the state.
    return jax.tree.map(lambda leaf, like: leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype), memory, begin)


def _fill(optimizer: Optimizer, make: object, numbers: dict[str, Any], settings: Settings) -> Optimizer:
    for name, value in (("make", make), ("numbers", numbers), ("settings", settings)):
        object.__setattr__(optimizer, name, value)
    return optimizer


def _built(make: Any, numbers: dict[str, Any], settings: Settings) -> optax.GradientTransformation:
    if isinstance(make, optax.GradientTransformation):
        return make
    made = make(**numbers, **settings)
    if not isinstance(made, optax.GradientTransformation):
        raise _NotAnOptimizer(f"optimizer {_name(make)!r} gives {_check.given(made)}, not an optax optimiser.")
    return made


def _name(make: object) -> str:
    return str(getattr(make, "__name__", type(make).__name__))


def _divided(make: Callable[..., Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], Settings]:
    """The arguments of a constructor, and its numbers that are defaults, as numbers, which are data, and settings."""
    signature = inspect.signature(make)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        free = [name for name, entry in signature.parameters.items() if name not in arguments]
        unknown = [name for name in arguments if name not in signature.parameters]
        guess = next((found for name in unknown if (found := _check.nearest(name, free))), "")
        raise ValueError(
            f"optimizer {_name(make)!r} was given {', '.join(arguments) or 'no arguments'}, but takes "
            f"{', '.join(signature.parameters)} ({error}); give each by its name{guess or '.'}"
        ) from None
    defaults = {name: entry.default for name, entry in signature.parameters.items() if type(entry.default) is float}
    given = {name: _settled(name, value) for name, value in {**defaults, **arguments}.items()}
    order = [*signature.parameters, *sorted(given.keys() - signature.parameters.keys())]

    def divided(names: Iterable[str]) -> tuple[dict[str, Any], Settings]:
        numbers = {name: given[name] for name in order if name in names}
        return numbers, Settings({name: given[name] for name in order if name in arguments and name not in numbers})

    def why_not(names: Iterable[str]) -> str:
        numbers, settings = divided(names)
        leaves, form = jax.tree.flatten(numbers)
        ask = (
            _why_not if _check.concrete(dict(settings)) else _why_not.__wrapped__
        )  # which does not keep what is traced
        return ask(make, settings, form, tuple(map(_kind, leaves)), ((2, 2), (2, 2), (2,)), "float32")

    data = [name for name, value in given.items() if all(map(_is_data, jax.tree.leaves(value) or [None]))]
    why = why_not(data)
    if why:
        data = [name for name in data if not why_not([name])]
        data = [] if why_not(data) else data
    numbers, settings = divided(data)
    for name, value in settings.items():
        if not _check.concrete(value):
            raise ValueError(
                f"{name} cannot be traced, because it is part of the program of the optimizer {_name(make)!r} ({why}); "
                "build one optimizer for each value."
            )
    try:
        _built(make, numbers, settings)
    except _NotAnOptimizer:
        raise
    except Exception as error:  # code from elsewhere may raise anything
        told = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"optimizer {_name(make)!r} cannot be built: {type(error).__name__}: {told}.") from error
    return numbers, settings


def _is_data(leaf: object) -> bool:
    if isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
        whole = jnp.issubdtype(leaf.dtype, jnp.integer) and np.ndim(leaf) == 0
        return whole or any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.floating, jax.dtypes.prng_key))
    return isinstance(leaf, (int, float)) and not isinstance(leaf, bool)


def _settled(name: str, value: Any) -> Any:
    return _numbers.number(name, value) if _is_data(value) else value


def _kind(leaf: object) -> Any:
    """The type of a key; None for a number, which takes the precision of the run."""
    dtype = getattr(leaf, "dtype", None)
    return dtype if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) else None


@functools.lru_cache(maxsize=128)
def _why_not(
    make: object, settings: Settings, form: Any, kinds: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...], name: str
) -> str:
    """Why an optimiser with numbers of these kinds cannot be stepped, or ""."""
    dtype = np.dtype(name)
    inner = (f"inner_{place}" for place in range(2, len(shapes) - 1))  # of a deep model
    names = ("H", "W", "b", *inner)
    body = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in zip(names, shapes, strict=True)}

    def step(numbers: dict[str, Any], body: dict[str, Any]) -> Any:
        optimizer = _built(make, numbers, settings)
        memory = optimizer.init(body)
        return memory, *optimizer.update(body, memory, body)

    with precision.scope(name):
        try:
            numbers = [jax.ShapeDtypeStruct((), dtype if kind is None else kind) for kind in kinds]
            memory, updates, after = jax.eval_shape(step, jax.tree.unflatten(form, numbers), body)
            same = jax.tree.map(
                lambda one, other: (one.shape, one.dtype) == (other.shape, other.dtype),
                (updates, after),
                (body, memory),
            )
            why = "" if jax.tree.all(same) else "its updates or its memory change their shape or type from step to step"
        except Exception as error:  # code from elsewhere may raise anything
            why = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    return why
