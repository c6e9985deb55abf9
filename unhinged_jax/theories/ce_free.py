"""Cross-entropy without decay: free features and prototypes collapse, but only logarithmically in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
import scipy.integrate
from numpy.typing import ArrayLike

from unhinged_jax import _numbers, initial
from unhinged_jax.labels import balanced
from unhinged_jax.model import unconstrained
from unhinged_jax.plots import EXACT, SIMULATED
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.clock import in_log_time
from unhinged_jax.theories.drawing import logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 3, 4, 5
DECADES = 8


def gap_on_etf(gap: float, classes: int, per_class: int, times: ArrayLike) -> np.ndarray:
    """Logit gap over time on a balanced simplex ETF under cross-entropy: x' = 2 x / (sqrt N (e^x + C - 1)).

    "Balanced" means W^T W = H^T H, which the flow keeps; any such ETF with collapsed, aligned features stays one.

    Args:
        gap: x at t = 0, above 0.
        classes, per_class: C and N.
        times: Ascending, above 0, shape (T,).

    Returns:
        Shape (T,). The equation is solved in log t by scipy.

    Source: beyond the papers; Ji et al. 2022 for the flow.

    Example:
        >>> gap_on_etf(1.0, classes=2, per_class=1, times=[1e-9]).round(6).tolist()
        [1.0]
    """
    times = _numbers.counts("times", times).astype(float)

    def velocity(s: float, x: np.ndarray) -> np.ndarray:
        return 2 * x * np.exp(s) / (per_class**0.5 * (np.exp(x) + classes - 1))

    logs = np.log1p(times)
    found = scipy.integrate.solve_ivp(
        velocity, (0, logs[-1]), [gap], method="LSODA", t_eval=logs, rtol=1e-11, atol=1e-11
    )
    return np.asarray(found.y[0])


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    labels = balanced(CLASSES, PER_CLASS)
    model = unconstrained(labels, DIM, loss="cross_entropy")
    flow, clock = in_log_time(DECADES)
    t = np.expm1(clock[1:])
    metrics = ["loss", "nc1_trace_ratio", "etf_distance_prototypes", "nc3_self_duality", "nc4", "accuracy"]
    state = model.init(jax.random.key(6), precision="float64")
    run = simulate(model, flow, state, clock, metrics, states=True)
    assert run.states is not None
    H, W = np.asarray(run.states.H), np.asarray(run.states.W)
    kept = np.einsum("tip,tiq->tpq", H, H) - np.einsum("tcp,tcq->tpq", W, W)
    loss = np.asarray(run["loss"])[1:]
    # On an ETF d(1/L)/dt is 2 log((C-1)/L) / ((C-1) sqrt N), up to terms of relative order L.
    pace = np.gradient(1 / loss, t) * (CLASSES - 1) * PER_CLASS**0.5 / (2 * np.log((CLASSES - 1) / loss))
    etf = np.asarray(initial.simplex_etf(CLASSES, DIM))
    scaled = model.init(jax.random.key(0), prototypes=etf, features=np.repeat(etf, PER_CLASS, axis=0) / PER_CLASS**0.5,
                        precision="float64")  # fmt: skip
    ray = simulate(model, flow, scaled, clock, ["loss"], states=True)
    assert ray.states is not None
    logits = np.einsum("tp,tcp->tc", np.asarray(ray.states.H)[:, 0], np.asarray(ray.states.W))
    gap = logits[:, 0] - logits[:, 1]
    ends = {name: np.asarray(run[name]) for name in metrics}
    left = {name: ends[name][-1] / ends[name][0] for name in _COLLAPSE}
    checks = (
        Check("logit gap on the ETF against its scalar equation, relative",
              relative(gap[1:], gap_on_etf(gap[0], CLASSES, PER_CLASS, t)), 1e-5),
        Check("HᵀH − WᵀW kept from a generic start, relative", relative(kept, kept[0][None]), 1e-5),
        Check("generic start: pace of 1/loss at t = 1e8 over that on an ETF, from 1", abs(pace[-4] - 1), 0.05),
        Check("NC2: prototypes from an ETF at t = 1e8 over the start", left["etf_distance_prototypes"], 0.3),
        Check("NC3: misalignment at t = 1e8 over the start", left["nc3_self_duality"], 0.5),
        Check("NC4: agreement with the nearest centre at t = 1e8", ends["nc4"][-1], 1.0, at_least=True),
        Check("NC1: within over between at t = 1e8 over the start", left["nc1_trace_ratio"], 0.2),
    )  # fmt: skip
    curves = {name: ends[name][1:] for name in _COLLAPSE}
    predicted = gap_on_etf(gap[0], CLASSES, PER_CLASS, t)
    return checks, {**curves, "time": t, "gap": gap[1:], "predicted": predicted}


_COLLAPSE = {
    "nc1_trace_ratio": r"NC1: $\mathrm{tr}\,\Sigma_W\,/\,\mathrm{tr}\,\Sigma_B$",
    "etf_distance_prototypes": "NC2: distance from ETF",
    "nc3_self_duality": "NC3: misalignment",
}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    t = curves["time"]
    for name, label in _COLLAPSE.items():
        left.plot(t, curves[name], label=label)
    logarithmic(left, "time", "distance from collapse", both=True)
    head(left, "Collapse from a generic start", "slow: NC1 falls like 1/log t")
    right.plot(t, curves["predicted"], **EXACT, label=r"$\dot x = 2x\,/\,(\sqrt{N}\,(e^x + C - 1))$")
    right.plot(t, curves["gap"], **SIMULATED, color="0.1", label="simulated")
    logarithmic(right, "time", "logit gap x")
    head(right, "Logit gap from a start on an ETF", "the simulation lies on the scalar equation")
    for axes in (left, right):
        key_under(axes)


THEORY = Theory(
    name="ce-free",
    title="Cross-entropy without decay: neural collapse",
    loss="cross-entropy",
    case="unconstrained",
    predicted=(
        "directions converge to a simplex ETF with collapsed, aligned features; on it `x' = 2x/(√N(e^x + C − 1))`; "
        "`HᵀH − WᵀW` stays"
    ),
    assumptions="none for the flow; global minimality of its limit is not guaranteed by theory",
    references=("papyan2020prevalence", "ji2022unconstrained"),
    libraries=("kidger2021on", "virtanen2020scipy"),
    account=(
        "Papyan, Han & Donoho describe how trained networks collapse: within-class variability vanishes (NC1), means "
        "and prototypes form a simplex ETF (NC2, NC3), and the nearest centre decides (NC4). Ji et al. show that in "
        "the layer-peeled model without any decay the flow of cross-entropy converges in direction to a critical "
        "point of a minimum-norm problem whose minimiser is that shape. On the ETF the flow is one scalar equation "
        "for the logit gap, which grows like `log t`; from a generic start the loss ends up falling at the same rate, "
        "while the part of the features that is orthogonal to all prototypes stays where it was, so NC1 falls only "
        "like `1/log t`. Under the unhinged loss, in contrast, the limit need not be an ETF, but it is approached "
        "exponentially fast."
    ),
    caption="Left: collapse from a generic start through eight decades of time. Right: logit gap on the ETF.",
    compute=_compute,
    draw=_draw,
)
