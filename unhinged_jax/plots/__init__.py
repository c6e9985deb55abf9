"""The style of every figure, how figures are written, and the curves of runs and datasets."""

from unhinged_jax.plots.dataset import plot
from unhinged_jax.plots.figures import EXACT, PALETTE, SIMULATED, about_members, band, curves, save, style, tex_error

__all__ = ["EXACT", "PALETTE", "SIMULATED", "about_members", "band", "curves", "plot", "save", "style", "tex_error"]
