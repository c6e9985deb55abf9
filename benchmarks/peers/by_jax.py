"""Plain JAX: `jax.grad` of the dense loss in a `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.peers.by_numpy import limit_direction

Parts = tuple[jax.Array, jax.Array]


def in_precision(case: Case) -> Any:
    """The context in which a case is traced and run."""
    return jax.enable_x64(case.precision == "float64")


def loss_of(case: Case, bfloat16: bool = False) -> Callable[..., jax.Array]:
    """The dense loss of (H, W), and of gamma if it is unhinged; products in bfloat16 if asked, the rest as it is."""
    index = jnp.asarray(case.index)

    def logits_of(H: jax.Array, W: jax.Array) -> jax.Array:
        if bfloat16:
            H, W = H.astype(jnp.bfloat16), W.astype(jnp.bfloat16)
            return jnp.matmul(H, W.T, preferred_element_type=jnp.float32)
        return H @ W.T

    def loss(parts: Parts, gamma: Any = None) -> jax.Array:
        H, W = parts
        if case.spherical:
            H = H / jnp.linalg.norm(H, axis=1, keepdims=True)
        logits = logits_of(H, W)
        if case.loss == "cross_entropy":
            return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, index))
        own = jnp.take_along_axis(logits, index[:, None], axis=1)[:, 0]
        return -jnp.mean((1 + gamma) * own - gamma * jnp.sum(logits, axis=1))

    return loss


def observer(case: Case, H: np.ndarray, W: np.ndarray) -> Callable[[Parts, Any], dict[str, jax.Array]]:
    """(H, W) -> what is logged; the start tells the limit."""
    index, loss = jnp.asarray(case.index), loss_of(case)
    if case.spherical:
        gamma = case.gammas[0]
        targets = ((1 + gamma) * W - gamma * W.sum(axis=0))[case.index]
        limit: tuple[Any, ...] = (targets / np.linalg.norm(targets, axis=1, keepdims=True),)
    elif case.loss == "unhinged":
        limit = limit_direction(case, H, W)
    else:
        limit = ()
    limit = jax.tree.map(jnp.asarray, limit)
    return _observer(case, loss, index, limit)


def _observer(case: Case, loss: Any, index: jax.Array, limit: Any) -> Callable[[Parts, Any], dict[str, jax.Array]]:
    def observe(parts: Parts, gamma: Any) -> dict[str, jax.Array]:
        H, W = parts
        right = jnp.argmax(H @ W.T, axis=1) == index
        norm = jnp.sqrt(jnp.sum(H**2) + jnp.sum(W**2))
        seen = {"loss": loss(parts, gamma), "accuracy": jnp.mean(right.astype(H.dtype)), "norm": norm}
        if case.spherical:
            unit = H / jnp.linalg.norm(H, axis=1, keepdims=True)
            seen["distance"] = jnp.linalg.norm(unit - limit[0])
        elif limit:
            square = jnp.sum((H / norm - limit[0]) ** 2) + jnp.sum((W / norm - limit[1]) ** 2)
            seen["distance"] = jnp.sqrt(square)
        return seen

    return observe


def descent_of(case: Case, observe: Any, bfloat16: bool = False) -> Callable[[Parts, Any], dict[str, jax.Array]]:
    """(start, gamma) -> curves: a scan of logged points, each a scan of updates."""
    gradient = jax.grad(loss_of(case, bfloat16))

    def step(parts: Parts, gamma: Any) -> Parts:
        downhill_H, downhill_W = gradient(parts, gamma)
        H, W = parts
        return H - case.rate * downhill_H, W if case.spherical else W - case.rate * downhill_W

    def run(parts: Parts, gamma: Any) -> dict[str, jax.Array]:
        def log(parts: Parts, _: None) -> tuple[Parts, dict[str, jax.Array]]:
            parts = jax.lax.scan(lambda now, _: (step(now, gamma), None), parts, length=case.every)[0]
            return parts, observe(parts, gamma)

        saved = jax.lax.scan(log, parts, length=case.steps // case.every)[1]
        first = observe(parts, gamma)
        return jax.tree.map(lambda start, rest: jnp.concatenate([start[None], rest]), first, saved)

    return run


def descent_program(case: Case, bfloat16: bool = False) -> tuple[Any, tuple[Any, ...]]:
    """A jitted descent and its arguments; inside `in_precision`."""
    H, W = case.start()
    call = jax.jit(descent_of(case, observer(case, H, W), bfloat16))
    return call, jax.device_put(((H, W), np.asarray(case.gammas[0], case.dtype)))


def descent(case: Case, bfloat16: bool = False) -> Run:
    """Gradient descent of any loss here."""
    with in_precision(case):
        call, arguments = descent_program(case, bfloat16)

    def run() -> dict[str, Any]:
        with in_precision(case):
            return call(*arguments)

    return run


def descent_bfloat16(case: Case) -> Run:
    """The same with products in bfloat16; the state stays in float32."""
    return descent(case, bfloat16=True)


def lowered_descent(case: Case) -> Any:
    """The descent, lowered."""
    with in_precision(case):
        call, arguments = descent_program(case)
        return call.lower(*arguments)


def _sweep_parts(case: Case) -> tuple[Any, Any, Any]:
    H, W = case.starts()
    limits = [limit_direction(case, *case.start(seed)) for seed in range(case.seeds)]
    limit = tuple(np.stack(parts) for parts in zip(*limits, strict=True))
    index, loss = jnp.asarray(case.index), loss_of(case)

    def one(parts: Parts, limit: Any, gamma: Any) -> dict[str, jax.Array]:
        return descent_of(case, _observer(case, loss, index, limit))(parts, gamma)

    return one, jax.device_put(((H, W), limit)), jax.device_put(np.asarray(case.gammas, case.dtype))


def sweep_by_vmap(case: Case) -> Run:
    """Every run of a sweep at once."""
    with in_precision(case):
        one, (parts, limit), gammas = _sweep_parts(case)
        over_gamma = jax.vmap(one, in_axes=(None, None, 0))
        call = jax.jit(jax.vmap(over_gamma, in_axes=(0, 0, None)))

    def run() -> dict[str, Any]:
        with in_precision(case):
            return call(parts, limit, gammas)

    return run


def sweep_by_loop(case: Case) -> Run:
    """One compiled run after another."""
    with in_precision(case):
        one, seeds, gammas = _sweep_parts(case)
        call = jax.jit(one)
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], seeds) for i in range(case.seeds)]

    def run() -> dict[str, Any]:
        with in_precision(case):
            rows = [[call(*seed, gamma) for gamma in gammas] for seed in each]
            jax.block_until_ready(rows)
        names = rows[0][0]
        return {name: np.array([[np.asarray(run[name]) for run in row] for row in rows]) for name in names}

    return run


def _stochastic(case: Case, step: Callable[[Parts, jax.Array], Parts], together: int | None = None) -> Run:
    """Runs of a stochastic descent: means of squared norm and loss; `step` takes a batch.

    They are vmapped over keys, all of them or so many `together`, one group after another.
    """
    with in_precision(case):
        start, full = jax.device_put(case.start()), loss_of(case)
        keys = jax.random.split(jax.random.key(0), case.seeds)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        def update(parts: Parts, k: jax.Array) -> tuple[Parts, None]:
            batch = jax.random.randint(jax.random.fold_in(key, k), (case.batch,), 0, case.samples)
            return step(parts, batch), None

        def observe(parts: Parts) -> dict[str, jax.Array]:
            return {"square_norm": sum(jnp.sum(part**2) for part in parts), "loss": full(parts, case.gammas[0])}

        def log(parts: Parts, ks: jax.Array) -> tuple[Parts, dict[str, jax.Array]]:
            parts = jax.lax.scan(update, parts, ks)[0]
            return parts, observe(parts)

        saved = jax.lax.scan(log, start, jnp.arange(case.steps).reshape(-1, case.every))[1]
        return jax.tree.map(lambda begin, rest: jnp.concatenate([begin[None], rest]), observe(start), saved)

    def all_of(keys: jax.Array) -> dict[str, jax.Array]:
        return jax.lax.map(one, keys, batch_size=together) if together else jax.vmap(one)(keys)

    call = jax.jit(lambda keys: jax.tree.map(lambda each: each.mean(axis=0), all_of(keys)))

    def run() -> dict[str, Any]:
        with in_precision(case):
            return call(keys)

    return run


def _drawn_loss(case: Case, H: jax.Array, W: jax.Array, index: jax.Array, weights: Any) -> jax.Array:
    gamma, logits = case.gammas[0], H @ W.T
    own = jnp.take_along_axis(logits, index[:, None], axis=1)[:, 0]
    return -jnp.sum(weights * ((1 + gamma) * own - gamma * jnp.sum(logits, axis=1)))


def stochastic_by_rows(case: Case, together: int | None = None) -> Run:
    """The rows of the batch are taken out, and their gradients are added where they came from."""
    index, keep = jnp.asarray(case.index), 1 - case.rate * case.decay

    def step(parts: Parts, batch: jax.Array) -> Parts:
        H, W = parts
        gradient = jax.grad(lambda rows, W: _drawn_loss(case, rows, W, index[batch], 1 / case.batch), (0, 1))
        of_rows, of_W = gradient(H[batch], W)
        return (keep * H).at[batch].add(-case.rate * of_rows), keep * W - case.rate * of_W

    return _stochastic(case, step, together)


def stochastic_by_rows_in_groups(case: Case) -> Run:
    """The same for 32 runs at a time, whose states fit into the cache of a core."""
    return stochastic_by_rows(case, together=32)


def stochastic_by_weights(case: Case) -> Run:
    """Every sample has a weight: how often it is in the batch."""
    index, keep = jnp.asarray(case.index), 1 - case.rate * case.decay

    def step(parts: Parts, batch: jax.Array) -> Parts:
        times = jnp.sum(batch[:, None] == jnp.arange(case.samples), axis=0, dtype=parts[0].dtype)
        of_H, of_W = jax.grad(lambda H, W: _drawn_loss(case, H, W, index, times / case.batch), (0, 1))(*parts)
        return keep * parts[0] - case.rate * of_H, keep * parts[1] - case.rate * of_W

    return _stochastic(case, step)
