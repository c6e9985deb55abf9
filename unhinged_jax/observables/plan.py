"""From what a user asks for to what is evaluated at each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, precision
from unhinged_jax.labels import Labels
from unhinged_jax.model import LayerPeeled, State, settled
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.observables.parts import in_run, of_test, of_test_in_run, of_training
from unhinged_jax.observables.table import OBSERVABLES, ObservableSet, paper_observables
from unhinged_jax.observables.view import View

Observe = str | Iterable[str] | Mapping[str, Callable[[LayerPeeled, State], Any]] | None
ObservablePlan = tuple[tuple[str, Callable[[LayerPeeled, State], Any] | None], ...]


def why_not(name: str, model: LayerPeeled, splittable: bool) -> str | None:
    """Why an observable has no meaning for a model, or None."""
    needs = OBSERVABLES[name].needs
    if ("classes" in needs or needs == "every class") and not model.labels.classified:
        return "the targets are numbers, not classes; give `truth` to `targets` if samples have classes"
    if needs == "every class" and (empty := _empty_class(model.labels)) is not None:
        return f"class {empty} has no sample, and its mean is not known"
    if "held out" in needs and model.labels.held_out is None:
        return "no sample is held out; `hold_out` of the labels says which samples to test on"
    if needs == "balanced" and not (model.labels.balanced and model.linear and model.kernel is None):
        return "the subspaces are defined for balanced one-hot labels, a linear loss and no kernel"
    if "split" in needs:
        if model.depth > 2:
            return "the limit direction of a deep model is known only from some starts; ask `limit` for it"
        if not model.loss.linear:
            return "the limit direction is known only for a loss that is linear in the logits"
        if not splittable:
            return (
                "the limit direction is known only for proportional rates and for plain or momentum descent, and "
                "`simulate` needs reduce=True to keep it separately"
            )
        if model.kernel is not None and model.kernel.kind == "coordinates":
            return "the limit direction is not offered for a kernel between feature coordinates"
        if model.spherical and model.moves.W:
            return "spherical features with free prototypes have no known limit"
        if "free" in needs and (model.spherical or not model.moves.coupled):
            return "both features and prototypes must move"
    if name.endswith("_H") and "split" in needs and not model.moves.H:
        return "the features do not move"
    return None


def _empty_class(labels: Labels) -> int | None:
    """The first class without a sample, if labels are known and there is one."""
    index = labels.training().index
    if not _check.concrete(index):
        return None
    empty = np.flatnonzero(np.bincount(np.ravel(index), minlength=labels.classes) == 0)
    return int(empty[0]) if empty.size else None


def resolve(observe: Observe, model: LayerPeeled, splittable: bool) -> ObservablePlan:
    """What to observe, as a hashable plan of pairs (name, function), with None for the function of a built-in one.

    Raises:
        ValueError: for an unknown name, or an observable that has no meaning for this model.
    """
    if observe is None:
        observe = paper_observables
    asked = _asked(observe)
    custom = {name: function for name, function in asked.items() if function is not None}
    named = tuple(name for name, function in asked.items() if function is None)
    for name, function in custom.items():
        _check.function(f"observable {name!r}", function, "(model, state) -> array")
        _check.takes(f"observable {name!r}", function, ("model", "state"))
        if name in ("time", "reached"):
            raise ValueError(
                f"an observable cannot be called {name!r}: a table of a run already has that name; rename it."
            )
    for name in named:
        if name not in OBSERVABLES:
            guess = _check.nearest(name, OBSERVABLES)
            known = guess or f"; there are {', '.join(OBSERVABLES)}."
            raise ValueError(
                f"unknown observable {name!r}{known} One of your own is given in a mapping from names to functions "
                "(model, state)."
            )
    reasons = {name: why_not(name, model, splittable) for name in named}
    if not isinstance(observe, ObservableSet):
        for name, reason in reasons.items():
            if reason:
                raise ValueError(f"observable {name!r} has no meaning here: {reason}; leave it out.")
    kept = [(name, None) for name in named if reasons[name] is None]
    return (*kept, *custom.items())


def _asked(observe: Any) -> dict[str, Any]:
    """Name -> function, or None for a built-in one, from everything that may be given; names are plain strings."""
    if isinstance(observe, str):
        observe = (observe,)
    if isinstance(observe, (set, frozenset)):  # in an order that is the same in every run
        observe = sorted(observe, key=str)
    listed = isinstance(observe, Iterable) and getattr(observe, "shape", None) != () and not isinstance(observe, bytes)
    asked = dict(observe) if isinstance(observe, Mapping) else dict.fromkeys(map(_name, observe)) if listed else None
    if asked is None:
        raise ValueError(
            f"observe must be the name of an observable, a list of names, or a mapping from names to functions (model, "
            f"state) -> array, but got {_check.given(observe)}."
        )
    return {_name(name): function for name, function in asked.items()}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the name of an observable must be a string, but got {_check.given(name)}.")
    return str(name)  # NumPy's strings are not JAX's


def wants_split(plan: ObservablePlan) -> bool:
    """Whether any observable of the plan needs the state split along its limit."""
    return any(function is None and "split" in OBSERVABLES[name].needs for name, function in plan)


def refers_to_start(plan: ObservablePlan) -> bool:
    """Whether any observable of the plan is measured from the start of the run."""
    return any(function is None and name in ("gap_H", "gap_W") for name, function in plan)


def evaluate(plan: ObservablePlan, view: View) -> dict[str, jax.Array]:
    """Values of the planned observables at one moment of a run."""
    return _evaluated(plan, in_run(view), of_test_in_run)


def _evaluated(plan: ObservablePlan, view: View, of_test: Callable[[View], View]) -> dict[str, jax.Array]:
    values = {}
    for name, function in plan:
        if function is None:
            known = OBSERVABLES[name]
            values[name] = known.compute(view.once(of_test if "held out" in known.needs else of_training))
        else:
            values[name] = _arrays(name, function(view.model, settled(view.state())))
    return values


def _arrays(name: str, values: Any) -> Any:
    """What a function of one's own returned, with arrays for its numbers."""
    try:
        found = jax.tree.map(jnp.asarray, values)
    except TypeError:
        found = None
    if not jax.tree.leaves(found):
        raise ValueError(
            f"observable {name!r} must return an array, or dictionaries, lists or tuples of arrays, but returned "
            f"{_check.given(values)}."
        )
    return found


def observe_state(model: LayerPeeled, state: State, observe: Observe = None) -> dict[str, jax.Array]:
    """Observables of one given state.

    Args:
        model, state: The model and a state of it.
        observe: Names, or a mapping from names to functions (model, state) -> array; default: all that do not need the
            limit.

    Returns:
        Name -> value, in the precision of the state (NumPy arrays where that is not JAX's own). Distances to the limit
        need the run: ask `simulate` or `exact` for them.

    Raises:
        ValueError: for an unknown name, one that has no meaning for this model or needs a run, or a state of a wrong
            shape.

    Source: Zhou et al. 2023, Section 3 and Appendix C; collapse metrics as cited in `unhinged_jax.collapse`.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> state = uj.State(H=jnp.eye(2), W=jnp.eye(2), b=jnp.zeros(2))
        >>> uj.observe_state(model, state, "accuracy")
        {'accuracy': Array(1., dtype=float32)}
    """
    if observe is None:
        observe = ObservableSet(name for name, spec in OBSERVABLES.items() if "split" not in spec.needs)
    _check.kind("model", model, LayerPeeled)
    model.check_state(state)
    plan = resolve(observe, model, splittable=True)
    if wants_split(plan):
        raise ValueError("distances to the limit are known only in a run; ask `simulate` or `exact` for them.")
    name, outside = precision.of((state.H, state.W)), precision.current()
    precision.refuse_compiled(name, outside)
    with precision.scope(name):
        H, W, b, log_scale = (jnp.asarray(part, name) for part in (state.H, state.W, state.b, state.log_scale))
        inner = None if state.inner is None else jnp.asarray(state.inner, name)
        values = _evaluated(plan, View(model, DenseFeatures(H), W, b, log_scale, inner=inner), of_test)
    return precision.given_back(values, name, outside)
