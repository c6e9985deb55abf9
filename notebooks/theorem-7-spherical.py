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
# # Theorem 7: features on the sphere
#
# With normalised features, each feature moves on the great circle through its start and its target. You will see this
# in three dimensions, the law of the angle, the growth of lengths, the effect of rescaling the rate by the feature
# norm, and a step that is too large although it satisfies the condition as printed.

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
# With $\hat h = h/\lVert h\rVert$ in place of $h$ and fixed prototypes, sample $i$ is pulled by $g_i = (MW)_i$, of
# length $\kappa_i$. Let $\theta$ be the angle between $h$ and $g$, and $\rho = \lVert h\rVert$. Rescaling multiplies
# the gradient of a sample by $\rho^q$; $q = 0$ is the plain rate, and $q = 1$ is the rule that Section 4.3 of the
# paper describes and uses. Without decay the **flow** conserves $\rho$, and
#
# $$\tan\tfrac{\theta(\tau)}2 = \tan\tfrac{\theta_0}2\; e^{-\kappa\rho_0^{\,q-2}\tau} .$$
#
# **Descent** (Eq. 19) has an exact form free of cancellation, with $\alpha_k = \eta_k\kappa\rho_k^{\,q-2}$:
#
# $$\theta_{k+1} = \theta_k - \arctan(\alpha_k\sin\theta_k), \qquad
#   \rho_{k+1} = \rho_k\sqrt{1 + \alpha_k^2\sin^2\theta_k} .$$
#
# Lengths never decrease. The angle decreases monotonically if $\alpha_0 \le 1$, that is
# $\eta_0\kappa \le \rho_0^{\,2-q}$.
#
# ## On the sphere
#
# There are four classes in three dimensions, and the prototypes form a tetrahedron, which is a simplex ETF.

# %%
C, N, p = 4, 12, 3
labels = uj.balanced(classes=C, per_class=N)
model = uj.spherical(labels, dim=p)
state = model.init(jax.random.key(8), precision="float64")
times = np.linspace(0, 400, 81)
flow = uj.Flow(rtol=1e-11)
run = uj.simulate(model, flow, state, times, ["log_distance_H", "accuracy"], states=True)
truth = uj.exact(model, flow, state, times, ["log_distance_H", "accuracy"], states=True)
longer = np.r_[0.0, np.geomspace(1, 3000, 80)]
paths = uj.exact(model, flow, state, longer, ["log_distance_H", "accuracy"], states=True).states.H
paths = paths / np.linalg.norm(paths, axis=2, keepdims=True)

elevation, azimuth = np.radians([18, 35])
toward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
with style():
    figure = plt.figure(figsize=(5.4, 5.2))
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 49), np.linspace(0, np.pi, 25))
    ball = np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)
    axes.plot_wireframe(*ball, color="0.85", lw=0.4, rstride=4, cstride=4, zorder=0)
    for c in range(C):
        for i in np.flatnonzero(np.asarray(labels.index) == c)[:8]:
            front = paths[:, i] @ toward > 0
            for side, alpha in ((front, 1.0), (~front, 0.25)):  # what is behind the sphere is pale
                shown = np.where(side[:, None], paths[:, i], np.nan)
                axes.plot(*shown.T, color=PALETTE[c], lw=1.2, alpha=alpha, zorder=2)
            axes.scatter(*paths[0, i], color=PALETTE[c], s=10, alpha=1.0 if front[0] else 0.3, zorder=3)
        near = state.W[c] @ toward > 0
        axes.scatter(*state.W[c], color=PALETTE[c], marker="*", s=230 if near else 110, edgecolor="k", lw=0.8, zorder=4)
    axes.set_box_aspect((1, 1, 1), zoom=1.5)
    axes.set_axis_off()
    axes.view_init(elev=18, azim=35)
    axes.set_title("Features (dots) on great circles to their prototypes (stars)", y=1.0, fontsize=10)
    plt.show()

# %% [markdown]
# The law of the angle holds for every sample: $\log\tan(\theta/2)$ falls along a straight line, whose slope
# $\kappa/\rho_0^2$ depends on the length at the start. Long features are slow, which is the reason for rescaling the
# rate.

# %%
def angles(paths, targets):
    """Angle of every unit feature to its target, from chords, so that small ones are exact: shape (times, samples)."""
    return 2 * np.arctan2(np.linalg.norm(paths - targets, axis=2), np.linalg.norm(paths + targets, axis=2))


with jax.enable_x64(True):
    pull = np.asarray(model.signal().times(state.W))
kappa = np.linalg.norm(pull, axis=1)
targets = pull / kappa[:, None]
theta = angles(run.states.H / np.linalg.norm(run.states.H, axis=2, keepdims=True), targets)
length = np.linalg.norm(state.H, axis=1)
law = np.log(np.tan(theta[0] / 2)) - np.outer(times, kappa / length**2)

# %% [markdown]
# ## Descent: lengths grow, rates matter, rescaling helps
#
# The figure shows the three rules from the same start, at the same rate. Prototypes have length 1.

# %%
updates = uj.steps(600, 121)
descent = uj.Descent(2.0)
rules = {q: uj.spherical(labels, dim=p, rescale=q) for q in (0, 1, 2)}
stepped = {q: uj.simulate(rule, descent, state, updates, ["log_distance_H", "norm_H"]) for q, rule in rules.items()}
solved = {q: uj.exact(rule, descent, state, updates, ["log_distance_H", "norm_H"]) for q, rule in rules.items()}

with style():
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8, 3.7))
    for colour, i in zip(PALETTE, np.argsort(length)[[0, len(length) // 2, -1]], strict=False):
        left.plot(times, law[:, i], color=colour, lw=4, alpha=0.4)
        left.plot(times, np.log(np.tan(theta[:, i] / 2)), color=colour, lw=1.2, ls="--", label=f"‖h‖ = {length[i]:.2f}")
    left.set(title="Flow: law of the angle", xlabel="time", ylabel="log tan(θ/2)", ylim=(-14, 1.5), xlim=(0, 400))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3,
                  title="left; bands: law; dashes: simulated")  # fmt: skip
    for colour, q in zip(PALETTE, rules, strict=False):
        for axes, name, scale in ((middle, "log_distance_H", np.log(10)), (right, "norm_H", 1.0)):
            axes.plot(updates, solved[q][name] / scale, color=colour, lw=4, alpha=0.4)
            axes.plot(updates, stepped[q][name] / scale, color=colour, lw=1.2, ls="--", label=f"q = {q}")
    middle.set(title="Descent: distance", xlabel="update", ylabel="log₁₀ distance")
    right.set(title="Descent: ‖H‖ grows", xlabel="update", ylabel="‖H‖")
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower right", title="rate × ‖h‖^q", ncols=3)
    plt.show()

# %% [markdown]
# ## The condition on the step
#
# The paper asks for $k_0/\lVert h_0\rVert \le 1/\lVert w\rVert$, with $k = \eta(1+\gamma)/(CN)$. The length has to be
# squared: $\alpha_0 = k_0\lVert w\rVert/\lVert h_0\rVert^2 \le 1$. The smallest example has $\lVert w\rVert = 1$,
# $\lVert h_0\rVert = 0.1$ and $k = 0.09$, which satisfies the printed condition, but the cosine of the angle falls
# from 0.9 to 0.645. (With rescaling by $q = 2$ the condition $k\lVert w\rVert \le 1$ is exact, whatever the lengths.)
# Afterwards lengths have grown, $\alpha$ has fallen, and the run converges nevertheless.

# %%
pair = uj.spherical(uj.balanced(classes=2, per_class=1), dim=2, gamma=0.0)
sine = np.sqrt(1 - 0.9**2)
small = pair.init(
    jax.random.key(0), precision="float64",
    features=0.1 * np.array([[0.9, sine], [-0.9, -sine]]), prototypes=np.array([[1.0, 0.0], [-1.0, 0.0]]),
)  # fmt: skip


def cosine(model, state):
    """Cosine between the first feature and its prototype."""
    return state.H[0, 0] / jnp.linalg.norm(state.H[0])


overshoot = uj.simulate(pair, uj.Descent(2 * 0.09), small, np.arange(30), {"cosine": cosine})["cosine"]
print("cosine:", np.round(overshoot[:6], 4))

# %% [markdown]
# ## Check
#
# The next cell compares simulated with exact runs, including states. It checks the law of the angle for all samples,
# and follows the recursion of the angle in NumPy through all updates.

# %%
comparison = uj.verify(run, truth)
print(comparison)
assert comparison.errors["H"] < 1e-8
assert np.allclose(theta, 2 * np.arctan(np.exp(law)), rtol=1e-6, atol=1e-9)
for q in rules:
    print(f"q = {q}: worst {uj.verify(stepped[q], solved[q]).worst:.1e}")
    assert uj.verify(stepped[q], solved[q]).worst < 1e-9

    angle, rho = theta[0].copy(), length.copy()
    for _ in range(updates[-1]):
        alpha = 2.0 * kappa * rho ** (q - 2.0)
        angle, rho = angle - np.arctan(alpha * np.sin(angle)), rho * np.sqrt(1 + (alpha * np.sin(angle)) ** 2)
    distance = np.log(np.linalg.norm(2 * np.sin(angle / 2)))
    assert abs(distance - solved[q]["log_distance_H"][-1]) < 1e-9
    assert np.isclose(np.linalg.norm(rho), solved[q]["norm_H"][-1], rtol=1e-12)
assert np.allclose(overshoot[:2], [0.9, 0.6447], atol=1e-4)
assert overshoot[-1] > 1 - 1e-6
