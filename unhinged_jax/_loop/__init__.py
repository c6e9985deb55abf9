"""A compiled loop of steps that reads values at chosen steps, in one go or in pieces between which the host looks."""

from unhinged_jax._loop.blocks import along
from unhinged_jax._loop.launches import at_once, read_each
from unhinged_jax._loop.pieces import Paused, Piece, go_on
from unhinged_jax._loop.reads import Reads, reads_at
from unhinged_jax._loop.run import blanked, run

__all__ = ["Paused", "Piece", "Reads", "along", "at_once", "blanked", "go_on", "read_each", "reads_at", "run"]
