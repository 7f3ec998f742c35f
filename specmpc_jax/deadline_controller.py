"""Acting within a time budget: planners are measured ahead, and changed if they are late."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from specmpc_jax.config import PlannerConfig
from specmpc_jax.controller import Controller, ControlProgram
from specmpc_jax.errors import UserError
from specmpc_jax.planning import deadline
from specmpc_jax.planning.deadline import GovernorConfig, GovernorState, Timing
from specmpc_jax.speculation.decisions import Outcome
from specmpc_jax.speculation.executor import ExecutorState, StepInfo
from specmpc_jax.stateful import StatefulCalls
from specmpc_jax.types import Array

# Seconds on any clock.
Clock = Callable[[], float]

CALIBRATION_REPEATS = 20
CALIBRATION_PERCENTILE = 95.0


class DeadlineState(NamedTuple):
    """State between two steps: the executor's, and where on the ladder of planners."""

    execution: ExecutorState
    governor: GovernorState


@flax.struct.dataclass
class DeadlineInfo(StepInfo):
    """What happened at one step, and with which planner."""

    latency_ms: float = flax.struct.field(pytree_node=False, default=0.0)
    rung: int = flax.struct.field(pytree_node=False, default=0)  # 0 is the best that fits
    late: bool = flax.struct.field(pytree_node=False, default=False)  # took more than the budget


class DeadlineController(StatefulCalls[DeadlineState, DeadlineInfo]):
    """Acts in one environment within a budget; made by `Agent.deadline_controller`.

    How much is planned depends on measured time, so actions repeat from run to
    run only as long as no planner is late.
    """

    def __init__(
        self,
        control: Controller,
        timings: Sequence[Timing],
        budget_ms: float,
        governor: GovernorConfig | None = None,
        clock: Clock = time.perf_counter,
    ):
        """Chooses the planners that fit.

        Args:
          control: everything but the planner's settings.
          timings: planners measured by `calibrate`, all of one horizon.
          budget_ms: milliseconds from observation to action.
          governor: when to change the planner.
          clock: seconds, for measuring actions.

        Raises:
          UserError: if no planner holds the budget; names the smallest that one would.
        """
        self.budget_ms = budget_ms
        self.rungs = deadline.ladder(timings, budget_ms)
        self._governor = governor or GovernorConfig()
        self._clock = clock
        self._controllers = [with_planner(control, timing.planner) for timing in self.rungs]

    @property
    def program(self) -> ControlProgram:
        """Static choices with the best planner that fits."""
        return self._controllers[0].program

    def initial_state(self, key: Array) -> DeadlineState:
        """State before an episode's first step, which keeps `key`; starts at the best planner."""
        if key.ndim:
            raise UserError("a deadline controller acts in one environment: give one key")
        return DeadlineState(self._controllers[0].initial_state(key), GovernorState())

    def act(
        self, observation: ArrayLike, state: DeadlineState
    ) -> tuple[Array, DeadlineState, DeadlineInfo]:
        """Chooses the action for an observation with the planner of the present rung.

        Args:
          observation: `[D]`, or pixels `[C, 64, 64]`.
          state: the last state; its buffers are given away, use the returned one.

        Returns:
          Action `[A]` in [-1, 1], already computed, the next state, and `info`
          with the fields of `Controller.act` and `latency_ms`, `rung` and `late`.
        """
        governor = state.governor
        begin = self._clock()
        action, execution, info = self._controllers[governor.rung].act(observation, state.execution)
        action = jax.block_until_ready(action)
        latency = 1e3 * (self._clock() - begin)
        late = latency > self.budget_ms
        # Steps that plan nothing say nothing about a planner.
        if int(info.outcome) == Outcome.REPLAN:
            governor = deadline.observe(self._governor, len(self.rungs), governor, late)
        info = DeadlineInfo(
            outcome=info.outcome,
            decision=info.decision,
            limit=info.limit,
            block_end=info.block_end,
            mismatch=info.mismatch,
            planned=info.planned,
            blind=info.blind,
            latency_ms=latency,
            rung=state.governor.rung,
            late=late,
        )
        return action, DeadlineState(execution, governor), info


def with_planner(control: Controller, planner: PlannerConfig) -> Controller:
    """The same controller with other planner settings."""
    return Controller(dataclasses.replace(control.program, planner=planner), control.arrays)


def calibrate(
    control: Controller,
    planners: Sequence[PlannerConfig],
    repeats: int = CALIBRATION_REPEATS,
    percentile: float = CALIBRATION_PERCENTILE,
    clock: Clock = time.perf_counter,
    advance: Callable[[int], None] | None = None,
) -> tuple[Timing, ...]:
    """Compiles planners and measures actions that plan with them.

    The planners take turns, so that a disturbance hits all of them.

    Args:
      control: everything but the planner's settings.
      planners: what to measure; one horizon, so that they can take over from each other.
      repeats: measured actions of each planner.
      percentile: which percentile of them is a planner's latency.
      clock: seconds.
      advance: called with 1 for each compiled planner and for each round of measurements.

    Raises:
      UserError: if the planners have different horizons.
    """
    if len({planner.horizon for planner in planners}) > 1:
        raise UserError("the planners of a deadline need one and the same horizon")
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; it must be at least 1")
    controllers = [with_planner(control, planner) for planner in planners]
    model = control.program.model
    dtype = jnp.uint8 if model.observation == "rgb" else jnp.float32
    observation = np.asarray(jnp.zeros(model.observation_shape, dtype))

    def seconds(controller: Controller) -> float:
        state = jax.block_until_ready(controller.initial_state(jax.random.key(0)))
        begin = clock()
        jax.block_until_ready(controller.act(observation, state)[0])
        return clock() - begin

    for controller in controllers:
        seconds(controller)
        if advance is not None:
            advance(1)
    samples = []
    for _ in range(repeats):
        samples.append([seconds(controller) for controller in controllers])
        if advance is not None:
            advance(1)
    latencies = 1e3 * np.percentile(np.array(samples), percentile, axis=0)
    return tuple(
        Timing(planner, float(latency))
        for planner, latency in zip(planners, latencies, strict=True)
    )
