"""What is measured on the way: loss, accuracy, norms, energies, distance to the limit, neural collapse."""

from unhinged_jax.observables.layers import layer_alignments, layer_norms, layer_scatter_ratios, layer_unbalance
from unhinged_jax.observables.plan import (
    ObservablePlan,
    Observe,
    evaluate,
    observe_state,
    refers_to_start,
    resolve,
    wants_split,
    why_not,
)
from unhinged_jax.observables.table import (
    NEEDS,
    OBSERVABLES,
    Observable,
    ObservableSet,
    all_observables,
    collapse_observables,
    moment_observables,
    paper_observables,
)
from unhinged_jax.observables.view import View

__all__ = [
    "NEEDS",
    "OBSERVABLES",
    "Observable",
    "ObservablePlan",
    "ObservableSet",
    "Observe",
    "View",
    "all_observables",
    "collapse_observables",
    "evaluate",
    "layer_alignments",
    "layer_norms",
    "layer_scatter_ratios",
    "layer_unbalance",
    "moment_observables",
    "observe_state",
    "paper_observables",
    "refers_to_start",
    "resolve",
    "wants_split",
    "why_not",
]
