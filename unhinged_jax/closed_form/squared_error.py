"""Squared error from balanced starts: the flow of both layers in closed form.

With q the weight of a sample, g = q sqrt(r_1 r_2), H / (r_1/r_2)^(1/4) and W (r_1/r_2)^(1/4) in place of H and W,
time in units of 1/g and the decay lambda = r_1 lambda_1 / g = r_2 lambda_2 / g, the flow is

    H' = (Y - H W^T) W - lambda H,    W' = (Y - H W^T)^T H - lambda W.

A start is balanced if H^T H - W^T W = kappa I, which then holds forever if kappa or lambda is 0. With Z = [H; W] and
A = [[kappa/2 - lambda, Y], [Y^T, -kappa/2 - lambda]] the flow is Z' = A Z - Z Z^T Z / 2, and up to a rotation of the
feature space

    Z(t) = e^(At) Z_0 N^(-1/2),    N = I + Z_0^T (integral of e^(2As) over 0 ... t) Z_0.

It is evaluated in the eigenbasis of A: for each singular value s of Y, with vectors u and v,

    mu+- = -lambda +- sqrt(s^2 + kappa^2/4),    [cos u; sin v] and [-sin u; cos v] of half the angle of (kappa, 2 s),

and kappa/2 - lambda for what Y does not see of H. For one-hot Y the singular values are sqrt(n_c), whatever the counts.

The feature space is turned once, so that the rows of e^(At) Z_0 are a lower trapezoid in the order of their growth. At
any time its columns are then divided by their largest entry, and the rest has the condition of the start, however far
the exponentials are apart.

Source: Fukumizu 1998 and Braun et al. 2022 for balanced starts, Domine et al. 2025 for kappa; equal decays, unequal
rates and the evaluation at any time are beyond these papers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unhinged_jax.closed_form.balance import Form, balance_of, no_kappa, valid
from unhinged_jax.closed_form.residual import Eigenbasis, SmallLoss, residual, root_of
from unhinged_jax.dynamics import Flow
from unhinged_jax.linear.spectrum import without
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.special import largest, phi1, power_of_two, safe_norm, safe_sqrt, segment_sum


class Targets(NamedTuple):
    """Y = U diag(s) V^T. A singular value that is 0 has no left vector.

    Attributes:
        values: s, (k,).
        right: V, (C, k); None for the identity.
        left: U, (n, k), or the label of each sample, (n,), of one-hot targets.
    """

    values: Float[jax.Array, "k"]
    right: Float[jax.Array, "C k"] | None
    left: Float[jax.Array, "n k"] | Int[jax.Array, "n"]

    def _inverse(self) -> Float[jax.Array, "k 1"]:
        there = self.values > 0
        return jnp.where(there, 1 / jnp.where(there, self.values, 1.0), 0.0)[:, None]

    def gathered(self, H: Float[jax.Array, "n p"]) -> Float[jax.Array, "k p"]:
        """U^T H."""
        if self.right is None:
            return self._inverse() * segment_sum(H, self.left, self.values.shape[0])
        return self.left.T @ H

    def lifted(self, X: Float[jax.Array, "k p"]) -> Float[jax.Array, "n p"]:
        """U X."""
        return (self._inverse() * X)[self.left] if self.right is None else self.left @ X

    def seen(self, W: Float[jax.Array, "C p"]) -> Float[jax.Array, "k p"]:
        """V^T W."""
        return W if self.right is None else self.right.T @ W

    def shown(self, X: Float[jax.Array, "k p"]) -> Float[jax.Array, "C p"]:
        """V X."""
        return X if self.right is None else self.right @ X


class Start(NamedTuple):
    """A balanced start in the eigenbasis of A and in the turned feature space, with d of p dimensions.

    Attributes:
        model, targets, b: The problem, and the bias, which stays.
        rates: r_1 r_2.
        speed: g, which makes zeta(t) the time of the equations above.
        stretch: (r_1/r_2)^(1/4).
        turn: The turned feature space, rows orthonormal, (d, p).
        rows: Z_0 along mu+ and mu- of every singular value, (2k, d).
        omega, angle: sqrt(s^2 + kappa^2/4), and half the angle of (kappa, 2 s), (k,) each.
        decay, kappa: lambda and kappa, () each.
        rest, rest_root: What Y does not see of H_0, (n, d), and an R with R^T R = rest^T rest.
        reach: How many of the d dimensions a row of `rows` has a part in, (2k,).
        leads: Whether it reaches one that no row before it reaches, (2k,).
        valid: 1, or NaN if traced numbers turn out not to be those of a balanced start.
    """

    model: LayerPeeled
    targets: Targets
    b: Float[jax.Array, "C"]
    rates: Float[jax.Array, ""]
    speed: Float[jax.Array, ""]
    stretch: Float[jax.Array, ""]
    turn: Float[jax.Array, "d p"]
    rows: Float[jax.Array, "2k d"]
    omega: Float[jax.Array, "k"]
    angle: Float[jax.Array, "k"]
    decay: Float[jax.Array, ""]
    kappa: Float[jax.Array, ""]
    rest: Float[jax.Array, "n d"]
    rest_root: Float[jax.Array, "m d"]
    reach: Int[jax.Array, "2k"]
    leads: Bool[jax.Array, "2k"]
    valid: Float[jax.Array, ""]

    @property
    def growth(self) -> Float[jax.Array, "2k"]:
        """mu+ and mu- of every singular value."""
        return jnp.concatenate([self.omega, -self.omega]) - self.decay

    @property
    def growth_rest(self) -> Float[jax.Array, ""]:
        """The eigenvalue of the rest."""
        return self.kappa / 2 - self.decay


def start_of(model: LayerPeeled, flow: Flow, state: State, form: Form) -> Start:
    """The start, turned and in the eigenbasis."""
    dtype = state.W.dtype
    r1, r2, l1, l2 = (jnp.asarray(x, dtype) for x in (flow.rate_H, flow.rate_W, model.decay_H, model.decay_W))
    speed = jnp.mean(jnp.asarray(model.labels.weights, dtype)) * jnp.sqrt(r1 * r2)
    stretch = (r1 / r2) ** 0.25
    H, W = multiplied(state)
    unit = jnp.maximum(jax.lax.stop_gradient(largest(H, W)), jnp.finfo(dtype).tiny)  # whose square is not formed
    balance = balance_of(flow, H / unit, W / unit)
    H, W = H / stretch, W * stretch
    kappa = jnp.zeros((), dtype) if form.even else balance.kappa / jnp.sqrt(r1 * r2) * unit * unit
    targets = _targets(model, state.b, form, dtype)
    s, decay = targets.values, (r1 * l1 + r2 * l2) / (2 * speed)
    even = jax.lax.stop_gradient(no_kappa(balance, l1, model.dim, dtype))
    kappa = kappa - jax.lax.stop_gradient(jnp.where(even, kappa, 0.0))  # rounding, whose derivative counts
    angle, omega = jnp.full_like(s, jnp.pi / 4), s
    if not form.even:
        there = (s > 0) | (kappa != 0)
        angle = jnp.arctan2(jnp.where(there, 2 * s, 1.0), jnp.where(there, kappa, 0.0)) / 2
        omega = s * jnp.sin(2 * angle) + kappa / 2 * jnp.cos(2 * angle)
    F, A = targets.gathered(H), targets.seen(W)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    rows = jnp.concatenate([cos * F + sin * A, cos * A - sin * F])
    turn, reach, leads = _turned(rows, jnp.tile(jnp.argsort(-omega), 2), form.even)
    seen = jnp.arange(turn.shape[0]) < reach[:, None]
    rest = H - targets.lifted(F)
    present = safe_norm_of_rows(rest) > 16 * jnp.finfo(dtype).eps * safe_norm_of_rows(H)
    rest = without(rest, present[:, None]) @ turn.T  # rounding would be all that is left of the loss in the end
    sound = form.known | valid(model, flow, balance)
    return Start(
        model, targets, state.b, r1 * r2, speed, stretch, turn, jnp.where(seen, rows @ turn.T, 0.0),
        omega, angle, decay, kappa, rest, jnp.linalg.qr(jax.lax.stop_gradient(rest), mode="r"), reach, leads,
        jnp.where(sound, 1.0, jnp.nan).astype(dtype),
    )  # fmt: skip


def _targets(model: LayerPeeled, b: jax.Array, form: Form, dtype: DTypeLike) -> Targets:
    if form.one_hot:
        index = jnp.asarray(model.labels.index)
        counts = segment_sum(jnp.ones((index.shape[0], 1), dtype), index, model.classes)[:, 0]
        return Targets(safe_sqrt(counts), None, index)
    Y = model.labels.probabilities().astype(dtype) - b
    squares, right = jnp.linalg.eigh(Y.T @ Y)
    there = squares > 8 * model.classes * jnp.finfo(dtype).eps * squares[-1]
    values = jnp.where(there, jnp.sqrt(jnp.where(there, squares, 1.0)), 0.0)
    return Targets(values, right, (Y @ right) * jnp.where(there, 1 / jnp.where(there, values, 1.0), 0.0))


def _turned(rows: jax.Array, order: jax.Array, even: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A basis of the feature space, (d, p), in which rows taken in their order reach one dimension more at most.

    `order` is that of the rows of mu+, and again of those of mu-. The other results are how many dimensions each row
    reaches, (2k,), and whether it is the first that reaches the last of them. If kappa is 0 there are no more
    dimensions; else the basis is completed.
    """
    (twice, p), eps = rows.shape, jnp.finfo(rows.dtype).eps
    count = twice // 2
    size = jnp.hypot(*(safe_norm_of_rows(part) for part in (rows[:count], rows[count:])))
    place = order + jnp.repeat(jnp.array([0, count]), count)
    vectors, least = rows[place], eps**0.75 * jnp.tile(size, 2)[place]
    d = min(p, count) if even else p
    if not even:
        vectors = jnp.concatenate([vectors, jnp.eye(p, dtype=rows.dtype)])
        least = jnp.concatenate([least, jnp.full(p, 0.5 / p**0.5, rows.dtype)])

    def step(carry: tuple[jax.Array, jax.Array], given: tuple[jax.Array, jax.Array]) -> Any:
        (basis, found), (vector, least) = carry, given
        for _ in range(2):  # the second time removes what the rounding of the first left
            vector = vector - (basis @ vector) @ basis
        size = safe_norm(vector)
        new = (size > least) & (found < d)
        at = jnp.minimum(found, d - 1)
        basis = basis.at[at].set(jnp.where(new, vector / jnp.where(new, size, 1.0), basis[at]))
        return (basis, found + new), (found + new, new)

    begin = jnp.zeros((d, p), rows.dtype), jnp.asarray(0)
    (basis, _), passed = jax.lax.scan(step, begin, (vectors, least))
    reach, leads = (jnp.zeros(twice, part.dtype).at[place].set(part[:twice]) for part in passed)
    return basis, reach, leads


def safe_norm_of_rows(X: jax.Array) -> jax.Array:
    """Norms of the rows, (rows,), which may be as small or large as their type allows."""
    return jax.vmap(safe_norm)(X)


def moment(start: Start, zeta: jax.Array) -> View:
    """The state after `zeta`, up to a rotation of the feature space.

    A row with eigenvalue mu is e^(mu T) times that of the start. A weight (e^(2 mu T) - 1) / (2 mu) is e^(2 nu T) T phi
    with nu = max(mu, 0) and phi = phi1(2 |mu| T), and a column is divided by e^(nu T + extra) of its largest weighted
    entry, where nu and extra may be 0, those of the identity in N. So only differences of exponents are multiplied by
    T. Without decay a small loss is known to all digits.
    """
    T, dtype = start.speed * zeta, start.rows.dtype
    count = start.angle.shape[0]
    mu = jnp.append(start.growth, start.growth_rest)
    nu, phi = jnp.where(mu >= 0, mu, 0.0), phi1(2 * jnp.where(mu >= 0, mu, -mu) * T)
    entries = jnp.vstack([jnp.abs(start.rows), safe_norm_of_rows(start.rest.T)])
    column_nu, extra = _columns(nu, phi, entries, T)
    reach = jnp.arange(entries.shape[1]) < jnp.append(start.reach, entries.shape[1])[:, None]
    # Entries are divided by powers of two, which join the exponents: they may be far from one, as exponentials are.
    size = jax.lax.stop_gradient(jnp.where(entries > 0, entries, jnp.max(entries)))
    least = float(jnp.finfo(dtype).minexp)
    power = jnp.clip(jnp.round(jnp.log2(jnp.where(size > 0, size, 1.0))), least, -least)
    by, logs = power_of_two(-power.astype(jnp.int32), dtype), power * jnp.log(jnp.asarray(2.0, dtype))
    rows, rest, rest_root = start.rows * by[:-1], start.rest * by[-1], start.rest_root * by[-1]
    # Exponents of the rows of e^(At) Z_0 and of the square roots of their weights, each over that of the column.
    held = jax.lax.stop_gradient(jnp.where(T > 0, T * phi, 1.0))
    share = T * phi / held
    over = jnp.where(reach, (nu[:, None] - column_nu) * T - extra + logs + jnp.log(held)[:, None] / 2, 0.0)
    moved = jnp.where(reach, (mu[:, None] - column_nu) * T - extra + logs, 0.0)
    most = float(np.log(jnp.finfo(dtype).max)) / 4
    weighted = rows * jnp.exp(jnp.minimum(over[:-1], most))
    beside = jnp.exp(jnp.minimum(over[-1], most))
    one = jnp.exp(-column_nu * T - extra)
    gram = rest.T @ rest
    N = jnp.diag(one**2) + (weighted.T * share[:-1]) @ weighted + share[-1] * gram * beside * beside[:, None]
    factor = jnp.sqrt(share)
    stack = [weighted * factor[:-1, None], rest_root * beside * factor[-1], jnp.diag(one)]
    R = root_of(N, jax.lax.stop_gradient(jnp.concatenate(stack)))
    # What is common to all rows is kept beside them.
    common = jax.lax.stop_gradient(jnp.max(jnp.where((entries > 0) & reach, moved, -jnp.inf)))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    moved = jnp.exp(jnp.minimum(moved - common, 2 * most))
    rows = jnp.concatenate([rows * moved[:-1], rest * moved[-1]])
    rows = jax.scipy.linalg.solve_triangular(R, rows.T, trans=1).T @ start.turn
    up, down = rows[:count], rows[count : 2 * count]
    cos, sin = jnp.cos(start.angle)[:, None], jnp.sin(start.angle)[:, None]
    H = start.targets.lifted(cos * up - sin * down) + rows[2 * count :]
    W = start.targets.shown(sin * up + cos * down)
    size = start.stretch * start.valid
    view = View(start.model, DenseFeatures(H * size), W * start.valid / start.stretch, start.b, common)
    return view if start.rows.shape[1] < count else dataclasses.replace(view, small_loss=_small(start, T))


def _small(start: Start, T: jax.Array) -> SmallLoss:
    """The loss at time T where it is small, without decay."""
    values, dtype = start.targets.values, start.rows.dtype
    at = Eigenbasis(
        start.omega, start.angle, start.decay, start.kappa, start.rows, start.rest, start.rest_root
    )  # fmt: skip
    mantissa, log, holds = residual(at, T, jnp.all(start.leads[: values.shape[0]]) & jnp.all(values > 0))
    weight = start.speed / jnp.sqrt(jnp.asarray(start.rates, dtype))
    return SmallLoss(weight * mantissa, log, holds, weight / 2 * jnp.sum(values**2))


def _columns(nu: jax.Array, phi: jax.Array, entries: jax.Array, T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """nu and extra of every column, (d,) each: those of its largest weighted entry, or 0 of the identity in N."""
    logs = jnp.log(jnp.where(entries > 0, entries, 1.0)) + jnp.log(jnp.where(T > 0, T * phi, 1.0))[:, None] / 2
    logs = jnp.where((entries > 0) & (T > 0), logs, -jnp.inf)
    logs = jnp.vstack([logs, jnp.zeros(entries.shape[1], logs.dtype)])
    nu = jnp.append(nu, 0.0)
    # Compared in two steps, because the exponents may be so large that `logs` would be lost beside them.
    first = jnp.argmax(jnp.where(logs > -jnp.inf, nu[:, None] * T + logs, -jnp.inf), axis=0)
    extra = jnp.take_along_axis(logs, first[None], axis=0)[0]
    return jax.lax.stop_gradient((nu[first], extra))
