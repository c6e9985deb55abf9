"""The keys a file may have: a dataclass for each section, and the file as a whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

Array = str | list
"""Numbers in the file, or the path of a .npy or .npz file, which may end in ":key"."""


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """[model]: the case and its settings.

    Attributes:
        case: "unconstrained", "regularized", "anchored", "frozen", "spherical" or "ntk_invariant".
        dim: p, the dimension of features and prototypes.
        gamma: Trade-off of the unhinged loss; default 1/(C-1).
        loss: The name of a loss, or {name = ..., and its numbers}; "module:name" is a function or class of your own.
            Default "unhinged".
        decay: Weight decay on features and prototypes, or [on H, on W]; one number if only one of them moves.
            regularized needs it; elsewhere the default is 0.
        bias: Whether there are biases that move; default false. Not in anchored and spherical.
        decay_b: regularized, frozen, ntk_invariant: weight decay on the biases; default that of the prototypes.
        rescale: spherical: q, where the gradient of a feature h is multiplied by |h|^q; default 0.
        free_prototypes: spherical: whether the prototypes move too; default false.
        unit_prototypes: spherical, with free_prototypes: whether the prototypes are normalised, too; default false.
        kernel: ntk_invariant, which needs it: the kernel between samples, (n, n), or a factor J of it, (n, m); or one
            between feature coordinates, (n p, n p).
        depth: unconstrained, regularized: L, the number of factors of the logits W_L ... W_2 H; default 2.
        activation: unconstrained, regularized: what is applied between the factors W_2, ..., W_L, "linear" (default) or
            "relu".
    """

    case: str
    dim: int
    gamma: float | None = None
    loss: str | dict | None = None
    decay: float | list | None = None
    bias: bool | None = None
    decay_b: float | None = None
    rescale: int | float | None = None
    free_prototypes: bool | None = None
    unit_prototypes: bool | None = None
    kernel: Array | None = None
    depth: int | None = None
    activation: str | None = None


@dataclasses.dataclass(frozen=True)
class NoiseTable:
    """[labels.noise], or noise = {...}: label noise, its expectation unless a seed draws it.

    Attributes:
        kind: "symmetric", "asymmetric" or "transition".
        rate: symmetric, asymmetric: the share of labels that change.
        table: transition: the probability of label j for a sample of class i, (C, C).
        seed: Draws one set of noisy labels; give this or `expected`.
        expected: true takes the expectation over all draws, as soft targets.
    """

    kind: str
    rate: float | None = None
    table: Array | None = None
    seed: int | None = None
    expected: bool | None = None


@dataclasses.dataclass(frozen=True)
class LabelsSection:
    """[labels]: the layout, the arguments of its constructor, noise, smoothing, what is held out, and weights.

    Attributes:
        layout: "balanced", "counts", "long_tailed", "step", "labels", "soft" or "targets".
        classes: balanced, long_tailed, step, labels: C, the number of classes; for labels by default the largest plus
            1.
        per_class: balanced: N, the samples of every class.
        order: balanced: the order of the samples, "blocks" (default) or "cyclic".
        counts: counts: the samples of each class.
        largest: long_tailed, step: the samples of the largest class.
        ratio: long_tailed, step: the samples of the largest class over those of the smallest, at least 1.
        majority: step: the number of large classes; default half of them.
        labels: labels: the class of every sample, from 0.
        targets: soft: a distribution over the classes for every sample, (n, C). targets: any numbers, (n, C).
        truth: soft: the class of every sample that the accuracy refers to; default the one with the largest target.
            targets: the same; by default there are no classes.
        noise: Label noise; see [labels.noise].
        smoothing: Label smoothing: the share of the target that is spread evenly.
        held_out: Samples held out for testing: their numbers from 0, or true and false for every sample.
        held_out_per_class: Instead, how many samples of each class are held out: its last ones.
        class_weights: Factors on the weights of the classes.
        weight_exponent: Class weights n_c^-exponent, instead of `class_weights`.
        sample_weights: Factors on the weights of the samples.
    """

    layout: str
    classes: int | None = None
    per_class: int | None = None
    order: str | None = None
    counts: Array | None = None
    largest: int | None = None
    ratio: float | None = None
    majority: int | None = None
    labels: Array | None = None
    targets: Array | None = None
    truth: Array | None = None
    noise: NoiseTable | None = None
    smoothing: float | None = None
    held_out: Array | None = None
    held_out_per_class: int | None = None
    class_weights: Array | None = None
    weight_exponent: float | None = None
    sample_weights: Array | None = None


@dataclasses.dataclass(frozen=True)
class StateSection:
    """[state]: where the run starts.

    Attributes:
        seed: Seed of what is drawn.
        features: "normal" (default), "kaiming", "paper", or H itself, (n, p).
        prototypes: "normal", "kaiming", "etf", "orthoplex", "softmax_code", "paper", "paper_anchors",
            "paper_anchors_centred", or W itself, (C, p). Default "normal", or "etf" if they do not move and p >= C-1.
        bias: b itself, (C,); default 0.
        scale: Factor on features and prototypes that are drawn.
        balanced: kappa, for a start with H^T H - W^T W = kappa I: the features follow from the prototypes, or the other
            way round below 0; squared error then has a closed form. Default: not balanced.
        group: "cyclic" or "hadamard", for a start that this group permutes, which is simulated as one equation per
            character; features and prototypes follow from the spectrum.
        spectrum: With a group, the singular values of the prototypes, (C,), first that of their mean; default drawn.
        spectral: The singular values of all factors, one number or one per mode, the largest singular value of minus
            the gradient of the loss first; deep models then have a closed form. Default: not spectral.
    """

    seed: int = 0
    features: Array | None = None
    prototypes: Array | None = None
    bias: Array | None = None
    scale: float | None = None
    balanced: float | None = None
    group: str | None = None
    spectrum: Array | None = None
    spectral: float | list | None = None


@dataclasses.dataclass(frozen=True)
class DynamicsSection:
    """[dynamics]: flow, descent or diffusion, its rates, its noise, its optimiser or its solver.

    Attributes:
        kind: "flow", "descent" or "diffusion".
        schedule: The learning rate: a number (default 1), or {kind = ..., and its numbers} with kind "constant",
            "cosine", "exponential", "polynomial", "piecewise", "warmup", "warmup_stable_decay", "join" or "numeric";
            "module:name" is one of your own.
        rate_H: Factor on the rate of the features, given like `schedule`; default 1.
        rate_W: Factor on the rate of the prototypes, given like `schedule`; default 1.
        rate_b: Factor on the rate of the biases, given like `schedule`; default `rate_W`.
        momentum: descent: the coefficient of heavy-ball momentum, at least 0 and below 1.
        nesterov: descent: true for Nesterov's form of the momentum.
        optimizer: descent: the name of an optimiser of optax, or "spectral_descent", "normalized_descent" or
            "clipped_descent"; or {name = ..., and its numbers}, which are data of a sweep; "module:name" is a
            constructor of your own.
        sam_radius: flow, descent: the radius of sharpness-aware minimisation, at least 0.
        clip_norm: flow, descent: the largest norm of a gradient, above 0; a longer one is shortened to it.
        normalized: flow, descent: true if each gradient is divided by its norm.
        batch: descent: the number of samples from which each update takes its gradient; default all. diffusion: the
            same number for its noise, which need not be whole.
        replacement: descent, diffusion: whether a sample may be drawn several times for a batch; default true. Of a
            descent also "epochs": batches are cut from a new order of all samples in each epoch.
        fresh_labels: descent, diffusion: true if labels are drawn again at every update, from the targets of
            [labels.noise].
        seed: descent, diffusion: seed of what is drawn; default: a seed that follows from the one in [state].
        step: diffusion: the length of a step, as a time; default 0.1. Times are multiples of it.
        halvings: diffusion: how often the steps of a coarser run were halved, whose path this one refines; default 0.
        memory: descent, flow: what is kept of past states: "PolyakAverage" or "MovingAverage", which is then observed
            in place of the state; descent also "Lookahead", "ScheduleFree", "Optimistic", "QuasiHyperbolic" or
            "AggregatedMomentum"; or {kind = ..., and its numbers}.
        damping: flow: c of a flow of second order, Z'' + c Z' = force, at least 0; or "nesterov" for c = 3/t.
        solver: flow: the name of a diffrax solver that estimates its error; default "Dopri8", for large states "Tsit5".
        rtol: flow: relative tolerance; default 1e-8, in float32 1e-5.
        atol: flow: absolute tolerance; default `rtol`, in units of the root-mean-square entry of the state.
        max_steps: flow: the most steps that the solver may take.
        steady: flow: whether the run ends once nothing moves any more.
    """

    kind: str
    schedule: float | str | dict | None = None
    rate_H: float | str | dict | None = None
    rate_W: float | str | dict | None = None
    rate_b: float | str | dict | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    optimizer: str | dict | None = None
    sam_radius: float | None = None
    clip_norm: float | None = None
    normalized: bool | None = None
    batch: float | None = None
    replacement: bool | str | None = None
    fresh_labels: bool | None = None
    seed: int | None = None
    step: float | None = None
    halvings: int | None = None
    memory: str | dict | None = None
    damping: float | str | None = None
    solver: str | None = None
    rtol: float | None = None
    atol: float | None = None
    max_steps: int | None = None
    steady: bool | None = None


@dataclasses.dataclass(frozen=True)
class RunSection:
    """[run]: when to observe and what.

    Attributes:
        until: The last time, or the last number of updates; give this or `times`.
        points: How many times there are up to `until`.
        spacing: "linear" or "log".
        first: log: the first time after the start; default `until`/10,000, or 1 update.
        times: The times themselves, ascending.
        observe: The names of observables, or "paper" (default), "collapse" or "all"; "module:name", or {name =
            "module:name", and its numbers}, is one of your own, a function (model, state).
        states: Whether to keep the states too.
        target: The limit that distances refer to: "top", "contrast" or "mean".
        precision: "float32" or "float64".
    """

    until: float | None = None
    points: int = 200
    spacing: str = "linear"
    first: float | None = None
    times: Array | None = None
    observe: str | list | None = None
    states: bool = False
    target: str = "top"
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Config:
    """The five sections of a file, and the path of the file, to which paths inside it are relative."""

    path: Path
    model: ModelSection
    labels: LabelsSection
    state: StateSection
    dynamics: DynamicsSection
    run: RunSection

    def as_dict(self) -> dict[str, Any]:
        """The content of the file, without keys that it leaves out; JSON can hold it."""
        sections = dataclasses.asdict(self)
        del sections["path"]
        return {name: _without_none(section) for name, section in sections.items()}


def _without_none(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
