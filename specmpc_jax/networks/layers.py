"""Building blocks of every TD-MPC2 head (spec section 2).

Linen modules define shapes and initial values; their parameters are plain
nested dicts with the names `layer_<i>/{kernel, bias, scale, offset}` for a
normed layer and `head/{kernel, bias}` for a plain last one.
"""

import flax.linen as nn

from specmpc_jax.ops.activations import layer_norm, mish, simnorm
from specmpc_jax.ops.dropout import Rows, dropout
from specmpc_jax.ops.linear import affine
from specmpc_jax.types import Array


class Linear(nn.Module):
    """Affine map of one or more inputs side by side, `[..., F] -> [..., features]`."""

    features: int
    zero_kernel: bool = False

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        """Applies the map; the kernel starts at normal(0, 0.02) or at zero."""
        init = nn.initializers.zeros if self.zero_kernel else nn.initializers.normal(0.02)
        width = sum(part.shape[-1] for part in parts)
        kernel = self.param("kernel", init, (width, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return affine(parts, kernel, bias)


class NormedLinear(nn.Module):
    """Linear map, dropout, LayerNorm; the caller applies the activation."""

    features: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, *parts: Array, deterministic: bool, rows: Rows | None = None) -> Array:
        """Maps `[..., F] -> [..., features]`; consumes the `dropout` key unless deterministic.

        `rows` tells dropout which part of its batch this is.
        """
        width = sum(part.shape[-1] for part in parts)
        kernel = self.param("kernel", nn.initializers.normal(0.02), (width, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        offset = self.param("offset", nn.initializers.zeros, (self.features,))
        x = affine(parts, kernel, bias)
        if self.dropout and not deterministic:
            x = dropout(x, self.dropout, self.make_rng("dropout"), rows)
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
    def __call__(
        self, *parts: Array, deterministic: bool = True, rows: Rows | None = None
    ) -> Array:
        """Maps inputs that stand side by side, `[..., F] -> [..., out]`.

        Consumes the `dropout` key unless deterministic; `rows` tells dropout which part of
        its batch this is.
        """
        x = parts
        for i, width in enumerate(self.hidden):
            layer = NormedLinear(width, self.dropout if i == 0 else 0.0, name=f"layer_{i}")
            x = (mish(layer(*x, deterministic=deterministic, rows=rows)),)
        if self.simnorm_group:
            last = NormedLinear(self.out, name=f"layer_{len(self.hidden)}")
            return simnorm(last(*x, deterministic=deterministic), self.simnorm_group)
        return Linear(self.out, self.zero_head, name="head")(*x)
