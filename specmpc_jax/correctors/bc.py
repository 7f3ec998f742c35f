"""Behaviour cloning: the baseline that ignores the plan altogether."""

import flax.linen as nn
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors.layers import Embedding
from specmpc_jax.types import Array, CorrectionContext


class BehaviourCloning(nn.Module):
    """Imitates the teacher from the real latent alone.

    Layers are twice as wide as `hidden_dim`, which gives it about as many
    parameters as the two-tower has.
    """

    config: CorrectorConfig

    @nn.compact
    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the teacher's action as far as z_real tells it, `[..., A]`."""
        return propose(self.config, context.step.z_real, deterministic)


def propose(config: CorrectorConfig, z_real: Array, deterministic: bool) -> Array:
    """An action `[..., A]` in [-1, 1] from a latent `[..., L]`; layers of the calling module."""
    x = z_real
    for name in ("encoder", "trunk"):
        layer = Embedding(2 * config.hidden_dim, config.num_layers, config.dropout, name=name)
        x = layer(x, deterministic=deterministic)
    return jnp.tanh(nn.Dense(config.action_dim, name="action")(x))
