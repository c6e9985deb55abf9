"""The Hessian of the objective along a path: extreme eigenvalues from products with vectors, without forming it.

    v -> d/ds grad L(z + s v) at s = 0

See docs/gradients.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _memory, _request
from unhinged_jax import precision as _precision
from unhinged_jax._request.compiling import compiled
from unhinged_jax.derivatives.flow_map import moving_numbers
from unhinged_jax.model import LayerPeeled, State, multiplied, must_fit


def hessian_spectrum(
    model: LayerPeeled, states: State | Sequence[State], count: int = 6, *, tolerance: float = 0.0
) -> np.ndarray:
    """Extreme eigenvalues of the Hessian of the objective over the moving entries, by matrix-free Lanczos iteration.

    Args:
        model: The problem, with any loss.
        states: One state, or several along a path (a `State` whose arrays have a leading axis, or a list).
        count: How many eigenvalues; half of them are the smallest, half the largest.
        tolerance: Relative accuracy of ARPACK; 0 (default) is the precision of the state.

    Returns:
        Eigenvalues, ascending, (count,) for one state, (states, count) for several. A product with the Hessian costs
        about four gradients, and no matrix is formed.

    Raises:
        ValueError: if `count` is not below the number of moving entries, or the Hessian leaves the floating-point
            range.

    Source: beyond the paper (Lanczos by ARPACK in SciPy).

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 2, decay=0.5)
        >>> hessian_spectrum(model, model.init(jax.random.key(0)), count=2).round(3).tolist()
        [-0.5, 1.5]
    """
    _check.kind("model", model, LayerPeeled)
    _request.one_at_a_time("hessian_spectrum", model, states)
    if not isinstance(states, (State, list, tuple)):
        _check.kind("states", states, State)
    if np.ndim(_check.real("tolerance", tolerance)) or not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of at least 0, but got {_check.given(tolerance)}.")
    if model.depth > 2:
        raise ValueError(f"`hessian_spectrum` takes models of depth 2, but this one has depth {model.depth}.")
    path = _path_of(states)
    if not path:
        raise ValueError("states must hold at least one state, but got none.")
    for state in path:
        model.check_state(state)
    moving = moving_numbers(model)
    _check.whole("count", count, 1)
    if count >= moving:
        raise ValueError(f"count must be less than {moving}, the numbers that move, but is {count}.")
    found = []
    for state in path:
        model.check_state(state)
        with _precision.scope(_precision.of((state.H, state.W))):
            found.append(_extremes(model, state, count, moving, tolerance))
    return found[0] if isinstance(states, State) and np.ndim(states.b) == 1 else np.stack(found)


def _path_of(states: State | Iterable[State]) -> list[State]:
    if not isinstance(states, State):
        return list(states)
    if np.ndim(states.b) == 1:
        return [states]
    if np.ndim(states.b) != 2:
        raise ValueError(
            f"states must be one state or a path of them along one leading axis, but state.b has shape "
            f"{np.shape(states.b)}; take a member of the batch first."
        )
    scales = np.broadcast_to(np.asarray(states.log_scale), (len(states.b),))
    return [State(*parts) for parts in zip(states.H, states.W, states.b, scales, strict=True)]


def _extremes(model: LayerPeeled, state: State, count: int, moving: int, tolerance: float) -> np.ndarray:
    from scipy.sparse.linalg import LinearOperator, eigsh

    must_fit(state, _precision.of((state.H, state.W)))
    state = jax.tree.map(lambda part: jnp.asarray(part, float), state)  # in the widest type
    parts = [*multiplied(state), state.b]
    product = jax.tree_util.Partial(_hessian_times, _request.traceable(model), parts)
    dtype = np.dtype(parts[1].dtype)

    def matvec(v: np.ndarray) -> np.ndarray:
        return _memory.read(product(jnp.asarray(np.ravel(v), dtype)))

    operator = LinearOperator((moving, moving), matvec=matvec, dtype=dtype)
    start = np.random.default_rng(0).normal(size=moving).astype(dtype)
    if not np.all(np.isfinite(matvec(start))):
        raise ValueError(
            f"the Hessian at this state holds numbers beyond the range of {dtype}; take a state of ordinary size, such "
            "as one whose log_scale is 0."
        )
    if moving <= max(20, 2 * count + 1):  # ARPACK needs room, and so few products give the whole matrix
        matrix = np.stack([matvec(row) for row in np.eye(moving, dtype=dtype)])
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        low = count // 2
        return np.concatenate([values[:low], values[moving - (count - low) :]])
    which = "BE" if count > 1 else "LA"
    return np.sort(eigsh(operator, count, which=which, v0=start, tol=tolerance, return_eigenvectors=False))


@compiled()
def _hessian_times(model: LayerPeeled, parts: list[jax.Array], v: jax.Array) -> jax.Array:
    """The Hessian of the objective times v, on the entries that move, concatenated."""
    from jax.flatten_util import ravel_pytree

    free = [part for part, there in zip(parts, model.moves, strict=True) if there]
    _, unravel = ravel_pytree(free)

    def objective(free: list[jax.Array]) -> jax.Array:
        pieces = iter(free)
        H, W, b = (next(pieces) if there else part for part, there in zip(parts, model.moves, strict=True))
        decay = sum(rate * jnp.sum(part**2) for rate, part in zip(model.decays, (H, W, b), strict=True))
        return model.data_loss(H, W, b) + decay / 2

    with jax.default_matmul_precision("highest"):
        return ravel_pytree(jax.jvp(jax.grad(objective), (free,), (unravel(v),))[1])[0]
