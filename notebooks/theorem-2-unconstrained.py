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
# # Theorem 2 and Corollary 3: free features, free prototypes
#
# If features $H$ and prototypes $W$ are free variables, the loss is linear in the logits, and nothing decays, then
# the whole training run has a closed form. You will see simulation and closed form on top of each other, the
# direction that training takes, how fast it converges, and how the bias evolves.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, gamma_colours, style

# %% [markdown]
# ## The mathematics
#
# With rows as samples and classes, logits $S = HW^\top$ and $n = CN$ samples in $C$ balanced classes, the unhinged
# loss is $-\langle M, S\rangle$ with a constant signal matrix
#
# $$M_{ic} = \tfrac1n\big((1+\gamma)\,Y_{ic} - \gamma\big), \qquad H' = \eta\,MW, \quad W' = \eta\,M^\top H .$$
#
# $M$ has two distinct singular values (the second one is written with the sign of its coupling):
#
# $$\sigma_1 = \frac{1+\gamma}{C\sqrt N} \;\text{ (class contrasts, } C-1 \text{ times)}, \qquad
#   \sigma_2 = \frac{1+\gamma-\gamma C}{C\sqrt N} \;\text{ (common mean, once)} .$$
#
# Let $\tau = \int_0^t \eta$, let $G$ hold $\sqrt N$ times the class means of the features, and let $P_1$, $P_2$
# project classes on contrasts and on the common mean. **Theorem 2**:
#
# $$W(\tau) = \sum_j P_j\,[\cosh(\sigma_j\tau)\,W_0 + \sinh(\sigma_j\tau)\,G_0], \qquad
#   G(\tau) = \sum_j P_j\,[\cosh(\sigma_j\tau)\,G_0 + \sinh(\sigma_j\tau)\,W_0],$$
#
# while deviations from the class means do not change.

# %%
C, N, p = 10, 5, 16
labels = uj.balanced(classes=C, per_class=N)
gammas = {"0.3/(C−1)": 0.3 / (C - 1), "1/(C−1)": 1 / (C - 1), "1.8/(C−1)": 1.8 / (C - 1), "3/(C−1)": 3 / (C - 1)}
models = {name: uj.unconstrained(labels, dim=p, gamma=gamma) for name, gamma in gammas.items()}
state = models["1/(C−1)"].init(jax.random.key(1), precision="float64")
flow = uj.Flow(rtol=1e-10)
times = np.linspace(0, 450, 181)
observe = ["log_distance", "log_norm", "accuracy"]

runs = {name: uj.simulate(model, flow, state, times, observe) for name, model in models.items()}
truths = {name: uj.exact(model, flow, state, times, observe) for name, model in models.items()}
print(runs["1/(C−1)"])

# %% [markdown]
# ## Theorem 2, written out
#
# The library evaluates the closed form on the singular modes of any signal matrix. Here it is again in plain NumPy,
# for balanced classes; `exact` must agree with it up to rounding.


# %%
def theorem_2(H0, W0, gamma, tau):
    """H and W at time tau, by the formula above."""
    mean = lambda X: np.broadcast_to(X.mean(axis=0), X.shape)  # noqa: E731
    means = np.sqrt(N) * H0.reshape(C, N, p).mean(axis=1)
    within = H0 - np.repeat(means, N, axis=0) / np.sqrt(N)
    sigma = np.array([1 + gamma, 1 + gamma - gamma * C]) / (C * np.sqrt(N))
    parts = list(zip(sigma, (lambda X: X - mean(X), mean), strict=True))
    W = sum(P(np.cosh(s * tau) * W0 + np.sinh(s * tau) * means) for s, P in parts)
    G = sum(P(np.cosh(s * tau) * means + np.sinh(s * tau) * W0) for s, P in parts)
    return within + np.repeat(G, N, axis=0) / np.sqrt(N), W


worst = 0.0
for name, model in models.items():
    states = uj.exact(model, flow, state, [1.0, 30.0, 200.0], (), states=True).states
    for k, tau in enumerate([1.0, 30.0, 200.0]):
        H, W = theorem_2(state.H, state.W, gammas[name], tau)
        scale = np.exp(states.log_scale[k])
        worst = max(worst, np.linalg.norm(scale * states.H[k] - H) / np.linalg.norm(H),
                    np.linalg.norm(scale * states.W[k] - W) / np.linalg.norm(W))  # fmt: skip
print(f"exact against the eight lines above: {worst:.1e}")
assert worst < 1e-12

# %% [markdown]
# ## Corollary 3: where it goes, and how fast
#
# For $0 < \gamma < 2/(C-2)$ contrasts win. The direction $Z/\lVert Z\rVert$ of $Z = (H, W)$ tends to that of
# $\Pi_1^+Z_0$, the part of the start in which contrasts of prototypes and of class means agree, and its error decays
# like $e^{-\omega\tau}$ with
#
# $$\omega = \frac{\min(\gamma C,\; 2 + 2\gamma - \gamma C)}{C\sqrt N},$$
#
# which is largest at $\gamma = 1/(C-1)$ and has a kink there. For $\gamma > 2/(C-2)$ the common mean wins: all
# prototypes align with one another and accuracy falls to chance. The figure shows the distance to the direction that
# wins.

# %%
grid = np.linspace(0.02, 0.4, 20)
late = np.linspace(0, 2400, 33)  # fitted over the last quarter
fitted = []
for gamma in grid:
    model = models["1/(C−1)"].replace(gamma=gamma)
    run = uj.exact(model, flow, state, late, "log_distance")
    fitted.append(uj.verify(run, run).rate)
fine = np.linspace(0, 0.42, 400)
rate = np.abs((1 + fine) - np.abs(1 + fine - fine * C)) / (C * np.sqrt(N))

with style():
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8, 3.7))
    colours = gamma_colours([model.loss.gamma for model in models.values()], C)
    for colour, name in zip(colours, models, strict=True):
        left.plot(times, truths[name]["log_distance"] / np.log(10), color=colour, lw=4, alpha=0.4)
        left.plot(times, runs[name]["log_distance"] / np.log(10), color=colour, lw=1.2, ls="--", label=f"γ = {name}")
        middle.plot(times, truths[name]["accuracy"], color=colour, lw=4, alpha=0.4)
        middle.plot(times, runs[name]["accuracy"], color=colour, lw=1.2, ls="--")
    left.set(title="Distance to the limit", xlabel="time", ylabel="log₁₀ of the distance")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2,
                  title="bands: exact; dashes: simulated")  # fmt: skip
    middle.axhline(1 / C, color="0.4", lw=0.8, ls=":")
    middle.annotate("chance", (times[-1], 1 / C), ha="right", va="bottom", fontsize=8)
    middle.set(title="Accuracy", xlabel="time", ylabel="share of samples", ylim=(0, 1.03))
    right.plot(fine, rate, color=PALETTE[-1], label="|σ₁ − |σ₂||")
    right.plot(grid, fitted, "o", color=PALETTE[1], ms=4, label="fitted to exact runs")
    right.axvspan(2 / (C - 2), fine[-1], color="0.9")
    right.annotate("the common\nmean wins", (0.335, 0.07), ha="center", fontsize=8)
    right.axvline(1 / (C - 1), color="0.4", lw=0.8, ls=":")
    right.annotate("1/(C−1)", (1 / (C - 1), 0.001), rotation=90, ha="right", va="bottom", fontsize=8)
    right.set(title="Rate ω of convergence", xlabel="trade-off γ", ylabel="per unit of time", ylim=(0, 0.085))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right")
    plt.show()

# %% [markdown]
# ## The bias
#
# A trained bias grows linearly, $b(\tau) = b_0 + \frac{1+\gamma-\gamma C}{C}\,\tau\,\mathbf 1$. The ratio of its
# entries does tend to 1, but only like $1/\tau$, while features and prototypes converge exponentially; at
# $\gamma = 1/(C-1)$ the bias does not move at all. Deviations of features from their class means (the subspace $E_3$)
# keep their size, so their share of the norm dies out at the rate at which the rest grows.

# %%
gamma = 0.5 / (C - 1)
biased = uj.unconstrained(labels, dim=p, gamma=gamma, bias=True)
b0 = np.linspace(1.0, 2.0, C)
start = state.replace(b=b0)
shares = ["energy_1_plus", "energy_1_minus", "energy_2_plus", "energy_2_minus", "energy_3"]
moments = np.linspace(0, 400, 101)
bias_run = uj.simulate(biased, flow, start, moments, [*shares, "bias_ratio"])
bias_truth = uj.exact(biased, flow, start, moments, [*shares, "bias_ratio"])
drift = (1 + gamma - gamma * C) / C
ratio = (b0.max() + drift * moments) / (b0.min() + drift * moments)

with style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4))
    names = ["E₁⁺: contrasts, agreeing", "E₁⁻: contrasts, opposed", "E₂⁺: mean, agreeing", "E₂⁻: mean, opposed",
             "E₃: within classes"]  # fmt: skip
    for colour, share, name in zip(PALETTE, shares, names, strict=False):
        left.semilogy(moments, bias_truth[share], color=colour, lw=4, alpha=0.4)
        left.semilogy(moments, bias_run[share], color=colour, lw=1.2, ls="--", label=name)
    left.set(title="Shares of ‖Z‖² (γ = 0.5/(C−1))", xlabel="time", ylabel="share", ylim=(1e-14, 3))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    right.loglog(moments[1:], bias_truth["bias_ratio"][1:] - 1, color=PALETTE[0], lw=4, alpha=0.4, label="exact")
    right.loglog(moments[1:], bias_run["bias_ratio"][1:] - 1, color=PALETTE[0], lw=1.2, ls="--", label="simulated")
    right.loglog(moments[1:], ratio[1:] - 1, ".", color=PALETTE[1], ms=4, label="formula")
    right.set(title="max b / min b − 1: a power of time", xlabel="time", ylabel="ratio − 1")
    right.legend()
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares simulated with exact runs, fitted rates with Corollary 3, and the bias with its formula.

# %%
comparisons = {name: uj.verify(runs[name], truths[name]) for name in models}
for name, comparison in comparisons.items():
    predicted = float(uj.limit(models[name], flow, state).rate)
    print(f"γ = {name:>9}: worst {comparison.worst:.1e}, rate fitted {comparison.rate:.6f}, predicted {predicted:.6f}")
assert all(comparison.worst < 1e-7 for comparison in comparisons.values())

predicted = np.abs((1 + grid) - np.abs(1 + grid - grid * C)) / (C * np.sqrt(N))
assert np.allclose(fitted, predicted, rtol=1e-3), np.max(np.abs(fitted / predicted - 1))
assert all(np.allclose(bias_run[name], bias_truth[name], rtol=1e-7, atol=1e-9) for name in [*shares, "bias_ratio"])
assert np.allclose(bias_truth["bias_ratio"], ratio, rtol=1e-12)
