"""The two-tower corrector: embeds reality, prediction, their difference and the plan."""

import flax.linen as nn
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors.layers import Embedding, GatedDelta, one_hot_offset
from specmpc_jax.types import Array, CorrectionContext


class TwoTower(nn.Module):
    """Corrects one action from the present step alone (arXiv 2512.17250)."""

    config: CorrectorConfig

    @nn.compact
    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the corrected action `[..., A]`, unclipped."""
        config, step = self.config, context.step

        def embed(x: Array, name: str) -> Array:
            layer = Embedding(config.hidden_dim, config.num_layers, config.dropout, name=name)
            return layer(x, deterministic=deterministic)

        action = embed(step.a_plan, "action")
        towers = [
            embed(step.z_real, "real"),
            embed(step.z_pred, "predicted"),
            embed(config.difference_scale * (step.z_real - step.z_pred), "difference"),
            action,
        ]
        if config.use_offset:
            towers.append(one_hot_offset(step.offset, config.max_offset))
        delta = GatedDelta(
            config.hidden_dim, config.num_layers, config.action_dim, config.dropout, name="fusion"
        )(jnp.concatenate(towers, axis=-1), action, deterministic=deterministic)
        return step.a_plan + delta
