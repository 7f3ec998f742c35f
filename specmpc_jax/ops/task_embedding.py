"""Task embedding with a bounded norm, and action masks (spec section 2)."""

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax.config import ModelConfig
from specmpc_jax.types import Array

MAX_NORM = 1.0


def look_up(table: Array, task: Array) -> Array:
    """Embeds tasks, rescaling rows whose norm exceeds 1.

    Args:
      table: `[num_tasks, T]`.
      task: integer array `[...]`.

    Returns:
      `[..., T]`. No gradient flows through the rescaling factor, as in the
      official code.
    """
    rows = table[task]
    norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    factor = jnp.where(norm > MAX_NORM, MAX_NORM / (norm + 1e-7), 1.0)
    return rows * jax.lax.stop_gradient(factor)


def action_masks(config: ModelConfig) -> np.ndarray:
    """0/1 masks of each task over the padded action, `[num_tasks, A]`."""
    dims = np.asarray(config.action_dims or (config.action_dim,))
    return (np.arange(config.action_dim)[None, :] < dims[:, None]).astype(np.float32)
