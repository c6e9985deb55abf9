"""Starts that a group permutes: a loss that treats all classes alike moves every character by one number.

Let all samples of a class c share one feature h_c, and let W W^T, W H^T and H H^T of these be functions of the
difference of two classes in an abelian group, in which class c is element c. With Q of `initial.group_starts`,

    Q W = [w_k],  Q H = [h_k],    w_k and h_k orthogonal to w_l and h_l for k != l,

the logits are a function phi of the difference, phi^_k = <w_k, h_k>, and so is minus the gradient P with respect to
them, because the loss does not change if all classes are permuted. With N samples of weight q each,

    h_k' = q P^_k w_k - lambda_1 h_k,    w_k' = N q P^_k h_k - lambda_2 w_k,    P^_k = 1 - softmax(phi)^_k

for cross-entropy: every character stays in the plane of its start, and four numbers for each stand for 2 C p. If H and
W begin balanced and decay alike, h_k stays parallel to w_k, and these are C - 1 scalar equations. The bias, equal for
all classes, keeps to that.

Source: Garrod, Keating & Thrampoulidis 2025 for Hadamard starts, N = 1 and cross-entropy; the rest is beyond it.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.dynamics import PartRates
from unhinged_jax.initial.group_starts import GROUPS, difference, eigenvalues, opposite, transformed
from unhinged_jax.labels.balance import look
from unhinged_jax.losses import MSE, CrossEntropy, Focal
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.observables import View
from unhinged_jax.observables.features import ScoredFeatures
from unhinged_jax.simulation.columns import ColumnSystem, start_power
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import drift, largest, power_of_two, safe_norm

_ALIKE = (CrossEntropy, MSE, Focal)
"""Our losses that treat all classes alike and are smooth, but not classes derived from them. A hinge has its kinks
where two classes are as near, as here."""
_SLACK = 16  # in units of rounding: how far a start may be from one that a group permutes
_LEAST = 4  # the same: a character of the start that is smaller is only what rounding left


def group_of(model: LayerPeeled, state: State) -> str:
    """The group that permutes a start of a loss of the logits, "cyclic" or "hadamard"; "" for none or an unknown one.

    Members of a batch that `jax.vmap` maps over must all be such starts. What it costs for any other start is one pass
    over H and W, because the lengths of their rows differ.
    """
    labels = model.labels
    if not (type(model.loss) in _ALIKE or model.loss.symmetric):
        return ""
    if not (labels.kind in ("hard", "table") and look(labels.index, labels.weights, labels.classes)):
        return ""
    parts = [_check.known(part) for part in (labels.index, state.H, state.W, state.b)]
    index, H, W, b = parts
    if index is None or H is None or W is None or b is None or index.ndim > 1 or np.any(np.ptp(b, axis=-1) != 0):
        return ""
    slack = _SLACK * float(np.finfo(W.dtype).eps)
    if not (_even_lengths(H, slack) and _even_lengths(W, slack)):
        return ""
    first = np.argsort(index, kind="stable").reshape(model.classes, -1)
    of_classes = H[..., first[:, 0], :]
    size = np.max(np.abs(H), axis=(-2, -1), initial=0.0, keepdims=True)  # of every member
    if not np.all(np.abs(H - of_classes[..., index, :]) <= slack * size):
        return ""
    batch = np.broadcast_shapes(H.shape[:-2], W.shape[:-2])
    members = [np.broadcast_to(X, (*batch, *X.shape[-2:])).reshape(-1, *X.shape[-2:]) for X in (of_classes, W)]
    for group in GROUPS:
        if group == "hadamard" and model.classes & (model.classes - 1):
            continue
        if labels.kind == "table" and not _same_targets(group, _check.known(labels.targets)):
            continue
        if all(_permuted(group, h, w, slack) for h, w in zip(*members, strict=True)):
            return group
    return ""


def _same_targets(group: str, table: np.ndarray | None) -> bool:
    """Whether targets of the classes, (C, C), are an even function of the difference of two classes."""
    if table is None or table.ndim != 2:
        return False
    classes = np.arange(len(table))
    apart = difference(group, classes[:, None], classes, len(table))
    function = table[0]
    even = np.abs(function - function[opposite(group, len(table))]).max() <= 1e-6
    return bool(even and np.abs(table - function[apart]).max() <= 1e-6)


def _even_lengths(X: np.ndarray, slack: float) -> bool:
    """Whether all rows of every member have one length."""
    size = np.max(np.abs(X), axis=(-2, -1), initial=0.0, keepdims=True)
    squares = np.sum(np.square(X / np.where(size > 0, size, 1.0), dtype=float), axis=-1)
    return bool(np.all(np.ptp(squares, axis=-1) <= slack * np.max(squares, axis=-1)))


def _permuted(group: str, H: np.ndarray, W: np.ndarray, slack: float) -> bool:
    """Whether H H^T, W W^T and W H^T, (C, C) each, are functions of the difference of two classes."""
    rows = []
    for part in (H, W):
        size = np.max(np.abs(part), initial=0.0) or 1.0
        X = transformed(group, part / size if part.dtype == float else part.astype(float) / size, np)
        rows.append(X / (np.linalg.norm(X) or 1.0))
    classes = H.shape[0]
    for first, second in ((0, 0), (1, 1), (1, 0)):
        gram = rows[first] @ rows[second].T
        values = np.diagonal(gram)
        beside = np.abs(gram - np.diag(values)).max(), np.abs(values - values[opposite(group, classes)]).max()
        if max(beside) > slack / classes**0.5:
            return False
    return True


class GroupSystem(ColumnSystem):
    """The moving arrays are "H" and "W", (2, C), and "b", (C,): coordinates of h_k and w_k in their plane.

    Attributes:
        group: "cyclic" or "hadamard".
        planes: Two orthonormal vectors of every plane, or zeros, (2, C, p).
        features, prototypes: H, (n, p), and W, (C, p), at the start, in the units of the coordinates.
    """

    planes: jax.Array = eqx.field(kw_only=True)
    features: jax.Array = eqx.field(kw_only=True)
    prototypes: jax.Array = eqx.field(kw_only=True)
    group: str = eqx.field(kw_only=True, static=True)

    @property
    def _per_class(self) -> float:
        return self.model.samples / self.model.classes

    def scores(self, body: Body) -> jax.Array:
        """The logits of a sample of class 0 without biases, phi, (C, 1)."""
        return eigenvalues(self.group, jnp.sum(body["H"] * body["W"], axis=0))[:, None] / self.model.classes

    def pull(self, body: Body, scores: jax.Array) -> jax.Array:
        """Minus the gradient of the loss of that sample, (C, 1)."""
        weights = jnp.asarray(self.model.labels.weights, scores.dtype)[:1]
        return self.model.loss.pull(scores + body["b"][:, None], self.targets, weights)

    def pushed(self, body: Body, pull: jax.Array, rates: PartRates) -> Body:
        force, moves = eigenvalues(self.group, pull[:, 0]), self.model.moves
        bias = jnp.full_like(body["b"], self._per_class) * (rates.b * jnp.sum(pull))
        return {
            "H": rates.H * force * body["W"] if moves.H else jnp.zeros_like(body["H"]),
            "W": rates.W * self._per_class * force * body["H"] if moves.W else jnp.zeros_like(body["W"]),
            "b": bias if moves.b else jnp.zeros_like(body["b"]),
        }

    def pack(self, velocity: Body) -> Body:
        raise TypeError("a run that begins with a velocity is not reduced to the characters of a group.")

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        unit = jnp.exp(logs[0] - log_scale) if self.scaled else 1.0
        H, W = (unit * self._rows(velocity[name]) for name in ("H", "W"))
        return {"H": H[jnp.asarray(self.model.labels.index)], "W": W, "b": velocity["b"]}

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        dtype, index = body["W"].dtype, jnp.asarray(self.model.labels.index)
        beyond = jnp.finfo(dtype).maxexp // 4  # so that products of what is left stay in range
        power = jnp.zeros((), jnp.int32) if self.scaled else drift(largest(body["H"], body["W"]), beyond)
        unit = power_of_two(-power, dtype)
        H = jnp.where(still, self.features, self._rows(body["H"])[index])
        W = jnp.where(still, self.prototypes, self._rows(body["W"]))
        phi = self.scores({"H": unit * body["H"], "W": unit * body["W"]})[:, 0]
        apart = difference(self.group, jnp.arange(self.model.classes)[:, None], index, self.model.classes)
        norm = jnp.sqrt(jnp.asarray(self._per_class, dtype)) * safe_norm(unit * body["H"])
        log_scale = (logs[0] if self.scaled else 0.0) + power.astype(dtype) * jnp.log(jnp.asarray(2.0, dtype))
        features = ScoredFeatures(unit * H, None, phi[apart], norm)
        return View(self.model, features, unit * W, body["b"], log_scale)

    def _rows(self, coordinates: jax.Array) -> jax.Array:
        """The rows of the classes from coordinates (2, C), (C, p)."""
        return transformed(self.group, jnp.sum(coordinates[:, :, None] * self.planes, axis=0))


def group_system(model: LayerPeeled, state: State, group: str, scaled: bool) -> GroupSystem:
    """The system of a start that the group permutes."""
    power = start_power(state) if scaled else jnp.zeros((), jnp.int32)
    H, W = multiplied(state, power)
    first = jnp.argsort(jnp.asarray(model.labels.index), stable=True).reshape(model.classes, -1)[:, 0]
    h, w = transformed(group, H[first]), transformed(group, W)
    planes = _planes(h, w)
    of_H, of_W = (jnp.sum(planes * part, axis=2) for part in (h, w))
    table = model.labels.targets_of_classes()
    assert table is not None
    targets = table[0].astype(W.dtype)[:, None]
    return GroupSystem(
        model, of_H, of_W, state.b, targets, power, scaled, planes=planes, features=H, prototypes=W, group=group
    )


def _planes(h: jax.Array, w: jax.Array) -> jax.Array:
    """Orthonormal vectors of the plane of every two rows, (2, C, p); zeros for what a plane lacks, but for rounding."""
    h, w = (part / jnp.maximum(largest(part), jnp.finfo(part.dtype).tiny) for part in (h, w))
    lengths_h, lengths_w, eps = _lengths(h), _lengths(w), jnp.finfo(h.dtype).eps
    least = _LEAST * eps * jnp.maximum(jnp.max(lengths_h), jnp.max(lengths_w))
    ahead = lengths_h >= lengths_w
    along, rest = _unit(jnp.where(ahead, h, w), least), jnp.where(ahead, w, h)
    aside = jnp.maximum(least, 64 * eps * jnp.maximum(lengths_h, lengths_w))
    for bound in (aside, 0.5):  # the second time removes what the rounding of the first left
        rest = _unit(rest - jnp.sum(rest * along, axis=1, keepdims=True) * along, bound)
    return jnp.stack([along, rest])


def _lengths(X: jax.Array) -> jax.Array:
    return jnp.linalg.norm(X, axis=1, keepdims=True)


def _unit(X: jax.Array, least: ArrayLike) -> jax.Array:
    """The rows over their lengths; zeros for those that are no longer than `least`."""
    lengths = _lengths(X)
    return jnp.where(lengths > least, X / jnp.where(lengths > least, lengths, 1.0), 0.0)
