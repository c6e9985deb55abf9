"""The part of a linear dynamics that wins, and what is left: distances to the limit without cancellation.

The state is Z = Z_lead + X. The leading part keeps its direction for ever; X is carried on its own, so that the
distance between directions is a ratio of two computed numbers and never a difference of nearly equal ones.

What leads is what wins in the flow: mu_+ of the largest singular value. Where the steps of a descent are so large that
another |1 + eta mu| is the largest, that 1 + eta mu is below 0: signs change with every update, no direction is
approached, and the distance from this one does not fall. `limit` says what wins there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax.kernel import Kernel
from unhinged_jax.model import LayerPeeled
from unhinged_jax.signal import Signal
from unhinged_jax.special import largest, safe_log, safe_norm, safe_sqrt
from unhinged_jax.spectrum import BalancedSpectrum, Spectrum, spectrum_of


class Growth(NamedTuple):
    """Eigenvalues of one mode's 2 x 2 block K = [[-a, r_1 g], [r_2, -c]], a = r_1 lambda_1, c = r_2 lambda_2.

    d = sqrt(delta^2 + r_1 r_2 g); `rising` = d + delta and `falling` = d - delta without cancellation; `plus` and
    `minus` are mu_+ and mu_-.
    """

    d: jax.Array
    rising: jax.Array
    falling: jax.Array
    plus: jax.Array
    minus: jax.Array


def growth(g: jax.Array, a: Any, c: Any, r1: Any, r2: Any) -> Growth:
    """The eigenvalues of K for squared singular values g. Not differentiable where d = 0; see `exact.modes` for that.

    Source: THEORY of Zhou et al. 2023, Theorem 4, for any two decays and rates (beyond the paper).
    """
    delta, m, coupling = (a - c) / 2, -(a + c) / 2, r1 * r2 * g
    square = delta**2 + coupling
    d = safe_sqrt(square)

    def partner(larger: jax.Array) -> jax.Array:
        return coupling / jnp.where(larger > 0, larger, 1.0)

    rising = jnp.where(delta >= 0, d + delta, partner(d - delta))
    falling = jnp.where(delta >= 0, partner(d + delta), d - delta)
    total = d - m
    plus = (coupling - a * c) / jnp.where(total > 0, total, 1.0)
    return Growth(d, rising, falling, plus, m - d)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leading:
    """The winning part of (H, W): Theta M `carrier` and `prototypes`, both (C, p).

    kind: "coupled" (both parts move), "anchored" (W stays; H tends to M W) or "frozen" (H stays; W tends to M^T H).
    """

    carrier: jax.Array
    prototypes: jax.Array
    spectrum: Spectrum | None
    mask: jax.Array | None
    square: jax.Array | None
    growth: Growth | None
    r1: Any
    r2: Any
    kind: str = dataclasses.field(default="coupled", metadata={"static": True})

    @property
    def parts(self) -> tuple[jax.Array, jax.Array]:
        """(carrier, prototypes)."""
        return self.carrier, self.prototypes

    def part(self, F: jax.Array, W: jax.Array, mode: int | None = None) -> tuple[jax.Array, jax.Array]:
        """The leading part (carrier, prototypes) of a state with F = M^T H, all in one `mode` if that is given."""
        if self.kind == "anchored":
            return W, W
        if self.kind == "frozen":
            return jnp.zeros_like(F), F
        g, k = self.square, self.growth
        assert g is not None and k is not None
        if mode is None:
            x, y = self.top(F), self.top(W)
        else:
            assert self.mask is not None
            x, y = self.mask[mode] * F, self.mask[mode] * W
        return (k.falling / g * x + self.r1 * y) / (2 * k.d), (self.r2 * x + k.rising * y) / (2 * k.d)

    def top(self, X: jax.Array) -> jax.Array:
        """Projection of (C, p) on the winning modes."""
        assert self.spectrum is not None and self.mask is not None
        return self.spectrum.apply(self.mask, jnp.zeros_like(self.mask), X)


def present_modes(spectrum: Spectrum, F: jax.Array, W: jax.Array) -> jax.Array:
    """Which modes a state with F = M^T H has a part in, beyond rounding: it never gets one in the others.

    A state of zeros is none of them, and all may count.
    """
    if isinstance(spectrum, BalancedSpectrum):
        return balanced_modes(F, W)

    def parts(X: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(spectrum.vectors.T @ X), axis=1) > _noise(X)

    return _or_all(parts(F) | parts(W))


def balanced_modes(F: jax.Array, W: jax.Array) -> jax.Array:
    """The same of balanced classes: whether the state has a part in class contrasts and in the common mean."""

    def parts(X: jax.Array) -> jax.Array:  # differences, because equal rows may have another mean
        return jnp.stack([largest(X - X[0]), largest(jnp.mean(X, axis=0))]) > _noise(X)

    return _or_all(parts(F) | parts(W))


def _noise(X: jax.Array) -> jax.Array:
    return 16 * jnp.finfo(X.dtype).eps * largest(X)


def _or_all(present: jax.Array) -> jax.Array:
    return present | ~jnp.any(present)


def top_modes(spectrum: Spectrum, target: str, present: jax.Array | None = None) -> jax.Array:
    """1 for the modes that share the largest singular value of those `present` (or that `target` names), else 0."""
    values = spectrum.values
    if target == "top":
        slack = jnp.finfo(values.dtype).eps ** 0.6
        if present is not None:
            values = jnp.where(present, values, -1.0)
        return (values >= jnp.max(values) * (1 - slack)).astype(values.dtype)
    if not isinstance(spectrum, BalancedSpectrum):
        raise ValueError(
            f"target {target!r} is defined for balanced one-hot labels without a kernel; use target='top'."
        )
    return jnp.asarray([1.0, 0.0] if target == "contrast" else [0.0, 1.0], values.dtype)


def leading(
    model: LayerPeeled,
    signal: Signal,
    kernel: Kernel | None,
    r1: Any,
    r2: Any,
    H: jax.Array,
    W: jax.Array,
    target: str = "top",
) -> Leading:
    """The leading part of the state (H, W) under the linear dynamics with rates r1, r2 (0 for a part that stays).

    Source: Zhou et al. 2023, Corollaries 3 and 5 and Theorem 6, for any signal, decays, rates and kernel beyond it.
    """
    if not (model.features_move and model.prototypes_move):
        kind = "frozen" if model.prototypes_move else "anchored"
        F = signal.transpose_times(H) if kind == "frozen" else W
        carrier = jnp.zeros_like(W) if kind == "frozen" else W
        return Leading(carrier, F, None, None, None, None, r1, r2, kind)
    spectrum = spectrum_of(signal, kernel, model.samples, model.dim, W.dtype)
    F = signal.transpose_times(H)
    mixed = kernel is not None and kernel.kind == "coordinates"
    mask = top_modes(spectrum, target, None if mixed else present_modes(spectrum, F, W))
    square = jnp.sum(mask * spectrum.eigenvalues()) / jnp.sum(mask)
    nothing = jax.lax.stop_gradient(square) <= _rounding(model, kernel, W.dtype)
    mask, square = jnp.where(nothing, 0.0, mask), jnp.where(nothing, 1.0, square)
    blank = Leading(W, W, spectrum, mask, square, None, r1, r2)
    found = dataclasses.replace(blank, growth=growth(square, r1 * model.decay_H, r2 * model.decay_W, r1, r2))
    carrier, prototypes = found.part(F, W)
    return dataclasses.replace(found, carrier=carrier, prototypes=prototypes)


def _rounding(model: LayerPeeled, kernel: Kernel | None, dtype: Any) -> jax.Array:
    """Squared singular values up to here are rounding of a signal that vanishes: nothing leads then."""
    q = jnp.asarray(model.labels.weights, dtype)
    theta = 1.0 if kernel is None else jnp.max(jnp.abs(jnp.asarray(kernel.matrix, dtype))) ** (
        2 if kernel.kind == "factor" else 1
    )
    return (8 * jnp.finfo(dtype).eps) ** 2 * model.classes * jnp.sum(q * q) * theta


def put_together(lead: jax.Array, rest: jax.Array) -> jax.Array:
    """lead + rest, where a row is 0 if no more is left of it than rounding: a row of zeros stays one."""
    total = lead + rest
    size = jnp.max(jnp.abs(lead)) + jnp.max(jnp.abs(rest))
    nothing = jnp.max(jnp.abs(total), axis=1, keepdims=True) <= 16 * jnp.finfo(total.dtype).eps * size
    return total - jax.lax.stop_gradient(jnp.where(nothing, total, 0.0))


class Split(NamedTuple):
    """A state as amplitude times a fixed unit direction plus a remainder, for the distance between directions.

    `direction` and `rest` are lists of arrays with equal shapes, in orthonormal coordinates. The state is
    sign e^log_amplitude direction + e^log_rest rest; `whole` is the same state, over any scale, for where the sum
    cancels.
    """

    direction: list[jax.Array]
    rest: list[jax.Array]
    log_amplitude: jax.Array
    sign: jax.Array
    log_rest: jax.Array
    whole: list[jax.Array]


class Reference(NamedTuple):
    """What a run that goes on refers to: the leading part at the start of the first run, seen from this one.

    `turn` is -1 where the leading part has changed its sign since, else 1. The leading part of the first start is
    e^log_start (direction + beside), with the direction of this run after that turn.
    """

    turn: jax.Array
    log_start: jax.Array
    beside: list[jax.Array]


def reference(direction: list[jax.Array], origin: list[jax.Array], log_scale: jax.Array) -> Reference:
    """The reference of a run with a unit direction, whose first start has the leading part e^log_scale origin."""
    size = safe_norm(*origin)
    unit = [part / jnp.where(size > 0, size, 1.0) for part in origin]
    along = sum((jnp.sum(d * x) for d, x in zip(direction, unit, strict=True)), jnp.zeros(()))
    # The same dynamics keeps the direction up to its sign; another one has a direction of its own.
    turn = jax.lax.stop_gradient(jnp.where(along < -0.999, -1.0, 1.0)).astype(size.dtype)
    share = jnp.where(jnp.abs(along) > 0.5, turn * along, 1.0)
    share = jnp.where(share > 0, share, 1.0)
    beside = [x / share - turn * d for d, x in zip(direction, unit, strict=True)]
    return Reference(turn, safe_log(size) + jnp.log(share) + log_scale, beside)


def turned(split: Split, turn: jax.Array) -> Split:
    """The same state, split along its direction times 1 or -1."""
    return split._replace(direction=[turn * part for part in split.direction], sign=turn * split.sign)


def split_part(split: Split, which: slice) -> Split:
    """The split of some of the arrays (features alone, say), with their direction made unit again."""
    direction = split.direction[which]
    size = safe_norm(*direction)
    safe = jnp.where(size > 0, size, 1.0)
    return split._replace(
        direction=[part / safe for part in direction],
        rest=split.rest[which],
        whole=split.whole[which],
        log_amplitude=split.log_amplitude + safe_log(size),
    )


def log_distance(split: Split) -> jax.Array:
    """log of the distance between the unit vector of the state and the direction, exact however small it is.

    With phi the angle between them the distance is 2 sin(phi/2), and tan(phi) = |rest across| / (amplitude + rest
    along). Where those two all but cancel, as in a part that starts far smaller than the other, the whole is compared.
    Where the limit or the state has no direction the distance is NaN.
    """
    along, across = _along_and_across(split.direction, split.rest)
    ahead_whole, aside_whole = _along_and_across(split.direction, split.whole)
    led = safe_norm(*split.direction) > 0
    common = jax.lax.stop_gradient(jnp.maximum(split.log_amplitude, split.log_rest))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    lead, shrink = split.sign * jnp.exp(split.log_amplitude - common), jnp.exp(split.log_rest - common)
    ahead = lead + along * shrink
    aside, log_aside = across * shrink, safe_log(across) + (split.log_rest - common)
    cancel = jnp.maximum(jnp.abs(ahead), aside) < jnp.abs(lead) / 8
    ahead, aside = jnp.where(cancel, ahead_whole, ahead), jnp.where(cancel, aside_whole, aside)
    log_aside = jnp.where(cancel, safe_log(aside_whole), log_aside)
    there = (ahead != 0) | (aside != 0)
    angle = jnp.arctan2(aside, jnp.where(there, ahead, 1.0))
    small = (aside < 1e-3 * ahead) & (log_aside > -jnp.inf)
    log_tangent = log_aside - jnp.log(jnp.where(small, ahead, 1.0))
    # log(2 sin(phi/2)) = log(tan phi) - (3/8) tan^2 phi + O(tan^4 phi), sharp to 1e-13 below 1e-3
    square = jnp.exp(2 * jnp.where(small, log_tangent, 0.0))
    near = log_tangent - 3 / 8 * square + 11 / 64 * square**2
    far = safe_log(2 * jnp.abs(jnp.sin(jnp.where(small, 1.0, angle) / 2)))
    return jnp.where(led & there, jnp.where(small, near, far), jnp.nan)


def _along_and_across(direction: list[jax.Array], parts: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Component of a vector along a unit direction, and the length of what is left."""
    along = sum((jnp.sum(d * x) for d, x in zip(direction, parts, strict=True)), jnp.zeros(()))
    return along, safe_norm(*(x - along * d for d, x in zip(direction, parts, strict=True)))
