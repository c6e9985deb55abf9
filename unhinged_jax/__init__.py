"""Simulate, solve and differentiate the learning dynamics of layer-peeled models under the unhinged loss and beyond."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unhinged_jax.citation import citation as citation
    from unhinged_jax.closed_form import NoClosedForm as NoClosedForm
    from unhinged_jax.closed_form import exact as exact
    from unhinged_jax.comparison import Comparison as Comparison
    from unhinged_jax.comparison import verify as verify
    from unhinged_jax.derivatives import EventTime as EventTime
    from unhinged_jax.derivatives import Lyapunov as Lyapunov
    from unhinged_jax.derivatives import Parameter as Parameter
    from unhinged_jax.derivatives import event_time as event_time
    from unhinged_jax.derivatives import exact_exponents as exact_exponents
    from unhinged_jax.derivatives import hessian_spectrum as hessian_spectrum
    from unhinged_jax.derivatives import limit_sensitivity as limit_sensitivity
    from unhinged_jax.derivatives import lyapunov as lyapunov
    from unhinged_jax.derivatives import one_sided as one_sided
    from unhinged_jax.derivatives import push_forward as push_forward
    from unhinged_jax.derivatives import sensitivity as sensitivity
    from unhinged_jax.designs import DesignPlan as DesignPlan
    from unhinged_jax.designs import Outcome as Outcome
    from unhinged_jax.designs import design as design
    from unhinged_jax.dynamics import Descent as Descent
    from unhinged_jax.dynamics import Flow as Flow
    from unhinged_jax.dynamics import logspaced as logspaced
    from unhinged_jax.dynamics import steps as steps
    from unhinged_jax.labels import Labels as Labels
    from unhinged_jax.labels import balanced as balanced
    from unhinged_jax.labels import from_counts as from_counts
    from unhinged_jax.labels import from_labels as from_labels
    from unhinged_jax.labels import long_tailed as long_tailed
    from unhinged_jax.labels import soft as soft
    from unhinged_jax.labels import step_imbalanced as step_imbalanced
    from unhinged_jax.limits import Limit as Limit
    from unhinged_jax.limits import limit as limit
    from unhinged_jax.model import LayerPeeled as LayerPeeled
    from unhinged_jax.model import State as State
    from unhinged_jax.model import anchored as anchored
    from unhinged_jax.model import frozen as frozen
    from unhinged_jax.model import ntk_invariant as ntk_invariant
    from unhinged_jax.model import regularized as regularized
    from unhinged_jax.model import spherical as spherical
    from unhinged_jax.model import unconstrained as unconstrained
    from unhinged_jax.observables import all_observables as all_observables
    from unhinged_jax.observables import collapse_observables as collapse_observables
    from unhinged_jax.observables import observe_state as observe_state
    from unhinged_jax.observables import paper_observables as paper_observables
    from unhinged_jax.optimizers import rescale_by_feature_norm as rescale_by_feature_norm
    from unhinged_jax.schedules import constant as constant
    from unhinged_jax.schedules import cosine as cosine
    from unhinged_jax.schedules import exponential as exponential
    from unhinged_jax.schedules import numeric as numeric
    from unhinged_jax.schedules import piecewise as piecewise
    from unhinged_jax.schedules import polynomial as polynomial
    from unhinged_jax.schedules import warmup as warmup
    from unhinged_jax.simulation import simulate as simulate
    from unhinged_jax.sweeps import Plan as Plan
    from unhinged_jax.sweeps import SweepIncomplete as SweepIncomplete
    from unhinged_jax.sweeps import open_sweep as open_sweep
    from unhinged_jax.sweeps import sweep as sweep
    from unhinged_jax.trajectory import Result as Result
    from unhinged_jax.trajectory import Trajectory as Trajectory

# Names are imported when first used, so that `unhinged --help` need not wait for JAX.
_HOMES = {
    "citation": "citation",
    "derivatives": "EventTime Lyapunov Parameter event_time exact_exponents hessian_spectrum limit_sensitivity "
    "lyapunov one_sided push_forward sensitivity",
    "designs": "DesignPlan Outcome design",
    "dynamics": "Descent Flow logspaced steps",
    "closed_form": "NoClosedForm exact",
    "labels": "Labels balanced from_counts from_labels long_tailed soft step_imbalanced",
    "limits": "Limit limit",
    "model": "LayerPeeled State anchored frozen ntk_invariant regularized spherical unconstrained",
    "observables": "all_observables collapse_observables observe_state paper_observables",
    "optimizers": "rescale_by_feature_norm",
    "schedules": "constant cosine exponential numeric piecewise polynomial warmup",
    "simulation": "simulate",
    "sweeps": "Plan SweepIncomplete open_sweep sweep",
    "trajectory": "Result Trajectory",
    "comparison": "Comparison verify",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """`simulate`, `exact`, ... are functions that live in modules of the same name; the function keeps the name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
