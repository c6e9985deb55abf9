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
# # Theorem 6: anchored prototypes
#
# Prototypes that do not move pull every feature along a straight line. You will see the error shrink by exactly
# $e^{-\lambda\tau}$ from the first moment on, the convergence without decay, why a cosine schedule stops short of the
# limit, and how completely features collapse onto a simplex ETF.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style

# %% [markdown]
# ## The mathematics
#
# With $W$ fixed, $H' = \eta\,(MW - \lambda H)$. With $\tau = \int_0^t\eta$ (**Theorem 6**)
#
# $$H(\tau) = e^{-\lambda\tau} H_0 + \frac{1 - e^{-\lambda\tau}}{\lambda}\, MW, \qquad
#   \Big\lVert H - \frac{MW}{\lambda}\Big\rVert = e^{-\lambda\tau}\Big\lVert H_0 - \frac{MW}{\lambda}\Big\rVert .$$
#
# Without decay $H = H_0 + \tau MW$, and only the direction converges, like $1/\tau$. The target of class $c$ is $v_c
# = \big((1+\gamma)w_c - \gamma\sum_j w_j\big)/n$, a multiple of $w_c$ if the prototypes sum to zero, as those of a
# simplex ETF do.
#
# The distance to $MW/\lambda$ is not an observable of the library, so it is defined here as a function of model and
# state.


# %%
def gap(model, state):
    """log10 of the distance between H and MW/λ."""
    scale = jnp.exp(state.log_scale)  # a state may hold its size as a logarithm beside it
    target = model.signal().times(scale * state.W) / model.decay_H
    return jnp.log10(jnp.linalg.norm(scale * state.H - target))


C, N, p = 6, 8, 10
labels = uj.balanced(classes=C, per_class=N)
decays = [0.02, 0.05, 0.1]
models = {decay: uj.anchored(labels, dim=p, decay=decay) for decay in decays}
state = models[0.02].init(jax.random.key(6), precision="float64")  # prototypes: a simplex ETF
with jax.enable_x64(True):
    M_W = np.asarray(models[0.02].signal().times(state.W))  # the library's own runs need no such context
flow = uj.Flow(rtol=1e-12, atol=1e-14)
times = np.linspace(0, 200, 101)
observe = {"gap": gap, "norm_H": None, "nc1": None, "accuracy": None}
runs = {decay: uj.simulate(model, flow, state, times, observe) for decay, model in models.items()}
truths = {decay: uj.exact(model, flow, state, times, observe) for decay, model in models.items()}

free = uj.anchored(labels, dim=p, decay=0.0)
long = np.geomspace(1, 1e5, 101)
free_run = uj.simulate(free, uj.Flow(), state, long, ["distance_H", "nc1"])
free_truth = uj.exact(free, uj.Flow(), state, long, ["distance_H", "nc1"])

# %%
with style():
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8, 3.6))
    for colour, decay in zip(PALETTE, decays, strict=False):
        left.plot(times, truths[decay]["gap"], color=colour, lw=4, alpha=0.4)
        left.plot(times, runs[decay]["gap"], color=colour, lw=1.2, ls="--", label=f"λ = {decay}")
        middle.plot(times, truths[decay]["norm_H"], color=colour, lw=4, alpha=0.4)
        middle.plot(times, runs[decay]["norm_H"], color=colour, lw=1.2, ls="--")
        middle.axhline(np.linalg.norm(M_W) / decay, color=colour, lw=0.8, ls=":")
    left.set(title="Distance to MW/λ", xlabel="time", ylabel="log₁₀ ‖H − MW/λ‖")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3,
                  title="bands: exact; dashes: simulated; dots: ‖MW‖/λ")  # fmt: skip
    middle.set(title="Size of H", xlabel="time", ylabel="‖H‖", yscale="log")
    middle.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
    middle.minorticks_off()
    right.loglog(long, free_truth["distance_H"], color=PALETTE[3], lw=4, alpha=0.4, label="exact")
    right.loglog(long, free_run["distance_H"], color=PALETTE[3], lw=1.2, ls="--", label="simulated")
    right.loglog(long[40:], 30 * free_truth["distance_H"][-1] * long[-1] / 30 / long[40:], color="0.3", lw=0.9, ls=":",
                 label="∝ 1/τ")  # fmt: skip
    right.set(title="Direction without decay", xlabel="time", ylabel="distance from its limit")
    right.legend(loc="lower left")
    plt.show()

# %% [markdown]
# ## A cosine schedule stops short
#
# Only $\tau = \int\eta$ matters. A cosine schedule over $[0, T]$ has $\tau(T) = \eta_0T/2$, which is finite, so the
# limit is not reached: a share $e^{-\lambda\eta_0T/2}$ of the initial distance remains, however small the steps are.

# %%
T, peak, decay = 400, 0.2, 0.05
scheduled = uj.Flow(uj.cosine(peak, horizon=T), rtol=1e-10)
left_over = uj.exact(models[decay], scheduled, state, [0.0, T], {"gap": gap})["gap"]
share = 10 ** float(left_over[1] - left_over[0])
print(f"share of the first distance left at T: {share:.6f}; formula: {np.exp(-decay * peak * T / 2):.6f}")

# %% [markdown]
# ## Collapse
#
# Features forget their start. Within-class variability (NC1) therefore falls like $e^{-2\lambda\tau}$ with decay and
# like $\tau^{-2}$ without, and class means take the shape of the prototypes.

# %%
with style():
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    for colour, decay_ in zip(PALETTE, decays, strict=False):
        axes.semilogy(times, truths[decay_]["nc1"], color=colour, lw=4, alpha=0.4)
        axes.semilogy(times, runs[decay_]["nc1"], color=colour, lw=1.2, ls="--", label=f"λ = {decay_}")
    axes.set(title="Within-class variability NC1", xlabel="time", ylabel="NC1")
    axes.legend(title="bands: exact; dashes: simulated", title_fontsize=8)
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares simulated with exact runs, and exact runs with Theorem 6 in NumPy. It also checks the share
# left by the schedule, the power law without decay, and descent, for which $e^{-\lambda\tau}$ becomes
# $\prod_k(1-\eta_k\lambda)$.

# %%
for decay_ in decays:
    near = times * decay_ < 9  # beyond, the solver's own tolerance is what the distance shows
    apart = np.max(np.abs(runs[decay_]["gap"] - truths[decay_]["gap"])[near])
    slope = np.polyfit(times[near], truths[decay_]["gap"][near], 1)[0] * np.log(10)
    print(f"λ = {decay_}: log₁₀ distances differ by {apart:.1e}, fitted rate {-slope:.6f}")
    assert apart < 1e-5 and abs(-slope / decay_ - 1) < 1e-5

formula = np.exp(-decay * 30.0) * state.H - np.expm1(-decay * 30.0) / decay * M_W
final = uj.exact(models[decay], uj.Flow(), state, [30.0], ()).final
assert np.linalg.norm(final.H - formula) < 1e-12 * np.linalg.norm(formula)
assert abs(share / np.exp(-decay * peak * T / 2) - 1) < 1e-6
assert uj.verify(free_run, free_truth).worst < 1e-5
assert abs(np.polyfit(np.log(long[-20:]), np.log(free_truth["distance_H"][-20:]), 1)[0] + 1) < 1e-2

descent, count = uj.Descent(0.5), 300
stepped = uj.simulate(models[decay], descent, state, [count], ()).final.H
q = (1 - 0.5 * decay) ** count
assert np.linalg.norm(stepped - (q * state.H + (1 - q) / decay * M_W)) < 1e-12 * np.linalg.norm(stepped)
print("all checks passed")
