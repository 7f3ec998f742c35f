"""Scores of action sequences imagined by a model (spec section 7, step 3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from specmpc_jax.types import Array, PlanningModel


class Rollout(NamedTuple):
    """Imagined sequences before their terminal value is known."""

    actions: Array  # [H, N, A]
    returns: Array  # [N] discounted rewards of the H steps
    z: Array  # [N, L] last latent
    weight: Array  # [N] discount of the terminal value, 0 where the episode has ended


def roll_out(
    model: PlanningModel,
    z: Array,
    inputs: Array,
    choose: Callable[[Array, Array], Array] = lambda z, action: action,
    start: Any = None,
) -> Rollout:
    """Imagines N sequences from one state and sums their rewards.

    Args:
      model: the planning functions.
      z: start latent `[L]` of all sequences, or one each `[N, L]`.
      inputs: `[H, N, A]`, what `choose` gets at each step.
      choose: maps latents and inputs to actions `[N, A]`. By default the
        inputs are the actions; `model.policy` makes them the policy's noise.
      start: `model.share(z)`, if it is at hand.
    """
    count = inputs.shape[1]
    returns, weight = jnp.zeros(count), jnp.ones(count)
    actions = []
    # H is small and static. Unrolled, the first step can share the work of its one latent.
    for step_input in inputs:
        actions.append(choose(z, step_input))
        reward, z = model.step(z if start is None else start, actions[-1])
        start = None
        returns = returns + weight * reward
        weight = weight * model.discount
        if model.termination is not None:
            weight = jnp.where(model.termination(z) > 0.5, 0.0, weight)
    return Rollout(jnp.stack(actions), returns, z, weight)


def terminal_value(model: PlanningModel, rollout: Rollout, noise: Array, members: Array) -> Array:
    """Adds the value of the last latent under a sampled policy action.

    Args:
      model: the planning functions.
      rollout: N imagined sequences.
      noise: standard normals `[N, A]` of the last action.
      members: `[2]`, the Q members that are averaged.

    Returns:
      Values `[N]`.
    """
    action = model.policy(rollout.z, noise)
    return rollout.returns + rollout.weight * model.value(rollout.z, action, members)
