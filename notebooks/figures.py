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
# # The paper's figures
#
# The numerical figures of the paper (1, 4 to 9 and 15) are data in this library: the runs, the curves drawn, and for
# three of them the vertices of the published curves. You will see Figure 1 at full size, simulated and exact, with
# the published vertices on top, and one panel of each other figure from the closed form, up to 50,000 updates.
# `unhinged reproduce` makes all panels of all figures, simulated and exact, in about four minutes on two cores.

# %%
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display

import unhinged_jax as uj
from unhinged_jax.paper import draw, published, reproduce
from unhinged_jax.paper.figures import FIGURES, UPDATES, start
from unhinged_jax.plots import style

# %% [markdown]
# ## The mathematics
#
# Nearly every figure is plain gradient descent on a linear problem with $p = 512$, $C = 100$, $N = 10$. A step with
# rate $\eta$ is a polynomial in the $2\times2$ matrix $K$ of each mode, so $T = 50{,}000$ steps are a power of it,
# with any decay (written here for $r_1 = r_2 = 1$ and $\lambda_1 = \lambda_2 = \lambda$):
#
# $$Z_T = \Big[\tfrac{p(\mu_+) + p(\mu_-)}2\, I + \tfrac{p(\mu_+) - p(\mu_-)}{2\sigma}\,(K + \lambda I)\Big] Z_0,
#   \qquad p(\mu) = (1 + \eta\mu)^T, \quad \mu_\pm = -\lambda \pm \sigma .$$
#
# The exact solution makes none of the updates in between. Spherical features (Figure 9) follow the recursion of their
# angles instead.
#
# ## Which runs these are
#
# The settings are those with which the published curves were made; where a caption differs, a note says so.

# %%
figures = {number: make() for number, make in FIGURES.items()}
for number, figure in figures.items():
    notes = f"\n   {figure.notes}" if figure.notes else ""
    print(f"Figure {number}: {figure.title}, {len(figure.runs())} runs{notes}")

# %% [markdown]
# ## Figure 1: simulated, exact and published
#
# Bands are exact curves, dashes simulated ones, and dots published ones.

# %%
outcome, = reproduce.run_figures([figures["1"]], extra={}, seed=None)
with style():
    picture, file = draw.figure_of(outcome, with_published=True), io.BytesIO()
    picture.savefig(file, format="png", dpi=95)
display(Image(file.getvalue()))

# %% [markdown]
# The scatter late in (b) is rounding, in the published curve as well as in ours, because all logits are equal there
# for γ = 0.05.

# %%
ROUNDING = "1b", "gamma=0.05"
summary = reproduce.summarise(outcome, from_paper=True)
table = pd.DataFrame(
    [
        {
            "panel": panel,
            "curve": curve,
            "simulated − exact": f"{row['simulated_minus_exact']:.1e}" if (panel, curve) != ROUNDING else "rounding",
            "published vertices": row["published_exact"]["points"],
            "worst / allowed": round(row["published_exact"]["worst"], 3),
        }
        for panel, found in summary["panels"].items() for curve, row in found["curves"].items()
    ]
)  # fmt: skip
display(table)

# %% [markdown]
# ## One panel of every other figure
#
# The curves are exact, at 60 updates; dots are published vertices, if there are any. Distances below $10^{-18}$ are
# not drawn, although the closed form computes them without cancellation. The four curves of 4c coincide.

# %%
needs = {
    "4": ["log_norm_H", "log_norm_W"], "9": ["distance_H"], "15": ["distance_H", "norm_H"],
    **{number: ["distance_H", "distance_W", "norm_H", "norm_W"] for number in "5678"},
}  # fmt: skip
letters = {"4": "c", "5": "b", "6": "c", "7": "e", "8": "c", "9": "b", "15": "c"}
axis = np.unique(np.round(np.geomspace(1, UPDATES, 60)).astype(int))
panels, curves = {}, {}
for number, letter in letters.items():
    figure, state = figures[number], start(figures[number])
    panels[number] = next(panel for panel in figure.panels if panel.letter == letter)
    seen = [t + panels[number].after for t, _ in published.vertices(number + letter).values()]
    updates = np.unique(np.concatenate([axis, *seen]))
    for curve in figure.curves[::4] if number == "9" else figure.curves:  # angles are stepped, which takes a while
        run = uj.exact(curve.model, curve.descent, state, updates, needs[number], target=figure.target,
                       precision="float64")  # fmt: skip
        values = panels[number].value(*(np.asarray(run[name]) for name in panels[number].needs))
        curves[number, curve.label] = updates - panels[number].after, np.asarray(values, float)

# %%
with style():
    picture, grid = plt.subplots(4, 2, figsize=(8, 12), dpi=75)
    for axes, (number, letter) in zip(grid.flat, letters.items(), strict=False):
        mine = {label: points for (which, label), points in curves.items() if which == number}
        colours = draw.colours_of(figures[number], list(mine))
        for colour, (label, (t, values)) in zip(colours, mine.items(), strict=True):
            axes.plot(t + 1, values, color=colour, label=draw.name_of(figures[number], label))
            if label in published.vertices(number + letter):
                x, y = published.vertices(number + letter)[label]
                fine = y >= published.FLOOR if number + letter in published.DISTANCES else y == y
                axes.plot(x[fine] + 1, y[fine], "o", ms=3, mfc="white", mec=colour)
        axes.set(title=f"{number}{letter}: {panels[number].title}", xlabel="update", xscale="log")
        if panels[number].scale == "log":
            axes.set_yscale("log")
            low, high = (pick([pick(v[v > 0]) for _, v in mine.values()]) for pick in (min, max))
            axes.set_ylim(max(1e-18, low / 2), 3 * high)
        axes.legend(loc="best")
    grid[3, 1].remove()
    grid[3, 0].set_subplotspec(grid[3, 0].get_subplotspec().get_gridspec()[3, :])
    plt.show()

# %% [markdown]
# ## Check
#
# For Figure 1, the next cell compares simulated with exact curves, and both with all published vertices. For Figures
# 5b and 9b, it compares exact curves with all published vertices above $2\cdot10^{-11}$, where rounding of the
# original runs begins.

# %%
for panel, found in summary["panels"].items():
    for curve, row in found["curves"].items():
        assert row["simulated_minus_exact"] < 1e-7 or (panel, curve) == ROUNDING, (panel, curve, row)
        assert row["published_simulated"]["worst"] <= 1 and row["published_exact"]["worst"] <= 1, (panel, curve, row)
for number in ("5", "9"):
    name, points = number + letters[number], 0
    for label in (label for which, label in curves if which == number):
        deviation = published.deviation(name, label, *curves[number, label])
        assert deviation["worst"] <= 1, (name, label, deviation)
        points += deviation["points"]
    print(f"Figure {name}: {points} published vertices met")
