"""A run described by a TOML file: read strictly into dataclasses, then built into a model, dynamics and a state."""

from unhinged_jax.config.dynamics import optimizer_of as optimizer_of
from unhinged_jax.config.files import Files as Files
from unhinged_jax.config.files import NotHeld as NotHeld
from unhinged_jax.config.files import only_data as only_data
from unhinged_jax.config.labels import build_labels as build_labels
from unhinged_jax.config.problem import Problem, build
from unhinged_jax.config.problem import build_stateless as build_stateless
from unhinged_jax.config.reading import ConfigError, read_config
from unhinged_jax.config.reading import config_of as config_of
from unhinged_jax.config.reading import placed as placed
from unhinged_jax.config.reading import read_section as read_section
from unhinged_jax.config.reading import read_tables as read_tables
from unhinged_jax.config.reading import shipped_or_file as shipped_or_file
from unhinged_jax.config.sections import Config

__all__ = ["Config", "ConfigError", "Problem", "build", "read_config"]
