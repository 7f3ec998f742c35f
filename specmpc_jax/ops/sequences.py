"""Sequences over the planning horizon."""

import jax
import jax.numpy as jnp

from specmpc_jax.types import Array


def shift_sequence(sequence: Array, steps: Array | int) -> Array:
    """Drops the first steps of a sequence and fills its end with zeros.

    Args:
      sequence: `[H, ...]`.
      steps: `[]` int, zero or more; H or more leave only zeros.

    Returns:
      `[H, ...]`. It makes a plan's mean the warm start of the next plan, where
      `steps` counts the steps really executed in between.
    """
    horizon = sequence.shape[0]
    padded = jnp.concatenate([sequence, jnp.zeros_like(sequence)])
    return jax.lax.dynamic_slice_in_dim(padded, jnp.minimum(steps, horizon), horizon)
