"""Cross-entropy from starts that a group permutes: one equation per character, and a race that ends in a draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
import scipy.integrate
import scipy.special

from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import unconstrained
from unhinged_jax.plots import EXACT, SIMULATED
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 8, 2, 8
SPECTRUM = np.array([0.0, 1e-1, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8])
"""a_k at the start; that of the mean of all prototypes, k = 0, is 0 and stays so."""
TIMES = np.linspace(0.0, 300.0, 101)
RISEN = 0.5
_NAMES = {1: "character 1", 2: "character 2", 4: "character 4", 3: "characters 3, 5, 6, 7"}
_APART = {1: "classes of other halves", 2: "of other quarters", 4: "of one quarter"}
_COLOURS = ("C0", "C1", "C2")


def characters(classes: int) -> np.ndarray:
    """The characters of Hadamard's group, (C, C): the parity of the bits that k and x share.

    Args:
        classes: C, a power of two.

    Source: Garrod, Keating & Thrampoulidis 2025.

    Example:
        >>> characters(4)[3].tolist()
        [1.0, -1.0, -1.0, 1.0]
    """
    shared = np.arange(classes)[:, None] & np.arange(classes)
    return (-1.0) ** np.vectorize(lambda bits: bin(bits).count("1"))(shared)


def spectrum_over_time(start: np.ndarray, per_class: int, times: np.ndarray) -> np.ndarray:
    """Singular values of the prototypes, character by character: a_k' = (1 - softmax(phi)^_k) a_k / (C sqrt N).

    phi(x) = sum_k a_k^2 chi_k(x) / (C sqrt N) are the logits, as a function of the difference of two classes.

    Args:
        start: a_k at t = 0, (C,).
        per_class: N.
        times: Ascending, from 0, (T,), the last above 0.

    Returns:
        Shape (T, C). The equations are solved by scipy.

    Source: Garrod, Keating & Thrampoulidis 2025 for N = 1.

    Example:
        >>> spectrum_over_time(np.array([0.0, 0.5]), 1, np.array([0.0, 2.0])).round(3).tolist()
        [[0.0, 0.5], [0.0, 1.024]]
    """
    chi, scale = characters(len(start)), len(start) * per_class**0.5

    def velocity(_t: float, a: np.ndarray) -> np.ndarray:
        probabilities = scipy.special.softmax(a**2 @ chi / scale)
        return np.asarray((1 - chi @ probabilities) * a / scale)

    ends = 0.0, float(times[-1])
    found = scipy.integrate.solve_ivp(velocity, ends, start, "DOP853", times, rtol=1e-12, atol=1e-16)
    return np.asarray(found.y.T)


def time_of_gap(gap: np.ndarray, first: float, classes: int, per_class: int) -> np.ndarray:
    """When the logit gap of a simplex ETF, where all a_k are equal, has a value: an exponential integral.

    t = (sqrt N / 2) (Ei(g) - Ei(g_0) + (C - 1) log(g / g_0)),  g = a^2 / sqrt N

    Args:
        gap: g, any shape, above 0.
        first: g_0, above 0.
        classes, per_class: C and N.

    Source: the equation of Ji et al. 2022 on the ETF, integrated.

    Example:
        >>> float(time_of_gap(np.array(1.0), 1.0, 4, 1))
        0.0
    """
    grown = scipy.special.expi(gap) - scipy.special.expi(first) + (classes - 1) * np.log(gap / first)
    return np.asarray(per_class**0.5 / 2 * grown)


def _singular(W: np.ndarray) -> np.ndarray:
    """a_k of prototypes (..., C, p)."""
    rows = characters(W.shape[-2]) @ W / W.shape[-2] ** 0.5
    return np.asarray(np.linalg.norm(rows, axis=-1))


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model = unconstrained(balanced(CLASSES, PER_CLASS), DIM, loss="cross_entropy")
    scale, root = CLASSES * PER_CLASS**0.5, PER_CLASS**0.5

    def singular_values(spectrum: np.ndarray, times: np.ndarray, reduce: bool = True) -> np.ndarray:
        start = model.init(jax.random.key(2), group="hadamard", spectrum=spectrum, precision="float64")
        run = simulate(model, Flow(rtol=1e-11), start, times, ["loss"], states=True, reduce=reduce)
        assert run.states is not None and ("group" in str(run.form)) == reduce
        return _singular(np.asarray(run.states.W))[:, 1:]

    a, full = (singular_values(SPECTRUM, TIMES, reduce) for reduce in (True, False))
    predicted = spectrum_over_time(SPECTRUM, PER_CLASS, TIMES)
    phi = predicted**2 @ characters(CLASSES) / scale
    apart = phi[:, :1] - phi[:, 1:]  # logit gaps of classes that differ by x = 1, 2, ..., 7
    even = np.full(CLASSES, 0.1) * (np.arange(CLASSES) > 0)
    gaps = np.geomspace(even[1] ** 2 / root, 7.9, len(TIMES))
    when = time_of_gap(gaps, gaps[0], CLASSES, PER_CLASS)
    simplex = singular_values(even, when)
    # Until a character rises itself, nothing slows it that does not tell its halves apart.
    generators = np.array([1, 2, 4])
    rises = np.array([np.interp(np.log(RISEN), np.log(predicted[:, k]), TIMES) for k in generators])
    checks = (
        Check("a_k of the reduced run against scipy's, relative", relative(a, predicted[:, 1:]), 1e-8),
        Check("a_k of the reduced run against the full flow's, relative", relative(a, full), 1e-8),
        Check("the simplex: a against the exponential integral, relative",
              relative(simplex, np.sqrt(gaps * root)[:, None]), 1e-8),
        Check("characters 1, 2 and 4 reach 0.5 at C√N log(0.5/a_k), relative",
              relative(rises, scale * np.log(RISEN / SPECTRUM[generators])), 0.01),
        Check("a_4 over a_3 at the end (0.1 at the start)", a[-1, 3] / a[-1, 2], 3.0, at_least=True),
    )  # fmt: skip
    curves = {"time": TIMES, "a": a, "predicted": predicted[:, 1:], "gaps": apart}
    return checks, {**curves, "even": when, "even_gap": gaps}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    t = curves["time"]
    for k in (1, 2, 4, 3, 5, 6, 7):
        look = EXACT if k in (1, 2, 4) else {"color": "0.7"}
        left.plot(t, curves["predicted"][:, k - 1], **look, label=_NAMES.get(k))
        right.plot(t, curves["gaps"][:, k - 1], color=_COLOURS[int(np.log2(k & -k))], label=_APART.get(k))
    for k in (1, 2, 4):
        label = "reduced run" if k == 1 else None
        left.plot(t[::8], curves["a"][::8, k - 1], **SIMULATED, color="0.1", label=label)
    shown = curves["even"] <= t[-1]
    right.plot(curves["even"][shown], curves["even_gap"][shown], color="0.1", lw=1, ls=":", label="an even spectrum")
    left.set(yscale="log", xlabel="time", ylabel=r"singular value $a_k$")
    right.set(xlabel="time", ylabel="logit gap")
    head(left, "Singular values of the prototypes", "grey: products of the others")
    head(right, "Logit gaps between classes", "first halves part, then quarters, then classes")
    for axes in (left, right):
        key_under(axes)


THEORY = Theory(
    name="group-starts",
    title="Cross-entropy from starts that a group permutes",
    loss="cross-entropy",
    case="unconstrained",
    predicted=(
        "`a_k' = (1 − s_k) a_k/(C√N)` for each singular value `a_k` of the prototypes, where `s_k` are the characters "
        "of the softmax of the logits and `a_k²/√N` those of the logits; for equal `a_k`, a simplex ETF, "
        "`t = √N (Ei(g) + (C − 1) log g)/2` up to a constant, `g = a²/√N`"
    ),
    assumptions="`W` circulant over a group of C elements, `H = W/√N` class by class, `p ≥ C − 1`",
    references=("garrod2025diagonalizing", "ji2022unconstrained"),
    libraries=("kidger2021on", "virtanen2020scipy"),
    account=(
        "Garrod, Keating & Thrampoulidis start the layer-peeled model in Hadamard's matrix: the softmax of logits that "
        "depend on the difference of two classes alone is diagonal in the same basis, so that the singular vectors "
        "freeze and the singular values have equations of their own. The same holds for the characters of any abelian "
        "group, several samples per class, and any loss that treats all classes alike; `simulate` finds such a start "
        "and integrates its characters. Near the origin all of them grow by the same factor, so that the largest "
        "reaches size one first and tells the halves of all classes apart. The drive of a character that tells "
        "nothing more then fades, while one that splits the halves goes on at full rate, as if nothing had happened, "
        "until it splits them into quarters, and so on: cross-entropy learns a tree of classes, the larger splits "
        "first, and a character that is the product of two others waits, even if it started above the next. In the "
        "end the gaps even out, slowly, towards a simplex ETF, the shape that collapse has. From a start with an even "
        "spectrum the time that the logit gap takes is an exponential integral."
    ),
    caption="Left: singular values over time. Right: logit gaps between classes.",
    compute=_compute,
    draw=_draw,
)
