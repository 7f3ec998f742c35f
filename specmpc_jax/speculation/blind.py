"""Steps without a usable observation: the plan goes on, and the next one is made anew.

An observation that is not finite, or whose latent is not, says nothing. The
answer is the action that the last plan has for the step:

    within the block                    the block's action
    beyond it, within the plan's H      the plan's mean
    beyond that, or before any plan     zero

The plan's predictions are then forgotten, so that the first usable observation
replans, warm-started by what is left of the mean. Correctors do not see the step.
"""

import dataclasses

import jax
import jax.numpy as jnp

from specmpc_jax.config import SpeculationConfig
from specmpc_jax.speculation.executor import ExecutorState, StepInfo
from specmpc_jax.types import Array

# What a step gives: action, next state, info.
Step = tuple[Array, ExecutorState, StepInfo]


def usable(observation: Array, z: Array) -> Array:
    """Whether observations `[..., D]` (pixels alike) and their latents `[..., L]` are finite.

    Returns:
      `[...]` bool.
    """
    leading = z.shape[:-1]
    finite = jnp.isfinite(observation).reshape(*leading, -1).all(axis=-1)
    return finite & jnp.isfinite(z).all(axis=-1)


def unless_blind(config: SpeculationConfig, seen: Array, before: ExecutorState, step: Step) -> Step:
    """The step that was taken, or the blind one in its place.

    Args:
      config: static settings.
      seen: whether the observation was usable, `[]` or `[B]` bool.
      before: the state before the step.
      step: what the executor did, on any latent.

    Returns:
      Action, next state and info; `info.blind` says which.
    """

    def choose(seen: Array, before: ExecutorState, step: Step) -> Step:
        blind = without_observation(config, before, step[2])
        return jax.tree.map(lambda a, b: jnp.where(seen, a, b), step, blind)

    action, after, info = step
    step = action, after, dataclasses.replace(info, blind=jnp.zeros_like(seen))
    return choose(seen, before, step) if seen.ndim == 0 else jax.vmap(choose)(seen, before, step)


def without_observation(config: SpeculationConfig, state: ExecutorState, like: StepInfo) -> Step:
    """One step on the plan alone.

    Args:
      config: static settings.
      state: the state before the step.
      like: an info of the same kind; its values do not matter.

    Returns:
      Action `[A]`, next state and info: an ACCEPT without latents or mismatch.
    """
    x, horizon = config.exec_horizon, state.block.mean.shape[0]
    offset = state.offset
    beyond = jnp.where(offset < horizon, state.block.mean[jnp.minimum(offset, horizon - 1)], 0.0)
    action = jnp.where(offset < x, state.block.actions[jnp.minimum(offset, x - 1)], beyond)
    unseen = jax.tree.map(lambda past: jnp.zeros_like(past[-1]), state.window)
    window = jax.tree.map(
        lambda past, new: jnp.concatenate([past[1:], new[None]]), state.window, unseen
    )
    after = dataclasses.replace(
        state,
        step=state.step + 1,
        offset=offset + 1,
        # A mismatch to these is NaN, which replans at any threshold.
        block=dataclasses.replace(state.block, latents=jnp.full_like(state.block.latents, jnp.nan)),
        window=window,
        window_mask=jnp.concatenate([state.window_mask[1:], jnp.zeros((1,), bool)]),
    )
    planned = unseen.replace(a_plan=action, offset=offset)
    info = jax.tree.map(jnp.zeros_like, like)
    return action, after, info.replace(planned=planned, blind=jnp.ones((), bool))
