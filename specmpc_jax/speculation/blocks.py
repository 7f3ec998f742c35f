"""Blocks: the actions that one plan is executed for, and the latents it expects."""

import jax.numpy as jnp

from specmpc_jax.types import Array, Block, Plan, PlanningModel


def block_from_plan(
    model: PlanningModel, plan: Plan, z: Array, exec_horizon: int, follow: str
) -> Block:
    """Unrolls a plan into the block that is executed from it.

    Args:
      model: the planning functions.
      plan: result of one planner call.
      z: latent `[L]` at which the plan was made.
      exec_horizon: X, the block's length; beyond the planning horizon the plan
        is continued with the policy prior's mean.
      follow: "elite" executes the sampled elite sequence, "mean" the mean.

    Returns:
      The `Block`; its first latent is z itself.
    """
    planned = plan.actions if follow == "elite" else plan.mean
    actions, latents = [planned[0]], [z]
    for offset in range(1, exec_horizon):
        _, z = model.step(z, actions[-1])
        action = planned[offset] if offset < planned.shape[0] else model.policy_mean(z)
        actions.append(action)
        latents.append(z)
    return Block(jnp.stack(actions), jnp.stack(latents), plan.mean, plan.std, plan.value)


def prior_block(model: PlanningModel, z: Array, mean: Array) -> Block:
    """A block of one step whose action is the policy prior's mean: no planning.

    Args:
      model: the planning functions.
      z: latent `[L]`.
      mean: `[H, A]`, passed through so that every block has the same fields.
    """
    action = model.policy_mean(z)
    return Block(action[None], z[None], mean, jnp.zeros_like(mean), jnp.zeros(()))
