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
# # Label noise
#
# The binary unhinged loss was made for noisy labels. You will see the effect of symmetric noise on the dynamics,
# which slows the class contrasts and leaves the common mean unchanged. You will also see how much noise a trade-off
# $\gamma$ tolerates, and why free features memorise noise that was drawn once, while frozen features average it out.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, gamma_colours, style

# %% [markdown]
# ## The mathematics
#
# With probability $\rho$ a label becomes any of the other $C-1$. In expectation over the noise the signal matrix of
# balanced classes keeps its singular vectors, and
#
# $$\sigma_1 \;\to\; \Big(1 - \frac{\rho\,C}{C-1}\Big)\frac{1+\gamma}{C\sqrt N}, \qquad
#   \sigma_2 = \frac{1+\gamma-\gamma C}{C\sqrt N} \;\text{ unchanged.}$$
#
# The limit is therefore that of clean labels, but it is reached later, as long as contrasts still win:
#
# $$\rho < \rho^* = \frac{C-1}{C}\Big(1 - \frac{|1+\gamma-\gamma C|}{1+\gamma}\Big) .$$
#
# Only at $\gamma = 1/(C-1)$ is this bound $(C-1)/C$, where labels carry no information; beyond it contrasts change
# their sign. At any other $\gamma$ all classes align with their common mean beyond $\rho^*$.

# %%
C, N, p = 8, 40, 16
labels = uj.balanced(classes=C, per_class=N)
gammas = {"0.6/(C−1)": 0.6 / (C - 1), "1/(C−1)": 1 / (C - 1), "1.5/(C−1)": 1.5 / (C - 1)}
unit = 1 / (C * np.sqrt(N))
flow, late = uj.Flow(rtol=1e-10), 2500.0


def critical(gamma):
    """ρ*."""
    return (C - 1) / C * (1 - abs(1 + gamma - gamma * C) / (1 + gamma))


rates = np.linspace(0, 0.96, 41)
state = uj.unconstrained(labels, dim=p).init(jax.random.key(5), precision="float64")
exponents, accuracy = {}, {}
for name, gamma in gammas.items():
    noisy = [uj.unconstrained(labels.symmetric_noise(rho), dim=p, gamma=gamma) for rho in rates]
    exponents[name] = np.array([float(uj.limit(model, flow, state).exponent) for model in noisy])
    accuracy[name] = np.array([uj.exact(model, flow, state, [late], "accuracy")["accuracy"][0] for model in noisy])

# %%
with style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.9))
    colours = gamma_colours(list(gammas.values()), C)
    for colour, marker, (name, gamma) in zip(colours, "osD", gammas.items(), strict=True):
        theory = np.maximum(np.abs(1 - rates * C / (C - 1)) * (1 + gamma), abs(1 + gamma - gamma * C)) * unit
        left.plot(rates, theory, color=colour, lw=1.2)
        left.plot(rates, exponents[name], marker, color=colour, ms=3.5, label=f"γ = {name}")
        right.plot(rates, accuracy[name], marker, color=colour, ms=3.5)
        right.axvline(critical(gamma), color=colour, ls=":", lw=1.4)
    left.set(title="Growth of log ‖Z‖", xlabel="noise rate ρ", ylabel="exponent",
             ylim=(0, None))  # fmt: skip
    right.set(title=f"Accuracy on clean labels at time {late:.0f}", xlabel="noise rate ρ",
              ylabel="share of samples", ylim=(0, 1.03))  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  title="left: marks `limit`, lines max(|σ₁|, |σ₂|); right: dotted ρ*")  # fmt: skip
    plt.show()

# %% [markdown]
# ## Noise that is drawn once
#
# A data set has one noisy label per sample. Free features follow it: a flipped sample joins the class of its label,
# and accuracy on the clean labels falls to $1-\rho$. Frozen features (here class means plus spread) cannot
# distinguish flipped samples; the prototypes $W = W_0 + \tau M^\top H$ average the noise, and accuracy stays.

# %%
drawn_rates, seeds = np.linspace(0, 0.85, 10), 5
centres = np.random.default_rng(1).standard_normal((C, p))
spread = np.random.default_rng(2).standard_normal((C * N, p))
clusters = np.repeat(centres, N, axis=0) + 0.5 * spread
found = np.zeros((2, len(drawn_rates), seeds))
for i, rho in enumerate(drawn_rates):
    for seed in range(seeds):
        seen = labels.symmetric_noise(rho, jax.random.key(100 + seed))
        for kind, build in enumerate((uj.unconstrained, uj.frozen)):
            start = state if kind == 0 else state.replace(H=clusters)
            run = uj.exact(build(seen, dim=p), flow, start, [500.0], "accuracy")
            found[kind, i, seed] = run["accuracy"][0]

with style():
    figure, axes = plt.subplots(figsize=(5.6, 3.8))
    for kind, name in enumerate(("free features", "frozen features")):
        colour, marker = PALETTE[kind], "os"[kind]
        axes.plot(drawn_rates, np.median(found[kind], axis=1), color=colour, marker=marker, ms=4, label=name)
        axes.fill_between(drawn_rates, found[kind].min(axis=1), found[kind].max(axis=1), color=colour, alpha=0.2, lw=0)
    axes.plot(drawn_rates, 1 - drawn_rates, color="0.3", ls=":", label="1 − ρ")
    axes.axvline((C - 1) / C, color="0.3", lw=0.8, ls="--")
    axes.annotate("(C−1)/C", ((C - 1) / C, 0.6), rotation=90, ha="right", fontsize=8)
    axes.set(title="Drawn noise: median and range of 5 draws", xlabel="noise rate ρ", ylabel="accuracy on clean labels",
             ylim=(0, 1.03))  # fmt: skip
    axes.legend(loc="lower left")
    plt.show()

# %% [markdown]
# ## Check
#
# The next cell compares exponents and boundary with the formulas, simulated with exact runs for expected and for
# drawn noise, and the frozen prototypes with $W_0 + \tau M^\top H$ in NumPy, with labels counted by hand.

# %%
for name, gamma in gammas.items():
    theory = np.maximum(np.abs(1 - rates * C / (C - 1)) * (1 + gamma), abs(1 + gamma - gamma * C)) * unit
    assert np.allclose(exponents[name], theory, atol=1e-9)
    below, above = rates < critical(gamma) - 0.1, rates > critical(gamma) + 0.05
    assert np.all(accuracy[name][below] == 1.0), name
    assert np.all(accuracy[name][above] <= 2 / C), name

drawn = labels.symmetric_noise(0.4, jax.random.key(7))
for kind, noisy in (("expected", labels.symmetric_noise(0.4)), ("drawn", drawn)):
    model = uj.unconstrained(noisy, dim=p)
    solved = [solve(model, flow, state, [50.0, 500.0], ["log_norm", "accuracy"]) for solve in
              (uj.simulate, uj.exact)]  # fmt: skip
    print(f"{kind} noise, simulated against exact: {uj.verify(*solved).worst:.1e}")
    assert uj.verify(*solved).worst < 1e-6

Y, gamma, tau = np.asarray(drawn.probabilities(), float), 1 / (C - 1), 500.0
M = ((1 + gamma) * Y - gamma) / (C * N)
final = uj.exact(uj.frozen(drawn, dim=p), flow, state.replace(H=clusters), [tau], ()).final
expected = state.W + tau * M.T @ clusters
assert np.linalg.norm(final.W - expected) < 1e-6 * np.linalg.norm(expected)
print(f"flipped: {np.mean(np.argmax(Y, axis=1) != np.asarray(labels.index)):.3f} of the samples at ρ = 0.4")
