"""Memories of a descent as loops in NumPy that keep every state: (step, start, count) -> what is observed after each.

`step(x, k)` is the change that update k makes at x.
"""

import numpy as np

import unhinged_jax as uj


def polyak(step, x, count):
    xs = [x]
    for k in range(count):
        xs.append(xs[-1] + step(xs[-1], k))
    return [x, *(np.mean(xs[: k + 1], axis=0) for k in range(count))]


def moving(step, x, count, keep):
    found, mean = [x], x
    for k in range(count):
        x = x + step(x, k)
        mean = keep * mean + (1 - keep) * x
        found.append(mean)
    return found


def lookahead(step, x, count, steps, share):
    found, slow = [x], x
    for k in range(count):
        x = x + step(x, k)
        if (k + 1) % steps == 0:
            slow = x = slow + share * (x - slow)
        found.append(x)
    return found


def schedule_free(step, x, count, beta):
    found, z = [x], x
    for k in range(count):
        z = z + step((1 - beta) * z + beta * x, k)
        x = (k * x + z) / (k + 1)
        found.append(x)
    return found


def optimistic(step, x, count, beta):
    found, before = [x], None
    for k in range(count):
        now = step(x, k)
        x = x + now + beta * (now - (now if before is None else before))
        before = now
        found.append(x)
    return found


def quasi(step, x, count, beta, nu):
    found, v = [x], 0 * x
    for k in range(count):
        now = step(x, k)
        v = beta * v + (1 - beta) * now
        x = x + (1 - nu) * now + nu * v
        found.append(x)
    return found


def aggregated(step, x, count, betas):
    found, vs = [x], [0 * x for _ in betas]
    for k in range(count):
        now = step(x, k)
        vs = [beta * v + now for beta, v in zip(betas, vs, strict=True)]
        x = x + np.mean(vs, axis=0)
        found.append(x)
    return found


KINDS = {
    "polyak": (uj.PolyakAverage(), polyak),
    "moving": (uj.MovingAverage(0.8), lambda *given: moving(*given, 0.8)),
    "lookahead": (uj.Lookahead(3, 0.4), lambda *given: lookahead(*given, 3, 0.4)),
    "schedule-free": (uj.ScheduleFree(0.7), lambda *given: schedule_free(*given, 0.7)),
    "optimistic": (uj.Optimistic(0.6), lambda *given: optimistic(*given, 0.6)),
    "quasi-hyperbolic": (uj.QuasiHyperbolic(0.9, 0.6), lambda *given: quasi(*given, 0.9, 0.6)),
    "aggregated": (uj.AggregatedMomentum((0.0, 0.5, 0.8)), lambda *given: aggregated(*given, (0.0, 0.5, 0.8))),
}
