"""What is measured on the way: loss, accuracy, norms, energies, distance to the limit, neural collapse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax import collapse
from unhinged_jax.features import (
    ClassFeatures,
    DenseFeatures,
    Features,
    PlaneFeatures,
    map_samples,
    plane_features,
    unit,
)
from unhinged_jax.leading import Split, log_distance, split_part
from unhinged_jax.losses import AdjustedMargin
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.signal import ClassSignal
from unhinged_jax.special import first_largest, safe_log, safe_norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
    """One moment of a run, as observables see it: e^log_scale (features, W), b, and its split along the limit.

    `log_start` is the logarithm of the norm of the leading part at the start.
    """

    model: LayerPeeled
    features: Features
    W: jax.Array
    b: jax.Array
    log_scale: jax.Array
    split: Split | None = None
    log_start: jax.Array | None = None

    def once(self, compute: Callable[[View], Any]) -> Any:
        """compute(view), evaluated once however many observables ask: XLA does not merge factorisations by itself."""
        memo = self.__dict__.setdefault("_memo", {})
        if compute not in memo:
            memo[compute] = compute(self)
        return memo[compute]

    def state(self) -> State:
        """The state, dense."""
        return State(self.features.dense(), self.W, self.b, self.log_scale)

    def seen(self) -> Features:
        """Features as the prototypes see them: normalised if spherical."""
        return unit(self.features) if self.model.spherical else self.features

    def signal_features(self) -> jax.Array:
        """M^T H of the features seen, shape (C, p)."""
        signal, seen = self.model.signal(), self.seen()
        if isinstance(seen, ClassFeatures) and isinstance(signal, ClassSignal):
            return signal.gather(seen.sums)
        return signal.transpose_times(seen.dense())

    def logit_scale(self) -> jax.Array:
        """Logarithm of the scale of H W^T: 2 log_scale, or log_scale for spherical features."""
        return self.log_scale * (1 if self.model.spherical else 2)


def _in_common_units(view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(c, factor, bias): logits are e^c (factor H W^T + bias), and neither term over- or underflows for both small."""
    size = jnp.max(jnp.abs(view.b))
    tiny = jnp.finfo(size.dtype).tiny
    log_bias = jnp.where(size > 0, safe_log(jnp.maximum(size, tiny)), -jnp.inf)
    common = jnp.maximum(view.logit_scale(), jnp.minimum(log_bias, 0.0))
    factor = jnp.exp(view.logit_scale() - common)
    return common, factor, view.b * jnp.exp(-jnp.where(size > 0, common, 0.0))


def _linear_loss(view: View) -> tuple[jax.Array, jax.Array]:
    """(mantissa, logarithm of scale) of the data term of a loss linear in the logits."""
    common, factor, bias = view.once(_in_common_units)
    inner = jnp.sum(view.signal_features() * view.W)
    return -(inner * factor + jnp.sum(bias * view.model.signal().column_sums(view.W.dtype))), common


def _loss_parts(view: View) -> tuple[jax.Array, jax.Array]:
    if view.model.loss.linear:
        return _linear_loss(view)
    model, scale = view.model, jnp.exp(view.log_scale)
    if isinstance(model.loss, AdjustedMargin):
        value = model.data_loss(scale * view.features.dense(), scale * view.W, view.b)
    else:
        logits = jnp.exp(view.logit_scale()) * view.seen().scores(view.W).T + view.b
        value = model.loss_of_logits(logits)
    return value, jnp.zeros_like(value)


def _loss(view: View) -> jax.Array:
    mantissa, log_scale = view.once(_loss_parts)
    return mantissa * jnp.exp(log_scale)


def _log_abs_loss(view: View) -> jax.Array:
    mantissa, log_scale = view.once(_loss_parts)
    return safe_log(jnp.abs(mantissa)) + log_scale


def _objective(view: View) -> jax.Array:
    model, scale = view.model, jnp.exp(2 * view.log_scale)
    decay = model.decay_H * scale * view.features.norm() ** 2
    decay = decay + model.decay_W * (scale * jnp.sum(view.W**2) + jnp.sum(view.b**2))
    return _loss(view) + decay / 2


def _margins(view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Margin s_y - max_{j != y} s_j of every sample (in units of e^common), whether it is classified right, common."""
    common, product, bias = view.once(_in_common_units)

    def block(features: Features, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = product * features.scores(view.W) + bias[:, None]
        own = jnp.take_along_axis(logits, truth[None, :], axis=0)[0]
        is_own = jnp.arange(logits.shape[0])[:, None] == truth
        best_other = jnp.max(jnp.where(is_own, -jnp.inf, logits), axis=0)
        return own - best_other, (first_largest(logits) == truth) & ~jnp.isnan(own)

    truth = jnp.asarray(view.model.labels.truth)
    margin, right = map_samples(block, view.seen(), view.model.classes, truth)
    return margin, right, common


def _accuracy(view: View) -> jax.Array:
    right = view.once(_margins)[1]
    # Behind a barrier, because XLA would multiply by a rounded 1/n: k/n must come out as k/n.
    count = jax.lax.optimization_barrier(jnp.asarray(right.shape[0], view.W.dtype))
    return jnp.sum(right).astype(view.W.dtype) / count


def _margin(reduce: Callable[[jax.Array], jax.Array]) -> Callable[[View], jax.Array]:
    def margin(view: View) -> jax.Array:
        values, _, common = view.once(_margins)
        return reduce(values) * jnp.exp(common)

    return margin


def _accuracy_margin(view: View) -> jax.Array:
    values, _, common = view.once(_margins)
    lengths = view.seen().row_norms() * jnp.max(jnp.linalg.norm(view.W, axis=1))
    unit_scale = jnp.exp(view.logit_scale() - common)
    return jnp.min(values / jnp.where(lengths > 0, lengths * unit_scale, 1.0))


def _log_norms(view: View) -> tuple[jax.Array, jax.Array]:
    return (
        safe_log(view.features.norm()) + view.log_scale,
        safe_log(safe_norm(view.W)) + view.log_scale,
    )


def _log_norm(view: View) -> jax.Array:
    return safe_log(jnp.hypot(view.features.norm(), safe_norm(view.W))) + view.log_scale


def _split(view: View) -> Split:
    assert view.split is not None
    return view.split


def _log_distance(which: slice) -> Callable[[View], jax.Array]:
    def value(view: View) -> jax.Array:
        if view.model.spherical:
            return _log_spherical_error(_in_plane(view))
        return log_distance(split_part(_split(view), which))

    return value


def _in_plane(view: View) -> PlaneFeatures:
    """Features in the planes of their targets; from a dense H only to rounding."""
    if isinstance(view.features, PlaneFeatures):
        return view.features
    return plane_features(view.features.dense(), view.model.signal().times(view.W))


def _log_spherical_error(features: PlaneFeatures) -> jax.Array:
    """log of the Frobenius distance between unit features and unit targets, from the angles; g_i = 0 counts 0."""
    angle = jnp.arctan2(jnp.abs(features.across), features.along)
    moves = jnp.any(features.target != 0, axis=1)
    return safe_log(safe_norm(jnp.where(moves, 2 * jnp.sin(angle / 2), 0.0)))


def _gap(which: slice) -> Callable[[View], jax.Array]:
    def value(view: View) -> jax.Array:
        split = _split(view)
        assert view.log_start is not None
        moved = split.sign * jnp.exp(split.log_amplitude) - jnp.exp(view.log_start)
        steady = jnp.exp(view.log_start) * jnp.expm1(split.log_amplitude - view.log_start)
        lead = jnp.where(split.sign > 0, steady, moved)
        parts = zip(split.direction[which], split.rest[which], strict=True)
        return safe_norm(*(lead * d + jnp.exp(split.log_rest) * x for d, x in parts))

    return value


def _energies(view: View) -> dict[str, jax.Array]:
    """Shares of ||Z||^2 in the paper's subspaces E_1^+-, E_2^+- and E_3 (balanced classes).

    Source: Zhou et al. 2023, Lemmas 14-17.
    """
    labels = view.model.labels
    index, classes, count = jnp.asarray(labels.index), labels.classes, labels.samples
    per_class = count // classes
    if isinstance(view.features, ClassFeatures):
        means = view.features.sums * classes  # q_i = 1/n, so S_c = (N/n) mean = mean / C
        within = (view.features.residual_scale * safe_norm(view.features.residual)) ** 2
    else:
        H = view.features.dense()
        means = jax.ops.segment_sum(H, index, classes) / per_class
        within = jnp.sum((H - means[index]) ** 2)
    F = means * jnp.sqrt(jnp.asarray(per_class, means.dtype))
    F_mean, W_mean = jnp.mean(F, axis=0), jnp.mean(view.W, axis=0)
    F_rest, W_rest = F - F_mean, view.W - W_mean
    parts = {
        "energy_1_plus": jnp.sum((F_rest + W_rest) ** 2) / 2,
        "energy_1_minus": jnp.sum((F_rest - W_rest) ** 2) / 2,
        "energy_2_plus": classes * jnp.sum((F_mean + W_mean) ** 2) / 2,
        "energy_2_minus": classes * jnp.sum((F_mean - W_mean) ** 2) / 2,
        "energy_3": within,
    }
    total = sum(parts.values())
    return {name: value / total for name, value in parts.items()}


def _energy(name: str) -> Callable[[View], jax.Array]:
    return lambda view: view.once(_energies)[name]


def _bias_ratio(view: View) -> jax.Array:
    least = jnp.min(view.b)
    return jnp.where(least == 0, jnp.inf, jnp.max(view.b) / jnp.where(least == 0, 1.0, least))


def _collapse(name: str) -> Callable[[View], jax.Array]:
    return lambda view: view.once(_collapse_metrics)[name]


def _collapse_metrics(view: View) -> dict[str, jax.Array]:
    labels, seen = view.model.labels, view.seen()
    _, product, bias = view.once(_in_common_units)
    logits = (product * seen.scores(view.W) + bias[:, None]).T
    stats = seen.statistics(jnp.asarray(labels.index), labels.classes)
    return collapse.collapse_metrics(stats, view.W, logits)


@dataclasses.dataclass(frozen=True)
class Observable:
    """A named observable: how it is computed, what it is, and what it needs ("", "linear", "split" or "balanced")."""

    compute: Callable[[View], jax.Array]
    meaning: str
    needs: str = ""


_BOTH, _H, _W = slice(None), slice(0, -1), slice(-1, None)


def _with_exponential(name: str, log_value: Callable[[View], jax.Array], meaning: str, needs: str = "") -> dict:
    return {
        name: Observable(lambda view: jnp.exp(log_value(view)), meaning, needs),
        f"log_{name}": Observable(log_value, f"logarithm of the {meaning}", needs),
    }


OBSERVABLES: dict[str, Observable] = {
    "loss": Observable(_loss, "data term of the loss"),
    "loss_sign": Observable(lambda view: jnp.sign(view.once(_loss_parts)[0]), "sign of the loss"),
    "log_abs_loss": Observable(_log_abs_loss, "logarithm of the absolute loss"),
    "objective": Observable(_objective, "loss plus decay terms"),
    "accuracy": Observable(_accuracy, "share of samples classified right"),
    "accuracy_margin": Observable(
        _accuracy_margin, "least margin over ||h_i|| max ||w_c||; positive iff accuracy is 1"
    ),
    "margin_min": Observable(_margin(jnp.min), "least margin s_y - max s_j"),
    "margin_mean": Observable(_margin(jnp.mean), "mean margin s_y - max s_j"),
    **_with_exponential("norm", _log_norm, "norm of (H, W)"),
    **_with_exponential("norm_H", lambda view: view.once(_log_norms)[0], "norm of H"),
    **_with_exponential("norm_W", lambda view: view.once(_log_norms)[1], "norm of W"),
    "norm_b": Observable(lambda view: safe_norm(view.b), "norm of b"),
    "bias_ratio": Observable(_bias_ratio, "largest bias over smallest"),
    **_with_exponential(
        "distance", _log_distance(_BOTH), "distance of the direction of (H, W) from its limit", "split"
    ),
    **_with_exponential("distance_H", _log_distance(_H), "distance of the direction of H from its limit", "split"),
    **_with_exponential("distance_W", _log_distance(_W), "distance of the direction of W from its limit", "free split"),
    "gap_H": Observable(_gap(_H), "norm of H minus the leading part of its start", "free split"),
    "gap_W": Observable(_gap(_W), "norm of W minus the leading part of its start", "free split"),
    **{
        name: Observable(_energy(name), f"share of the squared norm in subspace E_{name[7:]}", "balanced")
        for name in ("energy_1_plus", "energy_1_minus", "energy_2_plus", "energy_2_minus", "energy_3")
    },
}
_COLLAPSE_ONLY = [name for name in collapse.METRICS if name not in OBSERVABLES]
OBSERVABLES.update(
    {name: Observable(_collapse(name), f"neural-collapse metric {name}") for name in _COLLAPSE_ONLY}
)


class ObservableSet(tuple):
    """A ready-made set of names; names that a model has no meaning for are left out instead of refused."""

    __slots__ = ()


paper_observables = ObservableSet(
    [
        "loss", "accuracy", "accuracy_margin",
        "norm", "norm_H", "norm_W", "log_norm",
        "distance", "distance_H", "distance_W",
    ]
)
"""What the paper's figures show, and the margin that decides the accuracy."""

collapse_observables = ObservableSet(_COLLAPSE_ONLY)
"""Every metric of neural collapse."""

all_observables = ObservableSet(OBSERVABLES)
"""Every observable there is."""

Observe = str | Iterable[str] | Mapping[str, Callable[[LayerPeeled, State], Any]] | None
Plan = tuple[tuple[str, Callable[[LayerPeeled, State], Any] | None], ...]


def why_not(name: str, model: LayerPeeled, splittable: bool) -> str | None:
    """Why an observable has no meaning for a model, or None."""
    needs = OBSERVABLES[name].needs
    if needs == "balanced" and not (model.labels.balanced and model.linear and model.kernel is None):
        return "the subspaces belong to balanced one-hot labels, a linear loss and no kernel"
    if "split" in needs:
        if not model.loss.linear:
            return "the limit direction is known for a loss linear in the logits only"
        if not splittable:
            return "the limit direction is known for proportional rates and plain or momentum descent only"
        if model.kernel is not None and model.kernel.kind == "coordinates":
            return "the limit direction is not offered for a kernel between feature coordinates"
        if model.spherical and model.prototypes_move:
            return "spherical features with free prototypes have no known limit"
        if "free" in needs and (model.spherical or not (model.features_move and model.prototypes_move)):
            return "both features and prototypes must move"
    if name.endswith("_H") and "split" in needs and not model.features_move:
        return "the features do not move"
    return None


def resolve(observe: Observe, model: LayerPeeled, splittable: bool) -> Plan:
    """What to observe as a hashable plan of (name, function or None for a built-in one).

    Raises:
        ValueError: for an unknown name, or an observable that this model has no meaning for.
    """
    if observe is None:
        observe = paper_observables
    if isinstance(observe, str):
        observe = (observe,)
    if isinstance(observe, Mapping):
        custom = {name: function for name, function in observe.items() if function is not None}
        named = tuple(name for name, function in observe.items() if function is None)
    else:
        custom, named = {}, tuple(observe)
    for name, function in custom.items():
        if not callable(function):
            raise ValueError(f"observable {name!r} must be a function (model, state) -> array, but got {function!r}.")
    for name in named:
        if name not in OBSERVABLES:
            raise ValueError(f"unknown observable {name!r}; there are {', '.join(OBSERVABLES)}.")
    reasons = {name: why_not(name, model, splittable) for name in named}
    if not isinstance(observe, ObservableSet):
        for name, reason in reasons.items():
            if reason:
                raise ValueError(f"observable {name!r} has no meaning here: {reason}; leave it out.")
    kept = [(name, None) for name in named if reasons[name] is None]
    return (*kept, *custom.items())


def wants_split(plan: Plan) -> bool:
    """Whether any observable of the plan needs the state split along its limit."""
    return any(function is None and "split" in OBSERVABLES[name].needs for name, function in plan)


def evaluate(plan: Plan, view: View) -> dict[str, jax.Array]:
    """Values of the planned observables at one moment."""
    values = {}
    for name, function in plan:
        if function is None:
            values[name] = OBSERVABLES[name].compute(view)
        else:
            values[name] = jax.tree.map(jnp.asarray, function(view.model, view.state()))
    return values


def observe_state(model: LayerPeeled, state: State, observe: Observe = None) -> dict[str, jax.Array]:
    """Observables of one given state.

    Args:
        model, state: The model and a state of it.
        observe: Names, or a mapping from names to functions (model, state) -> array; default: all that need no limit.

    Returns:
        Name -> value. Distances to the limit need the run: ask `simulate` or `exact` for them.

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
    model.check_state(state)
    plan = resolve(observe, model, splittable=True)
    if wants_split(plan):
        raise ValueError("distances to the limit belong to a run; ask `simulate` or `exact` for them.")
    H, W, b = (jnp.asarray(part) for part in (state.H, state.W, state.b))
    return evaluate(plan, View(model, DenseFeatures(H), W, b, jnp.asarray(state.log_scale, H.dtype)))
