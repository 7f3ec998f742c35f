"""Acceptance by value: what the Q ensemble thinks of the candidates at the real latent.

The mismatch asks how far the state is from where the plan expected it; a value
asks whether that matters. At the real latent the planned action, the corrected
one and the policy prior's mean are valued, and the best is executed. If even
that one is worth much less than the plan promised for this step, the plan is
dropped: with V = Q(predicted latent, planned action),

    V - max Q(real latent, candidate) > tolerance |V|    replan

Both sides are values of the same ensemble, so its bias cancels in part.
"""

import jax.numpy as jnp

from specmpc_jax.speculation.decisions import Decision
from specmpc_jax.types import Array, PlannedStep, ValueFunction

_BEST = (Decision.VALUE_PLANNED, Decision.VALUE_CORRECTED, Decision.VALUE_PRIOR)


def weigh(
    value: ValueFunction, tolerance: float, planned: PlannedStep, corrected: Array, prior: Array
) -> tuple[Array, Array]:
    """Chooses among three actions, or for a new plan.

    Args:
      value: values of actions at a latent.
      tolerance: how much less than promised the best may be worth, as a share.
      planned: the step; latents `[L]`, planned action `[A]`.
      corrected: `[A]`; the planned action where there is no corrector.
      prior: `[A]`.

    Returns:
      A `Decision` `[]` and the best action `[A]`. Of equal values the first
      wins; a NaN replans.
    """
    candidates = jnp.stack([planned.a_plan, corrected, prior])
    values = value(planned.z_real, candidates)
    promised = value(planned.z_pred, planned.a_plan[None])[0]
    best = jnp.argmax(values)
    enough = promised - values[best] <= tolerance * jnp.abs(promised)
    decision = jnp.asarray(_BEST, jnp.int32)[best]
    return jnp.where(enough, decision, jnp.int32(Decision.VALUE_POOR)), candidates[best]
