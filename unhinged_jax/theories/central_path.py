"""MSE on the central path: least-squares prototypes, features renormalised to unit within-class covariance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.model import LayerPeeled, State

Renormalised = Literal["projected", "multiplied"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Path:
    """Features along a central path.

    Attributes:
        times: Shape (T,).
        omega: SNR singular values, largest first, shape (T, C-1).
        features: Shape (T, n, p), globally centred, within-class covariance I.
    """

    times: Any
    omega: Any
    features: Any


def normalised(H: ArrayLike, index: ArrayLike, classes: int) -> jax.Array:
    """Features centred globally and multiplied by Sigma_W^(-1/2): the scale in which the path is described.

    Args:
        H: Features, shape (n, p), with a within-class covariance of full rank, so n - C >= p.
        index: Labels, shape (n,).
        classes: C.

    Returns:
        Shape (n, p).

    Source: Han, Papyan & Donoho 2022.

    Example:
        >>> X = normalised([[0.0], [2.0], [5.0], [9.0]], [0, 0, 1, 1], classes=2)
        >>> [round(float(x), 3) for x in X.ravel()]
        [-2.53, -1.265, 0.632, 3.162]
    """
    X = jnp.asarray(_numbers.real("features", H), jnp.result_type(float))
    X = X - X.mean(axis=0)
    within = X - _means(X, index, classes)[jnp.asarray(index)]
    values, vectors = jnp.linalg.eigh(within.T @ within / X.shape[0])
    return X @ ((vectors / jnp.sqrt(values)) @ vectors.T)


def _means(X: jax.Array, index: ArrayLike, classes: int) -> jax.Array:
    members = jax.nn.one_hot(jnp.asarray(index), classes, dtype=X.dtype, axis=0)
    return members @ X / members.sum(axis=1, keepdims=True)


def snr_singular_values(model: LayerPeeled, state: State) -> jax.Array:
    """Singular values of Sigma_W^(-1/2) times the centred class means, largest first: an observable, shape (C-1,).

    Give it to `simulate` or `exact` as `observe={"snr": snr_singular_values}`. It needs n - C >= p, and is infinite
    where classes have collapsed exactly.

    Source: Han, Papyan & Donoho 2022, SNR matrix.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=3, per_class=4), dim=3)
        >>> snr_singular_values(model, model.init(jax.random.key(0))).shape
        (2,)
    """
    model.check_state(state)
    H, index = jnp.asarray(state.H), jnp.asarray(model.labels.index)
    means = _means(H, index, model.classes)
    # Sigma_W = R^T R by QR of the residuals: squaring them first would lose what is close to collapse.
    upper = jnp.linalg.qr((H - means[index]) / jnp.sqrt(H.shape[0]), mode="r")
    scaled = jax.scipy.linalg.solve_triangular(upper, (means - H.mean(axis=0)).T, trans="T")
    return jnp.linalg.svd(scaled, compute_uv=False)[: model.classes - 1]


def least_squares_loss(omega: ArrayLike, classes: int) -> jax.Array:
    """Loss of the least-squares classifier with bias, (1/2) sum_j 1 / (C + omega_j^2), over the last axis.

    Source: Han, Papyan & Donoho 2022; sum form beyond it.

    Example:
        >>> round(float(least_squares_loss(jnp.zeros(2), classes=3)), 4)
        0.3333
    """
    return 0.5 * jnp.sum(1 / (classes + jnp.asarray(omega) ** 2), axis=-1)


def grown(
    omega: ArrayLike, time: ArrayLike, classes: int, per_class: int, renormalised: Renormalised = "projected"
) -> jax.Array:
    """One SNR singular value after some time on the central path.

    Projected flow: N (C^2 log w + C w^2 + w^4/4) grows by t. If instead features are multiplied by Sigma_W^(-1/2) after
    each small step: N C (C log w + w^2/2) grows by t. The scalar equation is solved for log(w / w_0) between 0 and a
    bound, by bisection, so it neither cancels at small nor overflows at large times; derivatives go through the
    implicit function.

    Args:
        omega: Value at t = 0, above 0.
        time: At least 0, with the loss (1/2) mean ||W x + b - y||^2 and rate 1.
        classes, per_class: C and N.
        renormalised: How Sigma_W = I is maintained.

    Returns:
        The broadcast shape of `omega` and `time`.

    Raises:
        ValueError: for values out of range.

    Source: Han, Papyan & Donoho 2022, whose law has the same three terms; constants derived here. "multiplied": beyond
    it.

    Example:
        >>> w = grown(1.0, 100.0, classes=2, per_class=5)
        >>> bool(jnp.isclose(5 * (4 * jnp.log(w) + 2 * w**2 + w**4 / 4) - 5 * 2.25, 100.0, rtol=1e-4))
        True
    """
    _check.positive("omega", omega)
    _check.non_negative("time", time, array=True)
    _check.choice("renormalised", renormalised, ("projected", "multiplied"))
    dtype = jnp.result_type(jnp.result_type(omega, time), jnp.result_type(float))
    w, t = jnp.broadcast_arrays(jnp.asarray(omega, dtype), jnp.asarray(time, dtype))
    C, N = classes, per_class

    def excess(v: jax.Array, args: tuple[jax.Array, jax.Array]) -> jax.Array:
        w, t = args
        if renormalised == "multiplied":
            return C * v + w**2 * jnp.expm1(2 * v) / 2 - t / (N * C)
        return C**2 * v + C * w**2 * jnp.expm1(2 * v) + w**4 * jnp.expm1(4 * v) / 4 - t / N

    def solve(w: jax.Array, t: jax.Array) -> jax.Array:
        bounds = (
            [t / (N * C**2), jnp.log1p(2 * t / (N * C * w**2)) / 2]
            if renormalised == "multiplied"
            else [t / (N * C**2), jnp.log1p(t / (N * C * w**2)) / 2, jnp.log1p(4 * t / (N * w**4)) / 4]
        )
        above = jnp.stack(bounds).min() * (1 + 1e-5) + jnp.finfo(dtype).tiny
        tolerance = 4 * float(jnp.finfo(dtype).eps)
        solver: Any = optimistix.Bisection(rtol=tolerance, atol=tolerance, flip=False)  # type: ignore[call-arg]
        span = {"lower": jnp.zeros((), dtype), "upper": jax.lax.stop_gradient(above)}
        found: Any = optimistix.root_find(excess, solver, above / 2, (w, t), options=span, max_steps=200, throw=False)
        return w * jnp.exp(found.value)

    return jax.vmap(solve)(w.ravel(), t.ravel()).reshape(w.shape)


def exact(
    X: ArrayLike, index: ArrayLike, classes: int, times: ArrayLike, renormalised: Renormalised = "projected"
) -> Path:
    """The central path in closed form: fixed residuals and singular vectors, each singular value by `grown`.

    Args:
        X: Features at time 0, shape (n, p), as `normalised` returns them; classes of equal size.
        index: Labels, shape (n,).
        classes: C.
        times: At least 0, shape (T,).
        renormalised: "projected", the gradient projected onto the tangent space of Sigma_W = I; or "multiplied".

    Raises:
        ValueError: if classes differ in size, or X is not normalised.

    Source: Han, Papyan & Donoho 2022; the constants are derived here.

    Example:
        >>> X = normalised(jax.random.normal(jax.random.key(0), (12, 3)), [0, 1, 2] * 4, classes=3)
        >>> exact(X, [0, 1, 2] * 4, 3, [0.0, 10.0]).omega.shape
        (2, 2)
    """
    X, per_class = _checked(X, index, classes)
    times = jnp.asarray(_numbers.real("times", times), X.dtype)
    means = _means(X, index, classes)
    U, omega, V = jnp.linalg.svd(means, full_matrices=False)
    rank = min(classes - 1, X.shape[1])
    U, omega, V = U[:, :rank], omega[:rank], V[:rank]
    path = grown(omega, times[:, None], classes, per_class, renormalised)
    moved = jnp.einsum("cj,tj,jp->tcp", U, path - omega, V)
    return Path(times, path, X + moved[:, jnp.asarray(index)])


def simulate(
    X: ArrayLike,
    index: ArrayLike,
    classes: int,
    times: ArrayLike,
    renormalised: Renormalised = "projected",
    rtol: float | None = None,
) -> Path:
    """Integrate the renormalised gradient flow of all features by diffrax, without using its solution.

    At every instant the classifier is the least-squares one, found by solving its normal equations; the gradient is
    projected by the general formula of the tangent space.

    Args:
        X, index, classes, times, renormalised: As in `exact`.
        rtol: Tolerance, relative and absolute; default 1e-11 in float64, 1e-6 in float32.

    Source: Han, Papyan & Donoho 2022, continually renormalised gradient flow.

    Example:
        >>> X = normalised(jax.random.normal(jax.random.key(0), (12, 3)), [0, 1, 2] * 4, classes=3)
        >>> simulate(X, [0, 1, 2] * 4, 3, [0.0, 10.0]).omega.shape
        (2, 2)
    """
    X, _ = _checked(X, index, classes)
    tolerance = rtol or (1e-11 if X.dtype == jnp.float64 else 1e-6)
    times = jnp.asarray(_numbers.real("times", times), X.dtype)
    velocity = _velocity(jnp.asarray(index), classes, renormalised)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity), diffrax.Dopri8(), t0=jnp.zeros((), X.dtype), t1=times[-1], dt0=None, y0=X,
        saveat=diffrax.SaveAt(ts=times), max_steps=100_000,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
    )  # fmt: skip
    features = solution.ys
    assert features is not None
    rank = min(classes - 1, X.shape[1])
    omega = jax.vmap(lambda Z: jnp.linalg.svd(_means(Z, index, classes), compute_uv=False)[:rank])(features)
    return Path(times, omega, features)


def _velocity(index: jax.Array, classes: int, renormalised: str) -> Callable[[Any, jax.Array, Any], jax.Array]:
    def velocity(_time: ArrayLike, X: jax.Array, _args: None) -> jax.Array:
        n = X.shape[0]
        targets = jax.nn.one_hot(index, classes, dtype=X.dtype)
        extended = jnp.concatenate([X, jnp.ones((n, 1), X.dtype)], axis=1)
        coefficients = jnp.linalg.solve(extended.T @ extended, extended.T @ targets)
        force = (targets - extended @ coefficients) @ coefficients[:-1].T / n
        within = X - _means(X, index, classes)[index]
        moved = within.T @ force / n
        # The multiplier S with S Sigma + Sigma S = moved + moved^T. With Sigma = I put in, rounding would grow.
        values, vectors = jnp.linalg.eigh(within.T @ within / n)
        turned = vectors.T @ (moved + moved.T) @ vectors / (values[:, None] + values)
        kept = vectors @ turned @ vectors.T
        return force - (within if renormalised == "projected" else X) @ kept

    return velocity


def _checked(X: ArrayLike, index: ArrayLike, classes: int) -> tuple[jax.Array, int]:
    X = _numbers.floats(X, "features")
    counts = np.bincount(np.asarray(index), minlength=classes)
    if np.any(counts != counts[0]):
        raise ValueError(f"classes must have equal sizes on the central path, but they are {counts.tolist()}.")
    if _check.concrete(X):
        within = X - _means(X, index, classes)[jnp.asarray(index)]
        gap = jnp.abs(within.T @ within / X.shape[0] - jnp.eye(X.shape[1])).max() + jnp.abs(X.mean(axis=0)).max()
        if not float(gap) < float(jnp.finfo(X.dtype).eps) ** 0.5:
            raise ValueError("features must be centred with within-class covariance I; give `normalised(H, ...)`.")
    return X, int(counts[0])
