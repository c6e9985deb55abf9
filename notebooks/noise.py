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
# # Runs that draw, one by one and on average
#
# People train with minibatches. You will see when a stochastic run follows the descent on all samples, when noise
# makes its squared norm grow although the mean dies, and what an ensemble can and cannot tell about an expectation
# that is known in closed form.

# %%
import itertools

import jax
import matplotlib.pyplot as plt
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style

# %% [markdown]
# ## The mathematics
#
# Update $k$ follows the gradient of a batch of $m$ samples, times $n/m$. With the diagonal matrix $D_k$ of how often
# each sample is in the batch, times $n/m$,
#
# $$H_{k+1} = (1-\eta\lambda) H_k + \eta D_k M W_k, \qquad W_{k+1} = (1-\eta\lambda) W_k + \eta M^\top D_k H_k,
#   \qquad \mathbb E D_k = 1 .$$
#
# - The loss is linear in the logits, so the **mean is the descent on all samples**, exactly.
# - The **second moments close**: those of class sums and prototypes, and the squared lengths in each class, follow a
#   linear map. `exact` iterates it; no run is simulated.

# %%
labels = uj.balanced(classes=4, per_class=5)
model = uj.regularized(labels, dim=8, decay=0.16)
state = model.init(jax.random.key(0), precision="float64")
times = np.arange(0, 201, 10)


def ensemble_of(descent, members, times=times, observe=("square_norm", "log_square_norm")):
    """Runs with one key each."""
    keys = jax.random.split(jax.random.key(2), members)
    return jax.vmap(lambda key: uj.simulate(model, descent, state, times, observe, key=key))(keys)


calm, wild = uj.Descent(0.3, batch=5), uj.Descent(1.0, batch=1)
with jax.enable_x64(True):
    runs = {"m = 5, η = 0.3": ensemble_of(calm, 400), "m = 1, η = 1": ensemble_of(wild, 400)}
expected = {
    name: uj.exact(model, descent, state, times, ["square_norm", "log_square_norm"])
    for name, descent in zip(runs, (calm, wild), strict=True)
}
mean = {
    name: uj.exact(model, uj.Descent(descent.schedule), state, times, ["square_norm"])["square_norm"]
    for name, descent in zip(runs, (calm, wild), strict=True)
}

# %% [markdown]
# `ensemble` summarises the members of a batch of runs: mean and standard error, quantiles, how many members there
# are, and how many of them carry the standard error. It returns a dataset, which `plot` draws.

# %%
summary = {name: uj.ensemble(members) for name, members in runs.items()}
with style():
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    for axis, name in zip(axes, runs, strict=True):
        seen = summary[name]["square_norm"]
        axis.fill_between(times, seen.sel(statistic="0.1"), seen.sel(statistic="0.9"), color=PALETTE[0], alpha=0.2,
                          lw=0, label="10 % to 90 % of 400 runs")  # fmt: skip
        axis.plot(times, seen.sel(statistic="0.5"), color=PALETTE[0], label="their median")
        axis.plot(times, seen.sel(statistic="mean"), color=PALETTE[1], lw=0, marker="o", ms=4, label="their mean")
        axis.plot(times, expected[name]["square_norm"], color="black", lw=1.2, label="expectation, closed form")
        axis.plot(times, mean[name], color="0.4", ls=":", label="descent on all samples")
        axis.set(title=f"Batches of {name}", xlabel="number of updates", ylabel="‖H‖² + ‖W‖²", yscale="log")
    axes[0].legend(fontsize=8)
    plt.show()

# %% [markdown]
# On the left the noise is small: runs, mean and expectation agree. On the right the descent on all samples dies, and
# typical runs die, too. The expectation grows, carried by fewer and fewer runs, so the mean of 400 runs falls below it.
# `verify` compares a mean with its expectation in units of the standard error, and judges only times at which that
# error rests on fifty members or more. At the others the distribution is too heavy-tailed to tell.

# %%
for name in runs:
    print(name, "\n", uj.verify(runs[name], expected[name]), "\n")

# %% [markdown]
# ## Where does noise win?
#
# The growth rate of the expected squared norm over batch size and rate. The line is where it is zero. The size of a
# batch is a real number here, so everything can be differentiated with respect to it.

# %%
batches, rates = np.linspace(1, 10, 19), np.geomspace(0.1, 4.0, 24)


def growth(batch, rate):
    """Of log E‖(H, W)‖² per unit of η k."""
    ends = uj.exact(model, uj.Descent(rate, batch=batch), state, [200, 400], ["log_square_norm"])["log_square_norm"]
    return (ends[1] - ends[0]) / (200 * rate)


with jax.enable_x64(True):
    table = jax.jit(jax.vmap(jax.vmap(growth, (None, 0)), (0, None)))(batches, rates)
    slope = jax.grad(growth)(4.0, 1.0)
print(f"one sample more in a batch of 4, at η = 1: growth changes by {slope:.4f}")
with style():
    figure, axis = plt.subplots(figsize=(5.6, 3.8))
    limit = float(np.max(np.abs(table)))
    drawn = axis.pcolormesh(batches, rates, table.T, cmap="PuOr_r", vmin=-limit, vmax=limit, shading="nearest")
    axis.contour(batches, rates, table.T, [0.0], colors="black")
    axis.set(title="Growth of log E‖(H, W)‖²; black: 0", xlabel="batch size m", ylabel="rate η", yscale="log")
    figure.colorbar(drawn, label="per unit of ηk")
    plt.show()

# %% [markdown]
# ## Labels drawn at each update
#
# With `fresh_labels=True` each update draws every label again, from the targets of the labels. From a collapsed start
# all scatter within classes is noise.

# %%
noisy = uj.unconstrained(labels.symmetric_noise(0.2), dim=8)
collapsed = state.replace(H=np.repeat(np.asarray(state.H)[::5], 5, axis=0))
scatter = {}
for rate in (0.4, 0.2, 0.1):
    updates = np.linspace(0, round(8 / rate), 9).astype(int)
    drawn = uj.exact(noisy, uj.Descent(rate, fresh_labels=True), collapsed, updates, ["within_scatter"])
    scatter[rate] = (rate * updates, np.asarray(drawn["within_scatter"]))
with style():
    figure, axis = plt.subplots(figsize=(5.6, 3.8))
    for colour, (rate, (clock, values)) in zip(PALETTE, scatter.items(), strict=False):
        axis.plot(clock, values / rate, color=colour, marker="o", ms=4, label=f"η = {rate:g}")
    axis.set(title="Expected within-class scatter over η", xlabel="ηk", ylabel="E scatter / η")
    axis.legend()
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares the closed form with the enumeration of every path of two updates in NumPy, the calm ensemble
# with its expectation, and the scatter with proportionality to η.

# %%
small = uj.regularized(uj.balanced(classes=2, per_class=2), dim=3, decay=0.1)
start = small.init(jax.random.key(1), precision="float64")
M, eta, n = 0.25 * np.array([[1, -1], [1, -1], [-1, 1], [-1, 1]]), 0.5, 4
total = 0.0
for path in itertools.product(range(n), repeat=2):
    H, W = np.asarray(start.H), np.asarray(start.W)
    for sample in path:
        D = n * (np.arange(n) == sample)[:, None]
        H, W = (1 - 0.1 * eta) * H + eta * D * (M @ W), (1 - 0.1 * eta) * W + eta * M.T @ (D * H)
    total += (np.sum(H**2) + np.sum(W**2)) / n**2
closed = uj.exact(small, uj.Descent(eta, batch=1), start, [2], ["square_norm"])["square_norm"][0]
print(f"all {n**2} paths of two updates against the closed form: {abs(closed / total - 1):.1e}")
assert abs(closed / total - 1) < 1e-12

agreement = uj.verify(runs["m = 5, η = 0.3"], expected["m = 5, η = 0.3"])
assert agreement.passed
few = summary["m = 1, η = 1"]["square_norm"].sel(statistic="effective")
assert float(few[-1]) < 10 and np.max(np.asarray(table)[-1]) < np.max(np.asarray(table)[0])
at_end = np.array([values[-1] / rate for rate, (_, values) in scatter.items()])
assert np.ptp(at_end) < 0.1 * at_end[-1]
