"""Acceptance by value: what the Q ensemble thinks of the candidates at the real latent.

The mismatch asks how far the state is from where the plan expected it; a value
asks whether that matters. At the real latent the planned action, the corrected
one and the policy prior's mean are valued, and the best is executed; but what the
mismatch calls for gives way only to one that is clearly better. If even the best
is worth much less than the plan promised for this step, the plan is dropped: with
V = Q(predicted latent, planned action) and Q of candidates at the real latent,

    Q(other) - Q(preferred) > tolerance |V|    execute the other
    V - max Q(candidate) > tolerance |V|       replan

Without the margin, errors of the ensemble choose, and actions jump to and fro. All
sides are values of the same ensemble, so its bias cancels in part.
"""

import jax.numpy as jnp

from specmpc_jax.speculation.decisions import Decision
from specmpc_jax.types import Array, PlannedStep, ValueFunction

_BEST = (Decision.VALUE_PLANNED, Decision.VALUE_CORRECTED, Decision.VALUE_PRIOR)


def weigh(
    value: ValueFunction,
    tolerance: float,
    planned: PlannedStep,
    preferred: Array,
    corrected: Array,
    prior: Array,
) -> tuple[Array, Array]:
    """Chooses among three actions, or for a new plan.

    Args:
      value: values of actions at a latent.
      tolerance: how much values have to differ to matter, as a share of what was promised.
      planned: the step; latents `[L]`, planned action `[A]`.
      preferred: `[]` int, what the mismatch calls for: 0 the planned action, 1 the corrected.
      corrected: `[A]`; the planned action where there is no corrector.
      prior: `[A]`.

    Returns:
      A `Decision` `[]` and the chosen action `[A]`; a NaN replans.
    """
    candidates = jnp.stack([planned.a_plan, corrected, prior])
    values = value(planned.z_real, candidates)
    promised = value(planned.z_pred, planned.a_plan[None])[0]
    margin = tolerance * jnp.abs(promised)
    best = jnp.argmax(values)
    enough = promised - values[best] <= margin
    chosen = jnp.where(values[best] - values[preferred] > margin, best, preferred)
    decision = jnp.asarray(_BEST, jnp.int32)[chosen]
    return jnp.where(enough, decision, jnp.int32(Decision.VALUE_POOR)), candidates[chosen]
