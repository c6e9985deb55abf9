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
# # MSE and cross-entropy compared with the unhinged loss
#
# The unhinged loss can be solved in closed form. You will see what it says about two losses that cannot: near the
# origin cross-entropy and squared error *are* the unhinged loss, and follow its closed form until the logits grow.
# Then they diverge from it: with weight decay both end at a simplex ETF of known size, while the limit of the
# unhinged flow depends on its start.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style
from unhinged_jax.theories.ce_decay import cross_entropy_gap
from unhinged_jax.theories.mse_decay import mse_minimiser

# %% [markdown]
# ## The mathematics
#
# The signal $-\partial L/\partial S$ of a loss depends on the logits $S$. With softmax probabilities $P$,
#
# $$\text{cross-entropy: } \tfrac1n\,(Y - P), \qquad \text{squared error: } \tfrac1n\,(Y - S), \qquad
#   \text{unhinged: } \tfrac1n\big((1+\gamma)Y - \gamma\big) .$$
#
# At $S = 0$ all entries of $P$ are $1/C$. Near the origin, cross-entropy therefore has the signal
# $\frac1n(Y - \frac1C)$, which is $\frac{C-1}{C}$ times that of the unhinged loss at $\gamma = \frac1{C-1}$. The same
# holds for squared error with a bias of $1/C$. Both then obey the closed form at the rate $\frac{C-1}C$, up to terms
# of third order in the size of the state.

# %%
C, N, p = 4, 5, 8
labels = uj.balanced(classes=C, per_class=N)
unhinged = uj.unconstrained(labels, dim=p)
entropy = uj.unconstrained(labels, dim=p, loss="cross_entropy")
squared = uj.unconstrained(labels, dim=p, loss="mse", bias=True)
state = unhinged.init(jax.random.key(2), scale=1e-3, precision="float64")
shifted = state.replace(b=np.full(C, 1 / C))

times = np.linspace(0, 160, 81)
observe = ["log_norm", "accuracy", "margin_min"]
flow, slower = uj.Flow(rtol=1e-10), uj.Flow((C - 1) / C, rtol=1e-10)
near = {
    "cross-entropy": uj.simulate(entropy, flow, state, times, observe, states=True),
    "squared error": uj.simulate(squared, flow, shifted, times, observe, states=True),
    "unhinged": uj.simulate(unhinged, slower, state, times, observe, states=True),
}
solved = uj.exact(unhinged, slower, state, times, observe, states=True)


def difference(run, truth):
    """Relative difference of (H, W) at every time."""
    scale = np.exp(truth.states.log_scale)[:, None, None]
    parts = [(run.states.H, truth.states.H), (run.states.W, truth.states.W)]
    own = np.exp(run.states.log_scale)[:, None, None]
    gap = sum(np.sum((own * a - scale * b) ** 2, axis=(1, 2)) for a, b in parts)
    return np.sqrt(gap / sum(np.sum((scale * b) ** 2, axis=(1, 2)) for _, b in parts))


# %% [markdown]
# ## With weight decay
#
# Now all three losses have the same decay $\lambda = 0.005$ and start from a generic state. For balanced classes,
# with $k = \sqrt{N\lambda_1\lambda_2}$, the minimum of cross-entropy is known to be a simplex ETF with logit gap
# $\log\big(\tfrac1k - (C-1)\big)$ (Zhu et al. 2021); that of squared error with a bias is one with
# $\lVert w_c\rVert^2 = \tfrac{C-1}C\sqrt{N\lambda_1/\lambda_2}\,(1 - Ck)$ at these decays (Tirer & Bruna 2022). The
# unhinged loss has no minimum there: $\lambda$ is far below its critical value, so the norm grows forever, in a
# direction that depends on the start.

# %%
decay = 0.005
decayed = {
    "cross-entropy": uj.regularized(labels, dim=p, decay=decay, loss="cross_entropy"),
    "squared error": uj.regularized(labels, dim=p, decay=decay, loss="mse", bias=True),
    "unhinged": uj.regularized(labels, dim=p, decay=decay),
}
generic = unhinged.init(jax.random.key(2), precision="float64")
long = np.geomspace(1, 4000, 61)
metrics = ["nc1", "etf_distance_prototypes", "nc3_self_duality", "log_norm", "accuracy"]
far = {name: uj.simulate(model, uj.Flow(rtol=1e-8), generic, long, metrics) for name, model in decayed.items()}
far_solved = uj.exact(decayed["unhinged"], uj.Flow(), generic, long, metrics)

# %%
with style():
    figure, grid = plt.subplots(2, 3, figsize=(8, 6))
    colours = dict(zip(near, PALETTE, strict=False))
    marks = {"cross-entropy": (0, (5, 2)), "squared error": (0, (2, 2)), "unhinged": (0, (6, 2, 1, 2))}
    one, two, three = grid[0]
    one.plot(times, solved["log_norm"] / np.log(10), color="0.5", lw=4, alpha=0.4, label="unhinged, exact")
    two.plot(times, solved["accuracy"], color="0.5", lw=4, alpha=0.4)
    for name, run in near.items():
        look = {"color": colours[name], "ls": marks[name], "lw": 1.5}
        one.plot(times, run["log_norm"] / np.log(10), label=f"{name}, simulated", **look)
        two.plot(times, run["accuracy"], **look)
        three.semilogy(times[1:], difference(run, solved)[1:], **look)
    one.set(title="From a start of size 10⁻³", xlabel="time", ylabel="log₁₀ ‖(H, W)‖")
    figure.legend(*one.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    two.set(title="Accuracy", xlabel="time", ylabel="share of samples", ylim=(0, 1.03))
    three.set(title="Difference from unhinged", xlabel="time", ylabel="relative, of (H, W)", ylim=(1e-11, 10))
    names = {"nc1": "Variability NC1", "etf_distance_prototypes": "Distance from an ETF",
             "log_norm": "Size, λ = 0.005"}  # fmt: skip
    for axes, (metric, title) in zip(grid[1], names.items(), strict=True):
        size = np.log(10) if metric == "log_norm" else 1
        axes.plot(long, far_solved[metric] / size, color="0.5", lw=4, alpha=0.4)
        for name, run in far.items():
            axes.plot(long, run[metric] / size, color=colours[name], ls=marks[name], lw=1.5)
        axes.set(title=title, xlabel="time", xscale="log", ylabel="log₁₀ ‖(H, W)‖" if metric == "log_norm" else "value")
        if metric != "log_norm":
            axes.set_yscale("log")
            axes.set_ylim(1e-11, 10)
    grid[1, 2].set_ylim(0, 6)
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares simulated with exact runs for the unhinged loss, the other two losses with their
# linearisation, and the limits of cross-entropy and squared error with their closed forms.

# %%
early = times <= 20
print(f"unhinged, simulated against exact: {np.max(difference(near['unhinged'], solved)):.1e}")
assert np.max(difference(near["unhinged"], solved)) < 1e-7
assert uj.verify(far["unhinged"], far_solved).errors["log_norm"] < 1e-6
for name in ("cross-entropy", "squared error"):
    gap = np.max(difference(near[name], solved)[early])
    print(f"{name} against exact unhinged until time 20: {gap:.1e}")
    assert gap < 1e-3

final = far["cross-entropy"].final
logits = (final.H @ final.W.T) * np.exp(2 * final.log_scale)
own = np.asarray(labels.index)[:, None] == np.arange(C)
gaps = logits[own][:, None] - logits[~own].reshape(C * N, C - 1)
predicted = cross_entropy_gap(C, N, decay, decay)
print(f"cross-entropy, logit gap: {gaps.min():.7f} to {gaps.max():.7f}, predicted {predicted:.7f}")
assert np.allclose(gaps, predicted, rtol=1e-5)

final = far["squared error"].final
sizes = np.linalg.norm(final.W, axis=1) * np.exp(final.log_scale)
predicted = mse_minimiser(C, N, decay, decay, bias=True)
print(f"squared error, ‖w_c‖: {sizes.min():.7f} to {sizes.max():.7f}, predicted {predicted.prototype_norm:.7f}")
assert predicted.shape == "simplex ETF" and np.allclose(sizes, predicted.prototype_norm, rtol=1e-5)
assert np.isclose(predicted.prototype_norm**2, (C - 1) / C * np.sqrt(N) * (1 - C * np.sqrt(N) * decay))
assert far_solved["etf_distance_prototypes"][-1] > 0.01
