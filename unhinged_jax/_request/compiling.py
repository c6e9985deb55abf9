"""How programs are compiled: on CPUs, with less optimization where compiling takes longer than what it would save."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax

from unhinged_jax import _check
from unhinged_jax._garbage import rarely_collected
from unhinged_jax._request.kept import kept
from unhinged_jax._request.reverse import directly_below_grad, in_reverse
from unhinged_jax._terminal import compiling_told
from unhinged_jax.dynamics import Flow
from unhinged_jax.model import LayerPeeled

Options = tuple[tuple[str, Any], ...]
"""Names of options of XLA with their values; none for full optimization."""

_SMALL = 1 << 15  # numbers in all arrays of a problem
_OLDER_KERNELS: Options = (("xla_cpu_use_fusion_emitters", False),)  # while XLA has them, they compile in half the time
_LESS: Options = (*_OLDER_KERNELS, ("xla_backend_optimization_level", 1))
_NONE: Options = (*_OLDER_KERNELS, ("xla_backend_optimization_level", 0))
_LIGHT = 1 << 21  # numbers; a program that computes no more takes ten milliseconds longer without any optimization

_Function = TypeVar("_Function", bound=Callable[..., Any])


def lean(function: _Function, level: int = 1) -> _Function:
    """The function, compiled by `equinox.filter_jit` with less optimization on CPUs; at level 0 with none.

    Inside jax.jit, jax.grad or jax.vmap it is fully optimized, because JAX allows no such options there.
    """
    program = _programs(function)
    options = (*_OLDER_KERNELS, ("xla_backend_optimization_level", level))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with compiling_told(), rarely_collected():
            return program(options if _check.untransformed() else ())(*args, **kwargs)

    return call  # type: ignore[return-value]


def compiled(
    work: Callable[..., float] | None = None, reversible: Callable[..., bool] | None = None
) -> Callable[[_Function], _Function]:
    """A decorator: the function is compiled by `equinox.filter_jit`, for small problems with less optimization on CPUs.

    Of a linear loss, programs with little work are not optimized at all: they compile in six tenths of the time, and
    take ten milliseconds instead of four. Others lose at most a tenth to less optimization. Flows of other losses lose
    a third to the older kernels, as much as they gain by being one array for the solver. Other descents would take half
    as long again, and are fully optimized.

    Args:
        work: From the arguments of the function to about how many numbers it computes, counting those of a loop once
            per step; None if that is not known.
        reversible: From the arguments to whether reverse mode is the only mode in which the function can be
            differentiated; None for never.
    """

    def decorated(function: _Function) -> _Function:
        program = _programs(function)

        def choose(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Options:
            return _options_for(args, work is not None and work(*args, **kwargs) <= _LIGHT)

        backwards = in_reverse(function, _programs, lambda args: choose(args, {}))

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with compiling_told(), rarely_collected():
                if reversible is not None and reversible(*args) and directly_below_grad(args):
                    return backwards(args)
                return program(choose(args, kwargs))(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorated


def read_off(model: LayerPeeled, times: int) -> int:
    """How many numbers are computed to read observables at some times, for `work`."""
    return times * model.samples * (model.classes + model.dim)


def _programs(function: Callable[..., Any]) -> Callable[[Options], Any]:
    """Options -> the function, to be compiled with them."""

    @functools.cache
    def program(options: Options) -> Any:
        jit: Any = eqx.filter_jit  # its types leave out the options of jax.jit
        known = _known(options)
        jitted = jit(function, compiler_options=known)

        def call(*args: Any, **kwargs: Any) -> Any:
            whole = kept(function, known, args, kwargs)
            return jitted(*args, **kwargs) if whole is None else whole()

        return call

    return program


def _options_for(args: tuple[Any, ...], light: bool) -> Options:
    few = sum(leaf.size for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array)) <= _SMALL
    if not few or not _check.untransformed():
        return ()
    parts = list(_parts(args))
    if all(part.loss.linear for part in parts if isinstance(part, LayerPeeled)):
        return _NONE if light else _LESS
    return _OLDER_KERNELS if any(isinstance(part, Flow) for part in parts) else ()


def _parts(args: tuple[Any, ...]) -> Iterator[Any]:
    for arg in args:
        yield from _parts(arg) if isinstance(arg, tuple) else (arg,)


@functools.cache
def _known(options: Options) -> dict[str, Any] | None:
    chosen = any(name in os.environ.get("XLA_FLAGS", "") for name, _ in options)  # by the user, whose choice holds
    if not options or chosen or jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=dict(options))()
    except jax.errors.JaxRuntimeError:  # an option no longer exists
        return None
    return dict(options)
