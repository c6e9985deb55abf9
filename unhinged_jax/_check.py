"""Argument checks: every message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _memory


@functools.cache
def _outermost() -> Any:
    """The state of JAX's tracing outside every transformation, as a new thread has it."""
    state = getattr(jax.core, "get_opaque_trace_state", object)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(state).result()


def untransformed() -> bool:
    """Whether no jax.jit, jax.grad, jax.vmap or the like is at work around this call.

    Even if all arguments are numbers, what a schedule or a loss reads from elsewhere may be traced by one of them.
    """
    return getattr(jax.core, "get_opaque_trace_state", object)() == _outermost()


def concrete(value: PyTree) -> bool:
    """Whether `value` holds known numbers (it is not being traced)."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def differentiated(tree: PyTree) -> bool:
    """Whether a leaf is being differentiated."""
    return any(type(leaf).__name__ in ("JVPTracer", "LinearizeTracer") for leaf in jax.tree.leaves(tree))


def known(value: ArrayLike) -> np.ndarray | None:
    """The numbers of an array: those of all members if `jax.vmap` alone traces it, None if they are not known."""
    if not isinstance(value, jax.core.Tracer) or differentiated(value):
        return None if isinstance(value, jax.core.Tracer) else _memory.read(value)
    found: list[np.ndarray | None] = []

    @jax.custom_batching.custom_vmap
    def look(value: ArrayLike) -> ArrayLike:
        return value

    @look.def_vmap
    def _seen(_size: int, batched: list[bool], value: ArrayLike) -> tuple[ArrayLike, bool]:
        found.append(known(value))
        return value, batched[0]

    look(value)
    return found[0] if found else None


def shown(value: npt.ArrayLike) -> str:
    """A value in a message: the number itself, or the range of an array."""
    if np.ndim(value) == 0:
        return str(value)
    return f"entries from {np.min(value):g} to {np.max(value):g}" if np.size(value) else "no entries"


def given(value: object) -> str:
    """What was given, in a few words on one line: short values in full, everything else by its kind.

    Example:
        >>> given("loss"), given(np.ones((2, 3))), given(len), given(Exception())
        ("'loss'", 'an array of shape (2, 3) and type float64', 'the function len', 'an Exception')
    """
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"JAX keys of shape {value.shape}" if value.shape else "a JAX key"
    if isinstance(value, (np.ndarray, jax.Array)) and (value.shape or isinstance(value, jax.core.Tracer)):
        kind = "a traced" if isinstance(value, jax.core.Tracer) else "an"
        kind = "a masked" if isinstance(value, np.ma.MaskedArray) else kind
        return f"{kind} array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, (str, bytes, int, float, complex, list, tuple, dict, set, np.generic, np.ndarray)):
        text = " ".join(repr(value).split())
        return text if len(text) <= 80 else f"{text[:77]}..."
    if value is None or isinstance(value, jax.Array):
        return str(value)
    name = getattr(value, "__name__", None)
    if callable(value) and isinstance(name, str):
        return f"the function {name}"
    return _one(type(value).__name__)


def _one(name: str) -> str:
    if name == "Labels":
        return name
    return f"an {name}" if name[0].lower() in "aeio" else f"a {name}"


_WAYS = {
    "LayerPeeled": "build one with `regularized`, `unconstrained`, `spherical`, ...",
    "Labels": "build them with `balanced`, `from_counts`, `from_labels`, ...",
    "State": "use `model.init(key)`",
    "Flow": "write `Flow(rate)` or `Descent(rate)`",
    "Trajectory": "use what `simulate` or `exact` returns",
    "Loss": "give a name or a function of (logits, targets) to a constructor such as `unconstrained`",
    "SweepPlan": "use `SweepPlan.read(path)` or `SweepPlan.of(tables)`",
    "DesignPlan": "use `DesignPlan.read(path)` or `DesignPlan.of(tables)`",
    "ClassStatistics": "use `class_statistics(H, labels, classes)`",
    "Kernel": "give an array to `ntk_invariant` or to `replace`",
}


def kind(name: str, value: object, *kinds: type) -> None:
    """Raise unless `value` is an object of one of these classes, and say how to obtain one."""
    if isinstance(value, kinds):
        return
    names = [_one(each.__name__) for each in kinds]
    wanted = " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    way = _WAYS.get(kinds[0].__name__, "look at its documentation")
    if kinds[0].__name__ == "State" and hasattr(value, "final"):
        way = "give its `final`, or one of its `states`"
    if isinstance(value, type) and value in kinds:
        way = f"call it, as in `{value.__name__}(...)`"
    raise ValueError(f"{name} must be {wanted}, but got {given(value)}; {way}.")


def flag(name: str, value: object) -> bool:
    """The value as a bool, or raise unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, but got {given(value)}.")
    return bool(value)


def key(name: str, value: object) -> None:
    """Raise unless `value` is one JAX key, new or raw."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(value, (jax.Array, np.ndarray)) and dtype is not None:
        new = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        if (new and shape == ()) or (dtype == np.uint32 and shape in ((2,), (4,))):
            return
        if new:
            raise ValueError(f"{name} must be one JAX key, but got {given(value)}; map over them with jax.vmap.")
    raise ValueError(f"{name} must be a JAX key, such as jax.random.key(0), but got {given(value)}.")


def function(name: str, value: object, meaning: str) -> None:
    """Raise unless `value` can be called and is hashable, as compiled programs require."""
    if not callable(value) or isinstance(value, type):
        way = f"; call it, as in `{value.__name__}(...)`." if isinstance(value, type) else "."
        raise ValueError(f"{name} must be a function {meaning}, but got {given(value)}{way}")
    if jax.tree_util.all_leaves([value]) and not hashable(value):
        raise ValueError(
            f"{name} is not hashable, so compiled programs cannot be cached for it; use a function, or register "
            f"{type(value).__name__} with jax.tree_util.register_dataclass, so that its numbers become data."
        )


def takes(name: str, value: Any, arguments: tuple[str, ...]) -> None:
    """Raise unless a function can be called with so many arguments by place; what has no signature passes."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        called = ", ".join(arguments)
        raise ValueError(
            f"{name} is called with ({called}), but its function takes {signature}; let it take these "
            f"{len(arguments)} arguments by place, and give any other one a default."
            if len(arguments) > 1
            else f"{name} is called with one argument, {called}, but its function takes {signature}; let it take this "
            "argument by place, and give any other one a default."
        ) from None


def path(name: str, value: object) -> Path:
    """The value as a path, or raise unless it is one, or a text."""
    if not isinstance(value, (str, os.PathLike)) or str(value) == "":
        raise ValueError(f"{name} must be a path, but got {given(value)}.")
    return Path(value)


def hashable(value: object) -> bool:
    """Whether an object is hashable."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def real(name: str, value: object, array: bool = False) -> np.ndarray:
    """The entries as a NumPy array, or raise unless they are real numbers (not truth values, complex numbers or text).

    A list holds several numbers, so it is refused unless an `array` may be given.
    """
    what = "hold real numbers" if array else "be a real number"
    if isinstance(value, (list, tuple)) and not array:
        raise ValueError(f"{name} must {what}, but got {given(value)}.")
    try:
        found = _memory.read(value)
    except (TypeError, ValueError):  # a key; rows of different lengths
        raise ValueError(f"{name} must {what}, but got {given(value)}.") from None
    if not (found.dtype.kind in "fiu" or jnp.issubdtype(found.dtype, jnp.floating)):
        raise ValueError(f"{name} must {what}, but got {given(value)}.")
    return found


def non_negative(
    name: str, value: npt.ArrayLike, hint: str = "use a number of at least 0", array: bool = False
) -> None:
    """Raise unless every entry is finite and at least 0. Traced values are not checked."""
    if not (type(value) is float and 0 <= value < math.inf) and concrete(value):
        entries = real(name, value, array)
        if not np.all(np.isfinite(entries)) or np.any(entries < 0):
            raise ValueError(f"{name} must be finite and at least 0, but got {shown(value)}; {hint}.")


def positive(name: str, value: npt.ArrayLike, hint: str = "use a number above 0", array: bool = False) -> None:
    """Raise unless every entry is finite and above 0. Traced values are not checked."""
    if not (type(value) is float and 0 < value < math.inf) and concrete(value):
        entries = real(name, value, array)
        if not np.all(np.isfinite(entries)) or np.any(entries <= 0):
            raise ValueError(f"{name} must be finite and above 0, but got {shown(value)}; {hint}.")


def finite(name: str, value: npt.ArrayLike, array: bool = False) -> None:
    """Raise if any entry is NaN or infinite. Traced values are not checked."""
    if concrete(value) and (bad := int(np.sum(~np.isfinite(real(name, value, array))))):
        raise ValueError(
            f"{name} must hold finite numbers, but {bad} of its {np.size(value)} entries are NaN or infinite; repair "
            "the array before the run."
        )


def shape(name: str, value: npt.ArrayLike, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless `value` has the expected shape; `meaning` names the axes for the reader."""
    got = shape_of(name, value)
    if got != expected:
        raise ValueError(f"{name} must have shape {expected} ({meaning}), but got {got}.")


def shape_of(name: str, value: npt.ArrayLike) -> tuple[int, ...]:
    """The shape of a number or an array, or raise for anything without a shape."""
    try:
        return tuple(np.shape(value))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array, but got {given(value)}.") from None


def nearest(name: str, known: Collection[str]) -> str:
    """What to add to a message about an unknown name: the known name that may have been meant, or nothing.

    Case is ignored, and names that begin like the given one come first.

    Example:
        >>> nearest("NC3", ["nc1", "unc3", "nc3_self_duality"]), nearest("x", ["norm"])
        ("; did you mean 'nc3_self_duality'?", '')
    """
    given = name.lower()
    lower = {each.lower(): each for each in known}
    near = [lower[given]] if given in lower else []
    if len(given) > 1:
        near = near or [each for key, each in lower.items() if key.startswith(given)][:4]
    near = near or [lower[key] for key in difflib.get_close_matches(given, list(lower), n=1, cutoff=0.5)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def choice(name: str, value: object, allowed: tuple[Any, ...]) -> Any:
    """The one of `allowed` that equals `value` (JAX does not accept NumPy's strings), or raise."""
    plain = isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)
    if not plain or value not in allowed:
        listed = ", ".join(repr(a) for a in allowed)
        guess = nearest(value, [a for a in allowed if isinstance(a, str)]) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {listed}, but got {given(value)}{guess or '.'}")
    return allowed[allowed.index(value)]


def whole(name: str, value: object, least: int, most: int = 2**63 - 1) -> int:
    """Return `value` as an int, or raise unless it is a whole number of at least `least`, and at most `most`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but got {given(value)}.")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, but got {given(value)}.")
    return int(value)


MAX_SEED = 2**31 - 1
"""Seeds are traced as 32-bit integers, in which a larger one would become a different seed."""


def seed(name: str, value: object) -> Any:
    """The seed, or raise unless it is a whole number from 0 to `MAX_SEED`. Traced ones, of a sweep, are not checked."""
    return value if not concrete(value) else whole(name, value, 0, MAX_SEED)


def labels(name: str, value: npt.ArrayLike, classes: int) -> None:
    """Raise unless `value` holds integers in 0 ... C-1. Traced labels pass, if they are integers."""
    dtype = getattr(value, "dtype", None) or real(name, value, array=True).dtype
    if not jnp.issubdtype(dtype, np.integer):
        raise ValueError(f"{name} must hold integer labels, but got {dtype}; give class numbers 0 ... {classes - 1}.")
    if concrete(value) and np.size(value):
        array = _memory.read(value)
        if array.min() < 0 or array.max() >= classes:
            raise ValueError(
                f"{name} must hold labels in 0 ... {classes - 1} for {classes} classes, but they range from "
                f"{array.min()} to {array.max()}; renumber them or raise the number of classes."
            )
