"""NC0, the sum of the prototypes: what keeps it from vanishing is a decay that a sign does not see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax.typing import ArrayLike

from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import verify
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import from_counts
from unhinged_jax.model import LayerPeeled, State, frozen, regularized
from unhinged_jax.optimizers import Optimizer, spectral_descent
from unhinged_jax.plots.looks import PALETTE, head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS, DIM = (9, 6, 4, 2), 6
GAMMA = 1 / (len(COUNTS) - 1)
RATE, DECAY = 0.02, 0.5
FINE, UPDATES = 0.01, 10_000
COUPLED, DECOUPLED = np.geomspace(3e-3, 3, 25), np.geomspace(0.1, 10, 21)


def settled(slope: npt.ArrayLike, coupled: npt.ArrayLike, decoupled: npt.ArrayLike) -> np.ndarray:
    """Where sign descent with both decays comes to rest, for small rates: -sign(g) min(|g| / coupled, 1 / decoupled).

    An entry W' = -sign(g + coupled W) - decoupled W is pulled to where the sign changes, W = -g / coupled, and stays
    there, unless the decoupled decay stops it before.

    Args:
        slope: The constant gradient g.
        coupled: The decay that is a part of the gradient, as in Adam with an L2 penalty.
        decoupled: The decay beside it, as in AdamW.

    Returns:
        W, of the shape that the arguments have together.

    Source: beyond the paper; Zhao et al., ICLR 2026, for each decay by itself.

    Example:
        >>> settled([0.1, -3.0], coupled=0.5, decoupled=1.0).tolist()
        [-0.2, 1.0]
    """
    g, coupled, decoupled = (np.asarray(x, float) for x in (slope, coupled, decoupled))
    found: np.ndarray = -np.sign(g) * np.minimum(np.abs(g) / coupled, 1 / decoupled)
    return found


def decayed_sign(learning_rate: ArrayLike, weight_decay: ArrayLike) -> optax.GradientTransformation:
    """Sign descent with decoupled decay: Lion without its averages."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(optax.scale_by_sign(), decay, optax.scale_by_learning_rate(learning_rate))


def problem(decay: ArrayLike = 0.0) -> tuple[LayerPeeled, State]:
    """Four unequal classes with noisy labels and frozen features, at the natural gamma, and a start."""
    model = frozen(from_counts(list(COUNTS)).symmetric_noise(0.1), DIM, gamma=GAMMA, decay=decay)
    features = np.random.default_rng(5).standard_normal((model.samples, DIM))
    features += 2 * np.eye(model.classes, DIM)[np.asarray(model.labels.index)]
    start = np.random.default_rng(6).standard_normal((model.classes, DIM))
    return model, State(features, start)


def _ways() -> dict[str, tuple[LayerPeeled, Descent]]:
    """Four ways to train the prototypes with a decay of the same strength."""
    free, coupled = problem()[0], problem(DECAY)[0]
    adamw = Optimizer(optax.adamw, learning_rate=RATE, weight_decay=DECAY)
    spectral = Optimizer(spectral_descent, learning_rate=RATE, weight_decay=DECAY)
    return {
        "descent": (coupled, Descent(RATE)),
        "sign": (coupled, Descent(optimizer=Optimizer(optax.sign_sgd, learning_rate=RATE))),
        "adamw": (free, Descent(optimizer=adamw)),
        "spectral": (free, Descent(optimizer=spectral)),
    }


def _free_of_labels() -> float:
    """Both parts free, unequal classes, noise: log NC0 against the product of the decays, largest difference."""
    model = regularized(from_counts(list(COUNTS)).symmetric_noise(0.1), DIM, gamma=GAMMA, decay=(0.05, 0.3))
    state, times = model.init(jax.random.key(2), precision="float64"), np.arange(0, 101, 10)
    run = simulate(model, Descent(0.2, rate_W=1.5), state, times, ["log_norm_sum_W"])
    logs = np.asarray(run["log_norm_sum_W"])
    return worst(np.abs(logs - logs[0] - times * np.log1p(-0.2 * 1.5 * 0.3)))


def _phases(slope: np.ndarray) -> tuple[np.ndarray, float]:
    """NC0 over both decays, from runs, (coupled, decoupled); how far prototypes are from `settled`, over the rate."""
    start = np.zeros((len(COUNTS), DIM))

    def end(coupled: jax.Array, decoupled: jax.Array) -> tuple[jax.Array, jax.Array]:
        model, state = problem(coupled)
        dynamics = Descent(optimizer=Optimizer(decayed_sign, learning_rate=FINE, weight_decay=decoupled))
        run = simulate(model, dynamics, state.replace(W=start), [UPDATES], ["nc0"])
        return run["nc0"][0], run.final.W

    ends = jax.jit(jax.vmap(jax.vmap(end, (None, 0)), (0, None)))(jnp.asarray(COUPLED), jnp.asarray(DECOUPLED))
    nc0, W = (np.asarray(part) for part in ends)
    wanted = settled(slope, COUPLED[:, None, None, None], DECOUPLED[:, None, None])
    return nc0, float(np.abs(W - wanted).max() / FINE)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    (model, state), times = problem(), np.arange(0, 1201, 20)
    slope = -np.asarray(model.signal().dense(jnp.float64)).T @ state.H
    curves: dict[str, Any] = {"time": times}
    apart = 0.0
    for name, (trained, dynamics) in _ways().items():
        solve = simulate if name == "sign" else exact
        run = solve(trained, dynamics, state, times, ["norm_sum_W"])
        curves[name] = np.asarray(run["norm_sum_W"])
        if name in ("adamw", "spectral"):
            apart = max(apart, verify(simulate(trained, dynamics, state, [100], ["norm_W"]),
                                      exact(trained, dynamics, state, [100], ["norm_W"])).worst)  # fmt: skip
    adamw = exact(*_ways()["adamw"], state, [10**9], ["norm_sum_W"])["norm_sum_W"][0]
    left = np.linalg.norm(np.sum(slope / (np.abs(slope) + 1e-8), axis=0)) / DECAY
    fallen = curves["spectral"][:31] / curves["spectral"][0] / (1 - RATE * DECAY) ** times[:31]
    nc0, off = _phases(slope)
    steepest = np.abs(slope).max()
    inside = nc0[COUPLED[:, None] > 1.3 * DECOUPLED * steepest]
    checks = (
        Check("log NC0 of descent, both parts free, against the product of the decays", _free_of_labels(), 1e-10),
        Check("NC0 of AdamW after 1e9 updates against ‖Σ g/(|g|+ε)‖/λ, relative", relative(adamw, left), 1e-10),
        Check("exact from simulated prototypes, AdamW and spectral descent", apart, 1e-11),
        Check("NC0 of sign descent with coupled decay, over rate, √p and C",
              worst(curves["sign"][-10:]) / (RATE * DIM**0.5 * len(COUNTS)), 1.0),
        Check("NC0 of spectral descent against (1 − ηλ)^k, relative", worst(np.abs(fallen - 1)), 1e-10),
        Check("prototypes with both decays against −sign g min(|g|/λ_c, 1/λ_d), over the rate", off, 2.0),
        Check("NC0 where λ_c > 1.3 λ_d max|g|, relative to the norms", worst(inside), 0.2),
    )  # fmt: skip
    curves |= {"nc0": nc0, "coupled": COUPLED, "decoupled": DECOUPLED, "steepest": np.array(steepest)}
    return checks, curves


_NAMES = {
    "descent": "descent",
    "sign": "sign descent, coupled decay",
    "adamw": "AdamW",
    "spectral": "spectral descent, decoupled",
}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for place, (name, label) in enumerate(_NAMES.items()):
        dashed = {"ls": (0, (3, 3)), "lw": 2.5} if name == "spectral" else {}
        left.plot(curves["time"], curves[name], color=PALETTE[place], label=label, **dashed)
    left.set(xlabel="updates", ylabel="norm of the sum of the prototypes", yscale="log")
    head(left, "Sum of the prototypes", "descent and spectral descent coincide")
    key_under(left)
    shown = curves["decoupled"], curves["coupled"], curves["nc0"]
    drawn = right.pcolormesh(*shown, vmin=0, shading="nearest", rasterized=True)
    right.plot(curves["decoupled"], curves["decoupled"] * curves["steepest"], **{**THRESHOLD, "color": "w", "lw": 1.5})
    right.set_ylim(curves["coupled"][0], curves["coupled"][-1])
    logarithmic(right, r"decoupled decay $\lambda_d$", r"coupled decay $\lambda_c$", both=True)
    figure.colorbar(drawn, ax=right, label="NC0: norm of the sum over sum of norms")
    head(right, "Sign descent with both decays", "above the line NC0 vanishes")


THEORY = Theory(
    name="nc0",
    title="NC0: coupled against decoupled decay",
    loss="unhinged",
    case="frozen features; unconstrained for descent",
    predicted=(
        "at `γ = 1/(C−1)` descent has `Σ w_c ∝ (1 − ηλ₂)^k`, whatever the labels; AdamW ends at "
        "`‖Σ sign(g_c)‖/λ > 0`; with both decays each entry of sign descent ends at `−sign(g) min(|g|/λ_c, 1/λ_d)`"
    ),
    assumptions="none for descent; constant gradient, small rates for sign descent",
    references=("zhao2026optimizer", "zhou2023unhinged", "carlson2015preconditioned"),
    libraries=("deepmind2020jax",),
    account=(
        "Collapse needs prototypes that add up to 0, which Zhao et al. call NC0 and which they prove for SGD and for "
        "sign descent, by the kind of decay. At `γ = 1/(C−1)` the rows of the signal matrix add up to 0, so "
        "prototypes feel only their decay in the sum, with any counts and any noise. A sign does not keep a sum at 0: "
        "AdamW tends to `−g/((|g|+ε)λ)`, entry by entry, whose sum stays. A decay inside the gradient moves the "
        "zero of the sign to `−g/λ_c`, where the sum vanishes up to the rate. Here features are frozen, so the "
        "gradient is constant, and AdamW is exact at any number of updates. With both decays there is a phase "
        "diagram: all entries come to rest where the sign changes if and only if `λ_c ≥ λ_d max|g|`, and none does "
        "below `λ_d min|g|`. It is the sign that breaks the sum and not the decoupled decay: the polar factor of "
        "`g` has the left null vector of `g`, so spectral descent (Carlson et al.; Muon) with decoupled decay loses "
        "NC0 as descent does."
    ),
    caption=(
        "Left: the sum of the prototypes under four optimisers. Right: NC0 at the end of sign descent, over both "
        "decays, from simulated runs; above the dotted line, `λ_c = λ_d max|g|`, all entries come to rest at `−g/λ_c`."
    ),
    compute=_compute,
    draw=_draw,
    size=(8.0, 4.8),
)
"""The theory."""
