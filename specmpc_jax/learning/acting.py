"""Actions while training: explore, with the planner or with the policy prior alone."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from specmpc_jax.config import ModelConfig, PlannerConfig
from specmpc_jax.ops.lanes import on_lanes, over_lanes
from specmpc_jax.ops.sequences import shift_sequence
from specmpc_jax.planning import fused_model, mppi
from specmpc_jax.types import Array, Params
from specmpc_jax.world_model import WorldModel


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="use_planner")
def explore(
    model: ModelConfig,
    planner: PlannerConfig,
    params: Params,
    observation: Array,
    mean: Array,
    first: Array,
    key: Array,
    *,
    use_planner: bool = True,
) -> tuple[Array, Array]:
    """Chooses one action in each of B environments.

    Args:
      model: architecture, static.
      planner: planner settings, static.
      params: parameter tree.
      observation: `[B, D]`, or pixels `[B, C, 64, 64]`.
      mean: the last plans' means `[B, H, A]`.
      first: whether an episode begins, `[B]` bool; its last plan does not count.
      key: consumed.
      use_planner: plan; False samples the policy prior.

    Returns:
      Actions `[B, A]` in [-1, 1] and the new means.
    """
    world_model = WorldModel(model)
    z = world_model.encode(params, observation)
    if not use_planner:
        noise = jax.random.normal(key, (len(observation), model.action_dim))
        return world_model.policy(params, z, noise).action, mean
    plan = _exploring_plan(model, planner, params)
    return over_lanes(plan, z, mean, first, jax.random.split(key, len(observation)))


def explore_lanes(
    model: ModelConfig,
    planner: PlannerConfig,
    params: Params,
    observation: Array,
    mean: Array,
    first: Array,
    keys: Array,
    need: Array,
    *,
    use_planner: bool = True,
) -> tuple[Array, Array]:
    """`explore` for those lanes that wait for an action, each with a key of its own.

    Args:
      model: architecture, static.
      planner: planner settings, static.
      params: parameter tree.
      observation: as for `explore`; rows of lanes in no need are not looked at.
      mean: the last plans' means `[B, H, A]`.
      first: whether an episode begins, `[B]` bool.
      keys: `[B]`, consumed.
      need: which lanes want an action, `[B]` bool.
      use_planner: plan; False samples the policy prior.

    Returns:
      Actions `[B, A]`, zero in lanes in no need, and the means, kept in those.
    """
    world_model = WorldModel(model)
    z = world_model.encode(params, observation)
    action = jnp.zeros((len(observation), model.action_dim))
    if not use_planner:
        noise = jax.vmap(lambda key: jax.random.normal(key, action.shape[1:]))(keys)
        drawn = world_model.policy(params, z, noise).action
        return jnp.where(need[:, None], drawn, action), mean
    plan = _exploring_plan(model, planner, params)
    return on_lanes(plan, need, (z, mean, first, keys), (action, mean))


def _exploring_plan(
    model: ModelConfig, planner: PlannerConfig, params: Params
) -> Callable[[Array, Array, Array, Array], tuple[Array, Array]]:
    """A function that plans in one lane; its key is consumed."""
    prepared = fused_model.prepare(model, params)
    functions = fused_model.planning_model(model, prepared, jnp.zeros((), jnp.int32))

    def plan(z: Array, mean: Array, first: Array, key: Array) -> tuple[Array, Array]:
        warm_start = jnp.where(first, 0.0, shift_sequence(mean, jnp.ones((), jnp.int32)))
        noise = mppi.draw_noise(key, planner, model.action_dim, model.num_q)
        result = mppi.plan(functions, planner, z, warm_start, noise, explore=True)
        return result.action, result.mean

    return plan
