"""Behaviour cloning: the baseline that ignores the plan altogether."""

import flax.linen as nn
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors.layers import Embedding
from specmpc_jax.types import Array, CorrectionContext


class BehaviourCloning(nn.Module):
    """Imitates the teacher from the real latent alone, at the size of the two-tower."""

    config: CorrectorConfig

    @nn.compact
    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the teacher's action as far as z_real tells it, `[..., A]`."""
        config = self.config
        x = context.step.z_real
        for name in ("encoder", "trunk"):
            layer = Embedding(config.hidden_dim, config.num_layers, config.dropout, name=name)
            x = layer(x, deterministic=deterministic)
        return jnp.tanh(nn.Dense(config.action_dim, name="action")(x))
