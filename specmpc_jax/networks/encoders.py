"""State and pixel encoders (spec section 2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from specmpc_jax.config import ModelConfig
from specmpc_jax.networks.layers import MLP, simnorm
from specmpc_jax.types import Array

SHIFT_PAD = 3
# (kernel, stride) of each convolution, in order.
CONVOLUTIONS = ((7, 2), (5, 2), (3, 2), (3, 1))


def state_encoder(config: ModelConfig) -> MLP:
    """MLP from `[..., D + T]` (observation and task embedding) to a latent `[..., L]`."""
    hidden = (config.enc_dim,) * max(config.num_enc_layers - 1, 1)
    return MLP(hidden, config.latent_dim, simnorm_group=config.simnorm_dim)


def shift_image(image: Array, shift: Array) -> Array:
    """Crops an edge-padded image at a whole-pixel shift.

    Args:
      image: `[C, S, S]`.
      shift: `[2]` (columns, rows) in 0..6; 3 leaves the image where it is.

    Returns:
      `[C, S, S]`. Source: DrQ-v2's random shift, as the official encoder uses it.
    """
    channels, height, width = image.shape
    pad = ((0, 0), (SHIFT_PAD, SHIFT_PAD), (SHIFT_PAD, SHIFT_PAD))
    padded = jnp.pad(image, pad, mode="edge")
    column, row = shift.astype(jnp.int32)
    return jax.lax.dynamic_slice(padded, (0, row, column), (channels, height, width))


def torch_conv_init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """PyTorch's default convolution init: uniform within 1 / sqrt(fan in); consumes `key`."""
    bound = (shape[0] * shape[1] * shape[2]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class PixelEncoder(nn.Module):
    """Four convolutions, flattened channel-first, then SimNorm."""

    channels: int
    simnorm_dim: int

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """Maps uint8-valued pixels `[..., C, 64, 64]` to latents `[..., 16 * channels]`."""
        lead = pixels.shape[:-3]
        x = pixels.reshape(-1, *pixels.shape[-3:]).astype(jnp.float32) / 255.0 - 0.5
        x = jnp.moveaxis(x, 1, -1)
        for i, (size, stride) in enumerate(CONVOLUTIONS):
            kernel = self.param(
                f"conv_{i}_kernel", torch_conv_init, (size, size, x.shape[-1], self.channels)
            )
            bound = (size * size * x.shape[-1]) ** -0.5
            bias = self.param(
                f"conv_{i}_bias",
                lambda key, shape, b=bound: jax.random.uniform(key, shape, jnp.float32, -b, b),
                (self.channels,),
            )
            if i:
                x = jax.nn.relu(x)
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ) + bias.reshape(1, 1, 1, -1)
        # The official network flattens [C, h, w]; converted weights rely on that order.
        x = jnp.moveaxis(x, -1, 1).reshape(*lead, -1)
        return simnorm(x, self.simnorm_dim)
