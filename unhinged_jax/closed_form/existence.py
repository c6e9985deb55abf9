"""Which problems have a closed form, and in words why others have none."""

from __future__ import annotations

from unhinged_jax import _request
from unhinged_jax.closed_form.balance import why_not_balanced, why_not_squared
from unhinged_jax.closed_form.constant_gradient import why_not_constant
from unhinged_jax.closed_form.expected import why_noise_rules_out
from unhinged_jax.closed_form.paced import why_not_paced
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.model import LayerPeeled, State


class NoClosedForm(ValueError):
    """Raised for a dynamics that has no closed form; the message names the setting that rules it out."""


def why_no_closed_form(
    model: LayerPeeled, dynamics: Dynamics, expectations: bool = False, state: State | None = None
) -> str | None:
    """The setting that rules a closed form out, in words, or None; `expectations` count as one if that is said.

    Squared error has one from some starts only; whether it is such a start is said if `state` is given.
    """
    _request.check_kinds(model, dynamics)
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
        return why_not_constant(model, dynamics)
    if model.spherical and model.moves.W:
        return "spherical features with free prototypes are not linear; anchor the prototypes or use `simulate`."
    if model.spherical and isinstance(dynamics, Descent) and dynamics.momentum is not None:
        return "momentum on spherical features has no closed form; use plain descent or `simulate`."
    return None
