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
) -> Callable[[tuple[PyTree, ...]], Any]:
    """The function of a tuple of arguments, with a derivative in reverse mode by two compiled programs.

    Between them go lists of leaves, because a rate, for example, refuses the values that its derivative may have.

    Args:
        function: Of arrays and what is no array, to a tree of arrays.
        programs: Makes programs of a function.
        choose: From arguments to the options with which both are compiled.
    """

    def listed(leaves: list[PyTree], structure: Any) -> tuple[list[PyTree], Any]:
        return jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))

    def forward(perturbed: list[bool], leaves: list[PyTree], structure: Any) -> Any:
        """What the function returns, its pullback, and the shapes of what it takes."""
        moved, rest = eqx.partition(leaves, perturbed)

        def result(moved: list[PyTree]) -> Any:
            found, form = listed(eqx.combine(moved, rest), structure)
            slopes, others = eqx.partition(found, eqx.is_inexact_array)
            return slopes, (others, form)

        found, pull, (others, form) = jax.vjp(result, moved, has_aux=True)
        return (eqx.combine(found, others), form), pull, jax.tree.map(jax.typeof, found)

    onwards, back = programs(forward), programs(_back)

    @eqx.filter_custom_vjp
    def run(leaves: list[PyTree], structure: Any) -> Any:
        return listed(leaves, structure)

    @run.def_fwd
    def fwd(perturbed: list[bool], leaves: list[PyTree], structure: Any) -> Any:
        leaves = [jnp.asarray(leaf) if moved else leaf for moved, leaf in zip(perturbed, leaves, strict=True)]
        options = choose(jax.tree.unflatten(structure, leaves))
        out, pull, shapes = onwards(options)(perturbed, leaves, structure)
        return out, (pull, shapes, options)

    @run.def_bwd
    def bwd(residuals: PyTree, slopes: PyTree, *_: Any) -> Any:
        pull, shapes, options = residuals
        return back(options if _check.untransformed() else ())(pull, shapes, slopes[0])

    def call(args: tuple[PyTree, ...]) -> Any:
        leaves, structure = jax.tree.flatten(args)
        found, form = run(leaves, structure)
        return jax.tree.unflatten(form, found)

    return call


def _back(pull: Callable[[Any], Any], shapes: list[PyTree], slopes: list[PyTree]) -> Any:
    """The pullback of slopes, where None stands for zeros."""

    def filled(shape: PyTree, slope: PyTree) -> Any:
        return None if shape is None else jnp.zeros(shape.shape, shape.dtype) if slope is None else slope

    return pull([filled(*pair) for pair in zip(shapes, slopes, strict=True)])[0]
