"""Parts shared by the correctors' networks (spec: speculation, "correctors")."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from specmpc_jax.types import Array


class Embedding(nn.Module):
    """Dense layers with SiLU, `[..., F] -> [..., width]`."""

    width: int
    num_layers: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        """Embeds x; consumes the `dropout` key unless deterministic."""
        for i in range(self.num_layers):
            x = nn.silu(nn.Dense(self.width, name=f"dense_{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
        return x


class GatedDelta(nn.Module):
    """Turns a context and an embedded action into a bounded change of the action.

    u and g come from the context; fused = g u + (1 - g) embed(a_plan), and
    delta = tanh(Dense(fused)).
    """

    width: int
    num_layers: int
    action_dim: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, context: Array, action: Array, *, deterministic: bool = True) -> Array:
        """Maps context `[..., C]` and embedded action `[..., width]` to delta `[..., A]`."""
        u = Embedding(self.width, self.num_layers, self.dropout, name="update")(
            context, deterministic=deterministic
        )
        gate = nn.sigmoid(nn.Dense(self.width, name="gate")(context))
        fused = gate * u + (1 - gate) * action
        # A zero start makes the untrained corrector the identity.
        head = nn.Dense(self.action_dim, kernel_init=nn.initializers.zeros, name="delta")
        return jnp.tanh(head(fused))


def one_hot_offset(offset: Array, count: int) -> Array:
    """Encodes offsets `[...]` as `[..., count]`; later offsets share the last entry."""
    return jax.nn.one_hot(jnp.minimum(offset, count - 1), count)
