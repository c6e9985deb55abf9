"""Simulate, solve and differentiate the learning dynamics of layer-peeled models under the unhinged loss and beyond."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from unhinged_jax.designs import DesignOutcome as DesignOutcome
    from unhinged_jax.designs import DesignPlan as DesignPlan
    from unhinged_jax.designs import design as design
    from unhinged_jax.dynamics import AggregatedMomentum as AggregatedMomentum
    from unhinged_jax.dynamics import Descent as Descent
    from unhinged_jax.dynamics import Diffusion as Diffusion
    from unhinged_jax.dynamics import Flow as Flow
    from unhinged_jax.dynamics import Lookahead as Lookahead
    from unhinged_jax.dynamics import MovingAverage as MovingAverage
    from unhinged_jax.dynamics import Optimistic as Optimistic
    from unhinged_jax.dynamics import PolyakAverage as PolyakAverage
    from unhinged_jax.dynamics import QuasiHyperbolic as QuasiHyperbolic
    from unhinged_jax.dynamics import ScheduleFree as ScheduleFree
    from unhinged_jax.ensembles import Agreement as Agreement
    from unhinged_jax.ensembles import ensemble as ensemble
    from unhinged_jax.labels import Labels as Labels
    from unhinged_jax.labels import balanced as balanced
    from unhinged_jax.labels import from_counts as from_counts
    from unhinged_jax.labels import from_labels as from_labels
    from unhinged_jax.labels import long_tailed as long_tailed
    from unhinged_jax.labels import soft as soft
    from unhinged_jax.labels import step_imbalanced as step_imbalanced
    from unhinged_jax.labels import targets as targets
    from unhinged_jax.limits import Limit as Limit
    from unhinged_jax.limits import Survivors as Survivors
    from unhinged_jax.limits import limit as limit
    from unhinged_jax.measurement import Collapse as Collapse
    from unhinged_jax.measurement import Measurement as Measurement
    from unhinged_jax.measurement import measure as measure
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
    from unhinged_jax.observables import layer_alignments as layer_alignments
    from unhinged_jax.observables import layer_norms as layer_norms
    from unhinged_jax.observables import layer_scatter_ratios as layer_scatter_ratios
    from unhinged_jax.observables import layer_unbalance as layer_unbalance
    from unhinged_jax.observables import moment_observables as moment_observables
    from unhinged_jax.observables import observe_state as observe_state
    from unhinged_jax.observables import paper_observables as paper_observables
    from unhinged_jax.optimizers import Optimizer as Optimizer
    from unhinged_jax.optimizers import clipped_descent as clipped_descent
    from unhinged_jax.optimizers import normalized_descent as normalized_descent
    from unhinged_jax.optimizers import rescale_by_feature_norm as rescale_by_feature_norm
    from unhinged_jax.optimizers import spectral_descent as spectral_descent
    from unhinged_jax.plots import plot as plot
    from unhinged_jax.references import citation as citation
    from unhinged_jax.schedules import constant as constant
    from unhinged_jax.schedules import cosine as cosine
    from unhinged_jax.schedules import exponential as exponential
    from unhinged_jax.schedules import join as join
    from unhinged_jax.schedules import logspaced as logspaced
    from unhinged_jax.schedules import numeric as numeric
    from unhinged_jax.schedules import piecewise as piecewise
    from unhinged_jax.schedules import polynomial as polynomial
    from unhinged_jax.schedules import steps as steps
    from unhinged_jax.schedules import warmup as warmup
    from unhinged_jax.schedules import warmup_stable_decay as warmup_stable_decay
    from unhinged_jax.simulation import simulate as simulate
    from unhinged_jax.sweeps import SweepIncomplete as SweepIncomplete
    from unhinged_jax.sweeps import SweepPlan as SweepPlan
    from unhinged_jax.sweeps import open_sweep as open_sweep
    from unhinged_jax.sweeps import sweep as sweep
    from unhinged_jax.trajectory import RunResult as RunResult
    from unhinged_jax.trajectory import Trajectory as Trajectory
    from unhinged_jax.trajectory import concat as concat
    from unhinged_jax.trajectory import load as load

    __version__: str

# Names are imported when first used, so that `unhinged --help` need not wait for JAX.
_HOMES = {
    "closed_form": "NoClosedForm exact",
    "comparison": "Comparison verify",
    "derivatives": "EventTime Lyapunov Parameter event_time exact_exponents hessian_spectrum limit_sensitivity "
    "lyapunov one_sided push_forward sensitivity",
    "designs": "DesignOutcome DesignPlan design",
    "dynamics": "AggregatedMomentum Descent Diffusion Flow Lookahead MovingAverage Optimistic PolyakAverage "
    "QuasiHyperbolic ScheduleFree",
    "ensembles": "Agreement ensemble",
    "labels": "Labels balanced from_counts from_labels long_tailed soft step_imbalanced targets",
    "limits": "Limit Survivors limit",
    "measurement": "Collapse Measurement measure",
    "model": "LayerPeeled State anchored frozen ntk_invariant regularized spherical unconstrained",
    "observables": "all_observables collapse_observables layer_alignments layer_norms layer_scatter_ratios "
    "layer_unbalance moment_observables observe_state paper_observables",
    "optimizers": "Optimizer clipped_descent normalized_descent rescale_by_feature_norm spectral_descent",
    "plots": "plot",
    "references": "citation",
    "schedules": (
        "constant cosine exponential join logspaced numeric piecewise polynomial steps warmup warmup_stable_decay"
    ),
    "simulation": "simulate",
    "sweeps": "SweepIncomplete SweepPlan open_sweep sweep",
    "trajectory": "RunResult Trajectory concat load",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = list(_HOME_OF)

# Names and modules of 0.1, kept for one release.
_RENAMED = {"Outcome": "DesignOutcome", "Plan": "SweepPlan", "Result": "RunResult"}
_MOVED = {
    "design": "designs", "events": "derivatives", "exact": "closed_form", "exponents": "derivatives",
    "geometry": "derivatives", "kinks": "derivatives", "limit": "limits",
    "parameters": "derivatives", "curvature": "derivatives", "sensitivity": "derivatives", "simulate": "simulation",
    "sweep": "sweeps", "verify": "comparison",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        _warn(name, _RENAMED[name])
        return __getattr__(_RENAMED[name])
    if name == "__version__":
        return _version()
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
    rooms = {name for name, value in globals().items() if getattr(value, "__name__", "") == f"{__name__}.{name}"}
    special = {name for name in globals() if name.startswith("__")}
    return sorted({*__all__, "__version__", *special, *(name for name in rooms if not name.startswith("_"))})


def _version() -> str:
    import importlib.metadata  # reading it takes time that few need

    try:
        return importlib.metadata.version("unhinged-jax")
    except importlib.metadata.PackageNotFoundError:  # a copy of the source that is not installed
        return "0+unknown"


def _warn(old: str, new: str) -> None:
    message = f"{__name__}.{old} is now {__name__}.{new}; the old name will be removed in the next release."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


class _Old(types.ModuleType):
    """A module under its old name. Importing it replaces a function of that name, which it calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        room, _, own = self.__name__.rpartition(".")
        found = getattr(importlib.import_module(f"{room}.{_MOVED[own]}"), _RENAMED.get(name, name))
        _warn(f"{own}.{name}", f"{_MOVED[own]}.{_RENAMED.get(name, name)}")
        return found

    def __call__(self, *args: Any, **options: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*args, **options)


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules under their old names."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        room, _, own = name.rpartition(".")
        return importlib.machinery.ModuleSpec(name, self) if room == __name__ and own in _MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Old(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: what is asked of the module is looked up when it is asked for."""


sys.meta_path.append(_Moved())
