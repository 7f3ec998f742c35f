"""Planning one block ahead, as a pure state machine.

While a block of X steps is executed, the next one is planned from the latent
that the present block is predicted to end in:

    step 0     the block begins: `plan_ahead` is started for the next one
    step 1..   `follow` executes the block
    step X     the next block has arrived; its first latent is compared with the
               real one, as the executor compares the latents within a block

A block that was planned ahead is X steps older than its first step: at its step
k the mismatch, its thresholds and the corrector all see the offset X + k, and
the distance travelled counts from the last real latent that the plan has seen.
A mismatch beyond the threshold, early or late in a block, drops the block and
the plan that is under way, and `replan` plans on the spot.

With a perfect model this is the executor: the same keys, warm starts and
actions. Nothing here knows of threads or time.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.config import SpeculationConfig
from specmpc_jax.ops.sequences import shift_sequence
from specmpc_jax.speculation import executor
from specmpc_jax.speculation.decisions import Decision, outcome_of
from specmpc_jax.speculation.executor import (
    ExecutorState,
    Functions,
    StepInfo,
    Thresholds,
)
from specmpc_jax.speculation.mismatch import mismatch
from specmpc_jax.types import Array, Block

# (z [L], a [A]) -> next z [L]
PredictFunction = Callable[[Array, Array], Array]


@flax.struct.dataclass
class PipelineState:
    """Everything that one environment carries from step to step, but the plan under way."""

    execution: ExecutorState
    age: Array  # [] int, steps from the plan's observation to the block's start: X or 0
    origin: Array  # [L] the last real latent that the block's plan has seen
    start: Array  # [L] the real latent at the block's first step


def initial_state(
    config: SpeculationConfig, key: Array, latent_dim: int, action_dim: int, horizon: int
) -> PipelineState:
    """State before an episode's first step, which calls for `replan`; keeps `key`."""
    z = jnp.zeros((latent_dim,))
    execution = executor.initial_state(config, key, latent_dim, action_dim, horizon)
    return PipelineState(execution, jnp.zeros((), jnp.int32), z, z)


def offsets(exec_horizon: int) -> int:
    """How many offsets there are, and so thresholds: the block's age counts as well."""
    return 2 * exec_horizon


def follow(
    config: SpeculationConfig,
    functions: Functions,
    thresholds: Thresholds,
    state: PipelineState,
    arriving: Block,
    z: Array,
) -> tuple[Array, PipelineState, StepInfo]:
    """Executes the next step of the block, or the first one of the block that arrives.

    Args:
      config: static settings.
      functions: planner and corrector.
      thresholds: limits on the mismatch at offsets 0..2X-1, `[2X]`.
      state: a block must have been begun in it.
      arriving: result of `plan_ahead`; any block where the present one goes on.
      z: latent `[L]` of the present observation.

    Returns:
      The action `[A]`, the next state and what happened. If the outcome is
      REPLAN, action and state mean nothing: `replan` takes the old state.
    """
    before, x = state.execution, config.exec_horizon
    block_end = before.offset >= x
    block = jax.tree.map(lambda new, old: jnp.where(block_end, new, old), arriving, before.block)
    offset = jnp.where(block_end, 0, before.offset)
    age = jnp.where(block_end, x, state.age)
    origin = jnp.where(block_end, state.start, state.origin)
    distance = mismatch(config.mismatch, z, block.latents[offset], origin)
    limit = thresholds.replan[offset + age]
    decision = executor.decide(functions, thresholds.accept[offset + age], limit, distance)
    execution, planned = executor.enter(before, offset, block, z, age, origin)
    action = planned.a_plan
    if functions.correct is not None:
        action = jax.lax.cond(
            decision == Decision.CORRECTED,
            lambda: executor.correct(functions, execution, planned),
            lambda: action,
        )
    start = jnp.where(block_end, z, state.start)
    after = PipelineState(execution, age, origin, start)
    info = StepInfo(outcome_of(decision), decision, block_end, distance, limit, planned)
    return action, after, info


def replan(
    config: SpeculationConfig,
    functions: Functions,
    state: PipelineState,
    z: Array,
    distance: Array | float = 0.0,
    limit: Array | float = jnp.inf,
) -> tuple[Array, PipelineState, StepInfo]:
    """Plans on the spot and executes the first step of the new block.

    Args:
      config: static settings.
      functions: planner and corrector.
      state: the state before the step.
      z: latent `[L]` of the present observation.
      distance: the mismatch that is the reason, for the record; 0 if there was none.
      limit: what it exceeded, likewise.

    Returns:
      As `follow`; the offset is 0.
    """
    block_end = state.execution.offset >= config.exec_horizon
    block = executor.plan(functions, state.execution, z)
    execution, planned = executor.enter(state.execution, jnp.zeros((), jnp.int32), block, z)
    after = PipelineState(execution, jnp.zeros((), jnp.int32), z, z)
    # Without a mismatch, the block has ended and none was planned ahead.
    distance = jnp.asarray(distance, jnp.float32)
    decision = jnp.where(distance == 0, jnp.int32(Decision.BLOCK_END), jnp.int32(Decision.MISMATCH))
    limit = jnp.asarray(limit, jnp.float32)
    info = StepInfo(outcome_of(decision), decision, block_end, distance, limit, planned)
    return planned.a_plan, after, info


def plan_ahead(
    config: SpeculationConfig,
    functions: Functions,
    predict: PredictFunction,
    state: PipelineState,
    action: Array,
) -> Block:
    """Plans the next block from the latent that the present one is predicted to end in.

    The warm start is the present plan's mean, shifted by the whole block; the
    key is the one that the executor would plan with at that step.

    Args:
      config: static settings.
      functions: planner and corrector.
      predict: the model's dynamics.
      state: the state after the present block's first step.
      action: the action `[A]` of that step, corrected or not.

    Returns:
      The next block; its first latent is the prediction that it was planned from.
    """
    now, x = state.execution, config.exec_horizon
    z = predict(state.start, action)
    for planned in now.block.actions[1:]:
        z = predict(z, planned)
    key = executor.step_key(now.key, now.step - 1 + x, 0)
    return functions.plan(z, shift_sequence(now.block.mean, x), key)
