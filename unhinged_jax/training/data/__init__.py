"""Image data: sets that come with installed packages, readers of the standard files, imbalance and label noise."""

from unhinged_jax.training.data.dataset import Dataset as Dataset
from unhinged_jax.training.data.dataset import held_out as held_out
from unhinged_jax.training.data.dataset import imbalanced as imbalanced
from unhinged_jax.training.data.dataset import noisy as noisy
from unhinged_jax.training.data.load import NAMES as NAMES
from unhinged_jax.training.data.load import load as load
from unhinged_jax.training.data.outside import outside_images as outside_images
