"""Derivatives of every closed-form case: simulated by each mode, exact, and central differences of the exact value.

    python tests/scripts/gradient_certificate.py [--first] [--jobs N] [--json FILE] [--only WORD]

Too long for the test suite: every row compiles programs of its own, an hour of them in all. `--first` leaves out second
derivatives and the two modes that keep or solve a flow anew, for a quarter of the time. Exit status 1 if a bound is
missed.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # for the helpers of the tests

from little_optimization import compile_with_little_optimization

import unhinged_jax as uj
from unhinged_jax.certificate import problems
from unhinged_jax.closed_form.run import exact
from unhinged_jax.derivatives.parameters import available
from unhinged_jax.derivatives.sensitivities import disagreement

FIRST, SECOND, BACKSOLVE = 1e-6, 1e-5, 1e-5
MODES = {"flow": ("forward", "checkpointed", "direct", "backsolve"), "descent": ("forward", "checkpointed"),
         "momentum": ("forward", "checkpointed"), "Nesterov": ("forward",)}  # fmt: skip


def dynamics_of(how):
    return {
        "flow": lambda: uj.Flow(uj.cosine(0.4, horizon=80.0), rate_H=0.8, rate_W=1.1, rtol=1e-11),
        "descent": lambda: uj.Descent(0.3, rate_H=0.8, rate_W=1.1),
        "momentum": lambda: uj.Descent(0.1, rate_H=0.8, rate_W=1.1, momentum=0.6),
        "Nesterov": lambda: uj.Descent(0.1, rate_H=0.8, rate_W=1.1, momentum=0.6, nesterov=True),
    }[how]()


def observed(model):
    names = ["loss", "accuracy_margin", "log_norm_H", "log_distance_H" if model.features_move else "log_distance"]
    return names + (["log_norm_W"] if model.prototypes_move else [])


def central(problem, times, names, parameters):
    """Fourth-order central differences of the exact values."""
    found = available(*problem)
    wanted = [found[name] for name in parameters]

    def values(theta):
        moved = problem
        for p, value in zip(wanted, theta, strict=True):
            moved = p.put(moved, value)
        run = exact(*moved, times, names)
        return jnp.stack([run[name] for name in names])

    theta = jnp.asarray([float(p.value) for p in wanted])
    h = 1e-3 * jnp.maximum(jnp.abs(theta), 0.1)
    shifts = jnp.asarray([-2.0, -1.0, 1.0, 2.0])
    places = (theta + shifts[:, None, None] * jnp.diag(h)).reshape(-1, theta.size)
    far_down, down, up, far_up = jax.jit(jax.vmap(values))(places).reshape(4, theta.size, len(names), -1)
    return np.moveaxis(np.asarray((8 * (up - down) - (far_up - far_down)) / (12 * h[:, None, None])), 0, -1)


def rows(only):
    for name, model in problems().items():
        hows = ["flow"] if model.spherical and model.prototypes_move else ["flow", "descent"]
        hows += ["momentum", "Nesterov"] if name == "regularized" else []
        for how in hows:
            if only in f"{name}, {how}":
                yield name, how


def certified(name, how, first):
    """The row of one case, in double precision."""
    with jax.enable_x64(True):
        return check(name, problems()[name], how, first)


def check(name, model, how, first):
    began = time.monotonic()
    modes = ("forward", "checkpointed") if first else MODES[how]
    times = [2.0, 10.0, 30.0] if how == "flow" else [5, 40]
    bias = np.linspace(-1.0, 1.0, model.classes) if model.bias else None
    state = model.init(jax.random.key(7), bias=bias)
    problem = (model, dynamics_of(how), state)
    names = observed(model)
    parameters = [p.name for p in available(*problem).values() if np.ndim(p.value) == 0]
    # `decay` is both decays at once, which are put in one after the other here; its derivative is the sum of theirs.
    parameters = [p for p in parameters if p not in ("schedule.horizon", "schedule.floor", "noise", "s", "decay")]
    if "noise" in available(*problem) and model.labels.kind == "table":
        parameters.append("noise")
    truth = uj.sensitivity(*problem, times, names, parameters, order=1 if first else 2, sources=["exact"])
    row = {"case": name, "dynamics": how, "parameters": len(parameters), "values": len(names) * len(times)}
    beside = truth.copy(deep=True).assign_coords(source=["simulated"])
    beside["first"].values[0] = central(problem, times, names, parameters)
    row["differences"] = apart(truth, beside)["first"]
    for mode in modes:
        order = 2 if mode == "forward" and not first else 1
        found = uj.sensitivity(*problem, times, names, parameters, order=order, mode=mode, sources=["simulated"])
        worst = apart(truth, found)
        row[mode] = worst["first"]
        if order == 2:
            row["second"] = worst["second"]
    row["seconds"] = round(time.monotonic() - began, 1)
    bounds = {"second": SECOND, "backsolve": BACKSOLVE}
    checked = ("differences", *(() if first else ("second",)), *modes)
    row["passed"] = all(row[key] <= bounds.get(key, FIRST) for key in checked)
    return row


def apart(truth, found):
    import xarray

    shared = [name for name in found.data_vars if name in truth]
    return disagreement(xarray.concat([found[shared], truth[shared]], dim="source", data_vars="minimal"))


def main():
    compile_with_little_optimization()
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--first", action="store_true", help="first derivatives only, forward and checkpointed")
    reader.add_argument("--jobs", type=int, default=1, help="cases at a time, each in a process of its own")
    reader.add_argument("--json", help="file for the rows")
    reader.add_argument("--only", default="", help="cases whose name holds this, such as 'regularized, flow'")
    asked = reader.parse_args()
    done = []
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(asked.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        cases = [pool.submit(certified, name, how, asked.first) for name, how in rows(asked.only)]
        for case in concurrent.futures.as_completed(cases):
            done.append(case.result())
            print("  ".join(f"{k}={v:.1e}" if isinstance(v, float) and k != "seconds" else f"{k}={v}"
                            for k, v in done[-1].items()), flush=True)  # fmt: skip
            if asked.json:
                with open(asked.json, "w", encoding="utf-8") as file:
                    json.dump(done, file, indent=1)
    return 0 if done and all(row["passed"] for row in done) else 1


if __name__ == "__main__":
    sys.exit(main())
