"""Dropout whose mask costs next to nothing."""

import math

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array


def dropout(x: Array, rate: float, key: Array) -> Array:
    """Sets each entry to zero with probability `rate` and divides the others by 1 - rate.

    Args:
      x: any shape.
      rate: in [0, 1).
      key: consumed.

    JAX's own generator would take a fifth of an update's time on a CPU. Here the key draws
    one seed, and a hash of seed and position decides on each entry: too simple for noise
    that a result is built on, good enough to switch units off.
    """
    keep = hashed_positions(key, x.shape) >= jnp.uint32(rate * 2**32)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def hashed_positions(key: Array, shape: tuple[int, ...]) -> Array:
    """A pseudo-random uint32 for each position of an array; consumes `key`.

    The hash alternates multiplications with shifts of the high bits into the low ones, as
    32-bit integer finalisers do.
    """
    seed, offset = jax.random.bits(key, (2,), jnp.uint32)
    x = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    x = (x + offset) * jnp.uint32(0x9E3779B1) ^ seed
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
