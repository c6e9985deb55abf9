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
# # How fast is it here?
#
# Run this notebook to measure your machine. You will see the cost of a run once it is compiled, how the cost of
# simulation and closed form grows with the number of updates, and a plain NumPy loop for comparison. The error of
# everything that is timed is shown as well, because a fast wrong number is useless.
#
# The times in the stored copy are those of two shared cores of a server and say nothing about your machine.
# `python -m benchmarks` in a checkout of the project measures more: other sizes and precisions, PyTorch, diffrax, C,
# memory and scaling (with `--quick` in under 90 seconds).

# %%
import os
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style

device = jax.local_devices()[0]
print(f"jax {jax.__version__}, {jax.device_count()} × {device.platform} ({device.device_kind}), {os.cpu_count()} cores")

# %% [markdown]
# ## What is timed
#
# This is gradient descent on the regularised problem with $p = 128$, $C = 20$, $N = 10$, with loss, accuracy, norm
# and distance to the limit at 50 times, in float64:
#
# $$H \leftarrow H + \eta\,(MW - \lambda H), \qquad W \leftarrow W + \eta\,(M^\top H - \lambda W) .$$
#
# `simulate` makes every update (on class sums, which suffice). `exact` makes none: $T$ updates are the matrix
# polynomial $\prod_k (I + \eta_k K)$, evaluated mode by mode. The NumPy loop makes every update on the full matrices,
# with the signal as class sums, and observes nothing in between.
#
# A time is the best of three calls after one that compiles; the first call is shown separately. Calls return NumPy
# arrays, so nothing is left running when the clock stops.

# %%
C, N, p, eta, decay = 20, 10, 128, 0.1, 2e-3
labels = uj.balanced(classes=C, per_class=N)
model = uj.regularized(labels, dim=p, decay=decay)
state = model.init(jax.random.key(0), precision="float64")
observe = ["loss", "accuracy", "log_norm", "log_distance"]
gamma = 1 / (C - 1)


def loop(updates):
    """H and W by plain NumPy."""
    H, W = state.H.copy(), state.W.copy()
    for _ in range(updates):
        pull = ((1 + gamma) * W - gamma * W.sum(axis=0)) / (C * N)
        sums = H.reshape(C, N, p).sum(axis=1)
        push = ((1 + gamma) * sums - gamma * sums.sum(axis=0)) / (C * N)
        H, W = H + eta * (np.repeat(pull, N, axis=0) - decay * H), W + eta * (push - decay * W)
    return H, W


def timed(function, repeats=3):
    """What a function returns, seconds of its first call, and the least of further ones."""
    spans = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        value = function()
        spans.append(time.perf_counter() - began)
    return value, spans[0], min(spans[1:])


lengths, rows, runs = [100, 1_000, 10_000], [], {}
for length in lengths:
    moments = np.unique(np.round(np.linspace(length / 50, length, 50)).astype(int))
    for name, solve in (("simulate", uj.simulate), ("exact", uj.exact)):
        call = lambda run=solve, at=moments: run(model, uj.Descent(eta), state, at, observe)  # noqa: E731
        run, first, warm = timed(call)
        runs[name, length] = run
        rows.append({"what": name, "updates": length, "first call, s": first, "warm, s": warm})
    if length <= 1_000:
        parts, first, warm = timed(lambda length=length: loop(length), repeats=2)
        runs["NumPy loop", length] = parts
        rows.append({"what": "NumPy loop", "updates": length, "first call, s": np.nan, "warm, s": warm})

# %% [markdown]
# ## The errors
#
# Final norms are compared with the closed form, as relative errors, and whole runs by `verify`.

# %%
for row in rows:
    run, truth = runs[row["what"], row["updates"]], runs["exact", row["updates"]]
    if row["what"] == "simulate":
        row["error"] = uj.verify(run, truth).worst
    elif row["what"] == "NumPy loop":
        end = np.exp(truth.final.log_scale)
        ours = end * np.vstack([truth.final.H, truth.final.W])
        row["error"] = np.linalg.norm(np.vstack(run) - ours) / np.linalg.norm(ours)
table = pd.DataFrame(rows).set_index(["what", "updates"]).sort_index()
print(table.to_string(na_rep="–", formatters={"first call, s": "{:.2f}".format, "warm, s": "{:.4f}".format,
                                              "error": "{:.0e}".format}))  # fmt: skip

# %%
with style():
    figure, axes = plt.subplots(figsize=(5.6, 3.6))
    for colour, marker, name in zip(PALETTE, "osD", ("simulate", "exact", "NumPy loop"), strict=False):
        mine = table.loc[name]
        axes.loglog(mine.index, mine["warm, s"], color=colour, marker=marker, label=name)
    axes.set(title="A run of T updates, 50 looks on the way", xlabel="updates T", ylabel="seconds, compiled")
    axes.legend(title="NumPy: no looks", title_fontsize=8)
    plt.show()

# %% [markdown]
# The closed form costs the same however many updates it covers, because only the 50 observations cost time. A
# simulated descent is compiled once for each number of updates, the closed form only once.
#
# ## Many at once
#
# Learning rates, decays, trade-offs, noise rates and starts are data: a batch of runs is one compiled program, and a
# new value does not compile anything. Here are 64 decays in closed form.

# %%
decays = np.linspace(1e-3, 1e-2, 64)
moments = uj.logspaced(1, 10_000, 20)
ends = jax.jit(jax.vmap(
    lambda decay: uj.exact(model.replace(decay=decay), uj.Descent(eta), state, moments, "log_norm").last("log_norm")
))  # fmt: skip
with jax.enable_x64(True):
    batch, first, warm = timed(lambda: np.asarray(ends(decays)))
print(f"64 runs of 10,000 updates: first call {first:.1f} s, then {warm:.3f} s")

# %% [markdown]
# ## Check
#
# The next cell compares simulated with exact runs, the loop with the exact run, and one lane of the batch with a
# separate run. It does not check times.

# %%
assert table.loc["simulate"]["error"].max() < 1e-9
assert table.loc["NumPy loop"]["error"].max() < 1e-12
alone = uj.exact(model.replace(decay=decays[40]), uj.Descent(eta), state, moments, "log_norm").last("log_norm")
assert abs(alone - batch[40]) < 1e-10
assert np.all(np.diff(batch) < 0)
print("all checks passed")
