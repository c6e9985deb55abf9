"""Which problems have a closed form, and in words why others have none."""

from __future__ import annotations

from typing import Any

import numpy as np

from unhinged_jax import _check, _request
from unhinged_jax.closed_form.aligned import why_turning
from unhinged_jax.closed_form.balance import why_not_balanced, why_not_squared
from unhinged_jax.closed_form.constant_gradient import why_not_constant
from unhinged_jax.closed_form.deep_starts import why_not_aligned, why_not_deep
from unhinged_jax.closed_form.expected import why_noise_rules_out
from unhinged_jax.closed_form.paced import why_not_paced
from unhinged_jax.dynamics import Descent, Dynamics, Flow, Nesterov, carried_by
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.schedules import Constant


class NoClosedForm(ValueError):
    """Raised for a dynamics that has no closed form; the message names the setting that rules it out."""


def why_no_closed_form(
    model: LayerPeeled, dynamics: Dynamics, expectations: bool = False, state: State | None = None
) -> str | None:
    """The setting that rules a closed form out, in words, or None; `expectations` count as one if that is said.

    Squared error and deep models have one from some starts only; whether it is one of them is said if `state` is given.
    """
    _request.check_kinds(model, dynamics)
    if isinstance(dynamics, Flow) and carried_by(dynamics) and (why := _why_not_damped(model, dynamics)):
        return why
    if isinstance(dynamics, Descent) and dynamics.memory is not None:
        if dynamics.optimizer is not None:
            return "a memory beside an optimizer is simulated only; leave out one of them, or use `simulate`."
        if dynamics.paced:
            return "a memory has no closed form where the norm of its gradient counts; use `simulate`."
    if model.depth > 2:
        why = why_not_deep(model, dynamics)
        return why_not_aligned(model, dynamics, state) if why is None and isinstance(state, State) else why
    if not model.loss.linear:
        why = why_not_squared(model, dynamics)
        return why_not_balanced(model, dynamics, state) if why is None and isinstance(state, State) else why
    if isinstance(dynamics, Flow) and not dynamics.proportional:
        return (
            "the rates of H and W are not proportional, so the matrices K at different times do not commute; "
            "use `simulate` or Descent."
        )
    if isinstance(dynamics, Flow) and model.moves.b and callable(dynamics.rate_b):
        return "`rate_b` of a flow is a function; give a number, or use `simulate` or Descent."
    if why := why_not_paced(model, dynamics):
        return why
    if not isinstance(dynamics, Flow) and dynamics.stochastic:
        return why_noise_rules_out(model, dynamics, expectations)
    if isinstance(dynamics, Descent) and dynamics.optimizer is not None:
        why = why_not_constant(model, dynamics)
        return why_turning(model, dynamics, state) if why is None and isinstance(state, State) else why
    if model.spherical and model.moves.W:
        return "spherical features with free prototypes are not linear; anchor the prototypes or use `simulate`."
    if model.spherical and carried_by(dynamics):
        return f"{carried_by(dynamics)} on spherical features has no closed form; use plain descent or `simulate`."
    return None


def _why_not_damped(model: LayerPeeled, flow: Flow) -> str | None:
    """What rules out a closed form of a flow with damping or of an average, in words, or None."""
    kind = "an average" if flow.memory is not None else "a flow with damping"
    if flow.memory is not None and flow.damping is not None:
        return (
            "an average of a flow with damping is simulated only; leave out `memory` or `damping`, or use `simulate`."
        )
    if not model.loss.linear or model.spherical:
        what = "spherical features" if model.spherical else f"the loss {type(model.loss).__name__}"
        return f"{kind} has a closed form if the force is linear in the state, but that of {what} is not."
    if flow.paced:
        return f"{kind} has no closed form where the norm of its gradient counts; use `simulate`."
    if not isinstance(flow.schedule, Constant):
        how = "give a constant rate, or use `simulate`."
        return f"with a schedule the modes of {kind} have no solution in closed form; {how}"
    return None


def why_not_from(dynamics: Dynamics, first: Any) -> str | None:
    """Why a run that begins at the time `first` has no closed form, in words, or None."""
    if not (isinstance(dynamics, Flow) and isinstance(dynamics.damping, Nesterov)):
        return None
    if _check.concrete(first) and np.all(np.asarray(first) == 0):
        return None
    return (
        "Nesterov's flow is solved from rest at the time 0, not from where another run ended; ask for all times at "
        "once, or use `simulate`."
    )
