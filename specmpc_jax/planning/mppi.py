"""Model-predictive path integral planning, as TD-MPC2 does it (spec section 7).

The planner knows model functions, not networks, and is unbatched: batch it
with `ops.lanes`. All randomness is drawn beforehand by `draw_noise`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specmpc_jax.config import PlannerConfig
from specmpc_jax.planning.trajectory_value import Rollout, roll_out, terminal_value
from specmpc_jax.types import Array, Plan, PlannerNoise, PlanningModel


class Iteration(NamedTuple):
    """State after one MPPI iteration."""

    mean: Array  # [H, A]
    std: Array  # [H, A]
    values: Array  # [N]
    elite_values: Array  # [E] descending
    scores: Array  # [E] weights of the elites, summing to one
    elite_actions: Array  # [H, E, A]


def draw_noise(key: Array, config: PlannerConfig, action_dim: int, num_q: int) -> PlannerNoise:
    """Draws every random number of one plan; consumes `key`."""
    normal_key, gumbel_key, first_key, second_key = jax.random.split(key, 4)
    iterations, horizon = config.iterations, config.horizon
    explored = config.num_samples - config.num_pi_trajs
    shapes = {
        "policy": (horizon, config.num_pi_trajs, action_dim),
        "samples": (iterations, horizon, explored, action_dim),
        "value": (iterations, config.num_samples, action_dim),
        "exploration": (action_dim,),
    }
    # One draw for all normals: each draw is compiled apart, and that takes longer than drawing.
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = jnp.split(jax.random.normal(normal_key, (int(ends[-1]),)), ends[:-1])
    normals = {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    first = jax.random.randint(first_key, (iterations,), 0, num_q)
    second = first + 1 + jax.random.randint(second_key, (iterations,), 0, num_q - 1)
    return PlannerNoise(
        members=jnp.stack([first, second % num_q], axis=-1),
        gumbel=jax.random.gumbel(gumbel_key, (config.num_elites,)),
        **normals,
    )


def plan(
    model: PlanningModel,
    config: PlannerConfig,
    z: Array,
    mean: Array,
    noise: PlannerNoise,
    *,
    explore: bool = False,
    initial_std: float | None = None,
) -> Plan:
    """Finds an action sequence for one latent state.

    Args:
      model: the planning functions of one task.
      config: planner settings, static.
      z: latent `[L]`.
      mean: warm start `[H, A]`: the last plan's mean, shifted by the steps executed
        since (`ops.sequences.shift_sequence`); zeros at an episode's start.
      noise: the plan's random numbers, see `draw_noise`.
      explore: add the planner's own std to the executed action, for training.
      initial_std: std of the first iteration's samples; `config.max_std` if None.

    Returns:
      The `Plan`; unexplored, its action is the first of a sampled elite.
    """
    last, _ = optimise(model, config, z, mean, noise, initial_std=initial_std)
    return draw_elite(model, z, last, noise, explore=explore)


def draw_elite(
    model: PlanningModel, z: Array, last: Iteration, noise: PlannerNoise, *, explore: bool = False
) -> Plan:
    """Draws one elite of the last iteration and predicts the latents that it visits.

    Args: `last` from `optimise`; the others as in `plan`.
    """
    chosen = jnp.argmax(jnp.log(last.scores) + noise.gumbel)
    actions = last.elite_actions[:, chosen]
    if explore:
        actions = actions.at[0].add(last.std[0] * noise.exploration)
    actions = jnp.clip(actions, -1.0, 1.0)
    latents = [z]
    for action in actions:
        latents.append(model.step(latents[-1], action)[1])
    return Plan(
        action=actions[0],
        actions=actions,
        latents=jnp.stack(latents),
        mean=last.mean,
        std=last.std,
        elite_values=last.elite_values,
        value=jnp.sum(last.scores * last.elite_values),
    )


def optimise(
    model: PlanningModel,
    config: PlannerConfig,
    z: Array,
    mean: Array,
    noise: PlannerNoise,
    *,
    initial_std: float | None = None,
    trace: bool = False,
) -> tuple[Iteration, Iteration | None]:
    """Runs the MPPI iterations; shapes as in `plan`.

    Args: `trace` asks for every iteration, which a plan does not need; the others as in `plan`.

    Returns:
      The last `Iteration`, and all of them with a leading axis I on every field, or None.
    """
    # The prior's sequences are the same in every iteration, and so are their rewards and
    # last latents; only their terminal value is drawn anew.
    start = model.share(z)
    prior = roll_out(model, z, noise.policy, model.policy, start)
    std = jnp.full_like(mean, config.max_std if initial_std is None else initial_std)

    def iterate(last: Iteration, step_noise: tuple) -> tuple[Iteration, Iteration | None]:
        samples, value_noise, members = step_noise
        actions = jnp.clip(last.mean[:, None] + last.std[:, None] * samples, -1.0, 1.0)
        if model.action_mask is not None:
            actions = actions * model.action_mask.reshape(1, 1, -1)
        rollout = _join(prior, roll_out(model, z, actions, start=start))
        values = jnp.nan_to_num(terminal_value(model, rollout, value_noise, members))
        result = _refit(model, config, rollout.actions, values)
        return result, result if trace else None

    elites = jnp.zeros(config.num_elites)
    begin = Iteration(
        mean=mean,
        std=std,
        values=jnp.zeros(config.num_samples),
        elite_values=elites,
        scores=elites,
        elite_actions=jnp.zeros((mean.shape[0], config.num_elites, mean.shape[1])),
    )
    return jax.lax.scan(iterate, begin, (noise.samples, noise.value, noise.members))


def _join(first: Rollout, second: Rollout) -> Rollout:
    """Concatenates two sets of sequences; actions have their N axis second."""
    return Rollout(
        jnp.concatenate([first.actions, second.actions], axis=1),
        *(jnp.concatenate(pair) for pair in zip(first[1:], second[1:], strict=True)),
    )


def _refit(model: PlanningModel, config: PlannerConfig, actions: Array, values: Array) -> Iteration:
    """Fits mean and std `[H, A]` to the elites among actions `[H, N, A]`."""
    elite_values, index = jax.lax.top_k(values, config.num_elites)
    elites = actions[:, index]
    scores = jax.nn.softmax(config.temperature * elite_values)
    weights = scores.reshape(1, -1, 1)
    mean = jnp.sum(weights * elites, axis=1)
    variance = jnp.sum(weights * jnp.square(elites - mean[:, None]), axis=1)
    std = jnp.clip(jnp.sqrt(variance), config.min_std, config.max_std)
    if model.action_mask is not None:
        mean, std = mean * model.action_mask[None], std * model.action_mask[None]
    return Iteration(mean, std, values, elite_values, scores, elites)
