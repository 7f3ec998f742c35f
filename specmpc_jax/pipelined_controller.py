"""Acting while the next block is planned in the background.

The decisions are `speculation.async_planner`'s. Plans run in a thread of their
own: programs that one thread dispatches run one after the other on a CPU, so a
short step dispatched behind a plan would wait for all of it.
"""

import dataclasses
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax.controller import (
    ControlArrays,
    ControlProgram,
    check_observation,
    control_functions,
)
from specmpc_jax.errors import UserError
from specmpc_jax.planning import fused_model
from specmpc_jax.speculation import async_planner, blind
from specmpc_jax.speculation.async_planner import PipelineState
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.speculation.executor import ExecutorState, StepInfo
from specmpc_jax.stateful import StatefulCalls
from specmpc_jax.types import Array, Block
from specmpc_jax.world_model import WorldModel


class PipelinedState(NamedTuple):
    """State between two steps: the machine's, and the plan under way, if any."""

    machine: PipelineState
    arriving: Future[Block] | None


@flax.struct.dataclass
class PipelinedInfo(StepInfo):
    """What happened at one step; `block_end` without REPLAN took over a block planned ahead."""

    late: bool = flax.struct.field(pytree_node=False, default=False)  # waited for the plan
    planner_calls: int = flax.struct.field(pytree_node=False, default=0)  # begun at this step


class PipelinedController(StatefulCalls[PipelinedState, PipelinedInfo]):
    """Acts in one environment; made by `Agent.pipelined_controller`.

    A plan that is not ready when its block begins is waited for, so that
    actions depend on keys and observations alone, never on time. A plan that a
    mismatch drops cannot be stopped once it runs: the next one queues behind it.
    Used as a context manager it ends its thread.
    """

    def __init__(
        self, program: ControlProgram, arrays: ControlArrays, background: Executor | None = None
    ):
        """Binds static choices and arrays.

        Args:
          program: static choices.
          arrays: parameters, and thresholds `[2X]`.
          background: what runs the plans; a thread of its own if None.

        Raises:
          UserError: for settings that a plan made ahead cannot follow.
        """
        _check_can_pipeline(program)
        self.program = program
        self.arrays = arrays
        self._background = background or ThreadPoolExecutor(1, "specmpc-plan-ahead")

    def initial_state(self, key: Array) -> PipelinedState:
        """State before an episode's first step; the episode keeps `key`.

        Raises:
          UserError: for a batch of keys.
        """
        if key.ndim:
            raise UserError("a pipelined controller acts in one environment: give one key")
        return PipelinedState(_initial_state(self.program, key), None)

    def act(
        self, observation: ArrayLike, state: PipelinedState
    ) -> tuple[Array, PipelinedState, PipelinedInfo]:
        """Chooses the action for an observation and, at a block's start, begins the next plan.

        Args:
          observation: `[D]`, or pixels `[C, 64, 64]`.
          state: the last state.

        Returns:
          Action `[A]` in [-1, 1], already computed, the next state, and `info`
          with `outcome`, `offset` (steps since the plan's observation: X and
          more in a block planned ahead), `mismatch`, `late` and `planner_calls`.
          Observations that are not finite are answered as by `Controller.act`.

        Raises:
          UserError: if the observation's shape is not the model's.
        """
        program, arrays = self.program, self.arrays
        observation = check_observation(program, observation)
        machine, arriving = state
        if not np.isfinite(observation).all():
            return self._act_blindly(machine, arriving)
        block_end = int(machine.execution.offset) >= program.speculation.exec_horizon
        late = block_end and arriving is not None and not arriving.done()
        if block_end and arriving is None:
            action, machine, info = _replan(program, arrays, machine, observation, 0.0, jnp.inf)
        else:
            # A plan that the mismatch will drop is waited for too: it would only share the
            # processor with the plan on the spot.
            block = machine.execution.block
            if block_end and arriving is not None:
                block = arriving.result()
            action, after, info = _follow(program, arrays, machine, block, observation)
            if int(info.outcome) == Outcome.REPLAN:
                action, after, info = _replan(
                    program, arrays, machine, observation, info.mismatch, info.limit
                )
            machine = after
        if not np.isfinite(info.planned.z_real).all():
            return self._act_blindly(*state)  # finite, but too large for the encoder
        action = jax.block_until_ready(action)
        replanned = int(info.outcome) == Outcome.REPLAN
        begins = block_end or replanned
        if begins:
            if arriving is not None:
                arriving.cancel()
            arriving = self._background.submit(_plan_ahead_now, program, arrays, machine, action)
        info = PipelinedInfo(
            outcome=info.outcome,
            decision=info.decision,
            limit=info.limit,
            block_end=info.block_end,
            mismatch=info.mismatch,
            planned=info.planned,
            late=late,
            planner_calls=int(replanned) + int(begins),
        )
        return action, PipelinedState(machine, arriving), info

    def _act_blindly(
        self, machine: PipelineState, arriving: Future[Block] | None
    ) -> tuple[Array, PipelinedState, PipelinedInfo]:
        """A step on the plan alone; drops the plan under way, which would come a step too late."""
        if arriving is not None:
            arriving.cancel()
        action, execution, info = _blind_step(self.program, machine.execution)
        info = PipelinedInfo(**vars(info))
        return action, PipelinedState(dataclasses.replace(machine, execution=execution), None), info

    def close(self) -> None:
        """Ends the thread after the plan that it is at."""
        self._background.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_can_pipeline(program: ControlProgram) -> None:
    speculation = program.speculation
    impossible = {
        "let the policy prior act alone: there is nothing to plan ahead": not program.use_planner,
        "adapt its tolerance (replan_rate): a mismatch on arrival is one of another kind": (
            speculation.replan_rate > 0
        ),
        "decide by value (value_tolerance): no value is promised for where a block begins": (
            speculation.value_tolerance is not None
        ),
    }
    for what, given in impossible.items():
        if given:
            raise UserError(f"a pipelined controller cannot {what}; use Agent.controller")


def pipelined_initial_state(program: ControlProgram, key: Array) -> PipelineState:
    """The machine's state before an episode."""
    model = program.model
    return async_planner.initial_state(
        program.speculation, key, model.latent_dim, model.action_dim, program.planner.horizon
    )


def follow(
    program: ControlProgram,
    arrays: ControlArrays,
    state: PipelineState,
    arriving: Block,
    observation: Array,
) -> tuple[Array, PipelineState, StepInfo]:
    """`async_planner.follow` from an observation."""
    z = WorldModel(program.model).encode(arrays.params, observation, arrays.task)
    functions = control_functions(program, arrays)
    return async_planner.follow(
        program.speculation, functions, arrays.thresholds, state, arriving, z
    )


def replan(
    program: ControlProgram,
    arrays: ControlArrays,
    state: PipelineState,
    observation: Array,
    distance: Array,
    limit: Array,
) -> tuple[Array, PipelineState, StepInfo]:
    """`async_planner.replan` from an observation."""
    z = WorldModel(program.model).encode(arrays.params, observation, arrays.task)
    functions = control_functions(program, arrays)
    return async_planner.replan(program.speculation, functions, state, z, distance, limit)


def plan_ahead(
    program: ControlProgram, arrays: ControlArrays, state: PipelineState, action: Array
) -> Block:
    """`async_planner.plan_ahead` with the agent's model."""
    model = fused_model.planning_model(program.model, arrays.planning, arrays.task)
    functions = control_functions(program, arrays)
    return async_planner.plan_ahead(
        program.speculation, functions, lambda z, a: model.step(z, a)[1], state, action
    )


def blind_step(
    program: ControlProgram, state: ExecutorState
) -> tuple[Array, ExecutorState, StepInfo]:
    """`blind.without_observation` of a state."""
    none, zero = jnp.zeros((), jnp.int32), jnp.zeros(())
    like = StepInfo(
        outcome=none,
        decision=none,
        block_end=none > 0,
        mismatch=zero,
        limit=zero,
        planned=state.window,
    )
    return blind.without_observation(program.speculation, state, like)


# The old state is needed again when a mismatch calls for a plan on the spot: nothing is donated.
_initial_state = jax.jit(pipelined_initial_state, static_argnums=0)
_follow = jax.jit(follow, static_argnums=0)
_replan = jax.jit(replan, static_argnums=0)
_blind_step = jax.jit(blind_step, static_argnums=0)
_plan_ahead = jax.jit(plan_ahead, static_argnums=0)


def _plan_ahead_now(
    program: ControlProgram, arrays: ControlArrays, state: PipelineState, action: Array
) -> Block:
    return jax.block_until_ready(_plan_ahead(program, arrays, state, action))
