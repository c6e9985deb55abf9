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
# # Theorem 8: features of a network with a constant tangent kernel
#
# Features that come from a network cannot move freely: a step on one sample moves the others, by the neural tangent
# kernel $\Theta$. As long as the kernel does not change, training has a closed form. You will see it predict the
# training of real networks: exactly if the kernel is constant, and otherwise better for wider networks.

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
# With a positive semi-definite kernel $\Theta$ between samples, $H' = \eta\,\Theta MW$ and $W' = \eta\,M^\top H$. Only
# the small matrix $G = M^\top\Theta M$, of size $C \times C$, matters:
#
# $$W(\tau) = \cosh(\sqrt G\,\tau)\,W_0 + \tau\,\mathrm{sinhc}(\sqrt G\,\tau)\,M^\top H_0,$$
# $$H(\tau) = H_0 + \Theta M\Big[\tau\,\mathrm{sinhc}(\sqrt G\,\tau)\,W_0
#   + \tfrac{\tau^2}{2}\,\mathrm{sinhc}^2\big(\tfrac12\sqrt G\,\tau\big)\,M^\top H_0\Big],
#   \qquad \mathrm{sinhc}(x) = \frac{\sinh x}{x} .$$
#
# $\Theta$ may be singular. This is the statement with matching dimensions; in Theorem 8 as printed, those of the
# Kronecker factors do not match.
#
# ## A network with a constant kernel
#
# This network has random features $\Phi = \mathrm{ReLU}(XB)$ and a trained layer, $H = \Phi A$. Its kernel
# $\Phi\Phi^\top$ does not depend on $A$, so the prediction for its training is exact. The network is trained below on
# its *parameters* $(A, W)$ by automatic differentiation of the unhinged loss; the library uses only $\Phi$, a factor
# of $\Theta$.

# %%
C, N, p, inputs, hidden = 5, 8, 6, 12, 30
labels = uj.balanced(classes=C, per_class=N)
rng = np.random.default_rng(0)
centres = rng.standard_normal((C, inputs))
X = centres[np.asarray(labels.index)] + 0.6 * rng.standard_normal((C * N, inputs))
Phi = np.maximum(X @ rng.standard_normal((inputs, hidden)) / np.sqrt(inputs), 0) * np.sqrt(2 / hidden)
A0, W0 = rng.standard_normal((hidden, p)), rng.standard_normal((C, p))

model = uj.ntk_invariant(labels, dim=p, kernel=Phi)
state = model.init(jax.random.key(0), features=Phi @ A0, prototypes=W0, precision="float64")
eta, updates = 0.5, uj.steps(200, 51)


def train(features, parameters, W, eta, updates):
    """(H, W) of a network after each of `updates`, trained by plain gradient descent on the unhinged loss."""

    def objective(parameters, W):
        return jnp.mean(uj.losses.unhinged(features(parameters) @ W.T, jnp.asarray(labels.index)))

    def step(carry, _):
        slopes = jax.grad(objective, argnums=(0, 1))(*carry)
        carry = jax.tree.map(lambda x, slope: x - eta * slope, carry, slopes)
        return carry, (features(carry[0]), carry[1])

    _, (H, W_path) = jax.lax.scan(step, (parameters, W), length=int(updates[-1]))
    start = (features(parameters), W)
    return tuple(np.concatenate([first[None], path])[updates] for first, path in zip(start, (H, W_path), strict=True))


with jax.enable_x64(True):
    H_network, W_network = train(lambda A: jnp.asarray(Phi) @ A, jnp.asarray(A0), jnp.asarray(W0), eta, updates)
observe = ["accuracy", "log_norm", "log_distance"]
simulated = uj.simulate(model, uj.Descent(eta), state, updates, observe, states=True)
predicted = uj.exact(model, uj.Descent(eta), state, updates, observe, states=True)
accuracy_network = np.mean(
    np.argmax(np.einsum("tip,tcp->tic", H_network, W_network), axis=2) == np.asarray(labels.index), axis=1
)

# %% [markdown]
# ## Networks whose kernel moves
#
# This network has one hidden layer in NTK parametrisation, and *both* layers are trained. The kernel at the start,
# between feature coordinates, predicts training up to an error that falls with the width $m$, here faster than
# $m^{-1/2}$.


# %%
def network(parameters):
    hidden_layer, last = parameters
    hidden = jax.nn.relu(jnp.asarray(X) @ hidden_layer / jnp.sqrt(inputs))
    return jnp.sqrt(2 / hidden_layer.shape[1]) * hidden @ last


def prediction_error(width, seed):
    """Relative error of the predicted features over training, and the features' own change."""
    draw = np.random.default_rng(seed)
    parameters = (draw.standard_normal((inputs, width)), draw.standard_normal((width, p)))
    W = draw.standard_normal((C, p))
    with jax.enable_x64(True):
        parameters = jax.tree.map(jnp.asarray, parameters)
        H0 = np.asarray(network(parameters))
        J = jax.jacrev(network)(parameters)
        J = np.concatenate([np.asarray(part).reshape(H0.size, -1) for part in J], axis=1)
        real, _ = train(network, parameters, jnp.asarray(W), 0.02, np.array([0, 100]))
    frozen = uj.ntk_invariant(labels, dim=p, kernel=J @ J.T)
    start = frozen.init(jax.random.key(0), features=H0, prototypes=W, precision="float64")
    H = uj.exact(frozen, uj.Descent(0.02), start, [100], ()).final.H
    return np.linalg.norm(H - real[-1]) / np.linalg.norm(real[-1]), np.linalg.norm(real[-1] - H0) / np.linalg.norm(H0)


widths = [16, 64, 256, 1024]
found = np.array([[prediction_error(width, seed) for seed in range(3)] for width in widths])
errors, moved = np.median(found[:, :, 0], axis=1), np.median(found[:, :, 1], axis=1)

# %%
with style():
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8, 3.5))
    left.plot(updates, predicted["accuracy"], color=PALETTE[0], lw=4, alpha=0.4, label="exact")
    left.plot(updates, simulated["accuracy"], color=PALETTE[0], lw=1.2, ls="--", label="simulated")
    left.plot(updates, accuracy_network, ".", color=PALETTE[1], ms=5, label="the network itself")
    left.set(title="Constant kernel: accuracy", xlabel="update", ylabel="share of samples", ylim=(0, 1.03))
    size = np.log10(np.hypot(np.linalg.norm(H_network, axis=(1, 2)), np.linalg.norm(W_network, axis=(1, 2))))
    middle.plot(updates, predicted["log_norm"] / np.log(10), color=PALETTE[0], lw=4, alpha=0.4, label="exact")
    middle.plot(updates, simulated["log_norm"] / np.log(10), color=PALETTE[0], lw=1.2, ls="--", label="simulated")
    middle.plot(updates, size, ".", color=PALETTE[1], ms=5, label="the network itself")
    middle.set(title="Constant kernel: size", xlabel="update", ylabel="log₁₀ ‖(H, W)‖")
    slope, level = np.polyfit(np.log(widths), np.log(errors), 1)
    right.loglog(widths, errors, "o", color=PALETTE[2], label="error of the prediction")
    right.loglog(widths, np.exp(level) * np.array(widths) ** slope, color=PALETTE[2], lw=1,
                 label=f"fitted slope {slope:.2f}".replace("-", "−"))  # fmt: skip
    right.loglog(widths, moved, color=PALETTE[3], marker="s", label="how far features moved")
    right.set(title="Moving kernel: width", xlabel="width m", ylabel="relative to ‖H‖")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right")
    plt.show()

# %% [markdown]
# Such a kernel has one largest mode, which everything follows in the long run, so accuracy falls after a peak.
# Features move by about the same amount at every width; only the part that the initial kernel does not explain
# shrinks.
#
# ## Check
#
# The next cell compares the network with `exact`, simulated with exact runs, and the flow with the formula above,
# with $\sqrt G$ from `numpy.linalg.eigh`.

# %%
scale = np.exp(predicted.states.log_scale)[:, None, None]
for name, real, ours in (("H", H_network, predicted.states.H), ("W", W_network, predicted.states.W)):
    error = np.max(np.linalg.norm(scale * ours - real, axis=(1, 2)) / np.linalg.norm(real, axis=(1, 2)))
    print(f"{name} of the network against exact: {error:.1e}")
    assert error < 1e-11
print(uj.verify(simulated, predicted))
assert uj.verify(simulated, predicted).worst < 1e-8

with jax.enable_x64(True):
    M = np.asarray(model.signal().dense("float64"))
Theta, tau = Phi @ Phi.T, 20.0
g, U = np.linalg.eigh(M.T @ Theta @ M)
root = np.sqrt(np.maximum(g, 0))
sinhc = lambda x: np.where(x > 1e-8, np.sinh(x) / np.where(x > 1e-8, x, 1), 1.0)  # noqa: E731
of_G = lambda values: U @ np.diag(values) @ U.T  # noqa: E731
W = of_G(np.cosh(root * tau)) @ W0 + tau * of_G(sinhc(root * tau)) @ M.T @ state.H
inner = tau * of_G(sinhc(root * tau)) @ W0 + tau**2 / 2 * of_G(sinhc(root * tau / 2) ** 2) @ M.T @ state.H
H = state.H + Theta @ M @ inner
final = uj.exact(model, uj.Flow(), state, [tau], ()).final
assert np.linalg.norm(final.W - W) < 1e-9 * np.linalg.norm(W)
assert np.linalg.norm(final.H - H) < 1e-9 * np.linalg.norm(H)
assert errors[-1] < errors[0] / 4
print("flow against the formula: agreed")
