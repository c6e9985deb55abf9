"""Random shifts and flips of a batch of images, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax import _check


def shifted(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Images moved by up to `pixels` along each axis, every image by its own amount; the border is filled with zeros.

    Args:
        key: JAX key.
        images: Shape (n, c, h, w).
        pixels: Largest shift, at least 0.

    Returns:
        Shape (n, c, h, w).

    Source: Zhou et al. 2023, Appendix C.2.

    Example:
        >>> shifted(jax.random.key(0), jnp.ones((2, 1, 4, 4)), 0).sum().item()
        32.0
    """
    _check.whole("shift", pixels, 0)
    if pixels == 0:
        return images
    wide = jnp.pad(images, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pixels + 1)
    cut = images.shape[1:]
    return jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (0, corner[0], corner[1]), cut))(wide, corners)


def flipped(key: jax.Array, images: jax.Array) -> jax.Array:
    """Every image mirrored left to right with probability one half.

    Args:
        key: JAX key.
        images: Shape (n, c, h, w).

    Returns:
        Shape (n, c, h, w).

    Source: Zhou et al. 2023, Appendix C.2.
    """
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[..., ::-1], images)
