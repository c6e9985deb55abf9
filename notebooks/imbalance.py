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
# # Imbalanced classes, and the weights $n_c^{-1/2}$
#
# The same linear theory covers classes of any sizes, which only change the signal matrix. You will see all prototypes
# collapse onto one line if sizes differ, the rate at which they do, class weights that prevent it, and a gradient
# descent on those weights that finds the right ones by itself.

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
# With $n_c$ samples in class $c$, weights $q_i$ that depend on the class alone and one-hot labels $Y$,
# $M = \mathrm{diag}(q)\,\big((1+\gamma)Y - \gamma\mathbf 1\mathbf 1^\top\big)$. Its squared singular values are the
# eigenvalues of
#
# $$M^\top M = R^\top D R, \qquad R = (1+\gamma)I - \gamma\mathbf 1\mathbf 1^\top, \quad
#   D = \mathrm{diag}\Big(\sum_{i\in c} q_i^2\Big) .$$
#
# - Equal weights give $D_{cc} = n_c/n^2$. If sizes differ, the largest singular value is usually simple. Its mode
#   outgrows all others, so that $W/\lVert W\rVert$ tends to a matrix of **rank one**, at the rate
#   $\hat\sigma - \sigma'$ (largest minus second largest; $r_1 = r_2$, $\lambda_1 = \lambda_2$).
# - Weights $q_i \propto n_c^{-1/2}$ make $D$ a multiple of the identity: all $C-1$ contrasts grow at one rate, as in
#   the balanced case. The customary $n_c^{-1}$ overshoots, and small classes outgrow the others.

# %%
C, p = 6, 16
labels = uj.long_tailed(classes=C, largest=60, ratio=20)
counts = np.asarray(labels.counts())
weighted = lambda exponent: labels.weighted(classes=counts**-exponent)  # noqa: E731
print("sizes:", counts)


def singular_values(exponent):
    """Of the signal matrix, from its dense form."""
    with jax.enable_x64(True):
        dense = uj.unconstrained(weighted(exponent), dim=p).signal().dense("float64")
    return np.linalg.svd(np.asarray(dense), compute_uv=False)


def spectrum(model, state):
    """Singular values of W/‖W‖, largest first."""
    values = jnp.linalg.svd(state.W, compute_uv=False)
    return values / jnp.linalg.norm(values)


def rarest(model, state):
    """Cosine between the prototypes of the two smallest classes."""
    a, b = state.W[-1], state.W[-2]
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


exponents = {0.0: "equal weights", 0.5: "n_c^(−1/2)", 1.0: "n_c^(−1)"}
models = {e: uj.unconstrained(weighted(e), dim=p) for e in exponents}
state = models[0.0].init(jax.random.key(3), precision="float64")
flow, times = uj.Flow(rtol=1e-10), np.linspace(0, 900, 121)
observe = {"spectrum": spectrum, "rarest": rarest, "accuracy": None, "log_norm": None}
runs = {e: uj.simulate(model, flow, state, times, observe) for e, model in models.items()}
truths = {e: uj.exact(model, flow, state, times, observe) for e, model in models.items()}

# %%
fine = np.linspace(0, 1, 41)
sigmas = np.array([singular_values(e) for e in fine])
with style():
    figure, grid = plt.subplots(2, 2, figsize=(8, 6.6))
    (one, two), (three, four) = grid
    for k in range(C - 1):
        one.plot(fine, sigmas[:, k] / sigmas[:, 0], color=PALETTE[k])
    one.set(title="Contrasts of the signal meet at ½", xlabel="exponent of n_c^(−exponent)", ylabel="σ_k / σ₁",
            ylim=(0, 1.05))  # fmt: skip
    for k in range(C - 1):
        one.annotate(f"σ{'₁₂₃₄₅'[k]}", (1, sigmas[-1, k] / sigmas[-1, 0]), xytext=(3, 0), textcoords="offset points",
                     va="center", color=PALETTE[k])  # fmt: skip
    for colour, e in zip(PALETTE, exponents, strict=False):
        for axes, values in ((two, lambda run: run["spectrum"][:, 1]), (three, lambda run: run["rarest"]),
                             (four, lambda run: run["accuracy"])):  # fmt: skip
            axes.plot(times, values(truths[e]), color=colour, lw=4, alpha=0.4)
            axes.plot(times, values(runs[e]), color=colour, lw=1.2, ls="--", label=exponents[e])
    two.set(title="Second singular value of W/‖W‖", xlabel="time", ylabel="share", yscale="log")
    figure.legend(*two.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  title="weights; bands: exact; dashes: simulated")  # fmt: skip
    three.set(title="The two rarest classes: cosine of prototypes", xlabel="time", ylabel="cosine", ylim=(-1.05, 1.05))
    four.set(title="Accuracy", xlabel="time", ylabel="share of samples", ylim=(0, 1.03))
    plt.show()

# %% [markdown]
# With equal weights the rarest classes end with the same prototype. This is minority collapse, here in closed form
# and without any threshold. With $n_c^{-1}$ the large classes collapse, and with $n_c^{-1/2}$ no class does.
#
# ## Weights found by gradient
#
# The shipped design `weights` minimises the spread of the contrast modes over class weights, for sizes 50, 20, 8 and
# 3. It is not given $n_c^{-1/2}$, with which its result is compared.

# %%
outcome = uj.design(uj.DesignPlan.read("weights"))
print(outcome)

# %% [markdown]
# ## Check
#
# The next cell compares simulated with exact runs, and the rate at which rank is lost with $\hat\sigma - \sigma'$ of
# a dense SVD. It checks that modes are equal and the rank is full at exponent ½, and that the design is within 2 % of
# its reference.

# %%
for e, name in exponents.items():
    apart = max(np.max(np.abs(runs[e][what] - truths[e][what])) for what in ("spectrum", "rarest", "log_norm"))
    values, second = singular_values(e), truths[e]["spectrum"][:, 1]
    rate = -np.polyfit(times[-20:], np.log(second[-20:]), 1)[0]
    gap = values[0] - values[1]
    print(f"{name:>13}: simulated − exact {apart:.1e}; rank lost at rate {rate:.5f}, σ̂ − σ′ = {gap:.5f}")
    assert apart < 1e-6
    assert abs(rate - gap) < 0.02 * values[0]
even = singular_values(0.5)
assert np.ptp(even[: C - 1]) < 1e-12 * even[0] and np.sum(truths[0.5]["spectrum"][-1] > 0.05) == C - 1
assert truths[0.0]["rarest"][-1] > 0.99 > truths[0.5]["rarest"][-1]
assert outcome.met
