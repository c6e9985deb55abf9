"""How programs are compiled: on CPUs, with less optimization where compiling takes longer than what it would save."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax._terminal import compiling_told

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
    """The function of a job, compiled by `equinox.filter_jit`; small linear problems with less optimization on CPUs.

    A job has a `model` and arrays. For a linear loss the run itself costs little, and reading it, which is compiled for
    seconds, keeps its speed. Other losses lose up to half of theirs.
    """
    full, less = eqx.filter_jit(function), lean(function)

    @functools.wraps(function)
    def call(job: Any, *args: Any, **kwargs: Any) -> Any:
        if _small(job):
            return less(job, *args, **kwargs)
        with compiling_told():
            return full(job, *args, **kwargs)

    return call  # type: ignore[return-value]


def _small(job: Any) -> bool:
    leaves = [*jax.tree.leaves(job), jnp.zeros(())]  # a tracer inside jax.jit, whatever the job holds
    few = sum(leaf.size for leaf in leaves if isinstance(leaf, jax.Array)) <= _SMALL
    return few and job.model.loss.linear and _check.concrete(leaves)


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
