"""The style of every figure, how figures are written, and the curves of runs and datasets."""

from unhinged_jax.plots.dataset import ABOUT, STATISTIC, dataset_of, listed, members_of, plot
from unhinged_jax.plots.figures import EXACT, SIMULATED, about_members, band, curves, save, style, tex_error
from unhinged_jax.plots.looks import PALETTE, gamma_colours

__all__ = [
    "ABOUT", "EXACT", "PALETTE", "SIMULATED", "STATISTIC", "about_members", "band", "curves", "dataset_of",
    "gamma_colours", "listed", "members_of", "plot", "save", "style", "tex_error",
]  # fmt: skip
