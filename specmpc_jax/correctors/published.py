"""The two correctors as the public PyTorch implementation of arXiv 2512.17250 has them.

They exist so that weights trained there can be imported number for number
(`converters.import_corrector`); new correctors are better trained with the
kinds `two_tower` and `temporal`. Differences to those: MLPs end without an
activation, the gate is an MLP, latent differences are not scaled, offsets are
not seen; the Transformer normalises after each part, pads the window with zeros
that it does not mask, and takes its context from the oldest token. That last
trait is a fault, but one that the weights have grown up with.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.types import Array, CorrectionContext, PlannedStep


class Mlp(nn.Module):
    """Dense layers with SiLU between them, `[..., F] -> [..., width]`."""

    width: int
    num_layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x; nothing follows the last layer."""
        for i in range(self.num_layers):
            x = nn.Dense(self.width, name=f"dense_{i}")(x if i == 0 else nn.silu(x))
        return x


class EncoderLayer(nn.Module):
    """Post-norm Transformer encoder layer with exact GELU."""

    num_heads: int
    feedforward_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps tokens `[..., W, F]`; every token sees all."""
        width = x.shape[-1]
        query, key, value = (
            part.reshape(*part.shape[:-1], self.num_heads, width // self.num_heads)
            for part in jnp.split(nn.Dense(3 * width, name="in_proj")(x), 3, axis=-1)
        )
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        x = nn.LayerNorm(name="norm1", epsilon=1e-5)(x + nn.Dense(width, name="out_proj")(mixed))
        y = nn.gelu(nn.Dense(self.feedforward_dim, name="linear1")(x), approximate=False)
        return nn.LayerNorm(name="norm2", epsilon=1e-5)(x + nn.Dense(width, name="linear2")(y))


def _features(steps: PlannedStep) -> Array:
    return jnp.concatenate(
        [steps.z_real, steps.z_pred, steps.z_real - steps.z_pred, steps.a_plan], axis=-1
    )


def _change(config: CorrectorConfig, context: Array, action: Array) -> Array:
    """The change of the action `[..., A]`; layers of the calling module."""
    x = jnp.concatenate([context, action], axis=-1)
    update = Mlp(config.hidden_dim, config.num_layers, name="mlp_u")(x)
    gate = nn.sigmoid(Mlp(config.hidden_dim, config.num_layers, name="mlp_g")(x))
    delta = nn.Dense(config.action_dim, name="out")(gate * update + (1 - gate) * action)
    return jnp.tanh(delta) if config.tanh_output else delta


class PublishedTwoTower(nn.Module):
    """Corrects one action from the present step alone."""

    config: CorrectorConfig

    @nn.compact
    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the corrected action `[..., A]`, unclipped."""
        del deterministic  # no dropout
        config, step = self.config, context.step
        inputs = {
            "mlp_real": step.z_real,
            "mlp_pred": step.z_pred,
            "mlp_delta": step.z_real - step.z_pred,
            "mlp_a": step.a_plan,
        }
        real, predicted, difference, action = (
            Mlp(config.hidden_dim, config.num_layers, name=name)(x) for name, x in inputs.items()
        )
        towers = jnp.concatenate([real, predicted, difference], axis=-1)
        return step.a_plan + _change(config, towers, action)


class PublishedTemporal(nn.Module):
    """Corrects one action from the last steps, by the oldest of them."""

    config: CorrectorConfig

    @nn.compact
    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the corrected action `[..., A]`, unclipped."""
        del deterministic  # its dropout is off outside its own training
        config = self.config
        features = _features(context.window) * context.window_mask[..., None]
        tokens = nn.Dense(config.token_dim, name="input_proj")(features)
        positions = self.param(
            "pos_emb", nn.initializers.zeros, (config.history_len, config.token_dim)
        )
        tokens = tokens + jnp.broadcast_to(positions, tokens.shape)
        for i in range(config.num_blocks):
            tokens = EncoderLayer(config.num_heads, config.feedforward_dim, name=f"layer_{i}")(
                tokens
            )
        action = Mlp(config.hidden_dim, config.num_layers, name="mlp_a")(context.step.a_plan)
        return context.step.a_plan + _change(config, tokens[..., 0, :], action)
