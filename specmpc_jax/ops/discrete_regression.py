"""Scalars as distributions over bins in symlog space (spec section 3)."""

import jax
import jax.numpy as jnp

from specmpc_jax.config import ModelConfig
from specmpc_jax.types import Array


def symlog(x: Array) -> Array:
    """Compresses large magnitudes: sign(x) ln(1 + |x|), any shape."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """Inverse of `symlog`, any shape."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def bin_centres(config: ModelConfig) -> Array:
    """Evenly spaced bin centres in symlog space, `[num_bins]`."""
    return jnp.linspace(config.vmin, config.vmax, config.num_bins, dtype=jnp.float32)


def two_hot(x: Array, config: ModelConfig) -> Array:
    """Spreads each scalar over its two neighbouring bins.

    Args:
      x: scalars `[...]` in their natural units; clipped to the bins' range.
      config: gives the number and the range of bins.

    Returns:
      Weights `[..., num_bins]` that sum to one.
    """
    width = (config.vmax - config.vmin) / (config.num_bins - 1)
    x = jnp.clip(symlog(x), config.vmin, config.vmax)
    lower = jnp.floor((x - config.vmin) / width)
    fraction = ((x - config.vmin) / width - lower)[..., None]
    lower = lower.astype(jnp.int32)
    # Beyond the last bin the fraction is zero, so wrapping its index adds nothing.
    upper = (lower + 1) % config.num_bins
    return jax.nn.one_hot(lower, config.num_bins) * (1 - fraction) + (
        jax.nn.one_hot(upper, config.num_bins) * fraction
    )


def two_hot_inverse(logits: Array, config: ModelConfig) -> Array:
    """Decodes logits `[..., num_bins]` into scalars `[...]` in natural units."""
    return symexp(jax.nn.softmax(logits, axis=-1) @ bin_centres(config))


def soft_cross_entropy(logits: Array, target: Array, config: ModelConfig) -> Array:
    """Cross entropy between logits `[..., num_bins]` and scalar targets `[...]`."""
    return -jnp.sum(two_hot(target, config) * jax.nn.log_softmax(logits, axis=-1), axis=-1)
