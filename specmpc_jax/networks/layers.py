"""Building blocks of every TD-MPC2 head (spec section 2).

Linen modules define shapes and initial values; their parameters are plain
nested dicts with the names `layer_<i>/{kernel, bias, scale, offset}` for a
normed layer and `head/{kernel, bias}` for a plain last one.
"""

import flax.linen as nn

from specmpc_jax.ops.activations import layer_norm, mish, simnorm
from specmpc_jax.types import Array


class Linear(nn.Module):
    """Affine map `[..., F] -> [..., features]`."""

    features: int
    zero_kernel: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the map; the kernel starts at normal(0, 0.02) or at zero."""
        init = nn.initializers.zeros if self.zero_kernel else nn.initializers.normal(0.02)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class NormedLinear(nn.Module):
    """Linear map, dropout, LayerNorm; the caller applies the activation."""

    features: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Maps `[..., F] -> [..., features]`; consumes the `dropout` key unless deterministic."""
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        offset = self.param("offset", nn.initializers.zeros, (self.features,))
        x = x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))
        x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
        return layer_norm(x, scale, offset)


class MLP(nn.Module):
    """Normed hidden layers with Mish, then a plain or a SimNorm output layer.

    `simnorm_group` > 0 makes the last layer normed with SimNorm; otherwise it
    is a plain linear `head`. Dropout sits on the first layer only.
    """

    hidden: tuple[int, ...]
    out: int
    simnorm_group: int = 0
    dropout: float = 0.0
    zero_head: bool = False

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        """Maps `[..., F] -> [..., out]`; consumes the `dropout` key unless deterministic."""
        for i, width in enumerate(self.hidden):
            layer = NormedLinear(width, self.dropout if i == 0 else 0.0, name=f"layer_{i}")
            x = mish(layer(x, deterministic=deterministic))
        if self.simnorm_group:
            last = NormedLinear(self.out, name=f"layer_{len(self.hidden)}")
            return simnorm(last(x, deterministic=deterministic), self.simnorm_group)
        return Linear(self.out, self.zero_head, name="head")(x)
