"""Speculative execution as a pure state machine.

A plan is executed for up to X steps. At each later step the real latent is
compared with the predicted one, and the planned action is accepted, corrected,
or dropped together with the rest of the plan:

    mismatch <= tau_accept              accept
    tau_accept < mismatch <= tau_replan correct (accept, if there is no corrector)
    tau_replan < mismatch               replan

Exactly one plan is made per replan; it starts from the last plan's mean,
shifted by the steps really executed since. The executor sees functions of
latents only, no networks (spec: speculation).
"""

import enum
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.config import SpeculationConfig
from specmpc_jax.ops.lanes import on_lanes
from specmpc_jax.ops.sequences import shift_sequence
from specmpc_jax.speculation.mismatch import mismatch
from specmpc_jax.types import (
    Array,
    Block,
    CorrectFunction,
    CorrectionContext,
    PlanFunction,
    PlannedStep,
)


class Outcome(enum.IntEnum):
    """The three answers to a mismatch; planning at a block's start is a REPLAN."""

    ACCEPT = 0
    CORRECT = 1
    REPLAN = 2


@flax.struct.dataclass
class Thresholds:
    """Limits on the mismatch at offsets 1..X-1; entry 0 is not used."""

    accept: Array  # [X]
    replan: Array  # [X]


class Functions(NamedTuple):
    """What the executor is given to act with."""

    plan: PlanFunction
    correct: CorrectFunction | None


@flax.struct.dataclass
class ExecutorState:
    """Everything that one controlled environment carries from step to step."""

    key: Array  # never consumed itself; each step folds in its number
    step: Array  # [] int, steps of the episode so far
    offset: Array  # [] int, steps executed of the block; X when it is used up
    block: Block
    window: PlannedStep  # [W, ...] newest last
    window_mask: Array  # [W] bool


@flax.struct.dataclass
class StepInfo:
    """What happened at one step."""

    outcome: Array  # [] int, an `Outcome`
    block_end: Array  # [] bool, a plan was due anyway; a REPLAN without it is a mismatch
    mismatch: Array  # [] distance to the prediction, 0 where there was none
    planned: PlannedStep  # the step as the corrector sees it
    blind: Array | bool = False  # [] bool, no usable observation: see `speculation.blind`

    @property
    def offset(self) -> Array:
        """Steps since the plan was made, `[]`; 0 where one was just made."""
        return self.planned.offset


def initial_state(
    config: SpeculationConfig, key: Array, latent_dim: int, action_dim: int, horizon: int
) -> ExecutorState:
    """State before an episode's first step; keeps `key` for all of its steps."""
    x, w = config.exec_horizon, config.history_len
    return ExecutorState(
        key=key,
        step=jnp.zeros((), jnp.int32),
        offset=jnp.full((), x, jnp.int32),
        block=Block(
            actions=jnp.zeros((x, action_dim)),
            latents=jnp.zeros((x, latent_dim)),
            mean=jnp.zeros((horizon, action_dim)),
            std=jnp.zeros((horizon, action_dim)),
            value=jnp.zeros(()),
        ),
        window=PlannedStep(
            z_real=jnp.zeros((w, latent_dim)),
            z_pred=jnp.zeros((w, latent_dim)),
            a_plan=jnp.zeros((w, action_dim)),
            offset=jnp.zeros((w,), jnp.int32),
        ),
        window_mask=jnp.zeros((w,), bool),
    )


def step(
    config: SpeculationConfig,
    functions: Functions,
    thresholds: Thresholds,
    state: ExecutorState,
    z: Array,
) -> tuple[Array, ExecutorState, StepInfo]:
    """Controls one environment for one step.

    Args:
      config: static settings.
      functions: planner and corrector.
      thresholds: limits on the mismatch.
      state: the executor's state.
      z: latent `[L]` of the present observation.

    Returns:
      The action `[A]`, the next state and what happened. Only the branch that
      is taken runs; under `vmap` both would, see `batched_step`.
    """
    outcome, block_end, distance = _judge(config, functions, thresholds, state, z)
    block = jax.lax.cond(
        outcome == Outcome.REPLAN, lambda: plan(functions, state, z), lambda: state.block
    )
    state, planned = _enter(state, outcome, block, z)
    action = planned.a_plan
    if functions.correct is not None:
        action = jax.lax.cond(
            outcome == Outcome.CORRECT, lambda: correct(functions, state, planned), lambda: action
        )
    return action, state, StepInfo(outcome, block_end, distance, planned)


def batched_step(
    config: SpeculationConfig,
    functions: Functions,
    thresholds: Thresholds,
    state: ExecutorState,
    z: Array,
) -> tuple[Array, ExecutorState, StepInfo]:
    """Controls B environments for one step, planning only for the lanes that need it.

    Args:
      config: static settings.
      functions: planner and corrector, unbatched.
      thresholds: limits on the mismatch, shared by all lanes.
      state: states with a leading axis B.
      z: latents `[B, L]`.

    Returns:
      Actions `[B, A]`, next states and infos with a leading axis B; lane i
      equals `step` on lane i.
    """
    outcome, block_end, distance = jax.vmap(
        lambda state, z: _judge(config, functions, thresholds, state, z)
    )(state, z)
    block = on_lanes(
        lambda state, z: plan(functions, state, z),
        outcome == Outcome.REPLAN,
        (state, z),
        state.block,
    )
    state, planned = jax.vmap(_enter)(state, outcome, block, z)
    action = planned.a_plan
    if functions.correct is not None:
        action = on_lanes(
            lambda state, planned: correct(functions, state, planned),
            outcome == Outcome.CORRECT,
            (state, planned),
            action,
        )
    return action, state, StepInfo(outcome, block_end, distance, planned)


def _judge(
    config: SpeculationConfig,
    functions: Functions,
    thresholds: Thresholds,
    state: ExecutorState,
    z: Array,
) -> tuple[Array, Array, Array]:
    """Decides the outcome of a step; also whether the block has ended, and the mismatch."""
    block_end = state.offset >= config.exec_horizon
    offset = jnp.minimum(state.offset, config.exec_horizon - 1)
    latents = state.block.latents
    distance = mismatch(config.mismatch, z, latents[offset], latents[0])
    distance = jnp.where(block_end, 0.0, distance)
    outcome = decide(functions, thresholds, offset, distance)
    return jnp.where(block_end, Outcome.REPLAN, outcome), block_end, distance


def decide(functions: Functions, thresholds: Thresholds, offset: Array, distance: Array) -> Array:
    """The `Outcome` of a mismatch at an offset, `[]` int; a NaN replans."""
    middle = Outcome.ACCEPT if functions.correct is None else Outcome.CORRECT
    outcome = jnp.where(distance <= thresholds.accept[offset], Outcome.ACCEPT, middle)
    # Written so that a NaN mismatch replans.
    return jnp.where(distance <= thresholds.replan[offset], outcome, Outcome.REPLAN)


def plan(functions: Functions, state: ExecutorState, z: Array) -> Block:
    """Plans from a real latent `[L]`, warm-started by what is left of the last plan."""
    warm_start = shift_sequence(state.block.mean, state.offset)
    return functions.plan(z, warm_start, step_key(state.key, state.step, 0))


def correct(functions: Functions, state: ExecutorState, planned: PlannedStep) -> Array:
    """Mends the action of a step that `enter` has already counted."""
    context = CorrectionContext(
        step=planned,
        window=state.window,
        window_mask=state.window_mask,
        plan_mean=shift_sequence(state.block.mean, state.offset - 1),
    )
    return functions.correct(context, step_key(state.key, state.step, 1))


def step_key(key: Array, step: Array, use: int) -> Array:
    """The key of one use of randomness at one step; plans are use 0, corrections 1."""
    return jax.random.fold_in(jax.random.fold_in(key, step), use)


def _enter(
    state: ExecutorState, outcome: Array, block: Block, z: Array
) -> tuple[ExecutorState, PlannedStep]:
    return enter(state, jnp.where(outcome == Outcome.REPLAN, 0, state.offset), block, z)


def enter(
    state: ExecutorState, offset: Array, block: Block, z: Array, age: Array | int = 0
) -> tuple[ExecutorState, PlannedStep]:
    """Takes one step of a block and puts it into the corrector's window.

    Args:
      state: the state before the step.
      offset: `[]` int, which of the block's steps is taken.
      block: the block.
      z: the real latent `[L]`.
      age: how many steps the block's plan was made before the block begins.

    Returns:
      The state after the step, and the step as the corrector sees it.
    """
    planned = PlannedStep(z, block.latents[offset], block.actions[offset], offset + age)
    window = jax.tree.map(
        lambda past, new: jnp.concatenate([past[1:], new[None]]), state.window, planned
    )
    mask = jnp.concatenate([state.window_mask[1:], jnp.ones((1,), bool)])
    state = ExecutorState(
        key=state.key,
        step=state.step + 1,
        offset=offset + 1,
        block=block,
        window=window,
        window_mask=mask,
    )
    return state, planned
