"""The heads as optax transformations, for loops that own their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from unhinged_jax.optimizers import rescale_by_feature_norm as rescale_by_feature_norm


def anchor(optimizer: optax.GradientTransformation, anchored: Callable[[str], bool]) -> optax.GradientTransformation:
    """Prototype-anchored learning in any loop: chosen parameters never move, weight decay and momentum included.

    Args:
        optimizer: Any optax transformation for the other parameters.
        anchored: Path of a parameter as text, such as ".head.prototypes" or "['head']['kernel']" -> whether it is
            anchored.

    Returns:
        An optax transformation.

    Raises:
        ValueError: at `init`, if nothing is anchored, because the path is misspelt.

    Source: Zhou et al. 2023, Section 4.1 (PAL).

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"W": jnp.ones(2), "H": jnp.ones(2)}
        >>> still = anchor(optax.sgd(1.0), lambda path: "W" in path)
        >>> updates, _ = still.update(params, still.init(params), params)
        >>> updates["W"].tolist(), updates["H"].tolist()
        ([0.0, 0.0], [-1.0, -1.0])
    """

    def labels(params: PyTree) -> Any:
        found = jax.tree_util.tree_map_with_path(
            lambda path, _: "stay" if anchored(jax.tree_util.keystr(path)) else "move", params
        )
        if "stay" not in jax.tree.leaves(found):
            paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise ValueError(f"nothing is anchored; the parameters are {', '.join(paths[:12])}.")
        return found

    return optax.partition({"move": optimizer, "stay": optax.set_to_zero()}, labels)
