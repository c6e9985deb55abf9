"""Square roots of an optimiser with a derivative at 0.

Adam divides by the root of an average v of squares. Where a gradient g is exactly 0, so is v, and the chain rule
multiplies its derivative 2 g dg = 0 by the infinite one of the root: 0 times infinity, which is not a number. The root
itself, a multiple of |g|, has one-sided derivatives at 0, and what is divided by it is 0, so that any of them gives the
derivative of the update. Here it is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def _with_slope(function: Callable[[jax.Array], jax.Array], slope: Callable[[jax.Array], jax.Array]) -> Any:
    """A function of one array, whose derivative is `slope` of its value, and 0 at 0."""
    root = jax.custom_jvp(function)

    @root.defjvp
    def _jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x,), (tangent,) = primals, tangents
        there = x != 0
        return root(x), jnp.where(there, slope(root(jnp.where(there, x, 1))), 0) * tangent

    return root


_ROOTS = {
    jec.primitives.sqrt_p: _with_slope(jax.lax.sqrt, lambda root: 0.5 / root),
    jec.primitives.rsqrt_p: _with_slope(jax.lax.rsqrt, lambda root: -0.5 * root**3),
}


def with_slopes(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, whose updates have derivatives where a gradient is exactly 0.

    Example:
        >>> adam = optax.adam(0.1, eps=0.5)
        >>> step = with_slopes(adam).update
        >>> round(float(jax.grad(lambda g: step(g, adam.init(0.0))[0])(0.0)), 6)
        -0.2
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[Any, Any]:
        given = updates, state, params
        program, found = jax.make_jaxpr(transform.update, return_shape=True)(*given)
        leaves = _evaluated(program.jaxpr, program.consts, jax.tree.leaves(given))
        return jax.tree.unflatten(jax.tree.structure(found), leaves)

    return optax.GradientTransformation(transform.init, update)


def _evaluated(program: jec.Jaxpr, constants: list[Any], arguments: list[Any]) -> list[Any]:
    """What a program gives, with roots that have a derivative at 0, except inside loops and branches."""
    known = dict(zip((*program.constvars, *program.invars), (*constants, *arguments), strict=True))

    def read(each: Any) -> Any:
        return each.val if isinstance(each, jec.Literal) else known[each]

    for step in program.eqns:
        inputs = [read(each) for each in step.invars]
        if step.primitive in _ROOTS:
            found = [_ROOTS[step.primitive](*inputs)]
        elif step.primitive is jec.primitives.jit_p:
            inner = step.params["jaxpr"]
            found = _evaluated(inner.jaxpr, inner.consts, inputs)
        else:
            settings: Any = step.primitive.get_bind_params(step.params)
            functions, settings = settings if isinstance(settings, tuple) else ((), settings)  # as older JAX has it
            found = step.primitive.bind(*functions, *inputs, **settings)
            found = found if step.primitive.multiple_results else [found]
        known.update(zip(step.outvars, found, strict=True))
    return [read(each) for each in program.outvars]
