"""The form in which a problem is simulated: one pure decision, made before anything is traced.

| form | what moves | for |
|---|---|---|
| linear | class sums (or features) and prototypes, in the row space | losses linear in the logits |
| sphere | two coordinates per sample, in the plane of its start and its target | spherical features, W anchored |
| columns | H (p, n) and W (p, C) with samples as columns | losses of the logits alone |
| logits | the same and the logits W^T H (C, n) | the same, read at many times |
| group | four numbers per character of a group | the same, from a start that a group permutes |
| sampled | the same, by the gradient of a batch or of labels that were drawn | `batch`, `fresh_labels` |
| dense | H (n, p) and W (C, p), by differentiating the loss | everything else, `reduce=False`, optimisers |
| deep | the same, and the factors between H and W | depth above 2 |
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from unhinged_jax._check import known
from unhinged_jax._loop import at_once
from unhinged_jax._platform import on_accelerator
from unhinged_jax.dynamics import Descent, Dynamics, Flow, carried_by
from unhinged_jax.linear.compression import compressible
from unhinged_jax.linear.row_space import summable
from unhinged_jax.losses import AdjustedMargin
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import ObservablePlan, refers_to_start, wants_split
from unhinged_jax.observables.features import affordable
from unhinged_jax.simulation.absent import lacks_modes
from unhinged_jax.simulation.group import group_of
from unhinged_jax.simulation.large_states import Unrolled
from unhinged_jax.simulation.scanned_stages import Scanned
from unhinged_jax.special import faint

Form = Literal["linear", "sphere", "columns", "logits", "group", "sampled", "dense", "deep"]

# Made once: every run compares its choice with those for which programs are compiled.
FOR_SMALL, FOR_LARGE = diffrax.Dopri8(), Unrolled(diffrax.Tsit5())
FOR_FIRST_GRADIENT = Scanned(FOR_SMALL)
LARGE = 100_000  # moving numbers; above this the stages of a solver's step do not fit into a cache
KEPT = 2**23  # bytes; states at the requested times that take less are kept and read after the solution
MANY = 100  # times; from here on it pays to carry the logits
READ_OFF_LOGITS = {"loss", "loss_sign", "log_abs_loss", "objective", "accuracy", "margin_min", "margin_mean", "norm_b"}
READ_OFF_LOGITS |= {f"{log}norm{part}" for log in ("", "log_") for part in ("", "_H", "_W")}


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a simulation is run.

    Attributes:
        form: What moves; see the table of this module.
        summed: Linear form: whether the rows are class sums.
        propagator: Linear form: what is carried: the "start" itself, the "identity" (a matrix that multiplies the
            start), or the "pair" (two 2 x 2 matrices, for balanced classes).
        leading: Linear form: whether the leading part is carried separately, for distances to the limit.
        absent: Linear form: whether modes that the start lacks are removed during the run, if classes differ.
        biases: Linear form: whether biases are carried; those that stay are not, if only the state is.
        scores: Linear form: whether [H_0; W_0] r^T is kept for the residual r, so that logits need no product over p.
        compressed: Linear and sampled form: whether observables are read off a smaller problem with the same values.
        scaled: Sampled form: whether the scale of the state is carried separately.
        spanned: Sampled form: whether coordinates in the span of the start are carried, if it is far smaller than p.
        group: Group form: "cyclic" or "hadamard".
        solver: The diffrax solver of a flow; None for a descent.
        late: Flow: whether observables are read after the solution, from states kept at the requested times.
        together: How many moments are read together, if they are kept.
    """

    form: Form
    summed: bool = False
    propagator: Literal["start", "identity", "pair"] = "start"
    leading: bool = False
    absent: bool = False
    biases: bool = True
    scores: bool = False
    compressed: bool = False
    scaled: bool = False
    spanned: bool = False
    group: str = ""
    solver: diffrax.AbstractSolver | None = None
    late: bool = False
    together: int = 1

    def __str__(self) -> str:
        said = [_IN_WORDS[self.form]]
        if self.form == "linear":
            said = ["class sums" if self.summed else "features", _PROPAGATOR_IN_WORDS[self.propagator]]
            said += ["leading part apart"] * self.leading + ["absent modes kept out"] * self.absent
        said += [f"{self.group} group"] * bool(self.group)
        said += ["in the span of the start"] * self.spanned
        said += ["observables of a smaller problem"] * self.compressed
        if self.solver is not None:
            said.append(type(getattr(self.solver, "solver", self.solver)).__name__)
        return ", ".join(said)


_IN_WORDS = {
    "linear": "",
    "sphere": "planes of samples and targets",
    "columns": "dense, samples as columns",
    "logits": "dense, samples as columns, with logits",
    "group": "characters of the classes",
    "sampled": "dense, gradients of what is drawn",
    "dense": "dense, gradient of the loss",
    "deep": "all factors, gradient of the loss",
}
_PROPAGATOR_IN_WORDS = {
    "start": "as they are",
    "identity": "as a matrix that multiplies the start",
    "pair": "as two 2 x 2 matrices that multiply the start",
}


def choose(
    model: LayerPeeled,
    dynamics: Dynamics,
    plan: ObservablePlan,
    times: int,
    state: State,
    *,
    states: bool = False,
    reduce: bool = True,
    adjoint: diffrax.AbstractAdjoint | None = None,
    memory: PyTree = None,
    goes_on: bool = False,
    fixed: bool = True,
) -> Choice:
    """Choose how a run is simulated.

    Args:
        model, dynamics, state, states, reduce, adjoint: As in `simulate`.
        plan: The observables.
        times: The number of times at which they are read.
        memory: What the run begins with in addition to the state, such as a velocity; None for nothing.
        goes_on: Whether the run continues another one whose start matters.
        fixed: Whether the start was given as numbers, and is neither mapped over nor differentiated.
    """
    form = form_of(model, dynamics, reduce)
    if form == "linear":
        choice = _linear(model, plan, state, states, memory, goes_on)
        choice = dataclasses.replace(choice, biases=model.moves.b or bool(carried_by(dynamics)))
    elif form == "columns" and memory is None and _by_characters(dynamics) and (group := group_of(model, state)):
        choice = Choice("group", group=group)
    elif form == "columns" and not states and _reads_logits(model, plan, times) and _carries_logits(dynamics, state):
        choice = Choice("logits")
    elif form == "sampled" and reduce:
        choice = _sampled(model, dynamics, plan, states, memory, fixed)
    else:
        choice = Choice(form)
    if compressible(plan):  # a function of one's own may be one that JAX cannot map
        choice = dataclasses.replace(choice, together=at_once(model.samples, model.classes))
    if not isinstance(dynamics, Flow):
        return choice
    moving = moving_numbers(model, choice) * (2 if carried_by(dynamics) else 1)
    dtype = jnp.result_type(state.W)
    kept = times * moving * dtype.itemsize <= KEPT
    solver = _solver(dynamics, moving, dtype) if dynamics.solver is None else dynamics.solver
    late = kept or isinstance(adjoint, diffrax.BacksolveAdjoint)
    return dataclasses.replace(choice, solver=solver, late=late)


def form_of(model: LayerPeeled, dynamics: Dynamics, reduce: bool) -> Form:
    """The cheapest form that a problem allows."""
    if model.depth > 2:
        return "deep"
    if isinstance(dynamics, Descent) and dynamics.stochastic:
        return "sampled"
    # An optimiser's memory has the shapes of the state's arrays, and some optimisers distinguish rows from columns.
    if not reduce or dynamics.stochastic or (isinstance(dynamics, Descent) and dynamics.optimizer is not None):
        return "dense"
    if model.linear and not dynamics.paced and not (model.kernel is not None and model.kernel.kind == "coordinates"):
        return "linear"
    plane = model.spherical and model.loss.linear and not model.moves.W
    if plane and not dynamics.paced and not (isinstance(dynamics, Flow) and carried_by(dynamics)):
        return "sphere"
    # The column form needs a force that depends on the logits H W^T + b and on nothing else.
    more = model.spherical or model.rescale or model.kernel is not None or isinstance(model.loss, AdjustedMargin)
    more = more or model.loss.linear
    return "dense" if more else "columns"


def _linear(
    model: LayerPeeled, plan: ObservablePlan, state: State, states: bool, memory: PyTree, goes_on: bool
) -> Choice:
    """The choice for a problem that is linear in (H, W)."""
    summed, balanced = summable(model), model.labels.balanced
    propagator: Literal["start", "identity", "pair"] = "start"
    if memory is None and summed:
        wide = model.dim > 2 * model.classes
        propagator = "pair" if balanced else "identity" if wide else "start"
    # The first start of a chain of runs need not lie in the span that the smaller problem keeps.
    apart = goes_on and model.moves.coupled and refers_to_start(plan)
    small = propagator == "pair" and not states and not apart and compressible(plan)
    scores = propagator != "start" and affordable(model.samples, model.classes)
    return Choice(
        "linear",
        summed=summed,
        propagator=propagator,
        leading=wants_split(plan),
        absent=not (balanced and summed) and lacks_modes(model, state, memory),
        scores=scores,
        compressed=small,
    )


def carries_scale(model: LayerPeeled, dynamics: Dynamics) -> bool:
    """Whether a run that draws carries the scale of its state separately, which a linear dynamics leaves alone."""
    return model.linear and isinstance(dynamics, Descent) and dynamics.optimizer is None and not dynamics.paced


def _sampled(
    model: LayerPeeled, dynamics: Dynamics, plan: ObservablePlan, states: bool, memory: PyTree, fixed: bool
) -> Choice:
    """The choice for a descent that draws: the same whatever is observed, so that one key is one path.

    Each gradient is a combination of rows of H and W, whose span therefore never grows. Rows are expressed in a basis
    of it if that saves half of the numbers, but not if an optimiser looks at single numbers, or if the start is traced:
    derivatives with respect to it may leave the span.
    """
    plain = isinstance(dynamics, Descent) and dynamics.optimizer is None and memory is None
    plain = plain and not (model.kernel is not None and model.kernel.kind == "coordinates")
    spanned = plain and fixed and 2 * (model.samples + model.classes) <= model.dim
    small = spanned and not states and not dynamics.paced and compressible(plan)
    return Choice("sampled", scaled=carries_scale(model, dynamics), spanned=spanned, compressed=small)


def moving_numbers(model: LayerPeeled, choice: Choice) -> int:
    """How many numbers move in the chosen form."""
    n, C, p = model.samples, model.classes, model.dim
    if choice.form in ("sphere", "group"):
        return 2 * n if choice.form == "sphere" else 5 * C
    if choice.form != "linear":
        inner = (model.depth - 2) * p * p
        return (n + C) * p + C + inner + (C * n + 1 if choice.form == "logits" else 0)
    rows = C if choice.summed else n
    carried = {"start": (rows + C) * p, "identity": (rows + C) ** 2, "pair": 8}[choice.propagator]
    return carried + (rows + C) * choice.leading + 1 + C * choice.biases


def _carries_logits(dynamics: Dynamics, state: State) -> bool:
    """Whether logits may be carried beside the state: in a flow of first order without norms of its gradient.

    From H = 0 the norm of H begins with squares of W, which must then stay in range.
    """
    if not isinstance(dynamics, Flow) or carried_by(dynamics) or dynamics.paced:
        return False
    H, W, log_scale = known(state.H), known(state.W), known(state.log_scale)
    if H is None or W is None or log_scale is None:
        return True
    largest = np.max(np.abs(W), initial=0.0) * np.exp(np.min(log_scale))
    return bool(largest**2 >= faint(W.dtype) or np.any(H) or not np.any(W))


def _by_characters(dynamics: Dynamics) -> bool:
    """Whether a run may be that of the characters of a group, which have no norm, velocity or average of H and W."""
    return carried_by(dynamics) not in ("velocity", "memory") and not dynamics.paced


def _reads_logits(model: LayerPeeled, plan: ObservablePlan, times: int) -> bool:
    """Whether only logits and norms are read, and at so many times that it pays to carry them."""
    asked = all(function is None and name in READ_OFF_LOGITS for name, function in plan)
    return asked and times >= MANY and 2 * model.classes <= model.dim


def _solver(flow: Flow, moving: int, dtype: np.dtype) -> diffrax.AbstractSolver:
    """Dopri8, or Tsit5 for a large state unless the tolerance is very tight.

    If a state does not fit into the caches, the passes over the stages of a step dominate, and the seven stages of
    Tsit5 cost half as much as the fourteen of Dopri8. On an accelerator stages are written out for any state, because
    the end of a loop over stages is looked at by the host, stage by stage; but see `for_first_gradient`.
    """
    if moving > LARGE and tolerance(flow, dtype) > 1e-11:
        return FOR_LARGE
    return Unrolled(FOR_SMALL) if on_accelerator() else FOR_SMALL


def for_first_gradient(choice: Choice) -> Choice:
    """The choice for a run below `jax.grad` alone, where tracing takes most of the time and `FOR_FIRST_GRADIENT` half
    of it.

    A gradient that is compiled as a whole, as below `jax.jit`, keeps `FOR_SMALL`, which then takes a tenth less time.
    """
    solver = choice.solver
    ours = (solver.solver if isinstance(solver, Unrolled) else solver) is FOR_SMALL
    return dataclasses.replace(choice, solver=FOR_FIRST_GRADIENT) if ours else choice


def tolerance(flow: Flow, dtype: np.dtype) -> float:
    """The relative tolerance of a flow."""
    return flow.rtol if flow.rtol is not None else (1e-8 if dtype == np.float64 else 1e-5)
