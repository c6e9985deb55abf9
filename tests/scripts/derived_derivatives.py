"""Derivatives of everything that is derived from runs, against central differences of the same public functions.

    python tests/scripts/derived_derivatives.py [--jobs N] [--write] [--only WORD]

Fifty random problems in five structures, float64, first and second derivatives in all numbers of a problem and in all
pairs of them. The largest differences stand in a table of docs/gradients.md: `--write` puts them there, otherwise they
are compared with it. Exit status 1 if a difference is above its bound, or an order of magnitude above the page's.
"""

import argparse
import concurrent.futures
import math
import multiprocessing
import re
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for the helpers of the tests

from little_optimization import compile_with_little_optimization

compile_with_little_optimization()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from checkout import ROOT  # noqa: E402

import unhinged_jax as uj  # noqa: E402

PAGE = ROOT / "docs" / "gradients.md"
C, P, N, DRAWS = 3, 2, 6, 10
NUMBERS = ("gamma", "decay_H", "decay_W", "rate_H", "rate_W", "eta", "momentum")
LABELLED = (*NUMBERS, "noise", "class_weight")
"""Of unequal classes, which noise and weights leave unequal: the weight is that of the first class."""
FIRST, SECOND = 1e-7, 1e-5
"""Bounds, relative to the largest derivative of a quantity: what differences of fourth order resolve in float64."""
EVEN, UNEVEN = uj.balanced(C, N // C), uj.from_counts([3, 2, 1])
FLOW_TIMES, UPDATES, GRID = [2.0, 6.0], [3, 12], np.arange(16)


def regularized(labels, x):
    return uj.regularized(labels, P, gamma=x["gamma"], decay=(x["decay_H"], x["decay_W"]))


def labelled(x):
    weights = jnp.stack([x["class_weight"], 1.0, 1.0])
    return UNEVEN.weighted(classes=weights).symmetric_noise(x["noise"])


def flow(x):
    return uj.Flow(uj.cosine(x["eta"], horizon=40.0, floor=0.1), rate_H=x["rate_H"], rate_W=x["rate_W"], rtol=1e-12)


def descent(x, **how):
    return uj.Descent(x["eta"], rate_H=x["rate_H"], rate_W=x["rate_W"], **how)


STRUCTURES = {
    "regularized, flow": lambda x: (regularized(EVEN, x), flow(x)),
    "regularized, unequal classes, descent": lambda x: (regularized(labelled(x), x), descent(x)),
    "regularized, momentum": lambda x: (regularized(EVEN, x), descent(x, momentum=x["momentum"])),
    "anchored, Nesterov": lambda x: (
        uj.anchored(EVEN, P, gamma=x["gamma"], decay=x["decay_H"]), descent(x, momentum=x["momentum"], nesterov=True)
    ),
    "spherical, flow": lambda x: (
        uj.spherical(EVEN, P, gamma=x["gamma"], rescale=2, decay=x["decay_H"]), flow(x)
    ),
}  # fmt: skip


def numbers_of(name):
    return LABELLED if "unequal" in name else NUMBERS


def drawn(rng, names):
    x = {
        "gamma": rng.uniform(0.1, 0.45), "decay_H": rng.uniform(0.02, 0.1), "decay_W": rng.uniform(0.02, 0.1),
        "rate_H": rng.uniform(0.7, 1.4), "rate_W": rng.uniform(0.7, 1.4), "eta": rng.uniform(0.3, 0.6),
        "momentum": rng.uniform(0.1, 0.5), "noise": rng.uniform(0.05, 0.3), "class_weight": rng.uniform(0.6, 1.6),
    }  # fmt: skip
    return np.asarray([x[name] for name in names]), rng.normal(size=(N, P)), rng.normal(size=(C, P))


def seen_by(name):
    return ["loss", "log_norm_H"] + (["log_norm_W"] if name.startswith("regularized") else [])


def quantities(name):
    """Name -> function of (numbers, H, W); and what makes the problem of them.

    An event has a level for a number more.
    """
    build, names = STRUCTURES[name], numbers_of(name)
    flowing = "flow" in name
    times, seen = (FLOW_TIMES if flowing else UPDATES), seen_by(name)

    def problem(theta, H, W):
        model, dynamics = build(dict(zip(names, theta, strict=True)))
        return model, dynamics, uj.State(H, W, jnp.zeros(C))

    def run(solve):
        def values(*at):
            found = solve(*problem(*at), times, seen)
            return jnp.stack([found[one] for one in seen])

        return values

    def event(theta, H, W, level):
        at = problem(theta, H, W)
        return uj.event_time(*at, "loss", level, times=GRID, direction="below").time[None]

    def limit(*at):
        found = uj.limit(*problem(*at))
        return jnp.stack([found.rate, found.exponent, *([found.threshold] if name.startswith("regularized") else [])])

    found = {"`exact`": run(uj.exact), "`limit`": limit}
    if "unequal" not in name:  # there it takes minutes to compile
        found["`event_time`"] = event
    if not flowing:
        found["`simulate`"] = run(uj.simulate)
    return found, problem


def differences(function, theta, rest, order):
    """Central differences of fourth order in all numbers, (..., k), or in all pairs of them, (..., k, k)."""
    k, h = theta.size, (2e-3, 6e-3)[order - 1] * np.abs(theta)
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    places, terms = [], []
    for i in range(k):
        for a, u in weights.items():
            if order == 1:
                places.append(theta + a * h * np.eye(k)[i])
                terms.append(((i,), u / h[i]))
            for j in range(i + 1, k) if order == 2 else ():
                for b, v in weights.items():
                    places.append(theta + a * h * np.eye(k)[i] + b * h * np.eye(k)[j])
                    terms += [((i, j), u * v / h[i] / h[j])]
        if order == 2:
            for a, u in {-2: -1 / 12, -1: 4 / 3, 0: -5 / 2, 1: 4 / 3, 2: -1 / 12}.items():
                places.append(theta + a * h * np.eye(k)[i])
                terms.append(((i, i), u / h[i] ** 2))
    values = np.asarray(function(jnp.asarray(places), *rest))
    found = np.zeros((*values.shape[1:], *(k,) * order))
    for value, (place, weight) in zip(values, terms, strict=True):
        found[(..., *place)] += weight * value
        if order == 2 and place[0] != place[1]:
            found[(..., *place[::-1])] += weight * value
    return found


def apart(got, want, order=1):
    """Largest difference relative to the largest derivative of each quantity."""
    got, want = (np.asarray(x, float).reshape(-1, x.shape[-1] ** order) for x in (got, want))
    size = np.maximum(np.max(np.abs(want), axis=1, keepdims=True), 1e-3)
    return float(np.max(np.abs(got - want) / size))


def certified(name):
    """Name of a quantity -> [largest difference at first, at second order] over the draws of a structure."""
    began = time.monotonic()
    with jax.enable_x64(True):
        found, problem = quantities(name)
        worst = {}
        for label, function in found.items():
            many = jax.jit(jax.vmap(function, in_axes=(0, *[None] * (3 if label == "`event_time`" else 2))))
            derivatives = {1: jax.jit(jax.jacfwd(function)), 2: jax.jit(jax.jacfwd(jax.jacfwd(function)))}
            rng = np.random.default_rng([7, len(name)])  # no draw at a kink of `limit`
            loss = jax.jit(lambda *at: uj.exact(*problem(*at), [5, 6], "loss")["loss"])
            row = worst.setdefault(label, [math.nan, math.nan])
            for _ in range(DRAWS):
                theta, *rest = drawn(rng, numbers_of(name))
                if label == "`event_time`":  # between two updates, where time is interpolated
                    rest = [*rest, jnp.mean(loss(theta, *rest))]
                for order, derivative in derivatives.items():
                    got, want = derivative(theta, *rest), differences(many, theta, rest, order)
                    row[order - 1] = float(np.fmax(row[order - 1], apart(got, want, order)))
        worst |= by_name(name, found, problem)
        return name, worst, time.monotonic() - began


def by_name(name, found, problem):
    """`sensitivity` in its names, of one simulated draw, against the same differences; flow maps of one draw."""
    if "flow" in name:
        return {}
    names, function = numbers_of(name), found["`simulate`"]
    theta, *rest = drawn(np.random.default_rng(1), names)
    x = dict(zip(names, theta, strict=True))
    ratio, weighs = x["rate_H"] / x["rate_W"], "class_weight" in names

    def beside(more, *rest):
        """With s = r_1/r_2 as one number more, which moves r_1 at the r_2 of the draw."""
        moved = more[names.index("rate_H")] + (more[-1] - ratio) * x["rate_W"]
        return function(more[:-1].at[names.index("rate_H")].set(moved), *rest)

    many = jax.jit(jax.vmap(beside, in_axes=(0, None, None)))
    wanted = [one for one in (*names, "s") if one in uj.parameters.available(*problem(theta, *rest))]
    table = uj.sensitivity(
        *problem(theta, *rest), UPDATES, seen_by(name), [*wanted, *["class_weights"] * weighs], order=2,
        sources="simulated",
    )  # fmt: skip
    at = [(*names, "s").index(one) for one in wanted]
    slopes, second = (differences(many, np.append(theta, ratio), rest, order) for order in (1, 2))
    got, first = table["first"].values[0], slopes[..., at]
    if weighs:  # factors on the weights, of which the first one moves the weight of the first class
        factor = table["first_class_weights"].values[0][..., :1]
        place = names.index("class_weight")
        got = np.concatenate([got, factor / x["class_weight"]], axis=-1)
        first = np.concatenate([first, slopes[..., [place]]], axis=-1)
    return {
        "`sensitivity`": [apart(got, first), apart(table["second"].values[0], second[..., at, :][..., at], 2)],
        **flow_maps(problem(theta, *rest)),
    }


def flow_maps(given):
    """The Jacobian of a run's map by central differences: `push_forward`, and exponents by determinant and spectrum."""
    model, dynamics, state = given
    moving = [name for name, moves in (("H", model.features_move), ("W", model.prototypes_move)) if moves]
    sizes = {name: np.shape(getattr(state, name)) for name in moving}

    def ended(flat):
        parts, begin = {}, 0
        for name, shape in sizes.items():
            parts[name] = flat[begin : begin + math.prod(shape)].reshape(shape)
            begin += math.prod(shape)
        last = uj.simulate(model, dynamics, state.replace(**parts), UPDATES[:1], ()).final
        return jnp.concatenate([jnp.ravel(getattr(last, name)) for name in moving]) * jnp.exp(last.log_scale)

    flat = np.concatenate([np.ravel(getattr(state, name)) for name in moving])
    steps = np.eye(flat.size)
    shifted = jax.jit(jax.vmap(ended))(jnp.asarray(np.concatenate([flat + steps, flat - steps])))
    jacobian = np.asarray(shifted[: flat.size] - shifted[flat.size :]).T / 2  # the map is linear: any step will do
    tangent = np.random.default_rng(2).normal(size=flat.size)
    parts = {"H": np.zeros((N, P)), "W": np.zeros((C, P)), "b": np.zeros(C)}
    begin = 0
    for name, shape in sizes.items():
        parts[name] = tangent[begin : begin + math.prod(shape)].reshape(shape)
        begin += math.prod(shape)
    _, pushed = uj.push_forward(model, dynamics, state, UPDATES[:1], uj.State(**parts))
    got = np.concatenate([np.ravel(getattr(pushed, name)) for name in moving]) * np.exp(float(pushed.log_scale))
    worst = {"`push_forward`": [apart(got[None], (jacobian @ tangent)[None]), math.nan]}
    if dynamics.momentum is None:
        found = uj.lyapunov(model, dynamics, state, UPDATES[0], flat.size, segments=1, transient=0)
        volume = np.linalg.slogdet(jacobian)[1] / UPDATES[0]
        worst["`lyapunov`, sum"] = [abs(float(np.sum(found.exponents)) - volume), math.nan]
        logs = np.sort(np.log(np.abs(np.linalg.eigvals(jacobian))))[::-1] / UPDATES[0]
        worst["`exact_exponents`"] = [float(np.max(np.abs(uj.exact_exponents(model, dynamics) - logs))), math.nan]
    return worst


def design(_):
    """The objective of a design in two free keys, over draws of them."""
    began = time.monotonic()
    free = {"domain": "positive", "start": 0.1}
    goals = [
        {"observe": "log_norm", "goal": 0.5},
        {"observe": "rate", "of": "limit", "goal": "maximise", "weight": 0.3},
    ]
    plan = uj.DesignPlan.of({
        "model": {"case": "regularized", "dim": P, "decay": 0.05},
        "labels": {"layout": "balanced", "classes": C, "per_class": 2},
        "dynamics": {"kind": "flow"},
        "run": {"times": [6], "precision": "float64"},
        "design": {"free": {"model.gamma": free, "model.decay": free}, "goal": goals},
    })  # fmt: skip
    with jax.enable_x64(True):

        def objective(theta):
            return plan.objective({"model.gamma": theta[0], "model.decay": theta[1]})[None]

        many, rng, worst = jax.jit(jax.vmap(objective)), np.random.default_rng(3), [0.0, 0.0]
        slopes = {1: jax.jit(jax.jacrev(objective)), 2: jax.jit(jax.jacfwd(jax.jacrev(objective)))}
        for _ in range(DRAWS):
            theta = np.asarray([rng.uniform(0.1, 0.45), rng.uniform(0.02, 0.1)])
            for order, slope in slopes.items():
                worst[order - 1] = max(
                    worst[order - 1], apart(slope(theta), differences(many, theta, [], order), order)
                )
    return "objective of a design", {"`design`, objective": worst}, time.monotonic() - began


def shown(worst):
    """The table of the page."""
    lines = ["| quantity | first derivatives | second derivatives |", "|---|---|---|"]
    for label, row in worst.items():
        lines.append(f"| {label} | {' | '.join('–' if math.isnan(x) else f'{x:.0e}' for x in row)} |")
    return "\n".join(lines)


_PLACE = re.compile(r"(<!-- derived derivatives -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


def held(text):
    """Quantity -> numbers of the page's table."""
    rows = [line.strip("|").split("|") for line in _PLACE.search(text).group(2).splitlines()[2:]]
    return {row[0].strip(): [math.nan if "–" in x else float(x) for x in row[1:]] for row in rows}


def main():
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--jobs", type=int, default=1, help="structures at a time, each in a process of its own")
    reader.add_argument("--write", action="store_true", help="write the table of docs/gradients.md")
    reader.add_argument("--only", default="", help="structures whose name holds this; the page is left alone")
    asked = reader.parse_args()
    worst = {}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(asked.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        names = [name for name in STRUCTURES if asked.only in name]
        tasks = [pool.submit(certified, name) for name in names]
        tasks += [pool.submit(design, "")] if asked.only in "objective of a design" else []
        for name, found, seconds in (task.result() for task in tasks):
            print(f"{name} ({seconds:.0f} s)\n{shown(found)}", flush=True)
            for label, row in found.items():
                before = worst.get(label, [math.nan] * 2)
                worst[label] = [float(np.fmax(a, b)) for a, b in zip(before, row, strict=True)]
    missed = [label for label, (a, b) in worst.items() if a > FIRST or b > SECOND]
    if not asked.only:
        text = PAGE.read_text(encoding="utf-8")
        if asked.write:
            PAGE.write_text(_PLACE.sub(lambda m: m.group(1) + shown(worst) + m.group(3), text), encoding="utf-8")
        else:
            page = held(text)
            missed += [
                f"the page's {label}"
                for label, row in worst.items()
                if label not in page or any(x > 10 * max(y, 1e-12) for x, y in zip(row, page[label], strict=True))
            ]
    print(f"missed: {', '.join(missed)}" if missed else "all within their bounds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
