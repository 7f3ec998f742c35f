"""The gated corrector: what bc knows, against a mended plan, weighed by a learned trust.

Two experts and a referee, each with a loss of its own (see `losses`):

- the **proposal** is bc: the teacher's action from the real latent alone;
- the **correction** moves the planned action by at most `correction_bound`;
- the **trust** in the plan is one number for the whole action, from the plan's
  age, the scale-free mismatch and how far the two experts disagree.

A gate that mixes such experts and is trained through the mixture did worse than
either (spec: speculation, "a quick study"). It can go wrong in three ways, each of
which is avoided here. An expert learns only as much as the gate lets through: so
each has its own loss. The gate sees both on rows they have learned by heart, where
the one that memorises better looks better: so the referee is fitted to episodes
that the experts have not seen (they learn from them later, while it stays as it
is), and sees only a few numbers, which cannot tell one row from another. A gate for
each unit mixes halves of two different actions: so there is one for the whole.

Without evidence for the plan it is bc: the trust starts low and weight decay
pulls it back there.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.config import CorrectorConfig
from specmpc_jax.correctors.bc import propose
from specmpc_jax.correctors.layers import Embedding, one_hot_offset
from specmpc_jax.types import Array, CorrectionContext


@flax.struct.dataclass
class GatedParts:
    """What the corrector weighs."""

    proposal: Array  # [..., A] in [-1, 1], without the plan
    correction: Array  # [..., A] the plan, moved a little; unclipped
    trust: Array  # [...] in (0, 1), weight of the correction

    def action(self) -> Array:
        """The weighted action `[..., A]`."""
        step = jnp.clip(self.correction, -1.0, 1.0) - self.proposal
        return self.proposal + self.trust[..., None] * step


class Gated(nn.Module):
    """Corrects one action as far as the plan deserves trust, and proposes one of its own else."""

    config: CorrectorConfig

    def __call__(self, context: CorrectionContext, *, deterministic: bool = True) -> Array:
        """Returns the corrected action `[..., A]`."""
        return self.parts(context, deterministic=deterministic).action()

    @nn.compact
    def parts(self, context: CorrectionContext, *, deterministic: bool = True) -> GatedParts:
        """Returns proposal, correction and trust; no gradient leads from the trust to the others.

        Consumes the `dropout` key unless deterministic.
        """
        config, step = self.config, context.step
        proposal = propose(config, step.z_real, deterministic)
        correction = step.a_plan + self._change(context, deterministic)
        return GatedParts(proposal, correction, self._trust(context, proposal, correction))

    def _change(self, context: CorrectionContext, deterministic: bool) -> Array:
        """How far the planned action is moved, `[..., A]`; 0 at the start of training."""
        config, step = self.config, context.step

        def embed(x: Array, name: str) -> Array:
            layer = Embedding(config.hidden_dim, config.num_layers, config.dropout, name=name)
            return layer(x, deterministic=deterministic)

        features = [
            embed(step.z_real, "real"),
            embed(config.difference_scale * (step.z_real - step.z_pred), "difference"),
            embed(step.a_plan, "plan"),
            jnp.log1p(step.mismatch)[..., None],
        ]
        if config.use_offset:
            features.append(one_hot_offset(step.offset, config.max_offset))
        x = embed(jnp.concatenate(features, axis=-1), "fusion")
        head = nn.Dense(config.action_dim, kernel_init=nn.initializers.zeros, name="delta")
        return config.correction_bound * jnp.tanh(head(x))

    def _trust(self, context: CorrectionContext, proposal: Array, correction: Array) -> Array:
        config, step = self.config, context.step
        proposal, correction = jax.lax.stop_gradient((proposal, correction))
        features = [
            jnp.log1p(step.mismatch)[..., None],
            jnp.mean(jnp.abs(step.a_plan - proposal), axis=-1, keepdims=True),
            jnp.mean(jnp.abs(correction - proposal), axis=-1, keepdims=True),
        ]
        if config.use_offset:
            features.append(one_hot_offset(step.offset, config.max_offset))
        x = nn.Dense(config.trust_dim, name="trust_hidden")(jnp.concatenate(features, axis=-1))
        head = nn.Dense(1, kernel_init=nn.initializers.zeros, name="trust")
        # The bias stands outside the layer, where weight decay cannot wear it down.
        return nn.sigmoid(head(nn.silu(x))[..., 0] + config.trust_bias)
