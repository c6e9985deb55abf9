"""A state of the model, and its norm kept within the floating-point range."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax._values import Tabled, brief, in_a_line
from unhinged_jax.precision import of, scope
from unhinged_jax.special import faint


class _Zeros:
    """Stands for biases that were not given. None would not do: JAX puts it where a part of a tree is left out."""

    def __repr__(self) -> str:
        return "zeros"


_ZEROS = _Zeros()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State(Tabled):
    """Features H (n, p), prototypes W (C, p), biases b (C,), and the factors between H and W of a deep model.

    Attributes:
        H, W, b: The three parts: NumPy or JAX arrays, or anything that NumPy converts to an array. Types other than
            float32 and float64 are converted: 16 bits to float32, everything else to float64. Biases that are not
            given are zeros of the number type of W.
        log_scale: The state has features e^log_scale H and prototypes e^log_scale W, which allows norms beyond the
            floating-point range. b is never scaled. The default 0 serves wherever the norms fit.
        inner: The factors W_2, ..., W_{L-1} of a model of depth L > 2, (L-2, p, p), each to be multiplied by
            e^log_scale as well; None (default) for depth 2.

    Draw one with `LayerPeeled.init`.

    Raises:
        ValueError: for complex numbers, and for objects that do not hold numbers.

    Source: Zhou et al. 2023, Section 2; `log_scale` is beyond the paper.

    Example:
        >>> state = State(H=np.ones((6, 4)), W=np.ones((3, 4)))
        >>> state.replace(b=np.ones(3)).b.tolist()
        [1.0, 1.0, 1.0]
    """

    H: Float[Any, "... n p"]
    W: Float[Any, "... C p"]
    b: Float[Any, "... C"] = _ZEROS
    log_scale: Float[Any, "..."] = 0.0
    inner: Float[Any, "... l p p"] | None = dataclasses.field(default=None, metadata={"rare": True})

    def __post_init__(self) -> None:
        given = [name for name in ("H", "W", "b", "log_scale") if not isinstance(getattr(self, name), _Zeros)]
        _numbers.settle(self, (*given, *self.extra_names), _numbers.real, "state.")
        if "b" not in given:
            object.__setattr__(self, "b", _zeros_for(self.W))

    def __repr__(self) -> str:
        return in_a_line(self).replace(", inner=None)", ")")  # which a state of depth 2 does not have

    @property
    def extra_names(self) -> tuple[str, ...]:
        """("inner",) for a state of a deep model, else ()."""
        return () if self.inner is None else ("inner",)

    def factors(self) -> dict[str, Any]:
        """The arrays of the state by name: H, W and b, and of a deep model "inner_2", ..., "inner_{L-1}"."""
        named = {"H": self.H, "W": self.W, "b": self.b}
        if self.inner is not None:
            named |= {f"inner_{i + 2}": self.inner[..., i, :, :] for i in range(np.shape(self.inner)[-3])}
        return named

    def rows(self) -> dict[str, str]:
        """What a notebook shows: the arrays and the range of their norms over a batch."""
        said = {"log_scale": brief(self.log_scale)}
        for name, axes in (("H", 2), ("W", 2), ("b", 1), *((name, 3) for name in self.extra_names)):
            array = _memory.read(getattr(self, name))
            norms = np.sqrt(np.sum(np.square(array.astype(float)), axis=tuple(range(array.ndim - axes, array.ndim))))
            low, high = (f"{end(norms):.6g}" for end in (np.min, np.max))
            said[name] = f"{brief(array)}, norm {low}" + (f" to {high}" if norms.ndim else "")
        return said

    def replace(self, **changes: Any) -> State:
        """A copy with the named fields changed."""
        return dataclasses.replace(self, **changes)


def _zeros_for(W: Float[Any, "... C p"]) -> Float[Any, "... C"]:
    """Biases of zeros (..., C) for prototypes (..., C, p), of their number type and on their side, NumPy or JAX."""
    shape = _check.shape_of("state.W", W)
    if len(shape) < 2:
        raise ValueError(
            f"state.W must have shape (C, p), one row per class, but got {_check.given(W)}; give such prototypes, or "
            "biases as well."
        )
    if not isinstance(W, jax.Array):
        return np.zeros(shape[:-1], W.dtype)
    with scope(of(W)):
        return jnp.zeros(shape[:-1], W.dtype)


def settled(state: State) -> State:
    """The state with its scale multiplied in if that is safe; otherwise at norm 1 with the logarithm of its norm."""
    dtype = state.W.dtype
    log_max = float(np.log(np.finfo(dtype).max)) / 2
    safe = jnp.abs(state.log_scale) < log_max - 40
    inside = jnp.exp(jnp.where(safe, state.log_scale, 0.0))
    inner = None if state.inner is None else state.inner * inside
    return State(state.H * inside, state.W * inside, state.b, jnp.where(safe, 0.0, state.log_scale), inner)


def multiplied(state: State, power: ArrayLike = 0) -> tuple[Float[jax.Array, "n p"], Float[jax.Array, "C p"]]:
    """H and W with e^log_scale / 2^power multiplied in, also where that factor alone does not fit their type."""
    H, W = with_scale(state, (state.H, state.W), power)
    return H, W


def with_scale(state: State, parts: Sequence[jax.Array], power: ArrayLike = 0) -> list[jax.Array]:
    """Arrays in units of the state with e^log_scale / 2^power multiplied in, as in `multiplied`."""
    dtype = state.W.dtype
    bound = float(-np.log(np.finfo(dtype).tiny)) - 0.1
    log_two = jnp.log(jnp.asarray(2.0, dtype))
    exponent = jnp.asarray(state.log_scale, dtype) - jnp.asarray(power, dtype) * log_two
    third = jnp.exp(jnp.clip(exponent / 3, -bound, bound))
    return [part * third * third * third for part in parts]


def must_fit(state: State, precision: str, reduce: bool = True, small: bool = False) -> None:
    """Raise if e^log_scale H or e^log_scale W does not fit a precision. With `small`, small values always fit."""
    if not _check.concrete(state) or float(state.log_scale) == 0:
        return
    low, high = float(np.log(faint(precision))), float(np.log(np.finfo(precision).max))
    for name in ("H", "W", *state.extra_names):
        size = float(np.max(np.abs(_memory.read(getattr(state, name)).astype(float)), initial=0.0))
        if not 0 < size < np.inf:
            continue
        log = float(np.log(size)) + float(state.log_scale)
        if log > high or (log < low and not small):
            ways = ["precision='float64'"] if precision == "float32" else []
            ways += [] if reduce else ["reduce=True, which keeps the scale apart where it can,"]
            raise ValueError(
                f"e^log_scale times state.{name} has entries of the size e^{log:.4g}, but this calculation multiplies "
                f"the scale in, and {precision} holds sizes from e^{low:.0f} to e^{high:.0f} only; give "
                f"{' or '.join([*ways, 'a state of another scale'])}."
            )


def check_parts(state: State, samples: int, classes: int, dim: int, depth: int = 2) -> None:
    """Raise ValueError unless this is a single state of these sizes with finite numbers."""
    for name in ("H", "W", "b", "log_scale", *state.extra_names):
        _numbers.array(f"state.{name}", getattr(state, name))
    if (depth > 2) != (state.inner is not None):
        has = "a state with `inner` factors" if depth == 2 else "a state without `inner` factors"
        needs = "None" if depth == 2 else f"an array of shape {(depth - 2, dim, dim)}"
        raise ValueError(
            f"a model of depth {depth} needs {needs} as state.inner, but got {has}; draw one by `model.init`."
        )
    batch, sizes = np.shape(state.b)[:-1], ((samples, dim), (classes, dim), (classes,))
    if batch and tuple(np.shape(part) for part in (state.H, state.W, state.b)) == tuple(batch + s for s in sizes):
        raise ValueError(
            f"a single state is expected, but this is a batch of states of shape {batch}; map over it with jax.vmap, "
            "or take a member of it."
        )
    meanings = {"H": "samples x dim", "W": "classes x dim", "b": "one per class", "log_scale": "one number"}
    if depth > 2:
        meanings["inner"] = "factors between H and W x dim x dim"
    for (name, meaning), shape in zip(meanings.items(), (*sizes, (), (depth - 2, dim, dim)), strict=False):
        _check.shape(f"state.{name}", getattr(state, name), shape, meaning)
    for name in meanings:
        _check.finite(f"state.{name}", getattr(state, name), array=True)
