"""Sharpness-aware minimisation of a linear loss: a saddle that attracts what is within the radius."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from unhinged_jax import _memory
from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import verify
from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, unconstrained
from unhinged_jax.plots.looks import head
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM, GAMMA = 4, 3, 2, 1 / 7  # singular values 2 : 1, of contrasts and of the common mean
SIGMAS = np.array([1 + GAMMA, 1 + GAMMA - GAMMA * CLASSES]) / (CLASSES * PER_CLASS**0.5)
RADIUS = 0.5
SIZES = (0.5, 0.8, 0.95, 1.05, 1.2)
ANGLES = np.linspace(0, np.pi / 2, 17)
LONG = 60 / SIGMAS[1]


def _model() -> LayerPeeled:
    return unconstrained(balanced(CLASSES, PER_CLASS), DIM, gamma=GAMMA)


def _units() -> tuple[np.ndarray, np.ndarray]:
    """H and W of the two growing eigenvectors of unit length, (2, n, p) and (2, C, p)."""
    contrast, mean = np.array([1.0, -1.0, 0, 0]) / 2**0.5, np.ones(CLASSES) / 2
    W = np.stack([np.outer(contrast, [1.0, 0]), np.outer(mean, [0, 1.0])]) / 2**0.5
    M = ((1 + GAMMA) * np.eye(CLASSES)[np.asarray(_model().labels.index)] - GAMMA) / (CLASSES * PER_CLASS)
    return np.einsum("nc,mcp->mnp", M, W) / SIGMAS[:, None, None], W


def _start(sizes: jax.Array | np.ndarray) -> State:
    """The start with these sizes, in units of the radius, along the two eigenvectors, (2,)."""
    H, W = _units()
    return State(*(jnp.tensordot(RADIUS * jnp.asarray(sizes), part, 1) for part in (H, W)))


def _boundary() -> np.ndarray:
    """How far from the saddle, over the radius, a start in each direction has to be to escape it, by bisection."""
    ways = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)

    @jax.jit
    def escapes(sizes: jax.Array) -> jax.Array:
        run = jax.vmap(lambda size: exact(_model(), Flow(sam_radius=RADIUS), _start(size), [LONG], "log_norm"))(sizes)
        reached: jax.Array = run.reached[:, 0]
        return reached

    low, high = np.full(ANGLES.size, 0.1), np.full(ANGLES.size, 1.5)
    for _ in range(40):
        middle = (low + high) / 2
        out = _memory.read(escapes(middle[:, None] * ways))
        low, high = np.where(out, low, middle), np.where(out, middle, high)
    return (low + high) / 2


def _fate(sizes: np.ndarray) -> bool:
    """Whether the two modes escape, by SciPy: u' = sigma u - rho sigma^2 u/||sigma u||."""

    def velocity(_: float, u: np.ndarray) -> np.ndarray:
        change: np.ndarray = SIGMAS * u - SIGMAS**2 * u / np.linalg.norm(SIGMAS * u)
        return change

    def died(_: float, u: np.ndarray) -> float:
        return float(np.linalg.norm(u) - 1e-3)

    def escaped(_: float, u: np.ndarray) -> float:
        return float(np.linalg.norm(u) - 10)

    for event in (died, escaped):
        event.terminal = True  # type: ignore[attr-defined]
    run = solve_ivp(velocity, (0, LONG), sizes, "DOP853", rtol=1e-12, atol=1e-14, events=(died, escaped))
    return bool(run.t_events[1].size)


def _along(run_H: np.ndarray, run_W: np.ndarray) -> np.ndarray:
    """Sizes along the two eigenvectors in units of the radius, (T, 2)."""
    H, W = _units()
    sizes: np.ndarray = np.einsum("tnp,mnp->tm", run_H, H) + np.einsum("tcp,mcp->tm", run_W, W)
    return sizes / RADIUS


def _path(sizes: tuple[float, float], times: np.ndarray) -> np.ndarray:
    """Sizes along the two eigenvectors over time, NaN once dead, (T, 2)."""
    run = exact(_model(), Flow(sam_radius=RADIUS), _start(np.array(sizes)), times, "norm", states=True)
    assert run.states is not None
    grown = np.exp(_memory.read(run.states.log_scale))[:, None, None]
    return _along(*(grown * _memory.read(part) for part in (run.states.H, run.states.W)))


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    with jax.enable_x64(True):
        return _findings()


def _findings() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model, sigma, flow = _model(), SIGMAS[0], Flow(sam_radius=RADIUS)
    times = np.linspace(0, 3 / sigma, 121)
    curves: dict[str, np.ndarray] = {"time": times * sigma, "sizes": np.array(SIZES)}
    apart = []
    for size in SIZES:
        norm = _memory.read(exact(model, flow, _start(np.array([size, 0])), times, "norm")["norm"]) / RADIUS
        predicted = 1 + (size - 1) * np.exp(sigma * times)
        alive = predicted > 1e-3
        apart.append(np.max(np.abs(norm - predicted)[alive]) + np.sum(np.isfinite(norm) & (predicted < 0)))
        curves[f"norm_{size:g}"] = norm
    random = model.init(jax.random.key(0), precision="float64")
    seen = ["norm", "loss"]
    compared = verify(
        simulate(model, Flow(sam_radius=RADIUS, rtol=1e-11), random, [1.0, 10.0], seen),
        exact(model, flow, random, [1.0, 10.0], seen),
    ).worst
    edge = _boundary()
    ways = edge[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    wrong = sum(_fate(1.0001 * way) is False or _fate(0.9999 * way) is True for way in ways[1:-1:4])
    dying = _path((0.6, 0.3), np.linspace(0, 30, 1001))
    last = dying[np.isfinite(dying[:, 0])][-1]
    step = 0.2
    # Chaos doubles an error at every update or two, so that no more updates are known than these.
    caught = exact(model, Descent(step, sam_radius=RADIUS), _start(np.array([1e-6, 1e-6])), np.arange(1, 61), "norm")
    bounce = np.max(_memory.read(caught["norm"])) / (step * RADIUS * sigma)
    checks = (
        Check("exact from the simulated flow, relative", compared, 1e-8),
        Check("one mode: norm over radius from 1 + (u₀/ρ − 1)e^{στ}, dead where that is below 0", worst(apart), 1e-9),
        Check("size that escapes along one mode over the radius, from 1", worst(edge[[0, -1]] - 1), 1e-9),
        Check("starts beside the boundary whose fate SciPy sees otherwise", float(wrong), 0.5),
        Check("stronger over weaker mode before death, which began as 2", float(last[0] / last[1]), 0.1),
        Check("descent near the saddle: largest norm in 60 updates over ηρσ", float(bounce), 1.0),
    )
    paths = {"in": (0.7, 0.45), "along": (0.9, 0.4), "out": (0.95, 0.55), "far": (0.5, 0.95)}
    for name, sizes in paths.items():
        curves[f"path_{name}"] = _path(sizes, np.linspace(0, 30, 1001))
    return checks, {**curves, "boundary": ways}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for size in curves["sizes"]:
        left.plot(curves["time"], curves[f"norm_{size:g}"], label=f"{size:g}")
    left.axhline(1, **THRESHOLD)
    left.set(xlabel="time in units of 1/σ", ylabel="norm over radius", ylim=(0, 3))
    head(left, "One mode", "dies if it starts within the radius")
    left.legend(title="start over radius")
    edge = curves["boundary"]
    right.fill_between(edge[:, 0], edge[:, 1], color="0.85", lw=0, label="starts that die")
    for name in ("in", "along", "out", "far"):
        path = curves[f"path_{name}"]
        right.plot(*path.T, color="C0" if name in ("out", "far") else "C3")
        right.plot(*path[0], "o", color="0.2", ms=4)
    right.plot([1, 0], [0, 1], "s", color="0.2", ms=5, clip_on=False, label="one mode at rest")
    right.set(xlim=(0, 2), ylim=(0, 2), xlabel="part in the stronger mode, over radius", ylabel="in the weaker mode")
    head(right, "Two modes, singular values 2 : 1", "from four starts, the dots")
    right.legend()


THEORY = Theory(
    name="sharpness-aware",
    title="Sharpness-aware minimisation: a saddle that attracts",
    loss="unhinged",
    case="unconstrained",
    predicted=(
        "`Z = e^{Kτ − K²q} Z₀`, `q' = ρ/‖KZ‖`: a mode grows at `μ(1 − ρμ/‖KZ‖)`; one mode alone has "
        "`‖Z‖ = ρ + (‖Z₀‖ − ρ)e^{μτ}` and dies within the radius"
    ),
    assumptions="none (any linear loss; equal rates)",
    references=("foret2021sharpness", "kim2023stability", "bartlett2023dynamics"),
    libraries=("virtanen2020scipy",),
    account=(
        "The gradient of a linear loss is linear in the state, so sharpness-aware minimisation (Foret et al.) damps "
        "each mode in proportion to the square of its eigenvalue, by one number `ρ/‖KZ‖` for all. The origin is a "
        "saddle, and within the radius it attracts: Kim et al. show that a saddle can, and here the boundary is exact. "
        "Along a single mode it lies at the radius, whatever the eigenvalue, and the time of death is "
        "`log(ρ/(ρ − u₀))/μ`. With two modes it joins the two points at which one mode rests at the radius. Beyond it "
        "the stronger mode wins, as in plain flow; within it the weaker mode outlives the stronger one, which is "
        "damped more. A descent does not die: as on a convex quadratic (Bartlett, Long & Bousquet) it bounces around "
        "the saddle, at a distance of at most about `ηρσ`."
    ),
    caption="Left: norm over time, one mode. Right: two modes, singular values 2 : 1, from four starts (dots).",
    compute=_compute,
    draw=_draw,
)
