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
# # Theorem 4 and Corollary 5: weight decay
#
# With weight decay on features and prototypes the flow is still linear. You will see that decay determines the size:
# there is one critical decay, below which norms grow forever and above which they vanish. If both parts decay alike,
# decay affects neither the direction nor the rate of convergence to it. You will also see where the flow comes to
# rest at the critical decay, which depends on the ratio of the two learning rates.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE, style

# %% [markdown]
# ## The mathematics
#
# With decay $\lambda_1$ on $H$, $\lambda_2$ on $W$ and rates $r_1\eta$, $r_2\eta$,
#
# $$H' = r_1\eta\,(MW - \lambda_1 H), \qquad W' = r_2\eta\,(M^\top H - \lambda_2 W).$$
#
# On a singular mode $\sigma$ of $M = V\Sigma U^\top$ the pair $(f, a) = (V^\top H, U^\top W)$ evolves separately,
# with $\tau = \int_0^t \eta$:
#
# $$\frac{d}{d\tau}\begin{pmatrix} f\\ a\end{pmatrix} = K\begin{pmatrix} f\\ a\end{pmatrix}, \quad
#   K = \begin{pmatrix} -r_1\lambda_1 & r_1\sigma\\ r_2\sigma & -r_2\lambda_2\end{pmatrix}, \qquad
#   e^{K\tau} = e^{m\tau}\Big[\cosh(d\tau)\,I + \frac{\sinh(d\tau)}{d}\,(K - mI)\Big]$$
#
# with $m = -\tfrac12(r_1\lambda_1 + r_2\lambda_2)$ and
# $d = \sqrt{\tfrac14(r_1\lambda_1 - r_2\lambda_2)^2 + r_1r_2\sigma^2}$. **Corollary 5**: norms grow, stay or shrink as
# $\sigma_1^2 >, =, < \lambda_1\lambda_2$, as long as contrasts win. For $\lambda_1 = \lambda_2 = \lambda$ that is the
# critical decay
#
# $$\lambda^* = \frac{1+\gamma}{C\sqrt N}.$$

# %%
C, N, p = 10, 5, 16
gamma = 0.5 / (C - 1)
critical = (1 + gamma) / (C * np.sqrt(N))
labels = uj.balanced(classes=C, per_class=N)
base = uj.regularized(labels, dim=p, gamma=gamma, decay=critical)
state = base.init(jax.random.key(4), precision="float64")
flow = uj.Flow(rtol=1e-10)
times = np.linspace(0, 400, 161)
observe = ["log_norm", "log_distance", "accuracy"]

factors = [0.5, 0.9, 1.0, 1.1, 1.5]
runs = {f: uj.simulate(base.replace(decay=f * critical), flow, state, times, observe) for f in factors}
truths = {f: uj.exact(base.replace(decay=f * critical), flow, state, times, observe) for f in factors}
for f in factors:
    print(f"λ = {f} λ*: {uj.limit(base.replace(decay=f * critical), flow, state).side}")

# %%
with style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.9))
    for colour, f in zip(PALETTE, factors, strict=False):
        for axes, name in ((left, "log_norm"), (right, "log_distance")):
            axes.plot(times, truths[f][name] / np.log(10), color=colour, lw=4, alpha=0.4)
            axes.plot(times, runs[f][name] / np.log(10), color=colour, lw=1.2, ls="--", label=f"λ = {f} λ*")
    left.set(title="Size: the decay decides", xlabel="time", ylabel="log₁₀ ‖(H, W)‖")
    right.set(title="Direction: the same for every λ₁ = λ₂", xlabel="time", ylabel="log₁₀ distance to the limit")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5,
                  title="bands: exact; dashes: simulated; on the right all coincide")  # fmt: skip
    plt.show()

# %% [markdown]
# The five curves on the right coincide, because for $r_1 = r_2$ and $\lambda_1 = \lambda_2$ every mode is damped by
# the same factor $e^{-\lambda\tau}$, which cancels in the normalised state.
#
# ## The threshold is a product
#
# With different decays only the product $\lambda_1\lambda_2$ matters. If one part does not decay at all, decay of the
# other part never stops growth.

# %%
pairs = [(4.0, 0.25), (4.0, 0.2), (4.0, 0.3), (50.0, 0.0)]
sides = []
for first, second in pairs:
    found = uj.limit(base.replace(decay=(first * critical, second * critical)), flow, state)
    sides.append(found.side)
    print(f"λ₁ = {first} λ*, λ₂ = {second} λ*: {found.side}, exponent {float(found.exponent):+.2e}")

# %% [markdown]
# ## At rest
#
# At $\lambda_1 = \lambda_2 = \lambda^*$ the flow comes to rest. With $s = r_1/r_2$ and the parts $H_1^\pm$, $W_1^\pm$
# of the start in which contrasts of class means and prototypes agree (+) or are opposed (−),
#
# $$H \to H_1^+ + \frac{1-s}{1+s} H_1^-, \qquad W \to W_1^+ - \frac{1-s}{1+s} W_1^- .$$
#
# Slow features ($s \to 0$) make the limit depend on the start of the features, and slow prototypes ($s \to \infty$)
# on that of the prototypes.

# %%
contrast = lambda X: X - X.mean(axis=0)  # noqa: E731
G = contrast(np.sqrt(N) * state.H.reshape(C, N, p).mean(axis=1))
A = contrast(state.W)
plus, minus = (G + A) / 2, (G - A) / 2  # of H, in units of G; those of W are plus and -minus

ratios = np.geomspace(1e-2, 1e2, 17)
ended, worst_rest = [], 0.0
for s in ratios:
    slow = uj.Flow(rate_H=np.sqrt(s), rate_W=1 / np.sqrt(s))
    final = uj.exact(base, slow, state, [2e4], ()).final
    turn = (1 - s) / (1 + s)
    means = np.sqrt(N) * final.H.reshape(C, N, p).mean(axis=1)
    worst_rest = max(worst_rest, np.linalg.norm(means - (plus + turn * minus)) / np.linalg.norm(plus),
                     np.linalg.norm(final.W - (plus + turn * minus)) / np.linalg.norm(plus))  # fmt: skip
    ended.append([np.linalg.norm(final.W - A) / np.linalg.norm(A), np.linalg.norm(means - G) / np.linalg.norm(G)])
ended = np.array(ended)
print(f"place of rest from the formula, 17 ratios: {worst_rest:.1e}")

with style():
    figure, axes = plt.subplots(figsize=(5.2, 3.6))
    axes.semilogx(ratios, ended[:, 0], color=PALETTE[0], marker="o", ms=4, label="W from where its contrasts started")
    axes.semilogx(ratios, ended[:, 1], color=PALETTE[1], marker="s", ms=4, label="class means from where theirs did")
    axes.set(title="Where the flow rests at λ = λ*", xlabel="s = r₁/r₂", ylabel="relative distance", ylim=(0, 2.1))
    axes.legend(loc="upper center")
    plt.show()

# %% [markdown]
# The formulas for $W$ and for the class means give the same matrix, so they are aligned at rest. This self-duality of
# the limit direction holds for every decay, not only the critical one.
#
# ## Check
#
# The next cell compares simulated with exact runs, and exact runs with `scipy.linalg.expm` of the whole, unreduced
# system $Z' = \begin{pmatrix} -\lambda_1 r_1 I & r_1M\\ r_2M^\top & -\lambda_2 r_2I\end{pmatrix} Z$, with unequal
# decays, rates and a cosine schedule.

# %%
for f in factors:
    comparison = uj.verify(runs[f], truths[f])
    print(f"λ = {f} λ*: worst {comparison.worst:.1e}, rate fitted {comparison.rate:.6f}")
    assert comparison.worst < 1e-7
assert [uj.limit(base.replace(decay=f * critical), flow, state).side for f in factors] == [
    "grows", "grows", "stays", "shrinks", "shrinks"]  # fmt: skip
assert sides == ["stays", "grows", "shrinks", "grows"]
assert worst_rest < 1e-10

model = base.replace(decay=(0.03, 0.02))
uneven = uj.Flow(uj.cosine(0.7, horizon=200), rate_H=0.6, rate_W=1.7)
with jax.enable_x64(True):
    M, tau = np.asarray(model.signal().dense("float64")), float(uneven.schedule.integral(150.0))
system = np.block([[-0.6 * 0.03 * np.eye(C * N), 0.6 * M], [1.7 * M.T, -1.7 * 0.02 * np.eye(C)]])
Z = scipy.linalg.expm(system * tau) @ np.vstack([state.H, state.W])
final = uj.exact(model, uneven, state, [150.0], ()).final
error = np.linalg.norm(np.vstack([final.H, final.W]) - Z) / np.linalg.norm(Z)
print(f"exact against expm of the {len(system)} × {len(system)} system: {error:.1e}")
assert error < 1e-11
