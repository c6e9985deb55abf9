"""From theory to training: practical heads, real networks, real data, and the prediction by the tangent kernel."""

from unhinged_jax.training.data import Dataset as Dataset
from unhinged_jax.training.data import load as load
from unhinged_jax.training.heads import Head as Head
from unhinged_jax.training.heads import fnpal_logits as fnpal_logits
from unhinged_jax.training.heads import initial_prototypes as initial_prototypes
from unhinged_jax.training.heads import linear_logits as linear_logits
from unhinged_jax.training.heads import make_head as make_head
from unhinged_jax.training.heads import pal_logits as pal_logits
from unhinged_jax.training.loop import Trained as Trained
from unhinged_jax.training.loop import Trainer as Trainer
from unhinged_jax.training.loop import train as train
from unhinged_jax.training.networks import features_of as features_of
from unhinged_jax.training.networks import make_network as make_network
from unhinged_jax.training.penalties import class_weights as class_weights
from unhinged_jax.training.penalties import effective_number_weights as effective_number_weights
from unhinged_jax.training.penalties import feature_penalty as feature_penalty
from unhinged_jax.training.penalties import rescaled_loss as rescaled_loss
from unhinged_jax.training.penalties import scale_feature_gradient as scale_feature_gradient
from unhinged_jax.training.settings import Settings as Settings
from unhinged_jax.training.transforms import anchor as anchor
from unhinged_jax.training.transforms import rescale_by_feature_norm as rescale_by_feature_norm
