"""Spherical features with anchored prototypes: the exact length of every feature and its exact angle to its target.

Let g_i = (M W)_i be the target of feature h_i, kappa_i = |g_i|, theta_i the angle between them and rho_i = |h_i|. At
unit rates

    theta' = -kappa rho^(q-2) sin(theta),    rho' = -lambda_1 rho,

so that tan(theta/2) is multiplied by e^(-kappa times the integral of rho^(q-2)).

Source: Zhou et al. 2023, Theorem 7; flow with decay, rescaling and exact descent are beyond the paper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unhinged_jax import _loop
from unhinged_jax.dynamics import Descent, Flow, rate_at
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import View
from unhinged_jax.observables.features import row_lengths
from unhinged_jax.observables.plane_features import PlaneFeatures, plane_features, with_products
from unhinged_jax.special import phi1, safe_log

_STEP = 40
"""Powers of two between two levels of angles: one update changes an angle by a much smaller factor."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeaningPlane(PlaneFeatures):
    """Features in their planes, with correct derivatives also for a sample exactly at its target or opposite to it.

    Such a sample has no plane. Its `transverse` is 0, but has the derivative of a start that leaves the target.

    Attributes:
        share: (n,), 0 for a sample that has a plane. For one that has none, `share` times its length is the derivative
            of its component across the target with respect to that of its start. It does not change any value.
    """

    share: jax.Array = dataclasses.field(default_factory=lambda: jnp.zeros(()))

    def _plane(self) -> PlaneFeatures:
        across = self.aside + self.share * self.row_norms()
        return PlaneFeatures(self.along, across, self.target, self.transverse, self.with_prototypes)

    def dense(self) -> jax.Array:
        return self._plane().dense()

    def products(self, V: jax.Array) -> jax.Array:
        return self._plane().products(V)

    def scores(self, W: jax.Array) -> jax.Array:
        return self._plane().scores(W)


class Sphere:
    """The start: the planes of the samples, their angles theta_i and lengths rho_i, and ||g_i||, (n,) each."""

    def __init__(self, model: LayerPeeled, H: jax.Array, W: jax.Array, b: jax.Array) -> None:
        G = model.signal().times(W)
        self.model, self.W, self.b = model, W, b
        self.plane = with_products(plane_features(H, G), W)
        self.pull = row_lengths(G)[:, 0]
        self.length = jnp.hypot(self.plane.along, self.plane.across)
        # Angles are measured from the nearest pole, so that those close to pi, and pi itself, are as exact as
        # small ones.
        self.far = self.plane.along < 0
        self.angle = jnp.arctan2(self.plane.across, jnp.abs(self.plane.along))
        self.still = self.plane.across == 0
        # A deviation from the opposite of the target grows without bound; 0 times its factor must stay a number.
        self.most = float(jnp.finfo(W.dtype).max) ** 0.5

    def view(
        self, angle: jax.Array, log_unit: jax.Array, far: jax.Array, length: jax.Array, leaning: jax.Array
    ) -> View:
        """The state at one moment; every argument is (n,).

        Args:
            angle, log_unit: The angles are e^log_unit `angle`.
            far: Whether an angle is measured from the opposite of the target, rather than from the target.
            length: The lengths rho_i.
            leaning: For a start parallel to its target, the derivative of the angle with respect to the component of
                the start across the target.
        """
        whole = jnp.exp(log_unit) * angle
        along, across = length * jnp.cos(whole), length * angle * _sinc(whole)
        plane, share = self.plane, jnp.where(self.still, jnp.minimum(leaning, self.most), 0.0)
        along = jnp.where(far, -along, along)
        features = LeaningPlane(along, across, plane.target, plane.transverse, plane.with_prototypes, log_unit, share)
        return View(self.model, features, self.W, self.b, jnp.zeros((), self.W.dtype))


def flow_at(sphere: Sphere, flow: Flow, tau: jax.Array) -> View:
    """The state after zeta = tau: tan(theta/2) = tan(theta_0/2) exp(-r1 kappa I(tau)) and rho = rho_0 e^{-a tau}."""
    a = flow.rate_H * sphere.model.decay_H
    slack = 2 - sphere.model.rescaling
    # (e^{slack a tau} - 1) / (slack a) = tau phi1(-slack a tau)
    turned = flow.rate_H * sphere.pull * sphere.length ** (-slack) * tau * phi1(jnp.asarray(-slack * a * tau))
    small = jnp.where(sphere.far, jnp.pi / 2 - sphere.angle, sphere.angle)  # harmless where `far`
    near = jnp.tan(small / 2)
    # Near the opposite of the target the tangent of half the complement grows; its logarithm does not overflow.
    half = jnp.tan(jnp.where(sphere.far, sphere.angle, 1.0) / 2)
    log_away = safe_log(half) + turned
    away, back = jnp.exp(jnp.minimum(log_away, 0.0)), jnp.exp(-jnp.maximum(log_away, 0.0))
    still_far = sphere.far & (log_away < 0)
    tangent = jnp.where(sphere.far, jnp.where(still_far, away, back), near)
    log_unit = jnp.where(sphere.far, 0.0, -turned)
    whole = jnp.exp(log_unit) * tangent
    angle = 2 * tangent * jnp.where(whole == 0, 1.0, jnp.arctan(whole) / jnp.where(whole == 0, 1.0, whole))
    leaning = jnp.exp(jnp.minimum(jnp.where(sphere.far, turned, -turned), math.log(sphere.most))) / sphere.length
    return sphere.view(angle, log_unit, still_far, sphere.length * jnp.exp(-a * tau), leaning)


def _sinc(x: jax.Array) -> jax.Array:
    """sin(x)/x, which is 1 at x = 0."""
    safe = jnp.where(x == 0, 1.0, x)
    return jnp.where(x == 0, 1.0, jnp.sin(safe) / safe)


class Carry(NamedTuple):
    """What goes from update to update, sample by sample, (n,).

    Attributes:
        angle, level: The angle from the nearest pole over 2^(_STEP level).
        far: Whether that pole is the opposite of the target.
        length: The length of the features.
        leaning: What a small change across, at the start of a sample on its line, has become.
        lost, lost_length: What rounding lost of the angle and of the length.
        updates: How many were made, ().
    """

    angle: jax.Array
    level: jax.Array
    far: jax.Array
    length: jax.Array
    leaning: jax.Array
    lost: jax.Array
    lost_length: jax.Array
    updates: jax.Array


def descent_values(
    sphere: Sphere,
    descent: Descent,
    reads: _loop.Reads,
    first: jax.Array,
    read: Callable[..., Any],
    differentiable: bool,
) -> tuple[Any, Any, jax.Array]:
    """Run the descent h <- rho (c e_r - w e_theta), c = 1 - r1 eta l1, w = r1 eta kappa rho^(q-2) sin theta, in angles:

        theta <- theta - arctan(w / c), rho <- rho sqrt(c^2 + w^2), and the opposite of this direction where c < 0.

    Angles are measured from the nearest pole and have a sign, because a step that is too long crosses the line through
    the target. What rounding loses of an angle or a length is added to its next change (Kahan summation): an angle
    shrinks to nothing in very many updates, and each of them depends on all earlier changes of the length. An angle
    stands for 2^(_STEP level) times itself with level <= 0, so that it may become smaller than any number of its type.

    What only derivatives need is left out unless the run is `differentiable`: no value depends on it.

    Returns:
        The last carry, what was read, and which reads were reached.
    """
    model, dtype = sphere.model, sphere.W.dtype

    def step(carry: Carry, k: jax.Array) -> Carry:
        angle, level, far, length, leaning, lost, lost_length, updates = carry
        unit = _unit(level, dtype)
        whole = unit * angle
        time = (first + k).astype(dtype)
        eta = jnp.asarray(descent.schedule(time) * rate_at(descent.rate_H, time), dtype)
        decay = eta * model.decay_H
        keep, turn = 1 - decay, eta * sphere.pull * length ** (model.rescaling - 2)
        beyond = keep < 0
        sine = turn * angle * _sinc(whole)
        push = unit * sine
        tiny = jnp.abs(push) < 2.0**-_STEP * jnp.abs(keep)  # the arc tangent of such a quotient equals it
        safe = jnp.where(tiny, 1.0, jnp.where(unit > 0, unit, 1.0))
        arc = jnp.arctan2(jnp.where(tiny, 0.0, push), jnp.where(tiny, 1.0, jnp.abs(keep))) / safe
        moved = jnp.where(tiny, sine / jnp.where(tiny, jnp.abs(keep), 1.0), arc)
        turned, lost = _added(angle, jnp.where(far ^ beyond, moved, -moved), lost)
        crossed = jnp.abs(unit * turned) > jnp.pi / 2
        turned = jnp.where(crossed, jnp.sign(turned) * jnp.pi / safe - turned, turned)
        mirrored = crossed ^ beyond  # the opposite of a direction has minus its angle, from the other pole
        turned, lost = jnp.where(beyond, -turned, turned), jnp.where(mirrored, -lost, lost)
        gone = (keep == 0) & (push == 0)
        stretch = jnp.where(gone, 0.0, jnp.hypot(jnp.where(gone, 1.0, keep), push))
        growth = (push * push - decay * (2 - decay)) / (1 + stretch)  # stretch - 1
        added, lost_added = _added(length, length * growth, lost_length)
        near = growth > -0.5  # otherwise the sum would cancel
        stretched, lost_length = jnp.where(near, added, length * stretch), jnp.where(near, lost_added, 0.0)
        if differentiable:  # a sixth of the time
            across = keep + jnp.where(far, turn, -turn) * jnp.cos(whole)
            leaning = jnp.clip(leaning * across / jnp.where(gone, 1.0, stretch), -sphere.most, sphere.most)
        (turned, lost), level = _levelled((turned, lost), level)
        return Carry(turned, level, far ^ mirrored, stretched, leaning, lost, lost_length, updates + 1)

    def settle(_: Carry, after: Carry) -> tuple[Carry, jax.Array]:
        return after, jnp.all(jnp.isfinite(after.angle)) & jnp.all(after.length < sphere.most)

    nothing = jnp.zeros_like(sphere.angle)
    level = jnp.zeros(nothing.shape, jnp.int32)
    updates = jnp.zeros((), jnp.int32)
    start = Carry(
        sphere.angle, level, sphere.far, sphere.length, 1 / sphere.length, nothing, nothing, updates
    )  # fmt: skip
    return _loop.run(step, start, reads, read, settle, needs=lambda carry: carry[:5])


def log_unit(level: jax.Array, dtype: DTypeLike) -> jax.Array:
    """The logarithm of the factor that an angle of this level stands for."""
    return level.astype(dtype) * (_STEP * math.log(2.0))


def _unit(level: jax.Array, dtype: DTypeLike) -> jax.Array:
    """The factor that an angle of this level stands for."""
    return jnp.exp2(_STEP * level.astype(dtype))


def _levelled(angles: tuple[jax.Array, jax.Array], level: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """The angles, and what rounding lost of them, moved to levels at which they are neither very small nor large."""
    size = jnp.abs(angles[0])
    down, up = (size > 0) & (size < 2.0**-_STEP), (size > 1.0) & (level < 0)
    factor = jnp.where(down, 2.0**_STEP, jnp.where(up, 2.0**-_STEP, 1.0)).astype(size.dtype)
    return tuple(factor * angle for angle in angles), level - down + up


def _added(value: jax.Array, change: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """value + change + lost, and what rounding loses of this sum; `lost` is what it lost in the sum before."""
    change = change + lost
    moved = value + change
    return moved, jax.lax.stop_gradient(change - (moved - value))
