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
# # Phase diagram: trade-off and weight decay
#
# Two numbers determine the outcome of a run: the trade-off $\gamma$ and the weight decay $\lambda$. You will see a
# sweep over 41 × 41 values of them with three seeds each, which are some five thousand runs, all exact, and two
# boundaries that come from theory and are not fitted.

# %%
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style

# %% [markdown]
# ## The mathematics
#
# For $C$ balanced classes of $N$ samples the signal matrix has the singular values
#
# $$\sigma_1 = \frac{1+\gamma}{C\sqrt N} \text{ (class contrasts)}, \qquad
#   |\sigma_2| = \frac{|1+\gamma-\gamma C|}{C\sqrt N} \text{ (common mean)} .$$
#
# - Norms **grow** iff $\lambda_1\lambda_2 < \max(\sigma_1^2, \sigma_2^2)$; with one decay $\lambda$ for both parts,
#   iff $\lambda < \max(\sigma_1, |\sigma_2|)$. In that case $\frac1\tau\log\lVert Z\rVert \to \max(\sigma_1,
#   |\sigma_2|) - \lambda$.
# - **Contrasts win** iff $|\sigma_2| < \sigma_1$, that is $0 < \gamma < \frac{2}{C-2}$. Beyond this range, all
#   classes take one direction and accuracy falls to chance.
#
# ## The sweep
#
# A plan is the configuration of one run and the axes that vary. Finished points are in a store on disk, and a second
# call continues with it. This store is deleted with its folder.

# %%
C, N, p, count = 10, 5, 32, 41
plan = uj.SweepPlan.of({
    "model": {"case": "regularized", "dim": p, "decay": 0.01},
    "labels": {"layout": "balanced", "classes": C, "per_class": N},
    "dynamics": {"kind": "flow"},
    "run": {"times": [0, 300, 1000, 2000], "observe": ["log_norm", "accuracy"], "precision": "float64"},
    "sweep": {
        "method": "exact",
        "seeds": 3,
        "grid": {
            "model.gamma": np.linspace(0.005, 0.495, count),
            "model.decay": {"from": 5e-3, "to": 0.3, "count": count, "spacing": "log"},
        },
    },
})  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    data = uj.sweep(plan, f"{folder}/phase.zarr", workers=0, progress=False).load()
print(dict(data.sizes))

# %%
gamma, decay = data["gamma"].values, data["decay"].values
fine = np.linspace(0, 0.5, 300)
top = np.maximum(1 + fine, np.abs(1 + fine - fine * C)) / (C * np.sqrt(N))
pace = (data["log_norm"].isel(time=3) - data["log_norm"].isel(time=2)).median("seed") / 1000
right_share = data["accuracy"].isel(time=1).median("seed")  # later, far beyond 2/(C−2), all logits agree to rounding

with style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.9))
    bound = float(abs(pace).max())
    shown = left.pcolormesh(gamma, decay, pace.transpose("decay", "gamma"), cmap="PuOr_r", vmin=-bound, vmax=bound,
                            shading="nearest", rasterized=True)  # fmt: skip
    figure.colorbar(shown, ax=left, label="growth of log ‖Z‖ per time")
    left.set(title="Size: white neither grows nor dies")
    shown = right.pcolormesh(gamma, decay, right_share.transpose("decay", "gamma"), cmap="cividis", vmin=0, vmax=1,
                             shading="nearest", rasterized=True)  # fmt: skip
    figure.colorbar(shown, ax=right, label="accuracy at time 300")
    right.set(title="Direction: beyond 2/(C−2) all are one")
    for axes in (left, right):
        axes.grid(False)
        for width, colour in ((3.2, "white"), (1.8, PALETTE[1])):
            axes.plot(fine, top, color=colour, lw=width, label="λ = max(σ₁, |σ₂|)" if width < 3 else None)
            axes.axvline(2 / (C - 2), color=colour, lw=width, ls="--", label="γ = 2/(C−2)" if width < 3 else None)
        axes.set(xlabel="trade-off γ", ylabel="weight decay λ", yscale="log", ylim=(decay[0], decay[-1]), xlim=(0, 0.5))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares every point of the map with theory: the side of either boundary on which it lies, and its
# growth. Then it simulates a few points.

# %%
sigma_1, sigma_2 = (1 + gamma) / (C * np.sqrt(N)), np.abs(1 + gamma - gamma * C) / (C * np.sqrt(N))
predicted = np.maximum(sigma_1, sigma_2)[:, None] - decay[None, :]
measured = pace.transpose("gamma", "decay").values
print(f"growth, largest difference from theory: {np.max(np.abs(measured - predicted)):.1e} of {bound:.2f}")
clear = np.abs(sigma_1 - sigma_2) > 3e-3  # nearer to the boundary the loser is not gone by time 2000
assert np.max(np.abs(measured - predicted)[clear]) < 1e-4
assert np.array_equal(measured[clear] > 0, predicted[clear] > 0)
share = right_share.transpose("gamma", "decay").values
clear = np.abs(sigma_1 - sigma_2) > 1.5e-2
assert np.all(share[clear & (sigma_2 < sigma_1)] > 0.99)
assert np.all(share[clear & (sigma_2 > sigma_1)] <= 1.5 / C)

worst = 0.0
for seed, i, j in [(0, 3, 10), (1, 20, 20), (2, 35, 35), (0, 30, 5)]:
    model = uj.regularized(uj.balanced(C, N), dim=p, gamma=float(gamma[i]), decay=float(decay[j]))
    state = model.init(jax.random.key(seed), precision="float64")
    run = uj.simulate(model, uj.Flow(rtol=1e-10), state, [0, 300, 1000, 2000], ["log_norm", "accuracy"])
    here = data.isel(gamma=i, decay=j, seed=seed)
    worst = max(worst, np.max(np.abs(run["log_norm"] - here["log_norm"].values)))
    assert np.array_equal(run["accuracy"][:2], here["accuracy"].values[:2])
print(f"log ‖Z‖, simulated against the sweep: {worst:.1e}")
assert worst < 1e-6
