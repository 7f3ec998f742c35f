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

With a `replan_rate`, tau_replan is multiplied by a tolerance that follows the
mismatch: each comparison moves its logarithm by gain * (missed - rate), so that
the share of misses tends to the rate whatever the mismatch does (online quantile
tracking, as in Angelopoulos et al., Conformal PID control, NeurIPS 2023). With a `value_tolerance`,
`valued` has the last word where the mismatch drops no plan.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from specmpc_jax.config import SpeculationConfig
from specmpc_jax.ops.lanes import on_lanes
from specmpc_jax.ops.sequences import shift_sequence
from specmpc_jax.speculation import valued
from specmpc_jax.speculation.decisions import Decision, outcome_of, replans
from specmpc_jax.speculation.mismatch import mismatch
from specmpc_jax.types import (
    Array,
    Block,
    CorrectFunction,
    CorrectionContext,
    PlanFunction,
    PlannedStep,
    ValueFunction,
)

# The adapted tolerance stays within these factors of the given thresholds.
TOLERANCE_RANGE = (1e-3, 1e3)


@flax.struct.dataclass
class Thresholds:
    """Limits on the mismatch at offsets 1..X-1; entry 0 is not used."""

    accept: Array  # [X]
    replan: Array  # [X]


class Functions(NamedTuple):
    """What the executor is given to act with; the last two only for decisions by value."""

    plan: PlanFunction
    correct: CorrectFunction | None
    value: ValueFunction | None = None
    prior: Callable[[Array], Array] | None = None  # (z [L]) -> the policy prior's mean [A]


@flax.struct.dataclass
class ExecutorState:
    """Everything that one controlled environment carries from step to step."""

    key: Array  # never consumed itself; each step folds in its number
    step: Array  # [] int, steps of the episode so far
    offset: Array  # [] int, steps executed of the block; X when it is used up
    block: Block
    window: PlannedStep  # [W, ...] newest last
    window_mask: Array  # [W] bool
    tolerance: Array  # [] factor on tau_replan; 1 unless it is adapted


@flax.struct.dataclass
class StepInfo:
    """What happened at one step."""

    outcome: Array  # [] int, an `Outcome`
    decision: Array  # [] int, a `Decision`: the outcome and its reason
    block_end: Array  # [] bool, a plan was due anyway
    mismatch: Array  # [] distance to the prediction, 0 where there was none
    limit: Array  # [] mismatch beyond which the plan would have been dropped
    planned: PlannedStep  # the step as the corrector sees it
    blind: Array | bool = False  # [] bool, no usable observation: see `speculation.blind`

    @property
    def offset(self) -> Array:
        """Steps since the plan was made, `[]`; 0 where one was just made."""
        return self.planned.offset


class _Judgement(NamedTuple):
    """What the mismatch says of one step."""

    decision: Array  # [] int
    block_end: Array  # [] bool
    distance: Array  # []
    limit: Array  # []
    tolerance: Array  # [] for the next step


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
            mismatch=jnp.zeros((w,)),
        ),
        window_mask=jnp.zeros((w,), bool),
        tolerance=jnp.ones(()),
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
    judged = _judge(config, functions, thresholds, state, z)
    decision, best = judged.decision, None
    if config.value_tolerance is not None:
        undecided = (decision, jnp.zeros_like(state.block.actions[0]))
        decision, best = jax.lax.cond(
            replans(decision),
            lambda: undecided,
            lambda: _weigh(config, functions, decision, state, z),
        )
    replan = replans(decision)
    block = jax.lax.cond(replan, lambda: plan(functions, state, z), lambda: state.block)
    state, planned = _enter(state, replan, block, z, judged.tolerance)
    action = planned.a_plan
    if best is not None:
        action = jnp.where(replan, action, best)
    elif functions.correct is not None:
        action = jax.lax.cond(
            decision == Decision.CORRECTED,
            lambda: correct(functions, state, planned),
            lambda: action,
        )
    return action, state, _info(judged, decision, planned)


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
    judged = jax.vmap(lambda state, z: _judge(config, functions, thresholds, state, z))(state, z)
    decision, best = judged.decision, None
    if config.value_tolerance is not None:
        decision, best = on_lanes(
            lambda decision, state, z: _weigh(config, functions, decision, state, z),
            ~replans(decision),
            (decision, state, z),
            (decision, jnp.zeros_like(state.block.actions[:, 0])),
        )
    replan = replans(decision)
    block = on_lanes(lambda state, z: plan(functions, state, z), replan, (state, z), state.block)
    state, planned = jax.vmap(_enter)(state, replan, block, z, judged.tolerance)
    action = planned.a_plan
    if best is not None:
        action = jnp.where(replan[:, None], action, best)
    elif functions.correct is not None:
        action = on_lanes(
            lambda state, planned: correct(functions, state, planned),
            decision == Decision.CORRECTED,
            (state, planned),
            action,
        )
    return action, state, _info(judged, decision, planned)


def _info(judged: _Judgement, decision: Array, planned: PlannedStep) -> StepInfo:
    return StepInfo(
        outcome=outcome_of(decision),
        decision=decision,
        block_end=judged.block_end,
        mismatch=judged.distance,
        limit=judged.limit,
        planned=planned,
    )


def _judge(
    config: SpeculationConfig,
    functions: Functions,
    thresholds: Thresholds,
    state: ExecutorState,
    z: Array,
) -> _Judgement:
    block_end = state.offset >= config.exec_horizon
    offset = jnp.minimum(state.offset, config.exec_horizon - 1)
    latents = state.block.latents
    distance = mismatch(config.mismatch, z, latents[offset], latents[0])
    distance = jnp.where(block_end, 0.0, distance)
    limit = state.tolerance * thresholds.replan[offset]
    decision = decide(functions, thresholds.accept[offset], limit, distance)
    tolerance = state.tolerance
    if config.replan_rate > 0:
        missed = decision == Decision.MISMATCH
        moved = tolerance * jnp.exp(config.adaptation_gain * (missed - config.replan_rate))
        tolerance = jnp.where(block_end, tolerance, jnp.clip(moved, *TOLERANCE_RANGE))
    decision = jnp.where(block_end, jnp.int32(Decision.BLOCK_END), decision)
    return _Judgement(decision, block_end, distance, limit, tolerance)


def decide(functions: Functions, accept: Array, limit: Array, distance: Array) -> Array:
    """The `Decision` on a mismatch, `[]` int; a NaN replans.

    Args:
      functions: with or without a corrector.
      accept: `[]` mismatch up to which the planned action is taken as it is.
      limit: `[]` mismatch beyond which the plan is dropped.
      distance: `[]` the mismatch.
    """
    middle = Decision.ACCEPTED if functions.correct is None else Decision.CORRECTED
    decision = jnp.where(distance <= accept, jnp.int32(Decision.ACCEPTED), jnp.int32(middle))
    # Written so that a NaN mismatch replans.
    return jnp.where(distance <= limit, decision, jnp.int32(Decision.MISMATCH))


def _weigh(
    config: SpeculationConfig, functions: Functions, decision: Array, state: ExecutorState, z: Array
) -> tuple[Array, Array]:
    """Lets values decide at a step whose plan the mismatch keeps: the decision, and an action."""
    assert functions.value is not None and functions.prior is not None
    assert config.value_tolerance is not None
    after, planned = _enter(state, jnp.zeros((), bool), state.block, z, state.tolerance)
    corrected = planned.a_plan
    if functions.correct is not None:
        corrected = jax.lax.cond(
            decision == Decision.CORRECTED,
            lambda: correct(functions, after, planned),
            lambda: planned.a_plan,
        )
    return valued.weigh(
        functions.value,
        config.value_tolerance,
        planned,
        (decision == Decision.CORRECTED).astype(jnp.int32),
        corrected,
        functions.prior(z),
    )


def plan(functions: Functions, state: ExecutorState, z: Array) -> Block:
    """Plans from a real latent `[L]`, warm-started by what is left of the last plan."""
    warm_start = shift_sequence(state.block.mean, state.offset)
    return functions.plan(z, warm_start, step_key(state.key, state.step, 0))


def correct(functions: Functions, state: ExecutorState, planned: PlannedStep) -> Array:
    """Mends the action of a step that `enter` has already counted."""
    assert functions.correct is not None
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
    state: ExecutorState, replan: Array, block: Block, z: Array, tolerance: Array
) -> tuple[ExecutorState, PlannedStep]:
    state, planned = enter(state, jnp.where(replan, 0, state.offset), block, z)
    return dataclasses.replace(state, tolerance=tolerance), planned


def enter(
    state: ExecutorState,
    offset: Array,
    block: Block,
    z: Array,
    age: Array | int = 0,
    origin: Array | None = None,
) -> tuple[ExecutorState, PlannedStep]:
    """Takes one step of a block and puts it into the corrector's window.

    Args:
      state: the state before the step.
      offset: `[]` int, which of the block's steps is taken.
      block: the block.
      z: the real latent `[L]`.
      age: how many steps the block's plan was made before the block begins.
      origin: the last real latent `[L]` that the plan has seen; the block's first if None.

    Returns:
      The state after the step, and the step as the corrector sees it.
    """
    origin = block.latents[0] if origin is None else origin
    planned = PlannedStep(
        z_real=z,
        z_pred=block.latents[offset],
        a_plan=block.actions[offset],
        offset=offset + age,
        mismatch=mismatch("relative", z, block.latents[offset], origin),
    )
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
        tolerance=state.tolerance,
    )
    return state, planned
