"""Deep models with all factors: the chain rule by hand, SciPy's DOP853 and loops of NumPy, for tests."""

import jax
import numpy as np
from scipy.integrate import solve_ivp

import unhinged_jax as uj

UNEVEN = uj.from_labels([0, 1, 1, 0, 2, 2, 2, 1, 1], 3)


def layers(model, H, inner):
    """Features after each factor, F_1 = H first."""
    found = [H]
    for factor in inner:
        after = found[-1] @ factor.T
        found.append(np.maximum(after, 0) if model.activation == "relu" else after)
    return found


def gradient(model, factors, pull):
    """Minus the gradient of the objective with respect to H, W_2, ..., W_L and b, by the chain rule by hand."""
    *stack, b = factors
    H, inner, W = stack[0], stack[1:-1], stack[-1]
    seen = layers(model, H, inner)
    M = pull(seen[-1] @ W.T + b)
    slopes, back = [M.T @ seen[-1]], M @ W
    for place in reversed(range(len(inner))):
        if model.activation == "relu":
            back = back * (seen[place + 1] > 0)
        slopes.insert(0, back.T @ seen[place])
        back = back @ inner[place]
    decays = model.decays
    weighed = [back - decays.H * H]
    weighed += [slope - decays.W * factor for slope, factor in zip(slopes, stack[1:], strict=True)]
    return [*weighed, M.sum(axis=0) - decays.b * b if model.bias else 0 * b]


def pull_of(model):
    """Minus the gradient of the loss with respect to logits."""
    with jax.enable_x64(True):
        q, Y = np.asarray(model.labels.weights, float), np.asarray(model.labels.probabilities(), float)
        if model.loss.linear:
            M = np.asarray(model.signal().dense("float64"))
            return lambda S: M
    if isinstance(model.loss, uj.losses.MSE):
        return lambda S: q[:, None] * (Y - S)

    def cross_entropy(S):
        odds = np.exp(S - S.max(axis=1, keepdims=True))
        return q[:, None] * (Y - odds / odds.sum(axis=1, keepdims=True))

    return cross_entropy


def parts(state):
    return [np.asarray(x, float) for x in (state.H, *state.inner, state.W, state.b)]


def rates_of(dynamics, count):
    return [dynamics.rate_H, *[dynamics.rate_W] * (count - 1)]


def integrated(model, flow, state, times):
    """The factors at each of the times."""
    start, pull = parts(state), pull_of(model)
    shapes, ends = [x.shape for x in start], np.cumsum([x.size for x in start])[:-1]
    rates = rates_of(flow, len(start))

    def split(z):
        return [piece.reshape(shape) for piece, shape in zip(np.split(z, ends), shapes, strict=True)]

    def velocity(_, z):
        return np.concatenate([r * v.ravel() for r, v in zip(rates, gradient(model, split(z), pull), strict=True)])

    z, now, found = np.concatenate([x.ravel() for x in start]), 0.0, []
    for time in times:  # to the end of an interval, because between its steps the solver is less accurate
        z = solve_ivp(velocity, (now, time), z, "DOP853", rtol=1e-13, atol=1e-15).y[:, -1] if time > now else z
        now, found = time, [*found, split(z)]
    return found


def descended(model, descent, state, counts):
    """The factors after some numbers of updates, by plain updates or with heavy-ball momentum."""
    now, pull, found = parts(state), pull_of(model), []
    rates, beta = rates_of(descent, len(now)), descent.momentum or 0.0
    memory = [0 * x for x in now]
    for k in range(max(counts) + 1):
        if k in counts:
            found.append(now)
        memory = [beta * m + g for m, g in zip(memory, gradient(model, now, pull), strict=True)]
        with jax.enable_x64(True):
            eta = float(descent.schedule(k))
        now = [x + eta * r * m for x, r, m in zip(now, rates, memory, strict=True)]
    return found


def close(state, place, want, rtol):
    """Whether a state at a place of the times is as wanted, factor by factor, in units of each factor."""
    scale = np.exp(np.asarray(state.log_scale, float)[place])
    found = [np.asarray(x, float)[place] for x in (state.H, state.inner, state.W, state.b)]
    ours = [scale * found[0], *(scale * found[1]), scale * found[2], found[3]]
    for one, other in zip(ours, want, strict=True):
        assert np.linalg.norm(one - other) <= rtol * max(np.linalg.norm(other), 1e-300)


def direction(state):
    parts = [np.asarray(x) for x in (state.H, state.inner, state.W)]
    size = np.sqrt(sum(np.sum(x**2) for x in parts))
    return np.concatenate([x.ravel() for x in parts]) / size
