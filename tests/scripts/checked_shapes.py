"""Run simulations and closed forms with every annotated shape of the core checked: `python checked_shapes.py`.

The core's functions check their arguments and results while they are traced, and its classes their fields when the
package builds one. What JAX builds is not looked at: it maps over trees whatever their leaves mean.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jaxtyping
import numpy as np
from beartype import beartype
from beartype.door import is_bearable

ROOMS = ("closed_form", "linear", "model", "observables", "simulation", "trajectory")
SEEN = ("distance", "loss", "nc1")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the import hook decorates functions with; fields are looked at by `watch`."""
    shapes = {name: hint for name, hint in function.__annotations__.items() if _is_shaped(hint)}
    if not shapes or function.__name__ == "__init__":
        return function
    function.__annotations__ = shapes
    return beartype(function)


def _is_shaped(hint: Any) -> bool:
    """Whether a type says something of shapes."""
    array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return array or any(map(_is_shaped, typing.get_args(hint)))


def _by_jax() -> bool:
    """Whether JAX builds an object, out of the leaves of a tree."""
    return sys._getframe(2).f_globals["__name__"].partition(".")[0] == "jax"


def watch(cls: type) -> None:
    """Let a class check the shapes of its fields, together, whenever one is built, but by JAX."""
    shapes = {name: hint for name, hint in typing.get_type_hints(cls).items() if _is_shaped(hint)}

    def look(built: Any) -> None:
        with jaxtyping.jaxtyped("context"):
            for name, hint in shapes.items():
                value = getattr(built, name)
                # Numbers of Python's stand for arrays of no axis, and arrays of NumPy for what a program makes of them.
                value = jax.numpy.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value
                if not isinstance(value, (int, float)) and not is_bearable(value, hint):
                    raise jaxtyping.TypeCheckError(f"{cls.__name__}.{name} is {value}, not {hint}")

    def made(kind: type, *args: Any, **fields: Any) -> Any:
        built = new(kind, *args, **fields)
        if not _by_jax():
            look(built)
        return built

    def begin(self: Any, *args: Any, **fields: Any) -> None:
        init(self, *args, **fields)
        if type(self) is cls and not _by_jax():
            look(self)

    new, init = cls.__new__, cls.__init__  # type: ignore[misc]
    if issubclass(cls, tuple):
        cls.__new__ = made  # type: ignore[method-assign]
    elif shapes:
        cls.__init__ = functools.wraps(init)(begin)  # type: ignore[misc]


def classes() -> Iterator[type]:
    """Every class with fields in the rooms that are checked."""
    for room in ROOMS:
        package = importlib.import_module(f"unhinged_jax.{room}")
        found = pkgutil.iter_modules(getattr(package, "__path__", []), f"{package.__name__}.")
        for module in (package, *(importlib.import_module(each.name) for each in found)):
            for _, cls in inspect.getmembers(module, inspect.isclass):
                fields = dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")
                if cls.__module__ == module.__name__ and fields:
                    yield cls


def problems() -> dict[str, tuple[Any, Any]]:
    """Name -> (model, dynamics): every form that a run can take, of tiny size."""
    import unhinged_jax as uj

    even, uneven = uj.balanced(classes=3, per_class=2), uj.from_counts([1, 3, 2])
    soft = uj.soft(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]]))
    theta = np.eye(6) + 0.1
    flow, fast = uj.Flow(), uj.Descent(0.05)
    heavy = uj.Descent(uj.cosine(0.1, 40.0), momentum=0.9)
    return {
        "balanced": (uj.regularized(even, 9, decay=0.1, bias=True), flow),
        "balanced, few dimensions": (uj.regularized(even, 4, decay=0.1), fast),
        "unequal": (uj.regularized(uneven, 8, decay=(0.1, 0.2)), heavy),
        "unequal, one moves": (uj.anchored(uneven, 4, decay=0.1), fast),
        "frozen": (uj.frozen(even, 4), flow),
        "noisy": (uj.unconstrained(uneven.symmetric_noise(0.1), 4), flow),
        "soft": (uj.unconstrained(soft, 4), fast),
        "kernel": (uj.ntk_invariant(even, 4, theta), flow),
        "kernel of coordinates": (uj.ntk_invariant(even, 2, np.eye(12)), fast),
        "sphere": (uj.spherical(even, 4), flow),
        "sphere, free": (uj.spherical(uneven, 4, free_prototypes=True), fast),
        "cross-entropy": (uj.regularized(even, 4, decay=0.1, loss="cross_entropy"), flow),
    }


def run_all() -> list[str]:
    """Simulate and, where there is a closed form, solve every problem; the names of those that are solved.

    Most of them are only traced, which is where shapes are. Two run to their end, because classes are known to be
    balanced outside of a trace alone, and go on, which updates do outside of one.
    """
    import jax

    import unhinged_jax as uj
    from unhinged_jax.closed_form.existence import why_no_closed_form
    from unhinged_jax.observables.table import ObservableSet

    solved, seen = [], ObservableSet(SEEN)
    for place, (name, (model, dynamics)) in enumerate(problems().items()):
        runs = [uj.simulate] if why_no_closed_form(model, dynamics) else [uj.simulate, uj.exact]
        solved += [name] * (len(runs) - 1)
        with jax.enable_x64(place % 2 == 0):
            state = model.init(jax.random.key(0))
            for run in runs:
                given = {"model": model, "dynamics": dynamics, "times": [0, 3, 6], "observe": seen, "states": True}
                jax.eval_shape(functools.partial(run, **given), state=state)
            if name in ("balanced", "unequal"):
                begun = uj.simulate(model, dynamics, state, [0, 3], "distance")
                uj.simulate(model, dynamics, begun, [6], "distance")
    model, dynamics = problems()["cross-entropy"]
    keys = jax.random.split(jax.random.key(1), 2)
    run = jax.vmap(lambda key: uj.simulate(model, dynamics, model.init(key), [0, 1], "norm"))
    assert jax.eval_shape(run, keys).final.H.shape == (2, 6, 4)
    return solved


def wrong_shapes() -> dict[str, Callable[[], Any]]:
    """What must not pass: arrays whose axes do not belong together."""
    import jax.numpy as jnp

    import unhinged_jax as uj
    from unhinged_jax.linear.row_space import row_space
    from unhinged_jax.observables.distance import Reference
    from unhinged_jax.observables.features import DenseFeatures
    from unhinged_jax.observables.view import View

    model = uj.unconstrained(uj.balanced(classes=3, per_class=2), 4)
    H, W, b, zero = jnp.ones((6, 4)), jnp.ones((3, 4)), jnp.ones(3), jnp.zeros(())
    space = row_space(model, W.dtype)
    return {
        "a field beside another": lambda: View(model, DenseFeatures(H), W.T, b, zero),
        "a field of a pytree": lambda: uj.State(np.ones((6, 4)), np.ones((3, 5)), np.ones(3)),
        "a field of a named tuple": lambda: Reference(b, zero, []),
        "a field that is replaced": lambda: uj.State(H, W, b).replace(b=H),
        "an argument": lambda: space.project(b),
        "an argument beside another": lambda: space.vector(W, W.T),
        "a type of number": lambda: space.gather(W.astype(int)),
    }


def caught(wrong: Callable[[], Any]) -> bool:
    """Whether a wrong shape is told of."""
    try:
        wrong()
    except jaxtyping.TypeCheckError:
        return True
    return False


def main() -> None:
    jaxtyping.install_import_hook([f"unhinged_jax.{room}" for room in ROOMS], "checked_shapes.checked")
    kinds = list(classes())
    for cls in kinds:
        watch(cls)
    wrong = {name: caught(attempt) for name, attempt in wrong_shapes().items()}
    names = [cls.__name__ for cls in kinds if any(map(_is_shaped, typing.get_type_hints(cls).values()))]
    print(json.dumps({"classes": names, "caught": wrong, "solved": run_all()}))


if __name__ == "__main__":
    main()
