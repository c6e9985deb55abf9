"""Reverse mode by two programs that are compiled like any other: the run, and the way back.

JAX takes no options of the compiler below `jax.grad`, and optimizes both programs of a derivative fully, which for a
small run takes as long as everything else. So the rule says here what JAX would do: y and the residuals r of x from one
program, and dL/dx = J(r)ᵀ dL/dy from another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax._request.kept import written

Programs = Callable[[Any], Callable[..., Any]]
"""From options of the compiler to a function that is compiled with them."""


def directly_below_grad(args: PyTree) -> bool:
    """Whether `jax.grad` or `jax.vjp` alone is at work, on these arguments only, so that there are numbers behind them.

    A function of the user's own, which might read a traced number from elsewhere, is none of them.
    """
    traced = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.core.Tracer)]
    found = [getattr(leaf, "primal", leaf) for leaf in traced if type(leaf).__name__ == "LinearizeTracer"]
    return bool(traced) and len(found) == len(traced) and _check.concrete(found) and written(args) is not None


def in_reverse(
    function: Callable[..., Any], programs: Callable[[Callable[..., Any]], Programs], choose: Callable[..., Any]
) -> Callable[[tuple[Any, ...]], Any]:
    """The function of a tuple of arguments, with a derivative in reverse mode by two compiled programs.

    Args:
        function: Of arrays and what is no array, to a tree of arrays.
        programs: Makes programs of a function.
        choose: From arguments to the options with which both are compiled.
    """

    @eqx.filter_custom_vjp
    def run(args: tuple[Any, ...]) -> Any:
        return function(*args)

    forward, back = programs(_forward_of(function)), programs(_back)

    @run.def_fwd
    def fwd(perturbed: PyTree, args: tuple[Any, ...]) -> Any:
        args = jax.tree.map(lambda moved, leaf: jnp.asarray(leaf) if moved else leaf, perturbed, args)  # also a float
        options = choose(args)
        out, pull, shapes = forward(options)(perturbed, args)
        return out, (pull, shapes, options)

    @run.def_bwd
    def bwd(residuals: PyTree, slopes: PyTree, *_: Any) -> Any:
        pull, shapes, options = residuals
        return back(options if _check.untransformed() else ())(pull, shapes, slopes)

    return run


def _forward_of(function: Callable[..., Any]) -> Callable[..., Any]:
    def forward(perturbed: PyTree, args: tuple[Any, ...]) -> Any:
        """What the function returns, its pullback, and the shapes of what it takes."""
        moved, rest = eqx.partition(args, perturbed)

        def result(moved: Any) -> Any:
            return eqx.partition(function(*eqx.combine(moved, rest)), eqx.is_inexact_array)

        found, pull, others = jax.vjp(result, moved, has_aux=True)
        return eqx.combine(found, others), pull, jax.tree.map(jax.typeof, found)

    return forward


def _back(pull: Callable[[Any], Any], shapes: PyTree, slopes: PyTree) -> Any:
    """The pullback of slopes, where None stands for zeros."""

    def filled(shape: Any, slope: Any) -> Any:  # None is a whole tree below a leaf of `shapes`
        return jnp.zeros(shape.shape, shape.dtype) if slope is None else slope

    return pull(jax.tree.map(filled, shapes, slopes))[0]
