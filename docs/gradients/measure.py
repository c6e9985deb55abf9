"""Measure what docs/gradients.md says of modes: error, time, memory. Writes modes.json, modes.md and adjoints.png.

Run it as `python docs/gradients/measure.py [--quick]`.
"""

import argparse
import json
import time
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style
from unhinged_jax.plots.looks import coincide, head, key_under

HERE = Path(__file__).parent
ADJOINTS = {
    "forward": diffrax.ForwardMode(),
    "checkpointed": diffrax.RecursiveCheckpointAdjoint(),
    "direct": diffrax.DirectAdjoint(),
    "backsolve": diffrax.BacksolveAdjoint(),
}


def best_of(function, x, times=3):
    """Seconds of the quickest warm call."""
    jax.block_until_ready(function(x))
    found = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready(function(x))
        found.append(time.perf_counter() - began)
    return min(found)


def compiled(function, x):
    """The compiled function, seconds it took, and its temporary memory in MiB."""
    began = time.perf_counter()
    program = jax.jit(function).lower(x).compile()
    took = time.perf_counter() - began
    return program, took, program.memory_analysis().temp_size_in_bytes / 2**20


def apart(found, truth):
    """Largest difference over the largest entry: equal decays do not turn a direction, so an entry is 0."""
    return float(np.max(np.abs(np.asarray(found) - truth)) / np.max(np.abs(truth)))


def flow_value(state, dim, classes, per_class, until, rtol, adjoint=None, *, run=uj.simulate, max_steps=4096):
    """log distance at the end as a function of (gamma, decay, peak)."""
    labels = uj.balanced(classes, per_class)

    def value(x):
        model = uj.regularized(labels, dim, gamma=x[0], decay=x[1])
        flow = uj.Flow(uj.cosine(x[2], horizon=2 * until), rtol=rtol, max_steps=max_steps)
        more = {} if run is uj.exact else {"adjoint": adjoint}
        return run(model, flow, state, [until], "log_distance", **more)["log_distance"][0]

    return value


def flow_rows(rtols, dim=32, classes=5, per_class=8, until=100.0):
    """Error of the gradient, by adjoint and tolerance; time and memory at the tightest."""
    labels, x = uj.balanced(classes, per_class), jnp.asarray([0.2, 0.02, 0.5])
    state = uj.unconstrained(labels, dim).init(jax.random.key(0))
    sizes = (dim, classes, per_class, until)
    truth = np.asarray(jax.jit(jax.grad(flow_value(state, *sizes, 1e-8, run=uj.exact)))(x))
    rows = []
    for rtol in rtols:
        steps = None
        for name, adjoint in ADJOINTS.items():
            allowed = 4096
            if name == "direct":  # its memory grows with the steps allowed, so it gets those that are taken
                if steps is None:
                    model = uj.regularized(labels, dim, gamma=0.2, decay=0.02)
                    flow = uj.Flow(uj.cosine(0.5, horizon=2 * until), rtol=rtol)
                    steps = int(uj.simulate(model, flow, state, [until], "log_distance").steps)
                allowed = steps + 8
            value = flow_value(state, *sizes, rtol, adjoint, max_steps=allowed)
            slope = jax.jacfwd(value) if name == "forward" else jax.grad(value)
            program, took, memory = compiled(slope, x)
            error = apart(program(x), truth)
            rows.append({"what": "flow", "mode": name, "rtol": rtol, "error": error, "seconds": best_of(program, x),
                         "compile": took, "MiB": memory})  # fmt: skip
            print(rows[-1], flush=True)
        program, took, memory = compiled(flow_value(state, *sizes, rtol), x)
        rows.append({"what": "flow", "mode": "value alone", "rtol": rtol, "seconds": best_of(program, x),
                     "compile": took, "MiB": memory})  # fmt: skip
        print(rows[-1], steps, flush=True)
    return rows


def descent_rows(lengths, dim, classes, per_class, x, observe):
    """Time and memory of a descent's derivatives in (gamma, decay, rate), by mode and length."""
    labels, x = uj.balanced(classes, per_class), jnp.asarray(x)
    state = uj.unconstrained(labels, dim).init(jax.random.key(0))
    problem = f"C = {classes}, N = {per_class}, p = {dim}"
    rows = []
    for length in lengths:

        def value(x, run=uj.simulate, length=length):
            model = uj.regularized(labels, dim, gamma=x[0], decay=x[1])
            return run(model, uj.Descent(x[2]), state, [length], observe)[observe][0]

        truth = np.asarray(jax.jit(jax.grad(lambda x, value=value: value(x, run=uj.exact)))(x))
        kinds = {"value alone": value, "forward, one parameter": lambda x, v=value: jax.jvp(v, (x,), (jnp.ones(3),))[1],
                 "forward, three": jax.jacfwd(value), "checkpointed": jax.grad(value)}  # fmt: skip
        for name, function in kinds.items():
            program, took, memory = compiled(function, x)
            row = {"what": "descent", "mode": name, "problem": problem, "updates": length,
                   "seconds": best_of(program, x), "compile": took, "MiB": memory}  # fmt: skip
            if name in ("forward, three", "checkpointed"):
                row["error"] = apart(program(x), truth)
            rows.append(row)
            print(row, flush=True)
    return rows


def markdown(rows):
    """The tables of the page."""
    tight = min(row["rtol"] for row in rows if row["what"] == "flow")
    lines = [f"| flow, rtol {tight:.0e} | error of the gradient | time | relative to the value | temporary memory |",
             "|---|---|---|---|---|"]  # fmt: skip
    flow = [row for row in rows if row["what"] == "flow" and row["rtol"] == tight]
    alone = next(row for row in flow if row["mode"] == "value alone")
    lines += [_line(row, alone) for row in flow]
    for problem, length in sorted({(row["problem"], row["updates"]) for row in rows if row["what"] == "descent"}):
        part = [row for row in rows if row.get("problem") == problem and row["updates"] == length]
        alone = next(row for row in part if row["mode"] == "value alone")
        head = "error of the gradient | time | relative to the value | temporary memory |"
        lines += ["", f"| descent, {length:,} updates, {problem} | {head}", "|---|---|---|---|---|"]
        lines += [_line(row, alone) for row in part]
    return "\n".join(lines) + "\n"


def _line(row, alone):
    error = f"{row['error']:.0e}" if "error" in row else "–"
    ratio = row["seconds"] / alone["seconds"]
    return f"| {row['mode']} | {error} | {1e3 * row['seconds']:.3g} ms | {ratio:.1f} | {row['MiB']:.2g} MiB |"


def draw(rows):
    """Error of each adjoint against the tolerance."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(6.4, 4.0))
        axes, lines = figure.add_subplot(), {}
        for i, name in enumerate(ADJOINTS):
            part = [row for row in rows if row["what"] == "flow" and row["mode"] == name]
            look = {"marker": "osD^"[i], "linestyle": ["-", "--", ":", "-"][i], "markersize": 9 - 2 * i}
            x, y = ([row[key] for row in part] for key in ("rtol", "error"))
            (lines[name],) = axes.loglog(x, y, color=PALETTE[i], label=name, **look)
        axes.set(xlabel="tolerance of the solver, rtol", ylabel="largest relative error of the gradient")
        head(axes, "How wrong each adjoint is", coincide(axes, lines))
        key_under(axes, columns=4)
        figure.savefig(HERE / "adjoints.png")


def main():
    """Measure, then write the numbers, the table and the figure."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--quick", action="store_true")
    quick = reader.parse_args().quick
    with jax.enable_x64(True):
        rows = flow_rows([1e-5, 1e-9] if quick else [1e-4, 1e-6, 1e-8, 1e-10])
        rows += descent_rows([500] if quick else [1_000, 50_000], 32, 5, 8, [0.2, 0.02, 0.1], "log_distance")
        if not quick:  # the paper's Figure 1
            rows += descent_rows([50_000], 512, 100, 10, [1 / 99, 1e-6, 0.1], "log_norm")
    device = jax.local_devices()[0]
    record = {"rows": rows, "jax": jax.__version__, "device": f"{device.platform}: {device.device_kind}",
              "when": time.strftime("%Y-%m-%d")}  # fmt: skip
    (HERE / "modes.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (HERE / "modes.md").write_text(markdown(rows), encoding="utf-8")
    draw(rows)


if __name__ == "__main__":
    main()
