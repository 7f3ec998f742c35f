"""Dropout whose mask costs next to nothing."""

import math

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.types import Array


@flax.struct.dataclass
class Rows:
    """Which rows of a larger batch an array `[..., B, F]` holds.

    A part of a batch that knows its place is masked as it would be within the whole.
    """

    first: Array  # [] int
    total: int = flax.struct.field(pytree_node=False)


def dropout(x: Array, rate: float, key: Array, rows: Rows | None = None) -> Array:
    """Sets each entry to zero with probability `rate` and divides the others by 1 - rate.

    Args:
      x: any shape; `[..., B, F]` with `rows`.
      rate: in [0, 1).
      key: consumed; the same for all parts of one batch.
      rows: where x lies in its batch; None if it is the whole.

    JAX's own generator would take a fifth of an update's time on a CPU. Here the key draws
    one seed, and a hash of seed and position decides on each entry: too simple for noise
    that a result is built on, good enough to switch units off.
    """
    keep = hashed_positions(key, x.shape, rows) >= jnp.uint32(rate * 2**32)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def hashed_positions(key: Array, shape: tuple[int, ...], rows: Rows | None = None) -> Array:
    """A pseudo-random uint32 for each position of an array; consumes `key`.

    The hash alternates multiplications with shifts of the high bits into the low ones, as
    32-bit integer finalisers do.
    """
    seed, offset = jax.random.bits(key, (2,), jnp.uint32)
    x = _positions(shape, rows)
    x = (x + offset) * jnp.uint32(0x9E3779B1) ^ seed
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _positions(shape: tuple[int, ...], rows: Rows | None) -> Array:
    """The index of each entry within the flattened array, or within the whole of its batch."""
    if rows is None:
        return jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    *lead, size, width = shape
    batch = jax.lax.iota(jnp.uint32, math.prod(lead)).reshape(*lead, 1, 1)
    row = jnp.asarray(rows.first, jnp.uint32) + jax.lax.iota(jnp.uint32, size)
    column = jax.lax.iota(jnp.uint32, width)
    ones = (1,) * len(lead)
    in_batch = batch * jnp.uint32(rows.total) + row.reshape(*ones, size, 1)
    return in_batch * jnp.uint32(width) + column.reshape(*ones, 1, width)
