"""The temporal corrector: a Transformer over the last steps of the episode."""

import flax.linen as nn
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors.layers import Embedding, GatedDelta, one_hot_offset
from specmpc_jax.types import Array, CorrectionContext


class EncoderBlock(nn.Module):
    """Pre-norm Transformer encoder block with GELU."""

    num_heads: int
    feedforward_dim: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, mask: Array, *, deterministic: bool) -> Array:
        """Maps tokens `[..., W, F]` under an attention mask `[..., 1, W, W]`."""
        y = nn.LayerNorm(name="attention_norm")(x)
        y = nn.MultiHeadDotProductAttention(
            self.num_heads, dropout_rate=self.dropout, deterministic=deterministic, name="attention"
        )(y, mask=mask)
        x = x + nn.Dropout(self.dropout, deterministic=deterministic)(y)
        y = nn.LayerNorm(name="feedforward_norm")(x)
        y = nn.gelu(nn.Dense(self.feedforward_dim, name="feedforward_in")(y))
        y = nn.Dense(x.shape[-1], name="feedforward_out")(y)
        return x + nn.Dropout(self.dropout, deterministic=deterministic)(y)


class Temporal(nn.Module):
    """Corrects one action from a window of steps; the newest token is the present step."""

    config: CorrectorConfig

    @nn.compact
    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the corrected action `[..., A]`, unclipped."""
        config, window = self.config, context.window
        features = [
            window.z_real,
            window.z_pred,
            config.difference_scale * (window.z_real - window.z_pred),
            window.a_plan,
        ]
        if config.use_offset:
            features.append(one_hot_offset(window.offset, config.max_offset))
        tokens = nn.Dense(config.token_dim, name="token")(jnp.concatenate(features, axis=-1))
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (config.history_len, config.token_dim)
        )
        tokens = tokens + jnp.broadcast_to(positions, tokens.shape)
        # Padding before the episode's start is no key; every query sees at least itself.
        seen = context.window_mask[..., None, None, :]
        mask = jnp.broadcast_to(seen, (*seen.shape[:-2], config.history_len, config.history_len))
        for i in range(config.num_blocks):
            block = EncoderBlock(
                config.num_heads, config.feedforward_dim, config.dropout, name=f"block_{i}"
            )
            tokens = block(tokens, mask, deterministic=deterministic)
        newest = nn.LayerNorm(name="norm")(tokens)[..., -1, :]
        action = Embedding(config.hidden_dim, config.num_layers, config.dropout, name="action")(
            context.step.a_plan, deterministic=deterministic
        )
        delta = GatedDelta(
            config.hidden_dim, config.num_layers, config.action_dim, config.dropout, name="fusion"
        )(jnp.concatenate([newest, action], axis=-1), action, deterministic=deterministic)
        return context.step.a_plan + delta
