"""The part of a linear dynamics that wins: what a state has of the eigenvector of mu_+ on the winning modes.

With x and y the parts of F = M^T H and of W in those modes, of squared singular value g and with K = [[-a, r_1 g],
[r_2, -c]], it is Theta M `carrier` and `prototypes`,

    carrier = ((d - delta)/g x + r_1 y) / 2d,    prototypes = (r_2 x + (d + delta) y) / 2d.

It keeps its direction forever; what is left is carried on its own, so that the distance between directions is a ratio
of two computed numbers and never a difference of nearly equal ones.

What leads is what wins in the flow: mu_+ of the largest singular value. Where the steps of a descent are so large that
another |1 + eta mu| is the largest, that 1 + eta mu is below 0: signs change with every update, no direction is
approached, and the distance from this one does not fall. `limit` says what wins there.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unhinged_jax.dynamics import Dynamics
from unhinged_jax.kernel import Kernel
from unhinged_jax.linear.rates import Rates, unit_rates
from unhinged_jax.linear.spectrum import BalancedSpectrum, Spectrum, spectrum_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import largest, safe_sqrt


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


def growth(g: jax.Array, rates: Rates) -> Growth:
    """The eigenvalues of K for squared singular values g.

    Not differentiable where d = 0; see `closed_form.modes` for that.

    Source: THEORY of Zhou et al. 2023, Theorem 4, for any two decays and rates (beyond the paper).
    """
    a, c = rates.a, rates.c
    delta, m, coupling = (a - c) / 2, -(a + c) / 2, rates.r1 * rates.r2 * g
    square = delta**2 + coupling
    d = safe_sqrt(square)

    def partner(larger: jax.Array) -> jax.Array:
        return coupling / jnp.where(larger > 0, larger, 1.0)

    rising = jnp.where(delta >= 0, d + delta, partner(d - delta))
    falling = jnp.where(delta >= 0, partner(d + delta), d - delta)
    total = d - m
    plus = (coupling - a * c) / jnp.where(total > 0, total, 1.0)
    return Growth(d, rising, falling, plus, m - d)


class LeadingPart(eqx.Module):
    """The winning part of (H, W): Theta M `carrier` and `prototypes`, both (C, p), in units of the state.

    `H_moves` and `W_moves` say which of the two is a part of the state that moves; the other one stays what it is.
    """

    carrier: jax.Array
    prototypes: jax.Array
    rates: Rates
    H_moves: ClassVar[bool] = True
    W_moves: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[jax.Array, jax.Array]:
        """(carrier, prototypes)."""
        return self.carrier, self.prototypes

    @abc.abstractmethod
    def part(self, F: jax.Array, W: jax.Array, mode: int | None = None) -> tuple[jax.Array, jax.Array]:
        """(carrier, prototypes) of the leading part of a state with F = M^T H, all in one `mode` if that is given."""

    def turned(self, turn: Callable[[jax.Array], jax.Array]) -> Self:
        """The same with every row turned."""
        return dataclasses.replace(self, carrier=turn(self.carrier), prototypes=turn(self.prototypes))


class Coupled(LeadingPart):
    """Both parts move: what the start has of the eigenvector of mu_+ of the winning modes.

    Attributes:
        mask: 1 for the winning modes, else 0, (k,).
        square: Their squared singular value g, (), 1 where nothing leads.
        growth: The eigenvalues of their block.
    """

    spectrum: Spectrum
    mask: jax.Array
    square: jax.Array
    growth: Growth

    def part(self, F: jax.Array, W: jax.Array, mode: int | None = None) -> tuple[jax.Array, jax.Array]:
        k, r1, r2 = self.growth, self.rates.r1, self.rates.r2
        x, y = (self.top(F), self.top(W)) if mode is None else (self.mask[mode] * F, self.mask[mode] * W)
        return (k.falling / self.square * x + r1 * y) / (2 * k.d), (r2 * x + k.rising * y) / (2 * k.d)

    def top(self, X: jax.Array) -> jax.Array:
        """Projection of (C, p) on the winning modes."""
        return self.spectrum.apply(self.mask, jnp.zeros_like(self.mask), X)


class Anchored(LeadingPart):
    """W stays and pulls H: along M W, which is the leading part whatever its modes."""

    W_moves: ClassVar[bool] = False

    def part(self, F: jax.Array, W: jax.Array, mode: int | None = None) -> tuple[jax.Array, jax.Array]:
        return W, W


class Frozen(LeadingPart):
    """H stays and pulls W: along M^T H."""

    H_moves: ClassVar[bool] = False

    def part(self, F: jax.Array, W: jax.Array, mode: int | None = None) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros_like(F), F


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


def leading_part(model: LayerPeeled, dynamics: Dynamics, state: State, target: str = "top") -> LeadingPart:
    """The leading part of a state (H, W) under a linear dynamics with proportional rates.

    Source: Zhou et al. 2023, Corollaries 3 and 5 and Theorem 6, for any signal, decays, rates and kernel beyond it.
    """
    signal, kernel, (H, W) = model.signal(), model.kernel, (state.H, state.W)
    rates = unit_rates(model, dynamics, W.dtype)
    if not model.moves.H:
        return Frozen(jnp.zeros_like(W), signal.transpose_times(H), rates)
    if not model.moves.W:
        return Anchored(W, W, rates)
    spectrum = spectrum_of(signal, kernel, model.samples, model.dim, W.dtype)
    F = signal.transpose_times(H)
    mixed = kernel is not None and kernel.kind == "coordinates"
    mask = top_modes(spectrum, target, None if mixed else present_modes(spectrum, F, W))
    square = jnp.sum(mask * spectrum.eigenvalues()) / jnp.sum(mask)
    nothing = jax.lax.stop_gradient(square) <= _rounding(model, kernel, W.dtype)
    mask, square = jnp.where(nothing, 0.0, mask), jnp.where(nothing, 1.0, square)
    blank = Coupled(W, W, rates, spectrum, mask, square, growth(square, rates))
    carrier, prototypes = blank.part(F, W)
    return dataclasses.replace(blank, carrier=carrier, prototypes=prototypes)


class Origin(NamedTuple):
    """The leading part at the start of the first run in a chain of continued runs: e^log_scale times `part`."""

    part: LeadingPart
    log_scale: jax.Array


def leading_parts(
    model: LayerPeeled, dynamics: Dynamics, state: State, first: State | None, target: str
) -> tuple[LeadingPart, Origin | None]:
    """The leading part of a start; and that of the `first` start of a run that goes on, which sets signs and sizes."""
    part = leading_part(model, dynamics, state, target)
    if first is None or not model.moves.coupled:
        return part, None
    return part, Origin(leading_part(model, dynamics, first, target), first.log_scale)


def _rounding(model: LayerPeeled, kernel: Kernel | None, dtype: DTypeLike) -> jax.Array:
    """Squared singular values up to here are rounding of a signal that vanishes: nothing leads then."""
    q = jnp.asarray(model.labels.weights, dtype)
    theta = (
        1.0
        if kernel is None
        else jnp.max(jnp.abs(jnp.asarray(kernel.matrix, dtype))) ** (2 if kernel.kind == "factor" else 1)
    )
    return (8 * jnp.finfo(dtype).eps) ** 2 * model.classes * jnp.sum(q * q) * theta


def put_together(lead: jax.Array, rest: jax.Array) -> jax.Array:
    """lead + rest, where a row is 0 if no more is left of it than rounding: a row of zeros stays one."""
    total = lead + rest
    size = jnp.max(jnp.abs(lead)) + jnp.max(jnp.abs(rest))
    nothing = jnp.max(jnp.abs(total), axis=1, keepdims=True) <= 16 * jnp.finfo(total.dtype).eps * size
    return total - jax.lax.stop_gradient(jnp.where(nothing, total, 0.0))
