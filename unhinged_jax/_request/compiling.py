"""How programs are compiled: on CPUs, with less optimization where compiling takes longer than what it would save."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax._terminal import compiling_told
from unhinged_jax.model import LayerPeeled

_SMALL = 1 << 15  # numbers in all arrays of a problem
# This level keeps small programs as fast, and XLA's older kernels take half the time to compile while they exist.
_LESS = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def lean(function: _Function) -> _Function:
    """The function, compiled by `equinox.filter_jit` with less optimization on CPUs.

    It is not for calls inside jax.jit, jax.grad or jax.vmap, where JAX allows no such options.
    """

    @functools.cache
    def program() -> Any:
        jit: Any = eqx.filter_jit  # its types leave out the options of jax.jit
        return jit(function, compiler_options=_options())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with compiling_told():
            return program()(*args, **kwargs)

    return call  # type: ignore[return-value]


def compiled(function: _Function) -> _Function:
    """The function, compiled by `equinox.filter_jit`; for small linear problems with less optimization on CPUs.

    For a linear loss the run itself costs little, and reading it, which is compiled for seconds, keeps its speed. Other
    losses would lose up to half of theirs.
    """
    full, less = eqx.filter_jit(function), lean(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _small(args):
            return less(*args, **kwargs)
        with compiling_told():
            return full(*args, **kwargs)

    return call  # type: ignore[return-value]


def _small(args: tuple[Any, ...]) -> bool:
    """Whether nothing is traced, the arrays are small, and the model among the arguments has a linear loss."""
    leaves = [*jax.tree.leaves(args), jnp.zeros(())]  # a tracer inside jax.jit, whatever the arguments hold
    few = sum(leaf.size for leaf in leaves if isinstance(leaf, jax.Array)) <= _SMALL
    return few and _check.concrete(leaves) and any(model.loss.linear for model in _models(args))


def _models(args: tuple[Any, ...]) -> Iterator[LayerPeeled]:
    for arg in args:
        if isinstance(arg, LayerPeeled):
            yield arg
        elif isinstance(arg, tuple):
            yield from _models(arg)


@functools.cache
def _options() -> dict[str, Any] | None:
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.default_backend() != "cpu" or any(name in flags for name in _LESS):  # the user's own choice holds
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_LESS)()
    except jax.errors.JaxRuntimeError:  # an option no longer exists
        return None
    return _LESS
