"""The parameters that a person chose, and a problem as a function of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check
from unhinged_jax.derivatives.parameters import Parameter, Problem, available, is_number


def _instead(name: str, known: Mapping[str, Any]) -> str:
    """What an unknown name may have meant."""
    fields = [repr(other) for other in known if other.startswith("schedule.")]
    if name == "eta" and fields:
        return f": the schedule is not constant, and its numbers are {', '.join(fields)}."
    if name.startswith("schedule.") and "eta" in known:
        return ": the schedule is constant, and its rate is 'eta'."
    return _check.nearest(name, known) or "."


Choice = str | Parameter
"""A name among `available`, or your own `Parameter`."""


def chosen(parameters: Iterable[Choice] | Mapping[str, Any] | Choice | None, problem: Problem) -> list[Parameter]:
    """The requested parameters; None means every scalar one.

    Raises:
        ValueError: for a name that this problem does not have.
    """
    known = available(*problem)
    if parameters is None:
        return [p for p in known.values() if np.ndim(p.value) == 0]
    if isinstance(parameters, (str, Parameter)):
        parameters = (parameters,)
    if not isinstance(parameters, Iterable) or getattr(parameters, "shape", None) == ():
        raise ValueError(f"parameters must be a list of names or `Parameter`s, but got {_check.given(parameters)}.")
    found = []
    for entry in parameters:
        if not isinstance(entry, (str, Parameter)):
            raise ValueError(f"a parameter must be a name or a `Parameter`, but got {_check.given(entry)}.")
        if isinstance(entry, str) and entry not in known:
            meant = _instead(entry, known)
            raise ValueError(f"unknown parameter {entry!r}{meant} This problem has {', '.join(known)}.")
        found.append(known[str(entry)] if isinstance(entry, str) else entry)
    if not found:
        raise ValueError("there is no parameter to differentiate with respect to; name at least one.")
    names = [p.name for p in found]
    if len(set(names)) < len(names):
        raise ValueError(f"a parameter is named twice: {', '.join(names)}.")
    return found


def together(problem: Problem, parameters: Sequence[Parameter], theta: Mapping[str, Any]) -> Problem:
    """A problem as a function of several parameters, to be differentiated at their values.

    The change that each parameter makes is computed separately and the changes are added, so that none undoes
    another's: the derivative with respect to each is that with the others at their values.

        problem + sum_i [put_i(problem, theta_i) - put_i(problem, value_i)]

    Args:
        problem: Model, dynamics and state.
        parameters: As returned by `chosen`.
        theta: Values by name.

    Raises:
        ValueError: if two parameters change the same part in a form that cannot be added.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 2, decay=0.1)
        >>> both = chosen(["decay", "decay_H"], (model, uj.Flow(), model.init(jax.random.key(0))))
        >>> moved, _, _ = together((model, uj.Flow(), None), both, {"decay": 0.2, "decay_H": 0.3})
        >>> round(float(moved.decay_H), 6), round(float(moved.decay_W), 6)
        (0.4, 0.2)
    """
    if len(parameters) == 1:
        return parameters[0].put(problem, theta[parameters[0].name])
    for p in parameters:
        problem = p.put(problem, p.value)
    form: Any
    start, form = jax.tree.flatten(problem)
    leaves, owners, alone = list(start), dict[int, str](), []
    for p in parameters:
        here, before = (p.put(problem, value) for value in (theta[p.name], p.value))
        if all(form == jax.tree.structure(found) for found in (here, before)):
            moved, there = jax.tree.leaves(here), jax.tree.leaves(before)
            changed = [i for i, leaf in enumerate(start) if not (moved[i] is leaf and there[i] is leaf)]
            if all(_addable(start[i], moved[i], there[i]) for i in changed):
                for i in changed:
                    leaves[i] = leaves[i] + (moved[i] - there[i])
                    owners[i] = p.name
                continue
        alone.append(p)
    problem = jax.tree.unflatten(form, leaves)
    changes = [(leaves[i], name) for i, name in owners.items()]
    for p in alone:
        known = {id(leaf) for leaf in jax.tree.leaves(problem)}
        problem = p.put(problem, theta[p.name])
        after = jax.tree.leaves(problem)
        kept = {id(leaf) for leaf in after}
        lost = [name for leaf, name in changes if id(leaf) not in kept]
        if lost:
            raise ValueError(
                f"the parameters {lost[0]!r} and {p.name!r} replace the same part of the problem, and what they change "
                "cannot be added; ask for them one at a time."
            )
        changes += [(leaf, p.name) for leaf in after if id(leaf) not in known]
    return problem


def _addable(*leaves: Any) -> bool:
    return all(map(is_number, leaves)) and len({np.shape(leaf) for leaf in leaves}) == 1
