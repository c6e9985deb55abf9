# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradients of the dynamics
#
# How does the outcome of training depend on your choices? `simulate` is differentiable with respect to every number
# that it takes, and so is `exact`, which takes none of its steps. You will see derivatives of a whole run side by
# side, the error of each way to differentiate a solver and its cost in time and memory, the gradient of an event
# time, a limit whose rate has a kink, and step sizes chosen by gradient.
#
# Times and memory below were measured on two shared cores; run the notebook to measure your machine.

# %%
import time

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import unhinged_jax as uj
from unhinged_jax.derivatives import disagreement
from unhinged_jax.plots import PALETTE, style

# %% [markdown]
# ## Sensitivities, simulated and exact
#
# For an observable $y(t)$ and a parameter $\theta$, the derivative $\partial y/\partial\theta$ is computed by
# differentiating the solver (here in forward mode) and by differentiating the closed form,
#
# $$Z(\tau) = \sum_j P_j\, e^{K_j(\theta)\,\tau(\theta)} Z_0 .$$
#
# `s` is the ratio of rates $r_1/r_2$; `noise` is the rate of symmetric label noise, differentiated at 0. The dynamics
# here is gradient descent under a cosine schedule.

# %%
labels = uj.balanced(classes=5, per_class=6)
model = uj.regularized(labels, dim=12, decay=2e-2)
state = model.init(jax.random.key(0), precision="float64")
descent = uj.Descent(uj.cosine(0.5, horizon=400))
names = ["gamma", "decay", "s", "schedule.peak", "noise"]
table = uj.sensitivity(model, descent, state, [50, 200], ["log_norm", "log_distance"], names)
rows = table["first"].stack(row=("observable", "time", "source")).T.to_pandas()
print(rows.round(6).to_string())
print("largest disagreement:", f"{disagreement(table)['first']:.1e}")

# %% [markdown]
# ## The error of each adjoint
#
# For a flow, diffrax offers four ways. *Forward* propagates tangents. *Checkpointed* and *direct* differentiate the
# steps that the solver took, in reverse. *Backsolve* integrates a second equation backwards, which has its own error.
# All of them differentiate a solution that is only as accurate as the tolerance. The figure shows the error of the
# gradient of $\log\lVert Z(100)\rVert$ with respect to $\gamma$, $\lambda$ and the peak rate, compared with the
# gradient of the closed form.

# %%
ADJOINTS = {
    "forward": diffrax.ForwardMode(),
    "checkpointed": diffrax.RecursiveCheckpointAdjoint(),
    "direct": diffrax.DirectAdjoint(),
    "backsolve": diffrax.BacksolveAdjoint(),
}
rtol = 1e-6


def outcome(x, run=uj.simulate, max_steps=64, **more):
    """log ‖Z‖ at time 100 from (gamma, decay, peak rate); time 50 is asked for besides, and not used."""
    model = uj.regularized(labels, dim=12, gamma=x[0], decay=x[1])
    flow = uj.Flow(uj.cosine(x[2], horizon=200), solver=diffrax.Tsit5(), rtol=rtol, max_steps=max_steps)
    return run(model, flow, state, [50.0, 100.0], "log_norm", **more)["log_norm"][1]


def measured(function, x):
    """Value, milliseconds of the quickest of five warm calls, and KiB of temporary memory."""
    program = jax.jit(function).lower(x).compile()
    value = jax.block_until_ready(program(x))
    spans = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(program(x))
        spans.append(time.perf_counter() - began)
    return np.asarray(value), 1e3 * min(spans), program.memory_analysis().temp_size_in_bytes / 2**10


errors, costs = {}, []
with jax.enable_x64(True):
    x = jnp.asarray([0.2, 0.02, 0.5])
    truth = np.asarray(jax.jit(jax.grad(lambda x: outcome(x, run=uj.exact)))(x))
    plain = uj.Flow(uj.cosine(0.5, horizon=200), solver=diffrax.Tsit5(), rtol=rtol, max_steps=64)
    taken = int(uj.simulate(model.replace(gamma=0.2), plain, state, [50.0, 100.0], "log_norm").steps)
    for name, adjoint in ADJOINTS.items():
        # Direct keeps every step that is allowed, so it gets those that are taken.
        allowed = taken + 8 if name == "direct" else 64
        value = lambda x, adjoint=adjoint, allowed=allowed: outcome(x, max_steps=allowed, adjoint=adjoint)  # noqa: E731
        slope, took, memory = measured(jax.jacfwd(value) if name == "forward" else jax.grad(value), x)
        errors[name] = np.max(np.abs(slope - truth) / np.abs(truth))
        costs.append({"mode": name, "error": errors[name], "ms": took, "KiB": memory})
    _, took, memory = measured(outcome, x)
costs.append({"mode": "value alone", "error": np.nan, "ms": took, "KiB": memory})
print(pd.DataFrame(costs).set_index("mode").to_string(na_rep="–", formatters={
    "error": "{:.0e}".format, "ms": "{:.2f}".format, "KiB": "{:.1f}".format}))  # fmt: skip

# %% [markdown]
# ## Which mode when
#
# | mode | derivative | memory |
# |---|---|---|
# | forward | of everything with respect to few numbers | that of the run |
# | checkpointed | of few values with respect to many numbers (arrays) | grows like the root of the number of steps |
# | direct | the same, flows only | every step that `max_steps` allows is kept |
# | backsolve | the same, flows only | that of the run; approximate |
#
# A descent needs no adjoint: forward mode stores nothing, and reverse mode stores checkpoints. The next cell shows
# the memory for a gradient with respect to all 360 numbers of the initial features in reverse mode, for a run and for
# one that is 64 times as long.

# %%
lengths, sizes = [100, 6400], []
with jax.enable_x64(True):
    H = jnp.asarray(state.H)
    for length in lengths:

        def last(H, run=uj.simulate, length=length):
            return run(model, uj.Descent(0.1), state.replace(H=H), [length], "log_norm")["log_norm"][0]

        program = jax.jit(jax.grad(last)).lower(H).compile()
        sizes.append(program.memory_analysis().temp_size_in_bytes / 2**10)
        slope_H = np.asarray(program(H))
    exact_H = np.asarray(jax.jit(jax.grad(lambda H: last(H, run=uj.exact)))(H))
for length, size in zip(lengths, sizes, strict=True):
    print(f"{length:>5} updates: {size:8.1f} KiB")
print(f"64 times as long, {sizes[1] / sizes[0]:.1f} times the memory")

# %% [markdown]
# ## Event times
#
# When is everything classified correctly? The time $t^*$ solves $y(t^*; \theta) = 0$ for the least margin $y$, and by
# the implicit function theorem $\frac{dt^*}{d\theta} = -\frac{\partial y/\partial\theta}{\partial y/\partial t}$.

# %%
def first_right(gamma):
    """Time at which the last sample is classified right."""
    searched = uj.logspaced(1.0, 400.0, 60)
    return uj.event_time(model.replace(gamma=gamma), uj.Flow(), state, "accuracy is 1", times=searched).time


gammas, h = np.linspace(0.1, 0.6, 9), 1e-5
with jax.enable_x64(True):
    timed = jax.jit(jax.value_and_grad(first_right))
    asked = [*gammas, gammas[4] - h, gammas[4] + h]  # the last two for a central difference
    when, slopes = np.array([timed(gamma) for gamma in asked]).T
central = (when[-1] - when[-2]) / (2 * h)
when, slopes = when[:-2], slopes[:-2]

# %% [markdown]
# ## A limit with a kink
#
# The rate at which the direction converges, $\min(\gamma C,\, 2+2\gamma-\gamma C)/(C\sqrt N)$ without decay, is a
# minimum over modes. At $\gamma = 1/(C-1)$ it has two one-sided derivatives that differ.

# %%
free = uj.unconstrained(labels, dim=12)
kink = uj.limit_sensitivity(free, uj.Flow(), state, ["gamma"]).sel(quantity="rate", parameter="gamma")
sides = float(kink["left"]), float(kink["right"])
C, root_N = 5, np.sqrt(6)
print(f"left  {sides[0]:+.8f}, 1/√N          = {1 / root_N:+.8f}")
print(f"right {sides[1]:+.8f}, (2 − C)/(C√N) = {(2 - C) / (C * root_N):+.8f}")

# %% [markdown]
# ## Design by gradient
#
# This design chooses six step sizes with a given sum that end closest to the limit direction. Without decay equal
# steps are best, because $\sum_k \log(1 + \eta_k\mu)$ is concave. The shipped design `steps` starts from unequal
# steps.

# %%
found = uj.design(uj.DesignPlan.read("steps"))
print(found)
with style():
    figure, ((bars, left), (right, _)) = plt.subplots(2, 2, figsize=(8, 6.4))
    _.remove()
    right.set_subplotspec(right.get_subplotspec().get_gridspec()[1, :])
    drawn = bars.bar(range(len(errors)), list(errors.values()), color=PALETTE[: len(errors)], width=0.6)
    bars.bar_label(drawn, [f"{error:.0e}" for error in errors.values()], fontsize=8, padding=2)
    bars.set(title="How wrong each adjoint is", ylabel=f"relative error at rtol = {rtol:.0e}", yscale="log",
             ylim=(min(errors.values()) / 10, 10 * max(errors.values())))  # fmt: skip
    bars.set_xticks(range(len(errors)), list(errors), fontsize=8)
    bars.grid(axis="x", visible=False)
    left.plot(gammas, when, color=PALETTE[0], marker="o", ms=4)
    for gamma, t, slope in zip(gammas, when, slopes, strict=True):
        left.plot(gamma + np.array([-0.02, 0.02]), t + slope * np.array([-0.02, 0.02]), color=PALETTE[1], lw=2.5)
    left.plot([], [], color=PALETTE[1], lw=2.5, label="slope by the implicit function theorem")
    left.set(title="When accuracy becomes 1", xlabel="trade-off γ", ylabel="time")
    left.legend()
    path = found.path["dynamics.schedule.values"]
    for k in range(path.shape[1]):
        right.plot(path[:, k], color=PALETTE[k], label=f"step {k + 1}")
    right.axhline(path[0].sum() / 6, color="0.3", ls="--", lw=1, label="equal")
    right.set(title="Step sizes over the outer optimisation", xlabel="outer step", ylabel="η_k", xlim=(0, 150))
    right.legend(ncols=2, loc="upper right")
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares derivatives of the simulation with those of the closed form, and both with central
# differences of the closed form. It also checks the errors of the adjoints, the gradient with respect to the initial
# features, the slope of the event, the kink and the design.

# %%
assert disagreement(table)["first"] < 1e-6
with jax.enable_x64(True):
    for i, h in enumerate([1e-5, 1e-6, 1e-5]):
        step = h * jnp.eye(3)[i]
        slope = (outcome(x + step, run=uj.exact) - outcome(x - step, run=uj.exact)) / (2 * h)
        assert abs(float(slope) / truth[i] - 1) < 1e-5
assert all(error < 100 * rtol for error in errors.values()), errors
assert sizes[1] < sizes[0] * lengths[1] / lengths[0] / 3  # far from proportional
assert np.linalg.norm(slope_H - exact_H) < 1e-8 * np.linalg.norm(exact_H)
assert abs(slopes[4] / central - 1) < 1e-5
assert np.allclose(sides, [1 / root_N, (2 - C) / (C * root_N)], rtol=1e-6) and bool(kink["kink"])
assert found.met
print("all checks passed")
