"""Stochastic gradients: each update follows the loss of a batch of samples, or of labels that are drawn again.

    H' = -dL_k/dH - lambda_1 H,    L_k = (n/m) sum over the batch of q_i loss(s_i, y_i),    E L_k = L

The batch and the labels of update k depend on the key and on k, and on nothing else. An update costs n p operations for
the decay, and m C p for the gradient of a batch of m, or (m + C) p if the loss is linear; with n + C in place of p if
that is less than half of it, because rows then are coordinates in the span of the start. Under a linear loss the scale
of the state is carried separately, so that a run may leave the range of its numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from unhinged_jax import _check
from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow, why_too_large
from unhinged_jax.labels import Labels
from unhinged_jax.labels.fields import PER_SAMPLE, why_not_drawn
from unhinged_jax.labels.held_out import training_rows
from unhinged_jax.labels.sparse import SparseRows
from unhinged_jax.model import LayerPeeled
from unhinged_jax.model.layer_peeled import Parts
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.simulation.dense import DenseSystem
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import faint, largest


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What an update draws.

    Attributes:
        batch: m, the number of samples; None for all.
        replacement: Whether one sample may be drawn several times; "epochs": batches are cut from a new permutation of
            all samples in each epoch, and what is left over at its end is skipped.
        fresh_labels: Whether the labels are drawn again, from the targets.
        generator: The name of JAX's generator of random numbers.
    """

    batch: int | None
    replacement: bool | str
    fresh_labels: bool
    generator: str


def check_sampling(model: LayerPeeled, dynamics: Dynamics, key: jax.Array | None, goes_on: bool) -> Sampling | None:
    """What each update draws, or None for the gradient of all samples.

    Raises:
        ValueError: for a batch that cannot be drawn, fresh labels without targets to draw from, or a key that is
            missing or not needed.
    """
    if not dynamics.stochastic:
        if key is not None:
            raise ValueError(
                "a key belongs to a Descent with a `batch` or `fresh_labels`, or to a Diffusion; leave it out."
            )
        return None
    if key is None:
        which = "the key of the run that is continued (another one would be another path)" if goes_on else "a key"
        does = "this Descent draws batches or labels" if isinstance(dynamics, Descent) else "a Diffusion draws noise"
        raise ValueError(f"{does}: give {which}, such as key=jax.random.key(0).")
    _check.key("key", key)
    assert not isinstance(dynamics, Flow)
    batch = dynamics.batch
    if batch is not None and isinstance(dynamics, Descent):
        if not _check.concrete(batch):
            raise ValueError(
                "the size of a simulated batch must be known when it is compiled; only `exact` can trace it."
            )
        batch = _check.whole("batch", np.asarray(batch).item() if np.ndim(batch) == 0 else batch, 1)
    why = why_too_large(batch, dynamics.replacement, model.labels.training_samples)
    if why is None and dynamics.fresh_labels:
        why = why_not_drawn(model.labels)
    if why is not None:
        raise ValueError(why)
    if isinstance(dynamics, Diffusion):
        batch = None  # a number of the noise, which is data
    return Sampling(batch, dynamics.replacement, dynamics.fresh_labels, str(jax.random.key_impl(key)))


class SampledSystem(DenseSystem):
    """A dense system whose gradient is that of one draw.

    Attributes:
        keys: Words of three keys, of batches, epochs and labels: JAX cannot transpose a branch over keys.
        sampling: What an update draws.
        update: The number of updates before this one, ().
        log_scale: Logarithm of the scale of the start, (), if the scale is carried separately; else None.
        basis: Orthonormal columns whose span holds the rows of H and W at the start, and so at any time, (p, r), if the
            arrays hold coordinates in it, (n, r) and (C, r), and the `model` has dimension r; else None.
    """

    keys: jax.Array
    sampling: Sampling = eqx.field(static=True)
    update: jax.Array
    log_scale: jax.Array | None = None
    basis: jax.Array | None = None

    residual: ClassVar[None] = None  # what is observed of the start is all in H and W

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return () if self.log_scale is None else (("H", "W"),)

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        return super().guarded if self.log_scale is None else ()

    def sizes(self, body: Body) -> list[jax.Array]:
        return self.heights(body)  # a norm takes many passes over the state

    def log_unit(self) -> Any:
        return 0.0 if self.log_scale is None else self.log_scale

    def at_update(self, k: jax.Array) -> SampledSystem:
        return dataclasses.replace(self, update=k)

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        H, W, model = body["H"], body["W"], self.model
        if self.basis is not None:
            H, W = H @ self.basis.T, W @ self.basis.T
            model = dataclasses.replace(model, dim=self.basis.shape[0])
        return View(model, DenseFeatures(H), W, body["b"], logs[0] if logs else jnp.zeros((), W.dtype))

    def compressed(self) -> SampledSystem:
        return dataclasses.replace(self, basis=None)

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        H, W, b = velocity["H"], velocity["W"], velocity["b"]
        if self.basis is not None:
            H, W = H @ self.basis.T, W @ self.basis.T
        factor = jnp.exp(logs[0] - log_scale) if logs else 1.0
        return {"H": factor * H, "W": factor * W, "b": b}

    def velocity(self, body: Body) -> Body:
        model, m = self.model, self.sampling.batch
        chosen = None if m is None else self._batch(model.labels.training_samples, m)
        if chosen is not None and model.labels.held_out is not None:
            chosen = jnp.asarray(training_rows(model.labels))[chosen]
        labels = _drawn(model.labels, chosen, self._key(2) if self.sampling.fresh_labels else None)
        drawn = dataclasses.replace(model, labels=labels)
        H, W, b = body["H"], body["W"], body["b"]
        if chosen is None:
            forces = forces_of(drawn, H, W, b)
        else:
            rows, of_W, of_b = forces_of(drawn, H[chosen], W, b)
            forces = self._spread(chosen, rows, H, W), of_W, of_b
        return dict(zip(("H", "W", "b"), model.velocity(H, W, b, forces=forces), strict=True))

    def _spread(self, chosen: jax.Array, rows: jax.Array, H: jax.Array, W: jax.Array) -> jax.Array:
        """The forces on all samples, from those on the chosen ones.

        Where the force on a sample is known from its class, it is multiplied by how often the sample was chosen: XLA
        makes one pass over H of that and the update, where adding up rows takes passes of its own.
        """
        n, m = self.model.labels.training_samples, chosen.shape[0]
        by_class = self.model.linear and self.model.labels.kind not in PER_SAMPLE and not self.sampling.fresh_labels
        if not by_class or m > 4 * H.shape[1]:
            return jnp.zeros_like(H).at[chosen].add(rows)
        times = jnp.sum(chosen[:, None] == jnp.arange(H.shape[0], dtype=chosen.dtype), axis=0, dtype=H.dtype)
        return (n / m) * times[:, None] * self.model.signal().times(W)

    def _key(self, which: int, count: jax.Array | None = None) -> jax.Array:
        """A key of this update, or of what is counted instead."""
        key = jax.random.wrap_key_data(self.keys[which], impl=self.sampling.generator)
        return jax.random.fold_in(key, self.update if count is None else count)

    def _words(self, m: int) -> jax.Array:
        """Random words of this update, (m,)."""
        if self.sampling.generator != "threefry2x32":
            return jax.random.bits(self._key(0), (m,), jnp.uint32)
        # The counters (update, 0), (update, 1), ... give two words each, in a quarter of the time of a key per update.
        half = -(-m // 2)
        counters = jnp.concatenate([jnp.full(half, self.update, jnp.uint32), jnp.arange(half, dtype=jnp.uint32)])
        return threefry_2x32(self.keys[0], counters)[:m]

    def _batch(self, n: int, m: int) -> jax.Array:
        """The samples of this update, (m,)."""
        if self.sampling.replacement == "epochs":
            epoch, place = jnp.divmod(self.update, n // m)
            order = jax.random.permutation(self._key(1, epoch), jnp.arange(n, dtype=jnp.int32))
            return jax.lax.dynamic_slice(order, (place * m,), (m,))
        if self.sampling.replacement:
            return _below(n, self._words(m))
        return jax.random.permutation(self._key(0), jnp.arange(n, dtype=jnp.int32))[:m]


def _below(n: int, words: jax.Array) -> jax.Array:
    """floor(n words / 2^32): whole numbers from 0 to n - 1, each with a probability within 2^-32 of 1/n.

    `randint` takes twice as many random words, and a remainder, which is slower than everything else in a small update.
    """
    high, low = words >> 16, words & 0xFFFF
    upper, lower = np.uint32(n >> 16), np.uint32(n & 0xFFFF)
    middle = high * lower + (low * lower >> 16)
    rest = low * upper + (middle & 0xFFFF)
    return (high * upper + (middle >> 16) + (rest >> 16)).astype(jnp.int32)


def spanning(H: jax.Array, W: jax.Array) -> jax.Array:
    """Orthonormal columns (p, n + C) whose span holds the rows of H (n, p) and W (C, p), for p >= n + C."""
    # Scaled, because a start may be so small that the squares in a norm vanish.
    size = jnp.maximum(largest(H, W), faint(W.dtype))
    return jnp.linalg.qr(jnp.concatenate([H, W]).T / size)[0]


def forces_of(model: LayerPeeled, H: jax.Array, W: jax.Array, b: jax.Array) -> Parts:
    """Minus the gradients of the loss; those of a linear loss are sums over classes, without a product over p."""
    if not model.linear:
        return model.forces(H, W, b)
    signal = model.signal()
    own = signal.column_sums(b.dtype) if model.moves.b else jnp.zeros_like(b)
    return signal.times(W), signal.transpose_times(H), own


def _drawn(labels: Labels, chosen: jax.Array | None, key: jax.Array | None) -> Labels:
    """The labels of the chosen samples, with weights times n/m, and with targets of one draw if there is a key."""
    samples = jnp.arange(labels.samples) if chosen is None else chosen
    times = 1.0 if chosen is None else labels.training_samples / chosen.shape[0]

    def of(array: Any) -> Any:
        return array[samples] if isinstance(array, SparseRows) else jnp.asarray(array)[samples]

    fields: dict[str, Any] = {"index": of(labels.index), "classes": labels.classes, "kind": labels.kind}
    fields["weights"] = of(labels.weights) * times
    fields["targets"] = of(labels.targets) if labels.kind in PER_SAMPLE else labels.targets
    if key is not None:
        # A sample that is in a batch twice has one label there.
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(samples)
        rows = jnp.asarray(labels.targets)[samples if labels.kind in PER_SAMPLE else fields["index"]]
        edges = jnp.cumsum(rows, axis=1)
        shares = jax.vmap(lambda one: jax.random.uniform(one, dtype=jnp.float32))(keys)[:, None] * edges[:, -1:]
        drawn = jnp.sum(shares >= edges, axis=1).astype(jnp.int32)
        fields |= {"index": jnp.minimum(drawn, labels.classes - 1), "targets": None, "kind": "hard"}
    return Labels(**fields)
